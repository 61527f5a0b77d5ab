"""``redraft train``: a recipe by its name, or a file of records."""

from redraft.cli.train.app import app
from redraft.cli.train.sudoku import Recipe, require_train_extra

__all__ = ["Recipe", "app", "require_train_extra"]
