"""The places of a batch's spans among its rows, and what of its context each of them sees."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redraft.layers.attention import MANY, Segment, attention, joined, joined_mask
from redraft.layers.rope import RotaryTable
from redraft.models.base import Cache, Span

_FOLLOWS_A_CANVAS = "a span follows a canvas on the same cache; only what is encoded can be followed"


Masks = dict[tuple[int | None, ...], Tensor | None]
"""Which tokens see which, by the window, and by the first and the last position of a stretch of keys."""


@dataclass(frozen=True, eq=False)
class SpanRows:
    """A span's place in a forward: rows ``start`` to ``end`` of all, at positions from ``position`` on."""

    span: Span
    start: int
    end: int
    position: int
    """The position of its first token in its sequence."""
    masks: Masks = field(default_factory=dict)
    """Masks that were made for one layer, for the others that see as much."""

    @property
    def causal(self) -> bool:
        return self.span.mode == "encode"

    @property
    def own(self) -> slice:
        """The rows of the span among all."""
        return slice(self.start, self.end)

    @property
    def length(self) -> int:
        """T, the tokens of each of its sequences."""
        return self.span.tokens.shape[-1]

    def sequences(self, rows: Tensor) -> Tensor:
        """Return its part of ``rows`` [N, heads, D] as [B, heads, T, D]."""
        return rows[self.own].unflatten(0, (-1, self.length)).transpose(1, 2)


def lay_out(spans: Sequence[Span]) -> list[SpanRows]:
    """Give every span its rows, in order; what is encoded moves the spans behind it on the same cache.

    Raises ValueError for a canvas that another span follows on its cache: it leaves nothing there to be read.
    """
    placed: list[SpanRows] = []
    next_position: dict[int, int] = {}
    ended: set[int] = set()
    start = 0
    for span in spans:
        key = id(span.cache)
        if key in ended:
            raise ValueError(_FOLLOWS_A_CANVAS)
        position = next_position.get(key, span.cache.length) - span.reread
        if position < 0:
            raise ValueError(f"{span.reread} tokens to read again of a context of {span.cache.length}")
        placed.append(SpanRows(span, start, start + span.rows, position))
        start += span.rows
        next_position[key] = position + span.tokens.shape[-1]
        if span.mode == "denoise":
            ended.add(key)
    return placed


def kernel_order(spans: Sequence[Span]) -> list[tuple[int, bool]]:
    """Return the numbers of the spans as the kernels take them: first those that encode and of which nothing is wanted,
    then the others that encode, then all canvases; and of each whether its hidden rows are to be computed.

    A span still follows what is encoded before it on its cache: behind rows that are wanted all are computed. Raises
    ValueError as ``lay_out`` does.
    """
    ended: set[int] = set()
    wanting: set[int] = set()
    ranks = []
    for span in spans:
        key = id(span.cache)
        if key in ended:
            raise ValueError(_FOLLOWS_A_CANVAS)
        if span.mode == "denoise":
            ended.add(key)
        elif span.wanted:
            wanting.add(key)
        ranks.append(2 if span.mode == "denoise" else int(key in wanting))
    return [(index, ranks[index] > 0) for index in sorted(range(len(spans)), key=ranks.__getitem__)]


def wanted_rows(one: SpanRows, hidden: Tensor) -> Tensor | None:
    """Return what is wanted of a span's own hidden rows [rows, H]: all of a canvas [..., T, H], of what was encoded the
    last ones [..., wanted, H], or None."""
    if one.causal and not one.span.wanted:
        return None
    own = hidden.unflatten(0, one.span.tokens.shape)
    return own[..., -one.span.wanted :, :] if one.causal else own


def advance(rows: Sequence[SpanRows]) -> None:
    """Count what was encoded, once every layer has written it."""
    for one in rows:
        if one.causal:
            one.span.cache.advance(one.length)


def visible(
    stored: Sequence[tuple[Tensor, Tensor]],
    end: int,
    start: int,
    length: int,
    window: int | None,
    masks: Masks | None = None,
) -> list[Segment]:
    """Return what each of ``length`` tokens from position ``start`` on sees of ``stored``, blocks of the positions up
    to ``end``: none that come after it, and with a ``window`` none that are older. ``masks`` keeps what was made for
    one layer for others."""
    made: Masks = {} if masks is None else masks
    segments = []
    first = end - sum(keys.shape[2] for keys, _ in stored)
    for keys, values in stored:
        own = first, first + keys.shape[2]
        key = (window, *own)
        if key not in made:
            made[key] = _mask(own, start, length, window, keys.device)
        segments.append(Segment(keys, values, made[key]))
        first = own[1]
    return segments


def _mask(keys: tuple[int, int], start: int, length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Bool [T, S] for the tokens and a stretch of positions; None where all of it is seen by all."""
    youngest, oldest = start - (keys[1] - 1), start + length - 1 - keys[0]
    if youngest >= 0 and (window is None or oldest < window):
        return None
    age = torch.arange(start, start + length, device=device)[:, None] - torch.arange(*keys, device=device)
    return age >= 0 if window is None else (age >= 0) & (age < window)


def causal_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """Return bool [T, T]: token t sees itself and what came before, at most ``window`` tokens in all."""
    position = torch.arange(length, device=device)
    age = position[:, None] - position[None, :]
    seen = age >= 0
    return seen if window is None else seen & (age < window)


def past(one: SpanRows, cache: Cache, layer: int, window: int | None) -> list[Segment]:
    """Return what a span sees of what was encoded before it; the window of a canvas is None where all of its positions
    see what the first one sees."""
    stored = without_last(cache.read(layer), one.span.reread)
    return visible(stored, one.position, one.position, one.length, window, one.masks)


def without_last(stored: Sequence[tuple[Tensor, Tensor]], count: int) -> Sequence[tuple[Tensor, Tensor]]:
    """Return blocks of keys and values [B, kv_heads, S, D] without their last ``count`` positions, as views."""
    kept = list(stored)
    while count and kept:
        keys, values = kept.pop()
        rest = keys.shape[2] - count
        if rest > 0:
            kept.append((keys[:, :, :rest], values[:, :, :rest]))
        count = max(0, -rest)
    return kept


def attend(
    layer: int,
    one: SpanRows,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int | None = None,
    canvas_window: int | None = None,
) -> Tensor:
    """Return what a span's rows gather in one layer, [rows, heads * D], of all rows' [N, heads, D].

    What is encoded sees ``window`` tokens and is written to its cache; a canvas sees all of itself, and of its cache
    what ``past`` shows to ``canvas_window``.
    """
    cache = one.span.cache
    q, k, v = (one.sequences(part) for part in (queries, keys, values))
    segments = past(one, cache, layer, window if one.causal else canvas_window)
    if one.causal:
        cache.write(layer, k, v)
    if one.causal and (window,) not in one.masks:
        one.masks[window,] = causal_mask(one.length, window, q.device)
    segments.append(Segment(k, v, one.masks[window,] if one.causal else None))
    if len(segments) <= MANY:
        return attention(q, segments).flatten(0, 1)
    key = (window, *(segment.keys.shape[2] for segment in segments), one.length)
    if key not in one.masks:
        one.masks[key] = joined_mask(segments, one.length)
    return attention(q, [joined(segments, one.masks[key])]).flatten(0, 1)


def rotations(table: RotaryTable, rows: Sequence[SpanRows], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [N, 1, D/2] of all rows."""
    each = [(table.slice(one.position, one.length, device), one.span.rows // one.length) for one in rows]
    cosines, sines = (torch.cat([own[part].repeat(count, 1) for own, count in each])[:, None] for part in (0, 1))
    return cosines, sines
