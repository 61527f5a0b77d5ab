"""The ``redraft`` command: a module a verb, and what verbs share (options, constraints, reading, printing).

What is slow to import is imported where a verb runs, so that help comes at once.
"""
