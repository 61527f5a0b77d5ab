"""The arithmetic of a step is counted right, and the peak is worked out right from what was timed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.measure import peak
from redraft.measure.peak import multiply_adds_per_second, seconds_at_peak, step_multiply_adds
from redraft.models import checkpoint
from redraft.models.packed_cache import load_packed
from tests.models.driving import denoise, encoded, read
from tests.random_checkpoint import random_checkpoint

needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="no compiled kernels are in use")


@pytest.mark.parametrize("prompt", [5, 30])
def test_a_step_has_the_multiply_adds_that_torch_counts_in_the_plain_model(tmp_path_factory, prompt: int) -> None:
    """Every expert is active, so that the plain model's products are all there is; the window is 8."""
    found = checkpoint.read(random_checkpoint(tmp_path_factory.mktemp("model"), num_experts=3, top_k=3))
    model, length = found.load("float32"), found.config.canvas_length
    cache = encoded(model, torch.arange(20, 20 + prompt))
    canvas, soft = torch.arange(16, 16 + length), torch.zeros(length, 32)
    with FlopCounterMode(display=False) as counted:
        read(model, denoise(model, canvas, cache, soft), 1.0)
    work = step_multiply_adds(load_packed(found, "float32"), prompt, length)
    assert 2 * sum(work.values()) == counted.get_total_flops()


def test_only_what_a_format_packs_is_counted_in_it(tmp_path_factory) -> None:
    found = checkpoint.read(random_checkpoint(tmp_path_factory.mktemp("model")))
    counts = {format: step_multiply_adds(load_packed(found, format), 10, 8) for format in FORMATS}
    assert len({sum(count.values()) for count in counts.values()}) == 1
    assert set(counts["float32"]) == {"float32"}
    assert set(counts["bfloat16"]) == {"bfloat16", "float32"}
    assert set(counts["int8"]) == {"int8", "bfloat16", "float32"}
    assert set(counts["int4"]) == {"int4", "int8", "bfloat16", "float32"}


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_the_peak_counts_what_was_done(format: Format) -> None:
    """Twice the rounds are twice the multiply-adds, whole vectors of them."""
    number = bindings.format_number(format)
    once, twice = (bindings.saturate(number, rounds) for rounds in (1000, 2000))
    assert once > 0
    assert twice == 2 * once


def test_the_peak_is_the_median_of_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: what was done in half a second, in a quarter and in one."""
    elapsed = iter([1.0, 0.5, 0.25, 1.0])
    monkeypatch.setattr(peak, "_seconds", lambda number, rounds: (next(elapsed), 12))
    assert multiply_adds_per_second("float32") == 24


def test_seconds_at_the_peak_add_up_over_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"bfloat16": 2e9, "float32": 1e9}
    monkeypatch.setattr(bindings, "kernels", lambda: object())
    monkeypatch.setattr(peak, "multiply_adds_per_second", speeds.__getitem__)
    assert seconds_at_peak({"bfloat16": 10**9, "float32": 10**9}) == 1.5


def test_without_kernels_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "kernels", lambda: None)
    assert seconds_at_peak({"float32": 1}) is None
