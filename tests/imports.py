"""Makes what tests import cost less: half of the seconds before the first test would go into two things.

And what they make again and again: clients, each of which reads all certificates of the machine.
"""

import gc
import ssl
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

GRAMMARS = "rfc3987_syntax"


def import_cheaply() -> None:
    """Look for no garbage until `imported`, and let jsonschema's grammars of IRIs wait for the first IRI.

    The package that has them compiles 38 of them at its import, which takes seconds, and jsonschema imports it for two
    of its formats. Certificates are read once: a client for each request would read them for longer than it waits for
    many an answer, and no test asks over TLS.
    """
    gc.disable()
    if not hasattr(ssl.create_default_context, "cache_info"):
        setattr(ssl, ssl.create_default_context.__name__, cache(ssl.create_default_context))
    if GRAMMARS not in sys.modules and find_spec(GRAMMARS) is not None:
        waiting = ModuleType(GRAMMARS)
        setattr(waiting, is_valid_syntax.__name__, is_valid_syntax)
        sys.modules[GRAMMARS] = waiting


def is_valid_syntax(term: str, value: str) -> bool:
    """Takes the place of the package's own, which it calls."""
    if getattr(sys.modules.get(GRAMMARS), is_valid_syntax.__name__) is is_valid_syntax:
        del sys.modules[GRAMMARS]
    valid: bool = import_module(GRAMMARS).is_valid_syntax(term, value)
    return valid


def imported() -> None:
    """From here on look for garbage, but not among the million objects of what has been imported."""
    gc.collect()
    gc.freeze()
    gc.enable()
