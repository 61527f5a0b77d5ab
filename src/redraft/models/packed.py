"""Any family on packed weights: one forward for spans of many requests, through the kernels.

The residual stream is float32 in every format. Every kernel computes a row from that row alone, and attention goes
through the context in blocks whose borders depend on positions alone. So a request's bits do not depend on what else is
in its forward: a prompt may be encoded in chunks of any size, beside other requests' canvases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from redraft.canvas.corruption import Corruption
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.kernels import bindings
from redraft.kernels.forward import Ropes, SpanContext, Stack, forward
from redraft.kernels.layer import PackedLayer
from redraft.kernels.linear import linear
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Format, PackedMatrix
from redraft.kernels.readout import PackedHead
from redraft.layers.embedding import TokenTable
from redraft.layers.norm import rms_norm
from redraft.layers.readouts import read_canvases
from redraft.layers.rope import RotaryTable
from redraft.models.base import (
    BlockDiffusionConfig,
    Cache,
    GenerationDefaults,
    GenerationMode,
    InPlaceCache,
    Span,
)
from redraft.models.spans import Masks, SpanRows, advance, kernel_order, lay_out, visible, wanted_rows, without_last

P = ParamSpec("P")
T = TypeVar("T")


def torch_on_one_thread(compute: Callable[P, T]) -> Callable[P, T]:
    """Give torch one thread while kernels run, and then what it had.

    What torch does between two kernels is short, but its other threads spin for a while after it, on the processors
    that the kernels' threads need by then. Where there are no kernels torch does the work, and keeps its threads.
    """

    @wraps(compute)
    def held(*arguments: P.args, **named: P.kwargs) -> T:
        threads = torch.get_num_threads()
        if threads == 1 or bindings.kernels() is None:
            return compute(*arguments, **named)
        torch.set_num_threads(1)
        try:
            return compute(*arguments, **named)
        finally:
            torch.set_num_threads(threads)

    return held


@dataclass(frozen=True)
class LayerPlace:
    """A layer's window, rotation and scalars, beside its weights."""

    window: int | None
    """Positions that a row sees, itself included; None for all."""
    rotary: RotaryTable
    encode_scalar: float = 1.0
    """Multiplies the rows of an encode span at the layer's end."""
    denoise_scalar: float = 1.0


@dataclass(frozen=True)
class PackedSelfConditioning:
    """A gated MLP whose result is added to a canvas's embeddings, which are then normed without weights."""

    gate_up: PackedMatrix
    down: PackedMatrix
    norm: Norm
    """Applied to the soft embeddings, before the MLP."""

    def added(self, soft: Tensor) -> Tensor:
        """Soft embeddings of the step before [N, H] -> what is added [N, H]."""
        return linear(self.down, linear(self.gate_up, soft, self.norm))


@dataclass(frozen=True)
class PackedParts:
    """A family's model, taken apart into what the kernels compute with."""

    layers: Sequence[PackedLayer]
    places: Sequence[LayerPlace]
    """One for each layer."""
    embed: TokenTable
    """Looked up as files store it."""
    self_conditioning: "PackedSelfConditioning | None"
    """None where a family has none."""
    norm: Norm
    """Before the head."""
    head: PackedHead
    corruption: Corruption | None
    """None for a model without a canvas."""
    config: BlockDiffusionConfig
    defaults: GenerationDefaults
    modes: tuple[GenerationMode, ...]
    """The ways in which it can write, the checkpoint's default first."""
    slides: bool
    """True where each row of a canvas has a window of its own; else all see what the first one sees of the cache."""
    reread: int = 0
    """Tokens of the context that are run again in front of a canvas."""


class PackedModel:
    """A ``models.base.BlockDiffusionModel`` on packed weights, on the CPU."""

    def __init__(self, parts: PackedParts, format: Format, nbytes: int) -> None:
        """``nbytes``: memory of all packed matrices."""
        self.config, self.defaults, self.format, self.nbytes = parts.config, parts.defaults, format, nbytes
        self.parts = parts
        """The layers, head and the rest that it computes with; whoever counts its work reads them."""
        self._stack = Stack(
            parts.layers,
            [place.denoise_scalar for place in parts.places],
            [place.encode_scalar for place in parts.places],
        )
        self._ropes: Ropes = ()
        self._made: WeakKeyDictionary[Cache, tuple[tuple[int, int], SpanContext]] = WeakKeyDictionary()

    @property
    def modes(self) -> tuple[GenerationMode, ...]:
        return self.parts.modes

    @property
    def corruption(self) -> Corruption | None:
        return self.parts.corruption

    @property
    def self_conditions(self) -> bool:
        return self.parts.self_conditioning is not None

    @property
    def reread(self) -> int:
        return self.parts.reread

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def kv_dtype(self) -> torch.dtype:
        """The dtype that keys and values are kept in."""
        return torch.float32 if self.format == "float32" else torch.bfloat16

    @property
    def batch_independent(self) -> bool:
        """True of the kernels; without them torch does the work, and rounds a row by how many rows there are."""
        return bindings.kernels() is not None

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
        return [
            (layer.kv_heads, layer.head_dim, None if place.window is None else place.window - 1)
            for layer, place in zip(self.parts.layers, self.parts.places, strict=True)
        ]

    @torch_on_one_thread
    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        """Compute all spans together; see ``models.base.BlockDiffusionModel``.

        Raises ValueError for a span of several sequences, which only training has.
        """
        for span in spans:
            if span.tokens.ndim != 1:
                raise ValueError(f"tokens {[*span.tokens.shape]} in a span; packed weights compute one sequence a span")
        order = kernel_order(spans)
        rows = lay_out([spans[index] for index, _ in order])
        x = self._entering(rows)
        contexts = [
            self._encoded(one, computed) if one.causal else self._canvas(one)
            for one, (_, computed) in zip(rows, order, strict=True)
        ]
        forward(self._stack, x, contexts, self._tables(max(one.position + one.length for one in rows)))
        advance(rows)
        found: list[Tensor | None] = [None] * len(spans)
        kept = [(index, one) for (index, computed), one in zip(order, rows, strict=True) if computed]
        if kept:
            norm, first = self.parts.norm, kept[0][1].start
            hidden = rms_norm(x[first:] if first else x, norm.weight, norm.epsilon)
            parts = [hidden] if len(kept) == 1 else hidden.split([one.length for _, one in kept])
            for (index, one), own in zip(kept, parts, strict=True):
                found[index] = wanted_rows(one, own)
        return found

    @torch_on_one_thread
    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read each span's hidden rows [C, H] as its spec asks."""
        return read_canvases(self.parts.head, hidden, specs)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return soft-capped float32 logits [..., V] of ``hidden`` [..., H]: for tests and comparisons."""
        return self.parts.head.logits(hidden.flatten(0, -2)).view(*hidden.shape[:-1], -1)

    def _entering(self, rows: Sequence[SpanRows]) -> Tensor:
        """Return the rows that go into the first layer, [N, H]."""
        x = self.parts.embed(_joined([one.span.tokens for one in rows]))
        block = self.parts.self_conditioning
        if block is None:
            return x
        soft = [(one, one.span.self_conditioning) for one in rows if one.span.self_conditioning is not None]
        if soft:
            added = block.added(_joined([own for _, own in soft]))
            if len(soft) == len(rows):
                x += added
            else:
                for (one, _), part in zip(soft, added.split([len(own) for _, own in soft]), strict=True):
                    x[one.own] += part
        # A canvas's rows are the last ones, as the kernels have them.
        canvases = next((one.start for one in rows if not one.causal), len(x))
        if canvases == 0:
            return rms_norm(x, None, block.norm.epsilon)
        if canvases < len(x):
            x[canvases:] = rms_norm(x[canvases:], None, block.norm.epsilon)
        return x

    def _encoded(self, one: SpanRows, computed: bool) -> SpanContext:
        """Rows to encode: where their keys and values go, and what of the cache, themselves included, they see.
        ``computed``: to the end of the last layer."""
        cache, places, end = one.span.cache, self.parts.places, one.position + one.length
        # Asked of the protocol itself it would take as long as a layer.
        if not hasattr(cache, "room"):
            raise ValueError(f"packed weights fill a cache's memory themselves; {cache!r} gives none")
        own = cast(InPlaceCache, cache)
        kept = [own.room(index, one.length) for index in range(len(places))]
        masks: Masks = {}
        seen = [
            visible(cache.read(index, one.length), end, one.position, one.length, place.window, masks)
            for index, place in enumerate(places)
        ]
        return SpanContext(self._stack, one.position, one.length, seen, kept, computed)

    def _canvas(self, one: SpanRows) -> SpanContext:
        """A canvas and what it sees of its cache; made at its first step, and kept for the others."""
        cache, key = one.span.cache, (one.position, one.length)
        made = self._made.get(cache)
        if made is None or made[0] != key:
            masks: Masks = {}
            seen = []
            for index, place in enumerate(self.parts.places):
                window = place.window if self.parts.slides else None
                stored = without_last(cache.read(index), one.span.reread)
                seen.append(visible(stored, one.position, one.position, one.length, window, masks))
            made = self._made[cache] = key, SpanContext(self._stack, one.position, one.length, seen)
        return made[1]

    def _tables(self, end: int) -> Ropes:
        """Cosines and sines of every layer, for all positions before ``end`` and more."""
        if not self._ropes or self._stack.reach(self._ropes) < end:
            rotaries = {place.rotary for place in self.parts.places}
            made = {rotary: rotary.slice(0, 2 * end, self.device) for rotary in rotaries}
            self._ropes = tuple(made[place.rotary] for place in self.parts.places)
        return self._ropes


def _joined(parts: list[Tensor]) -> Tensor:
    """Return the rows of all parts; of one alone itself."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
