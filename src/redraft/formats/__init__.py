"""Weights in files: their headers described, and tensors read by name, one at a time.

A format knows no model; a family says which names it has.
"""
