"""Experts whose loads nobody reads compute what a loop over them does."""

import pytest
import torch

from redraft.layers import grouped
from redraft.layers.experts import Experts
from redraft.layers.grouped import buckets, routed


@pytest.mark.parametrize(("experts", "choices", "rows"), [(8, 2, 17), (16, 4, 33), (5, 1, 9), (6, 5, 3), (64, 8, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("products", ["bucketed", "grouped"])
def test_every_load_gives_what_a_loop_gives(
    experts: int, choices: int, rows: int, dtype: torch.dtype, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "has_grouped", lambda *tensors: products == "grouped")
    torch.manual_seed(rows)
    layer = Experts(32, 16, experts).to(dtype)
    x, weights = torch.randn(rows, 32, dtype=dtype), torch.rand(rows, choices)
    loads = {
        "even": torch.rand(rows, experts).topk(choices).indices,
        "all on the first": torch.arange(choices).expand(rows, choices),
        "all on the last": torch.arange(experts - choices, experts).expand(rows, choices),
    }
    for chosen in loads.values():
        with torch.no_grad():
            expected = layer._chosen_experts(x, weights, chosen)
            found = routed(x, weights, chosen, layer.gate_up_proj, layer.down_proj)
        torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=1e-4)


@pytest.mark.parametrize(("rows", "choices", "experts"), [(256, 8, 128), (1, 8, 128), (100, 3, 10), (7, 1, 4)])
def test_buckets_hold_whatever_the_loads_are(rows: int, choices: int, experts: int) -> None:
    found = list(buckets(rows, choices, experts))
    assert [first for first, _, _ in found] == [0, *(last for _, last, _ in found[:-1])]
    assert found[-1][1] == experts
    for first, last, capacity in found:
        # The expert of rank r has a share of the rows * choices that is not above that of r others.
        assert all(min(rows, rows * choices // (rank + 1)) <= capacity for rank in range(first, last))
    work = sum((last - first) * capacity for first, last, capacity in found)
    assert work <= (2 + (experts / choices - 1).__ceil__().bit_length()) * rows * choices
