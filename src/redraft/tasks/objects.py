"""Results as JSON objects: what ``--json`` prints, and what is written for the rows of a data set."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import singledispatch
from typing import Any

from redraft.engine.result import Result, Usage
from redraft.tasks.choose import ChooseResult
from redraft.tasks.extract import Extraction
from redraft.tasks.score import ScoreResult


@singledispatch
def as_object(result: Any) -> dict[str, Any]:
    """Return a result as a JSON object; what was not asked for is left out."""
    raise TypeError(f"{type(result).__name__} is no result")


@as_object.register
def _(result: Result) -> dict[str, Any]:
    shown = {**asdict(result), "converged": result.converged, "usage": usage_object(result.usage)}
    absent = [name for name in ("thought", "verified") if shown[name] is None]
    of_kinds = ("log_valid", "logprobs", "causal_logprobs", "tool_calls", "deadline_reached")
    absent += [name for name in of_kinds if not shown[name]]
    return {name: value for name, value in shown.items() if name not in absent}


@as_object.register
def _(result: Extraction) -> dict[str, Any]:
    # A value of a type of the caller's is what its JSON says.
    return {**as_object.dispatch(Result)(result), "value": json.loads(result.text)}


@as_object.register
def _(result: ChooseResult) -> dict[str, Any]:
    return {
        "answers": {
            name: {"choice": one.choice, "confidence": one.confidence, "probabilities": one.probabilities}
            for name, one in result.answers.items()
        },
        "log_valid": result.log_valid,
        "layout": result.layout,
        "fallback": result.fallback,
        **({"deadline_reached": True} if result.deadline_reached else {}),
        "seed": result.seed,
        "usage": usage_object(result.usage),
    }


@as_object.register
def _(result: ScoreResult) -> dict[str, Any]:
    shown = {**asdict(result), "is_greedy": result.is_greedy, "usage": usage_object(result.usage)}
    absent = [name for name, value in shown.items() if value is None or (name == "logprobs" and not value)]
    if result.bound is not None:
        absent += ["token_logprobs", "greedy", "is_greedy"]
    return {name: value for name, value in shown.items() if name not in absent}


def score_object(text: str | Sequence[int], result: ScoreResult, piece: Callable[[int], str]) -> dict[str, Any]:
    """Return a score of a text as a JSON object, with the tokens as texts."""
    return {"text": text, **as_object(result), "pieces": [*map(piece, result.token_ids)]}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return a cost as a JSON object."""
    rates = {"tokens_per_step": usage.tokens_per_step, "tokens_per_forward": usage.tokens_per_forward}
    return {**asdict(usage), **rates}
