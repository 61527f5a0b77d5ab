"""``redraft generate --batch``: every line has its answer, whatever becomes of others, and a break loses none."""

import json
from pathlib import Path

import pytest

from redraft.loading import load
from tests.cli.conftest import Run, assert_one_line

PROMPTS = ["w20 w21", "w22", "w23 w24 w25"]


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Three prompts, each with a seed of its own; the last as chat messages."""
    lines = [{"prompt": PROMPTS[0], "seed": 1}, {"id": "b", "prompt": PROMPTS[1], "seed": 2}]
    lines.append({"id": "c", "messages": [{"role": "user", "content": PROMPTS[2]}], "seed": 3, "max_tokens": 3})
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_line_has_the_answer_that_it_has_alone(redraft_here: Run, model: Path, batch: Path) -> None:
    done = redraft_here("generate", "--batch", batch, "-m", model, "--max-tokens", 6)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row["id"] for row in found] == ["1", "b", "c"]
    engine = load(model)
    for row, prompt, seed, count in zip(found, PROMPTS, (1, 2, 3), (6, 6, 3), strict=True):
        alone = engine.generate([{"role": "user", "content": prompt}], seed=seed, max_tokens=count)
        assert (tuple(row["token_ids"]), row["text"], row["seed"]) == (alone.token_ids, alone.text, seed)
    assert "3 answers, 15 tokens in" in done.stderr


def test_a_broken_off_file_is_gone_on_with(redraft_here: Run, model: Path, batch: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    command = ["generate", "--batch", batch, "-m", model, "--max-tokens", 6, "--out"]
    assert redraft_here(*command, whole).returncode == 0
    lines = whole.read_text().splitlines(keepends=True)
    # As a kill leaves it: one answer, and half of the next.
    out.write_text(lines[0] + lines[1][:40])
    done = redraft_here(*command, out)
    assert done.returncode == 0, done.stderr
    assert "1 answer in" in done.stderr
    assert [row["token_ids"] for row in rows(out.read_text())] == [row["token_ids"] for row in rows("".join(lines))]
    again = redraft_here(*command, out)
    assert "3 answers in" in again.stderr
    assert "0 to go" in again.stderr
    assert len(rows(out.read_text())) == 3


def test_a_deadline_counts_from_when_a_line_is_asked(redraft_here: Run, model: Path, tmp_path: Path) -> None:
    """More lines than run at a time: those that wait for others lose no time."""
    text = "".join(json.dumps({"prompt": f"w{20 + number}", "seed": 1}) + "\n" for number in range(20))
    command = ("generate", "--batch", "-", "-m", model, "--max-tokens", 3)
    done = redraft_here(*command, "--deadline-ms", 600_000, stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert len(rows(done.stdout)) == 20
    late = redraft_here(*command, "--deadline-ms", 0.001, stdin=text.encode())
    assert {row["error"]["type"] for row in rows(late.stdout)} == {"DeadlineError"}


def test_a_line_that_fails_has_its_error_and_the_others_their_answers(
    redraft_here: Run, model: Path, tmp_path: Path
) -> None:
    text = json.dumps({"prompt": "w20 " * 600}) + "\n\n" + json.dumps({"prompt": "w21"}) + "\n"
    done = redraft_here("generate", "--batch", "-", "-m", model, "--max-tokens", 4, "--seed", 5, stdin=text.encode())
    assert done.returncode == 1
    first, second = rows(done.stdout)
    assert first["error"]["type"] == "RequestError"
    assert "the context holds" in first["error"]["message"]
    assert (second["id"], second["seed"]) == ("3", 6), "by the number of the line; seeds count up from the one given"
    assert "1 line of - could not be answered" in done.stderr


@pytest.mark.parametrize(
    ("written", "more", "words"),
    [
        ("{", [], ":1: not valid JSON"),
        ('{"prompt": "a"}\n{"prompt": 3}', [], ":2: 'prompt' must be some text"),
        ('{"prompt": "a", "messages": []}', [], "one of 'prompt' and 'messages'"),
        ('{"prompt": "a", "temprature": 1}', [], "'temprature' is not read here"),
        ('{"prompt": "a", "seed": -1}', [], "seed -1 must be a whole number"),
        ('{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}', [], "id 'x' was there before"),
        ("\n", [], "holds no prompts"),
        ('{"prompt": "a"}', ["--watch"], "--batch takes its prompts from its file"),
        ('{"prompt": "a"}', ["--out", "/no/such/folder/out.jsonl"], "does not exist"),
    ],
)
def test_a_mistake_is_named_with_its_line_before_a_model_is_looked_for(
    redraft_here: Run, tmp_path: Path, written: str, more: list[str], words: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text(written)
    done = redraft_here("generate", "--batch", tmp_path / "prompts.jsonl", "-m", "no-such-model", *more)
    assert_one_line(done, words)


def test_answers_to_other_prompts_are_not_gone_on_with(redraft_here: Run, batch: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps({"id": "b", "prompt_sha256": "0" * 16}) + "\n")
    failed = redraft_here("generate", "--batch", batch, "-m", "no-such-model", "--out", out)
    assert_one_line(failed, "out.jsonl:1 answers another prompt than line 'b'")
    out.write_text("a letter\n")
    failed = redraft_here("generate", "--batch", batch, "-m", "no-such-model", "--out", out)
    assert_one_line(failed, "out.jsonl:1 is no answer of --batch")
    assert out.read_text() == "a letter\n"
