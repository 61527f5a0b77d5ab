"""A request for one generation, checked before any work."""

import inspect
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor

from redraft.canvas.acceptance import AcceptanceRule, EntropyBound
from redraft.canvas.draft import Draft
from redraft.canvas.schedule import LinearTemperature, TemperatureSchedule
from redraft.canvas.step import Pinned
from redraft.canvas.stopping import StableAndConfident, StoppingRule
from redraft.constrain.compiler import CompiledConstraint, ThoughtMarkers
from redraft.constrain.constraint import Constraint
from redraft.constrain.python_types import as_constraint
from redraft.engine.canvas_length import pick_canvas_length
from redraft.engine.deadline import Deadline
from redraft.engine.memory import KVPool
from redraft.engine.quality import Quality, check_quality
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.sampling import NOTHING, LogitBias, Sampling, check_sampling, check_with_constraint
from redraft.engine.text import AnswerText
from redraft.engine.thinking import (
    Effort,
    ReasoningEffort,
    ThoughtBudget,
    check_effort,
    wants_thought,
    without_switches,
)
from redraft.engine.verify import Verifier
from redraft.errors import RequestError, counted
from redraft.models.base import ALL_MODES, AUTO, CanvasLength, GenerationDefaults, GenerationMode
from redraft.models.sampling import SamplingDefaults
from redraft.models.tokenizer import ChatTokenizer

MAX_STOP_STRINGS = 16
DRAFT_STEPS = 4
"""Denoising steps of a draft unless a request says otherwise."""
Verify = Literal["causal"]
VERIFY_THRESHOLD = 0.01
DRAFT_TOKENS, MAX_DRAFT = 4, 64
"""Tokens that a draft model writes before they are verified, unless a request says otherwise, and at most."""
OF_DRAFTS = ("max_denoising_steps", "entropy_bound", "canvas_length", "acceptance", "stopping")
"""The parameters of canvases that say how drafts are denoised."""
MIN_TEMPERATURE = 1e-4

_Rule = TypeVar("_Rule")


@dataclass(frozen=True)
class Request:
    """One prompt and how to answer it.

    ``temperature`` scales the schedule, or divides the logits of tokens that are written one by one; 0 takes the argmax
    for a sample.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    canvas_length: int
    seed: int
    temperature: float
    max_denoising_steps: int
    schedule: TemperatureSchedule
    acceptance: AcceptanceRule
    stopping: StoppingRule
    stop: tuple[str, ...]
    end_token_ids: tuple[int, ...]
    context_length: int
    constraint: CompiledConstraint | None = None
    constraint_source: Constraint | None = None
    """The constraint that ``constraint`` was compiled from."""
    thought: ThoughtMarkers | None = None
    thinking_budget: int | None = None
    """Tokens that thoughts may take; the thought is ended there, and the answer goes on."""
    verifier: Verifier | None = None
    verify_rounds: int = 0
    """Times a candidate's positions that the verifier marked are denoised again."""
    best_of: int = 1
    """Candidates of every canvas, all on one prefix."""
    draft: Draft | None = None
    top_logprobs: int | None = None
    """Log probabilities are kept, and those of so many of the likeliest tokens of every position."""
    sampling: Sampling = NOTHING
    mode: GenerationMode = "diffusion"
    causal_logprobs: bool = False
    """The causal rows' log probability of each token is kept."""
    verify: Verify | None = None
    verify_threshold: float = VERIFY_THRESHOLD
    """With ``verify``: the causal probability below which a position is wrong."""
    deadline: Deadline | None = None
    """The moment by which the answer is wanted."""
    pinned: Pinned | None = None
    """[T]: tokens that keep their places, from the first canvas's first position on."""

    @property
    def reads_causally(self) -> bool:
        """True if canvases are read by the causal rows, too."""
        return self.causal_logprobs or self.verify is not None

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens at which the answer ends."""
        return self.sampling.ends(self.end_token_ids)


def answer_text(runtime: Runtime, request: Request, stop: Sequence[str] = ()) -> AnswerText:
    """Make what takes the tokens of an answer to ``request`` apart."""
    tokenizer, markers = runtime.tokenizer, thought_markers(runtime, request)
    thinking = request.thought is not None
    return AnswerText(tokenizer.decode, stop, markers, tokenizer.settled, thinking, request.sampling.min_tokens)


def thought_markers(runtime: Runtime, request: Request) -> ThoughtMarkers | None:
    """Return the markers of thoughts that an answer may have, asked for or not."""
    # Under a constraint without a thought no marker can stand.
    return runtime.thought_markers if request.constraint is None else request.thought


def thought_budget(request: Request) -> ThoughtBudget | None:
    """Make what counts the thoughts' tokens; None where they are not bounded."""
    if request.thought is None or request.thinking_budget is None:
        return None
    return ThoughtBudget(request.thought, request.thinking_budget, request.ends)


def check_whole(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """``value`` if it is a whole number within bounds; else a RequestError that names it."""
    bounds = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} {value!r} must be a whole number, {bounds}")
    if value < minimum or (maximum is not None and value > maximum):
        raise RequestError(f"{name} {value} is out of range; it must be {bounds}")
    return value


def check_number(name: str, value: object, minimum: float) -> float:
    """``value`` as a float if it is finite and not below ``minimum``; else a RequestError that names it."""
    try:
        usable = (
            not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and value >= minimum
        )
    except OverflowError:
        usable = False
    if not usable:
        raise RequestError(f"{name} {value!r} must be a finite number, {minimum:g} or more")
    return float(cast(float, value))


def check_text(name: str, value: object) -> str:
    """``value`` if it is a text that UTF-8 can write; else a RequestError that names it."""
    if not isinstance(value, str):
        raise RequestError(f"{name} {value!r} must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} has half a character at {error.start}: {error.reason}") from None
    return value


def check_switch(name: str, value: object) -> bool:
    """``value`` if it is True or False; else a RequestError that names it."""
    if not isinstance(value, bool):
        raise RequestError(f"{name} {value!r} must be True or False")
    return value


def check_rule(name: str, rule: _Rule | None, members: Sequence[str], example: str) -> _Rule | None:
    """``rule`` if it has the ``members`` of its protocol, or None; else a RequestError that names it."""
    if rule is not None and (isinstance(rule, type) or not all(hasattr(rule, member) for member in members)):
        raise RequestError(f"{name} {rule!r} must be a rule, such as redraft.{example}")
    return rule


def check_listeners(
    on_step: object, record: object, mode: GenerationMode = "diffusion", modes: Sequence[GenerationMode] = ALL_MODES
) -> None:
    """RequestError for what cannot be told of steps, or keep them, and for an answer in a ``mode`` that is not made of
    steps; None is nobody. ``modes``: those that there are."""
    if on_step is not None and not callable(on_step):
        raise RequestError(f"on_step {on_step!r} must be a function that takes a StepEvent")
    if record is not None and not hasattr(record, "recorder"):
        raise RequestError(f"record {record!r} must be a RecordingFolder, such as redraft.RecordingFolder('runs')")
    for name, given in (("on_step", on_step), ("record", record)):
        if given is not None and mode != "diffusion":
            raise RequestError(
                f"{name} cannot be given with mode {mode!r}, whose answers are not made of denoising steps; leave it "
                f"out{_or_diffusion(modes)}"
            )


def check_verifier(verifier: Verifier | None) -> Verifier | None:
    """``verifier`` if it can be called, or None; else a RequestError."""
    if verifier is not None and not callable(verifier):
        raise RequestError(f"verifier {verifier!r} must be a function that takes a Candidate and returns positions")
    return verifier


def check_draft(draft: Draft | None, vocab_size: int) -> Draft | None:
    """``draft`` if its tokens are the vocabulary's and each has a probability, or None; else a RequestError."""
    if draft is None:
        return None
    if not isinstance(draft, Draft):
        raise RequestError(f"draft {draft!r} must be a redraft.Draft of tokens and the probability that each stays")
    tokens, survival = draft.tokens, draft.survival
    if not isinstance(tokens, Tensor) or not isinstance(survival, Tensor):
        raise RequestError("draft must have tokens [T] int64 and survival [T] as tensors")
    if tokens.dtype != torch.int64 or tokens.ndim != 1 or survival.shape != tokens.shape:
        shown = f"{tokens.dtype} {[*tokens.shape]} and {[*survival.shape]}"
        raise RequestError(f"draft must have tokens [T] int64 and survival [T], not {shown}")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise RequestError(f"draft has a token outside of the vocabulary; ids go from 0 to {vocab_size - 1}")
    if not bool(((survival >= 0) & (survival <= 1)).all()):
        raise RequestError("draft must have a survival from 0 to 1 for every token")
    return draft


def check_temperature(value: object) -> float:
    """0, or a temperature that float32 logits can be divided by; else a RequestError."""
    temperature = check_number("temperature", value, 0)
    if 0 < temperature < MIN_TEMPERATURE:
        raise RequestError(f"temperature {temperature:g} is too small; use 0 for greedy, or {MIN_TEMPERATURE} or more")
    return temperature


def check_stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple; a RequestError for empty ones or too many."""
    if not isinstance(stop, str | Sequence | None):
        raise RequestError(f"stop {stop!r} must be a string or a list of strings")
    strings = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(s, str) and s for s in strings):
        raise RequestError(f"stop {stop!r} must be strings of at least one character")
    for text in strings:
        check_text("stop", text)
    if len(strings) > MAX_STOP_STRINGS:
        raise RequestError(f"stop has {len(strings)} strings; at most {MAX_STOP_STRINGS} are supported")
    return strings


def check_seed(seed: int | None) -> int:
    """The seed, or a fresh random one for None, so that the result can name it."""
    return secrets.randbits(32) if seed is None else check_whole("seed", seed, 0, (1 << 64) - 1)


def check_prompt(
    tokens: Sequence[int], vocab_size: int, image_token_ids: Sequence[int], what: str = "prompt"
) -> tuple[int, ...]:
    """Token ids of a prompt, or of ``what`` else; a RequestError for none, an id outside the vocabulary, or an image
    token."""
    if len(tokens) == 0:
        raise RequestError(f"the {what} is empty; give at least one token")
    for index, token in enumerate(tokens):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise RequestError(
                f"{what} token {index} is {token!r}; ids must be whole numbers from 0 to {vocab_size - 1}"
            )
        if token in image_token_ids:
            raise RequestError(f"{what} token {index} ({token}) stands for an image; images are not supported yet")
    return tuple(tokens)


def check_budget(constraint: CompiledConstraint, max_tokens: int | None, room: int) -> None:
    """Refuse a constraint whose shortest text does not fit ``room`` tokens."""
    fewest = constraint.min_tokens
    if fewest <= room:
        return
    if max_tokens is None:
        raise RequestError(
            f"the shortest text that the constraint allows takes {counted(fewest, 'token')}, and the context has "
            f"{room} left after the prompt; shorten the prompt"
        )
    raise RequestError(
        f"max_tokens {max_tokens} is too small for the constraint: its shortest text takes {counted(fewest, 'token')}"
    )


def check_length(max_tokens: int | None, prompt_length: int, context_length: int) -> int:
    """Tokens to generate at most: ``max_tokens``, or for None all that the context has left."""
    room = context_length - prompt_length
    if room < 1:
        raise RequestError(
            f"the prompt has {counted(prompt_length, 'token')} and the context holds {context_length}; "
            f"shorten the prompt to {counted(context_length - 1, 'token')} or fewer"
        )
    if max_tokens is None:
        return room
    if check_whole("max_tokens", max_tokens, 1) > room:
        raise RequestError(
            f"max_tokens {max_tokens} does not fit: the context holds {context_length} tokens and the prompt takes "
            f"{prompt_length}; at most {room} would fit"
        )
    return max_tokens


def check_memory(
    pool: KVPool, prompt_length: int, room: int, canvas_length: int, asked: bool, undone: int = 0, *, last: bool = False
) -> int:
    """``room`` tokens to generate, or what of them the pool's budget allows; a RequestError if they were ``asked`` for
    and do not fit, or if the prompt does not. ``undone``: positions that the cache can be cut back by. ``last``: the
    last canvas is committed, too."""
    if pool.budget is None:
        return room
    # The last canvas of an answer is not committed.
    committed = ((room - 1) // canvas_length + int(last)) * canvas_length
    needed = pool.bytes_for(prompt_length + committed, undone)
    if needed <= pool.budget:
        return room
    fits = pool.positions_for(pool.budget, prompt_length + committed, undone) - prompt_length
    limit = f"kv_bytes {pool.budget:,} is too small"
    if fits < 0:
        raise RequestError(
            f"{limit}: the keys and values of the prompt's {prompt_length} tokens take "
            f"{pool.bytes_for(prompt_length, undone):,}; shorten the prompt to "
            f"{counted(prompt_length + fits, 'token')} or fewer, or load the model with that many"
        )
    room = (fits // canvas_length + int(not last)) * canvas_length
    if asked:
        raise RequestError(
            f"{limit}: the keys and values of the prompt and max_tokens take {needed:,}; max_tokens {room} would "
            f"fit, or kv_bytes {needed:,}"
        )
    return room


def generate(
    runtime: Runtime,
    prompt: Prompt,
    *,
    mode: GenerationMode | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    max_denoising_steps: int | None = None,
    entropy_bound: float | None = None,
    stop: str | Sequence[str] | None = None,
    canvas_length: CanvasLength | None = None,
    acceptance: AcceptanceRule | None = None,
    stopping: StoppingRule | None = None,
    constraint: Constraint | type[Any] | None = None,
    thinking: bool | None = None,
    thinking_budget: int | None = None,
    reasoning_effort: ReasoningEffort | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    verifier: Verifier | None = None,
    verify_rounds: int = 3,
    best_of: int = 1,
    draft: Draft | None = None,
    top_logprobs: int | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    logit_bias: LogitBias | None = None,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    repetition_penalty: float | None = None,
    min_tokens: int = 0,
    ignore_eos: bool = False,
    stop_token_ids: Sequence[int] | None = None,
    deadline_ms: float | Deadline | None = None,
    quality: Quality | None = None,
    causal_logprobs: bool = False,
    verify: Verify | None = None,
    verify_threshold: float = VERIFY_THRESHOLD,
    **unknown: object,
) -> Request:
    """Check what ``prompt`` asks for: a raw text, token ids, or chat messages (``{"role", "content"}``).

    mode: "diffusion" denoises canvases, "autoregressive" writes token after token, "speculative" writes what the latter
    would and drafts it by canvases; by default the checkpoint's. max_tokens: at most so many tokens, by default what
    the context has left. seed: 0 .. 2**64-1, by default a random one, which the result names. temperature: scales the
    checkpoint's schedule, or in the other modes divides the logits, by default by what the checkpoint says; 0 takes the
    argmax for a sample. max_denoising_steps, entropy_bound (nats a canvas): by default the checkpoint's, of a draft 4
    steps. stop: strings at which the answer ends, not part of it. canvas_length: positions denoised at once, at most
    the model's own, or "auto", see ``engine.canvas_length``. acceptance: the rule itself in place of the entropy bound,
    such as ``ConfidenceThreshold``. stopping: the rule in place of the checkpoint's stable-and-confident one, such as
    ``ReproducesCanvas``.

    constraint: ``JSONSchema``, ``Regex``, ``Choice`` or ``Template``, or a Python type such as a pydantic model, a
    ``Literal`` or ``list[int]``, which the whole answer matches; stop strings then do not occur in it. thinking:
    ask the model to think first; the thought is not part of the answer, nor held to the constraint.
    thinking_budget: tokens that the thought may take; it is ended there, and the answer follows. reasoning_effort:
    "none", "instant" and "minimal" are no thought, "low", "medium" and "high" are one; of the checkpoint's steps
    "instant", "minimal" and "low" take half as many, with twice the entropy bound, "high" twice as many, with half
    of it. chat_template_kwargs: more that the chat template reads; ``enable_thinking`` is as ``thinking``.
    verifier: called with a ``Candidate`` for every canvas, says which positions are wrong; these alone are denoised
    again, at most verify_rounds times. best_of: so many candidates for every canvas, of which the one with the
    fewest wrong positions stays, then the one that the model is surest of. draft: what the canvases start from in
    the place of noise. top_logprobs: keep so many of the likeliest tokens of every position with their log
    probabilities, 0 to 20; without a constraint.

    top_k, top_p, min_p: leave a position's likeliest tokens: so many, or those of so much probability together, or
    those at least so many times as probable as the likeliest; where a constraint allows none of them it wins.
    logit_bias: added to the logits of tokens by their ids, -100 to 100. presence_penalty, frequency_penalty (-2 to 2),
    repetition_penalty: for tokens that the answer has already, the prompt not counted. min_tokens: no end token and no
    stop string before so many tokens. ignore_eos: no end token at all. stop_token_ids: tokens at which the answer ends,
    not part of it. In modes that write tokens one by one top_k, top_p, min_p and repetition_penalty are by default the
    checkpoint's. docs/sampling.md defines each.

    deadline_ms: milliseconds from the call by which the answer is wanted: the best canvas that there is then ends it.
    quality: "fast", "balanced" or "exact" in the place of steps and a bound. docs/tune.md says what both mean.
    causal_logprobs: keep the log probability that the causal rows of the same weights give each token of a canvas.
    verify: "causal" is a verifier: positions are wrong whose token has less than ``verify_threshold`` of probability
    there. docs/modes.md has both.

    Raises RequestError, before any work, for a prompt or parameter that cannot be honoured (ConstraintError if it
    is the constraint), GenerationError while running if the model yields NaN, and DeadlineError where the deadline
    comes before there is anything valid.
    """
    if unknown:
        name = next(iter(unknown))
        if name in ("on_step", "record"):
            raise RequestError(
                f"{name} cannot be given here; generate, stream, fill and edit take it, extract takes record"
            )
        known = ", ".join(own for own, p in _PARAMETERS.items() if p.kind is p.KEYWORD_ONLY)
        raise RequestError(f"unknown parameter {name!r}; known are {known}, on_step, record")
    wanted = as_constraint(constraint)
    if top_logprobs is not None and wanted is not None:
        raise RequestError("top_logprobs and constraint exclude each other; what a constraint leaves is no token's")
    if acceptance is not None and entropy_bound is not None:
        raise RequestError("entropy_bound and acceptance exclude each other; put the bound into EntropyBound(...)")
    config, defaults = runtime.model.config, runtime.model.defaults
    # The time counts from here, with what it takes to check.
    deadline = None if deadline_ms is None else _deadline(runtime, deadline_ms)
    care = check_quality(
        quality,
        max_denoising_steps=max_denoising_steps,
        entropy_bound=entropy_bound,
        acceptance=acceptance,
        reasoning_effort=reasoning_effort,
    )
    way = check_mode(mode if care is None else care.mode(mode, runtime.modes), runtime.modes)
    of_canvases = {
        "max_denoising_steps": max_denoising_steps,
        "entropy_bound": entropy_bound,
        "canvas_length": canvas_length,
        "acceptance": acceptance,
        "stopping": stopping,
        "draft": draft,
        "verifier": verifier,
        "best_of": None if best_of == 1 else best_of,
        "causal_logprobs": causal_logprobs or None,
        "verify": verify,
    }
    check_of_mode(way, of_canvases, runtime.modes)
    check_causal(runtime, causal_logprobs, verify, verify_threshold)
    thinks = wants_thought(thinking, reasoning_effort, thinking_budget, chat_template_kwargs)
    given = runtime.tokenize(prompt, thinks, template_variables=without_switches(chat_template_kwargs))
    tokens = check_prompt(given, config.vocab_size, config.image_token_ids)
    effort = check_effort(reasoning_effort) or Effort(thinks)
    steps = effort.steps(defaults.max_denoising_steps) if max_denoising_steps is None else max_denoising_steps
    if care is not None and way == "diffusion":
        steps, acceptance = care.steps(defaults), care.acceptance(defaults)
    length = 1
    if way == "speculative" and runtime.drafter is not None:
        length = check_whole(
            "canvas_length", DRAFT_TOKENS if canvas_length in (None, AUTO) else canvas_length, 1, MAX_DRAFT
        )
    elif way != "autoregressive":
        length = pick_canvas_length(runtime, canvas_length, max_tokens)
    if way == "speculative" and max_denoising_steps is None:
        steps = DRAFT_STEPS
    thought = runtime.needed_thought_markers() if thinks else None
    room = check_length(max_tokens, len(tokens), config.context_length)
    committed, undone = (1, length + 1) if way == "speculative" else (length, 0)
    causal = causal_logprobs or verify is not None
    if verify is not None:
        undone = length
    room = check_memory(runtime.pool, len(tokens), room, committed, max_tokens is not None, undone, last=causal)
    stop_strings = check_stop(stop)
    # What a checkpoint says of drawing is of tokens one by one.
    own = SamplingDefaults() if way == "diffusion" else defaults.sampling
    sampling = check_sampling(
        vocab_size=config.vocab_size,
        room=room,
        top_p=own.top_p if top_p is None else top_p,
        top_k=own.top_k if top_k is None else top_k,
        min_p=own.min_p if min_p is None else min_p,
        logit_bias=logit_bias,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=own.repetition_penalty if repetition_penalty is None else repetition_penalty,
        min_tokens=min_tokens,
        ignore_eos=ignore_eos,
        stop_token_ids=stop_token_ids,
    )
    if constraint is not None:
        check_with_constraint(sampling, defaults.end_token_ids)
    rounds = check_whole("verify_rounds", verify_rounds, 0)
    compiled = None if wanted is None else runtime.compile(wanted, stop_strings, thought)
    if compiled is not None:
        # A count that is too large to be kept count of (maxLength: 524288) is one that no answer reaches.
        room = room if compiled.max_tokens is None else min(room, compiled.max_tokens)
        check_budget(compiled, max_tokens, room)
    return Request(
        prompt=tokens,
        max_tokens=room,
        canvas_length=length,
        seed=check_seed(seed),
        temperature=check_temperature(own.temperature if temperature is None else temperature),
        max_denoising_steps=check_whole("max_denoising_steps", steps, 1),
        schedule=LinearTemperature(defaults.t_max, defaults.t_min),
        acceptance=check_rule("acceptance", acceptance, ("accept",), "ConfidenceThreshold(0.9)")
        or (
            _default_acceptance(defaults, effort)
            if entropy_bound is None
            else EntropyBound(check_number("entropy_bound", entropy_bound, 0))
        ),
        stopping=check_rule("stopping", stopping, ("memory", "finished"), "ReproducesCanvas()")
        or StableAndConfident(defaults.stability_threshold, defaults.confidence_threshold),
        stop=stop_strings,
        end_token_ids=defaults.end_token_ids,
        context_length=config.context_length,
        constraint=compiled,
        constraint_source=wanted,
        thought=thought,
        thinking_budget=None if thinking_budget is None else check_whole("thinking_budget", thinking_budget, 0),
        verifier=check_verifier(verifier),
        verify_rounds=0 if verifier is None and verify is None else rounds,
        best_of=check_whole("best_of", best_of, 1),
        draft=check_draft(draft, config.vocab_size),
        top_logprobs=None if top_logprobs is None else check_whole("top_logprobs", top_logprobs, 0, 20),
        sampling=sampling,
        mode=way,
        causal_logprobs=causal_logprobs,
        verify=verify,
        verify_threshold=float(verify_threshold),
        deadline=deadline,
    )


def _deadline(runtime: Runtime, given: float | Deadline) -> Deadline:
    """Begin to count; what counts already, for a request that is part of another, goes on."""
    return given if isinstance(given, Deadline) else Deadline.after(given, runtime.clock)


def check_causal(runtime: Runtime, logprobs: object, verify: object, threshold: object) -> None:
    """Refuse what the causal rows are asked for where they are no language model, or where it is none of it."""
    check_switch("causal_logprobs", logprobs)
    if verify not in (None, *get_args(Verify)):
        raise RequestError(f"verify {verify!r} must be 'causal'; give a function of your own as verifier")
    check_threshold(threshold)
    for name, given in (("verify", verify), ("causal_logprobs", logprobs)):
        if given and "autoregressive" not in runtime.model.modes:
            raise RequestError(f"{name} needs causal rows that are a language model, and this checkpoint has none")


def check_threshold(value: object) -> None:
    """RequestError for what is no probability between 0 and 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise RequestError(f"verify_threshold {value!r} must be a probability between 0 and 1")


def check_drafter(runtime: Runtime, drafter: Runtime) -> None:
    """Refuse a draft model that could not draft for a model: one without causal rows, or with another vocabulary."""
    for one, which in ((runtime, "the model"), (drafter, "the draft model")):
        if "autoregressive" not in one.model.modes:
            raise RequestError(
                f"draft_model: {which} does not write token after token, and so no draft can be verified"
            )
    sizes = (runtime.model.config.vocab_size, drafter.model.config.vocab_size)
    check_same_vocabulary(runtime.tokenizer, drafter.tokenizer, sizes)


def check_same_vocabulary(tokenizer: ChatTokenizer, drafting: ChatTokenizer, ids: tuple[int, int]) -> None:
    """Refuse a draft model whose tokens are others; ``ids``: how many token ids each model has."""
    own, other = (one.tokenizer.get_vocab() for one in (tokenizer, drafting))
    if own != other or ids[0] != ids[1]:
        sizes = f"{len(other):,} tokens, the model {len(own):,}"
        raise RequestError(
            f"draft_model has another vocabulary ({sizes}); its tokens would mean something else: take a smaller model "
            "of the same family"
        )


def check_mode(mode: object, modes: Sequence[GenerationMode]) -> GenerationMode:
    """``mode`` if it is one of a checkpoint's ``modes``, or its default for None; else a RequestError."""
    if mode is None:
        return modes[0]
    known: tuple[GenerationMode, ...] = get_args(GenerationMode)
    for one in known:
        if one == mode and one in modes:
            return one
    has = " or ".join(map(repr, modes))
    if mode not in known:
        raise RequestError(f"mode {mode!r} must be one of {', '.join(map(repr, known))}; this checkpoint has {has}")
    why = "it has no canvas to denoise" if "diffusion" not in modes else "its causal rows are no language model"
    raise RequestError(f"mode {mode!r} is none of this checkpoint: {why}; use {has}")


def check_of_mode(
    mode: GenerationMode, given: Mapping[str, object], modes: Sequence[GenerationMode] = ALL_MODES
) -> None:
    """Refuse parameters of canvases in a mode that they mean nothing to; one that is None was not given. ``modes``:
    those that there are."""
    allowed: tuple[str, ...] = tuple(given)
    if mode == "autoregressive":
        allowed = ()
    elif mode == "speculative":
        allowed = OF_DRAFTS
    for name, value in given.items():
        if value is not None and name not in allowed:
            raise RequestError(
                f"{name} is for canvases, and cannot be given with mode {mode!r}; leave it out{_or_diffusion(modes)}"
            )


def _or_diffusion(modes: Sequence[GenerationMode]) -> str:
    return ", or use mode 'diffusion'" if "diffusion" in modes else "; this checkpoint has no canvas"


def _default_acceptance(defaults: GenerationDefaults, effort: Effort) -> AcceptanceRule:
    """Return the checkpoint's rule, with the bound that the effort makes of its own."""
    if defaults.acceptance is not None:
        return defaults.acceptance
    return EntropyBound(effort.entropy_bound(defaults.entropy_bound))


_PARAMETERS = inspect.signature(generate).parameters
