"""Every fault of the data is named with its file and line, before anything is trained."""

import json
from pathlib import Path

import pytest

from redraft.errors import DataError
from redraft.tasks.slots import Filled, Pinned
from redraft.train.text.records import Question, SchemaValue, parse, read

ASK = {"ask": "Which?"}
FAULTS = {
    '{"messages": [}': "not valid JSON",
    "[]": "a record is a JSON object, not list",
    '{"text": "a"}': "'messages', or 'prompt' and 'response', or 'context' and 'questions'",
    '{"messages": [{"role": "user", "content": "a"}]}': "two messages or more",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}': "must be the assistant's",
    '{"messages": [{"role": "bot", "content": "a"}, {"role": "assistant", "content": "b"}]}': "0 needs a 'role'",
    '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "b"}]}': "0 needs a 'content'",
    '{"prompt": "a"}': "'response' is missing",
    '{"prompt": "", "response": "a"}': "'prompt' is empty",
    '{"prompt": "a", "response": 2}': "'response' is int; it must be text",
    '{"prompt": "a", "response": "b", "lang": "en"}': "'lang' is not read here",
    '{"prompt": "a", "response": "b", "weight": 0}': "'weight' is 0",
    '{"prompt": "a", "response": "b", "task": 3}': "'task' is 3",
    '{"prompt": "a", "response": ""}': "'response' is empty: of such an answer only end tokens would be learned",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}': "last message is empty",
    '{"context": "a", "questions": []}': "one question or more",
    json.dumps({"context": "a", "questions": [ASK]}): "one of 'answer', 'canvas' and 'schema'",
    json.dumps({"context": "a", "questions": [{**ASK, "answer": "b", "canvas": []}]}): "has answer and canvas",
    json.dumps({"context": "a", "questions": [{**ASK, "canvas": [{"pinned": "x"}]}]}): "'canvas' has no slot",
    json.dumps({"context": "a", "questions": [{**ASK, "canvas": [{"slot": "x"}]}]}): "piece 0 of the canvas",
    json.dumps({"context": "a", "questions": [{**ASK, "canvas": [{"slot": "x", "width": 0}]}]}): "has width 0",
    json.dumps({"context": "a", "questions": [{**ASK, "canvas": [{"slot": "x", "width": 10**11}]}]}): "1 to 65,536",
    json.dumps({"context": "a", "questions": [{**ASK, "schema": {"type": "object"}}]}): "come together",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n\n' + line + "\n")
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert FAULTS[line] in str(error.value)


def test_files_that_hold_nothing_or_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"empty\.jsonl holds no records"):
        read(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "response": "b"}')
    with pytest.raises(DataError, match=r"latin\.jsonl is not UTF-8"):
        read(tmp_path / "latin.jsonl")


def test_each_kind_of_record_becomes_questions() -> None:
    (chat,) = parse(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "x"
    ).questions
    assert chat == Question(({"role": "user", "content": "a"},), "b")
    (raw,) = parse({"prompt": "a", "response": "b", "task": "go", "weight": 2}, "x").questions
    assert raw == Question("a", "b", "go", 2.0)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    pieces = [{"pinned": "n:"}, {"slot": " 1", "width": 3}]
    several = parse(
        {
            "context": "It is 1.",
            "questions": [{**ASK, "schema": schema, "value": {"n": 1}}, {**ASK, "canvas": pieces, "task": "fill"}],
        },
        "x",
    ).questions
    assert [question.prompt for question in several] == [({"role": "user", "content": "It is 1.\n\nWhich?"},)] * 2
    assert [question.answer for question in several] == [SchemaValue(schema, {"n": 1}), (Pinned("n:"), Filled(" 1", 3))]
