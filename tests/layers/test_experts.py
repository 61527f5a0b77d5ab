"""Router and experts held against loops in float64 and against the reference's modules."""

import math
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from transformers import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import (
    DiffusionGemmaTextExperts,
    DiffusionGemmaTextRouter,
)

from redraft.layers.experts import Experts, Router

HIDDEN, INNER, EPS = 12, 5, 1e-6


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


M = TypeVar("M", bound=nn.Module)


def filled(module: M) -> M:
    """``module`` with every weight random, those that start at one among them."""
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + 10)
    return module


def reference_config(experts: int, top_k: int) -> DiffusionGemmaTextConfig:
    return DiffusionGemmaTextConfig(
        hidden_size=HIDDEN,
        num_experts=experts,
        top_k_experts=top_k,
        moe_intermediate_size=INNER,
        rms_norm_eps=EPS,
        experts_implementation="eager",
    )


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def token_by_token(experts: Experts, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    gate_up, down = experts.gate_up_proj.double(), experts.down_proj.double()
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token, row in enumerate(x.double()):
        for weight, expert in zip(weights[token].double(), chosen[token].tolist(), strict=True):
            gate, up = gate_up[expert, :INNER] @ row, gate_up[expert, INNER:] @ row
            out[token] += weight * (down[expert] @ (gelu_tanh(gate) * up))
    return out


def choices(tokens: int, experts: int, top_k: int) -> Tensor:
    """[tokens, top_k] distinct experts in no order."""
    return normal(tokens, experts, seed=3).argsort(-1)[:, :top_k]


ASSIGNMENTS = {
    "any three of seven": (7, choices(20, 7, 3)),
    "one expert each": (7, choices(20, 7, 1)),
    "one token": (7, choices(1, 7, 3)),
    "all tokens to the same two": (7, torch.tensor([[4, 1]]).expand(20, 2)),
    "first and last expert only": (7, torch.tensor([[6], [0], [6]])),
    "some experts without a token, one with a single one": (5, torch.tensor([[1, 3], [3, 1], [1, 4]])),
    "every expert": (4, torch.arange(4).expand(9, 4)),
    "every expert, one token": (4, torch.arange(4).expand(1, 4)),
    "a single expert": (1, torch.zeros(6, 1, dtype=torch.int64)),
}


@pytest.mark.parametrize("case", ASSIGNMENTS)
@torch.no_grad()
def test_experts_give_the_weighted_sum_of_a_loop_over_tokens(case: str):
    count, chosen = ASSIGNMENTS[case]
    experts = filled(Experts(HIDDEN, INNER, count))
    x, weights = normal(len(chosen), HIDDEN), normal(*chosen.shape, seed=1).exp()
    expected = token_by_token(experts, x, weights, chosen).float()
    torch.testing.assert_close(experts(x, weights, chosen), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "top_k"), [(7, 3), (4, 4), (1, 1)])
def test_router_and_experts_and_their_gradients_are_the_references(count: int, top_k: int):
    router, experts = filled(Router(HIDDEN, count, top_k, EPS)), filled(Experts(HIDDEN, INNER, count))
    config = reference_config(count, top_k)
    reference_router, reference_experts = DiffusionGemmaTextRouter(config), DiffusionGemmaTextExperts(config)
    reference_router.load_state_dict(router.state_dict())
    reference_experts.load_state_dict(experts.state_dict())

    ours, theirs = normal(15, HIDDEN, seed=5).requires_grad_(), normal(15, HIDDEN, seed=5).requires_grad_()
    out = experts(ours, *router(ours))
    _, weights, chosen = reference_router(theirs)
    expected = reference_experts(theirs, chosen, weights)
    out.square().sum().backward()
    expected.square().sum().backward()

    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(out, expected, **close)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)
    for mine, other in ((router, reference_router), (experts, reference_experts)):
        for name, parameter in mine.named_parameters():
            torch.testing.assert_close(parameter.grad, other.get_parameter(name).grad, rtol=1e-3, atol=1e-2)


def per_expert(weights: Tensor, chosen: Tensor, experts: int) -> Tensor:
    """[N, E] with zeros for the experts that were not chosen."""
    return torch.zeros(len(weights), experts).scatter(1, chosen, weights)


@pytest.mark.parametrize(("count", "top_k"), [(7, 3), (16, 8), (7, 1), (4, 4)])
@torch.no_grad()
def test_router_chooses_and_weighs_as_the_references(count: int, top_k: int):
    router = filled(Router(HIDDEN, count, top_k, EPS))
    reference = DiffusionGemmaTextRouter(reference_config(count, top_k))
    reference.load_state_dict(router.state_dict())
    residual = 50 * normal(40, HIDDEN, seed=6) + 20
    _, weights, chosen = reference(residual)
    ours = router(residual)
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(per_expert(ours[0], ours[1], count), per_expert(weights, chosen, count))


@torch.no_grad()
def test_router_norms_the_raw_residual_itself_and_by_no_weight_but_its_scale():
    """softmax(proj(x / rms(x) * scale / sqrt(H))): not the answer for a residual that a learned norm went over."""
    router = filled(Router(HIDDEN, 7, 3, EPS))
    residual = 50 * normal(40, HIDDEN, seed=6)

    def per_expert_of(x: Tensor) -> Tensor:
        weights, chosen = router(x)
        return per_expert(weights, chosen, 7)

    def closed_form(x: Tensor) -> Tensor:
        x = x.double()
        unit = x / x.square().mean(-1, keepdim=True).sqrt()
        scores = (unit * router.scale.double() / math.sqrt(HIDDEN)) @ router.proj.weight.double().T
        p = scores.softmax(-1)
        p = p * (p >= p.sort(-1).values[:, -3:-2])
        return (p / p.sum(-1, keepdim=True) * router.per_expert_scale).float()

    weights = per_expert_of(residual)
    torch.testing.assert_close(weights, closed_form(residual), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(per_expert_of(residual / 10), weights, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights, closed_form(residual * normal(HIDDEN, seed=8)), atol=0.1)


@torch.no_grad()
def test_a_tokens_output_does_not_depend_on_its_company():
    """To the bit for the sums over choices, whose order is the token's own; matmuls may differ in the last place."""
    experts = filled(Experts(HIDDEN, INNER, 7))
    chosen, x = choices(20, 7, 3), normal(20, HIDDEN)
    weights = normal(20, 3, seed=1).exp()
    together, reordered = experts(x, weights, chosen), experts(x.flip(0), weights.flip(0), chosen.flip(0)).flip(0)
    alone = torch.cat([experts(x[i : i + 1], weights[i : i + 1], chosen[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(reordered, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
