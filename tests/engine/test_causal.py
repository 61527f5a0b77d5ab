"""Canvases that the causal rows read: what they say of each token, and positions that they find unlikely."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft import RequestError
from redraft.api import Engine
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.loading import load
from tests.engine.scripted import VOCAB_SIZE, random_logits, scripted_engine
from tests.models.driving import causal_rows, fresh
from tests.random_checkpoint import END_TOKEN_IDS, LETTERS_SIZE, random_checkpoint

PROMPT = list(range(20, 50))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Few steps, and a window shorter than the prompt."""
    generation = {"max_denoising_steps": 3}
    folder = tmp_path_factory.mktemp("model")
    return load(
        random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE + 2, query_scale=0.03, generation=generation),
        prefill_chunk=16,
    )


@pytest.mark.parametrize("more", [{}, {"best_of": 3}], ids=["one candidate", "of several"])
def test_the_log_probabilities_are_those_of_the_answer_read_on_its_own(engine: Engine, more: dict[str, Any]) -> None:
    """And the answer is what it is without; also where the prompt is cached by then."""
    plain = engine.generate(PROMPT, max_tokens=20, seed=3, ignore_eos=True, **more)
    for _ in range(2):
        found = engine.generate(PROMPT, max_tokens=20, seed=3, ignore_eos=True, causal_logprobs=True, **more)
        assert found.token_ids == plain.token_ids
        tokens = torch.tensor([*PROMPT, *found.token_ids])
        logits = engine.model.logits(causal_rows(engine.model, tokens, fresh(engine.model)))
        expected = logits.float().log_softmax(-1)[len(PROMPT) - 1 : -1]
        own = expected[torch.arange(20), torch.tensor(found.token_ids)]
        assert found.causal_logprobs == pytest.approx(own.tolist(), abs=2e-2)
        # Read off the forwards that commit canvases; the last one alone is committed for this.
        assert found.usage.forwards == found.usage.denoising_steps + 1
    assert plain.causal_logprobs == ()


def test_of_a_model_with_a_mask_they_are_those_of_its_text_as_scores_are(tmp_path: Path) -> None:
    corruption = AbsorbingCorruption(MaskNoise(VOCAB_SIZE - 1))
    table = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    # Left to itself it would mostly say the mask.
    table[:, -1] += 9.0
    engine = scripted_engine(
        tmp_path, random_logits(0), causal=lambda tokens, _: table[tokens], corruption=corruption, canvas_length=8
    )
    found = engine.generate(PROMPT, max_tokens=20, seed=3, ignore_eos=True, causal_logprobs=True)
    scored = engine.score(PROMPT, found.token_ids)
    assert found.causal_logprobs == pytest.approx(scored.token_logprobs, abs=1e-4)


def counting(tokens: Tensor, _: int) -> Tensor:
    """Each token is followed by the next number; 50 ends."""
    out = torch.zeros(len(tokens), VOCAB_SIZE)
    out[torch.arange(len(tokens)), torch.where(tokens >= 50, END_TOKEN_IDS[0], tokens + 1)] = 40.0
    return out


def stumbling(tokens: Tensor, context: int) -> Tensor:
    """Counts as well, but is wrong at position 5 until what stands before it is right."""
    out = torch.zeros(len(tokens), VOCAB_SIZE)
    for place in range(len(tokens)):
        at = context + place
        right = 20 + at if 20 + at <= 50 else END_TOKEN_IDS[0]
        stumbles = at == 5 and tokens[place - 1] != 24
        out[place, 200 if stumbles else right] = 40.0
    return out


def test_what_the_causal_rows_find_unlikely_is_denoised_again(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, stumbling, causal=counting, canvas_length=12)
    wrong = engine.generate([20], seed=1, max_denoising_steps=1, causal_logprobs=True)
    assert wrong.token_ids[4] == 200
    assert wrong.verified is None
    assert wrong.causal_logprobs[4] < math.log(0.01)
    right = engine.generate([20], seed=1, max_denoising_steps=1, verify="causal")
    assert right.token_ids == tuple(range(21, 51))
    assert right.verified is True
    assert right.causal_logprobs == ()
    lenient = engine.generate([20], seed=1, max_denoising_steps=1, verify="causal", verify_threshold=1e-30)
    assert lenient.token_ids == wrong.token_ids
    assert lenient.verified is True
    given_up = engine.generate([20], seed=1, max_denoising_steps=1, verify="causal", verify_rounds=0)
    assert given_up.token_ids == wrong.token_ids
    assert given_up.verified is False
    told = engine.generate([20], seed=1, max_denoising_steps=1, verify="causal", causal_logprobs=True)
    assert (told.token_ids, len(told.causal_logprobs)) == (right.token_ids, len(right.token_ids))
    assert min(told.causal_logprobs) > math.log(0.01)
    both = engine.generate(
        [20], seed=1, max_denoising_steps=1, verify="causal", verifier=lambda _: [0], verify_rounds=1
    )
    assert both.verified is False


@pytest.mark.parametrize("more", [{"verify": "causal", "verify_rounds": 2}, {"verify": "causal", "best_of": 2}])
def test_what_stays_is_what_the_next_canvas_stands_behind(engine: Engine, more: dict[str, Any]) -> None:
    """Candidates are cut back, whichever of them stays: the next canvas sees it and no other."""
    given: dict[str, Any] = {"seed": 4, "verify_threshold": 0.5, "ignore_eos": True, **more}
    length = engine.model.config.canvas_length
    whole = engine.generate(PROMPT, max_tokens=2 * length, causal_logprobs=True, **given)
    first = whole.token_ids[:length]
    scored = engine.score(PROMPT, whole.token_ids)
    assert whole.causal_logprobs == pytest.approx(scored.token_logprobs, abs=2e-2)
    assert engine.generate(PROMPT, max_tokens=length, **given).token_ids == first
    wrong = sum(value < math.log(0.5) for value in whole.causal_logprobs)
    assert whole.verified == (not wrong)
    assert whole.usage.forwards > whole.usage.denoising_steps


def test_reading_leaves_the_memory_as_it_was(engine: Engine) -> None:
    for given in ({"causal_logprobs": True}, {"verify": "causal", "best_of": 2}):
        stream = engine.stream(PROMPT, max_tokens=200, seed=1, ignore_eos=True, **given)
        next(stream)
        stream.close()
        engine.generate(PROMPT, max_tokens=40, seed=1, **given)
        assert engine.runtime.pool.used == 0
        assert engine.runtime.pool.promised == 0


def test_what_cannot_be_read_causally_is_refused(engine: Engine, tmp_path: Path) -> None:
    without = scripted_engine(tmp_path, stumbling)
    for given in ({"causal_logprobs": True}, {"verify": "causal"}):
        with pytest.raises(RequestError, match=f"{next(iter(given))} needs causal rows that are a language model"):
            without.generate([20], **given)
        with pytest.raises(RequestError, match=f"{next(iter(given))} is for canvases"):
            engine.generate(PROMPT, mode="autoregressive", **given)
    wrong: Any = "well"
    with pytest.raises(RequestError, match="verify 'well' must be 'causal'"):
        engine.generate(PROMPT, verify=wrong)
    thresholds: list[Any] = [0, 1, 1.5, True, "a"]
    for threshold in thresholds:
        with pytest.raises(RequestError, match=r"verify_threshold .* must be a probability between 0 and 1"):
            engine.generate(PROMPT, verify="causal", verify_threshold=threshold)
