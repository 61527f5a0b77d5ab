"""Records and items: every answer is right by the text, every value fits its slot, and an index is all that decides."""

import json
import re
from collections import Counter
from functools import cache
from itertools import islice
from random import Random
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from redraft.measure.evaluate.items import read_items
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.extract import INSTRUCTION
from redraft.tasks.slots import Canvas, Filled, Pinned, Slots, asked
from redraft.train.recipes.pocket.__main__ import app
from redraft.train.recipes.pocket.records import item, items, record, records
from redraft.train.recipes.pocket.schemas import PLAIN, plain_names, schema_for
from redraft.train.recipes.pocket.snippets import Split, snippet
from redraft.train.recipes.pocket.wordings import phrasings, wordings
from tests.gguf_files import smollm2_path

MARKS = ("____", "[...]", "(?)", "???", "<gap>", "[missing]")


@cache
def made_records() -> list[dict[str, Any]]:
    return [record(7, index) for index in range(300)]


@cache
def made_items() -> list[dict[str, Any]]:
    return [item(7, index, split) for split in Split for index in range(60)]


def questions() -> list[tuple[str, dict[str, Any]]]:
    """With the context of each."""
    with_any = [made for made in made_records() if "questions" in made]
    return [(made["context"], question) for made in with_any for question in made["questions"]]


def of(task: str) -> list[tuple[str, dict[str, Any]]]:
    return [(context, question) for context, question in questions() if question["task"] == task]


def short(question: dict[str, Any]) -> str | None:
    """The few words that are the whole answer; None for one of another form."""
    pieces = question.get("canvas", [])
    return pieces[0]["slot"] if len(pieces) == 1 and "slot" in pieces[0] else None


def leaves(schema: dict[str, Any], value: Any) -> list[tuple[dict[str, Any], Any]]:
    """Each property that is no object, with its value or None."""
    found: list[tuple[dict[str, Any], Any]] = []
    for name, own in schema["properties"].items():
        inner = (value or {}).get(name)
        found += leaves(own, inner) if "properties" in own else [(own, inner)]
    return found


@pytest.mark.slow
def test_all_tasks_come_up_and_every_record_has_a_known_form() -> None:
    shapes: Counter[object] = Counter()
    for made in made_records():
        if "questions" in made:
            assert made.keys() == {"context", "questions"}
            assert made["questions"]
        else:
            assert made.keys() in ({"task", "messages"}, {"task", "prompt", "response"})
            shapes[made["task"], "messages" in made] += 1
    for _, question in questions():
        answers = question.keys() - {"task", "ask"}
        assert answers in ({"canvas"}, {"schema", "value"})
        shapes[question["task"], "short" if short(question) is not None else min(answers)] += 1
    assert set(shapes) == {
        ("json", True), ("fill", False), ("edit", True), ("extract", "schema"), ("choose", "short"),
        ("answer", "short"), ("fill", "canvas"), ("fill", "short"), ("edit", "canvas"),
    }  # fmt: skip
    assert json.loads(json.dumps(made_records())) == made_records()


@pytest.mark.slow
def test_a_value_is_valid_under_its_schema_and_its_texts_stand_in_the_context() -> None:
    kinds: Counter[str] = Counter()
    for context, question in of("extract"):
        assert jsonschema.Draft202012Validator(question["schema"]).is_valid(question["value"])
        assert question["ask"] == asked(question["schema"], question["ask"].partition("\n- ")[0])
        for schema, value in leaves(question["schema"], question["value"]):
            kinds["enum" if "enum" in schema else str(schema["type"])] += 1
            normal = "YYYY-MM-DD" in str(schema) or "HH:MM" in str(schema) or schema.get("format") == "date"
            texts = value if isinstance(value, list) else [value]
            if "enum" not in schema and not normal:
                assert all(text in context for text in texts if isinstance(text, str)), (context, question)
            if isinstance(value, str) and normal:
                assert re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d", value)
                if len(value) > 9:
                    assert value[8:10].lstrip("0") in context
                else:
                    hours = {value[:2], str(int(value[:2])), str((int(value[:2]) - 1) % 12 + 1)}
                    assert value in ("12:00", "00:00") or any(hour in context for hour in hours)
    assert {kind for kind in kinds if "null" not in kind} == {"string", "integer", "number", "boolean", "enum", "array"}


def test_two_thirds_of_schemas_ask_by_kind_for_what_is_alone_of_its_kind() -> None:
    """Each such value is the only one of its kinds in its text, and its name is one of those that the kind has."""
    named = 0
    for seed in range(400):
        about = snippet(Random(seed))
        names = plain_names(about)
        for key, own in names.items():
            (field,) = (field for field in about.present if field.key == key)
            alike = next(kinds for kinds in PLAIN if field.kind in kinds)
            assert [other.key for other in about.present if other.kind in alike] == [key]
            assert own == ((key,) if field.many else PLAIN[alike][field.kind])
        spelled = {re.sub("[^a-z]", "", name) for own in names.values() for name in own}
        found = schema_for(about, Random(seed), held=False)
        asked = {re.sub("[^a-z]", "", name.lower()) for name in found[0]["properties"]} if found else set()
        named += bool(asked & spelled)
    assert 0.4 < named / 400 < 0.75


@pytest.mark.slow
def test_about_a_fifth_of_what_is_asked_for_is_absent() -> None:
    values = [value for _, question in of("extract") for _, value in leaves(question["schema"], question["value"])]
    share = sum(value is None or value == [] for value in values) / len(values)
    assert 0.15 < share < 0.28


@pytest.mark.slow
def test_values_and_new_text_fit_their_slots() -> None:
    """By the tokenizer of the model that is trained with them; a larger vocabulary has fewer tokens for a text."""
    tokenizer = ChatTokenizer.from_checkpoint(smollm2_path())
    fitting = 0
    for _, question in questions():
        if "schema" in question:
            slots = Slots.of(question["schema"], tokenizer, 1)
            assert len(slots.canvas(question["value"]).tokens) == len(slots.empty.tokens)
            assert len(slots.slots) <= 16
            fitting += 1
        elif "canvas" in question:
            pieces = [
                Pinned(piece["pinned"]) if "pinned" in piece else Filled(piece["slot"], piece["width"])
                for piece in question["canvas"]
            ]
            Canvas.of(pieces, tokenizer, 1)
            fitting += 1
    assert fitting > 300


@pytest.mark.slow
def test_a_choice_is_among_its_options_and_the_prompt_shows_them_all() -> None:
    sizes: set[int] = set()
    places: Counter[int] = Counter()
    chosen = [made for made in made_items() if made["verb"] == "choose"]
    for made in chosen:
        options = made["options"]
        assert made["answer"] in options
        assert len({option.lower() for option in options}) == len(options)
        (message,) = made["messages"]
        assert all(option in message["content"] for option in options)
        sizes.add(len(options))
        places[options.index(made["answer"])] += 1
        if made["groups"]["kind"] in phrasings():
            assert set(options) <= set(phrasings()[made["groups"]["kind"]])
    assert min(sizes) == 2
    assert 5 < max(sizes) <= 12
    assert places[0] < 0.6 * len(chosen)
    assert {"topic", "value", "meaning", "yes or no"} <= {made["groups"]["kind"] for made in chosen}


@pytest.mark.slow
def test_an_answer_stands_in_the_text_or_is_yes_no_or_that_there_is_none() -> None:
    none = 0
    for context, question in of("answer"):
        answer = short(question)
        assert answer is not None
        if answer in wordings()["not said"]:
            none += 1
            assert f'"{answer}"' in question["ask"]
        else:
            assert answer in ("yes", "no") or answer in context
    assert 0 < none < len(of("answer")) / 2


@pytest.mark.slow
def test_a_form_says_what_the_text_says() -> None:
    for context, question in of("fill"):
        for piece in question["canvas"] if short(question) is None else ():
            assert piece.get("slot", "").strip() in context
            assert piece.get("slot", " ").startswith(" ")


@pytest.mark.slow
def test_an_edit_keeps_what_is_pinned_and_changes_what_the_instruction_says() -> None:
    edited = of("edit")
    assert len(edited) > 30
    for context, question in edited:
        position, slots = 0, []
        for piece in question["canvas"]:
            if "pinned" in piece:
                position = context.index(piece["pinned"], position) + len(piece["pinned"])
            else:
                slots.append(piece["slot"].strip())
        assert slots
        for new in slots:
            given = new in question["ask"] or re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d:\d\d", new)
            misspelt = new.isalpha() and any(map(question["ask"].__eq__, wordings()["misspelt"]))
            assert given or misspelt, (context, question)


@pytest.mark.slow
def test_a_gap_is_closed_by_its_answer_and_a_raw_gap_goes_on_where_the_prefix_ends() -> None:
    gaps = [(context, question) for context, question in of("fill") if short(question) is not None]
    assert gaps
    for context, question in gaps:
        written = short(question)
        assert written is not None
        assert written.strip()
        assert any(
            mark in context and mark in question["ask"]
            for mark in ("____", "[...]", "(?)", "???", "<gap>", "[missing]")
        )
        restored = context.replace(next(mark for mark in MARKS if mark in context), written)
        assert len(restored) > len(written)
    raw = [made for made in made_records() if "response" in made]
    assert raw
    for made in raw:
        # The space before a word is part of its token, and so is the last one of an indentation.
        last = made["prompt"].rpartition("\n")[2]
        assert not last.endswith(" ") or (not last.strip(" ") and made["response"].startswith(" "))
        assert made["response"].strip()


@pytest.mark.slow
def test_free_json_is_asked_for_as_extract_asks() -> None:
    found = [made["messages"] for made in made_records() if made.get("task") == "json"]
    assert found
    before, after = INSTRUCTION.split("{schema}")
    for asked_, said in found:
        assert asked_["content"].startswith(before)
        schema, _, text = asked_["content"].removeprefix(before).partition(f"{after}\n\n")
        jsonschema.validate(json.loads(said["content"]), json.loads(schema))
        assert text


@pytest.mark.slow
def test_a_stream_is_a_pure_function_of_its_index() -> None:
    assert list(islice(records(7, start=30), 5)) == made_records()[30:35]
    assert record(8, 30) != made_records()[30]
    assert record(7, 30, Split.values) != made_records()[30]
    assert list(islice(items(7, Split.values, 10), 3)) == [item(7, index, Split.values) for index in range(10, 13)]


ARGUMENTS = {
    "extract": ({"text", "schema", "value"}, {"parameters"}),
    "choose": ({"messages", "options", "answer"}, set()),
    "fill": ({"prefix", "suffix", "answer"}, {"messages"}),
    "generate": ({"messages", "answer"}, set()),
}


def test_items_are_what_evaluation_takes(tmp_path: Any) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(f"{json.dumps(made)}\n" for made in made_items()))
    read = read_items(path)
    assert len(read) == len(made_items())
    assert {"kind", "domain", "split"} <= read[0].groups.keys()


@pytest.mark.slow
def test_an_item_has_a_verb_with_its_arguments_and_what_is_right() -> None:
    assert {made["verb"] for made in made_items()} == ARGUMENTS.keys()
    for made in made_items():
        needed, possible = ARGUMENTS[made["verb"]]
        given = made.keys() - {"verb", "domain", "split", "groups"}
        assert needed <= given <= needed | possible
        if made["verb"] == "extract":
            assert jsonschema.Draft202012Validator(made["schema"]).is_valid(made["value"])
    domains = {made["domain"] for made in made_items() if made["split"] == "domain"}
    assert {"museums_and_libraries", "nature_and_weather_notes"} <= domains
    assert not domains & {made["domain"] for made in made_items() if made["split"] != "domain"} - {"message"}


@pytest.mark.parametrize("kind", ["records", "items"])
def test_the_command_writes_lines_that_do_not_depend_on_where_it_began(tmp_path: Any, kind: str) -> None:
    def lines(name: str, *arguments: str) -> list[dict[str, Any]]:
        path = tmp_path / name
        done = CliRunner().invoke(app, ["--write", str(path), "--kind", kind, "--split", "templates", *arguments])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    whole = lines("whole.jsonl", "--count", "12", "--seed", "3")
    assert len(whole) == 12
    assert lines("rest.jsonl", "--count", "4", "--seed", "3", "--start", "8") == whole[8:]
    assert lines("other.jsonl", "--count", "4", "--seed", "4") != whole[:4]


def test_the_command_refuses_no_lines(tmp_path: Any) -> None:
    done = CliRunner().invoke(app, ["--write", str(tmp_path / "x"), "--count", "0"])
    assert done.exit_code == 2
    assert not (tmp_path / "x").exists()
