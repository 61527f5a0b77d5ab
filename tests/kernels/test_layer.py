"""A layer in two calls is what its kernels are one after the other."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.kernels.layer import PackedLayer, ScaledRows, route
from redraft.kernels.norm import Norm
from redraft.kernels.packed import FORMATS, Activation, Format, PackedMatrix, pack, pack_gated
from tests.kernels.quantised import gated, normed, random

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


def layer_of(
    shape: tuple[int, ...], format: Format, *, values: bool = True, seed: int = 0, **options: Any
) -> PackedLayer:
    """A layer as DiffusionGemma has them, but for the ``options``."""
    hidden, heads, kv_heads, dim, width, inner, experts, top_k = shape
    sizes = iter(range(seed, seed + 100))

    def weight(*size: int) -> Tensor:
        return random(*size, seed=next(sizes)) / size[-1] ** 0.5

    def norm(size: int) -> Tensor:
        return random(size, seed=next(sizes)) * 0.2 + 1

    parts: dict[str, Any] = dict(
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
        v_norm=True,
    )
    return PackedLayer(**(parts | options))


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


@pytest.mark.usefixtures("tier_or_reference")
def test_rows_are_rotated_by_their_positions_in_a_table() -> None:
    layer, x, positions = (
        layer_of(SHAPES[0], "float32"),
        random(7, SHAPES[0][0], seed=5),
        torch.tensor([5, 0, 9, 9, 1, 2, 3]),
    )
    cosines, sines = rope_of(10, layer.head_dim)
    slices = cosines[positions], sines[positions]
    for one, expected in zip(layer.project(x, (cosines, sines), positions), layer.project(x, slices), strict=True):
        assert torch.equal(one, expected)


@pytest.mark.usefixtures("tier_or_reference")
def test_positions_beyond_the_table_are_refused() -> None:
    layer, x = layer_of(SHAPES[0], "float32"), random(2, SHAPES[0][0], seed=5)
    rope = rope_of(10, layer.head_dim)
    for positions in (torch.tensor([0, 10]), torch.tensor([-1, 0]), torch.tensor([0]), torch.tensor([0, 1]).int()):
        with pytest.raises(ValueError, match="a rotation of 10 positions does not fit 2 rows at positions"):
            layer.project(x, rope, positions)
    with pytest.raises(ValueError, match="a rotation of 10 positions does not fit 2 rows"):
        layer.project(x, rope)


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


NO_EXPERTS: dict[str, Any] = {
    "router": None,
    "experts_gate_up": None,
    "experts_down": None,
    "expert_scale": None,
    "experts_norm": None,
    "post_dense": None,
    "post_experts": None,
    "top_k": 0,
}
PRE_NORM: dict[str, Any] = {
    "post_attention": None,
    "post_feedforward": None,
    "q_norm": None,
    "k_norm": None,
    "v_norm": False,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "no experts": NO_EXPERTS,
    "pre-norm": PRE_NORM,
    "llama": NO_EXPERTS | PRE_NORM,
    "no norm at all": NO_EXPERTS | PRE_NORM | {"input_norm": None, "dense_norm": None},
    "norms of queries and keys": NO_EXPERTS | {"post_attention": None, "post_feedforward": None, "v_norm": False},
    "attention scale": {"attention_scale": 0.25},
    "branches added as they are": {"post_dense": None, "post_experts": None},
}
SHAPE = SHAPES[0]


def variant(format: Format, name: str, activation: Activation = "gelu_tanh", biased: bool = False) -> PackedLayer:
    """A layer with an option, perhaps with biases everywhere and another activation."""
    layer = layer_of(SHAPE, format, **OPTIONS.get(name, {}))
    if not biased:
        return layer
    given: dict[str, Any] = {}
    for part in ("qkv", "o", "gate_up", "down", "router", "experts_gate_up", "experts_down"):
        packed = getattr(layer, part)
        if packed is not None:
            own = packed.format
            bias = random(*packed.unpacked().shape[:2], seed=9) / 2
            given[part] = (
                pack_gated(packed.unpacked(), own, activation, bias)
                if packed.gated
                else pack(packed.unpacked(), own, bias)
            )
    return replace(layer, **given)


def product(packed: PackedMatrix, x: Tensor, number: int = 0) -> Tensor:
    """In float64."""
    out = x @ packed.unpacked()[number].double().T
    if packed.plain_bias is not None:
        out = out + packed.plain_bias[number].double()
    return gated(out, packed.activation) if packed.gated else out


def norm_by(x: Tensor, weight: Tensor | None, present: bool = True) -> Tensor:
    """In float64; nothing where there is no weight and the norm is not ``present`` all the same."""
    return x if weight is None and not present else normed(x, Norm(weight, 1e-6))


def projected(layer: PackedLayer, x: Tensor, rope: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Queries, keys and values [heads, T, D] of a float32 layer in float64, a head at a time."""
    rows = product(layer.qkv, norm_by(x.double(), layer.input_norm, present=False))
    heads = list(rows.split(layer.head_dim, dim=1))
    queries, keys = heads[: layer.heads], heads[layer.heads : layer.heads + layer.kv_heads]
    values = keys if layer.values_are_keys else heads[layer.heads + layer.kv_heads :]
    cosines, sines = (part.double() for part in rope)

    def turned(head: Tensor) -> Tensor:
        first, second = head.chunk(2, dim=-1)
        return torch.cat((first * cosines - second * sines, first * sines + second * cosines), dim=-1)

    return [
        torch.stack([turned(norm_by(q, layer.q_norm, present=False)) * layer.attention_scale for q in queries]),
        torch.stack([turned(norm_by(k, layer.k_norm, present=False)) for k in keys]),
        torch.stack([norm_by(v, None, present=layer.v_norm) for v in values]),
    ]


def finished(layer: PackedLayer, x: Tensor, context: Tensor, scalar: float) -> Tensor:
    """The rows after a float32 layer, in float64, an expert at a time."""
    x = x.double() + norm_by(product(layer.o, context.double()), layer.post_attention, present=False)
    branch = product(layer.down, product(layer.gate_up, norm_by(x, layer.dense_norm, present=False)))
    if layer.router is not None and layer.experts_gate_up is not None and layer.experts_down is not None:
        logits = product(layer.router, norm_by(x, None))
        weights, chosen = logits.topk(layer.top_k, dim=-1)
        weights, mixed = weights.softmax(-1), torch.zeros_like(branch)
        rows = norm_by(x, layer.experts_norm, present=False)
        for expert in range(logits.shape[1]):
            assert layer.expert_scale is not None
            share = (weights * (chosen == expert)).sum(-1) * layer.expert_scale[expert]
            mixed += share[:, None] * product(layer.experts_down, product(layer.experts_gate_up, rows, expert), expert)
        branch = norm_by(branch, layer.post_dense, present=False) + norm_by(mixed, layer.post_experts, present=False)
    return (x + norm_by(branch, layer.post_feedforward, present=False)) * scalar


@pytest.mark.parametrize(("activation", "biased"), [("gelu_tanh", False), ("gelu_tanh", True), ("silu", True)])
@pytest.mark.parametrize("name", ["as DiffusionGemma", *OPTIONS])
@pytest.mark.usefixtures("tier_or_reference")
def test_a_layer_of_any_family_is_what_it_says(name: str, activation: Activation, biased: bool) -> None:
    layer, count = variant("float32", name, activation, biased), 19
    x, rope = random(count, SHAPE[0], seed=5), rope_of(count, layer.head_dim)
    for ours, expected in zip(layer.project(x, rope), projected(layer, x, rope), strict=True):
        torch.testing.assert_close(ours[0].double(), expected, rtol=1e-4, atol=1e-5)
    context, whole = random(count, layer.heads * layer.head_dim, seed=7), x.clone()
    layer.finish(whole, context, [ScaledRows(0, count, 0.75)])
    torch.testing.assert_close(whole.double(), finished(layer, x, context, 0.75), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_row_of_any_layer_is_the_same_bits_alone_and_among_others(format: Format, name: str) -> None:
    layer, count = variant(format, name, "silu", biased=True), 90
    x, rope = random(count, SHAPE[0], seed=5), rope_of(count, layer.head_dim)
    context, whole, parts = random(count, layer.heads * layer.head_dim, seed=7), x.clone(), x.clone()
    together = layer.project(x, rope)
    for one, by_parts in zip(together, layer.project_by_parts(x, rope), strict=True):
        assert torch.equal(one, by_parts)
    layer.finish(whole, context, [ScaledRows(0, count, 1.0)])
    layer.finish_by_parts(parts, context, [ScaledRows(0, count, 1.0)])
    assert (whole - parts).abs().max() <= TOLERANCE[format] * parts.abs().max()
    for own in (slice(0, 1), slice(30, 47), slice(89, 90)):
        alone = layer.project(x[own], (rope[0][own], rope[1][own]))
        for one, all_rows in zip(alone, together, strict=True):
            assert torch.equal(one, all_rows[:, :, own])
        row = x[own].clone()
        layer.finish(row, context[own], [ScaledRows(0, len(row), 1.0)])
        assert torch.equal(row, whole[own])


def test_experts_of_which_a_part_is_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="a layer with experts lacks router, expert_scale"):
        layer_of(SHAPE, "float32", router=None, expert_scale=None)


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


@pytest.mark.usefixtures("tier")
def test_a_row_of_many_is_routed_as_it_is_alone() -> None:
    """Many rows are routed by several threads."""
    layer = layer_of((16, 1, 1, 8, 8, 8, 90, 8), "float32")
    x, context = random(500, 16, seed=6), random(500, 8, seed=7)
    whole = x.clone()
    layer.finish(whole, context, [ScaledRows(0, 500, 1.0)])
    for own in (slice(0, 1), slice(14, 18), slice(499, 500)):
        alone = x[own].clone()
        layer.finish(alone, context[own], [ScaledRows(0, len(alone), 1.0)])
        assert torch.equal(alone, whole[own])


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
