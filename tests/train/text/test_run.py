"""A run is its seed: killed and continued, it ends as if nothing had happened. And it learns what serving then says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import redraft
from redraft.errors import DataError, RedraftError
from redraft.train.text.adapters import Full, Lora, TrainedModel, merge
from redraft.train.text.objective import ObjectiveConfig
from redraft.train.text.optimizer import OptimizerConfig
from redraft.train.text.records import parse
from redraft.train.text.run import STATE_FILE, Run, RunConfig
from redraft.train.text.source import FileSource, GeneratedSource
from tests.models.llama_diffusion.conftest import write
from tests.train.text.conftest import HELD_OUT, SOURCE, generated, recipe

CASES: dict[str, dict[str, Any]] = {
    "full, with an average": {
        "optimizer": OptimizerConfig(learning_rate=3e-3, warmup=2, ema_decay=0.9),
        "run": {"evaluate_every": 2},
    },
    "lora, with dropout": {"adaptation": Lora(4, 8.0, dropout=0.2)},
    "muon, two batches a step, rollouts": {
        "optimizer": OptimizerConfig(name="muon", learning_rate=3e-3, warmup=2),
        "run": {"accumulate": 2},
        "objective": ObjectiveConfig(rollout_share=0.5, rollout_from=0.5),
        "batch_tokens": 128,
    },
    "bfloat16": {"dtype": "bfloat16"},
}


def run(tiny: Path, folder: Path, steps: int = 4, die_at: int | None = None, **more: Any) -> dict[str, Tensor]:
    """Train; the weights that the run ends with."""

    def on_progress(step: int, *_: Any) -> None:
        if step == die_at:
            raise KeyboardInterrupt

    # One case measures as well: what measuring draws and changes must not be seen in what follows.
    held_out = HELD_OUT if "average" in str(folder) else []
    made = recipe(tiny, steps, **more).prepare(folder, SOURCE, "letters", held_out, on_progress)
    made.run()
    return {name: parameter.detach().clone() for name, parameter in made.model.parameters.items()}


def logged(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_between_two_saves_and_continued_gives_the_same_weights_and_log(
    tiny: Path, tmp_path: Path, case: str
) -> None:
    folders = [tmp_path / case / name for name in ("whole", "killed")]
    whole = run(tiny, folders[0], **CASES[case])
    with pytest.raises(KeyboardInterrupt):
        run(tiny, folders[1], die_at=3, **CASES[case])
    continued = run(tiny, folders[1], **CASES[case])
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert logged(folders[0]) == logged(folders[1])
    assert [row["step"] for row in logged(folders[1]) if "loss" in row] == [1, 2, 3, 4]


def test_another_run_cannot_be_continued(tiny: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path, 1)
    with pytest.raises(RedraftError, match="holds a run with batch_tokens 256, not 512"):
        run(tiny, tmp_path, 2, batch_tokens=512)
    with pytest.raises(RedraftError, match="holds a run with adaptation 'Full', not 'Lora'"):
        run(tiny, tmp_path, 2, adaptation=Lora(4))


def test_a_run_is_not_continued_on_another_model_of_the_same_name(tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    run(model, tmp_path / "run", 1)
    write(model, seed=1)
    with pytest.raises(RedraftError, match="holds a run with weights"):
        run(model, tmp_path / "run", 2)


def test_what_cannot_be_trained_so_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RedraftError, match="rank 97 is more than the 32 rows or columns"):
        run(tiny, tmp_path, 1, adaptation=Lora(97))
    with pytest.raises(ValueError, match="alpha nan must be a finite number"):
        Lora(4, float("nan"))
    with pytest.raises(RedraftError, match="device 'nowhere' cannot be used here"):
        run(tiny, tmp_path, 1, device="nowhere")


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(tiny: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path, 1)
    state = torch.load(tmp_path / STATE_FILE, weights_only=False)
    state["optimizer"]["masters"]["norm.weight"][0] = float("nan")
    torch.save(state, tmp_path / STATE_FILE)
    before = (tmp_path / STATE_FILE).read_bytes()
    with pytest.raises(RedraftError, match=r"loss became nan at step 2.*state\.pt"):
        run(tiny, tmp_path, 2)
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_a_run_ends_by_steps_or_hours_whatever_comes_first() -> None:
    assert [RunConfig(steps=10).progress(step, 1e9) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert [RunConfig(hours=1).progress(1, seconds) for seconds in (0, 1800, 7200)] == [0.0, 0.5, 1.0]
    both = RunConfig(steps=10, hours=1)
    assert (both.progress(8, 1800), both.progress(2, 1800)) == (0.8, 0.5)
    with pytest.raises(ValueError, match="needs an end"):
        RunConfig()


def test_a_run_of_no_time_still_takes_a_step(tiny: Path, tmp_path: Path) -> None:
    made = recipe(tiny, run={"steps": None, "hours": 1e-9}).prepare(tmp_path, SOURCE, "letters")
    assert (made.run() / "model.safetensors").exists()
    assert [row["step"] for row in logged(tmp_path)] == [1]


def test_a_generated_record_that_cannot_be_laid_out_is_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    def sometimes(seed: int, index: int) -> Any:
        return {"prompt": "a", "response": "<eos>"} if index == 1 else generated(seed, index)

    recipe(tiny, 1).prepare(tmp_path / "some", GeneratedSource(sometimes, 0, "some"), "some").run()
    assert logged(tmp_path / "some")[-1]["skipped records"] == 1
    never = GeneratedSource(lambda seed, index: {"prompt": "a", "response": "<eos>"}, 0, "never")
    with pytest.raises(DataError, match="of never, seed 0: the answer '<eos>' spells"):
        recipe(tiny, 1).prepare(tmp_path / "none", never, "never").run()


@pytest.mark.parametrize("adaptation", [Full(), Lora(4, 8.0)])
def test_a_checkpoint_says_that_its_data_trained_slots(tiny: Path, tmp_path: Path, adaptation: Full | Lora) -> None:
    """Also where they are a few of many, and not where a mix leaves them out."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    slots = {"context": "the name", "questions": [{"ask": "yes", "schema": schema, "value": {"name": "a"}}]}

    def sometimes(seed: int, index: int) -> Any:
        return slots if index == 5 else generated(seed, index)

    for name, source, layout in (
        ("some", GeneratedSource(sometimes, 0, "some"), "slots"),
        ("none", GeneratedSource(generated, 0, "none"), None),
        ("file", FileSource([parse(generated(0, 0), "a"), parse(slots, "b")], 0), "slots"),
    ):
        made = recipe(tiny, 1, adaptation=adaptation).prepare(tmp_path / name, source, name)
        folder = made.run()
        if isinstance(adaptation, Lora):
            folder = merge(folder, tmp_path / name / "merged")
        assert redraft.load(folder, pack_folder=None).model.defaults.extract_layout == layout


def test_event_files_are_written_where_the_library_is(tiny: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe(tiny, 2).prepare(tmp_path, SOURCE, "letters", tensorboard=True).run()
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in logged(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", [Full(), Lora(16, 32.0)])
def test_training_teaches_what_serving_says(tiny: Path, tmp_path: Path, adaptation: Full | Lora) -> None:
    """Two prompts, two answers: learned, measured on the way by the sampler, exported, and generated by the engine."""
    from redraft.train.text.adapters import merge

    user = [[{"role": "user", "content": f"the {name}"}] for name in ("name", "value")]
    answers = ["yes and no", "the other"]
    records = [
        parse({"messages": [*prompt, {"role": "assistant", "content": answer}]}, answer)
        for prompt, answer in zip(user, answers, strict=True)
    ]
    made: Run = recipe(
        tiny,
        60 if isinstance(adaptation, Full) else 150,
        adaptation=adaptation,
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=5),
        run={"evaluate_every": 1000, "save_every": 1000},
    ).prepare(tmp_path, FileSource(records, 0), "two", records)
    folder = made.run()
    rows = logged(tmp_path)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    measured = rows[-1]
    assert (measured["exact slots"], measured["exact canvases"], measured["accuracy at 100% masked"]) == (1.0, 1.0, 1.0)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    if isinstance(adaptation, Lora):
        folder = merge(folder, tmp_path / "merged")
    engine = redraft.load(folder)
    assert [engine.generate(prompt, max_tokens=24, temperature=0, seed=1).text for prompt in user] == answers


def test_measurements_are_taken_of_the_average(tiny: Path, tmp_path: Path) -> None:
    """And leave the weights in training as they are."""
    seen: list[Tensor] = []
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup=1, ema_decay=0.9)
    made = recipe(tiny, 3, optimizer=optimizer, run={"evaluate_every": 3}).prepare(tmp_path, SOURCE, "letters")

    def look(model: TrainedModel) -> dict[str, float]:
        seen.append(model.parameters["norm.weight"].detach().clone())
        return {"exact slots": 0.5}

    made.evaluate = look
    made.run()
    average = made.optimizer.values["norm.weight"]
    assert torch.equal(seen[0], average)
    assert not torch.equal(made.model.parameters["norm.weight"], average)
