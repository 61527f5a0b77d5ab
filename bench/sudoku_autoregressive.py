"""What the same trunk does with Sudoku when it writes one digit after the other: the bundled model's baseline.

    python bench/sudoku_autoregressive.py --steps 2000 --out runs/sudoku-ar

Same layers, structured start, data, optimizer and trainer as ``redraft train sudoku``; the canvas is a causal
continuation of the prompt, and there is no self-conditioning. The run folder's metrics.jsonl has its CPU seconds.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.layers.attention import Segment, attention
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.spans import causal_mask
from redraft.train.optimizer import OptimizerConfig, flatten_experts
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import KINDS, fresh_puzzles
from redraft.train.recipes.sudoku.model import SudokuShape, build, materialise
from redraft.train.recipes.sudoku.puzzles import generate, is_solution
from redraft.train.recipes.sudoku.recipe import EASY, HARD, PuzzleSource
from redraft.train.trainer import Trainer, TrainerConfig


@dataclass
class NoTrajectories:
    """Every update draws fresh examples: there is nothing to carry on."""

    def state(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


class NextTokenObjective:
    """Cross-entropy of each answer token given the prompt and the answer before it."""

    def __init__(self, model: DiffusionGemma, source: PuzzleSource, batch: int) -> None:
        self._model, self._source, self._batch = model, source, batch
        self._score = torch.compile(self._score_examples)

    def start(self, rng: np.random.Generator) -> NoTrajectories:
        return NoTrajectories()

    def loss(self, trajectories: NoTrajectories, rng: np.random.Generator) -> tuple[Tensor, float]:
        examples = self._source.draw(self._batch, rng)
        tokens = torch.cat((examples.prompts, examples.targets[:, :-1]), dim=1)
        loss, logits = self._score(tokens, examples.targets, examples.weights)
        return loss, (logits.argmax(-1) == examples.targets).all(-1).float().mean().item()

    def _score_examples(self, tokens: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        hidden, _ = causal(self._model, tokens, [])
        logits = self._model.logits(hidden[:, -targets.shape[1] :], slice(0, layout.TARGET_VOCABULARY))
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
        return (nll * weights).mean(), logits


def causal(model: DiffusionGemma, tokens: Tensor, past: list[Segment]) -> tuple[Tensor, list[Segment]]:
    """Hidden states [B, T, H] of ``tokens`` that follow ``past``, and the keys and values of all of them."""
    start = past[0].keys.shape[2] if past else 0
    batch, length = tokens.shape
    rope = model.rope(start, length)
    x, seen = model.embed(tokens).flatten(0, 1), []
    for index, (layer, spec) in enumerate(zip(model.layers, model.config.layers, strict=True)):
        cosines, sines = (part.repeat(batch, 1)[:, None] for part in rope[spec])
        queries, keys, values = (
            rows.unflatten(0, (batch, length)).transpose(1, 2) for rows in layer.project(x, (cosines, sines))
        )
        before = past[index : index + 1]
        own = Segment(keys, values, causal_mask(length, spec.window, x.device))
        x = layer.finish(x, attention(queries, [*before, own]).flatten(0, 1), layer.layer_scalar)
        segments = [*before, own]
        seen.append(
            Segment(
                torch.cat([one.keys for one in segments], dim=2), torch.cat([one.values for one in segments], dim=2)
            )
        )
    return model.norm(x).unflatten(0, (batch, length)), seen


@torch.no_grad()
def solve_rates(model: DiffusionGemma, count: int, seed: int) -> Mapping[str, float]:
    """Greedy decoding of fresh puzzles, judged by the rules."""
    rates = {}
    for kind in KINDS:
        puzzles = fresh_puzzles(kind, count, seed)
        tokens, answer = layout.prompt_tokens(puzzles.boards), []
        past: list[Segment] = []
        for _ in range(layout.CANVAS_LENGTH):
            hidden, past = causal(model, tokens, past)
            tokens = model.logits(hidden[:, -1:], slice(0, layout.TARGET_VOCABULARY)).argmax(-1)
            answer.append(tokens)
        cells = torch.cat(answer, dim=1)[:, layout.CELL_POSITIONS] - layout.FIRST_DIGIT + 1
        rates[f"solve rate, {kind}"] = float(is_solution(puzzles.boards, cells.numpy()).mean())
    return rates


def main() -> None:
    """Train the baseline, then decode fresh puzzles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=150_000)
    parser.add_argument("--count", type=int, default=1000, help="fresh puzzles of each kind at the end")
    parser.add_argument("--out", type=Path, default=Path("runs/sudoku-ar"))
    arguments = parser.parse_args()
    source = PuzzleSource(
        generate(arguments.pool, EASY, seed=2 * arguments.seed),
        generate(arguments.pool, HARD, seed=2 * arguments.seed + 2**32),
    )
    # The token that predicts an answer stands one position before it.
    model = build(SudokuShape(), arguments.seed, offset=layout.OFFSET - 1)
    flatten_experts(model)
    trainer = Trainer(
        model,
        NextTokenObjective(model, source, arguments.batch),
        OptimizerConfig(),
        TrainerConfig(arguments.steps, arguments.seed),
        arguments.out,
        evaluate=lambda average: solve_rates(materialise(average), 100, seed=10_000),
    )
    rates = solve_rates(materialise(trainer.run()), arguments.count, seed=0)
    print(json.dumps(rates, indent=2))


if __name__ == "__main__":
    main()
