"""The languages that users write: regular expressions, templates with holes, JSON schemas; each read as an expression.

A reader refuses what it does not support, by name and place. ``template`` also reads the holes of a finished text back.
"""

from redraft.constrain.language.template import Hole, HoleType, escaped

__all__ = ["Hole", "HoleType", "escaped"]
