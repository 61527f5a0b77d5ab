"""Noise tokens held against integer arithmetic."""

import pytest
import torch

from redraft.canvas.noise import UniformNoise

SIZES = [2, 3, 10, 826, 4095, 4096, 262_144, 2**31 + 1]


@pytest.mark.parametrize("vocab_size", SIZES)
def test_a_token_owns_the_interval_of_its_share(vocab_size: int):
    numerators = torch.randint(2**20, (2000,), generator=torch.Generator().manual_seed(0))
    tokens = UniformNoise(vocab_size).tokens(numerators.double() / 2**20)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [numerator * vocab_size >> 20 for numerator in numerators.tolist()]


@pytest.mark.parametrize("vocab_size", SIZES)
def test_the_extremes_of_the_uniform_are_the_first_and_the_last_token(vocab_size: int):
    extremes = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert UniformNoise(vocab_size).tokens(extremes).tolist() == [0, vocab_size - 1]


@pytest.mark.parametrize("vocab_size", [1, 0, -826])
def test_a_vocabulary_without_a_choice_is_refused(vocab_size: int):
    with pytest.raises(ValueError, match=f"vocab_size {vocab_size} "):
        UniformNoise(vocab_size)
