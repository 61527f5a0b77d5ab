"""Every row gets one answer, in its place, the one that the verb itself gives; what fails or breaks off loses none."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import redraft
from redraft.batching.run import BatchSummary, batch
from redraft.errors import RedraftError, RequestError
from redraft.loading import load
from redraft.tasks.objects import as_object
from tests.conftest import WriteCheckpoint
from tests.random_checkpoint import LETTERS_SIZE

SETTINGS: dict[str, Any] = {"max_tokens": 20, "max_denoising_steps": 2}
Write = Callable[[Sequence[object]], Path]


@pytest.fixture(scope="module")
def model(checkpoint_of: WriteCheckpoint) -> Path:
    generation = {"max_denoising_steps": 2, "sampler_config": {"entropy_bound": 3.0}}
    return checkpoint_of(letters=True, vocab_size=LETTERS_SIZE + 8, canvas_length=48, generation=generation)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows(given: Sequence[object]) -> Path:
        path = tmp_path / "data.jsonl"
        path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in given) + "\n\n")
        return path

    return rows


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(answer: Mapping[str, Any]) -> dict[str, Any]:
    usage = {name: value for name, value in answer["usage"].items() if isinstance(value, int)}
    return json.loads(json.dumps({**answer, "usage": {**usage, "cached_prompt_tokens": None}}))


VERBS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("generate", {"prompt": "the name"}, SETTINGS),
    ("fill", {"prefix": "a", "suffix": "b"}, SETTINGS),
    ("edit", {"text": "the name", "spans": [[0, 3]]}, {"max_denoising_steps": 2}),
    ("choose", {"prompt": "is it?", "options": ["yes", "no"]}, {}),
    ("extract", {"text": "it is 7"}, {"schema": {"type": "object", "properties": {"n": {"type": "boolean"}}}}),
    ("score", {"prompt": "the ", "text": "name"}, {}),
]


@pytest.mark.parametrize(("verb", "row", "parameters"), VERBS, ids=[verb for verb, *_ in VERBS])
def test_a_row_gets_what_the_verb_gives(
    model: Path, write: Write, tmp_path: Path, verb: Any, row: dict[str, Any], parameters: dict[str, Any]
) -> None:
    """The second row has the seed after the first one's; columns that are no arguments are carried along."""
    data, out = write([{**row, "id": 7}, {**row, "id": 8}]), tmp_path / "out.jsonl"
    seeded = {} if verb == "score" else {"seed": 5}
    done = batch(data, out, verb, model=model, parameters={**parameters, **seeded})
    assert done == BatchSummary(out, 2, 0, 0)
    with load(str(model)) as engine:
        for number, found in enumerate(read(out)):
            given = {**row, **parameters} | ({} if verb == "score" else {"seed": 5 + number})
            expected = as_object(getattr(engine, verb)(**given))
            assert timeless(found.pop("answer")) == timeless(expected)
            assert found == {**row, "id": 7 + number, "answer_error": None}


def test_a_row_that_fails_is_kept_with_its_reason(model: Path, write: Write, tmp_path: Path) -> None:
    rows: list[object] = [
        {"question": "a"}, "{broken", "[1]", {"question": None}, {"question": "b", "max_tokens": -1}, {"question": "c"},
    ]  # fmt: skip
    data, out = write(rows), tmp_path / "out.jsonl"
    told: list[tuple[int, int]] = []
    done = batch(
        data, out, model=model, parameters=SETTINGS, columns={"prompt": "question"}, into="said", chunk=4,
        on_progress=lambda *given: told.append(given),
    )  # fmt: skip
    assert (done.rows, done.failed, told) == (6, 4, [(4, 6), (6, 6)])
    found = read(out)
    assert [row.get("question") for row in found] == ["a", None, None, None, "b", "c"]
    assert [row["said"] is None for row in found] == [False, True, True, True, True, False]
    reasons = [row["said_error"]["message"] for row in found if row["said_error"]]
    for number, words, reason in zip(
        (2, 3, 4, 5), ("not valid JSON", "not list", "'prompt' is missing", "max_tokens -1"), reasons, strict=True
    ):
        assert reason.startswith(f"{data}:{number}: ")
        assert words in reason
    assert not (tmp_path / "out.jsonl.parts").exists()


class Killed(BaseException):
    """A kill: no exception that anybody catches."""


def test_what_is_broken_off_is_gone_on_with_to_the_same_rows(model: Path, write: Write, tmp_path: Path) -> None:
    data = write([{"prompt": f"row {number}"} for number in range(5)])

    def run(out: str, broken_at: int | None = None, **more: Any) -> BatchSummary:
        def progress(done: int, _: int) -> None:
            if broken_at is not None and done >= broken_at:
                raise Killed

        given = {"parameters": SETTINGS, "chunk": 2, **more}
        return batch(data, tmp_path / out, model=model, on_progress=progress, **given)

    with pytest.raises(Killed):
        run("out.jsonl", broken_at=4)
    parts = tmp_path / "out.jsonl.parts"
    kept = (parts / "000000.jsonl").stat().st_mtime_ns
    with pytest.raises(RequestError, match=r"holds answers to other work \(job was another\)"):
        run("out.jsonl", parameters={**SETTINGS, "seed": 1})
    with pytest.raises(RequestError, match="chunk was another"):
        run("out.jsonl", chunk=3)
    assert (parts / "000000.jsonl").stat().st_mtime_ns == kept
    # Half a chunk, as a kill in the middle of writing may leave it, has another name.
    (parts / ".half.jsonl").write_text('{"prompt": ')
    assert run("out.jsonl") == BatchSummary(tmp_path / "out.jsonl", 5, 0, 4)
    whole = run("whole.jsonl")
    assert whole.answered_before == 0
    for one, other in zip(read(tmp_path / "out.jsonl"), read(whole.out), strict=True):
        assert timeless(one["answer"]) == timeless(other["answer"])
        assert one["prompt"] == other["prompt"]


def test_other_weights_do_not_go_on_with_it(
    model: Path, checkpoint_of: WriteCheckpoint, write: Write, tmp_path: Path
) -> None:
    data, named = write([{"prompt": "a"}, {"prompt": "b"}]), tmp_path / "model"
    named.symlink_to(model)

    def stop(*_: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        batch(data, tmp_path / "out.jsonl", model=named, parameters=SETTINGS, chunk=1, on_progress=stop)
    named.unlink()
    named.symlink_to(checkpoint_of(letters=True, vocab_size=LETTERS_SIZE + 8, canvas_length=48, seed=9))
    with pytest.raises(RedraftError, match=r"has weights .* on one replica, and .* when this was begun"):
        batch(data, tmp_path / "out.jsonl", model=named, parameters=SETTINGS, chunk=1)


def test_a_text_is_a_chat_message_where_that_is_asked(model: Path, write: Write, tmp_path: Path) -> None:
    data = write([{"prompt": "hi"}])
    batch(data, tmp_path / "chat.jsonl", model=model, parameters={**SETTINGS, "seed": 3}, chat=True)
    with load(str(model)) as engine:
        expected = engine.generate([{"role": "user", "content": "hi"}], seed=3, **SETTINGS)
    assert read(tmp_path / "chat.jsonl")[0]["answer"]["token_ids"] == list(expected.token_ids)


def test_parquet_in_and_out(model: Path, tmp_path: Path) -> None:
    """Row groups of three, chunks of two: the rows are those of the table, in its order."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    prompts = [f"row {number}" for number in range(7)]
    table = arrow.table({"prompt": prompts, "id": list(range(7)), "tags": [["a", "b"]] * 7})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=3)
    for out in ("out.parquet", "out.jsonl"):
        done = batch(tmp_path / "data.parquet", tmp_path / out, model=model, parameters=SETTINGS, chunk=2)
        assert (done.rows, done.failed) == (7, 0)
    written = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    lines = read(tmp_path / "out.jsonl")
    for row, line, prompt in zip(written, lines, prompts, strict=True):
        assert row["prompt"] == line["prompt"] == prompt
        assert row["tags"] == ["a", "b"]
        assert timeless(json.loads(row["answer"])) == timeless(line["answer"])
        assert row["answer_error"] is None


def test_what_cannot_be_is_named_before_a_model_is_loaded(write: Write, tmp_path: Path) -> None:
    data = write([{"prompt": "a", "answer": "b"}])
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"verb": "say"}, "verb 'say' is not known; choose one of generate, fill"),
        ({"parameters": {"tokens": 3}}, "'tokens' is no argument of generate; known are prompt, "),
        ({"columns": {"schema": "s"}}, "'schema' is no argument of generate"),
        ({"parameters": {"seed": -1}}, "seed -1 must be a whole number"),
        ({"into": "prompt"}, "data.jsonl:1: there is a column 'prompt' already"),
        ({}, "there is a column 'answer' already; name another for the answers"),
        (
            {"columns": {"prompt": "question"}, "into": "x"},
            "generate needs 'prompt', and there is no column 'question'",
        ),
        ({"chunk": 0}, "chunk 0 must be a whole number above 0"),
        ({"replicas": True}, "replicas True must be a whole number above 0"),
        ({"out": there}, "is there already; remove it, or name another file"),
        ({"out": tmp_path / "out.csv"}, r"must be named .jsonl or .parquet"),
        ({"out": tmp_path / "none" / "out.jsonl"}, "there is no folder"),
        ({"data": tmp_path / "none.jsonl"}, "cannot be read: No such file"),
    ]
    for given, words in mistakes:
        with pytest.raises(RequestError, match=words):
            batch(**{"data": data, "out": tmp_path / "out.jsonl", "model": "no such model", **given})
    write([])
    with pytest.raises(RequestError, match="has no rows"):
        batch(data, tmp_path / "out.jsonl", model="no such model")
    assert there.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl", "there.jsonl"}


def test_it_is_a_public_name() -> None:
    assert redraft.batch is batch
    assert "batch" in dir(redraft)
