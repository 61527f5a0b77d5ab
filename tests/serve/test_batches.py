"""What a server promises however many it serves: everybody gets the answer they would get alone, bit for bit."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from redraft.engine.result import OnStep
from redraft.engine.scheduler import Handle
from redraft.engine.task import Forward, Task
from redraft.loading import load
from tests.serve.conftest import NAME, Endless, Served, serving, wait_until

MESSAGES = [{"role": "user", "content": "say something"}]
SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "maxItems": 4}
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"enum": ["b", "c"]}}}}}
CHAT = {"model": NAME, "messages": MESSAGES, "max_tokens": 60}
CALL = {**CHAT, "seed": 3, "tools": [TOOL], "tool_choice": "required"}
QUESTIONS = {"a": ["yes", "no"], "b": ["red", "green", "blue"]}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**CHAT, "seed": 1, "n": 2, "logprobs": True, "top_logprobs": 3}),
    ("/v1/chat/completions", {**CHAT, "seed": 2, "max_tokens": 40, "response_format": NAMED}),
    ("/v1/chat/completions", {**CALL, "stream": True}),
    ("/v1/completions", {"model": NAME, "prompt": "once " * 60, "max_tokens": 70, "seed": 4, "logprobs": 2}),
    ("/v1/fim/completions", {"model": NAME, "prompt": "the", "suffix": " end", "max_tokens": 60, "seed": 5}),
    ("/v1/responses", {"model": NAME, "input": "and then", "max_output_tokens": 60, "seed": 6}),
    ("/v1/redraft/generate", {"prompt": "once", "max_tokens": 60, "seed": 7}),
    ("/v1/redraft/generate", {"messages": MESSAGES, "thinking": True, "max_tokens": 60, "seed": 8}),
    ("/v1/redraft/choose", {"prompt": "is it?", "questions": QUESTIONS, "max_denoising_steps": 3, "seed": 9}),
    ("/v1/systemone", {"model": NAME, "state": "six", "questions": {"a": {"type": "noul", "instructions": "?"}}}),
]
# Of the time and of the server, not of the answer: what was cached, how long it took, and names that are drawn.
CHANGING = {"id", "created", "created_at", "completed_at", "usage", "call_id", "item_id"}


def answer_of(response: httpx.Response) -> Any:
    """All that a response says, every number of it, but for what changes from call to call."""
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        return lasting(response.json())
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    return [lasting(json.loads(line)) for line in lines]


def lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: lasting(own) for name, own in value.items() if name not in CHANGING}
    return [lasting(own) for own in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Gate:
    """A request that holds the scheduler's thread until it is opened, so that others are queued when they are."""

    begun: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def task(self, on_step: OnStep | None = None) -> Task[None]:
        self.begun.set()
        self.opened.wait(600)
        yield Forward()


class Broken:
    """A span that the model cannot compute: the forward of everybody in its batch fails with it."""

    rows = 3
    kind = "encode"

    @property
    def cache(self) -> "Broken":
        return self

    def rewind(self) -> None:
        pass

    @property
    def tokens(self) -> Any:
        raise ValueError("a span that is broken")


@dataclass(frozen=True)
class Failing:
    """A request of a few forwards without rows, and then one that fails."""

    forwards: int

    def task(self, on_step: OnStep | None = None) -> Task[None]:
        for _ in range(self.forwards):
            yield Forward()
        yield Forward((Broken(),))  # type: ignore[arg-type]


def leave(up: Served, seed: int) -> None:
    """Ask for a long answer, and close the connection in the middle of it."""
    body = {**CHAT, "max_tokens": 900, "seed": seed, "stream": True}
    with httpx.stream("POST", f"{up.url}/v1/chat/completions", json=body, timeout=600) as answer:
        lines = answer.iter_lines()
        while '"content":"' not in next(lines) or '"role"' in next(lines):
            pass


@pytest.fixture(scope="module")
def given_alone(served: Served) -> list[Any]:
    """What each request is answered by itself."""
    return [answer_of(served.post(path, body)) for path, body in REQUESTS]


@pytest.mark.parametrize(("rows", "together", "owners"), [(1024, 4, "one"), (1024, 2, "three"), (120, 2, "three")])
def test_answers_among_others_who_join_leave_and_fail_are_those_given_alone(
    given_alone: list[Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, rows: int, together: int, owners: str
) -> None:
    """``together``: so many requests at least are seen in one forward of so many ``rows``: of several owners each has
    no more of it than a canvas, one has all of it."""
    # Nothing is cached, so that prompts are among what is computed together.
    engine = load(checkpoint)
    if not engine.model.batch_independent:
        pytest.skip("in torch the rounding of a row depends on its batch")
    sizes: list[int] = []
    forward = engine.runtime.forward

    def noted(forwards: Sequence[Forward]) -> Any:
        sizes.append(sum(bool(one.spans) for one in forwards))
        return forward(forwards)

    monkeypatch.setattr(engine.runtime, "forward", noted)
    with serving(engine, max_batch_rows=rows) as up, ThreadPoolExecutor(len(REQUESTS) + 4) as pool:
        scheduler, gate = up.server.scheduler, Gate()
        own = str(httpx.URL(up.url).host)
        failed_for, endless_for = (own, own) if owners == "one" else ("f", "e")
        scheduler.submit(gate, client=own)
        assert gate.begun.wait(600)
        failing: list[Handle[None]] = [scheduler.submit(Failing(forwards), client=failed_for) for forwards in (0, 3, 9)]
        endless = scheduler.submit(Endless(), client=endless_for)

        def ask(request: tuple[str, dict[str, Any]]) -> Any:
            return answer_of(up.post(*request))

        asked = [pool.submit(ask, request) for request in REQUESTS]
        leaving = [pool.submit(leave, up, seed) for seed in (1, 2)]
        # One of them asks for two answers.
        queued = len(failing) + 1 + len(REQUESTS) + 1 + len(leaving)
        wait_until(lambda: scheduler.load.waiting == queued)
        gate.opened.set()
        assert [one.result() for one in asked] == given_alone
        # Others join while these are still there, and are left by them.
        again = [pool.submit(ask, request) for request in REQUESTS[::2]]
        endless.cancel()
        assert [one.result() for one in again] == given_alone[::2]
        for one in leaving:
            one.result()
        wait_until(lambda: up.idle)
        load_then = scheduler.load
    assert all(isinstance(handle.future.exception(), ValueError) for handle in failing)
    assert load_then.failed == len(failing)
    assert load_then.cancelled == 1 + len(leaving)
    assert max(sizes) >= together
