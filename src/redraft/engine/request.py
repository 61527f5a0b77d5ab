"""What one generation asks for, checked before any work."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from redraft.canvas.acceptance import AcceptanceRule
from redraft.canvas.schedule import TemperatureSchedule
from redraft.canvas.stopping import StoppingRule
from redraft.constrain.compiler import CompiledConstraint, ThoughtMarkers
from redraft.constrain.constraint import Constraint
from redraft.engine.memory import KVPool
from redraft.engine.verify import Verifier
from redraft.errors import RequestError

MAX_STOP_STRINGS = 16
LEAST_TEMPERATURE = 1e-4

_Rule = TypeVar("_Rule")


@dataclass(frozen=True)
class Request:
    """One prompt and how to answer it.

    ``temperature`` scales the schedule; 0 takes the argmax for a sample.
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
    demand: Constraint | None = None
    """What ``constraint`` was compiled from."""
    thought: ThoughtMarkers | None = None
    verifier: Verifier | None = None
    verify_rounds: int = 0
    """Times a candidate's positions that the verifier marked are denoised again."""
    best_of: int = 1
    """Candidates of every canvas, all on one prefix."""
    draft: "Draft | None" = None
    top_logprobs: int | None = None
    """Log probabilities are kept, and those of so many of the likeliest tokens of every position."""


@dataclass(frozen=True, eq=False)
class Draft:
    """Text from which the canvases start, in the place of noise, as far as it survives (Meng et al. 2021, SDEdit)."""

    tokens: Tensor
    """[T] int64, from the first canvas's first position on."""
    survival: Tensor
    """[T] float64: the probability that a token stays."""

    def laid_over(self, noise: Tensor, start: int, uniforms: Tensor) -> Tensor:
        """``noise`` [C], the canvas from position ``start`` on, with the tokens that survive ``uniforms`` [C]."""
        own = slice(start, start + len(noise))
        count = len(self.tokens[own])
        stays = uniforms[:count] < self.survival[own]
        return torch.cat((torch.where(stays, self.tokens[own], noise[:count]), noise[count:]))


def check_whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """``value`` if it is a whole number within bounds; else a RequestError that names it."""
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} {value!r} must be a whole number, {bounds}")
    if value < least or (most is not None and value > most):
        raise RequestError(f"{name} {value} is out of range; it must be {bounds}")
    return value


def check_number(name: str, value: object, least: float) -> float:
    """``value`` as a float if it is finite and not below ``least``; else a RequestError that names it."""
    try:
        usable = (
            not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and value >= least
        )
    except OverflowError:
        usable = False
    if not usable:
        raise RequestError(f"{name} {value!r} must be a finite number, {least:g} or more")
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


def check_listeners(on_step: object, record: object) -> None:
    """RequestError for what cannot be told of steps, or keep them; None is nobody."""
    if on_step is not None and not callable(on_step):
        raise RequestError(f"on_step {on_step!r} must be a function that takes a StepEvent")
    if record is not None and not hasattr(record, "generation"):
        raise RequestError(f"record {record!r} must be a RecordingFolder, such as redraft.RecordingFolder('runs')")


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
    if 0 < temperature < LEAST_TEMPERATURE:
        raise RequestError(
            f"temperature {temperature:g} is too small; use 0 for greedy, or {LEAST_TEMPERATURE} or more"
        )
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


def check_prompt(tokens: Sequence[int], vocab_size: int, image_token_ids: Sequence[int]) -> tuple[int, ...]:
    """Prompt token ids; a RequestError for an empty prompt, an id outside the vocabulary, or an image token."""
    if len(tokens) == 0:
        raise RequestError("the prompt is empty; give at least one token")
    for index, token in enumerate(tokens):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise RequestError(
                f"prompt token {index} is {token!r}; ids must be whole numbers from 0 to {vocab_size - 1}"
            )
        if token in image_token_ids:
            raise RequestError(f"prompt token {index} ({token}) stands for an image; images are not supported yet")
    return tuple(tokens)


def check_budget(constraint: CompiledConstraint, max_tokens: int | None, room: int) -> None:
    """Refuse a constraint whose shortest text does not fit ``room`` tokens."""
    fewest = constraint.fewest_tokens
    if fewest <= room:
        return
    if max_tokens is None:
        raise RequestError(
            f"the shortest text that the constraint allows takes {fewest} tokens, and the context has {room} left "
            "after the prompt; shorten the prompt"
        )
    raise RequestError(
        f"max_tokens {max_tokens} is too small for the constraint: its shortest text takes {fewest} tokens"
    )


def check_length(max_tokens: int | None, prompt_length: int, context_length: int) -> int:
    """Tokens to generate at most: ``max_tokens``, or for None all that the context has left."""
    room = context_length - prompt_length
    if room < 1:
        raise RequestError(
            f"the prompt has {prompt_length} tokens and the context holds {context_length}; "
            f"shorten the prompt to {context_length - 1} tokens or fewer"
        )
    if max_tokens is None:
        return room
    if check_whole("max_tokens", max_tokens, 1) > room:
        raise RequestError(
            f"max_tokens {max_tokens} does not fit: the context holds {context_length} tokens and the prompt takes "
            f"{prompt_length}; at most {room} would fit"
        )
    return max_tokens


def check_memory(pool: KVPool, prompt_length: int, room: int, canvas_length: int, asked: bool) -> int:
    """``room`` tokens to generate, or what of them the pool's budget allows; a RequestError if they were ``asked`` for
    and do not fit, or if the prompt does not."""
    if pool.budget is None:
        return room
    # The last canvas of an answer is not committed.
    committed = (room - 1) // canvas_length * canvas_length
    needed = pool.bytes_for(prompt_length + committed)
    if needed <= pool.budget:
        return room
    fits = pool.positions_for(pool.budget, prompt_length + committed) - prompt_length
    limit = f"kv_bytes {pool.budget:,} is too small"
    if fits < 0:
        raise RequestError(
            f"{limit}: the keys and values of the prompt's {prompt_length} tokens take "
            f"{pool.bytes_for(prompt_length):,}; shorten the prompt to {prompt_length + fits} tokens or fewer, or "
            "load the model with that many"
        )
    room = (fits // canvas_length + 1) * canvas_length
    if asked:
        raise RequestError(
            f"{limit}: the keys and values of the prompt and max_tokens take {needed:,}; max_tokens {room} would "
            f"fit, or kv_bytes {needed:,}"
        )
    return room
