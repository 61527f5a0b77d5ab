"""Typed decisions: the probability of each option of each question, read off one canvas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.constraint import Template
from redraft.constrain.decision import Decisions
from redraft.constrain.decision import calibrated as tempered
from redraft.constrain.template import Hole
from redraft.engine.canvas import DenoisingCanvas
from redraft.engine.constrained import CanvasConstraint, class_sums
from redraft.engine.kv_pool import PooledCache
from redraft.engine.request import LEAST_TEMPERATURE, Request, check_number, check_switch, check_text
from redraft.engine.result import Usage
from redraft.engine.work import Work
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.engine.engine import Engine, Prompt

_ONLY = "answer"


@dataclass(frozen=True)
class Decision:
    """What the model thinks of the options of one question."""

    probabilities: dict[str, float]
    """Of each option, in the order in which they were given; they add up to 1."""

    @property
    def choice(self) -> str:
        """The likeliest option; of equals the first."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """The probability of ``choice``."""
        return self.probabilities[self.choice]


@dataclass(frozen=True)
class ChooseResult:
    """The decision on every question, by name."""

    answers: dict[str, Decision]
    log_valid: float
    """Natural log of the probability that tokens drawn independently would have made an answer of the frame's form."""
    seed: int
    usage: Usage

    @property
    def choice(self) -> str:
        """The likeliest option of the only question."""
        return self._only.choice

    @property
    def probabilities(self) -> dict[str, float]:
        """The probabilities of the only question's options."""
        return self._only.probabilities

    @property
    def _only(self) -> Decision:
        if len(self.answers) != 1:
            raise RequestError(f"there are {len(self.answers)} questions; look into answers by their names")
        return next(iter(self.answers.values()))


def choose(
    engine: "Engine",
    prompt: "Prompt",
    options: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    frame: str | None = None,
    max_denoising_steps: int = 1,
    temperature: float | None = None,
    calibrated: bool = False,
    **parameters: Any,
) -> Work[ChooseResult]:
    """The probability of each of ``options`` as the answer to ``prompt``, all ways to split it into tokens together.

    options: the answers to one question, or a mapping of questions to theirs, all decided on one canvas. frame: how the
    answers stand there, a template with a hole ``{name}`` for each question; by default one line each, in order, or
    the answer alone. max_denoising_steps: with one, everything is read off the first step; with more, the canvas is
    denoised under the frame first, and read at its last step. temperature: of the logits that are read, 1 by default.
    calibrated: apply the temperature that was fitted for this checkpoint instead. Other parameters (seed,
    entropy_bound and so on), and errors, as in ``Engine.request``.
    """
    questions = _questions(options)
    if frame is None:
        frame = "\n".join(f"{{{name}}}" for name in questions)
    check_text("frame", frame)
    power = _calibration(engine, temperature) if check_switch("calibrated", calibrated) else None
    scale = 1.0 if temperature is None else check_number("temperature", temperature, LEAST_TEMPERATURE)
    decisions, classes = engine.constraints.decisions(frame, questions, engine.model.defaults.end_token_ids)
    request = _request(engine, prompt, frame, questions, max_denoising_steps, parameters)
    length = min(request.canvas_length, request.context_length - len(request.prompt))
    if decisions.fewest_tokens > length:
        raise RequestError(
            f"the answers take {decisions.fewest_tokens} tokens or more, and the canvas has {length}; ask fewer "
            "questions at a time"
        )
    return _decided(engine, request, length, scale, power, decisions, classes)


def _decided(
    engine: "Engine",
    request: Request,
    length: int,
    scale: float,
    power: float | None,
    decisions: Decisions,
    classes: TokenClasses,
) -> Work[ChooseResult]:
    began = perf_counter()
    cache, cached = yield from engine.contexts.open(request.prompt)
    try:
        for _ in engine.contexts.chunks(request.prompt, cache):
            yield None
        hidden, steps = yield from _denoised(engine, request, cache, length)
    finally:
        cache.close()
    with torch.inference_mode():
        sums = class_sums(engine.model.readout(hidden, scale, None, signal=False, classes=classes))
    decided = decisions.decide(*sums)
    probabilities = decided.probabilities if power is None else tempered(decided.probabilities, power)
    seconds = perf_counter() - began
    return ChooseResult(
        {name: Decision(own) for name, own in probabilities.items()},
        decided.log_valid,
        request.seed,
        Usage(len(request.prompt), cached, 0, 1, steps, seconds, seconds),
    )


def _questions(options: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The options of each question, by its name."""
    questions = dict(options) if isinstance(options, Mapping) else {_ONLY: options}
    if not questions:
        raise RequestError("there is no question; give options, or a mapping of questions to their options")
    for name, own in questions.items():
        check_text("a question's name", name)
        if isinstance(own, str) or not isinstance(own, Sequence):
            raise RequestError(f"question {{{name}}}: the options {own!r} must be several texts, as ('yes', 'no')")
        for option in own:
            check_text(f"question {{{name}}}: an option", option)
    return {name: tuple(own) for name, own in questions.items()}


def _denoised(engine: "Engine", request: Request, cache: PooledCache, length: int) -> Work[tuple[Tensor, int]]:
    """The hidden states [C, H] of the last step of a canvas, and how many steps there were."""
    model, state = engine.model, None
    if request.constraint is not None:
        start = request.constraint.automaton.start
        state = CanvasConstraint.of(request.constraint, start, length, request.max_tokens)
    canvas = DenoisingCanvas(model, request, 0, length, constraint=state)
    for step in range(1, request.max_denoising_steps + 1):
        signal = None if canvas.signal is None else canvas.signal[None]
        with torch.inference_mode():
            hidden = model.denoise(canvas.tokens[None], cache, signal)[0]
        if step == request.max_denoising_steps or canvas.advance(hidden) is not None:
            return hidden, step
        yield None
    raise AssertionError("a request has at least one denoising step")


def _request(
    engine: "Engine",
    prompt: "Prompt",
    frame: str,
    questions: Mapping[str, Sequence[str]],
    steps: int,
    parameters: Mapping[str, Any],
) -> Request:
    for name in ("constraint", "thinking", "draft", "stop", "verifier", "best_of", "max_tokens"):
        if name in parameters:
            raise RequestError(f"{name} cannot be given to choose; the options say what may be answered")
    holes = {name: Hole(choices=tuple(options)) for name, options in questions.items()}
    # A single step is only read; nothing is accepted that the frame would have to hold.
    constraint = Template(frame, holes) if steps != 1 else None
    return engine.request(prompt, constraint=constraint, max_denoising_steps=steps, **parameters)


def _calibration(engine: "Engine", temperature: float | None) -> float:
    if temperature is not None:
        raise RequestError("temperature and calibrated exclude each other; the fitted temperature is for logits as is")
    fitted = engine.model.defaults.choice_temperature
    if fitted is None:
        raise RequestError(
            "this checkpoint has no fitted choice_temperature in a redraft.json; leave calibrated out, or "
            "fit one with redraft.fit_choice_temperature and write it there with redraft.save_choice_temperature"
        )
    return fitted
