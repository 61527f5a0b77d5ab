"""A sample of a model: some of its layers and of its vocabulary with random numbers, timed in the place of the whole.

What a forward of a checkpoint takes on this machine is known so before one of its weights is read. One layer of each
kind is made; the model repeats it, so that a layer's memory is all that the sample takes.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from redraft.canvas.readout import ReadoutSpec
from redraft.engine.memory import KVPool, PooledCache
from redraft.kernels.layer import PackedLayer
from redraft.kernels.packed import MatrixShape, PackedMatrix, outline
from redraft.layers.embedding import TokenTable
from redraft.models.base import Span
from redraft.models.packed import LayerPlace, PackedModel, PackedParts, PackedSelfConditioning

VOCABULARY = 32_768
"""Tokens of the sample's head; a larger vocabulary is read in proportion."""
# Numbers that are drawn; larger matrices repeat them. No power of two, so that no two rows are alike.
_DRAWN = (1 << 20) + 7
clock: Callable[[], float] = time.perf_counter
"""The clock of all samples; one of the processor's time tells more on a machine that others use, on one thread."""
WHOLE = 0.3
"""Seconds up to which a forward is run at its full depth; a longer one is worked out from single layers."""
_SAMPLES = 3
_LONG = 0.5
_EMBEDDINGS = 1024


@dataclass(frozen=True)
class Timing:
    """Seconds of one thing, on the sample, and what they come to for the whole model."""

    forward: float
    readout: float

    @property
    def seconds(self) -> float:
        """The forward and what is read of it."""
        return self.forward + self.readout


class Sample:
    """The layers and the head of a model that has only shapes, filled with random numbers."""

    def __init__(self, shapes: PackedModel, vocabulary: int = VOCABULARY, whole: float | None = None) -> None:
        """``shapes``: the model without its numbers (``models.outline``). ``whole``: seconds up to which all layers are
        run, by default WHOLE."""
        self._whole = WHOLE if whole is None else whole
        self._made: dict[Hashable, PackedMatrix] = {}
        self._random = torch.Generator().manual_seed(0)
        self._format, self._parts = shapes.format, shapes.parts
        pairs = list(zip(shapes.parts.layers, shapes.parts.places, strict=True))
        keys = [_kind(layer, place) for layer, place in pairs]
        self._kinds = {key: self._filled_layer(*pair) for key, pair in zip(keys, pairs, strict=True)}
        self._order, self._counts = keys, Counter(keys)
        head = shapes.parts.head
        self._share = min(1.0, vocabulary / head.table.outputs)
        self._head = replace(head, table=self._filled(head.table, min(head.table.outputs, vocabulary)))
        self._conditioning = self._filled_conditioning(shapes.parts.self_conditioning)
        width = head.table.inputs
        self._embeddings = torch.randn(_EMBEDDINGS, width, generator=self._random)

    @staticmethod
    def nbytes(shapes: PackedModel, vocabulary: int = VOCABULARY) -> int:
        """Return the bytes that a sample takes."""
        table = shapes.parts.head.table
        matrices = {
            _shape(matrix): matrix.nbytes for layer in shapes.parts.layers for matrix in _matrices(layer).values()
        }
        return sum(matrices.values()) + round(table.nbytes * min(1.0, vocabulary / table.outputs))

    @torch.inference_mode()
    def step(self, context: int, canvases: int) -> Timing:
        """Time a denoising step of so many canvases, each behind ``context`` tokens, and what is read of it."""
        length, soft = self._parts.config.canvas_length, self._conditioning is not None

        def prepare(model: PackedModel) -> Callable[[], list[Tensor]]:
            caches = [_filled_cache(model, context) for _ in range(canvases)]
            tokens = torch.arange(length + model.reread) % _EMBEDDINGS
            # What is read again of the context is in the cache, too.
            mean = torch.zeros(length + model.reread, self._embeddings.shape[1]) if soft else None
            spans = [Span(tokens, cache, "denoise", mean, model.reread if context else 0) for cache in caches]
            return lambda: [own for own in model.forward(spans) if own is not None]

        spec = ReadoutSpec(0.8, torch.rand(length, dtype=torch.float64, generator=self._random), soft)
        return self._timed(prepare, spec, canvases * length)

    @torch.inference_mode()
    def encode(self, context: int, rows: int, sequences: int = 1, *, read: bool = False) -> Timing:
        """Time a forward that encodes ``rows`` tokens of each of so many sequences behind ``context`` others.
        ``read``: the last one's distribution is read, as when one token is written after the other."""

        def prepare(model: PackedModel) -> Callable[[], list[Tensor]]:
            caches = [_filled_cache(model, context) for _ in range(sequences)]
            turn = iter(range(1 << 30))

            def once() -> list[Tensor]:
                first = next(turn) * rows
                spans = [
                    Span(
                        (torch.arange(first, first + rows) * (number + 1)) % _EMBEDDINGS,
                        cache,
                        "encode",
                        wanted=int(read),
                    )
                    for number, cache in enumerate(caches)
                ]
                return [own for own in model.forward(spans) if own is not None]

            return once

        spec = ReadoutSpec(1.0, torch.rand(1, dtype=torch.float64, generator=self._random)) if read else None
        return self._timed(prepare, spec, sequences)

    def _timed(
        self, prepare: Callable[[PackedModel], Callable[[], list[Tensor]]], spec: ReadoutSpec | None, rows: int
    ) -> Timing:
        hidden: list[Tensor] = []
        forward = 0.0
        for key, count in self._counts.items():
            once = prepare(self._model([key]))
            if not hidden:
                hidden = once()
            forward += count * _median(once)
        if forward <= self._whole:
            # What a forward costs beside its layers counts once.
            forward = _median(prepare(self._model(self._order)))
        model, readout = self._model(list(self._kinds)), 0.0
        if spec is not None and hidden:
            count = len(hidden[0]) - (self._parts.reread if rows > len(hidden) else 0)
            own = [one[:count] for one in hidden]
            specs = [spec] * len(own)
            readout = _median(lambda: model.readout(own, specs)) / self._share
        return Timing(forward, readout)

    def _model(self, keys: Sequence[Hashable]) -> PackedModel:
        pairs = [self._kinds[key] for key in keys]
        parts = PackedParts(
            layers=[layer for layer, _ in pairs],
            places=[place for _, place in pairs],
            embed=TokenTable(self._embeddings),
            self_conditioning=self._conditioning,
            norm=replace(self._parts.norm, weight=_ones(self._parts.norm.weight)),
            head=self._head,
            corruption=self._parts.corruption,
            config=self._parts.config,
            defaults=self._parts.defaults,
            modes=self._parts.modes,
            slides=self._parts.slides,
            reread=self._parts.reread,
        )
        return PackedModel(parts, self._format, 0)

    def _filled_layer(self, layer: PackedLayer, place: LayerPlace) -> tuple[PackedLayer, LayerPlace]:
        changed: dict[str, Any] = {name: self._filled(matrix) for name, matrix in _matrices(layer).items()}
        # Norms are what they are before training: with the outline's zeros every expert would be as good as another.
        changed |= {name: _ones(value) for name, value in vars(layer).items() if isinstance(value, Tensor)}
        # Scalars are zeros there, too, which would leave nothing for the next layer.
        return replace(layer, **changed), replace(place, encode_scalar=1.0, denoise_scalar=1.0)

    def _filled_conditioning(self, own: PackedSelfConditioning | None) -> PackedSelfConditioning | None:
        if own is None:
            return None
        norm = replace(own.norm, weight=_ones(own.norm.weight))
        return PackedSelfConditioning(self._filled(own.gate_up), self._filled(own.down), norm)

    def _filled(self, matrix: PackedMatrix, outputs: int | None = None) -> PackedMatrix:
        """Give a matrix numbers, of the first ``outputs`` rows if it is to have fewer; those of one shape are one."""
        if outputs is not None and outputs < matrix.outputs:
            fewer = MatrixShape(matrix.format, outputs, matrix.inputs, matrix.count, matrix.activation)
            matrix = outline(fewer)
        key = _shape(matrix)
        if key not in self._made:
            self._made[key] = self._drawn(matrix)
        return self._made[key]

    def _drawn(self, matrix: PackedMatrix) -> PackedMatrix:
        size = matrix.inputs**-0.5
        scales = torch.full(matrix.scales.shape, size / 64, dtype=matrix.scales.dtype)
        if matrix.data.dtype == torch.uint8:
            drawn = torch.randint(0, 256, (_DRAWN,), dtype=torch.uint8, generator=self._random)
            if matrix.format == "int4":
                scales[..., 0, :], scales[..., 1, :] = size / 4, -2 * size
        else:
            drawn = (torch.randn(_DRAWN, generator=self._random) * size).to(matrix.data.dtype)
        data = torch.empty(matrix.data.shape, dtype=matrix.data.dtype)
        flat = data.view(-1)
        for first in range(0, len(flat), _DRAWN):
            flat[first : first + _DRAWN] = drawn[: len(flat) - first]
        bias = None if matrix.bias is None else torch.zeros(matrix.bias.shape)
        return replace(matrix, data=data, scales=scales, bias=bias)


def _kind(layer: PackedLayer, place: LayerPlace) -> Hashable:
    return place.window, layer.head_dim, layer.kv_heads, tuple(_shape(one) for one in _matrices(layer).values())


def _matrices(layer: PackedLayer) -> dict[str, PackedMatrix]:
    return {name: value for name, value in vars(layer).items() if isinstance(value, PackedMatrix)}


def _shape(matrix: PackedMatrix) -> Hashable:
    return matrix.format, matrix.outputs, matrix.inputs, matrix.count, matrix.activation, matrix.bias is None


def _ones(weight: Tensor | None) -> Any:
    return None if weight is None else torch.ones(weight.shape)


def _filled_cache(model: PackedModel, context: int) -> PooledCache:
    """Return a cache of so many tokens whose keys and values are small numbers, written without a forward."""
    cache, _ = KVPool.of(model).open()
    done = 0
    while done < context:
        count = min(256, context - done)
        for index in range(len(model.parts.layers)):
            for keys, values in cache.room(index, count):
                keys.fill_(0.01)
                values.fill_(0.01)
        cache.advance(count)
        done += count
    return cache


def _median(once: Callable[[], object]) -> float:
    """Return the median seconds of some calls after one that warms up; of a call that takes long, of that one alone."""
    samples: list[float] = []
    while len(samples) <= _SAMPLES and (not samples or samples[0] < _LONG):
        began = clock()
        once()
        samples.append(clock() - began)
    return statistics.median(samples[1:] or samples)
