"""The objective against its definition, computed another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from redraft.canvas.acceptance import AcceptanceView, EntropyBound
from redraft.models.base import Span
from redraft.train.objective import ObjectiveConfig, PromptCache, Trajectories, UniformStateObjective
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.model import SudokuShape, build
from redraft.train.recipes.sudoku.puzzles import generate
from redraft.train.recipes.sudoku.recipe import PuzzleSource
from tests.readouts import readout_of

SHAPE = SudokuShape(hidden_size=48, layers=2, heads=3, head_dim=32, dense_width=16, expert_width=8)
SOURCE = PuzzleSource(generate(10, (30, 40), 0), generate(10, (25, 30), 2))
CONFIG = ObjectiveConfig(layout.TARGET_VOCABULARY, steps_per_update=1)


def objective(config: ObjectiveConfig = CONFIG, batch: int = 16) -> UniformStateObjective:
    torch.manual_seed(0)
    return UniformStateObjective(build(SHAPE, 0), SOURCE, config, batch, compile_model=False)


def test_the_loss_is_the_weighted_cross_entropy_plus_the_mass_outside_the_target_vocabulary() -> None:
    subject = objective()
    trajectories = subject.start(np.random.default_rng(0))
    trajectories.beliefs = torch.rand_like(trajectories.beliefs)
    model, config = subject._model, subject._config
    cache = PromptCache()
    model([Span(trajectories.prompts, cache, "encode")])
    loss, _ = subject._score(
        trajectories.canvases, cache.segments, trajectories.beliefs, trajectories.targets, trajectories.weights
    )
    table = model.embed_tokens.weight.double()
    soft = (trajectories.beliefs.double() @ table[: config.target_vocabulary]).float() * SHAPE.hidden_size**0.5
    (hidden,) = model([Span(trajectories.canvases, cache, "denoise", soft)])
    assert hidden is not None
    logits = model.logits(hidden).double()
    inside, outside = logits[..., : config.target_vocabulary], logits[..., config.target_vocabulary :]
    expected = 0.0
    for board in range(16):
        for position in range(layout.CANVAS_LENGTH):
            probability = inside[board, position].softmax(0)[trajectories.targets[board, position]]
            expected -= trajectories.weights[board, position].item() * probability.log().item()
    expected /= 16 * layout.CANVAS_LENGTH
    ratio = (outside[:1].exp().sum(-1) / inside[:1].exp().sum(-1)).log1p().mean().item()
    assert loss.item() == pytest.approx(expected + ratio, rel=1e-5)


def test_fresh_canvases_are_noise_or_keep_a_uniform_share_of_their_target() -> None:
    """Half of them pure noise, so that on average a quarter of all tokens is kept."""
    trajectories = objective(batch=2000).start(np.random.default_rng(1))
    kept = (trajectories.canvases == trajectories.targets).float().mean(-1)
    assert (kept < 0.03).float().mean() == pytest.approx(0.5 + 0.5 * 0.03, abs=0.04)
    assert kept.mean() == pytest.approx(0.25, abs=0.02)
    noise = trajectories.canvases[kept < 0.03].flatten()
    assert noise.float().mean() == pytest.approx((layout.VOCAB_SIZE - 1) / 2, rel=0.01)


def test_advancing_is_one_step_of_the_sampler() -> None:
    """Accepted positions carry a token of their distribution, the others noise, and the belief is the distribution."""
    config = replace(CONFIG, keep_belief=1.0, t_min=0.5, t_max=0.5 + 1e-9)
    subject = objective(config)
    trajectories = subject.start(np.random.default_rng(0))
    logits = torch.full((16, layout.CANVAS_LENGTH, layout.TARGET_VOCABULARY), -50.0)
    sure = torch.rand(16, layout.CANVAS_LENGTH) < 0.5
    logits[..., 5] = 0.0
    logits[~sure] = 0.0
    subject._advance(trajectories, logits)
    probabilities = (logits.double() / 0.5).softmax(-1)
    entropy = -(probabilities * probabilities.clamp(min=1e-300).log()).sum(-1)
    view = AcceptanceView(readout_of(entropy, entropy), torch.ones_like(sure), step=1, steps=1)
    accepted = EntropyBound(config.entropy_bound).accept(view)
    assert (trajectories.canvases[accepted & sure] == 5).all()
    assert (accepted & sure).sum() == sure.sum()
    assert trajectories.canvases[~accepted].float().mean() > 100, "noise is drawn from the whole vocabulary"
    torch.testing.assert_close(trajectories.beliefs.double(), probabilities, atol=1e-6, rtol=0)
    assert (trajectories.ages == 1).all()


def done(right: list[bool], ages: list[int], config: ObjectiveConfig) -> list[bool]:
    subject = objective(config, batch=len(ages))
    trajectories = subject.start(np.random.default_rng(0))
    trajectories.ages = torch.tensor(ages)
    subject._replace_done(trajectories, torch.tensor(right), np.random.default_rng(1))
    return (trajectories.ages == 0).tolist()


def test_solved_and_old_canvases_are_replaced_and_others_go_on() -> None:
    config = replace(CONFIG, refresh_solved=1.0, refresh_any=0.0, max_age=5)
    assert done([True, False, False, True], [3, 3, 5, 9], config) == [True, False, True, True]
    assert done([True, True], [3, 3], replace(config, refresh_solved=0.0)) == [False, False]


def test_a_step_without_belief_is_conditioned_on_zero_and_not_on_zero_logits() -> None:
    """Zero logits would be the mean embedding; others trained that by mistake."""
    subject = objective()
    model = subject._model
    prompts = layout.prompt_tokens(SOURCE.easy.boards[:2])
    canvas = layout.answer_tokens(SOURCE.easy.solutions[:2])
    cache = PromptCache()
    model([Span(prompts, cache, "encode")])
    zero = torch.zeros(2, layout.CANVAS_LENGTH, layout.TARGET_VOCABULARY)
    weights = torch.ones(2, layout.CANVAS_LENGTH)
    _, logits = subject._score(canvas, cache.segments, zero, canvas, weights)
    (hidden,) = model([Span(canvas, cache, "denoise")])
    assert hidden is not None
    expected = model.logits(hidden, slice(0, layout.TARGET_VOCABULARY))
    torch.testing.assert_close(logits, expected)


def test_trajectories_restore_what_they_saved() -> None:
    subject = objective()
    saved = subject.start(np.random.default_rng(0))
    other = subject.start(np.random.default_rng(5))
    other.load(saved.state())
    assert isinstance(other, Trajectories)
    assert all(torch.equal(a, b) for a, b in zip(saved.state().values(), other.state().values(), strict=True))


def test_prompts_beyond_the_sliding_window_are_refused() -> None:
    model = build(SHAPE, 0)
    spec = replace(model.config.layers[0], window=91)
    object.__setattr__(model.config, "layers", (spec, model.config.layers[1]))
    with pytest.raises(ValueError, match=r"91 tokens do not fit the sliding window of 91"):
        UniformStateObjective(model, SOURCE, CONFIG, 2, compile_model=False).start(np.random.default_rng(0))


@pytest.mark.parametrize("field", ["fully_noised", "keep_belief", "refresh_any"])
def test_shares_outside_0_to_1_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(CONFIG, **{field: 1.5})  # type: ignore[arg-type]
