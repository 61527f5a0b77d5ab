"""Wire formats: a module a format, each with its fields, its routes, and how it writes an answer.

Every field is honoured, or refused by its name. Formats use the engine through ``prepare``, ``answers``, ``deltas``.
"""
