"""The structured start does what it says before any training, and materialising changes nothing."""

import numpy as np
import pytest
import torch

from redraft import RedraftError
from redraft.models.base import Span
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.train.objective import PromptCache
from redraft.train.optimizer import flatten_experts
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.model import SudokuShape, adopt, build, materialise
from redraft.train.recipes.sudoku.puzzles import generate

PUZZLES = generate(3, (30, 35), seed=3)


def test_the_first_layer_attends_to_its_own_cell_in_the_prompt() -> None:
    """Heads 0 and 1 of an untrained model: most of a canvas cell's attention to the prompt falls on its cell."""
    model = build(SudokuShape(), seed=0)
    prompts, canvas = layout.prompt_tokens(PUZZLES.boards), layout.answer_tokens(PUZZLES.solutions)
    cache = PromptCache()
    with torch.no_grad():
        model([Span(prompts, cache, "encode")])
        layer, spec = model.layers[0], model.config.layers[0]
        x = model.self_conditioning(model.embed(canvas), None)
        angles = [part.repeat(3, 1)[:, None] for part in model.rope(91, 90)[spec]]
        rows, _, _ = layer.project(x.flatten(0, 1), (angles[0], angles[1]))
        queries = rows.unflatten(0, (3, 90)).transpose(1, 2)
        scores = queries[:, :2] @ cache.segments[0][0][:, :2].transpose(-1, -2)
    attended = scores.argmax(-1)
    cells = torch.from_numpy(layout.CELL_POSITIONS)
    assert torch.equal(attended[..., cells], (1 + cells).expand(3, 2, 81))


def test_the_table_of_a_cell_token_is_the_sum_of_its_factors() -> None:
    model = build(SudokuShape(), seed=0)
    table = model.embed_tokens.weight
    names = {text: id for text, id in layout.vocabulary().items()}
    # In a sum of factors, moving a digit from one cell to another is the same vector for every digit.
    moved = table[names["<r2c5=7>"]] - table[names["<r9c1=7>"]]
    torch.testing.assert_close(moved, table[names["<r2c5=.>"]] - table[names["<r9c1=.>"]])


def test_materialising_keeps_every_logit() -> None:
    model = build(SudokuShape(layers=2), seed=0)
    flatten_experts(model)
    plain = materialise(model)
    canvas = layout.answer_tokens(PUZZLES.solutions)
    with torch.no_grad():
        caches = [PromptCache(), PromptCache()]
        for subject, cache in zip((model, plain), caches, strict=True):
            subject([Span(layout.prompt_tokens(PUZZLES.boards), cache, "encode")])
        one, other = (
            m.logits(m([Span(canvas, cache, "denoise")])[0]) for m, cache in zip((model, plain), caches, strict=True)
        )
    assert torch.equal(one, other)


def test_a_model_that_adopts_another_computes_the_same() -> None:
    """Its cell factors are found again from the written-out table, although that table does not say which they were."""
    trained = build(SudokuShape(layers=2), seed=0)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    plain, fresh = materialise(trained), build(SudokuShape(layers=2), seed=1)
    adopt(fresh, plain)
    for name, value in materialise(fresh).state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], atol=1e-5, rtol=0, msg=name)


def test_weights_that_do_not_fit_the_recipe_are_refused() -> None:
    model = build(SudokuShape(layers=2), seed=0)
    with pytest.raises(RedraftError, match="another shape"):
        adopt(model, materialise(build(SudokuShape(layers=3), seed=0)))
    with pytest.raises(RedraftError, match="not sums of row, column, box and content"):
        adopt(model, DiffusionGemma(model.config))


def test_cells_and_answers_are_the_fixed_offset_apart() -> None:
    prompt = layout.prompt_tokens(PUZZLES.boards)[0]
    answer = layout.answer_tokens(PUZZLES.solutions)[0]
    whole = torch.cat((prompt, answer))
    for cell in range(81):
        at = 1 + cell + cell // 9
        assert whole[at] == layout.FIRST_CELL + 10 * cell + int(PUZZLES.boards[0][cell])
        assert whole[at + layout.OFFSET] == layout.FIRST_DIGIT - 1 + int(PUZZLES.solutions[0][cell])
    assert np.array_equal(np.flatnonzero(answer.numpy() == layout.NEWLINE), np.arange(9, 89, 10))
