"""The probabilities of ``choose`` on questions whose answers are known, and the temperature fitted to them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from redraft.calibrate.calibration import Floats, fit_temperature
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.engine.runtime import Prompt


@dataclass(frozen=True)
class ChoiceExample:
    """A prompt and options for ``choose``, with the true answers."""

    prompt: "Prompt"
    options: Sequence[str] | Mapping[str, Sequence[str]]
    truth: str | Mapping[str, str]
    """The right option, or that of each question; questions that are left out do not count."""
    frame: str | None = None


class Distribution(Protocol):
    """The options of a question with their probabilities, as ``choose`` answers it."""

    @property
    def probabilities(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Decided:
    """One question whose true answer is known."""

    question: str
    probabilities: tuple[float, ...]
    """In the order in which the options were given."""
    truth: int
    """The number of the right option."""

    @property
    def right(self) -> bool:
        """True where the most probable option, of equals the first, is the truth."""
        return self.probabilities.index(max(self.probabilities)) == self.truth


@dataclass(frozen=True, eq=False)
class Predictions:
    """The distributions over the options of N questions, and the truth."""

    probabilities: Floats
    """[N, K]: probabilities in the order in which the options were given; 0 where a question has fewer than K."""
    truth: NDArray[np.int64]
    """[N]: the number of the right option."""

    @classmethod
    def of(cls, decided: Sequence[Decided]) -> "Predictions":
        """Put the distributions of one question or more together."""
        most = max(len(one.probabilities) for one in decided)
        rows = [[*one.probabilities, *[0.0] * (most - len(one.probabilities))] for one in decided]
        return cls(np.array(rows), np.array([one.truth for one in decided], dtype=np.int64))

    @property
    def log_probabilities(self) -> Floats:
        """[N, K]; -inf where there is no option."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.probabilities)
        # Less than float64 can hold is not impossible.
        rows = np.arange(len(logs))
        logs[rows, self.truth] = np.maximum(logs[rows, self.truth], np.log(np.finfo(np.float64).tiny))
        return logs

    def at(self, temperature: float) -> "Predictions":
        """Return the predictions that ``choose`` makes with ``calibrated`` and this ``choice_temperature``."""
        powers = (self.probabilities / self.probabilities.max(1, keepdims=True)) ** (1 / temperature)
        return Predictions(powers / powers.sum(1, keepdims=True), self.truth)


def predict(engine: "Engine", examples: Iterable[ChoiceExample], **parameters: Any) -> Predictions:
    """Ask ``choose`` every example, with its ``parameters`` (seed, max_denoising_steps and so on).

    Raises RequestError where there is no example, or a truth is none of the options.
    """
    decided: list[Decided] = []
    for number, example in enumerate(examples):
        answers = engine.choose(example.prompt, example.options, frame=example.frame, **parameters).answers
        decided += decisions(answers, example.truth, f"example {number}")
    if not decided:
        raise RequestError("there is no example with a truth to measure by; give one or more, better some hundreds")
    return Predictions.of(decided)


def decisions(answers: Mapping[str, Distribution], truth: str | Mapping[str, str], name: str) -> list[Decided]:
    """Pair the answers of ``choose`` with what is true, for each question that has a truth.

    Raises RequestError, which begins with ``name``, where a truth is none of the options.
    """
    if not isinstance(truth, Mapping) and len(answers) > 1:
        raise RequestError(f"{name} has {len(answers)} questions; give the truth of each by its name")
    decided = []
    for question, right in (truth if isinstance(truth, Mapping) else dict.fromkeys(answers, truth)).items():
        if question not in answers:
            raise RequestError(f"{name}: {question!r} has a truth, but is none of its questions")
        options = answers[question].probabilities
        if right not in options:
            raise RequestError(f"{name}: the truth {right!r} is none of the options {list(options)}")
        decided.append(Decided(question, tuple(options.values()), list(options).index(right)))
    return decided


def fit_choice_temperature(engine: "Engine", examples: Iterable[ChoiceExample], **parameters: Any) -> float:
    """Return the temperature at which ``choose`` gives the truths of ``examples`` the most probability.

    It belongs to what it was fitted on: to questions of this kind, and to ``parameters``, of which the number of
    denoising steps matters most. Some hundreds of questions are enough, which nothing is measured on afterwards.
    ``save_choice_temperature`` writes it where ``choose(..., calibrated=True)`` finds it.

    Raises RequestError where no temperature is the best, as when every answer is right.
    """
    found = predict(engine, examples, **parameters)
    try:
        return fit_temperature(found.log_probabilities, found.truth)
    except ValueError as error:
        raise RequestError(f"no temperature can be fitted to these {len(found.truth)} answers: {error}") from error
