"""What the wire models say of every field of every format, for the table of ``docs/serve.md``."""

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from redraft.serve.wire.anthropic_fields import MessagesBody
from redraft.serve.wire.extract import ExtractBody
from redraft.serve.wire.fields import Hint, Only, OtherTool, UnreadPart
from redraft.serve.wire.mercury import EditBody, FimBody
from redraft.serve.wire.openai.chat_fields import ChatBody
from redraft.serve.wire.openai.completion_fields import CompletionBody
from redraft.serve.wire.openai.responses_fields import ItemReference, ResponsesBody
from redraft.serve.wire.redraft import ChooseBody, GenerateBody
from redraft.serve.wire.systemone import SystemOneBody
from redraft.serve.wire.tokens import DetokenizeBody, TokenizeBody

FORMATS: dict[str, type[BaseModel]] = {
    "chat": ChatBody,
    "completions": CompletionBody,
    "responses": ResponsesBody,
    "messages": MessagesBody,
    "fim": FimBody,
    "edit": EditBody,
    "systemone": SystemOneBody,
    "generate": GenerateBody,
    "choose": ChooseBody,
    "extract": ExtractBody,
    "tokenize": TokenizeBody,
    "detokenize": DetokenizeBody,
}
"""The body of each column's route. ``apply`` has that of ``edit``, ``count_tokens`` a part of that of ``messages``."""

HONOURED, ACCEPTED, REFUSED = "H", "A", "R"


def said_of(model: type[BaseModel]) -> dict[str, str]:
    """Every field of a body, nested ones by their path, with what is done with it."""
    found: dict[str, str] = {}
    for path, letter in _fields(model, ""):
        # Of parts that have a field of one name the one that does most with it tells.
        best = min(letter, found.get(path, letter), key="HAR".index)
        found[path] = best
    return found


def _fields(model: type[BaseModel], before: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        path = f"{before}{field.alias or name}"
        marks = list(field.metadata)
        inner, more = _unwrapped(field.annotation)
        marks += more
        if any(isinstance(mark, Only) for mark in marks):
            yield path, REFUSED
        elif any(isinstance(mark, Hint) for mark in marks):
            yield path, ACCEPTED
        else:
            yield path, HONOURED
            for part, suffix in _models(inner):
                yield from _fields(part, f"{path}{suffix}.")


def _unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return inner, marks
    return annotation, []


def _models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """The models that a value may be, and whether they stand in a list or a mapping."""
    annotation, _ = _unwrapped(annotation)
    origin = get_origin(annotation)
    if isinstance(annotation, typing.ForwardRef | str):
        raise AssertionError(f"{annotation!r} is not resolved")
    if origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _models(member)
    elif origin is list:
        for part, suffix in _models(get_args(annotation)[0]):
            yield part, f"[]{suffix}"
    elif origin is dict:
        for part, suffix in _models(get_args(annotation)[1]):
            yield part, f".*{suffix}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        # Of these no field is looked at.
        yield from () if issubclass(annotation, UnreadPart | OtherTool | ItemReference) else ((annotation, ""),)
