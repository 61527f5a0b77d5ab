"""Contenders do the work they were asked for, ours and the reference the same."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from redraft.errors import RequestError
from redraft.loading import load
from redraft.measure.reference import TransformersContender
from redraft.measure.workload import (
    Contender,
    RedraftContender,
    Stopwatch,
    Workload,
    answer_lengths,
    check_room,
    random_prompt,
)
from redraft.models import checkpoint
from redraft.models.base import Span
from tests.random_checkpoint import END_TOKEN_IDS, MARKERS, random_checkpoint

PROMPT = (20, 21, 22, 23)
CANVAS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of all tokens end an answer, and canvases converge at once: equal work is not what happens by itself."""
    generation = {"stability_threshold": 0, "confidence_threshold": 10.0, "eos_token_id": list(range(0, 64, 2))}
    return random_checkpoint(tmp_path_factory.mktemp("model"), generation=generation)


@pytest.fixture(scope="module", params=["redraft", "transformers"])
def contender(request: pytest.FixtureRequest, folder: Path) -> Contender:
    if request.param == "redraft":
        return RedraftContender.load(folder, "float32")
    return TransformersContender(folder, "float32")


class TestContenders:
    @pytest.mark.parametrize(("tokens", "canvases"), [(1, 1), (8, 1), (20, 3)])
    @pytest.mark.parametrize("steps", [1, 3])
    def test_fixed_steps_are_run_and_all_tokens_written(self, contender, tokens, canvases, steps):
        run = contender.answer(Workload(PROMPT, tokens, steps), seed=3)
        assert (len(run.token_ids), run.canvases, run.denoising_steps) == (tokens, canvases, canvases * steps)
        assert (run.steps_per_canvas, run.tokens_per_step) == (steps, tokens / (canvases * steps))
        assert len(run.later_step_seconds) == canvases * (steps - 1)
        assert len(run.commit_step_seconds) == canvases - 1

    def test_own_stopping_ends_at_the_checkpoints_end_tokens_and_thresholds(self, contender):
        runs = [contender.answer(Workload(PROMPT, 100), seed) for seed in range(5)]
        assert all(token % 2 == 1 for run in runs for token in run.token_ids)
        assert any(len(run.token_ids) < 100 for run in runs)
        assert all(run.denoising_steps == run.canvases for run in runs)

    def test_an_answer_is_cut_at_max_tokens(self, contender):
        assert all(len(contender.answer(Workload(PROMPT, 1), seed).token_ids) <= 1 for seed in range(3))

    def test_parts_come_in_order(self, contender):
        run = contender.answer(Workload(PROMPT, 20, 3), seed=0)
        assert 0 < run.first_step_seconds < run.first_token_seconds < run.seconds
        parts = run.first_step_seconds + sum(run.later_step_seconds) + sum(run.commit_step_seconds)
        assert parts <= run.seconds
        assert run.tokens_per_second == 20 / run.seconds

    def test_seeds_decide(self, contender):
        one, again, other = (contender.answer(Workload(PROMPT, 20, 3), seed).token_ids for seed in (1, 1, 2))
        assert one == again != other

    def test_a_fixed_run_leaves_the_next_one_to_the_checkpoint(self, contender):
        before = contender.answer(Workload(PROMPT, 40), 7)
        contender.answer(Workload(PROMPT, 40, 3), 7)
        after = contender.answer(Workload(PROMPT, 40), 7)
        assert (before.token_ids, before.denoising_steps) == (after.token_ids, after.denoising_steps)


def test_redraft_encodes_the_prompt_for_every_answer(folder, monkeypatch):
    engine = load(folder)
    contender = RedraftContender(engine)
    prompt = tuple([20] * 300)
    contender.answer(Workload(prompt, 8, 1), 0)
    assert engine.generate(prompt, max_tokens=8).usage.cached_prompt_tokens == 256, "it is kept for others"
    encoded: list[int] = []
    forward = engine.model.forward

    def counting(spans: Sequence[Span]) -> Any:
        encoded.extend(span.rows for span in spans if span.mode == "encode")
        return forward(spans)

    monkeypatch.setattr(engine.model, "forward", counting)
    contender.answer(Workload(prompt, 8, 1), 0)
    assert sum(encoded) == 300


class TestStopwatch:
    @pytest.fixture
    def clock(self, monkeypatch) -> list[float]:
        now = [0.0]
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        return now

    def test_two_canvases(self, clock):
        clock[0] = 100.0
        watch = Stopwatch()
        for moment, event in [
            (105.0, "step"), (106.0, "step"), (108.0, "step"), (108.5, "canvas"),
            (112.0, "step"), (113.0, "step"), (113.5, "canvas"),
        ]:  # fmt: skip
            clock[0] = moment
            getattr(watch, event)()
        clock[0] = 114.0
        run = watch.stop([1, 2, 3, 4, 5])
        assert (run.seconds, run.first_token_seconds, run.first_step_seconds) == (14.0, 8.5, 5.0)
        assert (run.later_step_seconds, run.commit_step_seconds) == ((1.0, 2.0, 1.0), (4.0,))
        assert (run.later_step, run.commit_step) == (1.0, 4.0)
        assert (run.denoising_steps, run.canvases, run.steps_per_canvas, run.tokens_per_step) == (5, 2, 2.5, 1.0)

    def test_one_step(self, clock):
        watch = Stopwatch()
        clock[0] = 1.0
        watch.step()
        watch.canvas()
        run = watch.stop([1])
        assert (run.later_step, run.commit_step) == (None, None)
        assert run.first_step_seconds == run.first_token_seconds == run.seconds == 1.0


class TestPrompt:
    def test_no_markers_and_the_shorter_starts_the_longer(self, folder):
        found = checkpoint.read(folder)
        prompt = random_prompt(found, 2000, seed=5)
        assert random_prompt(found, 10, seed=5) == prompt[:10] != random_prompt(found, 10, seed=6)
        assert not set(prompt) & {*MARKERS, *END_TOKEN_IDS, *found.config.image_token_ids}
        assert max(prompt) < 64
        assert len(set(prompt)) == 64 - len(MARKERS)

    def test_without_a_tokenizer_the_configuration_names_the_markers(self, tmp_path):
        found = checkpoint.read(random_checkpoint(tmp_path))
        (tmp_path / "tokenizer.json").unlink()
        prompt = set(random_prompt(found, 2000, seed=0))
        assert not prompt & {0, 2, *END_TOKEN_IDS, *found.config.image_token_ids}


def test_answer_lengths_have_a_canvas():
    assert answer_lengths(256) == [20, 100, 256]
    assert answer_lengths(90) == [20, 90, 100]
    assert answer_lengths(20) == [20, 100]


def test_what_does_not_fit_the_context_is_refused(folder):
    found = checkpoint.read(folder)
    assert check_room(found, Workload((20,) * 496, 16)).max_tokens == 16
    with pytest.raises(RequestError, match=r"2 x 8\) do not fit the context of 512 .* up to 8 fits, .* up to 496$"):
        check_room(found, Workload((20,) * 497, 16))
