"""The bundled model here and in ``transformers`` on the same puzzles with the same noise: are the same ones solved?

    python -m bench.sudoku_same_noise                     # 100 puzzles, half of each kind
    python -m bench.sudoku_same_noise --dtype bfloat16 --count 20

The reference's own model, temperatures, sampler and stopping rule run in float32 with our draws in the place of
torch's: the uniforms of (seed, canvas, step, position) give its first canvas, its samples (by the inverse of its
distribution) and what it renoises with. A run that meets a tie, or a draw at the very border of two tokens, may still
part from ours.
"""

import argparse
from typing import Any, get_args

import numpy as np
import torch
from tests.random_checkpoint import reference_model
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    LinearTemperatureScheduleLogitsProcessor,
    StableAndConfidentStoppingCriteria,
)

import redraft
from bench.sudoku_end_to_end import mixed_boards
from redraft.canvas.noise import UniformNoise
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.models import checkpoint
from redraft.models.checkpoint import DType
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import from_text
from redraft.train.recipes.sudoku.puzzles import is_solution

_LENGTH = layout.CANVAS_LENGTH


@torch.no_grad()
def by_the_reference(reference: Any, prompt: Tensor, seed: int) -> tuple[list[int], int]:
    """The canvas [C] that the reference comes to with our draws, and in how many steps."""
    settings = reference.generation_config
    steps, vocabulary = settings.max_denoising_steps, reference.config.get_text_config(decoder=True).vocab_size
    temper: Any = LinearTemperatureScheduleLogitsProcessor(settings.t_min, settings.t_max, steps)
    sampler: Any = EntropyBoundSampler(settings.sampler_config, _LENGTH, vocabulary, steps)
    stopping: Any = StableAndConfidentStoppingCriteria(settings.stability_threshold, settings.confidence_threshold)
    noise = UniformNoise(vocabulary)
    canvas, logits = noise.tokens(PositionRandom(seed, 0, INITIAL, _LENGTH).noise)[None], None
    # The reference counts its steps down, and so do the keys of our draws.
    for step in range(steps, 0, -1):
        draws = PositionRandom(seed, 0, step, _LENGTH)
        raw = reference(input_ids=prompt, decoder_input_ids=canvas, self_conditioning_logits=logits).logits
        logits = temper(None, raw, step)
        argmax = logits.argmax(-1)
        ends = logits[0].double().softmax(-1).cumsum(-1)
        sample = torch.searchsorted(ends, draws.sample[:, None] * ends[:, -1:], right=True)[:, 0]
        sampler.accept_canvas(canvas, sample[None], logits, step)
        if bool(stopping(argmax, logits)):
            break
        canvas = torch.where(sampler.accepted_token_mask, sample[None], noise.tokens(draws.noise)[None])
    return argmax[0].tolist(), steps - step + 1


def main() -> None:
    """Solve, and print how many of the answers, steps and solved puzzles are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", action="append", choices=get_args(DType), help="may be repeated; by default auto")
    parser.add_argument("--count", type=int, default=100, help="puzzles, half of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    boards = mixed_boards(arguments.count, arguments.seed)
    prompts = layout.prompt_tokens(boards)
    seeds = [arguments.seed + number for number in range(1, len(boards) + 1)]
    folder = checkpoint.find("sudoku")
    reference = reference_model(folder)
    theirs = [by_the_reference(reference, prompt[None], seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    decode = redraft.load(folder).tokenizer.decode

    def solved(canvases: list[list[int]]) -> np.ndarray:
        texts = [decode(canvas[: canvas.index(layout.EOS)] if layout.EOS in canvas else canvas) for canvas in canvases]
        return is_solution(boards, np.stack([from_text(text) for text in texts]))

    their_solved = solved([canvas for canvas, _ in theirs])
    print(f"transformers float32 with our draws: {their_solved.sum()} of {len(boards)} solved")
    for dtype in arguments.dtype or ["auto"]:
        engine = redraft.load(folder, dtype=dtype)
        ours = [
            engine.generate(prompt.tolist(), seed=seed, max_tokens=_LENGTH)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        own = solved([list(one.token_ids) for one in ours])
        steps = [one.usage.denoising_steps == count for one, (_, count) in zip(ours, theirs, strict=True)]
        print(f"redraft {dtype}: {own.sum()} solved, {(own & their_solved).sum()} of them by both; "
              f"{(own == their_solved).sum()} of {len(boards)} judged alike, {sum(steps)} in the same number of steps"
        )  # fmt: skip


if __name__ == "__main__":
    main()
