"""Every way to write is measured on the same questions, and its answers are judged by an independent causal pass."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.kernels import bindings
from redraft.measure.allowed import Machine, allowed, weight_bytes
from redraft.measure.evaluate.items import Generate, Item, Matching
from redraft.measure.modes import Comparison, Figures, Question, Settings, Way, ask, compare, crossovers, ways
from redraft.measure.peak import step_multiply_adds
from redraft.measure.timing import Spread
from redraft.models.packed import PackedModel
from tests.models.driving import causal_rows, fresh
from tests.models.llama_diffusion.conftest import CONFIG
from tests.models.llama_diffusion.conftest import write as write_llama
from tests.random_gemma import random_gemma, reference

ITEM = Item(Generate("x", Matching("(?s).*")), "1", "task.jsonl:1")
QUESTIONS = (Question((20, 30, 40), ITEM), Question((50, 60, 70, 80)), Question((33,), ITEM))
SETTINGS = Settings(QUESTIONS, max_tokens=6, temperature=None, clients=(1, 2), rounds=3, seed=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With a mask, which the causal rows may not write."""
    with redraft.load(write_llama(tmp_path_factory.mktemp("llama")), dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="module")
def measured(engine: Engine) -> Comparison:
    return compare(engine, ways(engine.model.modes, (1, 2)), SETTINGS)


def test_the_ways_are_those_that_a_checkpoint_has():
    everything = ways(("diffusion", "autoregressive", "speculative"), (1, 4, None))
    assert [way.name for way in everything] == [
        "diffusion, 1 step", "diffusion, 4 steps", "diffusion", "autoregressive", "speculative",
    ]  # fmt: skip
    plain = ways(("autoregressive",), (4, None), draft_model=True)
    assert [way.name for way in plain] == ["autoregressive", "speculative, draft model"]


@pytest.mark.slow
def test_every_way_is_measured_at_every_number_of_clients(measured: Comparison):
    names = ["diffusion, 1 step", "diffusion, 2 steps", "autoregressive", "speculative"]
    assert [(one.way.name, one.clients) for one in measured.figures] == [(n, c) for c in (1, 2) for n in names]
    assert list(measured.quality) == names
    for one in measured.figures:
        assert len(one.tokens_per_second.values) == len(one.first_text.values) == 3
        assert min(one.tokens_per_second.values + one.first_text.values) > 0
        # The forward of an end token writes none.
        assert one.tokens_per_forward <= 1 if one.way.mode == "autoregressive" else one.forwards > 0
        assert (one.accepted_per_forward > 0) <= (one.way.mode == "speculative")


@pytest.mark.slow
def test_verified_drafts_are_as_good_as_what_they_draft_for(measured: Comparison):
    """They are the same tokens, and so have the same probability; of a task the judge has its say."""
    if bindings.kernels() is not None:
        drafted, plain = (measured.quality[name] for name in ("speculative", "autoregressive"))
        assert drafted == plain
    for own in measured.quality.values():
        assert own.logprob is not None
        assert own.logprob < 0
        assert own.right == 1.0, "the pattern matches everything"


def test_answers_are_asked_for_alike_and_are_the_same_at_any_number_of_clients(engine: Engine):
    found = [ask(engine, Way("autoregressive"), SETTINGS, clients, seed=5) for clients in (1, 3, 5)]
    # Five clients have a question each, and the first questions are asked again, with other seeds.
    assert [len(served.results) for served in found] == [3, 3, 5]
    tokens = [[result.token_ids for result in served.results[:3]] for served in found]
    assert tokens[0] == tokens[1] == tokens[2]
    assert [result.seed for result in found[2].results] == [5, 6, 7, 8, 9]
    assert all(0 < seconds <= served.seconds for served in found for seconds in served.first_text)


def test_a_way_that_is_told_its_steps_takes_no_more(engine: Engine):
    served = ask(engine, Way("diffusion", 1), SETTINGS, 1, seed=0)
    assert all(result.usage.denoising_steps == result.usage.canvases for result in served.results)


@torch.inference_mode()
def test_causal_log_probabilities_are_those_of_all_logits_without_the_mask(engine: Engine):
    """However long the text is; the prompt's own tokens are not counted."""
    prompt, answer = tuple(range(20, 240)), tuple(range(30, 250))
    rows = causal_rows(engine.model, torch.tensor([*prompt, *answer][:-1]), fresh(engine.model))
    logits = engine.model.logits(rows[len(prompt) - 1 :])
    logits[:, CONFIG.mask_token_id] = -torch.inf
    expected = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
    torch.testing.assert_close(
        torch.tensor(engine.score(prompt, answer).token_logprobs), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.slow
@torch.inference_mode()
def test_they_are_those_of_transformers_of_a_model_without_a_canvas(tmp_path: Path):
    folder = random_gemma(tmp_path / "gemma")
    prompt, answer = (20, 30, 40), (50, 60, 70, 80)
    logits = reference(folder)(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, 2:-1]
    expected = logits.log_softmax(-1)[torch.arange(4), torch.tensor(answer)]
    with redraft.load(folder, dtype="float32") as own:
        found = own.score(prompt, answer).token_logprobs
    drafter = random_gemma(tmp_path / "drafter", seed=1)
    with redraft.load(folder, dtype="float32", draft_model=drafter) as own:
        drafted = own.runtime.drafter
        compared = compare(own, ways(own.model.modes, (), draft_model=True), SETTINGS)
        assert own.runtime.drafter is drafted
    assert [one.way.name for one in compared.figures[:2]] == ["autoregressive", "speculative, draft model"]
    if bindings.kernels() is not None:
        assert compared.quality["speculative, draft model"] == compared.quality["autoregressive"]
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=0)


def figures(name: str, speeds: dict[int, float]) -> list[Figures]:
    way = Way("autoregressive") if name == "autoregressive" else Way("diffusion", 4)
    speed = Spread((1.0,))
    return [Figures(way, n, replace(speed, values=(value,)), speed, 1.0, 2.0, 0.0) for n, value in speeds.items()]


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ({1: 9, 4: 9, 16: 9}, "diffusion, 4 steps: faster than autoregressive at every number of clients that was"),
        ({1: 9, 4: 6, 16: 1}, "diffusion, 4 steps: faster than autoregressive up to 4 clients, slower from 16 on"),
        ({1: 1, 4: 1, 16: 1}, "diffusion, 4 steps: autoregressive is faster at every number of clients that was"),
        ({1: 1, 4: 9, 16: 9}, "diffusion, 4 steps: faster than autoregressive at 4 clients and more"),
    ],
)
def test_the_crossover_is_named(speeds: dict[int, float], words: str):
    (line,) = crossovers([*figures("diffusion", speeds), *figures("autoregressive", {1: 5, 4: 5, 16: 5})])
    assert line.startswith(words)


def test_without_another_way_there_is_no_crossover():
    assert crossovers(figures("autoregressive", {1: 5})) == []


@pytest.mark.slow
@pytest.mark.skipif(bindings.kernels() is None, reason="peaks are those of the kernels")
def test_what_the_machine_allows_grows_with_clients_until_products_take_longer(engine: Engine, measured: Comparison):
    model = engine.model
    assert isinstance(model, PackedModel)
    every = [
        part for part in vars(model.parts.layers[0]).values() if hasattr(part, "nbytes") and hasattr(part, "format")
    ]
    layers = CONFIG.num_hidden_layers
    assert weight_bytes(model, 1) == sum(one.nbytes for one in every) * layers + model.parts.head.table.nbytes
    # Of a second in which bytes are read so fast that 10 rows' products take as long.
    work = sum(step_multiply_adds(model, 0, 1).values())
    machine = Machine(weight_bytes(model, 1), {"float32": 10.0 * work})
    bound = allowed(model, machine, measured.figures)
    assert list(bound) == ["diffusion, 1 step", "diffusion, 2 steps", "autoregressive"]
    plain = next(one.tokens_per_forward for one in measured.figures if one.way.name == "autoregressive")
    assert bound["autoregressive"] == pytest.approx({n: plain * min(n, 10) for n in (1, 4, 16, 64, 256)})
    assert json.dumps(bound)
