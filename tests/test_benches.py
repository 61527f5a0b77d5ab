"""Benchmarks compute what they print, at sizes at which nobody would believe their times."""

import json
import subprocess
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from bench import batching, full_size, gpu, synthetic
from bench.denoising_step import SHAPE, measure_checkpoint
from bench.pocket_edits import edits
from bench.pocket_slots import Judged, Slot, table

from redraft.kernels.packed import FORMATS
from redraft.models import checkpoint
from redraft.models.gemma.attention import AttentionSpec
from redraft.train.recipes.pocket.snippets import Split
from tests.random_gemma import random_gemma


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


# Contenders' processes are forks of one that has imported torch and transformers.
AUTOREGRESSIVE = """
import json, sys
from multiprocessing import get_context
from pathlib import Path
from bench import autoregressive
from tests.random_checkpoint import LETTERS_SIZE

autoregressive.get_context = lambda _: get_context("fork")
works = [autoregressive.Work(autoregressive.prompts(LETTERS_SIZE, 5, count), 6) for count in (1, 3)]
found = autoregressive.measure(Path({folder!r}), ("float32", "float32"), works, rounds=3, threads=1)
print(json.dumps([[one.clients, one.same, list(one.times.values)] for one in found]))
"""


@pytest.mark.slow
def test_both_contenders_write_the_same_tokens_one_by_one(commands: Path, tmp_path: Path) -> None:
    code = AUTOREGRESSIVE.format(folder=str(random_gemma(tmp_path / "model")))
    done = subprocess.run([commands / "python", "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(clients, same) for clients, same, _ in found] == [(1, 1.0), (3, 1.0)]
    assert all(len(times) == 3 and min(times) > 0 for *_, times in found)


@pytest.mark.slow
def test_ways_to_write_are_set_against_token_after_token(tmp_path: Path) -> None:
    small = replace(
        batching.full_size(1),
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=4,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=32,
        layers=(AttentionSpec(32, 2, None, 1_000_000.0, 0.25),),
    )
    found = batching.modes("float32", 3, 1024, tmp_path, (2,), small)
    ways = ("diffusion, 4 steps", "diffusion, 12 steps", "speculative")
    assert [one.name.split(", ", 2)[2] for one in found] == [f"{way}, 2 clients" for way in ways]
    assert all(len(one.times.values) == 3 and min(one.times.values) > 0 for one in found)
    assert "times as fast as token after token" in found[0].line()


def test_values_are_counted_by_task_by_kind_and_by_canvas() -> None:
    right, wrong = Slot("copied", (1, 2), (1, 2)), Slot("absent", (3,), ())
    judged = [
        Judged(0, "extract", (right, wrong), 2),
        Judged(1, "extract", (right,), 1),
        Judged(1, "choose", (Slot(None, (4,), (5,)),), 1),
    ]
    rows = {row["name"]: (row["right"], row["count"]) for row in table(judged)}
    assert rows == {
        "values, choose": (0.0, 1),
        "values, extract": (pytest.approx(2 / 3), 3),
        "values, absent": (0.0, 1),
        "values, copied": (1.0, 2),
        "whole canvases": (pytest.approx(1 / 3), 3),
    }
    assert all(row["low"] <= row["right"] <= row["high"] for row in table(judged))


@pytest.mark.slow
def test_a_card_is_measured_only_where_there_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "gpu.json"
    if not torch.cuda.is_available():
        assert gpu.main(["--json", str(written)]) == 2
        assert "nothing was measured" in capsys.readouterr().err
    assert gpu.main(["--device", "cpu", "--json", str(written)]) == 2
    assert not written.exists()


@pytest.mark.slow
def test_a_dry_run_goes_through_everything_and_names_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--dry-run", "--json", str(tmp_path / "gpu.json")]) == 0
    assert "no speed was measured" in capsys.readouterr().out
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["measured"] is False
    assert found["copy, bytes/s"] is None
    assert [row["canvases"] for row in found["steps"]] == [1, 2]
    assert not {"ms a step", "tokens/s", "canvases, s", "ms a token", "s, with one step"} & {
        name for part in ("steps", "token after token", "prompts") for row in found[part] for name in row
    }
    assert found["differences"]["experts, relative"] < 1e-4


@pytest.mark.slow
def test_the_full_sizes_benchmark_writes_packs_and_runs_any_size(commands: Path, tmp_path: Path) -> None:
    with (tmp_path / "memory.tsv").open("w+") as log:
        found = full_size.measure(tmp_path / "a", "tiny", full_size.PARTS, log, str(commands / "python"))
        log.seek(0)
        samples = [line.rstrip("\n").split("\t") for line in log]
    run = found["run"]
    assert run["tokens"] == [full_size.CONTEXT - 32, 32]
    assert len(run["step_seconds"]) == full_size.STEPS - 1
    assert run["share_of_peak"] > 0
    assert json.loads(run["constrained"]["text"]).keys() == {"name", "yes"}
    assert sum(run["decision"]["probabilities"].values()) == pytest.approx(1)
    parts = run["memory"]["parts"]
    assert {"loading", "prefill and canvas", "constrained answer", "decision", "edit"} <= parts.keys()
    for own in parts.values():
        assert 0 < own["anonymous"] + own["files"] <= own["resident"] <= run["memory"]["peak"]
    # Each sample stands in the log; on a busy machine packing so small a model may be over before there is one.
    assert {one[1] for one in samples} - {"", "packing"} == parts.keys()
    assert max(int(one[2]) for one in samples if one[1] == "edit") == parts["edit"]["resident"]
    assert any(line.endswith("within 18 GB") for line in full_size.lines(found))


def test_a_synthetic_checkpoint_has_the_published_names_and_depends_on_its_seed_alone(tmp_path: Path) -> None:
    first, again, other = (
        synthetic.write(tmp_path / name, "tiny", seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    index = json.loads((first / "model.safetensors.index.json").read_text())
    layer = "model.decoder.layers.1"
    # 8 experts of three matrices, four projections of attention without values, each in three parts.
    assert len([name for name in index["weight_map"] if name.startswith(f"{layer}.experts.")]) == 8 * 3 * 3
    assert f"{layer}.experts.7.gate_proj.weight_packed" in index["weight_map"]
    assert f"{layer}.self_attn.v_proj.weight_packed" not in index["weight_map"]
    assert "model.encoder.language_model.layers.1.layer_scalar" in index["weight_map"]
    for file in set(index["weight_map"].values()):
        assert (first / file).read_bytes() == (again / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()
    found = checkpoint.read(first)
    # Scaled so that a product with it has the size of its rows.
    weight = found.load("float32").state_dict()["layers.0.experts.down_proj"]
    assert (weight.std() * weight.shape[-1] ** 0.5).item() == pytest.approx(1, abs=0.1)


def test_edits_of_the_text_model_are_each_of_one_value_that_is_not_there_yet() -> None:
    found = list(islice(edits(Split.templates, 1), 30))
    assert found == list(islice(edits(Split.templates, 1), 30))
    for edit in found:
        start, end = edit.span
        old, new = edit.text[start:end], edit.new
        assert old.strip()
        assert old != new
        assert new.strip() not in edit.text
        assert (old[0] == " ") == (new[0] == " "), "a space before either is part of it"
