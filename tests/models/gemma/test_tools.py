"""Tool calls in Gemma's syntax: what is allowed is valid, and is read back as it was meant."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from redraft import ConstraintError, JSONSchema, RequestError
from redraft.api import Engine
from redraft.constrain.automaton.bytes import ByteAutomaton, build
from redraft.constrain.constraint import Constraint
from redraft.constrain.expression import Marker
from redraft.loading import load
from redraft.models.gemma.tools import MARKERS, GemmaTools
from redraft.models.tools import Tool
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

OPENING, CLOSING, QUOTE = (bytes([Marker(number).byte]) for number in range(3))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "word": {"type": "string"},
        "kind": {"enum": ["a", {"x": [1, "y"]}]},
        "Nested": {"type": "object", "properties": {"deep": {"type": "array", "items": {"type": "string"}}}},
        "count": {"type": "integer", "minimum": 0},
    },
    "required": ["word"],
}


def automaton(
    schema: Any = SCHEMA, *, min_calls: int = 1, max_calls: int | None = 1, content: Any = None
) -> ByteAutomaton:
    tools = [Tool("f", json.dumps(schema))]
    wanted: Constraint = GemmaTools().constraint(tools, min_calls=min_calls, max_calls=max_calls, content=content)
    return build(wanted.expression)


def call(arguments: str) -> bytes:
    """``arguments`` with ~ for the mark around a string."""
    return OPENING + b"call:f" + arguments.encode().replace(b"~", QUOTE) + CLOSING


@pytest.mark.parametrize(
    ("arguments", "valid"),
    [
        ("{word:~x~}", True),
        ('{word:~any "text",{}:\n<~}', True),
        ("{count:3,word:~~}", True),
        ("{kind:~a~,word:~x~}", True),
        ("{kind:{x:[1,~y~]},word:~x~}", True),
        ("{Nested:{deep:[~a~,~b~]},word:~x~}", True),
        ("{Nested:{},kind:~a~,word:~x~}", False),  # the order is that of the names, whatever their case
        ("{kind:~a~,Nested:{deep:[~a~]},word:~x~}", True),
        ("{word:~x~,count:3}", False),
        ("{count:3}", False),
        ("{count:-3,word:~x~}", False),
        ('{word:"x"}', False),
        ("{word:~x~,other:1}", False),
        ("{~word~:~x~}", False),
    ],
)
def test_arguments_hold_to_their_schema(arguments: str, valid: bool) -> None:
    assert automaton().matches(call(arguments)) is valid


def test_how_many_calls_and_what_beside_them() -> None:
    one = call("{word:~x~}")
    assert not automaton(max_calls=None).matches(b"")
    assert automaton(max_calls=None).matches(one * 3)
    assert not automaton(max_calls=1).matches(one * 2)
    free = automaton(min_calls=0, max_calls=None)
    assert all(free.matches(text) for text in (b"", b"text", b"text" + one, one * 2))
    assert not free.matches(one + b"text")
    never = automaton(min_calls=0, max_calls=0)
    assert never.matches(b"text")
    assert not never.matches(one)
    with_content = automaton(min_calls=0, max_calls=None, content=JSONSchema({"type": "boolean"}))
    assert with_content.matches(b"true")
    assert with_content.matches(one)
    assert not with_content.matches(b"text")


def test_free_arguments_have_bare_keys() -> None:
    free = automaton({"type": "object"})
    assert free.matches(call("{a:1,b:[~x~,{c:null}]}"))
    assert not free.matches(call("{a b:1}"))
    partly = automaton({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}})
    assert partly.matches(call("{a:~x~,ab:1}"))
    assert not partly.matches(call("{a:~x~,a:1}"))


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConstraintError, match="tool f: the argument 'a b' cannot be written"):
        automaton({"type": "object", "properties": {"a b": {}}})
    with pytest.raises(ConstraintError, match="must be an object's"):
        automaton({"type": "string"})
    with pytest.raises(RequestError, match="tool name"):
        Tool("no spaces", "{}")


def reader_of(ids: dict[str, int]) -> Any:
    texts = {number: text for text, number in ids.items()}
    markers = [ids[marker] for marker in MARKERS]
    return GemmaTools().reader(markers, lambda tokens: "".join(texts[token] for token in tokens))


def test_calls_are_read_back_though_they_come_in_pieces() -> None:
    pieces = ["say ", *MARKERS, "call:f", "{a:", 'q"\n{b:,', ",b:[1,", "{c:", "true}]}", "<tool_call|> in words"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    opening, closing, quote = MARKERS
    answer = [
        "say ", opening, "call:f", "{a:", quote, 'q"\n{b:,', quote, ",b:[1,", quote, "<tool_call|> in words", quote,
        ",b:[1,", "{c:", "true}]}", "true}]}", closing,
    ]  # fmt: skip
    tokens = [ids[piece] for piece in answer]
    expected = '{"a":"q\\"\\n{b:,","b":[1,"<tool_call|> in words","b":[1,{"c":true}]}true}]}'
    for cut, end in combinations(range(len(tokens) + 2), 2):
        reader = reader_of(ids)
        said, parts = [], []
        for canvas in (tokens[:cut], tokens[cut:end], tokens[end:]):
            more_said, more_parts = reader.add(canvas)
            said += more_said
            parts += more_parts
        assert said == [ids["say "]]
        assert [part.name for part in parts] == ["f"] + [None] * (len(parts) - 1)
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert "".join(part.arguments for part in parts) == expected


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (["call:"], None),
        (["call:f"], None),
        (["call:f{"], ""),  # a key will follow
        (["call:f{a"], ""),
        (["call:f{a:"], '{"a":'),
        (["call:f{a:", 1], '{"a":1'),
        (["call:f{a:", 1, 2, ","], '{"a":12'),  # a key may follow, or a value
        (["call:f{a:", "[", 1, ",", "2"], '{"a":[1'),
        (["call:f{a:", "[", 1, ",", "2", "]"], '{"a":[1,2]'),
        (["call:f{a:", MARKERS[2]], '{"a":"'),
        (["call:f{a:", MARKERS[2], 'x"\n', "{"], '{"a":"x\\"\\n{'),
        (["call:f{a:", MARKERS[2], "x", MARKERS[2]], '{"a":"x"'),
        (["call:f{a:", MARKERS[2], "x", "\ufffd"], '{"a":"x'),  # the bytes of a character are not all there
    ],
)
def test_no_more_is_told_of_a_call_than_is_certain(seen: list[Any], told: str | None) -> None:
    pieces = list(dict.fromkeys([*MARKERS, *map(str, seen)]))
    ids = {piece: number for number, piece in enumerate(pieces)}
    said, parts = reader_of(ids).add([ids[MARKERS[0]], *(ids[str(piece)] for piece in seen)])
    assert said == []
    assert [(part.name, part.arguments, part.last) for part in parts] == ([] if told is None else [("f", told, False)])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = tmp_path_factory.mktemp("tools")
    settings = {"max_denoising_steps": 3, "t_max": 0.4, "t_min": 0.2}
    return load(random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE, canvas_length=24, generation=settings))


@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_knows_nothing_makes_valid_calls_over_several_canvases(engine: Engine, seed: int) -> None:
    wanted = GemmaTools().constraint([Tool("f", json.dumps(SCHEMA))], min_calls=1, max_calls=2, content=None)
    result = engine.generate("hello", constraint=wanted, seed=seed, max_tokens=70)
    tokenizer = engine.tokenizer
    said, calls = (
        GemmaTools().reader(engine.runtime.tool_markers, tokenizer.decode, tokenizer.settled).add(result.token_ids)
    )
    assert said == []
    assert 1 <= len(calls) <= 2
    for one in calls:
        assert (one.name, one.last) == ("f", True)
        jsonschema.validate(json.loads(one.arguments), SCHEMA)
    canvas_by_canvas = GemmaTools().reader(engine.runtime.tool_markers, tokenizer.decode, tokenizer.settled)
    arguments = ["" for _ in calls]
    for start in range(0, len(result.token_ids), 24):
        for part in canvas_by_canvas.add(result.token_ids[start : start + 24])[1]:
            arguments[part.call] += part.arguments
    assert arguments == [one.arguments for one in calls]


def test_a_checkpoint_without_the_markers_has_none(tmp_path: Path) -> None:
    assert load(random_checkpoint(tmp_path)).runtime.tool_markers == []
