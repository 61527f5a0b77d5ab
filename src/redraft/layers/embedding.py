"""The embedding of tokens: rows of a table, scaled."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TokenTable:
    """A table [V, H] of any floating dtype whose rows, times ``scale``, are tokens' embeddings."""

    table: Tensor
    scale: float = 1.0
    let_go: Callable[[], None] | None = None
    """Called after every look-up, where what was read of the table is not to stay in memory."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [...] -> float32 [..., H], in memory of its own."""
        found = F.embedding(tokens, self.table).float() * self.scale
        if self.let_go is not None:
            self.let_go()
        return found
