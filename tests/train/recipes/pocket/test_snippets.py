"""Snippets: each value stands where it is said to stand, and the splits share nothing that they must not share."""

import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from redraft.train.recipes.pocket.snippets import HELD_OUT_DOMAINS, MESSAGE, Split, snippet, templates_of, write
from redraft.train.recipes.pocket.templates import parse, read_all
from redraft.train.recipes.pocket.values import Hand
from redraft.train.recipes.pocket.wordings import headed, phrasings, wordings
from redraft.train.recipes.pocket.words import held_out

TEMPLATE = """\
== mail / a room is asked for
((Hello|Dear team)), this is {guest|person}, {job|a job}. We are {who|first_name*2-3}, with {pets|integer 2-4} pets.
{breakfast|true: Breakfast for all, please.|false: No breakfast.|true: We eat in.}[[ My mail is {mail|email}.]]
{guest} says {mail}
? Who is coming? {guest}
? Is breakfast wanted? {breakfast}
"""


def test_a_template_is_filled_and_all_that_it_says_is_known() -> None:
    (template,) = parse(TEMPLATE, "rooms")
    phrases = {"Breakfast for all, please.": "true", "No breakfast.": "false", "We eat in.": "true"}
    seen = set()
    for seed in range(120):
        made = write(template, Hand(Random(seed), False))
        fields = {field.key: field for field in made.fields}
        assert list(fields) == ["guest", "job", "who", "pets", "breakfast", "mail"]
        guest, mail = fields["guest"].value.text, fields["mail"].value.text
        article = "an" if fields["job"].value.text[0] in "aeiou" else "a"
        names = [value.text for value in fields["who"].values]
        (phrase,) = (phrase for phrase in phrases if phrase in made.text)
        assert phrases[phrase] == fields["breakfast"].value.text
        optional = f" My mail is {mail}." if f"is {mail}." in made.text else ""
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        pets = fields["pets"].value
        assert pets.text in (str(pets.meaning), ("two", "three", "four")[pets.meaning - 2])
        job = f"{article} {fields['job'].value.text}"
        we = f"We are {listed}, with {pets.text} pets."
        assert made.text in {
            f"{start}, this is {guest}, {job}. {we}\n{phrase}{optional}\n{guest} says {mail}"
            for start in ("Hello", "Dear team")
        }
        assert fields["guest"].questions == ("Who is coming?",)
        assert fields["breakfast"].options == ("true", "false")
        seen.add((phrase, bool(optional), len(names)))
    assert len(seen) == 12


@pytest.mark.parametrize("split", list(Split))
def test_values_stand_in_their_places(split: Split) -> None:
    for seed in range(150):
        made = snippet(Random(seed), split)
        for own in made.present:
            if own.kind == "phrase":
                assert own.value.text in own.options
                assert all(0 <= start <= end <= len(made.text) for start, end in own.spans)
            else:
                assert [made.text[start:end] for start, end in own.spans] == [value.text for value in own.values]
        for own in made.absent:
            assert not own.spans
        assert not re.search(r"[{}]|\[\[|\]\]|\(\(|\)\)", made.text)


def test_no_two_people_in_a_snippet_share_a_name() -> None:
    for seed in range(200):
        parts: Counter[str] = Counter()
        for own in snippet(Random(seed)).present:
            if own.kind in ("person", "first_name", "surname"):
                for value in own.values:
                    parts.update({word for word in re.split(r"\W+", value.text) if len(word) > 2} - {"Prof"})
        assert max(parts.values(), default=1) == 1


def test_an_article_in_the_text_goes_with_the_value_after_it() -> None:
    (template,) = parse("== mail / x\nHe is a {trade|job} with a {old|animal}.", "trades")
    for seed in range(60):
        made = write(template, Hand(Random(seed), False))
        trade, old = ((("an " if own.value.text[0] in "aeio" else "a ") + own.value.text) for own in made.fields)
        assert made.text == f"He is {trade} with {old}."
        assert all(made.text[slice(*own.spans[0])] == own.value.text for own in made.fields)


def test_an_article_before_a_room_is_no_part_of_it() -> None:
    (template,) = parse("== mail / x\nMeet in {hall|room}, room: {hall}", "rooms")
    for seed in range(40):
        made = write(template, Hand(Random(seed), False))
        room = made.fields[0].value.text
        assert made.text == f"Meet in {'the ' if room[0].islower() else ''}{room}, room: {room}"


def test_no_template_is_in_two_splits_and_domains_are_held_out_whole() -> None:
    trained, other, kept = (
        {(one.domain, one.number) for one in templates_of(split)}
        for split in (Split.train, Split.templates, Split.domain)
    )
    assert templates_of(Split.values) == templates_of(Split.train)
    assert not trained & other
    assert not (trained | other) & kept
    assert trained | other | kept == {(one.domain, one.number) for one in read_all()}
    assert {domain for domain, _ in kept} == HELD_OUT_DOMAINS
    assert {domain for domain, _ in trained} == {domain for domain, _ in other}
    assert 0.08 < len(other) / len(trained | other) < 0.12


@pytest.mark.parametrize("split", [Split.train, Split.domain])
def test_a_class_is_known_where_a_sentence_shows_it_and_the_sentence_is_of_the_split(split: Split) -> None:
    shown = Counter[str]()
    for seed in range(600):
        made = snippet(Random(seed), split)
        for name, value in made.classes.items():
            lines = phrasings()[name][value]
            assert any(line in made.text for line in lines)
            assert all(held_out(line) == split.held for line in lines if line in made.text and len(line) > 30)
            other = [line for own, lines in phrasings()[name].items() if own != value for line in lines]
            assert not [line for line in other if line in made.text and len(line) > 30]
            shown[name] += 1
    assert len(shown) >= 8


def test_messages_of_sentences_alone_have_classes_that_do_not_contradict() -> None:
    found = [made for seed in range(800) if (made := snippet(Random(seed))).style == MESSAGE]
    assert 60 < len(found) < 180
    for made in found:
        alone = {"sentiment", "intent", "tone", "deadline given"} & made.classes.keys()
        assert len(made.classes) == 1 or not alone
        assert not {"urgency", "reply wanted"} <= made.classes.keys()


def test_files_of_sentences_are_broad_enough() -> None:
    for name, values in phrasings().items():
        assert all(len(lines) >= 60 for lines in values.values()), name
    for task in ("extract", "choose", "answer"):
        assert len(wordings()[task]) >= 30
        assert any(map(held_out, wordings()[task]))


def test_equal_headings_are_read_together() -> None:
    assert headed("# a\none\n\ntwo\\nthree\n# b\nx\n# a\none\nfour\n") == {
        "a": ("one", "two\nthree", "four"),
        "b": ("x",),
    }


def test_most_snippets_have_two_values_of_one_kind() -> None:
    """A third is wanted, so that a question has to be read."""
    made = [snippet(Random(seed)) for seed in range(300)]
    twice = [one for one in made if max(Counter(own.kind for own in one.present).values(), default=0) > 1]
    assert len(twice) > 100


def test_the_same_seed_makes_the_same_snippet() -> None:
    def plain(seed: int) -> object:
        made = snippet(Random(seed))
        return replace(made, hand=Hand(Random(0), False)).text, made.fields, made.classes

    assert plain(3) == plain(3)
    assert plain(3) != plain(4)
