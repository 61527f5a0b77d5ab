"""Counts of tokens before each position against counting them one by one, and what is made of them."""

import math

import pytest
import torch

from redraft.canvas.penalties import Counts, Forbidden, Penalties, Standing, logit_changes
from redraft.canvas.shaping import Filters, LogitChanges, RowShaping, Shaping

ENDS = (1, 9)


def counted(answer: list[int], canvas: Standing, position: int, token: int) -> int:
    """How often a token counts at a position, by the words of the page."""
    stands, tokens, stays = canvas.stands.tolist(), canvas.tokens.tolist(), canvas.stays.tolist()
    end = next((i for i, one in enumerate(tokens) if stands[i] and one in ENDS), len(tokens))
    if position > end or token in ENDS:
        return 0
    before = sum(stands[i] and tokens[i] == token for i in range(min(position, end)))
    behind = sum(stands[i] and stays[i] and tokens[i] == token for i in range(position + 1, end))
    return answer.count(token) + before + behind


@pytest.mark.parametrize("seed", range(6))
def test_tokens_count_as_the_page_says(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2 if seed % 2 else 0, 9 if seed % 2 else 12, (20,), generator=generator)
    stands, stays = torch.rand(2, 20, generator=generator) < torch.tensor([[0.7], [0.2]])
    canvas = Standing(tokens, stands | stays, stays)
    answer = torch.randint(0, 12, (15,), generator=generator).tolist()
    found = Counts.of(answer, canvas, ENDS)
    assert found.tokens.tolist() == sorted(set(found.tokens.tolist()))
    for position in range(20):
        for token in range(13):
            at = (found.tokens == token).nonzero()[:, 0]
            times = float(found.times[position, at[0]]) if len(at) else 0.0
            assert times == counted(answer, canvas, position, token)


def test_of_two_positions_that_repeat_each_other_only_the_later_is_penalised() -> None:
    """Were both, neither would stand at the next step, both would come back, and the canvas would never rest."""
    nothing = torch.zeros(4, dtype=torch.bool)
    canvas = Standing(torch.tensor([5, 6, 5, 7]), torch.ones(4, dtype=torch.bool), nothing)
    found = Counts.of([], canvas, ENDS)
    assert found.times[:, found.tokens == 5][:, 0].tolist() == [0, 1, 1, 2]


def test_changes_are_the_sum_of_biases_and_penalties_and_forbidden_tokens_win() -> None:
    canvas = Standing(torch.tensor([5, 5, 6]), torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    counts = Counts.of([6, 6], canvas, ENDS)
    changes = logit_changes(3, [(5, 2.0), (8, -1.0)], [Forbidden((8, 1), 2)], counts, Penalties(0.5, 0.25, 1.5))
    assert changes is not None
    assert changes.tokens.tolist() == [1, 5, 6, 8]
    forbidden = -math.inf
    assert changes.added.tolist() == [
        [forbidden, 2.0, -1.0, forbidden],
        [forbidden, 2.0 - 0.75, -1.0, forbidden],
        [0.0, 2.0 - 1.0, -1.0, -1.0],
    ]
    assert changes.factor.tolist() == [[1, 1, 1.5, 1], [1, 1.5, 1.5, 1], [1, 1.5, 1.5, 1]]


def test_what_holds_everywhere_is_kept_once_and_nothing_is_none() -> None:
    assert logit_changes(4, [], [Forbidden((3,), 0), Forbidden((), 4)]) is None
    changes = logit_changes(4, [(7, 1.0)], [Forbidden((3,), 4)])
    assert changes is not None
    assert changes.added.tolist() == [[-math.inf, 1.0]]


def test_rows_of_many_canvases_find_their_own_changes() -> None:
    first = LogitChanges(torch.tensor([2, 4]), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]))
    second = LogitChanges(torch.tensor([3]), torch.tensor([[5.0], [6.0]]), torch.tensor([[1.0], [2.0]]))
    canvases = [(3, 0.5, Shaping(Filters(top_k=4), first)), (1, 1.0, Shaping()), (2, 2.0, Shaping(Filters(), second))]
    rows = RowShaping.of(canvases)
    entries = list(zip(*(part.tolist() for part in rows.entries()), strict=True))
    assert entries == [
        *((row, token, added, factor) for row in range(3) for token, added, factor in ((2, 2.0, 1.0), (4, 4.0, 3.0))),
        (4, 3, 2.5, 1.0),
        (5, 3, 3.0, 2.0),
    ]
    assert rows.filtered.tolist() == [True] * 3 + [False] * 3
    part = rows.rows(slice(3, 6))
    assert [row for row, *_ in zip(*(one.tolist() for one in part.entries()), strict=True)] == [1, 2]
