"""The events of Redraft's own routes: every denoising step, enough to draw a run and to replay it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from redraft.engine.request import Request
from redraft.engine.result import Chunk, Result, StepEvent, Usage
from redraft.serve.answers import Answers, Done
from redraft.serve.deltas import if_late
from redraft.serve.errors import of_engine, to_json
from redraft.serve.state import Serving
from redraft.tasks.fill import FillResult

_FEWER_DIGITS = 4


async def events(
    here: Serving,
    answers: Answers[Any],
    start: dict[str, Any],
    fields: Mapping[str, str],
    shown: Callable[[Any], dict[str, Any]],
) -> AsyncIterator[str]:
    """Yield the events of an answer: ``start``, its steps and chunks, and what is ``shown`` of its result, or an
    error, whose parameter ``fields`` names."""
    drawing = _Drawing(here)
    try:
        yield _event("start", start)
        if start["beginning"]:
            answers.text_is_ready()
        async for _, event in answers.events():
            match event:
                case StepEvent():
                    yield _event("step", await asyncio.to_thread(drawing.step, event))
                case Chunk():
                    yield _event("chunk", _chunk(event))
                case Done(result=result):
                    yield _event("result", shown(result))
    except Exception as error:
        problem = of_engine(error, fields)
        yield _event("error", {"message": problem.message, "type": problem.type, "param": problem.param})


def start_of(here: Serving, kind: str, request: Request, beginning: str = "") -> dict[str, Any]:
    """Return the first event of a request; ``kind``: how its id begins. ``beginning``: text that is certain."""
    model = here.runtime.model
    return {
        "id": f"{kind}-{uuid4().hex}",
        "model": here.settings.model,
        "seed": request.seed,
        "mode": request.mode,
        "canvas_length": model.config.canvas_length,
        "end_token_ids": list(model.defaults.end_token_ids),
        "prompt_tokens": len(request.prompt),
        "beginning": beginning,
    }


class _Drawing:
    """Writes steps down, each token's text with the first step that it occurs in."""

    def __init__(self, here: Serving) -> None:
        self._here = here
        self._known: set[int] = set()
        self._canvas = -1
        self._before: list[int] = []

    def step(self, event: StepEvent) -> dict[str, Any]:
        """Write down one denoising step."""
        tokens, argmax = event.tokens_in.tolist(), event.argmax.tolist()
        if event.canvas_index != self._canvas:
            self._canvas, self._before = event.canvas_index, []
        before: list[int] | list[None] = self._before or [None] * len(argmax)
        new = {*tokens, *argmax} - self._known
        self._known |= new
        self._before = argmax
        return {
            "canvas": event.canvas_index,
            "step": event.step,
            "of": event.steps,
            "remaining": event.remaining,
            "temperature": event.temperature,
            "tokens": tokens,
            "argmax": argmax,
            "entropy": [round(value, _FEWER_DIGITS) for value in event.entropy.tolist()],
            "accepted": [int(value) for value in event.accepted.tolist()],
            "finished": event.finished,
            "changed": [at for at, (old, now) in enumerate(zip(before, argmax, strict=True)) if old != now],
            "pieces": {str(token): self._here.tokenizer.piece(token) for token in sorted(new)},
        }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    return {
        "canvas": chunk.canvas_index,
        "text": chunk.text,
        "thought": chunk.thought,
        "denoising_steps": chunk.denoising_steps,
        "converged": chunk.converged,
    }


def of_result(result: Result) -> dict[str, Any]:
    """Return the last event of an answer."""
    shown = {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "seed": result.seed,
        "thought": result.thought,
        "log_valid": list(result.log_valid),
        **({"causal_logprobs": list(result.causal_logprobs)} if result.causal_logprobs else {}),
        **({} if result.verified is None else {"verified": result.verified}),
        "unconverged_canvases": list(result.unconverged_canvases),
        **if_late(result),
        "usage": of_usage(result.usage),
    }
    return {**shown, "middle": result.middle} if isinstance(result, FillResult) else shown


def of_usage(usage: Usage) -> dict[str, Any]:
    """Return what an answer cost."""
    return {**asdict(usage), "tokens_per_step": usage.tokens_per_step, "tokens_per_forward": usage.tokens_per_forward}


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {to_json(content)}\n\n"
