"""Benchmarks compute what they print, at sizes at which nobody would believe their times."""

import pytest
from bench.denoising_step import SHAPE, measure_checkpoint

from redraft.kernels.packed import FORMATS


@pytest.mark.slow
def test_every_contender_of_a_denoising_step_is_measured_and_computes_the_same() -> None:
    small = {
        **SHAPE,
        "hidden_size": 64,
        "intermediate_size": 64,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_global_key_value_heads": 1,
        "head_dim": 32,
        "global_head_dim": 32,
        "num_experts": 4,
        "top_k": 2,
        "moe_intermediate_size": 32,
    }
    found = measure_checkpoint(small, vocab=64, rounds=3, steps=2)
    contenders = {f"redraft {dtype}" for dtype in FORMATS}
    assert contenders < set(found["rows"])
    assert {f"{name}, {what}" for name in contenders for what in ("step", "generate")} < set(found["ratios"])
    errors = {name: row["relative error"] for name, row in found["agreement"].items()}
    assert errors["redraft float32"] < 1e-4 < errors["redraft bfloat16"] < errors["redraft int8"]
    assert errors["redraft int8"] < errors["redraft int4"]
