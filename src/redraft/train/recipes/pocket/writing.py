"""Gaps, forms and edits of a snippet, each with what is to be written."""

import re
from collections.abc import Iterator, Sequence
from random import Random

from redraft.tasks.layout import widths_alone
from redraft.tasks.slots import Filled, Piece, Pinned
from redraft.train.recipes.pocket.questions import Answer, Written, other
from redraft.train.recipes.pocket.schemas import CANVAS, taken
from redraft.train.recipes.pocket.snippets import Field, Snippet, Split
from redraft.train.recipes.pocket.wordings import wording

_GAPS = ("____", "[...]", "(?)", "???", "<gap>", "[missing]")


def edit(snippet: Snippet, random: Random, split: Split) -> Written | None:
    """The text with something changed, and all else pinned."""
    return random.choice((replaced, replaced, replaced, _hidden, _rewritten))(snippet, random, split)


def span(snippet: Snippet, random: Random) -> tuple[int, int] | None:
    """Some words of the text with words around them on their line; no value, which nobody could guess."""
    shown = [value.text for own in snippet.present if own.kind != "phrase" for value in own.values]
    values = [place for text in shown for place in _places(text, snippet.text)]
    words = [match.span() for match in re.finditer(r"[^\W\d_][\w'-]*", snippet.text)]
    runs = []
    for first, (start, _) in enumerate(words[1:], 1):
        _, end = words[min(first + random.randrange(5), len(words) - 1)]
        free = not any(a < end and start < b for a, b in values)
        if free and end < len(snippet.text) and not re.search(r"[\d\n]", snippet.text[start:end]):
            runs.append((start, end))
    return random.choice(runs) if runs else None


def code_span(text: str, random: Random) -> tuple[int, int] | None:
    """A line of code without its indentation, or a short run of tokens in it; neither the first line nor the last."""
    lines = [match.span(1) for match in re.finditer(r"(?m)^[ \t]*(\S.{3,58}\S)[ \t]*$", text)]
    lines = [(start, end) for start, end in lines if "\n" in text[:start] and "\n" in text[end:]]
    if not lines:
        return None
    start, end = random.choice(lines)
    tokens = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text[start:end])]
    if random.random() < 0.5 or len(tokens) < 4:
        return start, end
    first = random.randrange(1, len(tokens) - 1)
    last = min(first + random.randrange(6), len(tokens) - 1)
    run = start + tokens[first][0], start + tokens[last][1]
    return run if re.search(r"\w\w", text[slice(*run)]) else (start, end)


def unique(snippet: Snippet) -> list[Field]:
    """Fields of one value that the text shows once, and that no other could be taken for."""
    own = [field for field in snippet.present if field.kind != "phrase" and not field.many]
    return [field for field in own if sum(1 for _ in _places(field.value.text, snippet.text)) == 1]


def _places(text: str, whole: str) -> Iterator[tuple[int, int]]:
    """Find where a text stands in another as words of its own."""
    at = whole.find(text)
    while at >= 0:
        end = at + len(text)
        if not (whole[at - 1 : at] if at else "").isalnum() and not whole[end : end + 1].isalnum():
            yield at, end
        at = whole.find(text, at + 1)


def gap(snippet: Snippet, random: Random, split: Split) -> Answer | None:
    """Some words of the text, or a line of it, or a value that stands there twice."""
    mark = random.choice(_GAPS)
    if mark in snippet.text:
        return None
    lines = [match.span() for match in re.finditer(r"(?m)^.{3,60}$", snippet.text)]
    twice = [own for own in snippet.present if own.kind != "phrase" and not own.many]
    twice = [own for own in twice if sum(1 for _ in _places(own.value.text, snippet.text)) == 2]
    if twice and random.random() < 0.6:
        place: tuple[int, int] | None = random.choice(twice).spans[0]
        ask = wording("gap", random, split.held)
    elif len(lines) > 4 and random.random() < 0.3:
        values = [a for own in unique(snippet) for a, _ in own.spans]
        plain = [line for line in lines[1:-1] if not any(line[0] <= at < line[1] for at in values)]
        place = random.choice(plain) if plain else None
        ask = wording("line gap", random, split.held)
    else:
        place = span(snippet, random)
        ask = wording("gap", random, split.held)
    return None if place is None else _gap_at(place, snippet.text, mark, ask)


def gap_at(place: tuple[int, int], text: str, random: Random, split: Split) -> Answer | None:
    """A gap at a place of a text."""
    mark = random.choice(_GAPS)
    return None if mark in text else _gap_at(place, text, mark, wording("gap", random, split.held))


def _gap_at(place: tuple[int, int], text: str, mark: str, ask: str) -> Answer:
    start, end = place
    return Answer("fill", ask.format(gap=mark), text[start:end], f"{text[:start]}{mark}{text[end:]}")


def form(snippet: Snippet, random: Random, split: Split) -> Written | None:
    """A form of two to five lines, some of which are filled in already."""
    told = [own for own in snippet.present if own.kind != "phrase" and not own.many and taken(own.value.text) < 30]
    if len(told) < 2:
        return None
    chosen = random.sample(told, min(len(told), random.randint(2, 5)))
    free = set(random.sample(range(len(chosen)), random.randint(1, min(2, len(chosen)))))
    upper, dash = random.random() < 0.5, random.choice(("", "", "- ", "* "))
    pieces: list[Piece] = []
    for number, own in enumerate(chosen):
        key = own.key.replace("_", " ")
        line = f"{dash}{key.capitalize() if upper else key}:"
        value = f" {own.value.text}"
        pieces += [
            Pinned(line),
            Filled(value, width(value, random)) if number in free else Pinned(value),
            Pinned("\n"),
        ]
    whole = _joined(pieces[:-1])
    return Written("fill", wording("form", random, split.held), whole) if canvas_size(whole) <= CANVAS else None


def width(text: str, random: Random) -> int:
    """A width that holds the text and an end, and does not tell how long it is."""
    return random.choice(widths_alone(taken(text)))


def canvas_size(pieces: Sequence[Piece]) -> int:
    """Return how many positions pieces take at most."""
    return sum(piece.width if isinstance(piece, Filled) else taken(piece.text) for piece in pieces)


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbours that are pinned become one, and empty ones none."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Pinned) and joined and isinstance(joined[-1], Pinned):
            joined[-1] = Pinned(joined[-1].text + piece.text)
        elif piece.text or isinstance(piece, Filled):
            joined.append(piece)
    return tuple(joined)


def _edited(
    snippet: Snippet, ask: str, places: Sequence[tuple[int, int, str]], random: Random, context: str | None = None
) -> Written | None:
    """Places in the text with what is to stand there. What follows the last is shown for some words."""
    text = snippet.text if context is None else context
    pieces: list[Piece] = []
    done = 0
    for start, end, new in sorted(places):
        # A slot begins with the space before it, as tokens do.
        space = start > done and text[start - 1] == " "
        new = f" {new}" if space else new
        pieces += [Pinned(text[done : start - space]), Filled(new, width(new, random))]
        done = end
    shown = " ".join(text[done:].split(" ")[: random.randint(3, 12)])
    whole = _joined([*pieces, Pinned(shown)])
    return Written("edit", ask, whole, text[done + len(shown) :], context) if canvas_size(whole) <= CANVAS else None


def replaced(snippet: Snippet, random: Random, split: Split) -> Written | None:
    """One value in the place of another of its kind."""
    told = unique(snippet)
    if not told:
        return None
    own = random.choice(told)
    new = other(own, snippet)
    if new in snippet.text or taken(new) > 24:
        return None
    if own.questions and random.random() < 0.4:
        ask = wording("replace by question", random, split.held).format(question=random.choice(own.questions), new=new)
    else:
        ask = wording("replace", random, split.held).format(old=own.value.text, new=new)
    return _edited(snippet, ask, [(*own.spans[0], new)], random)


def _hidden(snippet: Snippet, random: Random, split: Split) -> Written | None:
    told = [own for own in unique(snippet) if own.kind in ("person", "phone", "email", "iban", "address", "surname")]
    if not told:
        return None
    kind = random.choice(told).kind
    same = [own for own in told if own.kind == kind]
    plural = {"person": "names", "surname": "names", "phone": "phone numbers", "email": "mail addresses",
              "iban": "bank accounts", "address": "addresses"}[kind]  # fmt: skip
    if len(same) < len([own for own in snippet.present if own.kind == kind]) or kind in ("person", "surname"):
        own = random.choice(same)
        ask = wording("hide", random, split.held).format(what=own.value.text)
        return _edited(snippet, ask, [(*own.spans[0], "[...]")], random)
    ask = wording("hide", random, split.held).format(what=f"all {plural}")
    return _edited(snippet, ask, [(*own.spans[0], "[...]") for own in same], random)


def respelled(snippet: Snippet, random: Random, split: Split) -> Written | None:
    """A word with two letters exchanged, one lost, or one twice; the text is the misspelt one."""
    words = [match for match in re.finditer(r"\b[a-z]{5,}\b", snippet.text)]
    values = [place for own in snippet.present if own.kind != "phrase" for place in own.spans]
    words = [word for word in words if not any(a < word.end() and word.start() < b for a, b in values)]
    if not words:
        return None
    word = random.choice(words)
    start, end = word.span()
    old, at = word.group(), random.randint(1, len(word.group()) - 2)
    wrong = random.choice(
        (old[:at] + old[at + 1] + old[at] + old[at + 2 :], old[:at] + old[at + 1 :], old[:at] + old[at] + old[at:])
    )
    if wrong == old:
        return None
    text = snippet.text[:start] + wrong + snippet.text[end:]
    ask = wording("misspelt", random, split.held)
    return _edited(snippet, ask, [(start, start + len(wrong), old)], random, text)


def _rewritten(snippet: Snippet, random: Random, split: Split) -> Written | None:
    """A date, a time or a number in another form."""
    forms = {"date": "YYYY-MM-DD", "time": "HH:MM"}
    told = [own for own in unique(snippet) if own.kind in forms and own.value.meaning is not None]
    told = [own for own in told if own.value.meaning != own.value.text]
    if not told:
        return None
    own = random.choice(told)
    ask = wording("rewrite as", random, split.held).format(old=own.value.text, form=forms[own.kind])
    return _edited(snippet, ask, [(*own.spans[0], own.value.meaning)], random)
