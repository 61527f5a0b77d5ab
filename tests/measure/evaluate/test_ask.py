"""Items are asked in batches, each as if it were alone, and what has no answer is not lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import redraft
from redraft.api import Engine
from redraft.measure.evaluate.ask import Contender, Run, run
from redraft.measure.evaluate.items import (
    Asked,
    Choose,
    Exact,
    Extract,
    Fill,
    Generate,
    Item,
    Matching,
    ValidJson,
)
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine

END = 1
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CONTENDER = Contender("scripted", "scripted")


def items(*asked: Asked, **more: Any) -> list[Item]:
    return [Item(one, str(number), f"items.jsonl:{number}", **more) for number, one in enumerate(asked, 1)]


class Saying:
    """A model that is sure of a text, which goes by how long its context is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._texts: dict[int, list[int]] = {}

    def answer(self, prompt: Any, text: str) -> Any:
        """Say ``text`` to a prompt, of which no other has the length; returns the prompt."""
        length = len(self._engine.runtime.tokenize(prompt))
        assert length not in self._texts
        self._texts[length] = [*self._engine.tokenizer.encode_text(text), END]
        return prompt

    def __call__(self, canvas: Tensor, context: int) -> Tensor:
        logits = torch.zeros(len(canvas), VOCAB_SIZE)
        tokens = self._texts[context]
        wanted = torch.tensor([*tokens, *[END] * (len(canvas) - len(tokens))])
        logits[torch.arange(len(canvas)), wanted] = 40.0
        return logits


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with scripted_engine(tmp_path, random_logits(0)) as engine:
        yield engine


@pytest.fixture
def saying(engine: Engine) -> Saying:
    script = Saying(engine)
    model_of(engine).script = script
    return script


def texts(found: Run) -> list[Any]:
    return [outcome.answer for outcome in found.outcomes]


def faults(found: Run) -> list[str | None]:
    return [outcome.verdict.fault for outcome in found.outcomes]


def test_known_answers_are_judged_as_they_are(engine, saying):
    def letter(text: str, json: str) -> Extract:
        saying.answer(engine.runtime.question("Read.", text), json)
        return Extract(text, SCHEMA, {"name": "Anna", "age": 34})

    asked = items(
        letter("Anna is 34.", '{"name":"Anna","age":34}'),
        letter("Here is Anna, 34.", '{"name":"Ann","age":34}'),
        letter("There goes Anna, 34, and 35.", '{"name":"Anna","age":35}'),
        parameters={"instruction": "Read.", "confidence": False},
    )
    asked += items(
        Choose(saying.answer("Is", "yes"), ["yes", "no"], "yes"),
        Choose(saying.answer("Is it", "no"), ["yes", "no"], "yes"),
        Fill(saying.answer("abcd", "in the!"), "!", "in the"),
        Fill(saying.answer("abcdefgh", "in th!"), "!", "in the"),
        Generate(saying.answer("abcdefghi", "the end"), Exact("the end")),
        Generate(saying.answer("abcdefghij", "the the"), Exact("the end")),
        Generate(saying.answer("abcdefghijk", "2026"), Matching("[0-9]+")),
        Generate(saying.answer("abcdefghijkl", '{"a":'), ValidJson({})),
    )
    found = run(engine, CONTENDER, asked)
    assert texts(found) == [
        {"name": "Anna", "age": 34}, {"name": "Ann", "age": 34}, {"name": "Anna", "age": 35}, {"answer": "yes"},
        {"answer": "no"}, "in the", "in th", "the end", "the the", "2026", '{"a":',
    ]  # fmt: skip
    assert faults(found) == [
        None, "cut", "wrong value", None, "wrong value", None, "cut", None, "repeated", None, "malformed"
    ]  # fmt: skip
    assert [outcome.item for outcome in found.outcomes] == asked
    assert all(outcome.usage.denoising_steps > 0 for outcome in found.outcomes)


def test_a_choice_is_read_in_a_slot_where_the_parameters_say_so(engine):
    asked = items(Choose("the is", ["yes", "no", "then"], "yes"), parameters={"layout": "slots"})
    (outcome,) = run(engine, CONTENDER, asked, seed=3).outcomes
    expected = redraft.Engine.choose(engine, "the is", ["yes", "no", "then"], layout="slots", seed=3)
    assert outcome.answer == {"answer": expected.choice}
    assert outcome.verdict.decisions[0].probabilities == tuple(expected.probabilities.values())


class TestSeeds:
    def test_an_item_answers_as_it_does_alone(self, engine):
        asked = items(*(Generate("the " * (1 + n % 3), Exact("")) for n in range(40)), parameters={"max_tokens": 20})
        found = run(engine, CONTENDER, asked, seed=7)
        steps = [int(outcome.usage.denoising_steps) for outcome in found.outcomes]
        assert model_of(engine).forwards < sum(steps), "items share forwards"
        alone = [
            redraft.Engine.generate(engine, item.asked.prompt, max_tokens=20, seed=7 + number)
            for number, item in enumerate(asked)
            if isinstance(item.asked, Generate)
        ]
        assert texts(found) == [answer.text for answer in alone]
        assert [outcome.seed for outcome in found.outcomes] == [answer.seed for answer in alone]
        some = run(engine, CONTENDER, asked[:5], seed=7)
        assert texts(some) == texts(found)[:5]

    def test_one_of_its_own_counts(self, engine):
        one, other = (
            run(engine, CONTENDER, items(Generate("a", Exact("")), parameters={"seed": 5, "max_tokens": 9}), seed=seed)
            for seed in (1, 2)
        )
        assert texts(one) == texts(other)
        assert one.outcomes[0].seed == 5


def test_a_contenders_parameters_count_before_an_items(engine):
    asked = items(Generate("a", Exact("")), parameters={"max_tokens": 9, "max_denoising_steps": 1})
    steps = [
        run(engine, Contender("c", "m", parameters=parameters), asked).outcomes[0].usage.denoising_steps
        for parameters in ({}, {"max_denoising_steps": 2})
    ]
    assert steps == [1, 2]


class TestWithoutAnAnswer:
    def test_an_item_that_is_refused_is_wrong_and_says_why(self, engine):
        asked = items(
            Generate("a", Matching("(?s:.*)")),
            Generate("a" * 5000, Matching("(?s:.*)")),
            Extract("b" * 5000, SCHEMA, {"name": "", "age": 1}),
            parameters={"max_tokens": 30},
        )
        found = run(engine, CONTENDER, asked)
        assert faults(found) == [None, "failed", "failed"]
        assert all("context" in str(outcome.error) for outcome in found.outcomes[1:])
        assert len(found.outcomes[2].verdict.fields) == 2
        assert found.failed == found.outcomes[1:]

    def test_a_model_that_yields_nan_fails_at_that_item_alone(self, engine):
        usual = random_logits(0)
        bad = len(engine.runtime.tokenize("aaa"))
        model_of(engine).script = lambda canvas, context: (
            usual(canvas, context) * (float("nan") if context == bad else 1)
        )
        asked = items(*(Generate("a" * n, Matching("(?s:.*)")) for n in (1, 3, 5)), parameters={"max_tokens": 5})
        found = run(engine, CONTENDER, asked)
        assert faults(found) == [None, "failed", None]
        assert "not a number" in str(found.outcomes[1].error)
        assert found.outcomes[1].usage is None


def test_every_item_is_told_of_once(engine):
    told: list[None] = []
    asked = items(*(Generate("a", Exact("")) for _ in range(40)), parameters={"max_tokens": 3})
    run(engine, CONTENDER, asked, on_item=lambda: told.append(None))
    assert len(told) == 40


def test_a_notebook_whose_event_loop_runs_already_may_ask(engine):
    asked = items(Generate("a", Exact("")), parameters={"max_tokens": 3})

    async def cell() -> Run:
        return run(engine, CONTENDER, asked)

    (here,), (there,) = run(engine, CONTENDER, asked).outcomes, asyncio.run(cell()).outcomes
    assert (there.answer, there.seed, there.verdict) == (here.answer, here.seed, here.verdict)
