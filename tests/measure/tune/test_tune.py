"""The search finds what a scripted model needs, the front is that of all pairs compared, a recipe says it to others."""

import json
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from redraft import ConfidenceThreshold, RequestError, read_recipe
from redraft.engine.result import Usage
from redraft.measure.evaluate import Contender, Item, Run
from redraft.measure.evaluate.ask import Outcome
from redraft.measure.evaluate.faults import WRONG_VALUE
from redraft.measure.evaluate.items import Exact, Generate
from redraft.measure.evaluate.judge import Verdict
from redraft.measure.evaluate.parameters import arguments, check_parameters
from redraft.measure.tune import Grid, Recipe, Setting, tune
from redraft.measure.tune.front import Trial, front_of, surely_worse
from tests.engine.scripted import VOCAB_SIZE, Logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS

PROMPT, WORD = "say it", "whale fish"


def item(number: int) -> Item:
    return Item(Generate(PROMPT, Exact(WORD)), str(number), f"items:{number}", parameters={"max_tokens": 15})


def trial(right: list[bool], seconds: float, name: int = 1) -> Trial:
    usage = Usage(1, 0, 1, 1, name, seconds, seconds, forwards=name)
    outcomes = [Outcome(item(n), 0, WORD, Verdict(None if one else WRONG_VALUE), usage) for n, one in enumerate(right)]
    return Trial(Setting(max_denoising_steps=name), Run(Contender("a", "b"), outcomes, 1.0))


class TestFront:
    def test_it_is_what_no_pair_beats(self) -> None:
        chance = random.Random(0)
        for _ in range(30):
            trials = [
                trial([chance.random() < 0.5 for _ in range(5)], chance.choice([0.1, 0.2, 0.3, 0.4]), number + 1)
                for number in range(8)
            ]
            expected = {
                (one.cost("seconds"), one.right.value)
                for one in trials
                if not any(
                    other.right.value >= one.right.value
                    and other.cost("seconds") <= one.cost("seconds")
                    and (other.right.value, -other.cost("seconds")) != (one.right.value, -one.cost("seconds"))
                    for other in trials
                )
            }
            found = front_of(trials, "seconds")
            assert [(one.cost("seconds"), one.right.value) for one in found] == sorted(expected)

    def test_only_what_an_interval_tells_apart_is_given_up(self) -> None:
        good, bad, near = (
            trial([True] * 20, 0.1),
            trial([False] * 18 + [True] * 2, 0.2),
            trial([True] * 19 + [False], 0.2),
        )
        assert surely_worse(bad, [good, bad, near], "seconds")
        assert not surely_worse(near, [good, bad, near], "seconds")
        assert not surely_worse(good, [good, bad, near], "seconds")
        cheap = trial([False] * 20, 0.05)
        assert not surely_worse(cheap, [good, cheap], "seconds"), "it costs less"


def patient(tokens: list[int]) -> Logits:
    """A model that is sure of a position when all before it are right: it needs a step for each."""

    def logits(canvas: Tensor, context: int) -> Tensor:
        out = torch.zeros(len(canvas), VOCAB_SIZE)
        known = 0
        while known < len(tokens) and int(canvas[known]) == tokens[known]:
            known += 1
        for place in range(len(canvas)):
            if place <= known:
                out[place, tokens[place] if place < len(tokens) else END_TOKEN_IDS[0]] = 100.0
        return out

    return logits


class TestSearch:
    def test_it_finds_the_steps_that_a_model_needs(self, tmp_path: Path) -> None:
        engine = scripted_engine(tmp_path, lambda canvas, context: canvas, canvas_length=16)
        tokens = engine.tokenizer.encode_text(WORD)
        engine.model.script = patient(tokens)  # type: ignore[attr-defined]
        needed = len(tokens) + 2
        grid = Grid.of(engine.model, steps=[1, needed - 4, needed, 4 * needed], bounds=[0.0], canvas_lengths=[16])
        assert len([*grid.canvases()]) == 4
        told: list[str] = []
        found = tune(
            engine, [item(n) for n in range(6)], grid, model="scripted", source="items", by="forwards",
            on_trial=lambda setting, count: told.append(f"{setting.name}: {count}"),
        )  # fmt: skip
        assert told[0] == "diffusion, 1 steps, bound 0: 6"
        assert [one.right.value for one in found.front] == [0.0, 1.0]
        assert found.recommended.setting.max_denoising_steps in (needed, 4 * needed)
        assert found.recommended is found.best
        shown = found.as_object()
        assert [one["on_front"] for one in shown["trials"]] == [True, True, *[False] * (len(shown["trials"]) - 2)]
        json.dumps(shown, allow_nan=False)

    def test_shorter_canvases_are_tried_of_what_is_worth_its_cost_and_other_modes_last(self, tmp_path: Path) -> None:
        engine = scripted_engine(tmp_path, lambda canvas, context: canvas, canvas_length=16)
        grid = Grid.of(engine.model, steps=[2], thresholds=[0.5], canvas_lengths=[4, 16])
        (own,) = grid.canvases()
        assert own == Setting("diffusion", 2, confidence_threshold=0.5)
        assert [*grid.shorter([own])] == [Setting("diffusion", 2, confidence_threshold=0.5, canvas_length=4)]
        assert [*grid.others()] == [], "a model without a causal mode"

    def test_where_nothing_is_answered_it_says_why(self, tmp_path: Path) -> None:
        broken = torch.full((16, VOCAB_SIZE), float("nan"))
        engine = scripted_engine(tmp_path, lambda canvas, context: broken, canvas_length=16)
        grid = Grid.of(engine.model, steps=[1], bounds=[0.0], canvas_lengths=[16])
        with pytest.raises(RequestError, match="no setting has an answer to any item; items:0: "):
            tune(engine, [item(0)], grid, model="scripted", source="items")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"steps": [0]}, "--steps 0 is out of range"),
            ({"canvas_lengths": [17]}, "--canvas-length 17 is out of range; it must be from 1 to 16"),
            ({"thresholds": [2.0]}, "--threshold: confidence threshold 2.0"),
            ({"modes": ["autoregressive"]}, "mode 'autoregressive' is none of this checkpoint"),
        ],
    )
    def test_what_a_model_cannot_have_is_refused(self, tmp_path: Path, given: dict, message: str) -> None:
        engine = scripted_engine(tmp_path, lambda canvas, context: canvas, canvas_length=16)
        with pytest.raises(RequestError, match=message):
            Grid.of(engine.model, **given)


class TestRecipe:
    recipe = Recipe("m", Setting("diffusion", 4, confidence_threshold=0.8, canvas_length=32), {"right": 1.0})

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        self.recipe.write(tmp_path / "recipe.json")
        assert read_recipe(tmp_path / "recipe.json") == self.recipe
        assert self.recipe.parameters == {
            "mode": "diffusion",
            "acceptance": ConfidenceThreshold(0.8),
            "max_denoising_steps": 4,
            "canvas_length": 32,
        }

    def test_what_is_given_counts_before_it(self) -> None:
        steps = self.recipe.beside({"max_denoising_steps": 9, "seed": None})
        assert (steps["max_denoising_steps"], steps["canvas_length"], steps["seed"]) == (9, 32, None)
        bound = self.recipe.beside({"entropy_bound": 0.5})
        assert "acceptance" not in bound
        for name, value in (("quality", "fast"), ("reasoning_effort", "low")):
            assert not {"acceptance", "max_denoising_steps"} & set(self.recipe.beside({name: value}))
        assert self.recipe.beside({"mode": "speculative"}) == {"mode": "speculative"}
        tokens = Recipe("m", Setting("autoregressive"))
        assert tokens.beside({}, generates=False) == {}
        assert tokens.parameters == {"mode": "autoregressive"}
        assert "mode" not in self.recipe.beside({}, generates=False)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "cannot be read"),
            ("[]", "is no recipe"),
            ('{"redraft_recipe": 2}', "has format 2; this version reads 1"),
            ('{"redraft_recipe": 1}', "must have parameters and measured as objects"),
            ('{"redraft_recipe": 1, "parameters": {"top_p": 1}}', "has the parameter 'top_p'; known are mode"),
            ('{"redraft_recipe": 1, "parameters": {"mode": "best"}}', "mode 'best' must be one of"),
            (
                '{"redraft_recipe": 1, "parameters": {"max_denoising_steps": 0}}',
                "max_denoising_steps 0 is out of range",
            ),
            ('{"redraft_recipe": 1, "parameters": {"confidence_threshold": 3}}', "confidence threshold 3"),
            (
                '{"redraft_recipe": 1, "parameters": {"confidence_threshold": 0.5, "entropy_bound": 1}}',
                "exclude each other",
            ),
        ],
    )
    def test_what_is_none_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "recipe.json").write_text(content)
        with pytest.raises(RequestError, match=message):
            read_recipe(tmp_path / "recipe.json")


def test_a_threshold_is_an_items_parameter_too() -> None:
    check_parameters("extract", {"confidence_threshold": 0.9, "quality": None, "deadline_ms": 5})
    assert arguments({"confidence_threshold": 0.9, "seed": 1}) == {"acceptance": ConfidenceThreshold(0.9), "seed": 1}
    for wrong in ({"confidence_threshold": 2}, {"mode": "best"}, {"deadline_ms": 0}, {"quality": "best"}):
        with pytest.raises(RequestError):
            check_parameters("generate", wrong)
