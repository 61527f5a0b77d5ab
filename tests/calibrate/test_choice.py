"""Predictions are what ``choose`` answers, and a fitted temperature is what ``calibrated`` then applies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.calibrate.calibration import calibration
from redraft.calibrate.choice import Predictions, predict
from redraft.errors import CheckpointError, RequestError
from redraft.models import checkpoint
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint, reference_model

WORDS = ("a", "b", "yes")


def example(prompt: list[int], truth: str) -> redraft.ChoiceExample:
    return redraft.ChoiceExample(prompt, WORDS, truth)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint that the test may change."""
    return random_checkpoint(tmp_path / "checkpoint", vocab_size=LETTERS_SIZE, letters=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    """The same, loaded."""
    return redraft.load(random_checkpoint(tmp_path_factory.mktemp("choice"), vocab_size=LETTERS_SIZE, letters=True))


@pytest.fixture(scope="module")
def examples(engine) -> list[redraft.ChoiceExample]:
    """Most truths are what the model thinks likeliest, and some are any option."""
    rng = np.random.default_rng(0)
    prompts = [[2, 24 + n % 8, 32 + n // 8] for n in range(40)]
    liked = [engine.choose(prompt, WORDS, seed=5).choice for prompt in prompts]
    return [
        example(p, one if n % 3 else WORDS[rng.integers(3)])
        for n, (p, one) in enumerate(zip(prompts, liked, strict=True))
    ]


class TestPredict:
    def test_is_what_choose_answers(self, engine, examples):
        found = predict(engine, examples, seed=5)
        for row, truth, asked in zip(found.probabilities, found.truth, examples, strict=True):
            answer = engine.choose(asked.prompt, asked.options, seed=5)
            assert row.tolist() == [answer.probabilities[word] for word in WORDS]
            assert WORDS[truth] == asked.truth

    def test_several_questions_of_which_some_count(self, engine):
        asked = redraft.ChoiceExample(
            [2, 20], {"a": WORDS, "b": WORDS[:2], "c": WORDS}, {"b": "b", "a": "yes"}, frame="{a} {b} {c}"
        )
        found = predict(engine, [asked], seed=1)
        answers = engine.choose([2, 20], asked.options, frame=asked.frame, seed=1).answers
        assert found.probabilities[0].tolist() == [*answers["b"].probabilities.values(), 0.0]
        assert found.probabilities[1].tolist() == list(answers["a"].probabilities.values())
        assert found.truth.tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ([], "no example with a truth"),
            ([example([2, 20], "z")], r"example 0: the truth 'z' is none of the options \['a', 'b', 'yes'\]"),
            ([redraft.ChoiceExample([2], {"a": WORDS}, {"b": "a"})], "example 0: 'b' has a truth"),
            ([redraft.ChoiceExample([2], {"a": WORDS, "b": WORDS}, "a")], "example 0 has 2 questions"),
        ],
    )
    def test_what_cannot_be_counted_is_refused(self, engine, asked, message):
        with pytest.raises(RequestError, match=message):
            predict(engine, asked)


class TestPredictions:
    def test_of_probability_zero_is_the_smallest_number_for_a_truth_alone(self):
        logs = Predictions(np.array([[1.0, 0.0, 0.0]]), np.array([1])).log_probabilities
        assert logs[0, 0] == 0
        assert np.isfinite(logs[0, 1])
        assert logs[0, 2] == -np.inf


class TestFitChoiceTemperature:
    def test_it_fits_what_it_was_fitted_on_better_than_its_neighbours(self, engine, examples):
        temperature = redraft.fit_choice_temperature(engine, examples, seed=5)
        found = predict(engine, examples, seed=5)
        at = [found.at(temperature * factor) for factor in (0.9, 1.0, 1.1)]
        losses = [calibration(own.probabilities, own.truth).negative_log_likelihood for own in at]
        assert losses[1] == min(losses)

    def test_written_into_the_checkpoint_it_is_what_calibrated_applies(self, engine, examples, folder):
        with pytest.raises(RequestError, match=r"redraft\.fit_choice_temperature and .*save_choice_temperature"):
            predict(engine, examples, seed=5, calibrated=True)
        temperature = redraft.fit_choice_temperature(engine, examples, seed=5)
        redraft.save_choice_temperature(folder, temperature)
        again = redraft.load(folder)
        assert again.model.defaults == replace(engine.model.defaults, choice_temperature=temperature)
        np.testing.assert_allclose(
            predict(again, examples, seed=5, calibrated=True).probabilities,
            predict(engine, examples, seed=5).at(temperature).probabilities,
            rtol=1e-12,
        )

    def test_answers_that_are_all_right_have_none(self, engine):
        prompt = [2, 20]
        right = engine.choose(prompt, WORDS, seed=0).choice
        with pytest.raises(RequestError, match=r"no temperature can be fitted to these 1 answers: .*the lower"):
            redraft.fit_choice_temperature(engine, [example(prompt, right)], seed=0)


class TestSaveChoiceTemperature:
    @pytest.mark.parametrize("bad", [0, -1.0, float("inf"), float("nan"), True, "hot"])
    def test_what_is_no_temperature_is_refused_and_nothing_written(self, folder, bad):
        before = sorted(folder.iterdir())
        with pytest.raises(CheckpointError, match=r"redraft\.json: choice_temperature"):
            redraft.save_choice_temperature(folder, bad)
        assert sorted(folder.iterdir()) == before

    def test_a_folder_that_is_no_checkpoint_is_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            redraft.save_choice_temperature(tmp_path, 1.5)
        assert not list(tmp_path.iterdir())

    def test_a_file_that_others_share_by_a_link_stays_as_it_is(self, folder, tmp_path):
        shared = tmp_path / "shared.json"
        shared.write_text('{"choice_temperature": 3}')
        (folder / "redraft.json").symlink_to(shared)
        assert checkpoint.read(folder).defaults.choice_temperature == 3
        redraft.save_choice_temperature(folder, 1.5)
        assert shared.read_text() == '{"choice_temperature": 3}'
        assert checkpoint.read(folder).defaults.choice_temperature == 1.5

    def test_transformers_still_loads_the_folder(self, folder):
        redraft.save_choice_temperature(folder, 1.5)
        assert reference_model(folder).generation_config is not None

    def test_what_else_stands_in_the_file_is_refused_by_name(self, folder):
        (folder / "redraft.json").write_text('{"choice_temprature": 3}')
        with pytest.raises(
            CheckpointError, match=r"redraft\.json: 'choice_temprature' is unknown; known is choice_temp"
        ):
            redraft.load(folder)

    def test_a_model_saved_without_one_leaves_none_behind(self, folder):
        model = checkpoint.read(folder).load()
        for stated in (1.5, None):
            model.defaults = replace(model.defaults, choice_temperature=stated)
            checkpoint.save(model, folder, torch.float32)
            assert checkpoint.read(folder).defaults == model.defaults
