"""Openings and what a language model made of them: values stand where it is said, and nothing held out is there."""

import json
import re
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

import redraft
from redraft.train.adapt import adapt, read_base
from redraft.train.recipes.pocket.finish import RefusedError, app, checked, finish, opened
from redraft.train.recipes.pocket.openings import MARK, finished, joined, line, lines, openings, parted, read
from redraft.train.recipes.pocket.records import record
from redraft.train.recipes.pocket.snippets import HELD_OUT_DOMAINS, Snippet, Split, blanks, templates_of, write
from redraft.train.recipes.pocket.templates import parse
from redraft.train.recipes.pocket.values import POOLS, Hand, held_out_words
from redraft.train.recipes.pocket.words import pool
from tests.gguf_files import smollm2_path

OPENING = """\
== letter / a room is asked for
Hello, {guest|person} here. We come on {day|date} for {nights|duration}. {pets|true: A dog comes along.|false: No pets.}
We would like
<...>
[[Our number is {phone|phone}. ]]Yours, {sender|first_name}
? Who is coming? {guest}
"""


def made(seed: int) -> Snippet:
    (template,) = parse(OPENING, "hotels_and_travel")
    return write(template, Hand(Random(seed), False))


def plain(snippet: Snippet) -> object:
    """All but the generator that draws more."""
    hand = snippet.hand
    known = (snippet.domain, snippet.topic, snippet.style, snippet.number, snippet.classes)
    return snippet.text, snippet.fields, known, hand.day, hand.minute


def without_values(snippet: Snippet) -> str:
    """What is not a value: names may share a part with one that training must not see."""
    text, values = snippet.text, [value.text for own in snippet.present if own.kind != "phrase" for value in own.values]
    for value in sorted(values, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "", text)
    return text


def test_there_are_openings_of_every_domain_that_training_sees_with_questions_about_their_values() -> None:
    assert len(openings()) >= 120
    domains = Counter(one.domain for one in openings())
    assert domains.keys() == {one.domain for one in templates_of(Split.train)}
    assert not domains.keys() & HELD_OUT_DOMAINS
    assert min(domains.values()) >= 5
    assert all(len(one.questions) >= 3 for one in openings())
    for index in range(2 * len(openings())):
        assert not held_out_words().search(without_values(opened(1, index)))


def test_what_is_said_stands_between_the_parts_and_values_behind_it_move() -> None:
    for seed in range(40):
        opening = made(seed)
        before, behind = parted(opening)
        assert before.endswith("We would like")
        assert behind.startswith("\n")
        whole = joined(opening, " a quiet room.")
        assert whole.text == f"{before} a quiet room.{behind}"
        assert MARK not in whole.text
        for own in whole.present:
            if own.kind != "phrase":
                assert [whole.text[slice(*span)] for span in own.spans] == [value.text for value in own.values]


def test_a_line_keeps_all_that_is_known_of_a_text() -> None:
    for index in range(130):
        whole = joined(opened(3, index), " and we are happy with it.")
        again = read(line(whole), Random(0))
        assert plain(again) == plain(replace(whole, number=-1))
        assert again.hand.chosen == whole.hand.chosen


def test_every_finished_text_holds_its_values_where_it_says_and_none_that_training_must_not_see() -> None:
    """The file holds no more than the docs say."""
    file = files("redraft.train.recipes.pocket") / "finished.jsonl"
    assert len(file.read_bytes()) < 200_000
    assert 400 <= len(lines()) <= 600
    known = {(one.domain, one.number): one for one in openings()}
    for kept in lines():
        snippet = read(kept, Random(0))
        text = kept["text"]
        assert kept["said"].keys() <= blanks(known[kept["domain"], kept["opening"]]).keys()
        assert MARK not in text
        assert not held_out_words().search(without_values(snippet))
        for own in snippet.present:
            for value, (start, end) in zip(own.values, own.spans, strict=True):
                assert 0 <= start < end <= len(text)
                if own.kind == "phrase":
                    assert value.text in own.options
                else:
                    assert text[start:end] == value.text
                    # One letter may be a capital at the start of a sentence.
                    assert own.kind not in POOLS or value.text.lower() not in map(str.lower, pool(own.kind, True))
    assert len({kept["text"] for kept in lines()}) == len(lines())
    assert len({(kept["domain"], kept["opening"]) for kept in lines()}) > 100


def test_the_same_seed_draws_the_same_finished_text() -> None:
    assert plain(finished(Random(4))) == plain(finished(Random(4)))
    assert len({finished(Random(seed)).text for seed in range(50)}) > 40


@pytest.mark.slow
def test_the_share_of_finished_texts_is_what_the_docs_say_and_no_held_out_split_has_any() -> None:
    """By the texts that stand whole in a record; some have a gap or a mistake."""
    texts = {kept["text"] for kept in lines()}
    shares = {split: sum(record(5, at, split).get("context") in texts for at in range(600)) / 600 for split in Split}
    assert 0.04 < shares.pop(Split.train) < 0.1
    assert set(shares.values()) == {0}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (" a quiet room. It has to be on the ground floor.", " a quiet room. It has to be on the ground floor."),
        (" a quiet room. It costs 40.", " a quiet room."),
        (" a quiet room. And then another one. And a third.", " a quiet room. And then another one."),
        (", if possible, a quiet room!", ", if possible, a quiet room!"),
        (" a room for my wife, I think. and", " a room for my wife, I think."),
    ],
)
def test_one_or_two_sentences_are_kept(said: str, kept: str) -> None:
    assert checked(made(0), said) == kept


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (" a quiet room with a", "does not end"),
        (". Thank you.", "begins oddly"),
        (" one.", "too short or too long"),
        (" a room <|im_end|>.", "marks that no sentence needs"),
        (' a "room" there.', "marks that no sentence needs"),
        (" a room for 3 nights.", "a number"),
        (" a room for seven people.", "a number"),
        (" a room until tomorrow.", "a time"),
        (" a room like Peter has.", "a name"),
        (" to answer the following.", "words of tasks"),
        (" to know who died there.", "dark words"),
        (" a room and a bed and a bed and a room and a bed.", "repetition"),
        (" very very nice rooms.", "repetition"),
        (" it if you like and the.", "breaks off"),
    ],
)
def test_a_rule_that_is_not_kept_is_named(said: str, rule: str) -> None:
    with pytest.raises(RefusedError, match=rule):
        checked(made(0), said)


def test_a_word_of_a_kind_that_is_asked_for_or_of_no_training_is_refused() -> None:
    (template,) = parse("== note / a\nThe {thing|garment} of {owner|person} is", "clubs_and_sport")
    opening = write(template, Hand(Random(1), False))
    for word in (pool("garment", False)[3], pool("animal", True)[0]):
        with pytest.raises(RefusedError, match="could be a value"):
            checked(opening, f" under the {word.lower()} there.")
    assert checked(opening, f" under the {pool('animal', False)[0].lower()} there.")


@pytest.mark.slow
def test_a_model_finishes_openings_the_same_way_in_every_batch(tmp_path: Path) -> None:
    """By the base itself."""
    base = tmp_path / "base"
    adapt(read_base(smollm2_path(), "smollm2"), base)
    refused = Counter[str]()
    with redraft.load(str(base)) as engine:
        alone = [line(one) for one in finish(engine, 12, 1, 5, refused)]
    assert alone
    assert len(alone) + refused.total() == 12
    path = tmp_path / "finished.jsonl"
    model = ["--model", str(base)]
    done = CliRunner().invoke(app, [*model, "--write", str(path), "--count", "12", "--seed", "1", "--batch", "12"])
    assert done.exit_code == 0, done.output
    assert f"{len(alone)} of 12 are kept" in done.output
    written = [json.loads(one) for one in path.read_text("utf-8").splitlines()]
    assert written == json.loads(json.dumps(alone))
