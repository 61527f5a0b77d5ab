"""Attention of a canvas over a cached prefix and itself, as one tiled softmax over both where they lie."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from redraft.kernels import bindings
from redraft.layers.attention import Segment
from redraft.layers.attention import attention as attention_twin


def attention(queries: Tensor, segments: Sequence[Segment]) -> Tensor:
    """softmax(q @ k^T) @ v over all segments together (``layers.attention``, which is the twin).

    queries [1, heads, T, D] and keys and values [1, kv_heads, S, D], all float32 or all bfloat16; a segment's rows
    must be contiguous, its heads may lie apart, as in a cache. Returns [1, T, heads * D] float32. In bfloat16 the
    weights are rounded to bfloat16 before the second product. Queries that see nothing give NaN.
    """
    if bindings.kernels() is None or queries.dtype not in (torch.float32, torch.bfloat16):
        return attention_twin(queries, segments).float()
    if len(queries) != 1:
        raise ValueError(f"{len(queries)} sequences at once; the kernel takes one")
    for segment in segments:
        _check(segment, queries, segments[0].keys.shape[1])
    queries = queries.contiguous()
    parts = [Segment(_rows(s.keys), _rows(s.values), None if s.mask is None else s.mask.contiguous()) for s in segments]
    out = bindings.floats(queries.shape[2], queries.shape[1] * queries.shape[3])
    bindings.entry("redraft_attention")(ctypes.byref(attention_for_c(queries, parts, out)))
    return out[None]


def attention_for_c(queries: Tensor, segments: Sequence[Segment], out: Tensor) -> bindings.CAttention:
    """The call of the kernel, good for as long as its tensors live: queries [1, heads, T, D] contiguous, segments whose
    heads' rows and masks are contiguous, and ``out`` [T, heads * D] float32."""
    _, heads, length, head_dim = queries.shape
    stretches = (bindings.CStretch * len(segments))(
        *(
            bindings.CStretch(
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
    return bindings.CAttention(
        format=bindings.format_number(str(queries.dtype).removeprefix("torch.")),
        stretches=len(segments),
        heads=heads,
        kv_heads=segments[0].keys.shape[1],
        length=length,
        head_dim=head_dim,
        queries=queries.data_ptr(),
        stretch=stretches,
        out=out.data_ptr(),
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
