"""The arithmetic of a step is counted right, and the peak is one: no kernel comes near to exceeding it."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from redraft.engine.memory import KVPool
from redraft.kernels import bindings
from redraft.kernels.linear import linear
from redraft.kernels.packed import FORMATS, Format, pack
from redraft.measure.peak import multiply_adds_per_second, seconds_at_peak, step_multiply_adds
from redraft.models import checkpoint
from tests.random_checkpoint import random_checkpoint

needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="no compiled kernels are in use")


@pytest.mark.parametrize("prompt", [5, 30])
def test_a_step_has_the_multiply_adds_that_torch_counts_in_the_plain_model(tmp_path_factory, prompt: int) -> None:
    """Every expert is active, so that the plain model's products are all there is; the window is 8."""
    found = checkpoint.read(random_checkpoint(tmp_path_factory.mktemp("model"), num_experts=3, top_k=3))
    model, config = found.load("float32"), found.config
    cache = KVPool.of(model).open()[0]
    model.encode(torch.arange(20, 20 + prompt)[None], cache)
    canvas = torch.arange(16, 16 + config.canvas_length)[None]
    signal = torch.zeros(1, config.canvas_length, config.hidden_size)
    with FlopCounterMode(display=False) as counted:
        model.readout(model.denoise(canvas, cache, signal)[0], 1.0, None)
    work = step_multiply_adds(config, "float32", prompt, config.canvas_length)
    assert 2 * sum(work.values()) == counted.get_total_flops()


def test_only_what_a_format_packs_is_counted_in_it(tmp_path_factory) -> None:
    config = checkpoint.read(random_checkpoint(tmp_path_factory.mktemp("model"))).config
    counts = {format: step_multiply_adds(config, format, 10, 8) for format in FORMATS}
    assert len({sum(count.values()) for count in counts.values()}) == 1
    assert set(counts["float32"]) == {"float32"}
    assert set(counts["bfloat16"]) == {"bfloat16", "float32"}
    assert set(counts["int8"]) == {"int8", "bfloat16", "float32"}
    assert set(counts["int4"]) == {"int4", "int8", "bfloat16", "float32"}


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_a_product_stays_below_the_peak(format: Format) -> None:
    weight, x = pack(torch.randn(1024, 1024), format), torch.randn(256, 1024)
    linear(weight, x)
    began = time.perf_counter()
    for _ in range(5):
        linear(weight, x)
    # Half as much again: the two are measured one after the other, on a machine that others use as well.
    assert 5 * 256 * 1024 * 1024 / (time.perf_counter() - began) < 1.5 * multiply_adds_per_second(format)


@needs_kernels
def test_more_work_takes_longer_at_the_peak() -> None:
    less, more = (seconds_at_peak({"bfloat16": count}) for count in (10**9, 10**11))
    assert less is not None
    assert more is not None
    assert 0 < less < more


def test_without_kernels_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "kernels", lambda: None)
    assert seconds_at_peak({"float32": 1}) is None
