"""Compilation of constraints in processes of their own, so that it holds neither this one's lock nor its memory.

``worker`` is the process, which imports no torch; ``processes`` starts it, asks it, and ends what nobody waits for.
"""
