"""Reads logits that somebody else computed, as ``VocabularyHead`` reads hidden states: a tile of them at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.readout import Readout
from redraft.canvas.shaping import RowShaping
from redraft.canvas.token_classes import TokenClasses
from redraft.layers.tiles import GivenTiles, Tiles
from redraft.layers.vocabulary_head import TILE, Embedding, check_classes, check_tied, read_rows, temperatures_of


@dataclass(frozen=True)
class LogitsHead:
    """A head (``readouts.Head``) whose "hidden states" are soft-capped logits [C, V] already.

    They are read where they are: no tensor of their size is made.
    """

    embedding: Embedding | None
    """The table of which soft embeddings are made; None where none are wanted."""
    tile: int = TILE

    @torch.no_grad()
    def read(
        self,
        hidden: Tensor,
        temperature: float | Tensor,
        uniforms: Tensor | None,
        *,
        self_conditioning: bool = True,
        top_k: int = 0,
        classes: TokenClasses | None = None,
        shaping: RowShaping | None = None,
    ) -> Readout:
        """Read the distribution softmax(logits / temperature) of each position; see ``VocabularyHead.read``."""
        count, vocabulary = hidden.shape
        temperatures = temperatures_of(temperature, count, None)
        check_tied(None if self.embedding is None else self.embedding.scale, self_conditioning)
        check_classes(classes, vocabulary)

        def tiles(own: slice) -> Tiles:
            return GivenTiles(hidden[own], temperatures[own], self.tile)

        embedding = self.embedding if self_conditioning else None
        return read_rows(tiles, count, vocabulary, hidden.device, uniforms, embedding, top_k, classes, shaping)
