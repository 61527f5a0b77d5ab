"""``redraft train DATA.jsonl`` as a user runs it: mistakes before work, a kill in the middle, adapters merged."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from redraft.loading import load
from tests.cli.conftest import Run, assert_one_line
from tests.models.llama_diffusion.conftest import write
from tests.random_checkpoint import LETTERS_SIZE
from tests.random_llama import random_llama
from tests.serve.conftest import NAME, serving

RECORDS = [
    {"messages": [{"role": "user", "content": "the name"}, {"role": "assistant", "content": "yes"}], "task": "chat"},
    {"context": "a", "questions": [{"task": "fill", "ask": "no", "canvas": [{"slot": "the", "width": 4}]}]},
]
# The process ends itself when it is about to save for the second time: a step is lost, and nothing is tidied up.
KILLED = """
import os, signal, sys
from redraft.cli.main import main
from redraft.train.text.run import Run

save = Run._save

def save_or_die(run):
    if run._step == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    save(run)

Run._save = save_or_die
sys.argv = {arguments!r}
main()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("base"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@pytest.mark.slow
def test_from_a_llama_over_a_kill_to_a_server_with_the_answers_that_were_taught(
    commands: Path, redraft: Run, redraft_here: Run, tmp_path: Path
) -> None:
    """Adapted, trained, killed, continued to the same weights as if never killed, evaluated and served."""
    asked, answers = ["the name", "the value"], ["yes and no", "the other"]
    items = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": answer}]}
        for one, answer in zip(asked, answers, strict=True)
    ]
    data, adapted, whole, killed = (tmp_path / name for name in ("data.jsonl", "adapted", "whole", "killed"))
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    base = random_llama(tmp_path / "base", vocab_size=LETTERS_SIZE + 24)
    done = redraft_here("adapt", base, "--out", adapted, "--canvas-length", 24, "--mask-token", "<unused9>")
    assert done.returncode == 0, done.stderr

    given = ["train", data, "--model", adapted, "--steps", 90, "--learning-rate", 4e-3, "--batch-tokens", 256]
    train = [str(part) for part in [*given, "--save-every", 30, "--threads", 1]]
    done = redraft_here(*train, "--out", whole)
    assert done.returncode == 0, done.stderr
    code = KILLED.format(arguments=["redraft", *train, "--out", str(killed)])
    subprocess.run([commands / "python", "-c", code], capture_output=True, timeout=600)
    assert (killed / "state.pt").exists()
    assert not (killed / "checkpoint").exists()
    done = redraft(*train, "--out", killed)
    assert done.returncode == 0, done.stderr
    one, other = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (whole, killed))
    assert all((one[name] == other[name]).all() for name in one)
    assert (killed / "curves.png").exists()

    judged = tmp_path / "items.jsonl"
    lines = [
        {"verb": "generate", "messages": [{"role": "user", "content": one}], "answer": answer}
        for one, answer in zip(asked, answers, strict=True)
    ]
    judged.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = json.dumps({"max_tokens": 24, "temperature": 0})
    model, figures = killed / "checkpoint", tmp_path / "figures.json"
    done = redraft_here("evaluate", judged, "--model", model, "--parameters", settings, "--json", figures)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())["results"]
    assert [answer["right"] for item in found for answer in item["answers"].values()] == [True, True]

    # Here, since it takes seconds.
    import openai

    with load(model) as engine, serving(engine) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
        said = [
            client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": one}], temperature=0, seed=1, max_tokens=24
            )
            for one in asked
        ]
    assert [one.choices[0].message.content for one in said] == answers


@pytest.mark.slow
def test_an_adapter_is_merged_on_the_spot_or_later(redraft_here: Run, base: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = ["--model", base, "--out", run, "--steps", 2, "--batch-tokens", 128, "--lora", 4, "--merge"]
    done = redraft_here("train", data, *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"checkpoint: {run / 'checkpoint'}"
    assert redraft_here("train", "merge", run / "adapter", "--out", tmp_path / "later").returncode == 0
    first, later, before = (
        load_file(folder / "model.safetensors") for folder in (run / "checkpoint", tmp_path / "later", base)
    )
    assert all((first[name] == later[name]).all() for name in first)
    assert any((first[name] != before[name]).any() for name in first)
    said = redraft_here("generate", "--model", run / "checkpoint", "--max-tokens", 8, "--seed", 1, "the name")
    assert said.returncode == 0, said.stderr


def test_a_dry_run_shows_what_is_learned_and_writes_nothing(
    redraft_here: Run, base: Path, data: Path, tmp_path: Path
) -> None:
    done = redraft_here(
        *("train", data, "--model", base, "--out", tmp_path / "run", "--steps", 3, "--batch-tokens", 128, "--dry-run")
    )
    assert done.returncode == 0, done.stderr
    assert "learns: [" in done.stdout
    assert "--- fill" in done.stdout
    assert "the run: 3 steps" in done.stdout
    assert "first loss: " in done.stdout
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_line_and_come_before_training(
    redraft_here: Run, base: Path, data: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(data.read_text() + json.dumps({"prompt": "a", "response": "<eos>"}) + "\n")
    several = tmp_path / "several.jsonl"
    questions = [{"ask": "no", "answer": "yes"}, {"ask": "no", "answer": "<eos>"}]
    several.write_text(json.dumps({"context": "a", "questions": questions}))
    steps: list[object] = ["--steps", 2]
    mistakes: list[tuple[Path, list[object], str]] = [
        (bad, steps, f"{bad}:3: the answer '<eos>' spells the special token"),
        (data, [], "say when the run ends"),
        (data, [*steps, "--evaluate", bad], f"{bad}:3: "),
        (data, [*steps, "--evaluate", tmp_path / "none.jsonl"], "none.jsonl cannot be read"),
        (data, [*steps, "--mix", "chat"], "--mix 'chat' must be a task and its weight"),
        (data, [*steps, "--mix", "chat=0"], "a weight is finite and above 0"),
        (data, [*steps, "--mix", "tell=1"], "no question is of task 'tell'; the data has chat, fill"),
        (data, [*steps, "--lora", 4, "--last-layers", 1], "exclude each other"),
        (data, [*steps, "--lora-alpha", 3], "give --lora RANK too"),
        (data, [*steps, "--from-adapter", "nowhere"], "nowhere has no adapter_config.json"),
        (data, [*steps, "--from-adapter", "nowhere", "--lora", 4], "brings its own rank and alpha"),
        (data, [*steps, "--from-adapter", "nowhere", "--last-layers", 1], "--from-adapter, --last-layers and"),
        (data, [*steps, "--lora", 4, "--lora-alpha", "nan"], "alpha nan must be a finite number"),
        (data, [*steps, "--mix", "words=inf"], "a weight is finite and above 0"),
        (data, [*steps, "--merge"], "--merge is for adapters"),
        (data, [*steps, "--batch-tokens", 16], f"{data}:1: a question takes"),
        (data, [*steps, "--canvas-length", 99], "canvas length 99 must be from 1 to the model's 24"),
        (data, [*steps, "--ema", 2], "redraft: --ema 2.0 must be between 0 and 1"),
        (data, ["--limit-hours", "nan"], "redraft: --limit-hours nan must be a finite number above 0"),
        (data, [*steps, "--learning-rate", 0], "redraft: --learning-rate 0.0 must be a finite number above 0"),
        (several, steps, f"{several}:1: question 1: the answer '<eos>' spells the special token"),
        (data, [*steps, "--out", bad], "is a file; give another folder"),
    ]
    for path, more, words in mistakes:
        done = redraft_here("train", path, "--model", base, "--out", tmp_path / "run", *more)
        assert_one_line(done, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["DATA.jsonl", "no-such-file.jsonl"])
def test_help_of_records_needs_no_file(redraft_here: Run, file: str) -> None:
    done = redraft_here("train", file, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example: redraft train data" in done.stdout


def test_records_may_come_through_a_pipe(redraft_here: Run, base: Path, data: Path, tmp_path: Path) -> None:
    given = ["train", "-", "--model", base, "--out", tmp_path / "run", "--steps", 1, "--batch-tokens", 128, "--dry-run"]
    done = redraft_here(*given, stdin=data.read_bytes())
    assert done.returncode == 0, done.stderr
    assert "--- chat" in done.stdout
