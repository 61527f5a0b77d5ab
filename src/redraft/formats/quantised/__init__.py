"""Quantised copies in safetensors, by who wrote them: compressed-tensors, modelopt, MLX.

Each has names, layouts and arithmetic of its own. ``published`` gives their tensors under the names that the model was
published with: dense where matrices are quantised, experts fused where they are stored one by one.
"""
