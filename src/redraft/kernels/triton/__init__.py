"""Kernels for NVIDIA cards, in Triton: each has a function in plain torch beside it as its specification.

A module that holds kernels imports Triton, which need not be there; ``status`` says whether it is used, and why.
"""
