"""A file of items is read as it stands; what is bad about one is said with its file and line, without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from redraft.errors import RequestError
from redraft.measure.evaluate.items import (
    Choose,
    Exact,
    Extract,
    Fill,
    Generate,
    Item,
    Matching,
    Passing,
    ValidJson,
    read_items,
)
from redraft.measure.evaluate.parameters import arguments
from redraft.measure.evaluate.schemas import enumerated

USER = [{"role": "user", "content": "Hello"}]
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
EXTRACT = {"verb": "extract", "text": "I am Anna.", "schema": PERSON, "value": {"name": "Anna"}}
CHOOSE = {"verb": "choose", "prompt": "Is it?", "options": ["yes", "no"], "answer": "no"}
TWO = {**CHOOSE, "options": {"a": ["1", "2"], "b": ["3", "4"]}, "answer": {"b": "4"}, "frame": "{a} {b}"}
FILL = {"verb": "fill", "prefix": "a", "suffix": "c", "answer": "b"}
GENERATE = {"verb": "generate", "messages": USER, "answer": "Hi"}


def without(item: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in keys}


def judged_by(**expected: Any) -> dict[str, Any]:
    return {**without(GENERATE, "answer"), **expected}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def write_and_read(*items: object, allow_commands: bool = False) -> list[Item]:
        path = tmp_path / "items.jsonl"
        path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in items))
        return read_items(path, allow_commands=allow_commands)

    return write_and_read


class TestRead:
    def test_each_verb(self, read):
        items = read(EXTRACT, CHOOSE, TWO, FILL, {**FILL, "messages": USER}, GENERATE)
        assert [item.asked for item in items] == [
            Extract("I am Anna.", PERSON, {"name": "Anna"}),
            Choose("Is it?", ["yes", "no"], "no"),
            Choose("Is it?", {"a": ["1", "2"], "b": ["3", "4"]}, {"b": "4"}, "{a} {b}"),
            Fill("a", "c", "b"),
            Fill("a", "c", "b", USER),
            Generate(USER, Exact("Hi")),
        ]
        assert [item.verb for item in items] == ["extract", "choose", "choose", "fill", "fill", "generate"]
        assert [item.truth for item in items] == [{"name": "Anna"}, "no", {"b": "4"}, "b", "b", "Hi"]

    def test_each_way_to_judge_a_text(self, read):
        ways = [judged_by(regex="a+"), judged_by(schema=PERSON), judged_by(command="grep -q 'a b'")]
        ways.append(judged_by(command=["python", "-"]))
        assert [item.asked.expected for item in read(*ways, allow_commands=True)] == [
            Matching("a+"), ValidJson(PERSON), Passing(("grep", "-q", "a b")), Passing(("python", "-"))
        ]  # fmt: skip

    def test_id_weight_groups_and_parameters(self, read):
        own = {"id": "x", "weight": 2, "domain": "letters", "split": 3, "groups": {"hard": True}}
        first, second = read({**FILL, **own, "parameters": {"max_tokens": 4}}, "", FILL)
        assert (first.id, first.weight, first.parameters) == ("x", 2.0, {"max_tokens": 4})
        assert first.groups == {"domain": "letters", "split": "3", "hard": "true"}
        assert (second.id, second.weight, second.groups) == ("3", 1.0, {}), "an item is known by its line"
        assert second.place.endswith("items.jsonl:3")


BAD = [
    pytest.param("{", "the line is not JSON", id="not JSON"),
    pytest.param("[" * 100_000, "the line is not JSON", id="too deep"),
    pytest.param('{"verb": "extract", "value": 1e999}', "a number is infinite", id="too large"),
    pytest.param('{"verb": "extract", "value": NaN}', "a number is infinite", id="no number"),
    pytest.param([1], "an item must be an object", id="a list"),
    pytest.param({"text": "a"}, "verb null must be one of extract, choose, fill, generate", id="no verb"),
    pytest.param({**CHOOSE, "verb": "score"}, 'verb "score" must be one of', id="unknown verb"),
    pytest.param({**CHOOSE, "frme": "{a}"}, "key 'frme' is unknown in an item of choose", id="misspelt"),
    pytest.param(without(EXTRACT, "value"), "value is missing; an item of extract needs it", id="missing"),
    pytest.param({**EXTRACT, "text": 3}, "text 3 must be a text", id="no text"),
    pytest.param({**EXTRACT, "text": " "}, "the text is empty", id="empty text"),
    pytest.param({**EXTRACT, "schema": 3}, "schema 3 must be a JSON schema", id="no schema"),
    pytest.param({**EXTRACT, "schema": "{"}, "the schema is not JSON", id="broken schema"),
    pytest.param({**EXTRACT, "schema": {"type": "text"}}, "the schema is not a JSON schema", id="false schema"),
    pytest.param({**EXTRACT, "schema": {"$ref": "http://a/b"}}, "http://a/b", id="schema elsewhere"),
    pytest.param({**EXTRACT, "value": {"name": 3}}, "/name: 3 is not of type 'string'", id="a truth that is not valid"),
    pytest.param({**EXTRACT, "schema": {"not": {}, "type": "string"}}, "schema", id="a schema without a text"),
    pytest.param(without(CHOOSE, "prompt"), "give one of prompt (raw text) and messages (chat), not neither", id="no"),
    pytest.param({**CHOOSE, "messages": USER}, "not prompt and messages", id="both"),
    pytest.param({**CHOOSE, "prompt": ""}, "the prompt is empty", id="empty prompt"),
    pytest.param({**CHOOSE, "prompt": USER}, "must be a text", id="messages as a prompt"),
    pytest.param({**GENERATE, "messages": ["Hello"]}, 'must be a list such as [{"role"', id="no messages"),
    pytest.param({**CHOOSE, "options": ["yes"]}, "must be two texts or more", id="one option"),
    pytest.param({**CHOOSE, "options": ["no", "no"]}, "has one of them twice", id="an option twice"),
    pytest.param({**CHOOSE, "answer": "maybe"}, '"maybe" is none of the options ["yes", "no"]', id="no option"),
    pytest.param({**TWO, "answer": "1"}, "there are 2 questions; give the answer of each", id="one for two"),
    pytest.param({**TWO, "answer": {"c": "1"}}, "is about 'c', which is none of the questions", id="no question"),
    pytest.param({**TWO, "answer": {}}, "the answer is empty", id="no answers"),
    pytest.param({**TWO, "frame": 3}, "frame 3 must be a text", id="no frame"),
    pytest.param(judged_by(), "there is nothing to judge the text by", id="no judge"),
    pytest.param({**GENERATE, "regex": "a"}, "answer and regex to judge", id="two judges"),
    pytest.param(judged_by(regex="(a"), "the regex '(a' is not one of Python's", id="broken regex"),
    pytest.param(judged_by(command="true"), "give --allow-commands", id="a command"),
    pytest.param({**FILL, "id": [1]}, "id [1] must be a text", id="no id"),
    pytest.param({**FILL, "weight": 0}, "weight 0 must be a finite number above 0", id="no weight"),
    pytest.param({**FILL, "domain": ["a"]}, "group 'domain' is [\"a\"]", id="no group"),
    pytest.param({**FILL, "groups": "a"}, 'groups "a" must be an object', id="no groups"),
    pytest.param({**FILL, "parameters": {"max_token": 1}}, "'max_token' cannot be given to fill; known", id="unknown"),
    pytest.param({**FILL, "parameters": {"verifier": 1}}, "'verifier' cannot be given", id="no JSON"),
    pytest.param({**FILL, "parameters": {"max_tokens": 0}}, "max_tokens 0 is out of range", id="out of range"),
    pytest.param({**FILL, "parameters": {"hole": {"regex": "(a"}}}, "position", id="broken hole"),
    pytest.param({**FILL, "parameters": {"hole": {"pattern": "a"}}}, "hole {'pattern'", id="no hole"),
    pytest.param({**GENERATE, "parameters": {"constraint": "a"}}, "constraint 'a' must be", id="no constraint"),
    pytest.param(
        {**GENERATE, "parameters": {"constraint": {"type": "regex", "pattern": "((?=a)b)"}}}, "lookahead", id="refused"
    ),
]


@pytest.mark.parametrize(("item", "words"), BAD)
def test_a_bad_item_is_named_by_file_and_line(read, tmp_path, item, words):
    with pytest.raises(RequestError) as refused:
        read(FILL, item, {**FILL, "id": "1"})
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'items.jsonl'}:2: ")
    assert words in message
    assert "the id '1' is taken by" not in message, "the first bad item is named"
    assert message.endswith("(and 1 more bad item)")


def test_what_cannot_be_read_is_named(tmp_path):
    for content, words in [(None, "cannot be read"), (b"\xff", "cannot be read"), (b"\n", "there is no item")]:
        path = tmp_path / f"{words}.jsonl"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RequestError, match=words):
            read_items(path)


def test_parameters_become_what_the_engine_takes():
    import redraft

    template = {"type": "template", "text": "{a}!", "holes": {"a": {"choices": ["x", "y"]}}}
    forms = {
        redraft.JSONSchema({"type": "integer"}): {"type": "json_schema", "schema": {"type": "integer"}},
        redraft.Regex("a+"): {"type": "regex", "pattern": "a+"},
        redraft.Choice(["a", "b"]): {"type": "choice", "options": ["a", "b"]},
        redraft.Template("{a}!", {"a": redraft.Hole(choices=("x", "y"))}): template,
    }
    for constraint, form in forms.items():
        assert arguments({"constraint": form, "max_tokens": 3, "seed": None}) == {
            "constraint": constraint, "max_tokens": 3
        }  # fmt: skip
    assert arguments({"hole": {"type": "word"}}) == {"hole": redraft.Hole(type="word")}


def test_options_of_a_schema_are_those_of_every_part():
    part = {"enum": ["a", 1, None], "default": "no"}
    schema = {"properties": {"x": part, "y": {"items": {"const": "b"}}}, "$defs": {"z": {"anyOf": [{"enum": ["c"]}]}}}
    assert enumerated(schema) == enumerated(json.dumps(schema)) == {"a", "b", "c"}
