"""A layer in two calls, and a canvas in one, are what their kernels are one after the other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.kernels.attention import attention
from redraft.kernels.layer import CanvasForward, PackedLayer, ScaledRows, route
from redraft.kernels.packed import FORMATS, Format, pack, pack_gated
from redraft.layers.attention import Segment
from tests.kernels.quantised import random

# Hidden, heads, key heads, head_dim, dense width, expert width, experts, choices.
SHAPES = [
    (40, 4, 2, 8, 24, 10, 5, 2),
    (33, 2, 1, 16, 50, 7, 3, 3),
    (128, 4, 4, 32, 192, 96, 2, 2),
    (65, 1, 1, 6, 9, 5, 9, 1),
]
COUNTS = (1, 7, 90)
# What an expert has inside is rounded to the format; a weight that differs in its last bit may round it the other way.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 3e-2, "int4": 3e-2}


def layer_of(shape: tuple[int, ...], format: Format, *, values: bool = True, seed: int = 0) -> PackedLayer:
    hidden, heads, kv_heads, dim, width, inner, experts, top_k = shape
    sizes = iter(range(seed, seed + 100))

    def weight(*size: int) -> Tensor:
        return random(*size, seed=next(sizes)) / size[-1] ** 0.5

    def norm(size: int) -> Tensor:
        return random(size, seed=next(sizes)) * 0.2 + 1

    return PackedLayer(
        qkv=pack(weight((heads + kv_heads * (1 + values)) * dim, hidden), format),
        o=pack(weight(hidden, heads * dim), format),
        gate_up=pack_gated(weight(2 * width, hidden), format),
        down=pack(weight(hidden, width), format),
        router=pack(weight(experts, hidden), "float32"),
        experts_gate_up=pack_gated(weight(experts, 2 * inner, hidden), format),
        experts_down=pack(weight(experts, hidden, inner), format),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        top_k=top_k,
        epsilon=1e-6,
        dtype=torch.float32 if format == "float32" else torch.bfloat16,
        input_norm=norm(hidden),
        q_norm=norm(dim),
        k_norm=norm(dim),
        post_attention=norm(hidden),
        dense_norm=norm(hidden),
        experts_norm=norm(hidden),
        post_dense=norm(hidden),
        post_experts=norm(hidden),
        post_feedforward=norm(hidden),
        expert_scale=norm(experts),
    )


def rope_of(count: int, dim: int) -> tuple[Tensor, Tensor]:
    angles = random(count, dim // 2, seed=77)
    return angles.cos(), angles.sin()


def thirds(count: int) -> list[ScaledRows]:
    """Stretches with scalars of their own, one of them empty."""
    cut = count // 3
    return [ScaledRows(0, cut, 0.5), ScaledRows(cut, cut, 9.0), ScaledRows(cut, count, 1.25)]


@pytest.mark.parametrize("values", [True, False], ids=["values", "keys are values"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_project_is_bit_for_bit_its_parts(format: Format, shape: tuple[int, ...], values: bool) -> None:
    layer = layer_of(shape, format, values=values)
    for count in COUNTS:
        x, rope = random(count, shape[0], seed=5), rope_of(count, layer.head_dim)
        for one, parts in zip(layer.project(x, rope), layer.project_by_parts(x, rope), strict=True):
            assert one.dtype == parts.dtype == layer.dtype
            assert torch.equal(one, parts)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_finish_is_its_parts(format: Format, shape: tuple[int, ...]) -> None:
    layer = layer_of(shape, format)
    for count in COUNTS:
        whole, context = random(count, shape[0], seed=6), random(count, layer.heads * layer.head_dim, seed=7)
        parts = whole.clone()
        layer.finish(whole, context, thirds(count))
        layer.finish_by_parts(parts, context, thirds(count))
        assert (whole - parts).abs().max() <= TOLERANCE[format] * parts.abs().max()


@pytest.mark.usefixtures("tier")
def test_of_equal_logits_the_lower_expert_goes_first() -> None:
    shape = (16, 1, 1, 8, 8, 8, 6, 2)
    layer = layer_of(shape, "float32")
    object.__setattr__(layer, "router", pack(torch.zeros(6, 16), "float32"))
    whole, context = random(9, 16, seed=6), random(9, 8, seed=7)
    parts = whole.clone()
    layer.finish(whole, context, thirds(9))
    layer.finish_by_parts(parts, context, thirds(9))
    assert torch.allclose(whole, parts, atol=1e-5)
    _, chosen = route(torch.zeros(3, 6), 2, torch.ones(6))
    assert chosen.tolist() == [[0, 1]] * 3


def test_route_is_the_softmax_over_all_cut_to_the_largest() -> None:
    logits, scale = random(50, 12, seed=1) * 3, random(12, seed=2)
    weights, chosen = route(logits, 4, scale)
    for row, own, numbers in zip(logits.double(), weights, chosen.tolist(), strict=True):
        likely = {e: row[e].exp().item() for e in sorted(range(12), key=lambda e: -row[e])[:4]}
        assert set(numbers) == set(likely)
        for weight, expert in zip(own.tolist(), numbers, strict=True):
            assert weight == pytest.approx(likely[expert] / sum(likely.values()) * scale[expert].item(), abs=1e-6)


@pytest.mark.parametrize("nan", [0, 1], ids=["one NaN", "all NaN"])
@pytest.mark.usefixtures("tier")
def test_a_row_that_is_not_finite_stays_so_and_alone(nan: int) -> None:
    layer = layer_of(SHAPES[0], "float32")
    x, context = random(4, SHAPES[0][0], seed=6), random(4, layer.heads * layer.head_dim, seed=7)
    expected = x.clone()
    layer.finish(expected, context, [ScaledRows(0, 4, 1.0)])
    x[2, slice(None) if nan else 3] = torch.nan
    layer.finish(x, context, [ScaledRows(0, 4, 1.0)])
    assert x[2].isnan().all()
    others = [0, 1, 3]
    assert torch.equal(x[others], expected[others])


def canvas(format: Format, count: int = 33) -> tuple[list[PackedLayer], dict[str, Any], Tensor]:
    """Two layers, the first with a masked context, the second with two stretches of one."""
    layers = [layer_of(SHAPES[0], format), layer_of(SHAPES[0], format, values=False, seed=50)]
    dim, kv_heads = layers[0].head_dim, layers[0].kv_heads

    def past(length: int, seed: int, mask: Tensor | None = None) -> Segment:
        keys, values = random(2, 1, kv_heads, length, dim, seed=seed).to(layers[0].dtype)
        return Segment(keys, values, mask)

    seen = torch.rand(count, 20, generator=torch.Generator().manual_seed(3)) < 0.6
    given = {
        "contexts": [[past(20, 11, seen)], [past(20, 12), past(5, 13)]],
        "ropes": [rope_of(count, dim)] * 2,
        "scalars": [0.9, 1.1],
        "count": count,
    }
    return layers, given, random(count, SHAPES[0][0], seed=8)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_canvas_in_one_call_is_bit_for_bit_its_layers(format: Format, with_threads: Callable[[int], None]) -> None:
    layers, given, x = canvas(format)
    expected = x.clone()
    for layer, context, rope, scalar in zip(layers, given["contexts"], given["ropes"], given["scalars"], strict=True):
        queries, keys, values = layer.project(expected, rope)
        attended = attention(queries, [*context, Segment(keys, values)])[0]
        layer.finish(expected, attended, [ScaledRows(0, len(x), scalar)])
    forward = CanvasForward(layers, **given)
    for threads in (1, 2, 3):
        with_threads(threads)
        for _ in range(2):
            result = x.clone()
            forward(result)
            assert torch.equal(result, expected)


@pytest.mark.usefixtures("tier")
def test_a_canvas_of_another_shape_is_refused() -> None:
    layers, given, x = canvas("float32")
    forward = CanvasForward(layers, **given)
    for wrong in (x[:-1], x[:, :-1], x.double(), x.T.contiguous().T):
        with pytest.raises(ValueError, match="for a canvas of"):
            forward(wrong)
