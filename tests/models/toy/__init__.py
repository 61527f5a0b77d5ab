"""Inkwell, an absorbing-mask family that lives in the tests alone: a folder, and a line of the registry."""
