"""A draft held against a loop over positions."""

import pytest
import torch

from redraft.canvas.draft import Draft


@pytest.mark.parametrize(("start", "length"), [(0, 4), (0, 9), (3, 4), (6, 5), (7, 3), (20, 2)])
def test_a_drafts_token_stays_where_its_uniform_is_below_its_survival(start: int, length: int) -> None:
    tokens, survival = torch.arange(100, 107), torch.tensor([0.0, 0.5, 1.0, 0.3, 0.3, 1.0, 0.0], dtype=torch.float64)
    uniforms = torch.rand(length, dtype=torch.float64, generator=torch.Generator().manual_seed(start))
    stays, drafted = Draft(tokens, survival).survivors(start, uniforms)
    expected = [start + i < 7 and bool(uniforms[i] < survival[start + i]) for i in range(length)]
    assert stays.tolist() == expected
    assert drafted[stays].tolist() == [100 + start + i for i in range(length) if expected[i]]


def test_what_surely_survives_and_what_surely_does_not() -> None:
    """A uniform is in [0, 1): 0 survives nothing of probability 0, and the largest one survives 1."""
    draft = Draft(torch.tensor([3, 3]), torch.tensor([0.0, 1.0], dtype=torch.float64))
    stays, _ = draft.survivors(0, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert stays.tolist() == [False, True]
