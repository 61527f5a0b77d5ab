"""Models: the contract (``base``), what a family is (``family``, ``registry``), and checkpoints as folders hold them.

A family is one folder here and one line in ``registry``; nothing outside its folder names it.
"""
