"""What is taken out of a text, or changed in it: by the templates alone, the answer is always known."""

from random import Random

from redraft.tasks.slots import Filled, Pinned
from redraft.train.recipes.pocket.snippets import Snippet, Split, write
from redraft.train.recipes.pocket.templates import parse
from redraft.train.recipes.pocket.values import Hand
from redraft.train.recipes.pocket.writing import edit, form, gap, respelled, span, unique

TEMPLATE = """\
== mail / a visit is announced
Dear friends, we have good news for everybody who was there. {guest|person} arrives on {day|date} at {hour|time}.
Please bring {thing|product} for {guest}. Everything else will be arranged by the committee, {phone|phone}.
? Who is coming? {guest}
"""


def made(seed: int) -> Snippet:
    (template,) = parse(TEMPLATE, "visits")
    return write(template, Hand(Random(seed), False))


def test_a_span_is_words_on_a_line_between_values() -> None:
    spans = set()
    for seed in range(80):
        snippet = made(seed)
        place = span(snippet, Random(seed))
        assert place is not None
        words = snippet.text[slice(*place)]
        assert words in TEMPLATE
        assert "\n" not in words
        assert snippet.text[place[0] - 1] in ' "'
        spans.add(words)
    assert len(spans) > 20


def test_only_values_that_stand_there_once_are_changed() -> None:
    for seed in range(60):
        snippet = made(seed)
        fields = {own.key: own.value.text for own in unique(snippet)}
        assert fields.keys() == {"day", "hour", "thing", "phone"}
        question = edit(snippet, Random(seed), Split.train)
        if question is None:
            continue
        new = [piece.text.strip() for piece in question.pieces if isinstance(piece, Filled)]
        whole = "".join(piece.text for piece in question.pieces) + question.rest
        # The text once more, but for one value of it.
        assert len(new) == 1
        assert whole in {snippet.text.replace(old, new[0]) for old in fields.values()}


def test_a_misspelt_word_is_one_edit_away_and_all_else_is_pinned() -> None:
    for seed in range(60):
        snippet = made(seed)
        question = respelled(snippet, Random(seed), Split.train)
        if question is None:
            continue
        assert question.context is not None
        assert "".join(piece.text for piece in question.pieces) + question.rest == snippet.text
        assert question.context != snippet.text
        assert abs(len(question.context) - len(snippet.text)) <= 1
        (word,) = (piece.text.strip() for piece in question.pieces if isinstance(piece, Filled))
        assert word in TEMPLATE
        assert sorted(question.context) != sorted(snippet.text) or len(word) >= 5


def test_a_closed_gap_is_the_text() -> None:
    values = 0
    for seed in range(80):
        snippet = made(seed)
        question = gap(snippet, Random(seed), Split.train)
        assert question is not None
        assert question.context is not None
        mark = next(mark for mark in ("____", "[...]", "(?)", "???", "<gap>", "[missing]") if mark in question.context)
        assert question.context.replace(mark, question.answer) == snippet.text
        assert mark in question.ask
        # The guest is named twice, so that the text tells who is missing.
        values += question.answer == next(own.value.text for own in snippet.fields if own.key == "guest")
    assert values > 20


def test_a_form_has_each_value_after_its_key() -> None:
    for seed in range(60):
        snippet = made(seed)
        question = form(snippet, Random(seed), Split.train)
        assert question is not None
        said = {own.key: own.value.text for own in snippet.present}
        lines = "".join(piece.text for piece in question.pieces).split("\n")
        for line in lines:
            key, _, value = line.lstrip("-* ").partition(": ")
            assert said[key.lower()] == value
        assert 1 <= sum(isinstance(piece, Filled) for piece in question.pieces) <= 2
        assert any(isinstance(piece, Pinned) and piece.text.strip() for piece in question.pieces)
