"""A request as plain JSON, and back: everything that decides what a seed gives, but for code."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
from redraft.canvas.corruption import MaskNoise
from redraft.canvas.draft import Draft
from redraft.canvas.noise import UniformNoise
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident
from redraft.constrain.constraint import Choice, JSONSchema, Regex, Template
from redraft.constrain.language.template import Hole
from redraft.engine.deadline import Deadline
from redraft.engine.request import Request, generate
from redraft.engine.runtime import Runtime
from redraft.errors import RecordingError
from redraft.tasks.choose import Reading
from redraft.tasks.gaps import Gaps
from redraft.tasks.read_slots import SlotReading

_PARTS = (
    *(LinearTemperature, UniformNoise, MaskNoise),
    *(EntropyBound, ConfidenceThreshold, StableAndConfident, ReproducesCanvas),
    *(JSONSchema, Regex, Choice, Template, Hole, Reading, SlotReading, Gaps),
)
_KNOWN: dict[str, type[Any]] = {part.__name__: part for part in _PARTS}
# What a request has and a caller of Engine.request does not give: it comes from the checkpoint.
_FROM_CHECKPOINT = ("schedule", "end_token_ids", "context_length")


def described(request: Request) -> dict[str, Any]:
    """The request as JSON has it, by the names that ``request.generate`` knows."""
    found = {field.name: getattr(request, field.name) for field in fields(request)}
    # What was compiled for one vocabulary follows from these.
    found["constraint"] = found.pop("constraint_source")
    found["thinking"] = found.pop("thought") is not None
    found |= vars(found.pop("sampling"))
    # What is kept of a deadline is known when the answer has ended; pins are vLLM's, where nothing is recorded.
    del found["deadline"], found["pinned"]
    return {name: plain(value) for name, value in found.items()}


def requested(runtime: Runtime, description: Mapping[str, Any], **changed: Any) -> Request:
    """The request that was described, for ``runtime``; ``changed`` are parameters of ``request.generate``.

    Raises RecordingError for what is code and was not kept, unless it is given.
    """
    kept = None if "deadline_ms" in changed else description.get("deadline")
    own = (*_FROM_CHECKPOINT, "deadline", *changed)
    given = {name: value for name, value in description.items() if name not in own}
    prompt = changed.pop("prompt", None) or given.pop("prompt")
    given.pop("prompt", None)
    parameters = {name: _restored(name, value) for name, value in given.items()} | changed
    request = generate(runtime, prompt, **parameters)
    if kept is not None:
        request = replace(request, deadline=Deadline.replayed(kept, runtime.clock))
    ends = tuple(description["end_token_ids"])
    if request.constraint_source is not None and ends != request.end_token_ids:
        compiled = runtime.constraints.compile(request.constraint_source, ends, request.stop, request.thought)
        request = replace(request, constraint=compiled)
    return replace(request, schedule=_restored("schedule", description["schedule"]), end_token_ids=ends)


def prompt_digest(tokens: Sequence[int]) -> dict[str, Any]:
    """Return what is kept of a prompt that is not kept."""
    digest = hashlib.sha256(np.asarray(tokens, "<i4").tobytes()).hexdigest()
    return {"tokens": len(tokens), "sha256": digest}


def plain(value: Any) -> Any:
    """``value`` as JSON has it; of what is code, the name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Draft):
        return {"is": "Draft", "tokens": value.tokens.tolist(), "survival": value.survival.tolist()}
    if _KNOWN.get(type(value).__name__) is type(value) and is_dataclass(value):
        own = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"is": type(value).__name__, **own}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, Sequence):
        return [plain(one) for one in value]
    code = value if hasattr(value, "__qualname__") else type(value)
    return {"code": f"{code.__module__}.{code.__qualname__}"}


def restored(value: Any) -> Any:
    """Return what ``plain`` was given, with sequences as tuples; raises KeyError with the name of what is code."""
    if isinstance(value, list):
        return tuple(restored(one) for one in value)
    if not isinstance(value, Mapping):
        return value
    kind, code = value.get("is"), value.get("code")
    if isinstance(code, str):
        raise KeyError(code)
    own = {name: restored(one) for name, one in value.items() if not (name == "is" and isinstance(kind, str))}
    if not isinstance(kind, str):
        return own
    if kind == "Draft":
        tokens, survival = own["tokens"], own["survival"]
        return Draft(torch.tensor(tokens, dtype=torch.int64), torch.tensor(survival, dtype=torch.float64))
    return _KNOWN[kind](**own)


def _restored(name: str, value: Any) -> Any:
    try:
        return restored(value)
    except KeyError as error:
        raise RecordingError(
            f"the recording cannot be replayed as it is: its {name} is {error.args[0]}, which is code and is kept by "
            f"name only; in Python, replay(..., {name}=...) takes it"
        ) from None
