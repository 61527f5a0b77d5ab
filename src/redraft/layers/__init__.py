"""Plain torch that knows no family: attention, experts, norms, rotation, the head over the vocabulary.

They are what models are built of, and what the kernels must agree with.
"""
