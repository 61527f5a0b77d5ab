"""Constraints say what may stand on a canvas: each becomes an expression, an automaton over bytes, one over tokens.

Floors, ground first: expression, automaton, language, inference and constraint, compiler. Other rooms hand a
``Constraint`` to a ``compiler.Compiler`` and a readout's class sums to ``inference``; this file holds the public ones.
"""

from redraft.constrain.constraint import Choice, Constraint, Exactly, Hole, JSONSchema, Regex, Template

__all__ = ["Choice", "Constraint", "Exactly", "Hole", "JSONSchema", "Regex", "Template"]
