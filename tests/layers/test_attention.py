"""Segmented attention held against one softmax over the concatenated segments, in float64 and in the reference."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import eager_attention_forward

from redraft.layers.attention import Segment, attention, biased_attention

# Batch, query heads, kv heads, queries, head dim, keys of each segment.
SHAPES = [
    (1, 1, 1, 1, 4, [1]),
    (2, 4, 4, 5, 8, [7]),
    (2, 8, 2, 5, 8, [7, 5]),
    (1, 6, 3, 3, 4, [1, 9]),
    (3, 4, 1, 6, 8, [11, 6]),
    (1, 4, 2, 3, 4, [2, 3, 5]),
]


def inputs(shape, masked: list[bool], seed: int = 0) -> tuple[Tensor, list[Segment]]:
    batch, heads, kv_heads, length, head_dim, sizes = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    segments = []
    for size, has_mask in zip(sizes, masked, strict=True):
        mask = normal(length, size) > 0
        mask[:, 0] = True  # a query that sees nothing has no answer
        keys, values = normal(batch, kv_heads, size, head_dim), normal(batch, kv_heads, size, head_dim)
        segments.append(Segment(keys, values, mask if has_mask else None))
    return normal(batch, heads, length, head_dim), segments


def concatenated(queries: Tensor, segments: list[Segment]) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of all segments and what each query sees of them."""
    length = queries.shape[2]
    masks = [torch.ones(length, s.keys.shape[2], dtype=torch.bool) if s.mask is None else s.mask for s in segments]
    return torch.cat([s.keys for s in segments], 2), torch.cat([s.values for s in segments], 2), torch.cat(masks, 1)


def plain(queries: Tensor, segments: list[Segment]) -> Tensor:
    """One query head at a time in float64: [B, T, heads * D]."""
    keys, values, mask = (t.double() if t.is_floating_point() else t for t in concatenated(queries, segments))
    group = queries.shape[1] // keys.shape[1]
    outputs = []
    for head, query in enumerate(queries.double().unbind(1)):
        weights = (query @ keys[:, head // group].mT).exp() * mask
        outputs.append(weights / weights.sum(-1, keepdim=True) @ values[:, head // group])
    return torch.cat(outputs, dim=-1)


@pytest.mark.parametrize("masks", ["none", "all", "first", "last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per_head", [False, True], ids=["at once", "per kv head"])
def test_is_one_softmax_over_all_segments(shape, masks: str, per_head: bool, monkeypatch: pytest.MonkeyPatch):
    if per_head:
        monkeypatch.setattr("redraft.layers.attention.MAX_SCORES", 0)
    count = len(shape[-1])
    masked = [masks == "all" or (masks, i) in (("first", 0), ("last", count - 1)) for i in range(count)]
    queries, segments = inputs(shape, masked)
    torch.testing.assert_close(attention(queries, segments), plain(queries, segments).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_references_attention(dtype: torch.dtype):
    queries, segments = inputs((2, 8, 2, 5, 8, [7, 5]), [True, False])
    queries = queries.to(dtype)
    segments = [Segment(s.keys.to(dtype), s.values.to(dtype), s.mask) for s in segments]
    keys, values, mask = concatenated(queries, segments)
    added = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, float("-inf"))
    module = SimpleNamespace(num_key_value_groups=4, training=False)
    expected, _ = eager_attention_forward(module, queries, keys, values, added, scaling=1.0)
    context = attention(queries, segments)
    assert context.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(context, expected.flatten(2), rtol=tolerance, atol=tolerance)


def test_what_a_mask_hides_cannot_be_noticed():
    queries, segments = inputs((1, 4, 2, 3, 4, [6, 3]), [True, True])
    before = attention(queries, segments)
    mask = segments[0].mask
    assert mask is not None
    hidden = ~mask.any(0)
    mask[:, 4:] = hidden[4:] = False
    hidden[4:] = True
    masked = attention(queries, segments)
    segments[0].keys[:, :, hidden] = 1e4
    segments[0].values[:, :, hidden] = -1e4
    assert torch.equal(attention(queries, segments), masked)
    assert not torch.equal(before, masked)


def test_scores_too_large_for_a_plain_exponential_are_no_matter():
    queries, segments = inputs((1, 2, 1, 3, 4, [5, 3]), [False, False])
    context = attention(1e4 * queries, segments)
    keys, values, _ = concatenated(queries, segments)
    best = (queries[0] @ keys[0].mT).argmax(-1)
    torch.testing.assert_close(context, values[0, 0][best].transpose(0, 1).flatten(1)[None])


def test_with_a_bias_it_is_what_torch_computes_with_a_mask() -> None:
    """With grouped keys, in float32; rows that see nothing are not asked for."""
    queries, keys, values = (torch.randn(2, heads, 7, 8) for heads in (6, 3, 3))
    mask = (torch.rand(7, 7) < 0.5) | torch.eye(7, dtype=torch.bool)
    bias = torch.zeros(7, 7).masked_fill(~mask, float("-inf"))
    expected = F.scaled_dot_product_attention(queries, keys, values, mask, scale=1.0, enable_gqa=True)
    torch.testing.assert_close(biased_attention(queries, keys, values, bias), expected, atol=1e-5, rtol=1e-5)
