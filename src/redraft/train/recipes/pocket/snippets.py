"""Snippets: templates with their holes filled, and what each of them is known to say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from random import Random

from redraft.train.recipes.pocket import templates
from redraft.train.recipes.pocket.templates import Again, Hole, OneOf, Optional, Phrased, Template, Text
from redraft.train.recipes.pocket.values import NUMBERS, Hand, Value, draw
from redraft.train.recipes.pocket.wordings import one_of, phrasings

HELD_OUT_DOMAINS = frozenset({"museums_and_libraries", "nature_and_weather_notes"})
_EVERY = 10
"""One template of so many, of each domain, is held out."""
_LEFT_OUT = 0.4

CASUAL = frozenset({"chat", "text message"})
SPOKEN = frozenset({"mail", "letter", "chat", "text message", "note", "post", "voicemail", "review", "card"})
"""Styles in which people write sentences to each other."""
MESSAGE = "message"
"""The style of a snippet without a template."""

_NAMES = frozenset({"person", "first_name", "surname", "handle", "company", "email"})
_BEFORE_ROOM = re.compile(
    r"\b(in|from|at|to|behind|of|into|near|outside|through|for|via|inside|by|beside) $", re.IGNORECASE
)
_VOWEL = re.compile(r"(?!uni|use|eur|uku|one)[aeiou]|hour|honest|(?:SUV|MP|F-|S-)", re.IGNORECASE)
_LONE_A = re.compile(r"\b[aA] $")
_SENTENCE_END = re.compile(r"[.!?][)\"']*\s*$")
_BORDER = re.compile(r"[.!?](?= [A-Z])|[.!](?=\n\n)")
_TOLD = {
    "urgency": re.compile(r"urgent|asap|a\.s\.a\.p|at once|right away|immediate|hurry|\brush|\bnow\b|emergency|priorit"
                          r"|no stress|whenever|quick|soon|press|wait|tonight|today", re.IGNORECASE),
    "reply wanted": re.compile(r"\?|repl|answer|let me know|call|ring|write|text me|respon|confirm|tell|voicemail|bell"
                               r"|message|contact|get back", re.IGNORECASE),
    "attachment": re.compile(r"attach|enclos|photo|pic|file|scan|document|copy|paper|form|below|screenshot|pdf|receipt"
                             r"|invoice|ticket", re.IGNORECASE),
}  # fmt: skip
"""The class values that a template says by itself; none of their phrasings is then added."""
_WOVEN_STYLES = {
    "urgency": frozenset({"mail", "letter", "chat", "text message", "note", "voicemail"}),
    "reply wanted": frozenset({"mail", "letter", "text message", "note"}),
    "attachment": frozenset({"mail", "post"}),
}
_ALONE = ("sentiment", "intent", "department", "tone", "deadline given")
"""Classes that say so much of a message that a second of these could contradict the first."""
_TOGETHER = (("urgency", "reply wanted"), ("attachment",), ("first contact",), ("customer kind",))
"""Classes that may contradict each other; of those in one bracket, one sentence may say what another denies."""


class Split(StrEnum):
    """The parts that a snippet is made of, by what training sees of them."""

    train = "train"
    templates = "templates"
    """Templates that are held out, of known domains, with values and phrasings of training."""
    values = "values"
    """Values, phrasings and wordings that are held out, in templates of training."""
    domain = "domain"
    """All of it held out, and whole domains."""

    @property
    def held(self) -> bool:
        """True if values, phrasings and wordings are held out."""
        return self in (Split.values, Split.domain)


@dataclass(frozen=True)
class Field:
    """Something that a template may say."""

    key: str
    kind: str
    """One of ``values.KINDS``; ``phrase`` where the text shows its value by a phrase alone."""
    values: tuple[Value, ...]
    """None where the snippet does not say it, several of a list."""
    spans: tuple[tuple[int, int], ...] = ()
    """The characters that show each value for the first time; of a phrase, the whole of it."""
    many: bool = False
    options: tuple[str, ...] = ()
    """The meanings that a phrase may have."""
    range: tuple[int, int] | None = None
    questions: tuple[str, ...] = ()

    @property
    def value(self) -> Value:
        """The value of a field that has one."""
        (value,) = self.values
        return value


@dataclass(frozen=True)
class Snippet:
    """A text, and what it is known to say."""

    text: str
    fields: tuple[Field, ...]
    domain: str
    topic: str
    style: str
    number: int
    """The template's number in its domain; -1 where it is made of none."""
    hand: Hand = field(repr=False)
    """The style that it is written in."""
    classes: dict[str, str] = field(default_factory=dict)
    """The values of classes that sentences in it show, such as ``urgency``."""

    @property
    def present(self) -> list[Field]:
        """Fields that it says."""
        return [field for field in self.fields if field.values]

    @property
    def absent(self) -> list[Field]:
        """Fields that it does not say."""
        return [field for field in self.fields if not field.values]


@cache
def templates_of(split: Split) -> tuple[Template, ...]:
    """The templates that snippets of a split are made of."""

    def belongs(template: Template) -> bool:
        if template.domain in HELD_OUT_DOMAINS:
            return split is Split.domain
        held = template.number % _EVERY == _EVERY - 1
        return split is not Split.domain and held == (split is Split.templates)

    return tuple(template for template in templates.read_all() if belongs(template))


def snippet(random: Random, split: Split = Split.train) -> Snippet:
    """Draw a snippet: mostly a template, now and then a message of some sentences that show classes alone."""
    if random.random() < 0.14:
        return _message(random, split)
    written = write(random.choice(templates_of(split)), Hand(random, split.held))
    return _woven(written, random, split.held)


def write(template: Template, hand: Hand) -> Snippet:
    """Fill a template's holes. What it has in optional parts is said or absent."""
    writing = _Writing(template, hand)
    writing.parts(template.text)
    text = "".join(writing.pieces)
    fields = tuple(writing.fields(len(text) - len(text.lstrip())))
    return Snippet(text.strip(), fields, template.domain, template.topic, template.style, template.number, hand)


@cache
def blanks(template: Template) -> dict[str, Field]:
    """Find what a template may say, by key, in the order of the text, with no values yet."""
    found: dict[str, Field] = {}
    for part in templates.parts(template.text):
        questions = tuple(asked.text for asked in template.questions if asked.key == getattr(part, "key", None))
        match part:
            case Hole():
                many = part.count is not None
                found.setdefault(part.key, Field(part.key, part.kind, (), (), many, (), part.range, questions))
            case Phrased():
                known = found[part.key].options if part.key in found else ()
                options = tuple(dict.fromkeys((*known, *part.values)))
                found[part.key] = Field(part.key, "phrase", (), options=options, questions=questions)
    return found


class _Writing:
    """A template on its way to be a text."""

    def __init__(self, template: Template, hand: Hand) -> None:
        self._template, self._hand, self._random = template, hand, hand.random
        self.pieces: list[str] = []
        self._length = 0
        self._blanks = blanks(template)
        self._values: dict[str, tuple[Value, ...]] = {}
        self._spans: dict[str, tuple[tuple[int, int], ...]] = {}
        self._used: set[str] = set()

    def parts(self, text: Text) -> None:
        """Write one part after the other."""
        for part, after in zip(text, (*text[1:], ""), strict=True):
            match part:
                case str():
                    self._write(part)
                case Hole():
                    self._hole(part, after if isinstance(after, str) else "")
                case Again():
                    self._again(part.key)
                case Phrased():
                    self._phrase(part)
                case OneOf():
                    self.parts(self._random.choice(part.texts))
                case Optional() if self._random.random() >= _LEFT_OUT:
                    self.parts(part.text)
                case Optional():
                    pass

    def fields(self, start: int) -> Iterator[Field]:
        """Find what the template may say, each key once, and what the text from ``start`` on does."""
        for key, blank in self._blanks.items():
            if key in self._values:
                spans = tuple((first - start, last - start) for first, last in self._spans[key])
                yield replace(blank, values=self._values[key], spans=spans)
            else:
                yield blank

    def _write(self, text: str) -> tuple[int, int]:
        start = self._length
        self.pieces.append(text)
        self._length += len(text)
        return start, self._length

    def _write_back(self, text: str) -> None:
        """Put ``text`` in the place of the last character."""
        last = self.pieces.pop()
        self.pieces += [last[:-1], text]
        self._length += len(text) - 1

    def _before(self) -> str:
        return next((piece for piece in reversed(self.pieces) if piece), "")

    def _hole(self, hole: Hole, after: str) -> None:
        known = hole.key in self._values
        values = self._values.get(hole.key) or self._drawn(hole)
        before = self._before()
        if not known:
            values = tuple(self._in_place(hole, value, before, after) for value in values)
        if _LONE_A.search(before) and _VOWEL.match(values[0].text):
            self._write_back("n ")
        if hole.kind == "room" and values[0].text[:1].islower() and _BEFORE_ROOM.search(before):
            self._write("the ")
        spans = []
        for number, value in enumerate(values):
            if number:
                last = number == len(values) - 1
                self._write(" and " if last and self._template.style not in ("log line", "receipt", "form") else ", ")
            if hole.article:
                self._write("an " if _VOWEL.match(value.text) else "a ")
            spans.append(self._write(value.text))
        if not known:
            self._values[hole.key], self._spans[hole.key] = values, tuple(spans)

    def _again(self, key: str) -> None:
        for part in templates.parts(self._template.text):
            if isinstance(part, Hole) and part.key == key:
                return self._hole(part, "")
        # Of a phrased value its word.
        self._write("".join(value.text for value in self._values.get(key, ())))

    def _drawn(self, hole: Hole) -> tuple[Value, ...]:
        count = self._random.randint(*hole.count) if hole.count else 1
        return tuple(self._fresh(hole) for _ in range(count))

    def _fresh(self, hole: Hole) -> Value:
        """A value that nothing else in the snippet could be taken for."""
        for _ in range(40):
            value = draw(hole.kind, self._hand, hole.range)
            own = {value.text.lower()}
            if hole.kind in _NAMES:
                own |= {word for word in re.split(r"[\W_\d]+", value.text.lower()) if len(word) > 2}
            if not own & self._used:
                break
        self._used |= own
        return value

    def _in_place(self, hole: Hole, value: Value, before: str, after: str) -> Value:
        """A value as it is written where it stands: a small number in a word, a capital at the start of a sentence."""
        style, text = self._template.style, value.text
        small = hole.kind == "integer" and isinstance(value.meaning, int) and 1 < value.meaning < len(NUMBERS)
        if small and style in SPOKEN and before.endswith(" ") and re.match(r" [a-z]", after):
            text = NUMBERS[value.meaning] if self._random.random() < 0.3 else text
        starts = not before or _SENTENCE_END.search(before)
        if starts and text[:1].islower() and not hole.article and style in SPOKEN - CASUAL and "@" not in text:
            text = text[0].upper() + text[1:]
        return value if text is value.text else replace(value, text=text)

    def _phrase(self, part: Phrased) -> None:
        known = self._values.get(part.key)
        value = known[0].text if known else self._random.choice(part.values)
        phrases = [text for name, text in part.phrases if name == value] or [()]
        start = self._length
        if not known:
            self._values[part.key] = (Value(value),)
        self.parts(self._random.choice(phrases))
        if not known:
            self._spans[part.key] = ((start, self._length),)


def _woven(snippet: Snippet, random: Random, held: bool) -> Snippet:
    """The snippet with a sentence or two more between those of its own: some show a class, others nothing."""
    if snippet.style not in SPOKEN or random.random() < 0.5:
        return snippet
    keys = " ".join(field.key for field in snippet.fields).replace("_", " ")
    said = f"{snippet.text} {snippet.topic} {keys}"
    names = [
        name
        for name, told in _TOLD.items()
        if snippet.style in _WOVEN_STYLES[name] and random.random() < 0.35 and not told.search(said)
    ]
    if "urgency" in names and "reply wanted" in names:
        names.remove(random.choice(("urgency", "reply wanted")))
    for name in names[:2] or ["distractor"]:
        value = random.choice(list(phrasings()[name]))
        woven = _with_sentence(snippet, one_of(phrasings()[name][value], random, held), random)
        if woven is not snippet and value:
            woven = replace(woven, classes={**snippet.classes, name: value})
        snippet = woven
    if names and random.random() < 0.4:
        snippet = _with_sentence(snippet, one_of(phrasings()["distractor"][""], random, held), random)
    return snippet


def _with_sentence(snippet: Snippet, sentence: str, random: Random) -> Snippet:
    """A sentence more at the end of one, never inside of what shows a value."""
    spans = [span for own in snippet.fields for span in own.spans]
    places = [match.end() for match in _BORDER.finditer(snippet.text)]
    places = [place for place in places if not any(start < place < end for start, end in spans)]
    if not places and not _SENTENCE_END.search(snippet.text):
        return snippet
    at = random.choice(places or [len(snippet.text)])
    if any(start < at < end for start, end in spans):
        return snippet
    sentence = f" {sentence}" + ("." if sentence[-1].isalnum() and snippet.style not in CASUAL else "")
    text = f"{snippet.text[:at]}{sentence}{snippet.text[at:]}"
    more = len(sentence)

    def moved(own: Field) -> Field:
        return replace(own, spans=tuple((a + more, b + more) if a >= at else (a, b) for a, b in own.spans))

    return replace(snippet, text=text, fields=tuple(map(moved, snippet.fields)))


def _message(random: Random, split: Split) -> Snippet:
    """Some sentences that show classes that do not contradict each other, and some that show nothing."""
    names = []
    if random.random() < 0.75:
        names.append(random.choice(_ALONE))
    # To those that say how or why somebody writes, nothing is added that could say otherwise.
    if not names or names == ["department"]:
        names += [random.choice(own) for own in random.sample(_TOGETHER, random.randint(1, 2))]
    classes = {name: random.choice(list(phrasings()[name])) for name in names}
    sentences = []
    for name, value in classes.items():
        count = random.randint(1, 3) if len(classes) == 1 else 1
        own = {one_of(phrasings()[name][value], random, split.held) for _ in range(count)}
        sentences += sorted(own)
    if random.random() < 0.35 and "tone" not in classes:
        sentences.append(one_of(phrasings()["distractor"][""], random, split.held))
    random.shuffle(sentences)
    # Where one does not say that it ends, the next begins a line.
    text = "".join(one + ("\n" if one[-1].isalnum() else " ") for one in sentences).strip()
    return Snippet(text, (), MESSAGE, "", MESSAGE, -1, Hand(random, split.held), classes)
