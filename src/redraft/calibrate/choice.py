"""The probabilities of ``choose`` on questions whose answers are known, and the temperature fitted to them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, eq=False)
class Predictions:
    """The distributions over the options of N questions, and the truth."""

    probabilities: Floats
    """[N, K]: probabilities in the order in which the options were given; 0 where a question has fewer than K."""
    truth: NDArray[np.int64]
    """[N]: the number of the right option."""

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
        """The predictions that ``choose`` makes with ``calibrated`` and this ``choice_temperature``."""
        powers = (self.probabilities / self.probabilities.max(1, keepdims=True)) ** (1 / temperature)
        return Predictions(powers / powers.sum(1, keepdims=True), self.truth)


def predict(engine: "Engine", examples: Iterable[ChoiceExample], **parameters: Any) -> Predictions:
    """Ask ``choose`` every example, with its ``parameters`` (seed, max_denoising_steps and so on).

    Raises RequestError where there is no example, or a truth is none of the options.
    """
    rows: list[list[float]] = []
    truths = []
    for number, example in enumerate(examples):
        answers = engine.choose(example.prompt, example.options, frame=example.frame, **parameters).answers
        if not isinstance(example.truth, Mapping) and len(answers) > 1:
            raise RequestError(f"example {number} has {len(answers)} questions; give the truth of each by its name")
        truth = example.truth if isinstance(example.truth, Mapping) else dict.fromkeys(answers, example.truth)
        for question, right in truth.items():
            if question not in answers:
                raise RequestError(f"example {number}: {question!r} has a truth, but is none of its questions")
            options = answers[question].probabilities
            if right not in options:
                raise RequestError(f"example {number}: the truth {right!r} is none of the options {list(options)}")
            rows.append(list(options.values()))
            truths.append(list(options).index(right))
    if not rows:
        raise RequestError("there is no example with a truth to measure by; give one or more, better some hundreds")
    most = max(map(len, rows))
    return Predictions(np.array([row + [0.0] * (most - len(row)) for row in rows]), np.array(truths, dtype=np.int64))


def fit_choice_temperature(engine: "Engine", examples: Iterable[ChoiceExample], **parameters: Any) -> float:
    """The temperature at which ``choose`` gives the truths of ``examples`` the most probability.

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
