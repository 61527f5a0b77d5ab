"""The process on one canvas: what noise is, what a denoising step does, when it ends.

Tensors in, tensors out. Nothing here knows a model, a request or a server.
"""
