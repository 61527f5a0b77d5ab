"""All layers of a model over the rows of many requests, in one call where there are kernels.

Products, norms and experts run over all rows together, attention over each request's own context. Each row's result is
bit for bit the one it has alone. Nothing is described to C again that stays the same: what a span sees of its cache is
laid down once, so that a step of a small model is not spent on its call.
"""

import ctypes
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.kernels import bindings, interface
from redraft.kernels.attention import AttentionSpan, attention_of_spans
from redraft.kernels.layer import PackedLayer, ScaledRows
from redraft.layers.attention import Segment

Ropes = tuple[tuple[Tensor, Tensor], ...]
"""The cosines and sines of every layer, [positions, head_dim / 2], float32 and contiguous, of all positions in use."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values [1, kv_heads, S, head_dim]."""


class Stack:
    """The layers of a model, one after the other, with what the rows are multiplied by at each one's end."""

    def __init__(
        self, layers: Sequence[PackedLayer], scalars: Sequence[float], encode_scalars: Sequence[float] | None = None
    ) -> None:
        """``scalars`` of the rows of canvases, ``encode_scalars`` of those that are encoded, where they differ."""
        if not len(layers) == len(scalars) == len(encode_scalars or scalars):
            raise ValueError(f"{len(scalars)} and {len(encode_scalars or scalars)} scalars for {len(layers)} layers")
        self.layers, self.scalars = tuple(layers), tuple(scalars)
        self.encode_scalars = self.scalars if encode_scalars is None else tuple(encode_scalars)
        self._ropes: Ropes = ()
        self._reach: tuple[Ropes, int] = (), 0

    def reach(self, ropes: Ropes) -> int:
        """Positions that ``ropes`` hold for every layer; counted again only for another table of rotations."""
        if ropes is not self._reach[0]:
            fewest = min((len(part) for rope in ropes for part in rope), default=0)
            self._reach = ropes, fewest if len(ropes) == len(self.layers) else -1
        return self._reach[1]

    def for_c(self, ropes: Ropes) -> Any:
        """A pointer for C; made again only for another table of rotations."""
        if ropes is not self._ropes:
            self._cosines, self._sines = (
                np.array([rope[part].data_ptr() for rope in ropes], dtype=np.int64) for part in (0, 1)
            )
            self._for_c.contents.cosines, self._for_c.contents.sines = (
                part.ctypes.data for part in (self._cosines, self._sines)
            )
            self._ropes = ropes
        return self._for_c

    @cached_property
    def _for_c(self) -> Any:
        self._scalars_for_c = np.array([self.scalars, self.encode_scalars], dtype=np.float32)
        self._layers_for_c = np.array([ctypes.addressof(one.for_c.contents) for one in self.layers], dtype=np.int64)
        return ctypes.pointer(
            interface.CStack(
                layers=len(self.layers),
                layer=self._layers_for_c.ctypes.data,
                scalars=self._scalars_for_c[0].ctypes.data,
                encode_scalars=self._scalars_for_c[1].ctypes.data,
            )
        )


class SpanContext:
    """The rows of one request in a forward, and what they see of its cache in every layer.

    Made once for as long as the cache stays as it is: of a canvas, for all its steps. The tensors stay alive with it.
    """

    def __init__(
        self,
        stack: Stack,
        position: int,
        count: int,
        segments: Sequence[Sequence[Segment]],
        kept: Sequence[Sequence[KeysValues]] | None = None,
        wanted: bool = False,
    ) -> None:
        """``count`` rows from ``position`` on.

        ``segments`` [layers]: what each layer sees of the cache, masks [count, S]. A canvas sees itself as well.
        ``kept`` [layers] makes them rows to encode: where each layer's keys and values go, ``count`` positions in one
        or several pieces, views of the cache. ``segments`` then hold these rows too, with masks that let a row see
        what came before it. ``wanted``: what comes of rows that are encoded is wanted, too; of a canvas it always is.
        Raises ValueError for what does not fit the layers.
        """
        for name, given in (("segments", segments), ("kept", segments if kept is None else kept)):
            if len(given) != len(stack.layers):
                raise ValueError(f"{name} of {len(given)} layers for a model of {len(stack.layers)}")
        self.stack, self.position, self.count = stack, position, count
        self.wanted = wanted or kept is None
        self.segments = [[_contiguous(segment) for segment in layer] for layer in segments]
        self.kept = None if kept is None else [list(pieces) for pieces in kept]
        for index, layer in enumerate(stack.layers):
            pieces = [] if self.kept is None else self.kept[index]
            _check(layer, count, self.segments[index], pieces)
            if self.kept is not None and sum(keys.shape[2] for keys, _ in pieces) != count:
                raise ValueError(
                    f"room for {sum(keys.shape[2] for keys, _ in pieces)} of {count} rows in layer {index}"
                )

    @property
    def encodes(self) -> bool:
        """True if the rows go to the cache; else they are a canvas."""
        return self.kept is not None

    @cached_property
    def address(self) -> int:
        """The address at which C finds the contexts [layers] of native/forward.h."""
        kept = [()] * len(self.segments) if self.kept is None else self.kept
        stretches = _table(
            [
                (k.data_ptr(), v.data_ptr(), k.shape[2], k.stride(1), v.stride(1), bindings.pointer(mask) or 0)
                for layer in self.segments
                for k, v, mask in layer
            ],
            interface.CStretch,
        )
        pieces = _table(
            [(k.data_ptr(), v.data_ptr(), k.shape[2], k.stride(1), v.stride(1)) for layer in kept for k, v in layer],
            interface.CKept,
        )
        at, into, contexts = stretches.ctypes.data, pieces.ctypes.data, []
        for layer, places in zip(self.segments, kept, strict=True):
            contexts.append((at, len(layer), into, len(places)))
            at, into = at + len(layer) * stretches.strides[0], into + len(places) * pieces.strides[0]
        self._for_c = _table(contexts, interface.CContext), stretches, pieces
        return int(self._for_c[0].ctypes.data)


def forward(stack: Stack, x: Tensor, spans: Sequence[SpanContext], ropes: Ropes) -> None:
    """Take the residual x [rows of all spans, hidden] through all layers, in place; float32 and contiguous.

    A span's rows follow those of the span before. First stand spans that are encoded and of which nothing is wanted,
    then others that are encoded, then canvases. ``ropes`` reach beyond the last position of any span; pass the same
    tuple again while they do. Of rows that nobody wants the last layer leaves keys and values only: what x holds for
    them afterwards is of no use.
    """
    _check_forward(stack, x, spans, ropes)
    if not bindings.compute(x):
        forward_by_layers(stack, x, spans, ropes)
        return
    table = _table([(span.count, span.position, span.address) for span in spans], interface.CSpan)
    encoded, dropped = sum(span.encodes for span in spans), sum(not span.wanted for span in spans)
    bindings.entry("redraft_forward")(stack.for_c(ropes), table.ctypes.data, len(spans), encoded, dropped, x.data_ptr())


def forward_by_layers(stack: Stack, x: Tensor, spans: Sequence[SpanContext], ropes: Ropes) -> None:
    """``forward``, a layer after the other: what it means, and what it is without kernels."""
    positions = torch.cat([torch.arange(span.position, span.position + span.count, device=x.device) for span in spans])
    starts = [0]
    for span in spans:
        starts.append(starts[-1] + span.count)
    encoded, dropped = sum(span.encodes for span in spans), sum(not span.wanted for span in spans)
    for index, layer in enumerate(stack.layers):
        queries, keys, values = layer.project(x, ropes[index], positions)
        attended = []
        for number, span in enumerate(spans):
            start, end = starts[number], starts[number + 1]
            own = Segment(keys[:, :, start:end], values[:, :, start:end])
            segments = span.segments[index]
            if span.kept is None:
                segments = [*segments, own]
            else:
                _keep(own, span.kept[index])
            attended.append(AttentionSpan(start, end, segments))
        last = index + 1 == len(stack.layers)
        skipped = dropped if last else 0
        first, border = starts[skipped], starts[encoded]
        if first == len(x):
            continue
        context = attention_of_spans(queries, attended[skipped:])[0]
        scaled = [
            ScaledRows(0, border - first, stack.encode_scalars[index]),
            ScaledRows(border - first, len(x) - first, stack.scalars[index]),
        ]
        layer.finish(x[first:], context, scaled)


def _keep(own: Segment, pieces: Sequence[KeysValues]) -> None:
    start = 0
    for keys, values in pieces:
        end = start + keys.shape[2]
        keys.copy_(own.keys[:, :, start:end])
        values.copy_(own.values[:, :, start:end])
        start = end


def _check_forward(stack: Stack, x: Tensor, spans: Sequence[SpanContext], ropes: Ropes) -> None:
    rows = sum(span.count for span in spans)
    hidden = stack.layers[0].qkv.inputs if stack.layers else x.shape[-1]
    if x.shape != (rows, hidden) or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"rows {[*x.shape]} {x.dtype} for spans of [{rows}, {hidden}]")
    if any(span.stack is not stack for span in spans):
        raise ValueError("a span of another model")
    for span, later in pairwise(spans):
        if later.encodes and not span.encodes:
            raise ValueError("spans that are encoded stand before canvases")
        if span.wanted and not later.wanted:
            raise ValueError("spans of which nothing is wanted stand before the others")
    end = max((span.position + span.count for span in spans), default=0)
    if stack.layers and stack.reach(ropes) < end:
        raise ValueError(f"rotations of {[len(rope[0]) for rope in ropes]} positions for spans up to position {end}")


def _check(layer: PackedLayer, count: int, segments: Sequence[Segment], pieces: Sequence[KeysValues]) -> None:
    """Raise ValueError for keys, values and masks that are not those of the layer, or not readable where they lie."""
    for keys, values, mask in [*segments, *(Segment(*piece) for piece in pieces)]:
        shape = 1, layer.kv_heads, keys.shape[2], layer.head_dim
        fits = all(
            part.shape == shape
            and part.dtype == layer.dtype
            and (part.shape[2] <= 1 or part.stride(2) == layer.head_dim)
            and (layer.head_dim == 1 or part.stride(3) == 1)
            for part in (keys, values)
        )
        if not fits or (mask is not None and (mask.shape != (count, keys.shape[2]) or mask.dtype != torch.bool)):
            shown = ", ".join(f"{[*t.shape]} {t.dtype}" for t in (keys, values, mask) if t is not None)
            raise ValueError(
                f"keys and values of {shown} for {count} rows of a layer that has [1, {layer.kv_heads}, S, "
                f"{layer.head_dim}] {layer.dtype}, a head's rows one after the other"
            )


def _contiguous(segment: Segment) -> Segment:
    return segment if segment.mask is None else segment._replace(mask=segment.mask.contiguous())


def _table(rows: Sequence[tuple[int, ...]], structure: type[ctypes.Structure]) -> NDArray[np.int64]:
    """Structures of C whose members are all pointers and 64-bit integers: laid down much faster than by ctypes."""
    return np.array(rows, dtype=np.int64).reshape(-1, ctypes.sizeof(structure) // 8)
