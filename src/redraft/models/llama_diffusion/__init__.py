"""LlamaDiffusion: a Llama that fills in canvases of masks; as an encoder it is the autoregressive model it came from.

Adaptation keeps the causal encoder and the shift of the base, as in DiffuLLaMA (Gong et al. 2024, arXiv 2410.17891).
"""
