"""Measuring: contenders in turn, medians with their spread, and what was measured on which machine."""
