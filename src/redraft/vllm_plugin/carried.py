"""Takes a request that was checked from vLLM's front end to its workers, as numbers, texts and bytes alone.

What it takes to check and compile is done once, in the front end, where a fault is the client's to be told; a worker
only makes objects of arrays, for it must not keep the other requests waiting.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
from redraft.canvas.draft import Draft
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.step import Pinned
from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.compiler import CompiledConstraint, ThoughtMarkers
from redraft.engine.request import Request
from redraft.engine.sampling import Sampling
from redraft.errors import RequestError

Packed = dict[str, Any]
_RULES: dict[str, type[Any]] = {
    rule.__name__: rule
    for rule in (EntropyBound, ConfidenceThreshold, StableAndConfident, ReproducesCanvas, LinearTemperature)
}
_PLAIN = (
    *("max_tokens", "canvas_length", "seed", "temperature", "max_denoising_steps", "context_length"),
    *("thinking_budget", "best_of"),
)
_TUPLES = ("stop", "end_token_ids")
_KEPT = 32


def packed(request: Request) -> Packed:
    """Return what a worker needs of ``request``. RequestError for what is code, and cannot leave this process."""
    if request.verifier is not None or request.deadline is not None or request.reads_causally:
        raise RequestError("a verifier, a deadline and causal rows stay in one process; vLLM's workers are others")
    draft, pinned, constraint = request.draft, request.pinned, request.constraint
    return {
        "prompt_tokens": len(request.prompt),
        **{name: getattr(request, name) for name in _PLAIN},
        **{name: list(getattr(request, name)) for name in _TUPLES},
        **{name: _rule(getattr(request, name)) for name in ("schedule", "acceptance", "stopping")},
        "sampling": asdict(request.sampling),
        "thought": None if request.thought is None else asdict(request.thought),
        "draft": None if draft is None else [_array(draft.tokens), _array(draft.survival)],
        "pinned": None if pinned is None else [_array(pinned.mask), _array(pinned.tokens)],
        "constraint": None if constraint is None else _constraint(constraint),
    }


class Unpacker:
    """Makes requests of what ``packed`` gave; constraints that came before are the same objects."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, CompiledConstraint] = OrderedDict()

    def request(self, given: Mapping[str, Any], seed: int | None = None) -> Request:
        """Make the request, of which the prompt's tokens are not known: vLLM has encoded them. ``seed``: in the place
        of its own, as vLLM gives one to each of several answers."""
        sampling = {name: _tuples(value) for name, value in given["sampling"].items()}
        plain: dict[str, Any] = {name: given[name] for name in _PLAIN}
        plain |= {} if seed is None else {"seed": seed}
        plain |= {name: tuple(given[name]) for name in _TUPLES}
        plain |= {name: _made(given[name]) for name in ("schedule", "acceptance", "stopping")}
        return Request(
            prompt=(0,) * given["prompt_tokens"],
            **plain,
            sampling=Sampling(**sampling),
            thought=None if given["thought"] is None else ThoughtMarkers(**given["thought"]),
            draft=None if given["draft"] is None else Draft(*map(_tensor, given["draft"])),
            pinned=None if given["pinned"] is None else Pinned(*map(_tensor, given["pinned"])),
            constraint=None if given["constraint"] is None else self._constraint(given["constraint"]),
        )

    def _constraint(self, given: Mapping[str, Any]) -> CompiledConstraint:
        key = given["digest"]
        if key not in self._kept:
            arrays = {name: _numpy(one) for name, one in given["arrays"].items()}
            automaton = TokenAutomaton(start=given["start"], **arrays)
            self._kept[key] = CompiledConstraint.of(
                automaton, given["beginning"], given["max_tokens"], given["lowered"]
            )
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


def _rule(rule: object) -> dict[str, Any]:
    name = type(rule).__name__
    if _RULES.get(name) is not type(rule):
        raise RequestError(f"the rule {rule!r} cannot be taken to vLLM's workers; use one of {', '.join(_RULES)}")
    return {"is": name, **vars(rule)}


def _made(given: Mapping[str, Any]) -> Any:
    return _RULES[given["is"]](**{name: value for name, value in given.items() if name != "is"})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _constraint(compiled: CompiledConstraint) -> dict[str, Any]:
    automaton = compiled.automaton
    names = [field.name for field in fields(automaton) if field.name != "start"]
    arrays = {name: _array(getattr(automaton, name)) for name in names}
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array['dtype']} {array['shape']} ".encode() + array["data"])
    digest.update(f"{automaton.start} {compiled.beginning!r} {compiled.max_tokens} {compiled.lowered}".encode())
    return {
        "digest": digest.digest(),
        "start": int(automaton.start),
        "arrays": arrays,
        "beginning": compiled.beginning,
        "max_tokens": compiled.max_tokens,
        "lowered": compiled.lowered,
    }


def _array(values: Tensor | NDArray[Any]) -> dict[str, Any]:
    array = np.ascontiguousarray(values.cpu().numpy() if isinstance(values, Tensor) else values)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def _numpy(given: Mapping[str, Any]) -> NDArray[Any]:
    # A copy: what messages consist of cannot be written to, which torch warns of.
    return np.frombuffer(given["data"], dtype=given["dtype"]).reshape(given["shape"]).copy()


def _tensor(given: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(_numpy(given))
