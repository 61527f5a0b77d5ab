"""Evaluation: a file of items with known answers, put to models and settings, judged, and compared item by item.

``items`` reads the file, ``ask`` puts it to a model, ``judge`` and ``faults`` say what is right and what kind of wrong,
``estimates`` gives figures their intervals, ``report`` and ``plot`` show them.
"""

from redraft.measure.evaluate.ask import Contender, Run, run
from redraft.measure.evaluate.items import Item, read_items
from redraft.measure.evaluate.report import Report

__all__ = ["Contender", "Item", "Report", "Run", "read_items", "run"]
