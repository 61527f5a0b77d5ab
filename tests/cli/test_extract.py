"""``redraft extract``: JSON on standard output and nothing besides; how sure and what it cost on standard error."""

import json
import re

import jsonschema
import pytest

from tests.cli.conftest import assert_one_line

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "tall": {"type": "boolean"}},
    "required": ["name", "tall"],
}


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


@pytest.fixture
def letter(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Ada is tall.")
    return path


def test_json_and_how_sure_of_each_field(redraft_here, letters, letter, schema):
    done = redraft_here("extract", letter, "--schema", schema, "--seed", 7, "-m", letters)
    assert done.returncode == 0, done.stderr
    jsonschema.validate(json.loads(done.stdout), SCHEMA)
    name, tall, cost, *_ = done.stderr.splitlines()
    assert re.fullmatch(r" *\d+\.\d\d%  /name", name)
    assert re.fullmatch(r" *\d+\.\d\d%  /tall", tall)
    assert "tokens in" in cost


def test_from_a_pipe_and_without_confidence(redraft_here, letters, letter, schema):
    asked = ["--schema", schema, "--seed", 7, "-m", letters, "--no-confidence"]
    done, piped = (
        redraft_here("extract", letter, *asked), redraft_here("extract", "-", *asked, stdin=letter.read_bytes())
    )  # fmt: skip
    assert piped.stdout == done.stdout
    assert "/name" not in done.stderr


def test_as_json(redraft_here, letters, letter, schema):
    asked = ["extract", letter, "--schema", schema, "--seed", 7, "-m", letters, "--json"]
    shown = json.loads(redraft_here(*asked).stdout)
    assert shown["value"] == json.loads(shown["text"])
    assert list(shown["confidence"]) == ["/name", "/tall"]
    assert all(0 <= probability <= 1 for probability in shown["confidence"].values())
    assert shown["usage"]["completion_tokens"] == len(shown["token_ids"])
    without = json.loads(redraft_here(*asked, "--no-confidence").stdout)
    assert "confidence" not in without
    assert without["value"] == shown["value"]


def test_a_recorded_extraction_replays(redraft_here, letters, letter, schema, tmp_path):
    runs = tmp_path / "runs"
    done = redraft_here("extract", letter, "--schema", schema, "--seed", 7, "-m", letters, "--record", runs)
    assert done.returncode == 0, done.stderr
    again = redraft_here("replay", *runs.iterdir())
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("identical")


def test_the_instruction_may_be_ones_own(redraft_here, letters, letter, schema):
    asked = ["extract", letter, "--schema", schema, "-m", letters, "--json", "--no-confidence"]
    usual, own = (
        json.loads(redraft_here(*asked, *more).stdout)["usage"]["prompt_tokens"]
        for more in ([], ["--instruction", "?"])
    )
    assert own < usual


MISTAKES = [
    pytest.param(["LETTER", "--schema", "no/such.json"], "the file of --schema no/such.json cannot be read", id="file"),
    pytest.param(["no/such.txt", "--schema", "SCHEMA"], "no/such.txt cannot be read", id="text"),
    pytest.param(["LETTER", "--schema", "LETTER"], "schema: not JSON", id="schema"),
    pytest.param(["LETTER", "--schema", "SCHEMA", "--max-tokens", 5], "max_tokens 5 is too small", id="room"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistake_is_named_in_one_line(redraft_here, letters, letter, schema, arguments, words):
    files = {"LETTER": letter, "SCHEMA": schema}
    assert_one_line(redraft_here("extract", *(files.get(one, one) for one in arguments), "-m", letters), words)


def test_an_empty_text(redraft_here, letters, schema):
    assert_one_line(redraft_here("extract", "-", "--schema", schema, "-m", letters, stdin=b" \n"), "text is empty")


def test_a_schema_is_needed(redraft_here, letter):
    failed = redraft_here("extract", letter)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "--schema" in failed.stderr


def test_into_slots(redraft_here, letters, letter, schema):
    asked = ["extract", letter, "--schema", schema, "--seed", 7, "-m", letters, "--layout", "slots"]
    done, shown = redraft_here(*asked), json.loads(redraft_here(*asked, "--json").stdout)
    jsonschema.validate(json.loads(done.stdout), SCHEMA)
    assert json.loads(done.stdout) == shown["value"]
    assert re.search(r"^ *\d+\.\d\d%  /name$", done.stderr, re.M)
    # Of random weights a name may take all of its slot, and then JSON is written.
    assert ("JSON was written" in done.stderr) == (shown["layout"] == "text") == (shown["fallback"] is not None)


def test_a_layout_that_there_is_not_is_refused_before_a_model_is_looked_for(redraft_here, letter, schema):
    done = redraft_here("extract", letter, "--schema", schema, "-m", "no/such", "--layout", "lines")
    assert_one_line(done, "layout 'lines' must be 'slots' or 'text'")


def test_a_draft_in_slots_is_recorded_and_replays(redraft_here, letters, letter, tmp_path):
    runs, draft, small = tmp_path / "runs", tmp_path / "draft.json", tmp_path / "small.json"
    small.write_text(json.dumps({"type": "object", "properties": {"tall": {"type": "boolean"}}, "required": ["tall"]}))
    draft.write_text('{"tall": true}')
    asked = ["extract", letter, "--schema", small, "--seed", 7, "-m", letters, "--layout", "slots", "--json"]
    plain = json.loads(redraft_here(*asked).stdout)
    from_file = json.loads(redraft_here(*asked, "--draft", draft, "--record", runs).stdout)
    given = json.loads(redraft_here(*asked, "--draft", '{"tall": true}').stdout)
    assert (from_file["value"], from_file["confidence"]) == (given["value"], given["confidence"])
    assert from_file["confidence"] != plain["confidence"]
    again = redraft_here("replay", *runs.iterdir())
    assert again.stdout.startswith("identical"), again.stderr
    for given, words in (
        ('{"tall": 1}', "draft: value at /tall: 1 is not a boolean"),
        ('{"tall": true, "age": 3}', "draft: value at /age: the schema has no such key"),
        ("no/such.json", "the draft no/such.json cannot be read"),
        ("[", "draft is not JSON"),
    ):
        assert_one_line(redraft_here(*asked, "--draft", given), words)
