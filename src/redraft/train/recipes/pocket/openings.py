"""Openings: texts with holes that break off, and how a language model went on with them (``finish`` makes the file).

They are written in the notation of templates, in files of the same domains; ``<...>`` stands where the model writes, if
that is not the end.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from redraft.train.recipes.pocket.snippets import Field, Snippet, blanks
from redraft.train.recipes.pocket.templates import Template, read_all
from redraft.train.recipes.pocket.values import Hand, Value

MARK = "<...>"
Line = dict[str, Any]


def openings() -> tuple[Template, ...]:
    """All openings, in the order of their domains' names."""
    return read_all("openings")


@cache
def lines() -> tuple[Line, ...]:
    """The finished texts that the package has."""
    text = (files(__package__) / "finished.jsonl").read_text("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def finished(random: Random) -> Snippet:
    """One of the finished texts. All values in them are those of training."""
    return read(random.choice(lines()), random)


def parted(written: Snippet) -> tuple[str, str]:
    """Part an opening into what stands before the model's words, and what stands behind them."""
    before, mark, behind = written.text.partition(MARK)
    return before.rstrip() if mark else before, behind


def joined(written: Snippet, said: str) -> Snippet:
    """An opening with the model's words in their place."""
    before, behind = parted(written)
    text = f"{before}{said}{behind}"
    more = len(text) - len(written.text)

    def moved(own: Field) -> Field:
        return replace(own, spans=tuple((a + more, b + more) if a >= len(before) else (a, b) for a, b in own.spans))

    return replace(written, text=text, fields=tuple(map(moved, written.fields)))


def line(snippet: Snippet) -> Line:
    """Keep of a finished text where its values stand, and what else is known of them."""
    said = {own.key: [_kept(own, *pair) for pair in zip(own.values, own.spans, strict=True)] for own in snippet.present}
    hand = {"day": snippet.hand.day.isoformat(), "minute": snippet.hand.minute, "forms": snippet.hand.chosen}
    return {"domain": snippet.domain, "opening": snippet.number, "text": snippet.text, "said": said, "hand": hand}


def read(line: Line, random: Random) -> Snippet:
    """The snippet of a line; ``random`` draws what is made up in its hand."""
    opening = _numbered()[line["domain"], line["opening"]]
    hand = Hand(random, False)
    hand.day, hand.minute = date.fromisoformat(line["hand"]["day"]), line["hand"]["minute"]
    hand.chosen = dict(line["hand"]["forms"])
    fields = tuple(_fields(opening, line["text"], line["said"]))
    # Numbers are those of templates, of which it has none.
    return Snippet(line["text"], fields, opening.domain, opening.topic, opening.style, -1, hand)


@cache
def _numbered() -> dict[tuple[str, int], Template]:
    return {(one.domain, one.number): one for one in openings()}


def _kept(own: Field, value: Value, span: tuple[int, int]) -> list[Any]:
    known = [value.text] if own.kind == "phrase" else [value.meaning, value.unit]
    # Most texts mean no more than they say.
    while known and known[-1] in (None, ""):
        known.pop()
    return [*span, *known]


def _fields(opening: Template, text: str, said: dict[str, list[list[Any]]]) -> Iterator[Field]:
    for key, blank in blanks(opening).items():
        kept = said.get(key, [])
        spans = tuple((start, end) for start, end, *_ in kept)
        if blank.kind == "phrase":
            values = tuple(Value(known) for _, _, known in kept)
        else:
            values = tuple(Value(text[start:end], *known) for start, end, *known in kept)
        yield replace(blank, values=values, spans=spans)
