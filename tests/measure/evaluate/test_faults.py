"""Artefacts are told from wrong values by form alone, in the order of the rule."""

import pytest

from redraft.measure.evaluate.faults import is_span, text_fault, value_fault

SOURCE = "On 3 May 2026 Anna Schmidt paid 1450 euros in Bad Homburg; the clerk, Otto Otto, gave her 45 back."
NAME = "Anna Schmidt"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        # What a reader who mistakes one thing for another would write.
        ("Bad Homburg", "wrong value"),
        ("Anna", "wrong value"),
        ("Schmidt", "wrong value"),
        ("Anna Schmidt paid", "wrong value"),
        ("Otto Otto", "wrong value"),
        # What no reader would.
        ("Anna Schmidt ", "malformed"),
        ('Anna "Schmidt', "malformed"),
        ("Anna (Schmidt", "malformed"),
        ("Anna Schm\ufffddt", "malformed"),
        ("Anna\x00Schmidt", "malformed"),
        ("Anna Schmidt<|im_end|>", "malformed"),
        ("Anna<end>", "malformed"),
        ("Anna SchmidtAnna Schmidt", "repeated"),
        ("Anna Schmidt, Anna Schmidt", "repeated"),
        ("Anna Anna", "repeated"),
        ("Anna anna", "repeated"),
        ("ininin", "repeated"),
        ("Annnnna", "repeated"),
        ("", "cut"),
        ("Anna Schm", "cut"),
        ("nna Schmidt", "cut"),
        ("hmid", "cut"),
        ("nna Schmidt p", "shifted"),
        ("d Anna Schmi", "shifted"),
        ("Anna Schmitt", "no span"),
        ("Peter Brown", "no span"),
        ("omburg", "no span"),
    ],
)
def test_of_a_name_that_was_read(answer, fault):
    assert value_fault(answer, NAME, SOURCE, markers=["<end>"]) == fault


@pytest.mark.parametrize(
    ("answer", "truth", "fault"),
    [
        (45, 1450, "wrong value"),
        (3, 1450, "wrong value"),
        (1450.0, 45, "no span"),
        (145, 1450, "cut"),
        (450, 1450, "cut"),
        (14501450, 1450, "repeated"),
        (4502, 1450, "shifted"),
        (1460, 1450, "no span"),
        (2027, 2026, "no span"),
        # The truth was computed, not read.
        (1406, 1405, "wrong value"),
        # One digit is like another by chance.
        (5, 45, "wrong value"),
        (7, 3, "wrong value"),
    ],
)
def test_of_a_number(answer, truth, fault):
    assert value_fault(answer, truth, SOURCE) == fault


@pytest.mark.parametrize(
    ("answer", "truth"), [(True, False), (None, NAME), (NAME, None), (1, True), (NAME, 3), ([], NAME), ({}, [])]
)
def test_of_another_type_or_without_form_is_a_wrong_value(answer, truth):
    assert value_fault(answer, truth, SOURCE) == "wrong value"


def test_an_option_of_the_schema_cannot_be_ill_formed():
    assert value_fault("re fund", "Anna", SOURCE) == "no span"
    assert value_fault("re fund", "Anna", SOURCE, options={"re fund"}) == "wrong value"


class TestText:
    def test_what_the_truth_has_too_is_no_artefact(self):
        for text, truth in [
            ("the the cat", "the the dog"),
            ('a "b', 'a "c'),
            ("aaaa b", "aaaa c"),
            (" b", " c"),
            ("<|x|> b", "<|x|> c"),
        ]:
            assert text_fault(text, truth) == "wrong value", text

    def test_without_a_truth_only_form_counts(self):
        assert text_fault("quite another text") == "wrong value"
        assert text_fault("") == "cut"
        assert text_fault("so so so") == "repeated"
        assert text_fault("[1, 2") == "malformed"

    def test_digits_may_repeat(self):
        assert text_fault("111111222", "123456789") == "wrong value"
        assert text_fault("1212121212 77 77", "123456789") == "wrong value"

    def test_lines_and_indents_are_no_repeats(self):
        assert text_fault("if x:\n        y\n--------\n", "z\n") == "wrong value"

    def test_a_text_of_one_long_word_takes_no_long_time(self):
        """The rules look for repeats in linear time, or this test would not end."""
        letters = "".join(chr(0x4E00 + number) for number in range(10_000))
        assert text_fault(letters, "a") == "wrong value"


def test_a_span_has_borders_of_words_and_any_white_space():
    assert is_span("Bad Homburg", "in Bad\n  Homburg;")
    assert is_span("(3)", "x(3)y"), "what is no letter or digit is a border itself"
    assert not is_span("Homb", SOURCE)
    assert is_span("45", SOURCE), "once within a number, once alone"
    assert not is_span("", SOURCE)
