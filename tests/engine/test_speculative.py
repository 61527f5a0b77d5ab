"""Drafts that are verified: the answer is the autoregressive mode's, token for token, in fewer forwards."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft import JSONSchema, RequestError
from redraft.api import Engine
from redraft.kernels import bindings
from redraft.loading import load
from tests.engine.scripted import VOCAB_SIZE, model_of, scripted_engine
from tests.models.llama_diffusion.conftest import CONFIG
from tests.models.llama_diffusion.conftest import write as write_llama
from tests.random_checkpoint import END_TOKEN_IDS, LETTERS_SIZE, random_checkpoint

PROMPT = list(range(20, 50))
SCHEMA = JSONSchema(
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 5}},
     "required": ["a", "b"], "additionalProperties": False}
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "sampled": {},
    "greedy": {"temperature": 0},
    "filters and penalties": {"top_p": 0.8, "presence_penalty": 1.0, "frequency_penalty": 0.3, "min_tokens": 4},
    "likeliest tokens": {"top_logprobs": 3, "temperature": 0.2},
    "constraint": {"constraint": SCHEMA},
    "greedy under a constraint": {"constraint": SCHEMA, "temperature": 0, "canvas_length": 5, "max_denoising_steps": 2},
}
needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="torch's products are not bit for bit by row")


@pytest.fixture(scope="module", params=["DiffusionGemma", "LlamaDiffusion"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A window shorter than prompt and draft, whose layers give back what a draft took; and a model that rereads."""
    folder = tmp_path_factory.mktemp("model")
    if request.param == "DiffusionGemma":
        return load(random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE + 2, query_scale=0.03))
    write_llama(folder, CONFIG)
    return load(folder)


@needs_kernels
@pytest.mark.parametrize("name", SETTINGS)
def test_an_answer_is_that_of_the_autoregressive_mode(engine: Engine, name: str) -> None:
    drafted = 0
    for seed in range(3):
        given = {"max_tokens": 40, "seed": seed, **SETTINGS[name]}
        plain = {key: value for key, value in given.items() if key not in ("canvas_length", "max_denoising_steps")}
        expected = engine.generate(PROMPT, mode="autoregressive", **plain)
        found = engine.generate(PROMPT, mode="speculative", **given)
        assert found.token_ids == expected.token_ids
        assert found.text == expected.text
        assert found.finish_reason == expected.finish_reason
        assert found.logprobs == expected.logprobs
        assert found.log_valid == pytest.approx(expected.log_valid)
        drafted += found.usage.accepted_drafts
    assert drafted or "constraint" not in name, "no draft was ever accepted: what follows one was not put to the test"


def counting(tokens: Tensor, _: int) -> Tensor:
    """Each token is followed by the next number; 60 ends."""
    out = torch.zeros(len(tokens), VOCAB_SIZE)
    following = torch.where(tokens >= 60, END_TOKEN_IDS[0], tokens + 1)
    out[torch.arange(len(tokens)), following] = 40.0
    return out


def drafting(wrong: set[int]) -> Any:
    """Canvases that count as well, but for positions in the sequence at which they are wrong."""

    def canvas(tokens: Tensor, context: int) -> Tensor:
        out = torch.zeros(len(tokens), VOCAB_SIZE)
        for place in range(len(tokens)):
            at = context + place
            token = 20 + at if 20 + at <= 60 else END_TOKEN_IDS[0]
            out[place, 200 if at in wrong else token] = 40.0
        return out

    return canvas


def test_right_drafts_cost_few_forwards_and_wrong_ones_are_cut_back(tmp_path: Path) -> None:
    right = scripted_engine(tmp_path, drafting(set()), causal=counting, canvas_length=16)
    result = right.generate([20], mode="speculative", max_denoising_steps=1, temperature=0)
    assert result.token_ids == tuple(range(21, 61))
    assert result.finish_reason == "stop"
    # A draft of 16, one step and one verification, gives 16 tokens and one more; the last one ends early.
    assert result.usage.forwards == 6
    assert result.usage.accepted_drafts == 16 + 16 + 7
    wrong = scripted_engine(tmp_path, drafting({5, 6, 30}), causal=counting, canvas_length=16)
    same = wrong.generate([20], mode="speculative", max_denoising_steps=1, temperature=0)
    assert same.token_ids == result.token_ids
    assert same.usage.forwards > result.usage.forwards


def test_what_stands_behind_a_rejected_token_begins_the_next_draft(tmp_path: Path) -> None:
    """From position 1 on the canvas is right but at 3: after the rejection the rest of it stands, and is not noise."""
    engine = scripted_engine(tmp_path, drafting({3}), causal=counting, canvas_length=10)
    engine.generate([20], mode="speculative", max_denoising_steps=1, max_tokens=12, temperature=0)
    seen = model_of(engine).canvases_seen
    # Of the first draft 21, 22, 200, 24 .. 30, the rows give 21, 22, 23.
    assert seen[1][:7].tolist() == list(range(24, 31))


def test_only_what_is_verified_is_shared_with_later_prompts(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, drafting({9, 10, 11}), causal=counting, canvas_length=16)
    first = engine.generate([20], mode="speculative", max_denoising_steps=1, temperature=0)
    again = engine.generate([20, *first.token_ids[:-1]], mode="autoregressive", temperature=0)
    assert again.token_ids == first.token_ids[-1:]


SHAPE: dict[str, Any] = {"letters": True, "vocab_size": LETTERS_SIZE + 2, "query_scale": 0.03}


@pytest.fixture(scope="module")
def itself(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A model for which its own weights draft."""
    folder = random_checkpoint(tmp_path_factory.mktemp("itself"), **SHAPE)
    return load(folder, draft_model=folder)


@needs_kernels
def test_a_draft_models_memory_is_part_of_the_limit(itself: Engine) -> None:
    """Where there is none left for it nothing is drafted; the answer is the same, and nobody waits for a draft."""
    given: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True, "temperature": 0}
    expected = itself.generate(PROMPT, mode="autoregressive", **given)
    pools, shared = itself.runtime.pools, itself.runtime.pool
    assert len(pools) == 2
    needed = shared.bytes_for(len(PROMPT) + 39, 5)
    accepted = {}
    try:
        for times in (1, 2, 4):
            for pool in pools:
                pool.forget()
            shared.budget = times * needed
            stream = itself.stream(PROMPT, mode="speculative", **given)
            for _ in stream:
                assert sum(pool.used + pool.cached for pool in pools) <= shared.budget
                assert sum(pool.promised for pool in pools) <= shared.budget
            assert stream.result().token_ids == expected.token_ids
            accepted[times] = stream.result().usage.accepted_drafts
            many = itself.generate_many([PROMPT] * 3, mode="speculative", **given)
            assert [one.token_ids for one in many] == [expected.token_ids] * 3
            assert not any(pool.promised or pool.used for pool in pools)
    finally:
        shared.budget = None
    assert accepted[1] == 0 < accepted[2] <= accepted[4]


def test_a_closed_engine_frees_its_draft_model(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, **SHAPE)
    engine = load(folder, draft_model=folder)
    assert engine.runtime.drafter is not None
    model = weakref.ref(engine.runtime.drafter.model)
    engine.generate(PROMPT, mode="speculative", max_tokens=6)
    engine.close()
    gc.collect()
    assert model() is None


@needs_kernels
def test_another_models_drafts_change_no_token_either(itself: Engine, tmp_path: Path) -> None:
    """The same weights draft what they would write; others what stands rarely. In batches of both models' forwards."""
    given: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True, "seed": 3}
    greedy = itself.generate(PROMPT, mode="autoregressive", temperature=0, **given)
    drafted = itself.generate(PROMPT, mode="speculative", temperature=0, **given)
    assert drafted.token_ids == greedy.token_ids
    # Four drafted tokens stand in each forward, and one more.
    assert (drafted.usage.forwards, drafted.usage.accepted_drafts, drafted.usage.denoising_steps) == (4, 16, 0)
    folder = random_checkpoint(tmp_path / "model", **SHAPE)
    other = load(folder, draft_model=random_checkpoint(tmp_path / "other", **SHAPE, seed=1))
    settings: list[dict[str, Any]] = [{}, {"constraint": SCHEMA, "canvas_length": 7}, {"top_p": 0.8}]
    for setting in settings:
        plain = {name: value for name, value in setting.items() if name != "canvas_length"}
        expected = other.generate(PROMPT, mode="autoregressive", max_tokens=25, seed=5, **plain)
        found = other.generate(PROMPT, mode="speculative", max_tokens=25, seed=5, **setting)
        assert found.token_ids == expected.token_ids
    many = other.generate_many([PROMPT, PROMPT[4:]], mode="speculative", max_tokens=12, seeds=[1, 2])
    for prompt, seed, one in zip([PROMPT, PROMPT[4:]], [1, 2], many, strict=True):
        assert other.generate(prompt, mode="autoregressive", max_tokens=12, seed=seed).token_ids == one.token_ids


def test_a_draft_model_with_another_vocabulary_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model", letters=True, vocab_size=LETTERS_SIZE + 2)
    other = random_checkpoint(tmp_path / "other", letters=True, vocab_size=LETTERS_SIZE + 3)
    with pytest.raises(RequestError, match=f"draft_model has another vocabulary .{LETTERS_SIZE + 3:,} tokens"):
        load(folder, draft_model=other)
