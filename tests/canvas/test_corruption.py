"""Both kinds of noise, position by position."""

import pytest
import torch

from redraft.canvas.corruption import AbsorbingCorruption, Corruption, MaskNoise, UniformCorruption
from redraft.canvas.noise import UniformNoise

MASK = 7
UNIFORM, ABSORBING = UniformCorruption(UniformNoise(8)), AbsorbingCorruption(MaskNoise(MASK))
BOTH = pytest.mark.parametrize("corruption", [UNIFORM, ABSORBING], ids=["uniform", "absorbing"])
SHAPES = pytest.mark.parametrize("shape", [(40,), (3, 20)], ids=str)


def drawn(shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Tokens, samples and noise, and two masks."""
    generator = torch.Generator().manual_seed(len(shape))
    numbers = [torch.randint(8, shape, generator=generator) for _ in range(3)]
    return *numbers, *(torch.rand(shape, generator=generator) < 0.5 for _ in range(2))


@SHAPES
def test_uniform_noise_takes_back_what_is_not_accepted_and_nothing_is_ever_settled(shape: tuple[int, ...]):
    tokens, sample, noise, accepted, open = drawn(shape)
    following = UNIFORM.following(tokens, accepted, sample, noise).flatten().tolist()
    for at, (yes, own, other) in enumerate(
        zip(accepted.flatten().tolist(), sample.flatten().tolist(), noise.flatten().tolist(), strict=True)
    ):
        assert following[at] == (own if yes else other)
    assert torch.equal(UNIFORM.open(open, accepted), open)
    assert not UNIFORM.monotone
    assert UNIFORM.settles(sample).all()


@SHAPES
def test_a_mask_gives_way_to_what_is_accepted_and_what_is_revealed_stays(shape: tuple[int, ...]):
    tokens, sample, noise, accepted, open = drawn(shape)
    following = ABSORBING.following(tokens, accepted, sample, noise).flatten().tolist()
    still = ABSORBING.open(open, accepted).flatten().tolist()
    rows = (tokens, sample, accepted, open)
    for at, (before, own, yes, was_open) in enumerate(zip(*(one.flatten().tolist() for one in rows), strict=True)):
        assert following[at] == (own if yes else before)
        assert still[at] == (was_open and not yes)
    assert ABSORBING.monotone
    assert ABSORBING.settles(sample).tolist() == (sample != MASK).tolist()


def test_what_is_committed_is_the_likeliest_canvas_or_the_one_that_was_revealed():
    argmax, following = torch.tensor([1, 2]), torch.tensor([3, 4])
    assert UNIFORM.committed(argmax, following) is argmax
    assert ABSORBING.committed(argmax, following) is following


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-53])
def test_every_draw_of_mask_noise_is_the_mask(uniform: float):
    tokens = MaskNoise(MASK).tokens(torch.full((2, 3), uniform, dtype=torch.float64))
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[MASK] * 3] * 2


@BOTH
def test_nothing_reads_a_tensor_on_the_host_or_changes_what_it_is_given(corruption: Corruption):
    tokens, sample, noise, accepted, open = drawn((6,))
    before = [one.clone() for one in (tokens, sample, noise, accepted, open)]
    corruption.following(tokens, accepted, sample, noise)
    corruption.open(open, accepted)
    corruption.settles(sample)
    assert all(torch.equal(one, was) for one, was in zip((tokens, sample, noise, accepted, open), before, strict=True))
    with torch.device("meta"):
        empty = torch.empty(6, dtype=torch.int64)
        mask = torch.empty(6, dtype=torch.bool)
        assert corruption.following(empty, mask, empty, empty).device.type == "meta"
        assert corruption.open(mask, mask).device.type == "meta"
        assert corruption.noise.tokens(torch.empty(6, dtype=torch.float64)).device.type == "meta"
