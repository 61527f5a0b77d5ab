"""Snippets of text with holes, written by people, and the notation they are written in.

A file is a domain. A template begins with ``== style / topic``, then its text, then questions, each on a line:

    == mail / a room is asked for
    ((Hello|Dear team)), this is {guest|person}. We would like {room|a room} from {arrival|date} to {departure|date}.
    {breakfast|true: Breakfast for all of us, please.|false: We do not need breakfast.}[[ My number is {phone|phone}.]]
    ? Who is coming? {guest}
    ? Is breakfast wanted? {breakfast}

``{key|kind}`` is a value (see ``values``), ``{key}`` the same value again, ``{key|value: phrase|value: phrase}`` says a
value by a phrase, ``((a|b))`` is one of several, ``[[...]]`` may be left out, and what it holds is then absent.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NoReturn

from redraft.errors import RequestError
from redraft.train.recipes.pocket.values import KINDS

_OPENING = re.compile(r"\{|\(\(|\[\[|\}|\)\)|\]\]|\|")
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_KIND = re.compile(
    r"(?P<article>an? )?(?P<kind>[a-z_]+)(?: (?P<min>\d+)-(?P<max>\d+))?(?:\*(?P<few>\d+)-(?P<many>\d+))?"
)
_PHRASE = re.compile(r"(?P<value>[a-z0-9][a-z0-9 _-]*): ?", re.IGNORECASE)


@dataclass(frozen=True)
class Hole:
    """A value that is drawn, and that the text shows."""

    key: str
    kind: str
    article: bool = False
    """True if "a" or "an" stands before it; it is no part of the value."""
    range: tuple[int, int] | None = None
    count: tuple[int, int] | None = None
    """The number of values that a list has; None is a single value."""


@dataclass(frozen=True)
class Again:
    """The value of a hole, once more."""

    key: str


@dataclass(frozen=True)
class Phrased:
    """A value that phrases stand for, and that the text does not show."""

    key: str
    phrases: tuple[tuple[str, "Text"], ...]

    @property
    def values(self) -> tuple[str, ...]:
        """The values that it may have, each once, in the order they are written in."""
        return tuple(dict.fromkeys(value for value, _ in self.phrases))


@dataclass(frozen=True)
class OneOf:
    """Alternatives that mean the same."""

    texts: tuple["Text", ...]


@dataclass(frozen=True)
class Optional:
    """A part that may be left out."""

    text: "Text"


Part = str | Hole | Again | Phrased | OneOf | Optional
Text = tuple[Part, ...]


@dataclass(frozen=True)
class Question:
    """A question that may be asked about a template's text, and the key whose value answers it."""

    text: str
    key: str


@dataclass(frozen=True, eq=False)
class Template:
    """A snippet with holes. No two are equal: to hash all that is in one takes longer than to fill it."""

    domain: str
    number: int
    """In its file, from 0."""
    style: str
    topic: str
    text: Text
    questions: tuple[Question, ...]


@cache
def read_all(name: str = "templates") -> tuple[Template, ...]:
    """The templates of a folder, in the order of their domains' names."""
    folder = files(__package__) / name
    texts = sorted((file.name, file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".txt"))
    return tuple(template for name, text in texts for template in parse(text, name.removesuffix(".txt")))


def parse(text: str, domain: str) -> list[Template]:
    """The templates of a file.

    Raises RequestError with the line where one begins that is not in this notation.
    """
    found: list[Template] = []
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("== ")]
    if any(line.strip() for line in lines[: starts[0] if starts else None]):
        raise RequestError(f"{domain}, line 1: a template begins with '== style / topic'")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        try:
            found.append(_template(lines[start:end], domain, len(found)))
        except ValueError as error:
            raise RequestError(f"{domain}, line {start + 1}: {error}") from error
    return found


def parts(text: Text) -> Iterator[Part]:
    """All parts, with those inside others after them."""
    for part in text:
        yield part
        match part:
            case Phrased(phrases=phrases):
                for _, phrase in phrases:
                    yield from parts(phrase)
            case OneOf(texts=texts):
                for one in texts:
                    yield from parts(one)
            case Optional(text=inner):
                yield from parts(inner)


def _template(lines: list[str], domain: str, number: int) -> Template:
    style, slash, topic = lines[0].removeprefix("== ").partition(" / ")
    if not slash or not style.strip() or not topic.strip():
        raise ValueError(f"{lines[0]!r} is not '== style / topic'")
    body = [line for line in lines[1:] if not line.startswith("? ")]
    text = _Reader("\n".join(body).strip()).whole()
    holes = [part for part in parts(text) if isinstance(part, Hole | Phrased)]
    keys = {hole.key for hole in holes}
    for part in parts(text):
        if isinstance(part, Again) and part.key not in keys:
            raise ValueError(f"{{{part.key}}} has no kind anywhere")
    if not keys:
        raise ValueError("a template without a value teaches nothing")
    questions = []
    for line in lines[1:]:
        if line.startswith("? "):
            asked = re.fullmatch(r"\? (?P<text>.+\S) \{(?P<key>[a-z0-9_]+)\}\s*", line)
            if asked is None:
                raise ValueError(f"{line!r} is not '? question {{key}}'")
            if asked["key"] not in keys:
                raise ValueError(f"{line!r} asks for {asked['key']}, which the text does not have")
            questions.append(Question(asked["text"], asked["key"]))
    return Template(domain, number, style.strip(), topic.strip(), text, tuple(questions))


class _Reader:
    """Reads the notation from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def whole(self) -> Text:
        text = self._texts("")[0]
        if not text:
            raise ValueError("a template has a text")
        return text

    def _texts(self, end: str) -> list[Text]:
        """Texts between bars, up to and with what ends them; without an end, the one text there is."""
        texts: list[list[Part]] = [[]]
        while True:
            mark = _OPENING.search(self._text, self._at)
            between = self._text[self._at : mark.start() if mark else None]
            if between:
                texts[-1].append(between)
            if mark is None:
                if end:
                    self._fail(f"{end} is missing")
                return [tuple(text) for text in texts]
            self._at = mark.end()
            match mark.group():
                case "{":
                    texts[-1].append(self._hole())
                case "((":
                    texts[-1].append(OneOf(tuple(self._texts("))"))))
                case "[[":
                    (text,) = self._texts("]]")
                    texts[-1].append(Optional(text))
                case "|" if end in ("}", "))"):
                    texts.append([])
                case "|":
                    texts[-1].append("|")
                case closing if closing == end:
                    return [tuple(text) for text in texts]
                case closing:
                    self._fail(f"{closing} closes nothing")

    def _hole(self) -> Hole | Again | Phrased:
        key = _KEY.match(self._text, self._at)
        if key is None:
            self._fail("a key of small letters, digits and underscores is missing")
        self._at = key.end()
        texts = self._texts("}")
        if texts[0]:
            self._fail(f"{{{key.group()} goes on with what is neither | nor }}")
        if len(texts) == 1:
            return Again(key.group())
        if len(texts) == 2:
            return self._kind(key.group(), "".join(part for part in texts[1] if isinstance(part, str)))
        return Phrased(key.group(), tuple(self._phrase(key.group(), text) for text in texts[1:]))

    def _kind(self, key: str, text: str) -> Hole:
        said = _KIND.fullmatch(text.strip())
        if said is None or said["kind"] not in KINDS:
            self._fail(f"{{{key}|{text}}} is of no kind; kinds are {', '.join(sorted(KINDS))}")
        range_, count = (
            None if said[low] is None else (int(said[low]), int(said[high]))
            for low, high in (("min", "max"), ("few", "many"))
        )
        if any(pair and pair[0] > pair[1] for pair in (range_, count)):
            self._fail(f"{{{key}|{text}}} has a range that is empty")
        return Hole(key, said["kind"], said["article"] is not None, range_, count)

    def _phrase(self, key: str, text: Text) -> tuple[str, Text]:
        said = _PHRASE.match(text[0]) if text and isinstance(text[0], str) else None
        if said is None:
            self._fail(f"a phrase of {{{key}}} does not begin with 'value: '")
        rest = str(text[0])[said.end() :]
        return said["value"].strip(), ((rest,) if rest else ()) + text[1:]

    def _fail(self, why: str) -> NoReturn:
        raise ValueError(f"{why}, near {self._text[max(0, self._at - 30) : self._at + 10]!r}")
