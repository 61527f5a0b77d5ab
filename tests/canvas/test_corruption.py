"""Both kinds of noise, position by position."""

import pytest
import torch

from redraft.canvas.corruption import AbsorbingCorruption, Corruption, MaskNoise, UniformCorruption
from redraft.canvas.noise import UniformNoise

MASK = 7
UNIFORM, ABSORBING = UniformCorruption(UniformNoise(8)), AbsorbingCorruption(MaskNoise(MASK))
LEFT_TO_RIGHT = AbsorbingCorruption(MaskNoise(MASK), "left-to-right")
BOTH = pytest.mark.parametrize(
    "corruption", [UNIFORM, ABSORBING, LEFT_TO_RIGHT], ids=["uniform", "absorbing", "left to right"]
)
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


def from_the_left(open: list[bool], accepted: list[bool], sample: list[int]) -> list[bool]:
    """The first of each stretch of open positions, and those after it up to one that no rule accepts, or that says
    nothing but the mask."""
    settled: list[bool] = []
    for at, (is_open, yes, token) in enumerate(zip(open, accepted, sample, strict=True)):
        first = at == 0 or not open[at - 1]
        settled.append(is_open and token != MASK and (first or (yes and settled[-1])))
    return settled


@SHAPES
@pytest.mark.parametrize("seed", range(20))
def test_from_left_to_right_every_gap_is_revealed_from_its_beginning_on(shape: tuple[int, ...], seed: int):
    generator = torch.Generator().manual_seed(seed)
    accepted, open = (torch.rand(shape, generator=generator) < share for share in (0.8, 0.8))
    sample = torch.randint(8, shape, generator=generator)
    settled = LEFT_TO_RIGHT.admitted(open, accepted, sample)
    rows = zip(*(one.reshape(-1, shape[-1]).tolist() for one in (open, accepted, sample, settled)), strict=True)
    for was_open, yes, tokens, kept in rows:
        assert kept == from_the_left(was_open, yes, tokens)
    assert torch.equal(ABSORBING.admitted(open, accepted, sample), accepted)
    assert torch.equal(UNIFORM.admitted(open, accepted, sample), accepted)


def test_from_left_to_right_nothing_is_settled_where_nothing_is_open():
    none, every, text = torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool), torch.zeros(5)
    assert not LEFT_TO_RIGHT.admitted(none, every, text).any()
    assert LEFT_TO_RIGHT.admitted(every, every, text).all()
    assert LEFT_TO_RIGHT.admitted(every, none, text).tolist() == [True, False, False, False, False]


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
    corruption.admitted(open, accepted, sample)
    assert all(torch.equal(one, was) for one, was in zip((tokens, sample, noise, accepted, open), before, strict=True))
    with torch.device("meta"):
        empty = torch.empty(6, dtype=torch.int64)
        mask = torch.empty(6, dtype=torch.bool)
        assert corruption.following(empty, mask, empty, empty).device.type == "meta"
        assert corruption.open(mask, mask).device.type == "meta"
        assert corruption.admitted(mask, mask, empty).device.type == "meta"
        assert corruption.noise.tokens(torch.empty(6, dtype=torch.float64)).device.type == "meta"
