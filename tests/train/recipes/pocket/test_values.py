"""Values mean what they say, and those that are held out never come up in training."""

import re
from contextlib import suppress
from datetime import datetime
from random import Random

import pytest

from redraft.train.recipes.pocket.values import KINDS, NUMBERS, Hand, Value, draw
from redraft.train.recipes.pocket.words import held_out, pool, words

COUNT = 250


def drawn(kind: str, held: bool, count: int = COUNT) -> list[Value]:
    """Each by a person of their own."""
    return [draw(kind, Hand(Random(seed), held)) for seed in range(count)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_many_values_of_one_line(kind: str) -> None:
    texts = {value.text for held in (False, True) for value in drawn(kind, held)}
    assert len(texts) >= 5
    assert all(text == text.strip() and text.isprintable() and text for text in texts)


@pytest.mark.parametrize(
    "kind",
    ["first_name", "surname", "person", "city", "product", "dish", "company", "street", "title", "code"],
)
def test_what_is_held_out_never_comes_up_in_training(kind: str) -> None:
    def shape(text: str) -> str:
        return re.sub("[A-Z]", "A", re.sub("[0-9]", "9", text)) if kind == "code" else text

    trained, kept = ({shape(value.text) for value in drawn(kind, held)} for held in (False, True))
    assert not trained & kept
    assert trained
    assert kept


def test_a_fifth_of_the_words_is_held_out_and_none_is_in_both_pools() -> None:
    for name in ("first_name", "surname", "city", "product", "job", "dish"):
        trained, kept = pool(name, False), pool(name, True)
        assert sorted((*trained, *kept)) == sorted(words(name))
        assert len(set(words(name))) == len(words(name)) >= 100
        assert 0.13 < len(kept) / len(words(name)) < 0.28
    # A change here would let a trained model see what it is evaluated with.
    assert [held_out(word) for word in ("Sofia", "Berlin", "teapot", "Anna", "Oslo")] == [True, *[False] * 4]


FORMATS = [
    "%d %B %Y", "%B %d, %Y", "%d %b %Y", "%b %d, %Y", "%Y-%m-%d", "%d.%m.%Y", "%a %d %b %Y", "%d-%b-%Y", "%Y/%m/%d",
    "%d/%m/%Y", "%m/%d/%Y",
]  # fmt: skip


def test_a_date_means_the_day_that_a_parser_reads_and_nothing_where_two_can_be_read() -> None:
    told = 0
    for value in (*drawn("date", False), *drawn("date", True)):
        days = set()
        for form in FORMATS:
            with suppress(ValueError):
                text = re.sub(r"(?<=\d)(st|nd|rd|th)\b", "", value.text)
                days.add(datetime.strptime(text, form).date().isoformat())
        assert value.meaning == (next(iter(days)) if len(days) == 1 else None), value
        told += value.meaning is not None
    assert told > COUNT / 2


def test_a_time_means_the_minute_that_a_parser_reads() -> None:
    told = 0
    for value in (*drawn("time", False), *drawn("time", True)):
        if value.meaning is None or not value.text[0].isdigit():
            assert value.meaning in (None, "12:00", "00:00")
            continue
        digits = [int(number) for number in re.findall(r"\d\d?", value.text)]
        hour, minute = (*digits, 0)[:2]
        if "m" in value.text.lower():
            hour = hour % 12 + 12 * ("p" in value.text.lower())
        assert value.meaning == f"{hour:02}:{minute:02}", value
        told += 1
    assert told > COUNT


@pytest.mark.parametrize("kind", ["money", "percent", "weight", "length", "volume", "temperature", "decimal", "year"])
def test_a_number_is_the_one_that_is_written(kind: str) -> None:
    for value in (*drawn(kind, False), *drawn(kind, True)):
        (written,) = re.findall(r"-?\d[\d ,.]*\d|-?\d", value.text)
        if re.search(r",\d\d$", written):
            written = written.replace(" ", "").replace(",", ".")
        assert float(re.sub("[ ,]", "", written)) == value.meaning, value


def test_a_duration_is_counted_in_its_unit() -> None:
    for value in drawn("duration", False):
        if value.meaning is not None:
            number, unit = value.text.split(" ")
            assert value.meaning == (NUMBERS.index(number) if number in NUMBERS else int(number))
            assert unit in (value.unit, "min", "hrs")


def test_integers_and_decimals_keep_their_range() -> None:
    hand = Hand(Random(0), False)
    assert {draw("integer", hand, (3, 5)).meaning for _ in range(100)} == {3, 4, 5}
    assert all(2 <= draw("decimal", hand, (2, 3)).meaning <= 3 for _ in range(100))


def test_one_person_mostly_writes_in_one_way() -> None:
    same = 0
    for seed in range(100):
        hand = Hand(Random(seed), False)
        first, second = (re.sub(r"\d+", "9", draw("money", hand).text.replace(",", "").replace(".", "")) for _ in "ab")
        same += first == second
    assert same > 75
