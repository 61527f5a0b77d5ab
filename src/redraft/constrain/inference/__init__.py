"""Exact inference over a canvas whose text is valid: its best and sampled tokens, marginals, typed decisions.

``chain`` is the reference that ``kernels.inference`` follows in compiled code; ``decisions`` reads the probability
of each option off it.
"""

from redraft.constrain.inference.chain import ClassSums, EdgePosteriors, Inference
from redraft.constrain.inference.decisions import Decided, Decisions

__all__ = ["ClassSums", "Decided", "Decisions", "EdgePosteriors", "Inference"]
