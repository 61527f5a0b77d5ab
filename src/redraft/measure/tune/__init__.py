"""Tuning: which steps, bound, canvas length and mode serve a task best, and what each costs.

``settings`` says what is tried, ``search`` tries it on items with known answers, ``front`` says what is worth its cost,
``recipe`` keeps the choice in a file that ``generate`` and the server take, ``plot`` draws it.
"""

from redraft.measure.tune.front import Tuning
from redraft.measure.tune.recipe import Recipe, read_recipe
from redraft.measure.tune.search import tune
from redraft.measure.tune.settings import Grid, Setting

__all__ = ["Grid", "Recipe", "Setting", "Tuning", "read_recipe", "tune"]
