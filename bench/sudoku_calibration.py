"""How sure the bundled Sudoku model is of a digit, and how right: ``choose`` on blank cells of fresh puzzles.

    python -m bench.sudoku_calibration                                # 2,000 cells of 250 puzzles; some minutes
    python -m bench.sudoku_calibration --steps 1 --plot reliability.svg --write path/to/a/checkpoint

All blanks of a puzzle are asked at once; so many of them, drawn at random, are counted. The temperature is fitted on
puzzles of its own, half of each kind, and judged on others. "By chance" is the calibration error that a model would
show whose probabilities were exactly true, with as many answers as sure as these: less cannot be told from none.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redraft.api import Engine
from redraft.calibrate.calibration import calibration, fit_temperature
from redraft.calibrate.choice import ChoiceExample, Predictions, predict
from redraft.calibrate.plot import reliability_plot
from redraft.errors import RequestError
from redraft.kernels import library
from redraft.loading import load
from redraft.models.checkpoint import save_choice_temperature
from redraft.train.recipes.sudoku.evaluate import KINDS
from redraft.train.recipes.sudoku.questions import mixed

BINS = 15
RESAMPLED = 200


@dataclass(frozen=True)
class Fit:
    """A temperature, and how far it may be off."""

    temperature: float
    error: float
    """Standard deviation over puzzles drawn anew."""

    @classmethod
    def of(cls, found: Predictions, puzzles: np.ndarray) -> "Fit":
        """``puzzles`` [N]: which one each answer is from; answers of one are not independent."""
        rng = np.random.default_rng(0)
        numbers = np.unique(puzzles)
        drawn = []
        for _ in range(RESAMPLED):
            rows = np.concatenate([np.flatnonzero(puzzles == number) for number in rng.choice(numbers, len(numbers))])
            try:
                drawn.append(fit_temperature(found.log_probabilities[rows], found.truth[rows]))
            except ValueError:
                continue
        return cls(fit_temperature(found.log_probabilities, found.truth), float(np.std(drawn)))


def asked(
    engine: Engine, examples: list[ChoiceExample], steps: int, seed: int
) -> tuple[Predictions, np.ndarray, np.ndarray]:
    """The predictions, and of each answer [N] its puzzle and that one's kind."""
    found = predict(engine, examples, seed=seed, max_denoising_steps=steps)
    puzzles = np.repeat(np.arange(len(examples)), [len(example.truth) for example in examples])
    return found, puzzles, puzzles % len(KINDS)


def row(name: str, found: Predictions, temperature: float | None) -> dict[str, Any]:
    """How good the predictions are, and how honest."""
    measured = calibration(found.probabilities, found.truth, BINS)
    return {
        "answers": name,
        "count": len(found.truth),
        "temperature": temperature,
        "accuracy": measured.accuracy,
        "expected_calibration_error": measured.expected_calibration_error,
        "by_chance": error_by_chance(found),
        "negative_log_likelihood": measured.negative_log_likelihood,
        "brier_score": measured.brier_score,
    }


def error_by_chance(found: Predictions) -> float:
    """The mean calibration error when the truths are drawn from the predictions themselves."""
    rng = np.random.default_rng(0)
    cumulative = found.probabilities.cumsum(1)
    cumulative /= cumulative[:, -1:]
    errors = []
    for _ in range(RESAMPLED):
        truth = (cumulative > rng.random((len(cumulative), 1))).argmax(1)
        errors.append(calibration(found.probabilities, truth, BINS).expected_calibration_error)
    return float(np.mean(errors))


def largest_change(engine: Engine, examples: list[ChoiceExample], steps: int, seed: int) -> float:
    """The most that any probability changes when the questions, and the options of each, come in another order."""
    rng = np.random.default_rng(0)
    most = 0.0
    for example in examples:
        assert not isinstance(example.options, list | tuple | str)
        names = rng.permutation(list(example.options)).tolist()
        shuffled = {name: rng.permutation(example.options[name]).tolist() for name in names}
        one, other = (
            engine.choose(example.prompt, options, frame=example.frame, seed=seed, max_denoising_steps=steps).answers
            for options in (example.options, shuffled)
        )
        changes = [abs(p - other[name].probabilities[digit])
                   for name, decision in one.items() for digit, p in decision.probabilities.items()]  # fmt: skip
        most = max(most, *changes)
    return most


def averaged(engine: Engine, examples: list[ChoiceExample], seeds: int, seed: int) -> tuple[Predictions, float]:
    """The mean of the predictions from so many canvases of noise, and how far these are apart (root mean square)."""
    found = [predict(engine, examples, seed=seed + number) for number in range(seeds)]
    every = np.stack([one.probabilities for one in found])
    return replace(found[0], probabilities=every.mean(0)), float(np.sqrt(every.var(0, ddof=1).mean()))


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| answers | count | temperature | right | calibration error | by chance | log loss | Brier score |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for own in table:
        temperature = "" if own["temperature"] is None else f"{own['temperature']:.3f}"
        lines.append(
            f"| {own['answers']} | {own['count']:,} | {temperature} | {100 * own['accuracy']:.1f} % "
            f"| {100 * own['expected_calibration_error']:.1f} % | {100 * own['by_chance']:.1f} % "
            f"| {own['negative_log_likelihood']:.3f} | {own['brier_score']:.3f} |"
        )
    return "\n".join(lines)


def measure(arguments: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """Fit, judge and print."""
    to_fit = mixed(arguments.fit_puzzles, arguments.fit_cells, arguments.fit_seed)
    held_out = mixed(arguments.puzzles, arguments.cells, arguments.seed)
    table, fits = [], {}
    for steps in arguments.steps or [1]:
        name = f"{steps} step{'s' if steps > 1 else ''}"
        fitting, puzzles, _ = asked(engine, to_fit, steps, arguments.seed)
        found, _, kinds = asked(engine, held_out, steps, arguments.seed)
        table.append(row(name, found, None))
        try:
            fits[steps] = Fit.of(fitting, puzzles)
        except ValueError as error:
            print(f"{name}: {error}")
            continue
        temperature = fits[steps].temperature
        print(f"{name}: temperature {temperature:.4f} +- {fits[steps].error:.4f}, "
              f"from {len(fitting.truth):,} answers")  # fmt: skip
        table.append(row(f"{name}, calibrated", found.at(temperature), temperature))
        if 1 in fits and steps != 1:
            first = fits[1].temperature
            table.append(row(f"{name}, calibrated for one", found.at(first), first))
        for number, kind in enumerate(KINDS):
            own = Predictions(found.probabilities[kinds == number], found.truth[kinds == number])
            if len(own.truth):
                table.append(row(f"{name}, {kind}", own, None))
        if steps == 1 and arguments.plot:
            reliability_plot(calibration(found.probabilities, found.truth, BINS).table, arguments.plot)
    if arguments.noises > 1:
        mean, apart = averaged(engine, held_out, arguments.noises, arguments.seed)
        table.append(row(f"1 step, mean of {arguments.noises} noises", mean, None))
        print(f"between {arguments.noises} canvases of noise a probability differs by {apart:.4f} (root mean square)")
    for steps in arguments.steps or [1]:
        change = largest_change(engine, held_out[: arguments.orders], steps, arguments.seed)
        print(f"questions and options in another order, {steps} step(s), {arguments.orders} puzzles: "
              f"probabilities change by {change:g} at most")  # fmt: skip
    print(markdown(table))
    return {
        "rows": table,
        "temperatures": {steps: {"temperature": fit.temperature, "error": fit.error} for steps, fit in fits.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku", help="a checkpoint of the Sudoku recipe")
    parser.add_argument("--steps", type=int, action="append", help="denoising steps; may be repeated, by default 1")
    parser.add_argument("--puzzles", type=int, default=250, help="to judge by, half of each kind")
    parser.add_argument("--cells", type=int, default=8, help="blanks of each that count")
    parser.add_argument("--seed", type=int, default=2, help="decides these puzzles, and all noise")
    parser.add_argument("--fit-puzzles", type=int, default=250, help="to fit the temperature on")
    parser.add_argument("--fit-cells", type=int, help="blanks of each that count; by default all")
    parser.add_argument("--fit-seed", type=int, default=1, help="decides these puzzles")
    parser.add_argument("--noises", type=int, default=1, help="also average over so many canvases of noise")
    parser.add_argument("--orders", type=int, default=50, help="puzzles asked in another order")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="reliability of one step as it is; .png, .svg or .pdf")
    parser.add_argument("--write", type=Path, help="a checkpoint folder to write the temperature of one step into")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.seed == arguments.fit_seed:
        raise SystemExit("seed and fit-seed are the same; a temperature is judged on puzzles it was not fitted on")
    engine = load(arguments.model)
    library.use_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    result = measure(arguments, engine)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))
    if arguments.write:
        if 1 not in result["temperatures"]:
            raise RequestError("no temperature of one step was fitted")
        save_choice_temperature(arguments.write, round(result["temperatures"][1]["temperature"], 4))


if __name__ == "__main__":
    main()
