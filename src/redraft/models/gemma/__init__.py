"""Gemma 3 and 4, which write token by token and have no canvas: configurations, the model in plain torch and for the
kernels, and how they write tool calls. DiffusionGemma, which grew from Gemma 4, shares its dialect.

``family`` is what the rest of Redraft knows of them.
"""
