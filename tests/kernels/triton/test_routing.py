"""Routing on the device, in Triton's interpreter: the experts of each row, and an order in which each one's rows lie
together in tiles that hold none of another's."""

import pytest
import torch

from redraft.kernels import layer
from tests.kernels.triton.conftest import INTERPRETED

pytestmark = [pytest.mark.gpu, INTERPRETED]


def test_a_row_goes_to_its_likeliest_experts() -> None:
    from redraft.kernels.triton.routing import route

    torch.manual_seed(0)
    logits, scale = torch.randn(5, 6), torch.rand(6)
    # Of equal ones the lower goes first.
    logits[1] = 1.0
    found, chosen = route(logits, 3, scale)
    expected, choices = layer.route(logits, 3, scale)
    assert torch.equal(chosen, choices)
    assert chosen[1].tolist() == [0, 1, 2]
    torch.testing.assert_close(found, expected)


def test_a_row_that_is_no_number_goes_to_experts_that_there_are() -> None:
    from redraft.kernels.triton.routing import route

    logits = torch.randn(2, 5)
    logits[0] = float("nan")
    weights, chosen = route(logits, 2, torch.ones(5))
    assert weights[0].isnan().all()
    assert ((chosen >= 0) & (chosen < 5)).all()
    torch.testing.assert_close(weights[1], layer.route(logits[1:], 2, torch.ones(5))[0][0])


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param([0] * 40, id="all on the first"),
        pytest.param([4] * 33, id="all on the last"),
        pytest.param([4, 0, 2, 2, 1, 0, 4, 4, 0, 1] * 4, id="mixed, one without any"),
        pytest.param([3] * 16 + [1] * 16, id="whole tiles"),
        pytest.param([2], id="one choice"),
    ],
)
def test_tiles_hold_each_choice_once_and_one_expert_each(chosen: list[int]) -> None:
    from redraft.kernels.triton.routing import sort_by_expert

    experts, block = 5, 16
    order, tiles, _, _ = sort_by_expert(torch.tensor(chosen)[:, None], experts, block)
    assert order.tolist() == sorted(range(len(chosen)), key=chosen.__getitem__)
    held: list[int] = []
    for expert, start, end in tiles.T.tolist():
        if expert >= 0:
            own = order[start : min(start + block, end)].tolist()
            assert own
            assert {chosen[choice] for choice in own} == {expert}
            held += own
    assert sorted(held) == list(range(len(chosen)))


def test_more_choices_than_are_counted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from redraft.kernels.triton import routing

    monkeypatch.setattr(routing, "_AT_A_TIME", 16)
    chosen = torch.arange(50) * 7 % 3
    order = routing.sort_by_expert(chosen[:, None], 3, 16).order
    assert torch.equal(order.long(), chosen.argsort(stable=True))


def test_choices_are_summed_by_their_weights() -> None:
    from redraft.kernels.triton.routing import combine

    torch.manual_seed(1)
    products, weights = torch.randn(6, 37), torch.rand(3, 2)
    torch.testing.assert_close(combine(products, weights), (products.view(3, 2, 37) * weights[..., None]).sum(1))
