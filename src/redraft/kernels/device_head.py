"""The head of a model on a device: a dense table, read by Triton's kernels where there are any, else by torch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.fixed_point import fractions
from redraft.canvas.readout import Readout
from redraft.canvas.shaping import RowShaping
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels.triton.status import attempt
from redraft.layers.group_draw import Groups
from redraft.layers.tiles import HeadTiles
from redraft.layers.vocabulary_head import VocabularyHead, check_tied, temperatures_of

# Tokens that are read at a time, in whole tiles: the weights of a canvas in bfloat16 are 16 MB of a card's cache.
CHUNK = 1 << 15


@dataclass(frozen=True)
class DeviceHead:
    """A ``layers.vocabulary_head.VocabularyHead`` on a device.

    Kernels read what a step asks for; shaped rows, the likeliest tokens and sums of classes torch reads.
    """

    plain: VocabularyHead

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
        """Read softmax(softcap(hidden @ table^T) / temperature) at each position; see ``VocabularyHead.read``."""

        def by_torch() -> Readout:
            return self.plain.read(
                hidden, temperature, uniforms, self_conditioning=self_conditioning, top_k=top_k, classes=classes,
                shaping=shaping,
            )  # fmt: skip

        if top_k or classes is not None or shaping is not None or not len(hidden):
            return by_torch()

        def by_kernels() -> Readout:
            return self._by_kernels(hidden, temperature, uniforms, self_conditioning)

        return attempt("readout", hidden.device, by_kernels, by_torch)

    def _by_kernels(
        self, hidden: Tensor, temperature: float | Tensor, uniforms: Tensor | None, self_conditioning: bool
    ) -> Readout:
        from redraft.kernels.triton import ops

        plain, device, count = self.plain, hidden.device, len(hidden)
        check_tied(plain.embedding_scale, self_conditioning)
        tiles = HeadTiles(plain.table, plain.softcap, hidden, temperatures_of(temperature, count, plain.softcap), CHUNK)
        state = torch.zeros(3, count, device=device)
        state[0] = float("-inf")
        argmax = torch.zeros(count, dtype=torch.int64, device=device)
        mean = torch.zeros(count, plain.table.shape[1], device=device) if self_conditioning else None
        groups = None if uniforms is None else Groups()
        for first in range(0, len(plain.table), CHUNK):
            table = plain.table[first : first + CHUNK]
            weights, sums, best, of_groups = ops.read_chunk(
                tiles.scaled, table, tiles.gain[:, 0].contiguous(), plain.softcap is not None
            )
            state, argmax, factors, rescale = ops.merge(sums, best, state, argmax, first)
            down, up, peak = rescale
            if groups is not None:
                groups.add_sums((of_groups.unflatten(1, (best.shape[1], -1)) * factors[..., None]).flatten(1), peak)
            if mean is not None:
                own = weights.unflatten(1, (best.shape[1], -1)) * (factors * up[:, None])[..., None].to(weights.dtype)
                mean = torch.addcmul((own.flatten(1)[:, : len(table)] @ table).float(), mean, down[:, None])
        _, total, weighted = state
        sample = argmax
        if groups is not None and uniforms is not None:
            sample = groups.draw(tiles, torch.arange(count, device=device), fractions(uniforms).to(device))
        return Readout(
            argmax=argmax,
            sample=sample,
            # Rounding can leave a certain position a hair below zero.
            entropy=(total.log() - weighted / total).clamp(min=0.0),
            confidence=1.0 / total,
            logprob=lambda tokens: tiles.logprob(tokens, argmax, 1.0 / total),
            self_conditioning=None if mean is None else mean * ((plain.embedding_scale or 1.0) / total[:, None]),
        )
