"""Several tensors come over in one copy, as they were."""

import pytest
import torch

from redraft.canvas.host import on_cpu
from tests.gpu.pretend_device import NAME, PretendDevice

GIVEN = (
    torch.tensor([True, False, True]),
    torch.tensor([[0.5, float("-inf")], [1.0, float("nan")]]),
    torch.tensor([1, -(1 << 40)]),
    torch.tensor([2.5], dtype=torch.bfloat16),
)


def test_what_is_here_stays_as_it_is() -> None:
    assert all(found is given for found, given in zip(on_cpu(*GIVEN), GIVEN, strict=True))


@pytest.mark.gpu
def test_the_host_waits_once() -> None:
    device = PretendDevice()
    with device.active():
        there = [part.to(NAME) for part in GIVEN]
        found = on_cpu(*there)
    assert sum(device.reads.values()) == 1
    for got, given in zip(found, GIVEN, strict=True):
        torch.testing.assert_close(got, given, equal_nan=True)
