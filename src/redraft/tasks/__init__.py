"""Fill, edit, choose, extract: each checks a request and makes its task from the engine's.

A module has the frozen request, which may be begun any number of times, and the function that checks it.
"""
