"""The model that ships: small, solves puzzles it never saw, says when it did, and is what transformers loads."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.calibrate.calibration import calibration
from redraft.calibrate.choice import predict
from redraft.models import checkpoint
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, evaluate, fresh_puzzles
from redraft.train.recipes.sudoku.puzzles import Puzzles
from redraft.train.recipes.sudoku.questions import questions
from tests.random_checkpoint import reference_model
from tests.thorough import some

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine(bundled: Engine) -> Engine:
    return bundled


@pytest.fixture(scope="module")
def puzzles() -> dict[str, Puzzles]:
    """Of a seed that neither training nor the published figures use."""
    return {kind: fresh_puzzles(kind, 30, seed=77) for kind in KINDS}


def first(puzzles: Puzzles, count: int) -> Puzzles:
    return Puzzles(puzzles.boards[:count], puzzles.solutions[:count])


def test_it_is_at_most_ten_megabytes() -> None:
    files = checkpoint.find("sudoku").rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 10e6


# Far enough below the published rates that so few puzzles do not fail by chance.
@pytest.mark.parametrize(("kind", "rate", "steps"), list(zip(KINDS, (0.9, 0.65), (8.0, 15.0), strict=True)))
def test_it_solves_fresh_puzzles(
    engine: Engine, puzzles: dict[str, Puzzles], kind: str, rate: float, steps: float
) -> None:
    score = evaluate(engine, kind, first(puzzles[kind], some(30, 12)))
    assert score.solved >= rate
    assert score.mean_steps <= steps
    assert score.right_when_converged is not None
    assert score.right_when_converged >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_it_and_gives_the_same_logits(
    engine: Engine, puzzles: dict[str, Puzzles], kind: str
) -> None:
    """Along whole runs of ours: entropies and argmax of every step."""
    reference = reference_model(checkpoint.find("sudoku"))
    for board in puzzles[kind].boards[:2]:
        events: list[redraft.StepEvent] = []
        question = [{"role": "user", "content": as_text(board)}]
        engine.generate(question, seed=1, max_tokens=90, on_step=events.append)
        prompt, logits = layout.prompt_tokens(board[None]), None
        for event in events:
            with torch.no_grad():
                raw = reference(
                    input_ids=prompt, decoder_input_ids=event.tokens_in[None], self_conditioning_logits=logits
                ).logits
            logits = raw / event.temperature
            assert torch.equal(event.argmax, logits[0].argmax(-1))
            entropy = torch.distributions.Categorical(logits=logits[0]).entropy()
            torch.testing.assert_close(event.entropy, entropy, atol=1e-4, rtol=0)


def test_transformers_own_generate_solves_with_it(puzzles: dict[str, Puzzles]) -> None:
    reference = reference_model(checkpoint.find("sudoku"))
    boards, solutions = (
        grid[:8] for grid in (puzzles["36 or more givens"].boards, puzzles["36 or more givens"].solutions)
    )
    torch.manual_seed(0)
    out = reference.generate(layout.prompt_tokens(boards), max_new_tokens=layout.CANVAS_LENGTH)
    right = (out.sequences[:, 91:] == layout.answer_tokens(solutions)).all(-1)
    assert right.float().mean() >= 0.85


def test_the_same_seed_gives_the_same_run_and_another_seed_another(engine: Engine, puzzles: dict[str, Puzzles]) -> None:
    question = [{"role": "user", "content": as_text(puzzles["24 to 30 givens"].boards[0])}]

    def run(seed: int) -> list[redraft.StepEvent]:
        events: list[redraft.StepEvent] = []
        engine.generate(question, seed=seed, on_step=events.append)
        return events

    one, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a.entropy, b.entropy) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0].tokens_in, other[0].tokens_in)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_the_example_solves_checks_and_says_what_to_try_next(commands: Path, inside: bool, tmp_path: Path) -> None:
    """From a folder that the command lies in, and from another."""
    python, example = commands / "python", ROOT / "examples" / "solve_sudoku.py"
    folder = commands.parent if inside else tmp_path
    done = subprocess.run([python, example], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "solved: " in done.stdout
    assert "denoising steps" in done.stdout
    assert "\x1b" not in done.stdout, "no terminal, no colours"
    command = python.with_name("redraft")
    shown = str(command.relative_to(folder)) if inside else str(command)
    tries = [line for line in done.stdout.splitlines() if line.startswith(f"  {shown} ")]
    assert len(tries) == 3
    assert command.exists()
    for line in () if inside else tries:
        # Solving a hundred puzzles takes minutes; that the command is there and takes these options is enough.
        short = f"{line} --help" if "--count" in line else line
        tried = subprocess.run(["bash", "-c", short], capture_output=True, text=True, cwd=folder)
        assert tried.returncode == 0, tried.stderr


@pytest.mark.slow
def test_the_example_refuses_what_is_no_puzzle(commands: Path) -> None:
    done = subprocess.run(
        [commands / "python", ROOT / "examples" / "solve_sudoku.py", "12345"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "81 cells" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_example_judges_by_the_rules(puzzles: dict[str, Puzzles]) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("solve_sudoku", ROOT / "examples" / "solve_sudoku.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    boards, solutions = puzzles["24 to 30 givens"].boards, puzzles["24 to 30 givens"].solutions
    puzzle, solution = as_text(boards[0]), solutions[0]
    assert example.faults(puzzle, as_text(solution)) == []
    swapped = solution.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert example.faults(puzzle, as_text(swapped))
    assert example.faults(puzzle, as_text(np.zeros(81, dtype=np.uint8)))
    relabelled = solution % 9 + 1
    assert any("given cell" in fault for fault in example.faults(puzzle, as_text(relabelled)))


class TestItsFittedTemperature:
    """On cells whose probabilities it makes truer, though hardly: they are nearly true as they are."""

    def test_it_is_read_and_applied(self, engine: Engine, puzzles: dict[str, Puzzles]) -> None:
        fitted = engine.model.defaults.choice_temperature
        assert fitted is not None
        assert fitted == pytest.approx(1, abs=0.15)
        hard = puzzles["24 to 30 givens"]
        asked = questions(hard.boards[0], hard.solutions[0], None, np.random.default_rng(0))
        plain, calibrated = (
            engine.choose(asked.prompt, asked.options, frame=asked.frame, seed=3, calibrated=on).answers
            for on in (False, True)
        )
        for name, decision in plain.items():
            powers = np.array(list(decision.probabilities.values())) ** (1 / fitted)
            found = np.array(list(calibrated[name].probabilities.values()))
            np.testing.assert_allclose(found, powers / powers.sum(), rtol=1e-9)

    def test_the_probabilities_are_true_within_what_chance_makes_of_so_few(
        self, engine: Engine, puzzles: dict[str, Puzzles]
    ) -> None:
        rng = np.random.default_rng(0)
        asked = [
            questions(board, solution, 8, rng)
            for own in puzzles.values()
            for board, solution in zip(own.boards, own.solutions, strict=True)
        ]
        found = predict(engine, asked, seed=0, calibrated=True)
        measured = calibration(found.probabilities, found.truth)
        assert measured.accuracy > 0.65
        assert measured.expected_calibration_error < 0.08

    def test_saving_the_model_keeps_it(self, tmp_path: Path) -> None:
        model = checkpoint.read(checkpoint.find("sudoku")).load()
        checkpoint.save(model, tmp_path, torch.float32)
        assert checkpoint.read(tmp_path).defaults == model.defaults
        assert model.defaults.choice_temperature is not None
