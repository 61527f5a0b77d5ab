"""Gemma 3 and 4 on tiny checkpoints with random weights, and Gemma 3 270M itself."""
