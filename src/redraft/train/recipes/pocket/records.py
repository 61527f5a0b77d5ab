"""Training records and evaluation items: what is drawn for an index depends on seed, split and index alone."""

import json
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from redraft.constrain.constraint import JSONSchema
from redraft.tasks.extract import INSTRUCTION as EXTRACT_INSTRUCTION
from redraft.tasks.slots import INSTRUCTION, Filled, Piece, Pinned
from redraft.train.recipes.pocket.excerpts import CODE, PROSE, excerpt
from redraft.train.recipes.pocket.openings import finished
from redraft.train.recipes.pocket.questions import Answer, Choose, Extract, Question, Written, answer, choose, extract
from redraft.train.recipes.pocket.schemas import schema_for
from redraft.train.recipes.pocket.snippets import MESSAGE, Snippet, Split, snippet
from redraft.train.recipes.pocket.writing import code_span, edit, form, gap, gap_at, respelled, span, width

Record = dict[str, Any]
Item = dict[str, Any]

_TASKS = {"extract": extract, "choose": choose, "answer": answer, "fill": form, "edit": edit}
_SHARES = {"extract": 0.4, "choose": 0.26, "answer": 0.12, "fill": 0.12, "edit": 0.1}
_FINISHED = 0.08
"""The share of snippets, in training, that a language model finished."""
_EXCERPTS = 0.04
"""The share of records about an excerpt of a package, of splits that have any."""
_EXCERPT_ITEMS = 0.2
"""Their share of the items that ask to fill a gap."""
_SHOWN_WORDS = 8
_MOST_OF_A_TASK = 2


def random_for(seed: int, split: Split, index: int, what: str) -> Random:
    """Make the generator of all that is drawn for an index."""
    return Random(f"{seed} {split.value} {index} {what}")


def record(seed: int, index: int, split: Split = Split.train) -> Record:
    """One training record, a JSON object: mostly a text and several questions about it; see ``docs/pocket.md``."""
    random = random_for(seed, split, index, "record")
    for _ in range(100):
        excerpt_ = excerpt(random, split) if random.random() < _EXCERPTS else None
        about, chance = excerpt_ or _about(random, split), random.random()
        found: Record | None
        if about is excerpt_:
            found = _excerpt_record(about, random, split)
        elif about.style == MESSAGE:
            found = _questions(about, random, split, random.randint(1, 2), {"choose": 0.8, "extract": 0.2})
        elif chance < 0.06:
            found = _json_record(about, random)
        elif chance < 0.11:
            found = _raw_gap(about, span(about, random))
        elif chance < 0.14:
            found = _whole_edit(about, random, split)
        elif chance < 0.21:
            found = _with_fault(about, random, split)
        else:
            found = _questions(about, random, split, random.randint(3, 5), _SHARES)
        if found is not None:
            return found
    raise ValueError(f"nothing can be asked about any of 100 snippets of {split.value}")


def records(seed: int, split: Split = Split.train, start: int = 0) -> Iterator[Record]:
    """All records from an index on, without an end."""
    while True:
        yield record(seed, start, split)
        start += 1


def item(seed: int, index: int, split: Split) -> Item:
    """One evaluation item, as ``redraft evaluate`` takes it: a verb, its arguments, what is right, and its groups.

    ``extract`` has ``text``, ``schema`` and ``value``, ``choose`` ``messages``, ``options`` and ``answer``, ``fill``
    ``prefix``, ``suffix`` and ``answer``, with ``messages`` where it fills in a form, ``generate`` ``messages`` and
    ``answer``. The group ``kind`` says what is asked.
    """
    random = random_for(seed, split, index, "item")
    verb = random.choices(("extract", "choose", "fill", "generate"), (0.4, 0.35, 0.1, 0.15))[0]
    for _ in range(200):
        excerpt_ = excerpt(random, split) if verb == "fill" and random.random() < _EXCERPT_ITEMS else None
        about = excerpt_ or snippet(random, split)
        found = _item(verb, about, random, split)
        if found is not None:
            kind = found.pop("kind")
            groups = {"kind": kind, **({"topic": about.topic} if about.topic else {})}
            return {**found, "domain": about.domain, "split": split.value, "groups": groups}
    raise ValueError(f"no item of verb {verb} can be made of 200 snippets of {split.value}")


def items(seed: int, split: Split, start: int = 0) -> Iterator[Item]:
    """All items from an index on, without an end."""
    while True:
        yield item(seed, start, split)
        start += 1


def _questions(about: Snippet, random: Random, split: Split, count: int, shares: Mapping[str, float]) -> Record | None:
    """A text and up to ``count`` different questions about it."""
    found: dict[tuple[str, object], dict[str, Any]] = {}
    for task in random.choices(list(shares), list(shares.values()), k=count):
        if sum(own["task"] == task for own in found.values()) == _MOST_OF_A_TASK:
            continue
        question = _TASKS[task](about, random, split)
        if question is None:
            continue
        own = _question(question, random)
        # The same answer once more would mostly be that to the same question.
        same = question.answer if isinstance(question, Choose | Answer) else question.ask
        found.setdefault((task, same), own)
    return {"context": about.text, "questions": list(found.values())} if found else None


def _question(question: Question, random: Random) -> dict[str, Any]:
    match question:
        case Extract():
            return {"task": "extract", "ask": question.ask, "schema": question.schema, "value": question.value}
        case Choose():
            # As wide as any of the options needs, as where it is read: the width does not tell which one it is.
            slot = Filled(question.answer, max(width(option, random) for option in question.options))
            return {"task": "choose", "ask": question.ask, "canvas": [_piece(slot)]}
        case Answer():
            return {"task": question.task, "ask": question.ask, "canvas": [_short(question.answer, random)]}
        case Written():
            return {"task": question.task, "ask": question.ask, "canvas": [_piece(piece) for piece in question.pieces]}


def _piece(piece: Piece) -> dict[str, Any]:
    return {"pinned": piece.text} if isinstance(piece, Pinned) else {"slot": piece.text, "width": piece.width}


def _short(answer: str, random: Random) -> dict[str, Any]:
    """A few words on a short canvas: on the longest one, nearly all positions would be end tokens."""
    return _piece(Filled(answer, width(answer, random)))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _with_fault(about: Snippet, random: Random, split: Split) -> Record | None:
    """A text with a gap or a mistake in it."""
    question = (gap if random.random() < 0.6 else respelled)(about, random, split)
    return None if question is None else {"context": question.context, "questions": [_question(question, random)]}


def _json_record(about: Snippet, random: Random) -> Record | None:
    """Free JSON, as ``Engine.extract`` asks for it where no slots are laid out."""
    found = schema_for(about, random, False, most=4)
    if found is None:
        return None
    schema, value = found
    said = EXTRACT_INSTRUCTION.format(schema=JSONSchema(schema).schema)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    messages = [_user(f"{said}\n\n{about.text}"), {"role": "assistant", "content": text}]
    return {"task": "json", "messages": messages}


def _about(random: Random, split: Split) -> Snippet:
    """A snippet; those that a language model finished have values and templates of training."""
    return finished(random) if split is Split.train and random.random() < _FINISHED else snippet(random, split)


def _place(about: Snippet, random: Random) -> tuple[int, int] | None:
    return code_span(about.text, random) if about.style == CODE else span(about, random)


def _excerpt_record(about: Snippet, random: Random, split: Split) -> Record | None:
    """A gap in a text of which nothing else is known: asked for, or as ``Engine.fill`` does without a prompt."""
    place = _place(about, random)
    if place is None or random.random() < 0.5:
        return _raw_gap(about, place)
    question = gap_at(place, about.text, random, split)
    return None if question is None else {"context": question.context, "questions": [_question(question, random)]}


def _raw_gap(about: Snippet, place: tuple[int, int] | None) -> Record | None:
    """Ask as ``Engine.fill`` does without a prompt: the prefix, and a canvas of the middle and the suffix's start."""
    if place is None:
        return None
    start, end = place
    # The space before a word is part of its token.
    start -= about.text[start - 1] == " "
    rest = re.match(rf"(?:\s*\S+){{0,{_SHOWN_WORDS}}}", about.text[end:])
    shown = rest.group() if rest else ""
    return {"task": "fill", "prompt": about.text[:start], "response": about.text[start:end] + shown}


def _whole_edit(about: Snippet, random: Random, split: Split) -> Record | None:
    """Ask as ``Engine.edit`` does with an instruction alone: the whole text once more."""
    question = (edit if random.random() < 0.8 else respelled)(about, random, split)
    if question is None or len(about.text) > 300:
        return None
    text = question.context or about.text
    written = "".join(piece.text for piece in question.pieces) + question.rest
    messages = [_user(f"{question.ask}\n\n{text}"), {"role": "assistant", "content": written}]
    return {"task": "edit", "messages": messages}


def _item(verb: str, about: Snippet, random: Random, split: Split) -> Item | None:
    match verb:
        case "extract":
            return _extract_item(about, random, split)
        case "choose":
            return _choose_item(about, random, split)
        case "fill":
            return _fill_item(about, random, split)
    return _generate_item(about, random, split)


def _extract_item(about: Snippet, random: Random, split: Split) -> Item | None:
    question = extract(about, random, split)
    if question is None:
        return None
    own = question.instruction != INSTRUCTION
    said: Item = {"parameters": {"instruction": question.instruction}} if own else {}
    return {
        "verb": "extract",
        "kind": "slots",
        "text": about.text,
        "schema": question.schema,
        "value": question.value,
        **said,
    }


def _choose_item(about: Snippet, random: Random, split: Split) -> Item | None:
    question = choose(about, random, split)
    if question is None:
        return None
    prompt = [_user(f"{about.text}\n\n{question.ask}")]
    return {
        "verb": "choose",
        "messages": prompt,
        "options": list(question.options),
        "answer": question.answer,
        "kind": question.kind,
    }


def _fill_item(about: Snippet, random: Random, split: Split) -> Item | None:
    question = form(about, random, split) if random.random() < 0.5 else None
    if question is not None:
        first = next(number for number, piece in enumerate(question.pieces) if isinstance(piece, Filled))
        before, after = question.pieces[:first], question.pieces[first + 1 :]
        prompt = [_user(f"{about.text}\n\n{question.ask}")]
        prefix, suffix = ("".join(piece.text for piece in own) for own in (before, after))
        return {
            "verb": "fill",
            "messages": prompt,
            "prefix": prefix,
            "suffix": suffix,
            "answer": question.pieces[first].text,
            "kind": "form",
        }
    place = _place(about, random)
    if place is None:
        return None
    start, end = place
    start -= about.text[start - 1] == " "
    text, kind = about.text, about.style if about.style in (PROSE, CODE) else "gap"
    return {"verb": "fill", "prefix": text[:start], "suffix": text[end:], "answer": text[start:end], "kind": kind}


def _generate_item(about: Snippet, random: Random, split: Split) -> Item | None:
    question = answer(about, random, split)
    if question is None:
        return None
    return {
        "verb": "generate",
        "messages": [_user(f"{about.text}\n\n{question.ask}")],
        "answer": question.answer,
        "kind": "answer",
    }
