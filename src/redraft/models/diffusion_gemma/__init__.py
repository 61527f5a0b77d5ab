"""DiffusionGemma: its configuration, and its model in plain torch and for the kernels; the rest is Gemma 4's.

``family`` is what the rest of Redraft knows of it.
"""
