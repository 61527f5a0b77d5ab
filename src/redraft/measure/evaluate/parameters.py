"""Further arguments of a verb as JSON: which there are, what is wrong with one, and what the engine is given for it."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from redraft.api import Engine
from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.constrain.constraint import Choice, Constraint, JSONSchema, Regex, Template
from redraft.constrain.language.template import Hole
from redraft.engine.canvas_length import check_canvas_length
from redraft.engine.deadline import Deadline, monotonic
from redraft.engine.quality import check_quality
from redraft.engine.request import (
    check_mode,
    check_number,
    check_seed,
    check_stop,
    check_switch,
    check_temperature,
    check_whole,
)
from redraft.engine.thinking import check_effort
from redraft.errors import RequestError
from redraft.models.base import ALL_MODES, AUTO
from redraft.tasks.choose import check_normalize
from redraft.tasks.layout import check_layout

# What an item says by keys of its own, and what no JSON can say.
_ELSEWHERE = ("prompt", "frame")
_NOT_JSON = (
    "on_step",
    "record",
    "verifier",
    "verify_rounds",
    "acceptance",
    "stopping",
    "draft",
    "tools",
    "tool_choice",
)
# But for a verb whose drafts are JSON themselves.
_JSON_OF: Mapping[str, tuple[str, ...]] = {"extract": ("draft",)}

_CHECKS: dict[str, Callable[[Any], object]] = {
    "seed": check_seed,
    "stop": check_stop,
    "temperature": check_temperature,
    "entropy_bound": lambda value: check_number("entropy_bound", value, 0),
    "thinking_budget": lambda value: check_whole("thinking_budget", value, 0),
    "reasoning_effort": check_effort,
    "normalize": check_normalize,
    "layout": check_layout,
    "confidence_threshold": lambda value: _acceptance(value),
    "mode": lambda value: check_mode(value, ALL_MODES),
    "quality": check_quality,
    "deadline_ms": lambda value: Deadline.after(value, monotonic),
    "top_logprobs": lambda value: check_whole("top_logprobs", value, 0, 20),
    **{
        name: lambda value, name=name: check_whole(name, value, 1)  # type: ignore[misc]
        for name in ("max_tokens", "max_denoising_steps", "best_of")
    },
    "canvas_length": lambda value: None if value == AUTO else check_canvas_length(value),
    **{
        name: lambda value, name=name: check_switch(name, value)  # type: ignore[misc]
        for name in ("thinking", "calibrated", "confidence")
    },
}


@cache
def known_parameters(verb: str) -> tuple[str, ...]:
    """Return the arguments of an engine's verb that ``parameters`` may name."""
    own = inspect.signature(getattr(Engine, verb)).parameters
    named = [name for name, one in own.items() if one.kind is one.KEYWORD_ONLY]
    without = {*_ELSEWHERE, *_NOT_JSON}.difference(_JSON_OF.get(verb, ()))
    known = [name for name in named if name not in without]
    # The rule of acceptance that a number says.
    return (*known, "confidence_threshold") if "acceptance" in own else tuple(known)


def check_parameters(verb: str, parameters: Mapping[str, Any]) -> None:
    """Raise RequestError for an argument that the verb does not have, or whose value is surely wrong."""
    for name, value in parameters.items():
        if name not in known_parameters(verb):
            raise RequestError(
                f"parameter {name!r} cannot be given to {verb}; known are {', '.join(known_parameters(verb))}"
            )
        if value is not None and name in _CHECKS:
            _CHECKS[name](value)
    if parameters.get("constraint") is not None:
        _ = _constraint(parameters["constraint"]).expression
    if parameters.get("hole") is not None:
        _ = _hole("hole", parameters["hole"]).expression


def arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine is given for parameters that are checked."""
    given = {name: value for name, value in parameters.items() if value is not None}
    if "constraint" in given:
        given["constraint"] = _constraint(given["constraint"])
    if "hole" in given:
        given["hole"] = _hole("hole", given["hole"])
    if "confidence_threshold" in given:
        given["acceptance"] = _acceptance(given.pop("confidence_threshold"))
    return given


def _acceptance(threshold: Any) -> ConfidenceThreshold:
    try:
        return ConfidenceThreshold(check_number("confidence_threshold", threshold, 0))
    except ValueError as error:
        raise RequestError(str(error)) from error


def _constraint(given: Any) -> Constraint:
    """Read a constraint, in the form in which the server takes one."""
    match given:
        case {"type": "json_schema", "schema": dict() | bool() | str() as schema, **rest} if not rest:
            return JSONSchema(schema)
        case {"type": "regex", "pattern": str() as pattern, **rest} if not rest:
            return Regex(pattern)
        case {"type": "choice", "options": list() as options, **rest} if not rest:
            return Choice(options)
        case {"type": "template", "text": str() as text, **rest} if set(rest) <= {"holes"}:
            holes = rest.get("holes", {})
            if isinstance(holes, dict):
                return Template(text, {name: _hole(f"hole {{{name}}}", hole) for name, hole in holes.items()})
    raise RequestError(
        f'constraint {given!r} must be {{"type": "json_schema", "schema"}}, {{"type": "regex", "pattern"}}, '
        '{"type": "choice", "options"} or {"type": "template", "text", "holes"}'
    )


def _hole(name: str, given: Any) -> Hole:
    known = ("regex", "choices", "type", "min_length", "max_length")
    if not isinstance(given, dict) or not set(given) <= set(known):
        raise RequestError(f"{name} {given!r} must be an object with {', '.join(known)}, of which all may be left out")
    return Hole(**given)
