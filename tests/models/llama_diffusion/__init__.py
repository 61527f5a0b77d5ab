"""Llama diffusion on tiny checkpoints with random weights."""
