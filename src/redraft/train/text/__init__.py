"""Training on text: records become rows of token trees, whose canvases a model learns to fill in.

``records`` are what data says, ``encoding`` makes tokens of them, ``tree`` and ``batch`` lay them out for one forward,
``objective`` hides and scores, ``adapters`` says what is trained, and ``run`` is the loop.
"""
