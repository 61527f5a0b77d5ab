"""Rotary embedding held against the reference's and against rotation in the complex plane."""

import pytest
import torch
from torch import Tensor
from transformers import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import (
    DiffusionGemmaTextRotaryEmbedding,
    apply_rotary_pos_emb,
)

from redraft.layers.rope import RotaryTable, inverse_frequencies, rotate

CPU = torch.device("cpu")
# Layer type, head dim, theta, share of the pairs that rotate.
KINDS = [
    ("sliding_attention", 256, 1e4, 1.0),
    ("sliding_attention", 16, 1e4, 1.0),
    ("full_attention", 512, 1e6, 0.25),
    ("full_attention", 16, 1e6, 0.25),
    ("full_attention", 24, 1e6, 0.4),
    ("full_attention", 16, 1e6, 1.0),
]


def reference_rotary(head_dim: int, theta: float, share: float) -> DiffusionGemmaTextRotaryEmbedding:
    config = DiffusionGemmaTextConfig(
        hidden_size=32,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        head_dim=head_dim,
        global_head_dim=head_dim,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
            "full_attention": {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": share},
        },
    )
    return DiffusionGemmaTextRotaryEmbedding(config)


def normal(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("layer_type", "head_dim", "theta", "share"), KINDS)
def test_frequencies_are_the_references(layer_type: str, head_dim: int, theta: float, share: float):
    expected = getattr(reference_rotary(head_dim, theta, share), f"{layer_type}_inv_freq")
    assert torch.equal(inverse_frequencies(head_dim, theta, share), expected)


@pytest.mark.parametrize(
    ("layer_type", "head_dim", "theta", "share", "start"),
    [(*kind, start) for kind in KINDS for start in (0, 1000)] + [(*kind, 130_000) for kind in KINDS if kind[1] == 16],
)
def test_rotates_as_the_reference_does(layer_type: str, head_dim: int, theta: float, share: float, start: int):
    x = normal(2, 3, 7, head_dim)
    positions = torch.arange(start, start + 7)[None]
    cos, sin = reference_rotary(head_dim, theta, share)(x, positions, layer_type)
    table = RotaryTable(inverse_frequencies(head_dim, theta, share))
    rotated = rotate(x, *table.slice(start, 7, CPU))
    torch.testing.assert_close(rotated, apply_rotary_pos_emb(x, cos, sin))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_pair_is_a_complex_number_turned_by_position_times_velocity(share: float):
    x = normal(5, 16)
    turned = rotate(x, *RotaryTable(inverse_frequencies(16, 1e4, share)).slice(3, 5, CPU)).double()
    for position in range(5):
        for pair in range(8):
            velocity = 1e4 ** (-2 * pair / 16) if pair < share * 8 else 0.0
            before = torch.complex(x[position, pair].double(), x[position, pair + 8].double())
            after = before * torch.exp(torch.tensor(1j * (position + 3) * velocity))
            torch.testing.assert_close(turned[position, [pair, pair + 8]], torch.view_as_real(after))


def test_what_proportional_rope_does_not_rotate_stays_bit_for_bit():
    x = normal(4, 16)
    rotated = rotate(x, *RotaryTable(inverse_frequencies(16, 1e6, 0.25)).slice(9, 4, CPU))
    still = [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15]
    assert torch.equal(rotated[:, still], x[:, still])
    assert not (rotated[:, [0, 8]] == x[:, [0, 8]]).any()


def test_scores_depend_only_on_the_distance_between_positions():
    query, key = normal(1, 16), normal(2, 16)[1:]
    table = RotaryTable(inverse_frequencies(16, 1e4))

    def score(at: int, to: int) -> Tensor:
        return rotate(query, *table.slice(at, 1, CPU)) @ rotate(key, *table.slice(to, 1, CPU)).T

    for shift in (1, 100, 700):
        torch.testing.assert_close(score(12 + shift, 5 + shift), score(12, 5), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(score(12, 5), score(12, 6), atol=1e-2)


def test_a_grown_table_gives_what_a_fresh_one_gives():
    frequencies = inverse_frequencies(16, 1e4)
    grown = RotaryTable(frequencies)
    for start, length in [(0, 3), (2, 5), (0, 1), (5, 60), (40, 3), (1000, 1), (999, 7), (0, 1006)]:
        fresh = RotaryTable(frequencies).slice(start, length, CPU)
        for ours, theirs in zip(grown.slice(start, length, CPU), fresh, strict=True):
            assert ours.shape == (length, 8)
            assert torch.equal(ours, theirs)
