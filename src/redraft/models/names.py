"""Names that models are asked for by. Importing them takes no time: commands that load nothing need them, too."""

DEFAULT_MODEL = "pocket"
"""The bundled model that is meant where none is named."""
PACKAGE = "package:"
"""The beginning of the name of a file of an installed Python package: ``package:NAME/FILE``."""
