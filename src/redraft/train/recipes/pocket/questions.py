"""Questions about a snippet, each with its answer: fields to extract, options to choose from, an answer in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from redraft.tasks.slots import INSTRUCTION, Piece, asked
from redraft.train.recipes.pocket.schemas import CANVAS, canvas_size, schema_for
from redraft.train.recipes.pocket.snippets import MESSAGE, Field, Snippet, Split, templates_of
from redraft.train.recipes.pocket.templates import read_all
from redraft.train.recipes.pocket.values import draw
from redraft.train.recipes.pocket.wordings import phrasings, wording

_STYLES = (
    frozenset({"mail", "letter"}),
    frozenset({"chat", "text message"}),
    frozenset({"receipt"}),
    frozenset({"voicemail"}),
    frozenset({"log line"}),
    frozenset({"minutes"}),
    frozenset({"review"}),
    frozenset({"form"}),
)
"""Styles that are told apart; two of one set are not."""


@dataclass(frozen=True)
class Extract:
    """Values of a schema."""

    schema: dict[str, Any]
    value: Any
    instruction: str

    @property
    def ask(self) -> str:
        return asked(self.schema, self.instruction)


@dataclass(frozen=True)
class Choose:
    """One of several options."""

    kind: str
    """The kind of choice: a topic, a domain, a style, a class by its name, a value, a meaning, yes or no."""
    ask: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Answer:
    """A few words."""

    task: str
    """``answer``, or ``fill`` where they stood in a gap of the text."""
    ask: str
    answer: str
    context: str | None = None
    """The text that is asked about, where it is not the snippet's."""


@dataclass(frozen=True)
class Written:
    """Text between pinned text."""

    task: str
    """``fill`` or ``edit``."""
    ask: str
    pieces: tuple[Piece, ...]
    rest: str = ""
    """The text after the last piece."""
    context: str | None = None
    """The text that is asked about, where it is not the snippet's."""


Question = Extract | Choose | Answer | Written


def extract(snippet: Snippet, random: Random, split: Split) -> Extract | None:
    """The values of some fields."""
    found = schema_for(snippet, random, split.held)
    if found is None or canvas_size(found[0]) > CANVAS:
        return None
    instruction = INSTRUCTION if random.random() < 0.3 else wording("extract", random, split.held)
    return Extract(*found, instruction)


def choose(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    """A topic, a class, or a value, among options that mostly come from the same snippet or domain."""
    ways = [_choose_class] * 4 if snippet.classes else []
    if snippet.style != MESSAGE:
        ways += [_choose_topic] * 2 + [_choose_domain, _choose_style, _yes_or_no, _yes_or_no] + [_choose_value] * 4
        ways += [_choose_meaning] * 3
    return random.choice(ways)(snippet, random, split)


def answer(snippet: Snippet, random: Random, split: Split) -> Answer | None:
    """The answer to a question of the template's, in the words of the text, or that it has none."""
    told = [own for own in snippet.present if own.questions and (own.kind != "phrase" or _is_yes_or_no(own))]
    silent = [own for own in snippet.absent if own.questions]
    if silent and random.random() < 0.35:
        return _may_be_absent(random.choice(silent), snippet, random, split)
    if not told:
        return None
    if random.random() < 0.15:
        return _may_be_absent(random.choice(told), snippet, random, split)
    own = random.choice(told)
    ask = wording("answer", random, split.held).format(question=random.choice(own.questions))
    return Answer("answer", ask, _in_words(own, snippet))


def _may_be_absent(own: Field, snippet: Snippet, random: Random, split: Split) -> Answer:
    none = wording("not said", random, split.held)
    ask = wording("answer or absent", random, split.held).format(question=random.choice(own.questions), none=none)
    return Answer("answer", ask, _in_words(own, snippet) if own.values else none)


def _is_yes_or_no(own: Field) -> bool:
    return set(own.options) <= {"true", "false"} or set(own.options) <= {"yes", "no"}


def _in_words(own: Field, snippet: Snippet) -> str:
    """A value as an answer: as the text has it; of a phrase yes or no."""
    if own.kind == "phrase":
        return {"true": "yes", "false": "no"}.get(own.value.text, own.value.text)
    return snippet.text[own.spans[0][0] : own.spans[-1][1]]


def _asked_to_choose(
    kind: str, question: str, right: str, wrong: Sequence[str], random: Random, split: Split, most: int = 12
) -> Choose | None:
    """Among 2 to ``most`` options, in any order."""
    wrong = [option for option in dict.fromkeys(wrong) if option.lower() != right.lower()]
    if not wrong:
        return None
    options = [right, *random.sample(wrong, min(len(wrong), most - 1, random.choice((1, 2, 2, 3, 3, 3, 4, 5, 7, 11))))]
    random.shuffle(options)
    quote = random.choice(("{}", "{}", "{}", '"{}"'))
    shown = [quote.format(option) for option in options]
    joined = random.choice((", ", ", ", " / ", "; ", " | ")).join(shown)
    lines = "\n".join(f"- {option}" for option in shown)
    ask = wording("choose", random, split.held)
    either = f"{', '.join(shown[:-1])} or {shown[-1]}"
    return Choose(
        kind, ask.format(question=question, options=joined, options_or=either, lines=lines), tuple(options), right
    )


def _choose_topic(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    near = [one.topic for one in templates_of(split) if one.domain == snippet.domain]
    far = [random.choice(templates_of(split)).topic for _ in range(12)]
    wrong = random.sample(near, min(len(near), 12)) if random.random() < 0.7 else far
    return _asked_to_choose("topic", wording("topic", random, split.held), snippet.topic, [*wrong], random, split)


@cache
def _domains() -> list[str]:
    return sorted({one.domain.replace("_", " ") for one in read_all()})


def _choose_domain(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    right = snippet.domain.replace("_", " ")
    return _asked_to_choose("domain", wording("domain", random, split.held), right, _domains(), random, split)


def _choose_style(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    own = next((styles for styles in _STYLES if snippet.style in styles), None)
    if own is None:
        return None
    wrong = [random.choice(sorted(styles)) for styles in _STYLES if styles is not own]
    return _asked_to_choose("style", wording("style", random, split.held), snippet.style, wrong, random, split, 5)


def _choose_class(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    name, value = random.choice(sorted(snippet.classes.items()))
    return _asked_to_choose(
        name, wording(f"class / {name}", random, split.held), value, list(phrasings()[name]), random, split
    )


def _choose_meaning(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    """Ask what a phrase means; where the text has none of them, that it does not say."""
    phrased = [own for own in snippet.fields if own.kind == "phrase" and own.questions and len(own.options) > 1]
    if not phrased:
        return None
    own = random.choice(phrased)
    said = {"true": "yes", "false": "no"} if _is_yes_or_no(own) else {}
    options = [said.get(option, option) for option in own.options]
    none = wording("none", random, split.held)
    if not own.values:
        return _asked_to_choose("meaning", random.choice(own.questions), none, options, random, split)
    if random.random() < 0.2:
        options.append(none)
    return _asked_to_choose(
        "meaning", random.choice(own.questions), said.get(own.value.text, own.value.text), options, random, split
    )


def _choose_value(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    """Which value answers a question; the others stand in the snippet too, or could."""
    told = [own for own in snippet.fields if own.questions and own.kind != "phrase" and not own.many]
    if not told:
        return None
    own = random.choice(told)
    like = [other for other in snippet.present if other.kind == own.kind and other.key != own.key]
    near = [value.text for other in like for value in other.values]
    drawn = [other(own, snippet) for _ in range(random.randint(2, 8))]
    wrong = [text for text in near * 3 + drawn if text not in snippet.text or text in near]
    question = random.choice(own.questions)
    if not own.values:
        return _asked_to_choose("value", question, wording("none", random, split.held), wrong, random, split, 6)
    chance = random.random()
    if chance < 0.15:
        # The text tells it, and no option does.
        return _asked_to_choose("value", question, random.choice(("none of these", "none")), wrong, random, split, 6)
    if chance < 0.3:
        wrong.append("none of these")
    return _asked_to_choose("value", question, own.value.text, wrong, random, split)


def _yes_or_no(snippet: Snippet, random: Random, split: Split) -> Choose | None:
    told = [own for own in snippet.present if own.questions and own.kind != "phrase" and not own.many]
    if not told:
        return None
    own = random.choice(told)
    like = [other for other in snippet.present if other.kind == own.kind and other.key != own.key and not other.many]
    shown, right = own.value.text, "yes"
    if random.random() < 0.5:
        shown = random.choice(like).value.text if like and random.random() < 0.7 else other(own, snippet)
        right = "no" if shown != own.value.text else "yes"
    question = f"{random.choice(own.questions)} {wording('yes or no', random, split.held).format(value=shown)}"
    return _asked_to_choose("yes or no", question, right, ["no" if right == "yes" else "yes"], random, split)


def other(own: Field, snippet: Snippet) -> str:
    """Another value of a field's kind, in the same hand."""
    return draw(own.kind, snippet.hand, own.range).text
