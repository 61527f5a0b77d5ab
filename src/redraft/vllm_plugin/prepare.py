"""From what vLLM's server is asked for to a request of the engine, checked and compiled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.canvas.draft import Draft
from redraft.canvas.step import Pinned
from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident
from redraft.constrain.constraint import Choice, Constraint, JSONSchema, Regex, Template
from redraft.constrain.language.template import Hole
from redraft.engine.request import Request, check_number, check_whole, generate
from redraft.engine.runtime import Runtime
from redraft.engine.tools import ToolChoice, calling, tool_use
from redraft.errors import RequestError
from redraft.tasks.edit import EditRequest, edit
from redraft.tasks.fill import fill
from redraft.tasks.infill import context_before, draft_of

PREFIX = "redraft_"
"""The beginning of the names, in ``vllm_xargs``, of what vLLM has no field for."""
# Names that are parameters of ``request.generate``, without the prefix.
_PARAMETERS = (
    *("max_denoising_steps", "entropy_bound", "thinking", "thinking_budget", "best_of", "quality"),
    "reasoning_effort",
)
_RULES = ("confidence", "stopping", "stability_threshold", "confidence_threshold")
_TEXTS = ("template", "holes", "prefix", "suffix", "hole", "edit", "spans", "strength", "draft", "survival")
OPTIONS = frozenset((*_PARAMETERS, *_RULES, *_TEXTS))


@dataclass(frozen=True)
class Wanted:
    """A request as vLLM's server has it."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of ``request.generate`` that vLLM has fields for."""
    constraint: Constraint | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    """Functions, where the answer has to call one of them."""
    tool_choice: ToolChoice = "required"
    options: Mapping[str, Any] = field(default_factory=dict)
    """The values of ``vllm_xargs``, without the prefix."""
    seed_canvas: Sequence[int] | None = None
    pinned: Sequence[int] = ()
    """Positions of the seed canvas that keep their token."""


def structured(given: Mapping[str, Any]) -> Constraint:
    """Make the constraint of vLLM's ``structured_outputs``, of which one kind is given; RequestError names another."""
    if given.get("json") is not None:
        schema = given["json"]
        return JSONSchema(schema if isinstance(schema, str) else json.dumps(schema))
    if given.get("json_object"):
        return JSONSchema({"type": "object"})
    if given.get("regex") is not None:
        return Regex(given["regex"])
    if given.get("choice") is not None:
        return Choice(given["choice"])
    kinds = ("grammar", "structural_tag")
    kind = next((name for name in kinds if given.get(name) is not None), "this kind")
    raise RequestError(f"structured_outputs: {kind} is not supported; use json, json_object, regex or choice")


def prepare(runtime: Runtime, prompt: Sequence[int], wanted: Wanted) -> Request:
    """Check all that is ``wanted``, compile the constraint, and return the request: its prompt ends with the text that
    an infill or an edit stands behind.

    Raises RequestError, of a constraint ConstraintError, naming what cannot be honoured.
    """
    options = wanted.options
    if unknown := options.keys() - OPTIONS:
        known = ", ".join(PREFIX + name for name in sorted(OPTIONS))
        raise RequestError(f"vllm_xargs: {PREFIX}{min(unknown)} is unknown; known are {known}")
    parameters = {**wanted.sampling, **_own_parameters(options)}
    kinds = _kinds(wanted)
    if len(kinds) > 1:
        raise RequestError(f"{' and '.join(kinds)} exclude each other; each says what the whole answer is")
    _check_companions(options)
    if "edit" in options:
        return _edit(runtime, prompt, options, parameters)
    if "suffix" in options or "prefix" in options:
        hole = _hole("hole", options)
        texts = (options.get("prefix", ""), options.get("suffix", ""))
        return fill(runtime, *texts, prompt=list(prompt), hole=hole, **parameters).request
    parameters["constraint"] = _constraint(runtime, wanted)
    draft, pins = _start(runtime, wanted)
    request = generate(runtime, list(prompt), mode="diffusion", draft=draft, **parameters)
    return replace(request, pinned=pins)


def _kinds(wanted: Wanted) -> list[str]:
    """Name what says what the answer is."""
    named = ("template", "edit")
    found = [PREFIX + name for name in named if name in wanted.options]
    if "suffix" in wanted.options or "prefix" in wanted.options:
        found.append(f"{PREFIX}suffix")
    if wanted.constraint is not None and not wanted.tools:
        found.append("structured_outputs")
    if wanted.tools:
        found.append("tool_choice")
    return found


def _check_companions(options: Mapping[str, Any]) -> None:
    """Refuse what means nothing without another."""
    for name, needed in (
        ("holes", ("template",)),
        ("hole", ("suffix", "prefix", "edit")),
        ("spans", ("edit",)),
        ("strength", ("edit",)),
        ("survival", ("draft",)),
        ("stability_threshold", ("stopping",)),
    ):
        if name in options and not any(one in options for one in needed):
            raise RequestError(f"{PREFIX}{name} needs {' or '.join(PREFIX + one for one in needed)}; give it, too")


def _own_parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: options[name] for name in _PARAMETERS if name in options}
    if "thinking" in found:
        # In vllm_xargs there are no true and false.
        found["thinking"] = bool(check_whole(f"{PREFIX}thinking", int(found["thinking"]), 0, 1))
    if "confidence" in options:
        found["acceptance"] = _made(ConfidenceThreshold, options["confidence"])
    stopping, sure = options.get("stopping"), options.get("confidence_threshold")
    if stopping not in (None, "stable", "reproduces"):
        raise RequestError(f"{PREFIX}stopping {stopping!r} must be 'stable' or 'reproduces'")
    threshold = 0.005 if sure is None else check_number(f"{PREFIX}confidence_threshold", sure, 0)
    if stopping == "reproduces":
        found["stopping"] = _made(ReproducesCanvas, threshold)
    elif stopping == "stable" or sure is not None:
        steps = check_whole(f"{PREFIX}stability_threshold", options.get("stability_threshold", 1), 0)
        found["stopping"] = _made(StableAndConfident, steps, threshold)
    return found


def _made(rule: type[Any], *values: Any) -> Any:
    try:
        return rule(*values)
    except (TypeError, ValueError) as error:
        raise RequestError(str(error)) from None


def _constraint(runtime: Runtime, wanted: Wanted) -> Constraint | None:
    if wanted.tools:
        return calling(runtime, tool_use(wanted.tools, wanted.tool_choice), wanted.constraint)
    if "template" in wanted.options:
        holes = _json("holes", wanted.options.get("holes", "{}"))
        if not isinstance(holes, dict):
            raise RequestError(f"{PREFIX}holes must be a JSON object: a name of each hole, and what may stand there")
        return Template(wanted.options["template"], {name: _made_hole("holes", hole) for name, hole in holes.items()})
    return wanted.constraint


def _edit(runtime: Runtime, prompt: Sequence[int], options: Mapping[str, Any], parameters: dict[str, Any]) -> Request:
    text, flat = options["edit"], options.get("spans")
    if not isinstance(text, str) or not isinstance(flat, list) or len(flat) % 2:
        raise RequestError(f"{PREFIX}edit is a text, and {PREFIX}spans start and end of each span in it, in one list")
    spans = [(flat[at], flat[at + 1]) for at in range(0, len(flat), 2)]
    own = {"strength": options["strength"]} if "strength" in options else {}
    edited = cast(EditRequest, edit(runtime, text, spans, hole=_hole("hole", options), **own, **parameters))
    if len(edited.groups) > 1:
        raise RequestError(
            f"{PREFIX}spans do not fit on one canvas with the text between them; ask for {len(edited.groups)} edits, "
            "one after the other"
        )
    context = context_before(runtime, list(prompt), text[: edited.groups[0].start])
    return replace(edited.request, prompt=tuple(context))


def _start(runtime: Runtime, wanted: Wanted) -> tuple[Draft | None, Pinned | None]:
    """Return the text from which canvases start, and the tokens that stay."""
    options, canvas = wanted.options, wanted.seed_canvas
    if canvas is None:
        if wanted.pinned:
            raise RequestError("diffusion_pinned needs a diffusion_seed_canvas, whose tokens stay")
        if "draft" not in options:
            return None, None
        survival = check_number(f"{PREFIX}survival", options.get("survival", 1.0), 0)
        return draft_of(runtime, [(options["draft"], survival)]), None
    if "draft" in options:
        raise RequestError(f"diffusion_seed_canvas and {PREFIX}draft exclude each other; leave one out")
    tokens, mask = torch.tensor(canvas, dtype=torch.int64), torch.zeros(len(canvas), dtype=torch.bool)
    mask[list(wanted.pinned)] = True
    return Draft(tokens, torch.ones(len(tokens), dtype=torch.float64)), Pinned(mask, tokens)


def _hole(name: str, options: Mapping[str, Any]) -> Hole | None:
    return _made_hole(name, _json(name, options[name])) if name in options else None


def _made_hole(name: str, described: Any) -> Hole:
    known = ("regex", "choices", "type", "min_length", "max_length")
    if not isinstance(described, dict) or described.keys() - set(known):
        raise RequestError(f"{PREFIX}{name}: a hole is a JSON object with {', '.join(known)}, not {described!r}")
    choices = described.get("choices")
    return Hole(**{**described, "choices": None if choices is None else tuple(choices)})


def _json(name: str, text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        raise RequestError(f"{PREFIX}{name} {text!r} must be JSON") from None
