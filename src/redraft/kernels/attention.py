"""Attention of a canvas over a cached prefix and itself, as one tiled softmax over both where they lie."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from redraft.kernels import bindings, interface
from redraft.layers.attention import Segment
from redraft.layers.attention import attention as attention_reference


class AttentionSpan(NamedTuple):
    """Rows ``start`` to ``end`` of the queries, and the segments that they see."""

    start: int
    end: int
    segments: Sequence[Segment]


def attention(queries: Tensor, segments: Sequence[Segment]) -> Tensor:
    """softmax(q @ k^T) @ v over all segments together (``layers.attention`` is the reference).

    queries [1, heads, T, D] and keys and values [1, kv_heads, S, D], all float32 or all bfloat16; a head's rows must be
    contiguous, the heads may lie apart, as in a cache. Returns [1, T, heads * D] float32. In bfloat16 the weights are
    rounded to bfloat16 before the second product. Queries that see nothing give NaN.
    """
    return attention_of_spans(queries, [AttentionSpan(0, queries.shape[2], segments)])


def attention_of_spans(queries: Tensor, spans: Sequence[AttentionSpan]) -> Tensor:
    """``attention`` of each span over its own segments, as one job: bit for bit what the spans give one by one.

    queries [1, heads, T, D]; masks [rows of the span, S]. Returns [1, rows of all spans, heads * D] float32, a span's
    rows after those of the one before.
    """
    _, heads, _, head_dim = queries.shape
    if not bindings.compute(queries) or queries.dtype not in (torch.float32, torch.bfloat16):
        parts = [
            attention_reference(queries[:, :, s.start : s.end], s.segments).float() for s in spans if s.end > s.start
        ]
        return torch.cat(parts, dim=1) if parts else torch.empty(1, 0, heads * head_dim, device=queries.device)
    if len(queries) != 1:
        raise ValueError(f"{len(queries)} sequences at once; the kernel takes one")
    queries = _rows(queries)
    out = bindings.floats(sum(end - start for start, end, _ in spans), heads * head_dim)
    calls, kept, row = (interface.CAttention * len(spans))(), [], 0
    for call, (start, end, segments) in zip(calls, spans, strict=True):
        own = queries[:, :, start:end]
        for segment in segments:
            _check(segment, own, segments[0].keys.shape[1])
        segments = [
            Segment(_rows(s.keys), _rows(s.values), None if s.mask is None else s.mask.contiguous()) for s in segments
        ]
        kept.append(segments)
        _describe(call, own, segments, out[row : row + end - start])
        row += end - start
    bindings.entry("redraft_attention")(calls, len(spans))
    return out[None]


def _describe(call: interface.CAttention, queries: Tensor, segments: Sequence[Segment], out: Tensor) -> None:
    """Fill in a call, which is good for as long as the tensors live."""
    _, heads, length, head_dim = queries.shape
    call.format = bindings.format_number(str(queries.dtype).removeprefix("torch."))
    call.stretches, call.heads, call.kv_heads = len(segments), heads, segments[0].keys.shape[1]
    call.length, call.head_dim, call.query_stride = length, head_dim, queries.stride(1)
    call.queries, call.out = queries.data_ptr(), out.data_ptr()
    call.stretch = (interface.CStretch * len(segments))(
        *(
            interface.CStretch(
                keys=keys.data_ptr(),
                values=values.data_ptr(),
                count=keys.shape[2],
                key_stride=keys.stride(1),
                value_stride=values.stride(1),
                mask=bindings.pointer(mask),
            )
            for keys, values, mask in segments
        )
    )


def _check(segment: Segment, queries: Tensor, kv_heads: int) -> None:
    keys, values, mask = segment
    fits = (
        keys.shape == values.shape == (1, kv_heads, keys.shape[2], queries.shape[3])
        and queries.shape[1] % kv_heads == 0
        and keys.dtype == values.dtype == queries.dtype
        and (mask is None or (mask.dtype == torch.bool and mask.shape == (queries.shape[2], keys.shape[2])))
    )
    if not fits:
        shown = ", ".join(f"{[*t.shape]} {t.dtype}" for t in segment if t is not None)
        raise ValueError(f"a segment of {shown} does not fit queries {[*queries.shape]} {queries.dtype}")


def _rows(x: Tensor) -> Tensor:
    """``x`` with each head's rows one after the other."""
    return x if x.stride(3) == 1 and x.stride(2) == x.shape[3] else x.contiguous()
