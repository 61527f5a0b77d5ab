"""DiffusionGemma: its configuration, its model in plain torch and for the kernels, and how it writes tool calls.

``family`` is what the rest of Redraft knows of it.
"""
