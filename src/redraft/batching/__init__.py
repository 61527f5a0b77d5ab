"""Offline work over data sets: any verb, asked of every row of a file, in this process or by replicas on Ray.

Rows are answered in their order, exactly one for each, and what a break left is gone on with.
"""
