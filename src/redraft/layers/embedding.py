"""The embedding of tokens: rows of a table, scaled."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TokenTable:
    """A table [V, H] of any floating dtype whose rows, times ``scale``, are tokens' embeddings."""

    table: Tensor
    scale: float = 1.0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [...] -> float32 [..., H]."""
        return F.embedding(tokens, self.table).float() * self.scale
