"""A scripted model that thinks: it says what a test tells it to, wherever canvases begin."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.engine.scripted import VOCAB_SIZE
from tests.random_checkpoint import END_TOKEN_IDS, THOUGHT_IDS

OPENING, CLOSING = THOUGHT_IDS
_SURE = 40.0


@dataclass
class Thinker:
    """Says ``tokens`` and then an end token, from the first token after a prompt of ``prompt`` tokens.

    With ``answer`` it never stops thinking by itself: ``tokens`` is a beginning, the last of them said for ever, and
    ``answer`` what it says after a closing marker that it sees at ``closing``.
    """

    tokens: Sequence[int]
    prompt: int
    answer: Sequence[int] | None = None
    closing: int = 0

    def __call__(self, canvas: Tensor, context: int) -> Tensor:
        out = torch.zeros(len(canvas), VOCAB_SIZE)
        start, own = context - self.prompt, canvas.tolist()
        seen = self.closing - start
        closed = self.answer is not None and (seen < 0 or (seen < len(own) and own[seen] == CLOSING))
        for place in range(len(own)):
            out[place, self._said(start + place, closed)] = _SURE
        return out

    def _said(self, at: int, closed: bool) -> int:
        if self.answer is not None and closed and at >= self.closing:
            said = [CLOSING, *self.answer]
            return said[at - self.closing] if at - self.closing < len(said) else END_TOKEN_IDS[0]
        if at < len(self.tokens):
            return self.tokens[at]
        return END_TOKEN_IDS[0] if self.answer is None else self.tokens[-1]
