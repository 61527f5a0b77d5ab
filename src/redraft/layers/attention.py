"""Grouped-query attention over several key/value segments, so that a cache is never concatenated to a canvas."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

# Scores of one call above this many elements are computed one KV head at a time (256 MB of float32).
MAX_SCORES = 1 << 26


# A product for each of many blocks costs more than copying them, which is done once.
MANY = 2


class Segment(NamedTuple):
    """Keys and values [B, kv_heads, S, D] and which of them each query sees: [T, S] bool, None for all."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


def attention(queries: Tensor, segments: Sequence[Segment]) -> Tensor:
    """softmax(q @ k^T) @ v over all segments together, without scaling (Gemma 4 normalises q and k).

    queries [B, heads, T, D]; returns [B, T, heads * D]. The softmax is computed in float32.
    """
    batch, heads, length, head_dim = queries.shape
    segments = [joined(segments, joined_mask(segments, length))] if len(segments) > MANY else segments
    kv_heads = segments[0].keys.shape[1]
    visible = sum(segment.keys.shape[2] for segment in segments)
    # A KV head serves heads/kv_heads query heads: their queries are stacked, so that no key is repeated.
    grouped = queries.reshape(batch, kv_heads, heads // kv_heads * length, head_dim)
    if batch * heads * length * visible > MAX_SCORES and kv_heads > 1:
        context = torch.cat(
            [
                _attend(
                    grouped[:, h : h + 1],
                    [Segment(s.keys[:, h : h + 1], s.values[:, h : h + 1], s.mask) for s in segments],
                    length,
                )
                for h in range(kv_heads)
            ],
            dim=1,
        )
    else:
        context = _attend(grouped, segments, length)
    return context.reshape(batch, heads, length, head_dim).transpose(1, 2).reshape(batch, length, heads * head_dim)


def biased_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """softmax(q @ k^T + bias) @ v, without scaling: queries [B, heads, T, D], keys and values [B, kv_heads, S, D], bias
    [T, S] -> [B, heads, T, D]. The softmax is computed in the bias's dtype."""
    kv_heads, visible = keys.shape[1:3]
    grouped = queries.unflatten(1, (kv_heads, -1))
    scores = grouped.flatten(2, 3) @ keys.transpose(-1, -2)
    weights = torch.softmax(scores.view(*grouped.shape[:4], visible) + bias, dim=-1)
    return (weights.to(values.dtype).flatten(2, 3) @ values).view(queries.shape)


def joined(segments: Sequence[Segment], mask: Tensor | None) -> Segment:
    """Copy segments into one, which ``mask`` is the mask of."""
    keys = torch.cat([segment.keys for segment in segments], dim=2)
    return Segment(keys, torch.cat([segment.values for segment in segments], dim=2), mask)


def joined_mask(segments: Sequence[Segment], length: int) -> Tensor | None:
    """Return the mask [T, S] of all segments together for ``length`` queries; None where all is seen."""
    if all(segment.mask is None for segment in segments):
        return None
    masks = [
        s.mask if s.mask is not None else torch.ones(length, s.keys.shape[2], dtype=torch.bool, device=s.keys.device)
        for s in segments
    ]
    return torch.cat(masks, dim=1)


def _attend(grouped: Tensor, segments: Sequence[Segment], length: int) -> Tensor:
    """[B, kv_heads, group * T, D] queries over the segments -> the same shape."""
    scores = [_masked(grouped @ segment.keys.transpose(-1, -2), segment.mask, length) for segment in segments]
    if len(scores) == 1:
        weights = [torch.softmax(scores[0], dim=-1, dtype=torch.float32)]
    else:
        joint = torch.softmax(torch.cat(scores, dim=-1), dim=-1, dtype=torch.float32)
        weights = list(joint.split([s.keys.shape[2] for s in segments], dim=-1))
    parts = [weight.to(s.values.dtype) @ s.values for weight, s in zip(weights, segments, strict=True)]
    return reduce(torch.add, parts)


def _masked(scores: Tensor, mask: Tensor | None, length: int) -> Tensor:
    if mask is None:
        return scores
    per_query = scores.unflatten(2, (-1, length))
    return per_query.masked_fill(~mask, float("-inf")).flatten(2, 3)
