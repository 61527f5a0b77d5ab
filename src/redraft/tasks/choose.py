"""Typed decisions: the probability of each option of each question, read off one canvas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol, get_args

from redraft.canvas.readout import Readout
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.constraint import Template
from redraft.constrain.inference.decisions import Decided, Decisions, Normalize
from redraft.constrain.inference.decisions import calibrated as tempered
from redraft.constrain.language.template import Hole
from redraft.engine.canvas_length import pick_canvas_length, trained_lengths
from redraft.engine.constrained import CanvasConstraint, class_sums
from redraft.engine.context import open_context, prefill
from redraft.engine.denoise import CanvasPlan, Denoising
from redraft.engine.generation import Recorders, to_record
from redraft.engine.request import (
    MIN_TEMPERATURE,
    Request,
    check_number,
    check_switch,
    check_text,
    generate,
)
from redraft.engine.result import OnStep, Usage
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.sampling import NOTHING
from redraft.engine.task import StepRecorder, Task, TimedListener, recorded
from redraft.engine.thinking import OF_THOUGHTS
from redraft.errors import ConstraintError, RequestError, counted
from redraft.models.base import ExtractLayout
from redraft.tasks.choose_slots import SlotChoice, frame_of
from redraft.tasks.layout import check_layout

_ONLY = "answer"


@dataclass(frozen=True)
class Decision:
    """The model's judgement of the options of one question."""

    probabilities: dict[str, float]
    """The probability of each option, in the order in which they were given; they add up to 1."""

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
    deadline_reached: bool = False
    """True if the deadline came before the canvas was denoised: it was read as it was then."""
    layout: ExtractLayout = "text"
    """"slots" where each question was read in a slot of its own, "text" where the answers are a text."""
    fallback: str | None = None
    """The reason for which a text was read although slots were asked for, or are the checkpoint's own layout."""

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
    """A description of what is read off a canvas, and how."""

    frame: str
    """A template with a hole for each question."""
    questions: Mapping[str, tuple[str, ...]]
    """The options of each, by its name."""
    temperature: float
    """The temperature of the logits."""
    power: float | None
    """The fitted temperature of the probabilities, where it is applied."""
    normalize: Normalize | None = None
    """The property of options that is taken out of their probabilities; None for nothing."""
    layout: ExtractLayout = "text"
    fallback: str | None = None
    """The reason for "text", where slots were wanted."""


class Choice(Protocol):
    """A canvas with the options of questions on it."""

    def plan(self, request: Request, temperature: float) -> CanvasPlan:
        """Return the canvas that is to be read at its last step, at a temperature of its logits."""
        ...

    def decide(self, readout: Readout, normalize: Normalize | None) -> Decided:
        """Read the questions off the last step."""
        ...


@dataclass(frozen=True, eq=False)
class TextChoice:
    """A frame with the options of questions, as the text that a canvas begins with (a ``Choice``)."""

    decisions: Decisions
    classes: TokenClasses
    length: int
    """Positions of the canvas."""

    @classmethod
    def of(cls, runtime: Runtime, request: Request, frame: str, questions: Mapping[str, Sequence[str]]) -> "TextChoice":
        """Compile a frame; RequestError where the answers do not fit on a canvas."""
        decisions, classes = runtime.constraints.decisions(frame, questions, request.end_token_ids)
        length = min(request.canvas_length, request.context_length - len(request.prompt))
        if decisions.min_tokens > length:
            raise RequestError(
                f"the answers take {counted(decisions.min_tokens, 'token')} or more, and the canvas has {length}; ask "
                "fewer questions at a time"
            )
        return cls(decisions, classes, length)

    def plan(self, request: Request, temperature: float) -> CanvasPlan:
        """Return the canvas, which is held to the frame while it is denoised."""
        constraint = None
        if request.constraint is not None:
            start = request.constraint.automaton.start
            constraint = CanvasConstraint.of(request.constraint, start, self.length, request.max_tokens)
        return CanvasPlan(
            0,
            self.length,
            request.prompt,
            constraint=constraint,
            read_classes=self.classes,
            read_temperature=temperature,
        )

    def decide(self, readout: Readout, normalize: Normalize | None) -> Decided:
        """Read the questions off the last step."""
        return self.decisions.decide(class_sums(readout), normalize=normalize)


@dataclass(frozen=True, eq=False)
class ChooseRequest:
    """Questions that are checked and compiled (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    reading: Reading
    choice: Choice
    record: Recorders | None = None

    @classmethod
    def of(
        cls, runtime: Runtime, request: Request, reading: Reading, record: Recorders | None = None
    ) -> "ChooseRequest":
        """Compile what is read after a request; RequestError where the answers do not fit on its canvas."""
        kind: type[TextChoice] | type[SlotChoice] = SlotChoice if reading.layout == "slots" else TextChoice
        choice = kind.of(runtime, request, reading.frame, reading.questions)
        return cls(runtime, request, reading, choice, record)

    def task(self, on_step: OnStep | None = None, recorder: StepRecorder | None = None) -> Task[ChooseResult]:
        """Begin to decide. ``on_step`` is called after every denoising step, also the one that is only read.
        ``recorder``: in the place of one from ``record``."""
        asked = self
        if recorder is None and self.record is not None:
            asked = replace(self, request=to_record(self.request))
            recorder = self.record.recorder(asked.request, self.runtime, self.reading)
        return recorded(asked._begin, recorder, on_step)

    def _begin(self, on_step: OnStep | None) -> Task[ChooseResult]:
        began, runtime, request = perf_counter(), self.runtime, self.request
        listener = None if on_step is None else TimedListener(on_step)
        cache, cached = yield from open_context(runtime, request.prompt)
        try:
            commit = yield from prefill(runtime, request.prompt, cache, request.deadline)
            if request.deadline is not None:
                request.deadline.check_begun("the first denoising step")
            plan = self.choice.plan(request, self.reading.temperature)
            last = yield from Denoising(runtime, request, plan, cache).read_last(commit, listener)
        finally:
            cache.close()
        decided = self.choice.decide(last.readout, self.reading.normalize)
        power = self.reading.power
        steps = last.denoising_steps
        probabilities = decided.probabilities if power is None else tempered(decided.probabilities, power)
        seconds = perf_counter() - began - (0.0 if listener is None else listener.seconds)
        return ChooseResult(
            {name: Decision(own) for name, own in probabilities.items()},
            decided.log_valid,
            request.seed,
            Usage(len(request.prompt), cached, 0, 1, steps, seconds, seconds, forwards=steps),
            last.cut,
            self.reading.layout,
            self.reading.fallback,
        )


def choose(
    runtime: Runtime,
    prompt: Prompt,
    options: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    frame: str | None = None,
    max_denoising_steps: int = 1,
    temperature: float | None = None,
    calibrated: bool = False,
    normalize: Normalize | None = None,
    layout: ExtractLayout | None = None,
    record: Recorders | None = None,
    **parameters: Any,
) -> ChooseRequest:
    """Check a request for the probability of each of ``options`` as the answer to ``prompt``, all ways to split it into
    tokens together.

    options: the answers to one question, or a mapping of questions to theirs, all decided on one canvas. frame: how the
    answers stand there, a template with a hole ``{name}`` for each question; by default one line each, in order, or
    the answer alone. max_denoising_steps: with one, everything is read off the first step; with more, the canvas is
    denoised under the frame first, and read at its last step. temperature: of the logits that are read, 1 by default.
    calibrated: apply the temperature that was fitted for this checkpoint instead. normalize: None compares options by
    their whole probability, "length" by its geometric mean over their bytes, so that a long one is not behind for its
    length. layout: "slots" reads each question in a slot of its own, which the option fills with end tokens behind it,
    and around which the frame is pinned, by default the question's name; "text" reads a text that anything may follow;
    by default as the checkpoint was trained. Where a frame has no slots it is a text all the same, and the result says
    why. record: keeps what happens. deadline_ms: the canvas is read at the step that there is then. Other parameters
    (seed, entropy_bound and so on), and errors, as in ``request.generate``.
    """
    runtime.check_canvas("choose")
    questions = _questions(options)
    text = "\n".join(f"{{{name}}}" for name in questions) if frame is None else frame
    check_text("frame", text)
    power = _calibration(runtime, temperature) if check_switch("calibrated", calibrated) else None
    scale = 1.0 if temperature is None else check_number("temperature", temperature, MIN_TEMPERATURE)
    check_normalize(normalize)
    check_layout(layout)
    _check_of_others(parameters)
    reading = Reading(text, questions, scale, power, normalize)
    given = {"max_denoising_steps": max_denoising_steps, **parameters}
    if (layout or runtime.model.defaults.extract_layout) == "slots":
        in_slots = replace(reading, frame=frame_of(questions) if frame is None else frame, layout="slots")
        request = generate(runtime, prompt, mode="diffusion", **given)
        try:
            return ChooseRequest.of(runtime, request, in_slots, record)
        except (RequestError, ConstraintError) as error:
            reading = replace(reading, fallback=str(error))
    # What is wrong with the questions themselves is told before what is wrong with the request.
    runtime.constraints.decisions(text, questions, runtime.model.defaults.end_token_ids)
    return ChooseRequest.of(runtime, _of_text(runtime, prompt, text, questions, given), reading, record)


def _of_text(
    runtime: Runtime,
    prompt: Prompt,
    frame: str,
    questions: Mapping[str, Sequence[str]],
    given: Mapping[str, Any],
) -> Request:
    """Make the request of a canvas that begins with a text of the frame."""
    # Of one length alone there is nothing to pick.
    needed = _needed(runtime, frame, questions) if trained_lengths(runtime) else None
    length = pick_canvas_length(runtime, given.get("canvas_length"), needed)
    holes = {name: Hole(choices=tuple(options)) for name, options in questions.items()}
    # A single step is only read; nothing is accepted that the frame would have to hold.
    constraint = Template(frame, holes) if given["max_denoising_steps"] != 1 else None
    return generate(runtime, prompt, mode="diffusion", constraint=constraint, **{**given, "canvas_length": length})


def _needed(runtime: Runtime, frame: str, questions: Mapping[str, Sequence[str]]) -> int:
    """Return the positions that surely hold the frame with any of the options, and the token that ends the answer."""

    def taken(text: str) -> int:
        return len(runtime.tokenizer.encode_text(text, literal=True))

    return 1 + taken(frame) + sum(max(map(taken, options)) for options in questions.values())


def check_normalize(normalize: object) -> None:
    """Refuse what ``choose`` cannot take out of a probability."""
    if normalize is not None and normalize not in get_args(Normalize):
        raise RequestError(f"normalize {normalize!r} must be 'length', or None for the sum")


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


def _check_of_others(parameters: Mapping[str, Any]) -> None:
    own = ("mode", "constraint", *OF_THOUGHTS, "draft", "stop", "verifier", "best_of", "max_tokens", *vars(NOTHING))
    for name in own:
        if name in parameters:
            raise RequestError(f"{name} cannot be given to choose; the options say what may be answered")


def _calibration(runtime: Runtime, temperature: float | None) -> float:
    if temperature is not None:
        raise RequestError("temperature and calibrated exclude each other; the fitted temperature is for logits as is")
    fitted = runtime.model.defaults.choice_temperature
    if fitted is None:
        raise RequestError(
            "this checkpoint has no fitted choice_temperature in a redraft.json; leave calibrated out, or "
            "fit one with redraft.fit_choice_temperature and write it there with redraft.save_choice_temperature"
        )
    return fitted
