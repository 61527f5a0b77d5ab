"""Position-keyed draws held against Philox 4x64 in plain integers, and against chance."""

import pytest
import torch
from torch import Tensor

from redraft.canvas.noise import UniformNoise
from redraft.canvas.random import PositionRandom

WORD = (1 << 64) - 1
KEYS = [(0, 0, 0), (7, 2, 5), (2**63 - 1, 1, 48), (2**63, 0, 1), (2**63 + 1, 3, 1), (2**64 - 1, 1000, 48)]


def philox(key: list[int], counter: list[int]) -> list[int]:
    """Philox 4x64 with ten rounds, from the paper's definition."""
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [second >> 64 ^ counter[1] ^ key[0], second & WORD, first >> 64 ^ counter[3] ^ key[1], first & WORD]
        key = [key[0] + 0x9E3779B97F4A7C15 & WORD, key[1] + 0xBB67AE8584CAA73B & WORD]
    return counter


def draws(seed: int, canvas: int, step: int, length: int = 256) -> Tensor:
    """[2, length]: the sample's uniforms and the noise's."""
    random = PositionRandom(seed, canvas, step, length)
    return torch.stack((random.sample, random.noise))


def chance(counts: Tensor) -> float:
    """Probability that equally likely cells differ by chance at least as much as ``counts`` do."""
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((counts.numel() - 1) / 2).double(), statistic.double() / 2).item()


@pytest.mark.parametrize(("seed", "canvas", "step"), KEYS)
def test_position_p_gets_the_first_two_words_of_its_own_philox_block(seed: int, canvas: int, step: int):
    blocks = [philox([seed, canvas], [position + 1, step, 0, 0]) for position in range(9)]
    expected = torch.tensor([[(block[word] >> 11) / 2**53 for block in blocks] for word in (0, 1)], dtype=torch.float64)
    assert torch.equal(draws(seed, canvas, step, 9), expected)


def test_draws_of_one_key_are_these_on_every_platform():
    assert draws(7, 2, 5, 3).tolist() == [
        [0.34872394972585585, 0.19759034317137059, 0.9097215603424561],
        [0.388916322444151, 0.994177437431156, 0.9734545260937194],
    ]


@pytest.mark.parametrize("length", [1, 2, 255, 300])
def test_a_position_draws_the_same_whatever_the_canvas_length(length: int):
    shared = min(length, 256)
    assert torch.equal(draws(7, 2, 5, length)[:, :shared], draws(7, 2, 5)[:, :shared])


@pytest.mark.parametrize("other", [(8, 2, 5), (7, 3, 5), (7, 2, 6), (2, 7, 5), (7, 5, 2), (5, 2, 7), (7 + 2**32, 2, 5)])
def test_seed_canvas_and_step_each_change_every_draw(other: tuple[int, int, int]):
    assert not (draws(7, 2, 5) == draws(*other)).any()


def test_no_two_positions_share_a_draw_nor_two_neighbouring_steps_shifted_by_one():
    assert draws(7, 2, 5).unique().numel() == 512
    assert torch.cat([draws(7, 2, step) for step in range(20)]).unique().numel() == 20 * 512


@pytest.mark.parametrize("seed", [2**53, 2**63 - 2, 2**63, 2**64 - 2])
def test_every_bit_of_a_large_seed_counts(seed: int):
    assert not (draws(seed, 0, 1) == draws(seed + 1, 0, 1)).any()


def test_draws_owe_nothing_to_what_was_drawn_before():
    first = draws(7, 2, 5)
    torch.manual_seed(1)
    draws(8, 0, 0)
    assert torch.equal(draws(7, 2, 5), first)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused_by_value(seed: int):
    with pytest.raises(ValueError, match=str(seed)):
        PositionRandom(seed, 0, 0, 4)


@pytest.fixture(scope="module")
def many() -> Tensor:
    """[2 seeds, 2 canvases, 100 steps, 2 kinds, 256 positions]."""
    steps = [draws(seed, canvas, step) for seed in (11, 12) for canvas in (0, 1) for step in range(100)]
    return torch.stack(steps).view(2, 2, 100, 2, 256)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("skipped_bits", [0, 20, 45], ids=lambda bits: f"after {bits} bits")
def test_uniforms_are_uniform_down_to_their_last_bits(many: Tensor, kind: int, skipped_bits: int):
    bins = ((many[:, :, :, kind] * 2**skipped_bits) % 1 * 256).long().flatten()
    assert many.min() >= 0
    assert many.max() < 1
    assert 1e-4 < chance(bins.bincount(minlength=256)) < 1 - 1e-4


@pytest.mark.parametrize("vocab_size", [2, 3, 10, 826, 4096])
def test_noise_tokens_are_uniform_over_the_vocabulary(many: Tensor, vocab_size: int):
    tokens = UniformNoise(vocab_size).tokens(many[:, :, :, 1].flatten())
    assert 1e-4 < chance(tokens.bincount(minlength=vocab_size)) < 1 - 1e-4


PAIRS = {
    "sample and noise": lambda u: (u[:, :, :, 0], u[:, :, :, 1]),
    "a noise and the next sample": lambda u: (u[:, :, :, 1, :-1], u[:, :, :, 0, 1:]),
    "neighbouring positions": lambda u: (u[..., :-1], u[..., 1:]),
    "neighbouring steps": lambda u: (u[:, :, :-1], u[:, :, 1:]),
    "neighbouring canvases": lambda u: (u[:, 0], u[:, 1]),
    "neighbouring seeds": lambda u: (u[0], u[1]),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_are_independent(many: Tensor, pair: str):
    """Every cell of a 16 x 16 grid over the unit square is equally likely, which no correlation of any kind allows."""
    one, other = PAIRS[pair](many)
    cells = ((one * 16).long() * 16 + (other * 16).long()).flatten()
    assert 1e-4 < chance(cells.bincount(minlength=256)) < 1 - 1e-4


@pytest.mark.parametrize(("seed", "canvas", "step"), KEYS)
def test_a_constraints_path_gets_the_other_two_words_of_the_block(seed: int, canvas: int, step: int):
    blocks = [philox([seed, canvas], [position + 1, step, 0, 0]) for position in range(9)]
    expected = torch.tensor([[(block[word] >> 11) / 2**53 for word in (2, 3)] for block in blocks], dtype=torch.float64)
    assert torch.equal(PositionRandom(seed, canvas, step, 9).path, expected)


def test_a_constraints_path_says_nothing_of_the_other_draws():
    """Each pair of a position's four uniforms falls equally often into every cell of a grid of 8 by 8."""
    parts = [PositionRandom(seed, 0, 1, 256) for seed in range(64)]
    uniforms = torch.cat([torch.column_stack((part.sample, part.noise, part.path)) for part in parts])
    for one, other in [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]:
        cells = (uniforms[:, one] * 8).long() * 8 + (uniforms[:, other] * 8).long()
        assert chance(cells.bincount(minlength=64).double()) > 1e-4
