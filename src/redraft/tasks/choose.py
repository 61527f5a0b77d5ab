"""Typed decisions: the probability of each option of each question, read off one canvas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from redraft.canvas.readout import Readout
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.constraint import Template
from redraft.constrain.inference.decisions import Decisions
from redraft.constrain.inference.decisions import calibrated as tempered
from redraft.constrain.language.template import Hole
from redraft.engine.constrained import CanvasConstraint, class_sums
from redraft.engine.denoise import DenoisingCanvas
from redraft.engine.memory import PooledCache
from redraft.engine.request import (
    LEAST_TEMPERATURE,
    Request,
    check_listeners,
    check_number,
    check_switch,
    check_text,
)
from redraft.engine.result import OnStep, Usage
from redraft.engine.task import Work
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.api import Engine, Prompt, Recorders

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


@dataclass(frozen=True)
class Reading:
    """What is read off a canvas, and how."""

    frame: str
    """A template with a hole for each question."""
    questions: Mapping[str, tuple[str, ...]]
    """The options of each, by its name."""
    temperature: float
    """Of the logits."""
    power: float | None
    """The fitted temperature of the probabilities, where it is applied."""


@dataclass(frozen=True)
class Choosing:
    """Questions that are checked and compiled; the work on them may begin any number of times."""

    engine: "Engine"
    request: Request
    reading: Reading
    decisions: Decisions
    classes: TokenClasses
    length: int
    """Of the canvas."""

    @classmethod
    def of(cls, engine: "Engine", request: Request, reading: Reading) -> "Choosing":
        """Compile what is read after a request; RequestError where the answers do not fit on its canvas."""
        decisions, classes = engine.constraints.decisions(reading.frame, reading.questions, request.end_token_ids)
        length = min(request.canvas_length, request.context_length - len(request.prompt))
        if decisions.fewest_tokens > length:
            raise RequestError(
                f"the answers take {decisions.fewest_tokens} tokens or more, and the canvas has {length}; ask fewer "
                "questions at a time"
            )
        return cls(engine, request, reading, decisions, classes, length)

    def work(self, on_step: OnStep | None = None, record: "Recorders | None" = None) -> Work[ChooseResult]:
        """Decide. on_step: called after every denoising step, also the one that is only read. record: as in
        ``Engine.stream``."""
        check_listeners(on_step, record)
        return self._decided(on_step) if record is None else record.decision(self, on_step)

    def _decided(self, on_step: OnStep | None) -> Work[ChooseResult]:
        began, engine, request = perf_counter(), self.engine, self.request
        cache, cached = yield from engine.contexts.open(request.prompt)
        try:
            for _ in engine.contexts.chunks(request.prompt, cache):
                yield None
            readout, steps = yield from self._denoised(cache, on_step)
        finally:
            cache.close()
        decided, power = self.decisions.decide(*class_sums(readout)), self.reading.power
        probabilities = decided.probabilities if power is None else tempered(decided.probabilities, power)
        seconds = perf_counter() - began
        return ChooseResult(
            {name: Decision(own) for name, own in probabilities.items()},
            decided.log_valid,
            request.seed,
            Usage(len(request.prompt), cached, 0, 1, steps, seconds, seconds),
        )

    def _denoised(self, cache: PooledCache, on_step: OnStep | None) -> Work[tuple[Readout, int]]:
        """What the last step of a canvas shows, and how many steps there were."""
        model, request, state = self.engine.model, self.request, None
        if request.constraint is not None:
            start = request.constraint.automaton.start
            state = CanvasConstraint.of(request.constraint, start, self.length, request.max_tokens)
        canvas = DenoisingCanvas(model, request, 0, self.length, constraint=state, on_step=on_step)
        for step in range(1, request.max_denoising_steps + 1):
            signal = None if canvas.signal is None else canvas.signal[None]
            with torch.inference_mode():
                hidden = model.denoise(canvas.tokens[None], cache, signal)[0]
            converged = step < request.max_denoising_steps and canvas.advance(hidden) is not None
            if converged or step == request.max_denoising_steps:
                return canvas.read(hidden, self.reading.temperature, self.classes, told=converged), step
            yield None
        raise AssertionError("a request has at least one denoising step")


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
) -> Choosing:
    """To find the probability of each of ``options`` as the answer to ``prompt``, all ways to split it into tokens
    together.

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
    # What is wrong with the questions themselves is told before what is wrong with the request.
    engine.constraints.decisions(frame, questions, engine.model.defaults.end_token_ids)
    request = _request(engine, prompt, frame, questions, max_denoising_steps, parameters)
    return Choosing.of(engine, request, Reading(frame, questions, scale, power))


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
