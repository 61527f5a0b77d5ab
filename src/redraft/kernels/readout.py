"""The fused readout: attention of the hidden states over the vocabulary, without its logits ever standing in memory."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.readout import ClassReadout, Readout
from redraft.canvas.shaping import RowShaping
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels import bindings, interface
from redraft.kernels.linear import as_operand, check_width, linear
from redraft.kernels.packed import PackedMatrix
from redraft.kernels.packed_table import PackedTable, PackedTiles
from redraft.layers import vocabulary_head
from redraft.layers.shaped_tiles import OUT, changed, is_left
from redraft.layers.vocabulary_head import Embedding, check_classes, check_tied, read_rows, temperatures_of

TILE, REGION = interface.CONSTANTS["kTokens"], interface.CONSTANTS["kRegion"]
ALIGNED = 16  # numbers


@dataclass(frozen=True)
class PackedHead:
    """A packed table with the soft cap of its logits, or None, and the scale of its embeddings, None of a table that
    is not the embedding.

    ``layers.vocabulary_head.VocabularyHead`` is the reference; this one draws in the same way, from the same uniforms.
    """

    table: PackedMatrix
    softcap: float | None
    embedding_scale: float | None

    def __post_init__(self) -> None:
        if self.table.format == "int4":
            raise ValueError("a vocabulary in int4 cannot be read; pack the embedding in int8")

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
        check_width(self.table, hidden)
        if uniforms is not None and uniforms.shape != (len(hidden),):
            raise ValueError(f"uniforms {[*uniforms.shape]} must be [{len(hidden)}]")
        check_classes(classes, self.table.outputs)
        check_tied(self.embedding_scale, self_conditioning)
        if bindings.kernels() is None:
            return self._read_in_torch(hidden, temperature, uniforms, self_conditioning, top_k, classes, shaping)
        temperatures = temperatures_of(temperature, len(hidden), self.softcap).float().contiguous()
        count, vocabulary = len(hidden), self.table.outputs
        top_k = min(top_k, vocabulary)
        hidden = hidden.float().contiguous()
        uniforms = None if uniforms is None else uniforms.double().contiguous()
        argmax, sample = torch.empty(2, count, dtype=torch.int64)
        entropy, confidence = torch.empty(2, count)
        mean = torch.empty(hidden.shape) if self_conditioning else None
        top_ids = torch.empty(count, top_k, dtype=torch.int64) if top_k else None
        top_logprobs = torch.empty(count, top_k) if top_k else None
        shaped = None if shaping is None else _Shaped(shaping, count)
        sums = None if classes is None else _ClassBuffers(self, hidden, temperatures, classes, shaped)
        matrix = self.table.for_c
        call = interface.CReadout(
            rows=count,
            hidden=hidden.data_ptr(),
            table=ctypes.pointer(matrix),
            softcap=self.softcap or 0.0,
            embedding_scale=self.embedding_scale or 0.0,
            temperatures=temperatures.data_ptr(),
            top_k=top_k,
            uniforms=bindings.pointer(uniforms),
            classes=None if sums is None else ctypes.pointer(sums.call),
            shaping=None if shaped is None else ctypes.pointer(shaped.call),
            argmax=argmax.data_ptr(),
            sample=sample.data_ptr(),
            entropy=entropy.data_ptr(),
            confidence=confidence.data_ptr(),
            self_conditioning=bindings.pointer(mean),
            top_ids=bindings.pointer(top_ids),
            top_logprobs=bindings.pointer(top_logprobs),
        )
        bindings.entry("redraft_readout")(ctypes.byref(call))
        by_class = None if sums is None else sums.readout()

        def logprob(tokens: Tensor) -> Tensor:
            cap = self.softcap or 1.0
            operand = as_operand(hidden / cap, self.table.format)
            own, best = ((operand * self.table.rows(row)).sum(-1) for row in (tokens, argmax))
            if self.softcap is not None:
                own, best = own.tanh(), best.tanh()
            gain = cap / temperatures
            if shaped is None:
                return confidence.log() + (own - best) * gain
            return shaped.logprob(own * gain, best * gain, tokens, argmax, confidence)

        return Readout(argmax, sample, entropy, confidence, logprob, mean, top_ids, top_logprobs, by_class)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [C, V] of ``hidden`` [C, H], soft-capped where the head is: for tests, comparisons."""
        logits = linear(self.table, hidden)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _read_in_torch(
        self,
        hidden: Tensor,
        temperature: float | Tensor,
        uniforms: Tensor | None,
        self_conditioning: bool,
        top_k: int,
        classes: TokenClasses | None,
        shaping: RowShaping | None,
    ) -> Readout:
        """``read`` by tiles in torch, of which each is made float32 when it is read."""
        cap, count, vocabulary = self.softcap or 1.0, len(hidden), self.table.outputs
        temperatures = temperatures_of(temperature, count, self.softcap)
        operand = as_operand(hidden.float() / cap, self.table.format) * cap
        table, embedding = PackedTable(self.table), None
        if self_conditioning and self.embedding_scale is not None:
            embedding = Embedding(table, self.embedding_scale)

        def tiles(own: slice) -> PackedTiles:
            return PackedTiles(table, self.softcap, operand[own], temperatures[own], vocabulary_head.TILE)

        return read_rows(tiles, count, vocabulary, hidden.device, uniforms, embedding, top_k, classes, shaping)


class _Shaped:
    """The shaping of some rows, as the kernels take it, and where they cut the rows."""

    def __init__(self, shaping: RowShaping, count: int) -> None:
        if len(shaping.changed) != count:
            raise ValueError(f"the shaping of {len(shaping.changed)} rows for {count}")
        self._shaping = shaping
        self._filtered = bool(shaping.filtered.any())
        self._cut = torch.full((_aligned(count),), float("-inf"))
        self._last = torch.zeros(_aligned(count), dtype=torch.int32)
        self.call = interface.CShaping(
            token=shaping.token.data_ptr(),
            added=shaping.added.data_ptr(),
            factor=shaping.factor.data_ptr(),
            first_token=shaping.first_token.data_ptr(),
            first_value=shaping.first_value.data_ptr(),
            changed=shaping.changed.data_ptr(),
            top_k=shaping.top_k.data_ptr(),
            top_p=shaping.top_p.data_ptr(),
            lowest=shaping.lowest.data_ptr(),
            cut=self._cut.data_ptr() if self._filtered else None,
            last=self._last.data_ptr() if self._filtered else None,
        )

    def logprob(self, own: Tensor, best: Tensor, tokens: Tensor, argmax: Tensor, confidence: Tensor) -> Tensor:
        """[C]: the log probability of ``tokens`` from that of the likeliest, ``argmax``; ``own`` and ``best`` are their
        processed logits before they are changed, which are rounded otherwise here than where rows are cut."""
        row, token, added, factor = self._shaping.entries()
        for logits, which in ((own, tokens), (best, argmax)):
            here = token == which[row]
            changed(logits, (row[here],), added[here], factor[here])
        count = len(tokens)
        left = is_left(own, tokens, self._cut[:count], self._last[:count], exact=False) | (tokens == argmax)
        return torch.where(left & (own > OUT) | own.isnan(), confidence.log() + own - best, float("-inf"))


class _ClassBuffers:
    """Room for what a readout finds out about token classes, and what it keeps to draw from them afterwards."""

    def __init__(
        self, head: PackedHead, hidden: Tensor, temperatures: Tensor, classes: TokenClasses, shaped: "_Shaped | None"
    ) -> None:
        rows, tiles = len(hidden), _aligned(-(-head.table.outputs // TILE)) + ALIGNED
        self._head, self._hidden, self._temperatures, self._classes = head, hidden, temperatures, classes
        self._shaped = shaped
        self._mass, self._plogp, self._peak = torch.empty(3, rows, classes.count)
        self._argmax = torch.empty(rows, classes.count, dtype=torch.int64)
        self._references = torch.empty(rows, tiles)
        self._tile_masses = torch.empty(rows, len(classes.heavy) + 1, tiles)
        regions = -(-head.table.outputs // REGION)
        self._region_peaks, self._region_masses = torch.empty(2, regions, len(classes.middle), _aligned(rows))
        self.call = interface.CClasses(
            count=classes.count,
            heavy=len(classes.heavy),
            middle=len(classes.middle),
            light=len(classes.light_tokens),
            token_class=classes.token_class.data_ptr(),
            start=classes.start.data_ptr(),
            tokens=classes.tokens.data_ptr(),
            heavy_class=classes.heavy.data_ptr(),
            middle_class=classes.middle.data_ptr(),
            light_token=classes.light_tokens.data_ptr(),
            first=classes.first.data_ptr(),
            mass=self._mass.data_ptr(),
            plogp=self._plogp.data_ptr(),
            peak=self._peak.data_ptr(),
            argmax=self._argmax.data_ptr(),
            references=self._references.data_ptr(),
            tile_masses=self._tile_masses.data_ptr(),
            region_peaks=self._region_peaks.data_ptr(),
            region_masses=self._region_masses.data_ptr(),
        )

    def readout(self) -> ClassReadout:
        return ClassReadout(self._mass, self._plogp, self._peak, self._argmax, self._draw)

    def _draw(self, positions: Tensor, classes: Tensor, uniforms: Tensor) -> Tensor:
        positions, classes, uniforms = (
            positions.contiguous(),
            classes.long().contiguous(),
            uniforms.double().contiguous(),
        )
        tokens = torch.empty(len(positions), dtype=torch.int64)
        matrix = self._head.table.for_c
        call = interface.CClassDraw(
            count=len(positions),
            rows=len(self._hidden),
            hidden=self._hidden.data_ptr(),
            table=ctypes.pointer(matrix),
            softcap=self._head.softcap or 0.0,
            temperatures=self._temperatures.data_ptr(),
            classes=ctypes.pointer(self.call),
            shaping=None if self._shaped is None else ctypes.pointer(self._shaped.call),
            position=positions.data_ptr(),
            number=classes.data_ptr(),
            uniforms=uniforms.data_ptr(),
            tokens=tokens.data_ptr(),
        )
        bindings.entry("redraft_draw_from_classes")(ctypes.byref(call))
        return tokens


def _aligned(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED
