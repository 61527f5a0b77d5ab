"""Items of an evaluation: a JSON object a line, each what a verb is given and the answer that is right.

All that can be said against an item without a model is said here, with its file and line.
"""

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from redraft.errors import RequestError
from redraft.measure.evaluate.parameters import check_parameters
from redraft.measure.evaluate.schemas import check_schema, faults

Verb = Literal["extract", "choose", "fill", "generate"]
GROUP_KEYS = ("group", "domain", "split", "task", "source", "language")
"""Keys of an item that name a group by themselves; others go into its "groups"."""

_COMMON = ("verb", "id", "weight", "groups", "parameters", *GROUP_KEYS)
_PROMPTS = ("prompt", "messages")
_KEYS: dict[str, tuple[str, ...]] = {
    "extract": ("text", "schema", "value"),
    "choose": (*_PROMPTS, "options", "answer", "frame"),
    "fill": (*_PROMPTS, "prefix", "suffix", "answer"),
    "generate": (*_PROMPTS, "answer", "regex", "schema", "command"),
}
_EXPECTED = ("answer", "regex", "schema", "command")


@dataclass(frozen=True)
class Extract:
    """A text to read into JSON."""

    text: str
    schema: Mapping[str, Any] | str
    value: Any
    """The JSON that is right."""


@dataclass(frozen=True)
class Choose:
    """Options to choose from."""

    prompt: str | list[dict[str, Any]]
    options: list[str] | dict[str, list[str]]
    answer: str | dict[str, str]
    """The right option, or that of each question that counts."""
    frame: str | None = None


@dataclass(frozen=True)
class Fill:
    """A gap to fill."""

    prefix: str
    suffix: str
    answer: str
    prompt: str | list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Exact:
    """The one text that is right."""

    text: str


@dataclass(frozen=True)
class Matching:
    """A pattern of ``re`` that the whole of a right text matches."""

    pattern: str


@dataclass(frozen=True)
class ValidJson:
    """A JSON schema under which a right text is valid."""

    schema: Mapping[str, Any] | str


@dataclass(frozen=True)
class Passing:
    """A command that ends with exit code 0 where it gets a right text on standard input."""

    command: tuple[str, ...]


Expected = Exact | Matching | ValidJson | Passing


@dataclass(frozen=True)
class Generate:
    """A prompt to answer."""

    prompt: str | list[dict[str, Any]]
    expected: Expected


Asked = Extract | Choose | Fill | Generate


@dataclass(frozen=True)
class Item:
    """One question of an evaluation, with what is right, and its place in the file."""

    asked: Asked
    id: str
    place: str
    """File and line."""
    weight: float = 1.0
    groups: Mapping[str, str] = field(default_factory=dict)
    """The value of each group key, such as {"domain": "letters"}."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the verb."""

    @property
    def verb(self) -> Verb:
        """The verb that is asked."""
        return cast(Verb, type(self.asked).__name__.lower())

    @property
    def truth(self) -> Any:
        """The right answer, or what says whether one is right, for JSON."""
        match self.asked:
            case Extract(value=value):
                return value
            case Choose(answer=answer) | Fill(answer=answer):
                return answer
            case Generate(expected=Exact(text=text)):
                return text
            case Generate(expected=Matching(pattern=pattern)):
                return {"regex": pattern}
            case Generate(expected=ValidJson(schema=schema)):
                return {"schema": schema}
            case Generate(expected=Passing(command=command)):
                return {"command": list(command)}


def read_items(path: Path, *, allow_commands: bool = False) -> list[Item]:
    """Read and check the items of a file.

    Raises RequestError that names file and line of the first bad item, and how many more there are. ``allow_commands``:
    items may name commands, which run on this machine.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the items {path} cannot be read: {error}") from error
    items: list[Item] = []
    bad: list[RequestError] = []
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            item = _item(_object(line), place, str(number), allow_commands)
            if item.id in seen:
                raise RequestError(f"the id {item.id!r} is taken by {seen[item.id]}")
        except RequestError as error:
            bad.append(RequestError(f"{place}: {error}"))
        else:
            seen[item.id] = place
            items.append(item)
    if bad:
        more = f" (and {len(bad) - 1} more bad item{'s' if len(bad) > 2 else ''})" if len(bad) > 1 else ""
        raise RequestError(f"{bad[0]}{more}")
    if not items:
        raise RequestError(f"there is no item in {path}; give one JSON object a line")
    return items


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the line is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f'an item must be an object, such as {{"verb": "choose", ...}}, not {_shown(found)}')
    if not is_json(found):
        raise RequestError("a number is infinite, too large, or none, which JSON cannot say")
    return found


def is_json(value: Any) -> bool:
    """Tell whether a value that was read from JSON can be written as JSON: Python reads 1e999 as infinite."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _item(given: dict[str, Any], place: str, number: str, allow_commands: bool) -> Item:
    verb = given.get("verb")
    if verb not in _KEYS:
        raise RequestError(f"verb {_shown(verb)} must be one of {', '.join(_KEYS)}")
    known = (*_COMMON, *_KEYS[verb])
    for key in given:
        if key not in known:
            raise RequestError(
                f"key {key!r} is unknown in an item of {verb}; known are {', '.join(_KEYS[verb])}, id, weight, "
                f'parameters and groups; further arguments go into "parameters", groups of other names into "groups"'
            )
    asked: Asked
    if verb == "extract":
        asked = _extract(given)
    elif verb == "choose":
        asked = _choose(given)
    elif verb == "fill":
        prompt = _prompt(given, required=False)
        asked = Fill(_text(given, "prefix"), _text(given, "suffix"), _text(given, "answer"), prompt)
    else:
        prompt = _prompt(given)
        assert prompt is not None, "a prompt was required"
        asked = Generate(prompt, _expected(given, allow_commands))
    parameters = _mapping(given, "parameters")
    check_parameters(verb, parameters)
    return Item(asked, _id(given, number), place, _weight(given), _groups(given), parameters)


def _extract(given: Mapping[str, Any]) -> Extract:
    text, schema = _text(given, "text"), _schema(given)
    if not text.strip():
        raise RequestError("the text is empty; there is nothing to extract")
    value = _required(given, "value")
    check_schema(schema, compiled=True)
    fault = faults(schema, value)
    if fault is not None:
        raise RequestError(f"the value is not valid under the schema, so that no answer could be right: {fault}")
    return Extract(text, schema, value)


def _choose(given: Mapping[str, Any]) -> Choose:
    prompt, options, answer = _prompt(given), _required(given, "options"), _required(given, "answer")
    assert prompt is not None, "a prompt was required"
    several = isinstance(options, dict)
    for name, own in (options if several else {"answer": options}).items():
        where = f"question {name!r}: options" if several else "options"
        if not isinstance(own, list) or len(own) < 2 or not all(isinstance(one, str) for one in own):
            raise RequestError(f'{where} {_shown(own)} must be two texts or more, such as ["yes", "no"]')
        if len(set(own)) < len(own):
            raise RequestError(f"{where} {_shown(own)} has one of them twice")
    if isinstance(answer, str) and several and len(options) > 1:
        raise RequestError(f"there are {len(options)} questions; give the answer of each by its name")
    asked = options if several else {"answer": options}
    truth = answer if isinstance(answer, dict) else dict.fromkeys(asked, answer)
    if not truth:
        raise RequestError("the answer is empty; give that of one question or more")
    for name, right in truth.items():
        if name not in asked:
            raise RequestError(f"the answer is about {name!r}, which is none of the questions {_shown(list(asked))}")
        if right not in asked[name]:
            raise RequestError(f"the answer {_shown(right)} is none of the options {_shown(asked[name])}")
    frame = given.get("frame")
    if frame is not None and not isinstance(frame, str):
        raise RequestError(f"frame {_shown(frame)} must be a text with a hole {{name}} for each question")
    return Choose(prompt, options, answer, frame)


def _expected(given: Mapping[str, Any], allow_commands: bool) -> Expected:
    named = [key for key in _EXPECTED if key in given]
    if len(named) != 1:
        raise RequestError(
            f"there is {' and '.join(named) or 'nothing'} to judge the text by; give one of {', '.join(_EXPECTED)}"
        )
    if named == ["answer"]:
        return Exact(_text(given, "answer"))
    if named == ["regex"]:
        pattern = _text(given, "regex")
        try:
            re.compile(pattern)
        except re.error as error:
            raise RequestError(f"the regex {pattern!r} is not one of Python's: {error}") from error
        return Matching(pattern)
    if named == ["schema"]:
        schema = _schema(given)
        check_schema(schema)
        return ValidJson(schema)
    if not allow_commands:
        raise RequestError("the item runs a command on this machine; read it, and give --allow-commands")
    return Passing(_command(given["command"]))


def _command(given: Any) -> tuple[str, ...]:
    try:
        words = shlex.split(given) if isinstance(given, str) else given
    except ValueError as error:
        raise RequestError(f"the command {given!r} has a quote that does not end: {error}") from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise RequestError(f'command {_shown(given)} must be a text or a list of texts, such as ["python", "-"]')
    return tuple(words)


def _prompt(given: Mapping[str, Any], required: bool = True) -> str | list[dict[str, Any]] | None:
    named = [key for key in _PROMPTS if key in given]
    if len(named) != 1 and (required or named):
        raise RequestError(f"give one of prompt (raw text) and messages (chat), not {' and '.join(named) or 'neither'}")
    if not named:
        return None
    prompt = given[named[0]]
    if named == ["prompt"] and isinstance(prompt, str):
        if not prompt:
            raise RequestError("the prompt is empty; give some text")
        return prompt
    if named == ["prompt"] or not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
        form = "a text" if named == ["prompt"] else 'a list such as [{"role": "user", "content": "..."}]'
        raise RequestError(f"{named[0]} {_shown(prompt)} must be {form}")
    return prompt


def _is_message(given: Any) -> bool:
    return isinstance(given, dict) and isinstance(given.get("role"), str) and isinstance(given.get("content"), str)


def _schema(given: Mapping[str, Any]) -> Mapping[str, Any] | str:
    schema = _required(given, "schema")
    if not isinstance(schema, dict | str):
        raise RequestError(f"schema {_shown(schema)} must be a JSON schema: an object, or its text")
    return schema


def _text(given: Mapping[str, Any], key: str) -> str:
    value = _required(given, key)
    if not isinstance(value, str):
        raise RequestError(f"{key} {_shown(value)} must be a text")
    return value


def _required(given: Mapping[str, Any], key: str) -> Any:
    if key not in given:
        raise RequestError(f"{key} is missing; an item of {given['verb']} needs it")
    return given[key]


def _id(given: Mapping[str, Any], number: str) -> str:
    own = given.get("id", number)
    if isinstance(own, bool) or not isinstance(own, str | int):
        raise RequestError(f"id {_shown(own)} must be a text or a whole number")
    return str(own)


def _weight(given: Mapping[str, Any]) -> float:
    weight = given.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
        raise RequestError(f"weight {_shown(weight)} must be a finite number above 0")
    return float(weight)


def _groups(given: Mapping[str, Any]) -> dict[str, str]:
    named = {key: given[key] for key in GROUP_KEYS if key in given} | _mapping(given, "groups")
    for key, value in named.items():
        if not isinstance(value, str | int | float):
            raise RequestError(f"group {key!r} is {_shown(value)}; it must be a text, a number, true or false")
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in named.items()}


def _mapping(given: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise RequestError(f"{key} {_shown(value)} must be an object")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
