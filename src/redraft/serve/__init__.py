"""The server: one model behind the wire formats that existing clients speak.

A request is checked (``prepare``), queued in the engine's scheduler (``answers``), and its chunks become what a client
gets (``deltas``). ``wire`` has a module a format; ``app`` and ``server`` put them on a socket; ``page`` is the page.
"""
