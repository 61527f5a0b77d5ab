"""What a body makes the interpreter do at once has a bound, however it is written."""

import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope, Send

from redraft.serve.http import shape as shape_module
from redraft.serve.http.entry import Entry
from redraft.serve.http.shape import LARGE, BodyShape, shape
from redraft.serve.wire import anthropic_fields, mercury, systemone
from redraft.serve.wire import redraft as native
from redraft.serve.wire.fields import Body
from redraft.serve.wire.openai import chat_fields, completion_fields, responses_fields
from tests.thorough import some

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def counted(document: Any) -> tuple[int, int]:
    """The strings, arrays and objects, and the members of these, by walking it."""
    match document:
        case str():
            return 1, 0
        case list():
            inner = [counted(one) for one in document]
            return 1 + sum(values for values, _ in inner), len(document) + sum(members for _, members in inner)
        case dict():
            inner = [counted(one) for one in document.values()]
            values = 1 + len(document) + sum(values for values, _ in inner)
            return values, len(document) + sum(members for _, members in inner)
    return 0, 0


@settings(max_examples=some(50), suppress_health_check=[HealthCheck.too_slow])
@given(DOCUMENTS, st.booleans())
def test_values_are_counted_as_a_parser_would(document: Any, ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    values, members = shape(body, 10**9)
    expected_values, expected_members = counted(document)
    assert values == expected_values
    # An empty array counts as if it had a member: what must not happen is to count too few.
    assert expected_members <= members <= expected_members + expected_values


def bodies(cls: type[Body] = Body) -> set[type[Body]]:
    return {cls, *(own for one in cls.__subclasses__() for own in bodies(one))}


def lists(schema: Any) -> list[dict[str, Any]]:
    """Every array and mapping in a schema of pydantic's."""
    if isinstance(schema, dict):
        own = [schema] if schema.get("type") in ("list", "dict", "set", "tuple") else []
        return own + [found for part in schema.values() for found in lists(part)]
    if isinstance(schema, list | tuple):
        return [found for part in schema for found in lists(part)]
    return []


def test_every_array_of_every_format_is_refused_at_its_first_fault() -> None:
    formats = (anthropic_fields, mercury, systemone, native, chat_fields, completion_fields, responses_fields)
    assert {module.__name__ for module in formats} <= {cls.__module__ for cls in bodies()}
    for cls in bodies():
        assert all(one.get("fail_fast") for one in lists(cls.__pydantic_core_schema__)), cls


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [1] * 5000},
        {"messages": [{"role": "user", "content": [{"type": "x"}] * 5000}]},
        {"messages": [{"role": "user", "content": "x", **{f"f{number}": 1 for number in range(5000)}}]},
        {"stop": [1] * 5000},
        {f"f{number}": 1 for number in range(5000)},
    ],
    ids=["messages", "parts", "fields of a message", "stop", "fields"],
)
def test_few_faults_are_told_of_many(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        chat_fields.ChatBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}], **body})
    assert refused.value.error_count() <= 8


def test_an_unknown_field_is_named_also_among_many() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "zzz": 1, **{str(n): 1 for n in range(50)}}
    with pytest.raises(ValidationError) as refused:
        chat_fields.ChatBody.model_validate(body)
    assert [(fault["type"], fault["loc"]) for fault in refused.value.errors()] == [("extra_forbidden", ("zzz",))]


def test_large_bodies_of_a_client_are_looked_through_one_at_a_time_and_no_other_client_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, go, log = list[bytes](), threading.Event(), list[str]()

    def held(body: bytes, max_quotes: int) -> tuple[int, int]:
        started.append(body[:1])
        if body.startswith(b"a"):
            assert go.wait(600)
        return 0, 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        log.append(message["body"][:1].decode())

    async def run() -> None:
        shaped = BodyShape(app, 100, 100, Entry(), with_keys=False)

        def ask(owner: str) -> asyncio.Task[None]:
            parts = iter([owner.encode() * LARGE, b"x"])

            async def receive() -> Message:
                body = next(parts)
                return {"type": "http.request", "body": body, "more_body": body != b"x"}

            async def send(message: Message) -> None:
                raise AssertionError("nothing is sent here")

            return asyncio.create_task(shaped({"type": "http", "client": (owner, 1), "headers": []}, receive, send))

        of_a = [ask("a") for _ in range(3)]
        await ask("b")
        assert log == ["b"]
        while b"a" not in started:
            await asyncio.sleep(0)
        assert started.count(b"a") == 1
        go.set()
        await asyncio.gather(*of_a)

    monkeypatch.setattr(shape_module, "shape", held)
    asyncio.run(run())
    assert log == ["b", "a", "a", "a"]
