"""``redraft train sudoku``: data, objective and sizes of the bundled model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from redraft.models import checkpoint
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.train.data import Examples
from redraft.train.objective import ObjectiveConfig, UniformStateObjective
from redraft.train.optimizer import OptimizerConfig, flatten_experts
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.model import SudokuShape, adopt, build, materialise
from redraft.train.recipes.sudoku.puzzles import Puzzles, generate, shuffle
from redraft.train.trainer import Trainer, TrainerConfig

EASY, HARD = (30, 45), (24, 30)
"""Givens of the two kinds of training puzzles, inclusive."""


@dataclass(frozen=True)
class PuzzleSource:
    """Training examples: a fixed pool of easy and hard puzzles, each time under a fresh random symmetry."""

    easy: Puzzles
    hard: Puzzles
    hard_share: float = 0.7
    """Share of the examples that are hard ones."""
    given_weight: float = 0.2
    """Loss weight of the given cells, newlines and end, which only have to be copied."""

    def draw(self, count: int, rng: np.random.Generator) -> Examples:
        from_hard = rng.random(count) < self.hard_share
        index = rng.integers(0, min(len(self.easy.boards), len(self.hard.boards)), count)
        pick = from_hard[:, None]
        boards, solutions = shuffle(
            np.where(pick, self.hard.boards[index], self.easy.boards[index]),
            np.where(pick, self.hard.solutions[index], self.easy.solutions[index]),
            rng,
        )
        return Examples(
            prompts=layout.prompt_tokens(boards),
            targets=layout.answer_tokens(solutions),
            weights=layout.at_cells(np.where(boards > 0, self.given_weight, 1.0), self.given_weight),
        )


@dataclass(frozen=True)
class SudokuRecipe:
    """Everything that decides the result of a run, apart from the machine."""

    steps: int = 5000
    seed: int = 0
    batch: int = 32
    pool: int = 150_000
    """Base puzzles of each kind. Seeds of training pools are even, those of evaluation puzzles odd."""
    hard_share: float = PuzzleSource.hard_share
    shape: SudokuShape = field(default_factory=SudokuShape)
    structured: bool = True
    start_from: str | Path | None = None
    """A checkpoint of the same shape whose weights the run starts with, instead of fresh ones."""
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig(layout.TARGET_VOCABULARY))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def train(
        self,
        folder: Path,
        evaluate: Callable[[DiffusionGemma], Mapping[str, float]] | None = None,
        on_progress: Callable[[int, Mapping[str, float]], None] | None = None,
        compile_model: bool = True,
        evaluate_every: int = 500,
        save_every: int = 50,
        log_every: int = 10,
    ) -> DiffusionGemma:
        """Train in ``folder``, or continue the run found there; returns the averaged, materialised model."""
        source = PuzzleSource(
            easy=generate(self.pool, EASY, seed=2 * self.seed),
            hard=generate(self.pool, HARD, seed=2 * self.seed + 2**32),
            hard_share=self.hard_share,
        )
        model = build(self.shape, self.seed, self.structured)
        if self.start_from is not None:
            adopt(model, checkpoint.read(checkpoint.find(self.start_from)).load("float32"))
        flatten_experts(model)
        objective = UniformStateObjective(model, source, self.objective, self.batch, compile_model)
        run = Trainer(
            model,
            objective,
            self.optimizer,
            TrainerConfig(
                self.steps, self.seed, log_every=log_every, evaluate_every=evaluate_every, save_every=save_every
            ),
            folder,
            evaluate=None if evaluate is None else lambda average: evaluate(materialise(average)),
            on_progress=on_progress,
        )
        return materialise(run.run())
