"""RMSNorm held against the reference's and against its formula in float64."""

import pytest
import torch
from torch import Tensor
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaRMSNorm

from redraft.layers.norm import RMSNorm, rms_norm


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_the_references_norm(weighted: bool, scale: float, dtype: torch.dtype):
    reference = DiffusionGemmaRMSNorm(24, eps=1e-6, with_scale=weighted)
    ours = RMSNorm(24, eps=1e-6)
    if weighted:
        reference.weight.data = normal(24, seed=1)
        ours.load_state_dict(reference.state_dict())
    x = (scale * normal(3, 5, 24)).to(dtype)
    out = ours(x) if weighted else rms_norm(x, None, 1e-6)
    torch.testing.assert_close(out.to(dtype), reference(x))


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_is_the_formula(eps: float):
    x, weight = normal(4, 10), normal(10, seed=1)
    expected = x.double() / (x.double().square().sum(-1, keepdim=True) / 10 + eps).sqrt() * weight.double()
    torch.testing.assert_close(rms_norm(x, weight, eps), expected.float())


def test_computes_in_float32_whatever_comes_in():
    x, weight = normal(4, 10).bfloat16(), normal(10, seed=1).bfloat16()
    out = rms_norm(x, weight, 1e-6)
    assert out.dtype == torch.float32
    assert torch.equal(out, rms_norm(x.float(), weight.float(), 1e-6))


def test_a_zero_vector_stays_zero():
    assert torch.equal(rms_norm(torch.zeros(2, 8), None, 1e-6), torch.zeros(2, 8))
