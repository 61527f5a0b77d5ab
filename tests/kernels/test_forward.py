"""Spans of many requests in one call: each one's rows are bit for bit what they are alone, layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft.kernels.attention import attention
from redraft.kernels.forward import Ropes, SpanContext, Stack, forward, forward_by_layers
from redraft.kernels.layer import ScaledRows
from redraft.kernels.packed import FORMATS, Format
from redraft.layers.attention import Segment
from tests.kernels.quantised import random
from tests.kernels.test_layer import SHAPES, layer_of
from tests.thorough import some

POSITIONS, BLOCK = 400, 48
Role = Literal["dropped", "wanted", "canvas"]
"""Encoded and of no further use, encoded and wanted, or a canvas: in this order the spans of a forward stand."""
ROLES: tuple[Role, ...] = get_args(Role)
Kind = tuple[int, int, Role]
"""Tokens in the cache, rows, what they are."""
MIXES: list[list[Kind]] = [
    [(20, 33, "canvas")],
    [(0, 16, "canvas"), (70, 16, "canvas"), (130, 5, "canvas")],
    [(10, 60, "dropped"), (0, 7, "dropped")],
    [(45, 10, "dropped"), (100, 33, "canvas"), (0, 1, "canvas")],
    [(45, 10, "dropped"), (61, 1, "wanted"), (0, 9, "wanted"), (100, 33, "canvas")],
    [(61, 1, "wanted")],
]


@dataclass(frozen=True)
class Request:
    """A request's cache of one layer after the other, in blocks, and its rows of the residual."""

    kind: Kind
    blocks: list[list[Tensor]]
    """[layers] of [2, 1, kv_heads, BLOCK, head_dim]: room for the cache and for the rows."""
    x: Tensor

    def segments(self, layer: int, end: int, masked: bool) -> list[Segment]:
        """What is in the blocks up to position ``end``."""
        length, count, _ = self.kind
        found = []
        for number, block in enumerate(self.blocks[layer]):
            first, size = number * BLOCK, min(BLOCK, end - number * BLOCK)
            if size > 0:
                age = torch.arange(length, length + count)[:, None] - torch.arange(first, first + size)
                found.append(Segment(block[0, :, :, :size], block[1, :, :, :size], age >= 0 if masked else None))
        return found

    def kept(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """Where the rows go."""
        length, count, _ = self.kind
        pieces = []
        for number, block in enumerate(self.blocks[layer]):
            own = slice(max(0, length - number * BLOCK), min(BLOCK, length + count - number * BLOCK))
            if own.start < own.stop:
                pieces.append((block[0][:, :, own], block[1][:, :, own]))
        return pieces

    def context(self, stack: Stack) -> SpanContext:
        """The span of this request."""
        length, count, role = self.kind
        encodes, layers = role != "canvas", range(len(stack.layers))
        segments = [self.segments(i, length + count if encodes else length, encodes) for i in layers]
        kept = [self.kept(i) for i in layers] if encodes else None
        return SpanContext(stack, length, count, segments, kept, role == "wanted")


def stack_of(format: Format) -> Stack:
    """Three layers, of which one takes its keys for values."""
    layers = [layer_of(SHAPES[0], format, values=number != 1, seed=50 * number) for number in range(3)]
    return Stack(layers, [0.9, 1.1, 1.0], [0.8, 1.0, 1.2])


def ropes_of(stack: Stack) -> Ropes:
    angles = [random(POSITIONS, layer.head_dim // 2, seed=n) for n, layer in enumerate(stack.layers)]
    return tuple((one.cos(), one.sin()) for one in angles)


def request_of(stack: Stack, kind: Kind, seed: int) -> Request:
    blocks = [
        [
            random(2, 1, layer.kv_heads, BLOCK, layer.head_dim, seed=seed + 7 * n + b).to(layer.dtype)
            for b in range(-(-(kind[0] + kind[1]) // BLOCK))
        ]
        for n, layer in enumerate(stack.layers)
    ]
    return Request(kind, blocks, random(kind[1], stack.layers[0].qkv.inputs, seed=seed))


def computed(stack: Stack, requests: list[Request], ropes: Ropes, how=forward) -> list[Tensor]:
    """The requests' rows after all layers."""
    x = torch.cat([request.x for request in requests])
    how(stack, x, [request.context(stack) for request in requests], ropes)
    return list(x.split([request.kind[1] for request in requests]))


def same(stack: Stack, ours: list[Request], theirs: list[Request], rows: list[Tensor], expected: list[Tensor]) -> None:
    """Bit for bit the same rows of canvases and of what is wanted, and the same caches."""
    for one, other, row, wanted in zip(ours, theirs, rows, expected, strict=True):
        assert one.kind[2] == "dropped" or torch.equal(row, wanted)
        for layer in range(len(stack.layers)):
            for block, copy in zip(one.blocks[layer], other.blocks[layer], strict=True):
                assert torch.equal(block, copy)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_canvas_is_bit_for_bit_its_layers_one_after_the_other(format: Format):
    """Spelled out with the calls of a single layer."""
    stack = stack_of(format)
    kind: Kind = (70, 33, "canvas")
    ropes, request = ropes_of(stack), request_of(stack, kind, 4)
    expected = request.x.clone()
    for index, layer in enumerate(stack.layers):
        own = slice(kind[0], kind[0] + kind[1])
        queries, keys, values = layer.project(expected, (ropes[index][0][own], ropes[index][1][own]))
        attended = attention(queries, [*request.segments(index, kind[0], False), Segment(keys, values)])[0]
        layer.finish(expected, attended, [ScaledRows(0, len(expected), stack.scalars[index])])
    assert torch.equal(computed(stack, [request], ropes)[0], expected)


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_one_call_is_bit_for_bit_layer_by_layer(format: Format, mix: list[Kind], with_threads: Callable[[int], None]):
    stack = stack_of(format)
    ropes = ropes_of(stack)
    theirs = [request_of(stack, kind, seed) for seed, kind in enumerate(mix)]
    expected = computed(stack, theirs, ropes, forward_by_layers)
    for threads in (1, 2, 3):
        with_threads(threads)
        ours = [request_of(stack, kind, seed) for seed, kind in enumerate(mix)]
        same(stack, ours, theirs, computed(stack, ours, ropes), expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
@settings(max_examples=some(15, 8), deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 60), st.sampled_from(ROLES)), min_size=1, max_size=6)
)
def test_a_request_is_the_same_bits_alone_and_among_any_others(format: Format, kinds: list[Kind]):
    stack = stack_of(format)
    ropes = ropes_of(stack)
    kinds = sorted(kinds, key=lambda kind: ROLES.index(kind[2]))
    alone = [request_of(stack, kind, seed) for seed, kind in enumerate(kinds)]
    expected = [computed(stack, [request], ropes)[0] for request in alone]
    together = [request_of(stack, kind, seed) for seed, kind in enumerate(kinds)]
    same(stack, together, alone, computed(stack, together, ropes), expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_wanted_row_is_the_same_bits_at_any_number_of_rows(format: Format):
    """All at once, one after the other, and by eights: what verifies a draft is what would have written it."""
    stack = stack_of(format)
    ropes, found = ropes_of(stack), []
    for step in (1, 8, 60):
        request = request_of(stack, (45, 60, "wanted"), 3)
        parts = [
            Request((45 + at, min(step, 60 - at), "wanted"), request.blocks, request.x[at : at + step])
            for at in range(0, 60, step)
        ]
        found.append(torch.cat([computed(stack, [part], ropes)[0] for part in parts]))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_what_is_encoded_in_parts_is_what_is_encoded_at_once(format: Format):
    stack = stack_of(format)
    ropes = ropes_of(stack)
    whole = request_of(stack, (0, 90, "dropped"), 3)
    computed(stack, [whole], ropes)
    first = Request((0, 37, "dropped"), request_of(stack, (0, 90, "dropped"), 3).blocks, whole.x[:37])
    rest = Request((37, 53, "dropped"), first.blocks, whole.x[37:])
    for part in (first, rest):
        computed(stack, [part], ropes)
    for layer in range(len(stack.layers)):
        for block, other in zip(whole.blocks[layer], rest.blocks[layer], strict=True):
            torch.testing.assert_close(block, other)


@pytest.mark.usefixtures("tier_or_reference")
def test_a_context_serves_every_step_and_any_table_of_rotations():
    """A table that grew gives the same, although C holds the place of the old one."""
    stack = stack_of("float32")
    request, ropes = request_of(stack, (20, 9, "canvas"), 4), ropes_of(stack)
    context, (expected,) = request.context(stack), computed(stack, [request], ropes)
    grown = tuple((torch.cat((c, c)), torch.cat((s, s))) for c, s in ropes)
    for table in (ropes, ropes, grown, ropes):
        x = request.x.clone()
        forward(stack, x, [context], table)
        assert torch.equal(x, expected)


@pytest.mark.usefixtures("tier_or_reference")
def test_what_does_not_fit_is_refused():
    stack = stack_of("float32")
    ropes, request = ropes_of(stack), request_of(stack, (20, 9, "canvas"), 4)
    context, x = request.context(stack), request.x
    for wrong in (x[:-1], x[:, :-1], x.double(), x.T.contiguous().T):
        with pytest.raises(ValueError, match=r"for spans of \[9, 40\]"):
            forward(stack, wrong, [context], ropes)
    with pytest.raises(ValueError, match="a span of another model"):
        forward(stack_of("float32"), x, [context], ropes)
    encoded = request_of(stack, (0, 2, "dropped"), 1)
    with pytest.raises(ValueError, match="spans that are encoded stand before canvases"):
        forward(stack, torch.cat((x, encoded.x)), [context, encoded.context(stack)], ropes)
    wanted = request_of(stack, (0, 9, "wanted"), 1)
    with pytest.raises(ValueError, match="of which nothing is wanted stand before"):
        forward(stack, torch.cat((x, encoded.x)), [wanted.context(stack), encoded.context(stack)], ropes)
    short = tuple((cosines[:28], sines[:28]) for cosines, sines in ropes)
    with pytest.raises(ValueError, match="positions for spans up to position 29"):
        forward(stack, x, [context], short)


def test_a_context_that_does_not_fit_its_layers_is_refused():
    stack = stack_of("float32")
    request = request_of(stack, (20, 9, "dropped"), 4)
    segments, kept = (
        [getattr(request, name)(i, *rest) for i in range(3)] for name, rest in (("segments", (29, True)), ("kept", ()))
    )
    with pytest.raises(ValueError, match="segments of 2 layers for a model of 3"):
        SpanContext(stack, 20, 9, segments[:2])
    with pytest.raises(ValueError, match="room for 8 of 9 rows in layer 0"):
        SpanContext(stack, 20, 9, segments, [[(k[:, :, 1:], v[:, :, 1:]) for k, v in kept[0]], *kept[1:]])
    one = segments[0][0]
    for wrong in (
        one._replace(keys=one.keys.double()),
        one._replace(values=one.values[:, :1]),
        one._replace(mask=one.mask[1:]),
        Segment(one.keys.mT.contiguous().mT, one.values),
    ):
        with pytest.raises(ValueError, match="a head's rows one after the other"):
            SpanContext(stack, 20, 9, [[wrong], *segments[1:]])
