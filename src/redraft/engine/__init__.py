"""Requests that run: tasks that ask for forwards, and the scheduler that makes batches of what many ask.

``request`` checks, ``generation`` and ``denoise`` are tasks, ``runtime`` is what they run on and has the only loop,
``memory`` keeps keys and values, ``scheduler`` serves many.
"""
