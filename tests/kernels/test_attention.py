"""Attention over stretches of a cache against one softmax in float64, a query head at a time."""

import pytest
import torch
from torch import Tensor

from redraft.kernels.attention import AttentionSpan, attention, attention_of_spans
from redraft.layers.attention import Segment
from redraft.models.spans import causal_mask
from tests.kernels.quantised import assert_within, random

DTYPES = [torch.float32, torch.bfloat16]
# Heads, kv heads, queries, head size, keys of each segment: around the tiles of 256 queries and 128 keys.
SHAPES = [
    (1, 1, 1, 8, [1]),
    (4, 2, 5, 8, [16, 3]),
    (3, 1, 17, 24, [127]),
    (2, 2, 16, 32, [128, 15]),
    (6, 3, 33, 64, [129, 1, 31]),
    (4, 1, 65, 32, [257, 65]),
    (1, 1, 255, 16, [256]),
    (2, 1, 128, 8, [255, 128]),
    (1, 1, 257, 8, [40, 257]),
    (4, 2, 9, 128, [300]),
    (2, 1, 7, 256, [33, 7]),
    (2, 1, 3, 512, [130, 3]),
    (2, 1, 3, 40, [0, 5]),
]


def inputs(shape, dtype: torch.dtype, masked: bool = False) -> tuple[Tensor, list[Segment]]:
    heads, kv_heads, length, head_dim, sizes = shape
    segments = []
    for number, size in enumerate(sizes):
        mask = random(length, size, seed=number) > 0
        mask[:, :1] = True
        keys = random(1, kv_heads, size, head_dim, seed=10 + number).to(dtype)
        values = random(1, kv_heads, size, head_dim, seed=20 + number).to(dtype)
        segments.append(Segment(keys, values, mask if masked else None))
    return (random(1, heads, length, head_dim, seed=5) * 2 / head_dim**0.5).to(dtype), segments


def check(queries: Tensor, segments: list[Segment], result: Tensor) -> None:
    """Within rounding of the softmax in float64; bfloat16 rounds the weights, which the sum of sizes bounds."""
    _, heads, length, head_dim = queries.shape
    group = heads // segments[0].keys.shape[1]
    seen = torch.cat(
        [torch.ones(length, s.keys.shape[2], dtype=torch.bool) if s.mask is None else s.mask for s in segments], dim=1
    )
    rounding = 1e-5 if queries.dtype == torch.float32 else 2.0**-8
    assert result.shape == (1, length, heads * head_dim)
    assert result.dtype == torch.float32
    for head in range(heads):
        keys = torch.cat([s.keys[0, head // group] for s in segments]).double()
        values = torch.cat([s.values[0, head // group] for s in segments]).double()
        scores = (queries[0, head].double() @ keys.T).masked_fill(~seen, -torch.inf)
        weights = scores.softmax(-1)
        own = result[0, :, head * head_dim : (head + 1) * head_dim]
        assert_within(own, weights @ values, rounding * (weights @ values.abs()) + 1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["all seen", "masked"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_is_one_softmax_over_all_segments(dtype: torch.dtype, shape, masked: bool):
    queries, segments = inputs(shape, dtype, masked)
    check(queries, segments, attention(queries, segments))


@pytest.mark.parametrize("size", [15, 16, 17, 31, 32, 33, 127, 128, 129, 255, 256, 257])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_any_number_of_queries_and_keys_around_the_tiles(dtype: torch.dtype, size: int):
    for shape in ((2, 1, size, 8, [20]), (2, 1, 3, 32, [size]), (2, 1, 3, 8, [size, size])):
        queries, segments = inputs(shape, dtype)
        check(queries, segments, attention(queries, segments))


@pytest.mark.parametrize("window", [None, 1, 7, 40, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_causal_rows_see_what_came_before_them_within_their_window(dtype: torch.dtype, window: int | None):
    queries, (past, own) = inputs((4, 2, 150, 16, [30, 150]), dtype)
    masks: tuple[Tensor | None, Tensor] = (None, causal_mask(150, window, queries.device))
    if window is not None:
        age = torch.arange(30, 180)[:, None] - torch.arange(30)
        masks = age < window, masks[1]
    segments = [part._replace(mask=mask) for part, mask in zip((past, own), masks, strict=True)]
    check(queries, segments, attention(queries, segments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_a_canvas_sees_the_same_last_tokens_at_every_position(dtype: torch.dtype):
    queries, (past, own) = inputs((4, 2, 40, 16, [150, 40]), dtype)
    last = Segment(past.keys[:, :, -31:], past.values[:, :, -31:])
    masked = past._replace(mask=(torch.arange(150) >= 119).expand(40, 150))
    check(queries, [last, own], attention(queries, [last, own]))
    check(queries, [last, own], attention(queries, [masked, own]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_keys_and_values_are_read_where_a_cache_keeps_them(dtype: torch.dtype):
    queries, segments = inputs((6, 3, 20, 32, [70, 20]), dtype)
    expected = attention(queries, segments)
    buffers = torch.full((2, 1, 3, 200, 32), torch.nan, dtype=dtype)
    buffers[0, :, :, 11:81], buffers[1, :, :, 11:81] = segments[0].keys, segments[0].values
    cached = Segment(buffers[0, :, :, 11:81], buffers[1, :, :, 11:81])
    assert torch.equal(attention(queries, [cached, segments[1]]), expected)
    spread = Segment(*(part.transpose(1, 2).contiguous().transpose(1, 2) for part in segments[0][:2]))
    apart = queries.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(attention(apart, [spread, segments[1]]), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_scores_of_any_size_do_not_overflow(dtype: torch.dtype):
    for size in (1e3, 1e10, 1e17):
        queries, segments = inputs((2, 1, 20, 32, [150, 40]), dtype)
        segments = [Segment(s.keys * size, s.values) for s in segments]
        result = attention(queries * size, segments)
        scores = queries.double() @ torch.cat([s.keys for s in segments], dim=2).double().mT
        best = torch.cat([s.values for s in segments], dim=2)[0, 0][scores[0].argmax(-1)].float()
        top = scores[0].topk(2, dim=-1).values
        clear = (top[..., 0] - top[..., 1]) * size > 100
        torch.testing.assert_close(result[0].unflatten(-1, (2, 32)).transpose(0, 1)[clear], best[clear])
        assert clear.sum() > 30


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_rising_and_falling_scores_are_rescaled_rightly(dtype: torch.dtype):
    """The peak moves from tile to tile: up, up again, and down."""
    queries, segments = inputs((2, 1, 5, 32, [400, 300]), dtype)
    level = torch.cat((torch.linspace(0.1, 3, 400), torch.linspace(3, 0.1, 300)))[:, None]
    keys = (level * queries[0, 0, 0].float() * 8).to(dtype)
    segments = [Segment(k[None, None], s.values) for k, s in zip(keys.split([400, 300]), segments, strict=True)]
    check(queries, segments, attention(queries, segments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_a_query_that_sees_nothing_gives_nan_and_only_there(dtype: torch.dtype):
    queries, segments = inputs((4, 2, 20, 24, [150, 20]), dtype, masked=True)
    expected = attention(queries, segments)
    for segment in segments:
        assert segment.mask is not None
        segment.mask[[0, 13]] = False
    result = attention(queries, segments)
    blind = torch.zeros(20, dtype=torch.bool)
    blind[[0, 13]] = True
    assert result[0, blind].isnan().all()
    assert torch.equal(result[0, ~blind], expected[0, ~blind])


@pytest.mark.parametrize("size", [8, 64, 128, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_what_a_query_does_not_see_changes_no_bit_wherever_it_stands(dtype: torch.dtype, size: int):
    """Whole stretches before, between and after, and the rest of the last one: a context gives the same however much
    of it is encoded at a time."""
    queries, segments = inputs((4, 2, 5, 24, [size, size, size - 3]), dtype)
    expected = attention(queries, segments)
    hidden = torch.zeros(5, size, dtype=torch.bool)
    blind = [Segment(100 * s.keys, s.values, hidden) for s in inputs((4, 2, 5, 24, [size, size]), dtype)[1]]
    more = inputs((4, 2, 5, 24, [size]), dtype)[1][0]
    last = [torch.cat((part, rest[:, :, :3]), dim=2) for part, rest in zip(segments[2][:2], more[:2], strict=True)]
    seen = (torch.arange(size) < size - 3).expand(5, size)
    for given in (
        [blind[0], *segments],
        [segments[0], blind[1], *segments[1:], blind[0]],
        [*segments[:2], Segment(last[0], last[1], seen)],
    ):
        assert torch.equal(attention(queries, given), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_nan_in_a_query_stays_in_it(dtype: torch.dtype):
    queries, segments = inputs((4, 2, 20, 24, [150, 20]), dtype)
    expected = attention(queries, segments).unflatten(-1, (4, 24))
    queries[0, 1, 7, 23] = torch.nan
    result = attention(queries, segments).unflatten(-1, (4, 24))
    assert result[0, 7, 1].isnan().all()
    result[0, 7, 1] = expected[0, 7, 1]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_a_query_is_the_same_bits_whatever_other_queries_there_are(dtype: torch.dtype):
    queries, segments = inputs((6, 2, 100, 24, [150, 100]), dtype)
    whole = attention(queries, segments)
    for first, last in ((0, 1), (99, 100), (3, 20), (1, 90)):
        assert torch.equal(attention(queries[:, :, first:last], segments), whole[:, first:last])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier")
def test_the_same_bits_run_to_run_and_on_any_number_of_threads(dtype: torch.dtype, with_threads):
    queries, segments = inputs((8, 2, 200, 64, [300, 200]), dtype)
    with_threads(1)
    expected = attention(queries, segments)
    for threads in (1, 2, 3, 5):
        with_threads(threads)
        for _ in range(3):
            assert torch.equal(attention(queries, segments), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("tier_or_reference")
def test_spans_are_what_each_is_over_its_own_segments(dtype: torch.dtype, with_threads):
    """Rows of one tensor, each stretch with a context of its own, masks and lengths of all kinds; one span is empty."""
    spans, whole, expected = [], random(1, 4, 340, 24, seed=5).to(dtype), []
    for number, (start, end, sizes) in enumerate(
        [(0, 16, [70]), (16, 17, [0, 5]), (17, 17, [3]), (20, 320, [129, 31]), (320, 340, [1])]
    ):
        own, segments = inputs((4, 2, end - start, 24, sizes), dtype, masked=number % 2 == 0)
        whole[:, :, start:end] = own
        spans.append(AttentionSpan(start, end, segments))
        expected.append(attention(own, segments))
    for threads in (1, 3):
        with_threads(threads)
        assert torch.equal(attention_of_spans(whole, spans), torch.cat(expected, dim=1))


@pytest.mark.usefixtures("tier_or_reference")
def test_no_spans_give_no_rows():
    assert attention_of_spans(random(1, 4, 3, 8), []).shape == (1, 0, 32)


@pytest.mark.usefixtures("tier")
def test_several_sequences_are_refused():
    queries, (segment,) = inputs((2, 1, 3, 8, [5]), torch.float32)
    twice = Segment(segment.keys.repeat(2, 1, 1, 1), segment.values.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="2 sequences at once; the kernel takes one"):
        attention(queries.repeat(2, 1, 1, 1), [twice])


@pytest.mark.usefixtures("tier")
def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    queries, (segment,) = inputs((2, 1, 3, 8, [5]), torch.float32)
    wrong = {
        "keys": segment._replace(keys=segment.keys[..., :4]),
        "values": segment._replace(values=segment.values[:, :, :4]),
        "mask": segment._replace(mask=torch.ones(1, 5, dtype=torch.bool)),
        "dtype": segment._replace(values=segment.values.bfloat16()),
    }
    for part in wrong.values():
        with pytest.raises(ValueError, match="does not fit queries"):
            attention(queries, [part])
    with pytest.raises(ValueError, match="does not fit queries"):
        attention(queries, [segment, Segment(segment.keys.repeat(1, 2, 1, 1), segment.values.repeat(1, 2, 1, 1))])
