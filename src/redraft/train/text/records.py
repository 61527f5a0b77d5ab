"""Records of training data, as a line of a JSONL file has them: checked, and told from each other by their keys.

{"messages": [...]}                            the last message, the assistant's, is the answer to the others
{"prompt": "...", "response": "..."}           raw text, without the chat template
{"context": "...", "questions": [{...}, ...]}  questions to one text, each {"task", "ask"} and what answers it:
    "answer": "..."                            text, on canvases that are filled up with the end token
    "canvas": [{"pinned": "..."} | {"slot": "...", "width": 8}, ...]    one canvas, of which only the slots are hidden
    "schema": {...}, "value": {...}            the same, laid out as ``tasks.slots`` does for serving
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.errors import DataError
from redraft.tasks.slots import Filled, Piece, Pinned

ROLES = ("system", "user", "assistant", "tool")
DEFAULT_TASK = "answer"
MAX_WIDTH = 1 << 16
"""Tokens of the widest slot; no canvas is as long."""


@dataclass(frozen=True)
class SchemaValue:
    """A value, on the canvas of its schema's slots."""

    schema: Mapping[str, Any]
    value: Any


Prompt = str | tuple[Mapping[str, Any], ...]
"""Raw text, or chat messages."""
Answer = str | tuple[Piece, ...] | SchemaValue
"""Text, or what stands on one canvas."""


@dataclass(frozen=True)
class Question:
    """A prompt and what answers it."""

    prompt: Prompt
    answer: Answer
    task: str = DEFAULT_TASK
    weight: float = 1.0
    """Multiplies the loss."""


@dataclass(frozen=True)
class Record:
    """Questions that are encoded together, for their prompts begin alike."""

    questions: tuple[Question, ...]
    where: str
    """The file and line it stands on, for messages."""


def read(path: Path) -> list[Record]:
    """Read a file of one JSON object a line; empty lines are skipped.

    Raises DataError naming the file and the line of the first fault, or a file without records.
    """
    found = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_parse_line(line, f"{path}:{number}"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    if not found:
        raise DataError(f"{path} holds no records; give one JSON object a line")
    return found


def parse(raw: object, where: str) -> Record:
    """Check what a line or a generator says, and return it as a record; DataError, beginning with ``where``."""
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: a record is a JSON object, not {type(raw).__name__}")
    try:
        if "messages" in raw:
            questions = [_of_messages(raw)]
        elif "prompt" in raw:
            questions = [_of_prompt(raw)]
        elif "context" in raw:
            questions = list(_of_context(raw))
        else:
            raise DataError("a record has 'messages', or 'prompt' and 'response', or 'context' and 'questions'")
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return Record(tuple(questions), where)


def _parse_line(line: str, where: str) -> Record:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    return parse(raw, where)


def _of_messages(raw: Mapping[str, Any]) -> Question:
    _only(raw, ("messages", "task", "weight"))
    messages = raw["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError("'messages' is a list of two messages or more, the last of them the answer")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise DataError(f"message {number} needs a 'role' of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise DataError(f"message {number} needs a 'content' that is text")
    if messages[-1]["role"] != "assistant":
        raise DataError(f"the last message is the {messages[-1]['role']}'s; it must be the assistant's, the answer")
    answer = _something("the last message", messages[-1]["content"])
    return Question(tuple(messages[:-1]), answer, *_task_and_weight(raw))


def _of_prompt(raw: Mapping[str, Any]) -> Question:
    _only(raw, ("prompt", "response", "task", "weight"))
    prompt = _text(raw, "prompt")
    if not prompt:
        raise DataError("'prompt' is empty; a canvas needs a token before it")
    return Question(prompt, _something("'response'", _text(raw, "response")), *_task_and_weight(raw))


def _of_context(raw: Mapping[str, Any]) -> Iterator[Question]:
    _only(raw, ("context", "questions"))
    context, questions = _text(raw, "context"), raw.get("questions")
    if not isinstance(questions, list) or not questions:
        raise DataError("'questions' is a list of one question or more")
    for number, one in enumerate(questions):
        try:
            if not isinstance(one, Mapping):
                raise DataError(f"a question is a JSON object, not {type(one).__name__}")
            _only(one, ("task", "ask", "weight", "answer", "canvas", "schema", "value"))
            content = f"{context}\n\n{_text(one, 'ask')}"
            yield Question(({"role": "user", "content": content},), _answer(one), *_task_and_weight(one))
        except DataError as error:
            raise DataError(f"question {number}: {error}") from None


def _answer(raw: Mapping[str, Any]) -> Answer:
    kinds = [kind for kind in ("answer", "canvas", "schema") if kind in raw]
    if len(kinds) != 1:
        raise DataError(
            f"a question has one of 'answer', 'canvas' and 'schema'; this one has {' and '.join(kinds) or 'none'}"
        )
    if ("value" in raw) != ("schema" in raw):
        raise DataError("'schema' and 'value' come together")
    if "schema" in raw:
        if not isinstance(raw["schema"], Mapping):
            raise DataError(f"'schema' is {type(raw['schema']).__name__}; it must be a JSON object")
        return SchemaValue(raw["schema"], raw["value"])
    # A question may have nothing for an answer: then that is what is learned.
    return _text(raw, "answer") if kinds == ["answer"] else tuple(_pieces(raw["canvas"]))


def _pieces(raw: object) -> Iterator[Piece]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise DataError("'canvas' is a list of pieces")
    for number, piece in enumerate(raw):
        keys = set(piece) if isinstance(piece, Mapping) else set()
        if keys not in ({"pinned"}, {"slot", "width"}):
            raise DataError(f"piece {number} of the canvas is {{'pinned': text}} or {{'slot': text, 'width': tokens}}")
        if "pinned" in keys:
            yield Pinned(_text(piece, "pinned"))
            continue
        width = piece["width"]
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_WIDTH:
            raise DataError(
                f"piece {number} of the canvas has width {width!r}; it must be a whole number from 1 to {MAX_WIDTH:,}"
            )
        yield Filled(_text(piece, "slot"), width)
    if not any("slot" in piece for piece in raw):
        raise DataError("'canvas' has no slot, so there is nothing to fill in")


def _task_and_weight(raw: Mapping[str, Any]) -> tuple[str, float]:
    task, weight = raw.get("task", DEFAULT_TASK), raw.get("weight", 1.0)
    if not isinstance(task, str) or not task:
        raise DataError(f"'task' is {task!r}; it must be a name")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise DataError(f"'weight' is {weight!r}; it must be a finite number above 0")
    return task, float(weight)


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str):
        found = "is missing" if name not in raw else f"is {type(value).__name__}"
        raise DataError(f"{name!r} {found}; it must be text")
    return value


def _something(name: str, text: str) -> str:
    """Return an answer that has something to learn."""
    if not text:
        raise DataError(f"{name} is empty: of such an answer only end tokens would be learned; leave the record out")
    return text


def _only(raw: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [name for name in raw if name not in known]
    if unknown:
        raise DataError(f"{unknown[0]!r} is not read here; known are {', '.join(known)}")
