"""Kernels are used where there are any; one that fails is left to torch, said once, and what else fails is raised."""

import logging
import re
from collections.abc import Iterator
from importlib import metadata

import pytest
import torch

from redraft.kernels.triton import status as module
from redraft.kernels.triton.status import TritonStatus, attempt, status

CARD = torch.device("cuda")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered from test to test, and no interpreter is set up."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("REDRAFT_KERNELS", raising=False)
    monkeypatch.setattr(module, "_failed", {})
    module._status.cache_clear()
    yield
    module._status.cache_clear()


def card(monkeypatch: pytest.MonkeyPatch, version: str | None, capability: tuple[int, int]) -> TritonStatus:
    """The status of a card on which this version of Triton is installed."""

    def installed(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    return status(CARD)


@pytest.mark.parametrize(
    ("version", "capability", "used", "reason"),
    [
        ("3.7.1", (8, 9), True, "Triton 3.7.1, compute capability 8.9"),
        ("3.10.1+git12ab", (12, 0), True, "Triton 3.10.1"),
        ("3.6.2", (9, 0), False, r"Triton 3.6.2 is older than 3.7: pip install 'redraft\[gpu\]'"),
        (None, (9, 0), False, r"not installed: pip install 'redraft\[gpu\]'"),
        ("3.9.0", (7, 5), False, "compute capability 7.5 is below 8.0"),
    ],
)
def test_a_cards_kernels_are_used_where_they_run(
    monkeypatch: pytest.MonkeyPatch, version: str | None, capability: tuple[int, int], used: bool, reason: str
) -> None:
    found = card(monkeypatch, version, capability)
    assert found.used is used
    assert re.search(reason, found.reason)


def test_other_devices_have_none_and_a_user_may_refuse_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "3.9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device here" in status(CARD).reason
    assert status("mps") == TritonStatus(False, "there are no kernels for device 'mps'")
    monkeypatch.setenv("REDRAFT_KERNELS", "none")
    module._status.cache_clear()
    assert status(CARD) == TritonStatus(False, "REDRAFT_KERNELS=none")


def test_a_kernel_that_fails_is_left_to_torch_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert card(monkeypatch, "3.9.0", (8, 9)).used
    tried = []

    def fails() -> str:
        tried.append(True)
        raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid\nand more of it")

    with caplog.at_level(logging.WARNING, "redraft"):
        assert [attempt("experts", CARD, fails, lambda: "torch") for _ in range(3)] == ["torch"] * 3
    assert tried == [True]
    (record,) = caplog.records
    assert "the kernel for experts cannot be used here (Triton Error [CUDA]: device kernel image" in record.message
    # Others are tried, and whoever asks is told.
    assert attempt("products", CARD, lambda: "kernel", lambda: "torch") == "kernel"
    assert "torch for what failed here (experts failed: Triton Error" in status(CARD).reason


def test_what_is_no_fault_of_a_kernel_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert card(monkeypatch, "3.9.0", (8, 9)).used

    def without_memory() -> str:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        attempt("experts", CARD, without_memory, lambda: "torch")
    assert attempt("experts", CARD, lambda: "kernel", lambda: "torch") == "kernel"
