"""Scores: held against transformers and a dense softmax; the bound against every way to mask a text."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from redraft import RequestError
from redraft.api import Engine
from redraft.engine.runtime import Prompt, run
from redraft.engine.scheduler import Scheduler
from redraft.loading import load
from redraft.models.base import Span
from redraft.tasks.bound import estimate
from redraft.tasks.score import NextToken, score, score_all
from redraft.train.adapt import adapt, read_base
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint
from tests.random_llama import random_llama

PROMPT, TEXT = [2, 30, 31, 40], [33, 50, 34, 5, 60]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    return random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE + 3, canvas_length=12, context_length=600)


@pytest.fixture(scope="module")
def engine(gemma: Path) -> Engine:
    return load(gemma, dtype="float32")


def dense(engine: Engine, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities [T - 1, V] in float64 of what follows each token but the last, from one forward."""
    runtime = engine.runtime
    cache, _ = runtime.pool.open()
    with torch.inference_mode():
        (hidden,) = runtime.model.forward([Span(torch.tensor(tokens), cache, "encode", wanted=len(tokens))])
        assert hidden is not None
        logits = runtime.model.logits(hidden)
    cache.close()
    return logits[:-1].double().log_softmax(-1)


class TestCausal:
    def test_it_is_the_softmax_of_the_row_before_each_token(self, engine: Engine) -> None:
        found = engine.score(PROMPT, TEXT, top_logprobs=2)
        logp = dense(engine, [*PROMPT, *TEXT])[len(PROMPT) - 1 :]
        own = logp.gather(1, torch.tensor(TEXT)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found.token_logprobs).double(), own, atol=1e-5, rtol=0)
        assert found.log_likelihood == pytest.approx(math.fsum(found.token_logprobs))
        assert found.greedy == tuple((logp.argmax(-1) == torch.tensor(TEXT)).tolist())
        assert [[token for token, _ in one.top] for one in found.logprobs] == logp.topk(2).indices.tolist()
        assert (found.bound, found.token_ids, found.following) == (None, tuple(TEXT), None)
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(PROMPT), len(TEXT))

    def test_what_greedy_decoding_writes_is_greedy(self, engine: Engine) -> None:
        text: list[int] = []
        for _ in range(4):
            text.append(int(dense(engine, [*PROMPT, *text, 0])[-1].argmax()))
        assert engine.score(PROMPT, text).is_greedy
        other = engine.score(PROMPT, [*text[:-1], (text[-1] + 1) % 30])
        assert (other.greedy, other.is_greedy) == ((True, True, True, False), False)

    def test_a_long_text_in_chunks_beside_others_and_behind_a_cached_prompt_has_the_same_bits(
        self, gemma: Path, engine: Engine
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(20, LETTERS_SIZE, (500,), generator=generator).tolist()
        expected = engine.score(tokens[:301], tokens[301:])
        again = engine.score(tokens[:301], tokens[301:])
        # What is read is computed again; the whole blocks before it are not.
        assert again.usage.cached_prompt_tokens == 256
        assert again.token_logprobs == expected.token_logprobs
        small = Engine(engine.model, engine.tokenizer, prefill_chunk=37)
        assert small.score(tokens[:301], tokens[301:]).token_logprobs == expected.token_logprobs
        scheduler = Scheduler(engine.runtime)
        try:
            asked = [score(engine.runtime, tokens[:n], tokens[n:]) for n in (1, 129, 301, 499)]
            handles = [scheduler.submit(one) for one in asked]
            results = [handle.result(600) for handle in handles]
        finally:
            scheduler.close()
        whole = results[0].token_logprobs
        assert [one.token_logprobs for one in results] == [whole[n - 1 :] for n in (1, 129, 301, 499)]
        assert whole[300:] == expected.token_logprobs

    def test_the_whole_and_the_token_behind_it(self, engine: Engine) -> None:
        tokens = [*PROMPT, *TEXT]
        request = score_all(engine.runtime, tokens, top_logprobs=1, next_token=NextToken())
        found = run(engine.runtime, request.task())
        logp = dense(engine, [*tokens, 0])
        assert len(found.token_logprobs) == len(tokens) - 1
        assert found.following is not None
        assert found.following.token == int(logp[-1].argmax())
        assert found.following.logprob == pytest.approx(float(logp[-1].max()), abs=1e-5)
        drawn = [
            run(engine.runtime, score_all(engine.runtime, [2], next_token=NextToken(1.0, seed)).task()).following
            for seed in range(20)
        ]
        assert len({one.token for one in drawn if one is not None}) > 5
        assert score_all(engine.runtime, [2]).text == ()

    def test_the_parity_with_transformers(self, gemma: Path, engine: Engine) -> None:
        from transformers import DiffusionGemmaForBlockDiffusion

        tokens = [*PROMPT, *TEXT]
        reference = DiffusionGemmaForBlockDiffusion.from_pretrained(gemma, dtype=torch.float32)
        with torch.inference_mode():
            hidden = reference.model.encoder(input_ids=torch.tensor([tokens])).last_hidden_state
            table, cap = reference.lm_head.weight, engine.model.config.final_logit_softcapping  # type: ignore[attr-defined]
            logits = cap * torch.tanh(hidden[0] @ table.T / cap)
        theirs = logits[:-1].double().log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[3:, 0]
        ours = torch.tensor(engine.score(PROMPT, TEXT).token_logprobs).double()
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


class TestStrings:
    def test_they_are_tokenized_together(self, engine: Engine) -> None:
        whole = engine.tokenizer.encode("hello there")
        found = engine.score("hello", " there")
        assert [*engine.tokenizer.encode("hello"), *found.token_ids] == whole
        assert found.token_logprobs == engine.score(engine.tokenizer.encode("hello"), found.token_ids).token_logprobs

    def test_a_merge_across_the_border_is_refused_by_name(self, engine: Engine) -> None:
        # The tokenizer has a token for "the".
        with pytest.raises(RequestError, match=r"'th' and the text's beginning make the token 'the' together"):
            engine.score("th", "e end")

    def test_behind_an_empty_prompt_only_with_a_token_that_begins_texts(self, engine: Engine) -> None:
        found = engine.score("", "hello")
        assert found.usage.prompt_tokens == 1
        assert found.token_ids == tuple(engine.tokenizer.encode("hello")[1:])

    def test_behind_messages_a_text_is_what_the_turn_says(self, engine: Engine) -> None:
        chat = [{"role": "user", "content": "hi"}]
        prompt = engine.runtime.tokenize(chat)
        found = engine.score(chat, "hello")
        assert found.token_ids == tuple(engine.tokenizer.encode_text("hello"))
        assert found.token_logprobs == engine.score(list(prompt), list(found.token_ids)).token_logprobs
        # The name of a special token is text there, as in what a user says.
        name = engine.tokenizer.piece(1)
        assert 1 not in engine.score(chat, name).token_ids
        assert engine.score("hi", name).token_ids == (1,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": []}, "text is empty"),
        ({"text": None}, "text is of type NoneType; give a string, or token ids"),
        ({"text": [3, 10**6]}, r"text token 1 is 1000000; ids must be whole numbers from 0 to"),
        ({"prompt": []}, "the prompt is empty"),
        ({"text": [5] * 700}, r"704 tokens together and the context holds 600; shorten them by 104"),
        ({"top_logprobs": 21}, "top_logprobs 21 is out of range"),
        ({"bound": "elbo"}, "bound 'elbo' must be 'monte_carlo'"),
        ({"samples": 3}, "samples is for bound='monte_carlo'"),
        ({"seed": 3}, "seed is for bound='monte_carlo'"),
        ({"bound": "monte_carlo"}, "is for families whose noise is a mask"),
    ],
)
def test_what_cannot_be_scored_is_named(engine: Engine, given: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.score(**{"prompt": PROMPT, "text": TEXT, **given})


def test_many_are_scored_as_each_alone_and_what_cannot_be_is_named_by_its_number(engine: Engine) -> None:
    prompts: list[Prompt] = [PROMPT, PROMPT[:2], "the"]
    texts: list[str | Sequence[int]] = [TEXT, TEXT, " cat"]
    found = engine.score_many(prompts, texts, top_logprobs=2)
    alone = [engine.score(prompt, text, top_logprobs=2) for prompt, text in zip(prompts, texts, strict=True)]
    assert [one.logprobs for one in found] == [one.logprobs for one in alone]
    with pytest.raises(RequestError, match="there are 2 texts for 3 prompts"):
        engine.score_many(prompts, texts[:2])
    with pytest.raises(RequestError, match="text 1: text is empty"):
        engine.score_many(prompts, [TEXT, "", TEXT])
    with pytest.raises(RequestError, match="texts must be a list"):
        engine.score_many(prompts, "the")


def test_keys_and_values_that_do_not_fit_are_refused_before_any_work(engine: Engine) -> None:
    pool = engine.runtime.pool
    small = Engine(engine.model, engine.tokenizer, kv_bytes=pool.bytes_for(128))
    with pytest.raises(RequestError, match=r"kv_bytes .* is too small.*; 128 tokens would fit"):
        small.score([5] * 100, [6] * 50)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def llama(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An absorbing family, on canvases of 4 tokens."""
    folder = tmp_path_factory.mktemp("adapted") / "model"
    adapt(read_base(base, "base"), folder, canvas_length=4)
    return load(folder, dtype="float32")


def every_mask(engine: Engine, context: list[int], own: list[int], length: int) -> float:
    """The bound of one canvas: the mean over all numbers of masked tokens, and over all places for them."""
    runtime = engine.runtime
    mask = runtime.corruption.mask
    assert mask is not None
    total = 0.0
    for masked in range(1, len(own) + 1):
        places = list(itertools.combinations(range(len(own)), masked))
        for chosen in places:
            seen = torch.full((length,), mask)
            seen[: len(own)] = torch.tensor([mask if at in chosen else token for at, token in enumerate(own)])
            cache, _ = runtime.pool.open()
            with torch.inference_mode():
                encoded = Span(torch.tensor(context), cache, "encode")
                hidden = runtime.model.forward([encoded, runtime.canvas(seen, cache, context)])[1]
                assert hidden is not None
                logits = runtime.model.logits(hidden)[:length].double()
            cache.close()
            logp = logits.masked_fill(torch.arange(logits.shape[1]) == mask, -math.inf).log_softmax(-1)
            total += sum(float(logp[at, own[at]]) for at in chosen) * len(own) / masked / len(places)
    return total / len(own)


class TestBound:
    def test_it_estimates_the_mean_over_every_mask(self, llama: Engine) -> None:
        """A text of one whole canvas and a part of another."""
        text = [33, 50, 34, 5, 60, 7]
        exact = every_mask(llama, PROMPT, text[:4], 4) + every_mask(llama, [*PROMPT, *text[:4]], text[4:], 4)
        found = llama.score(PROMPT, text, bound="monte_carlo", samples=300, seed=1)
        assert found.standard_error is not None
        assert abs(found.log_likelihood - exact) < 4 * found.standard_error
        assert found.standard_error < 0.5
        assert (found.bound, found.samples, found.seed) == ("monte_carlo", 300, 1)
        assert (found.token_logprobs, found.greedy, found.is_greedy) == ((), (), False)
        assert found.usage.canvases == 2

    def test_one_token_is_exact_and_a_seed_means_something(self, llama: Engine) -> None:
        found = llama.score(PROMPT, [50], bound="monte_carlo", samples=1, seed=5)
        assert found.log_likelihood == pytest.approx(every_mask(llama, PROMPT, [50], 4), abs=1e-4)
        assert found.standard_error == 0.0
        several = [llama.score(PROMPT, TEXT, bound="monte_carlo", samples=4, seed=seed) for seed in (1, 1, 2)]
        assert several[0].log_likelihood == several[1].log_likelihood != several[2].log_likelihood
        alone = run(llama.runtime, estimate(llama.runtime, PROMPT, TEXT, 1, 3))
        assert alone.standard_error is None, "one sample does not say how far off it is"

    def test_its_causal_mode_is_the_base_which_knows_no_mask(self, base: Path, llama: Engine) -> None:
        from transformers import LlamaForCausalLM

        found, tokens = llama.score(PROMPT, TEXT, top_logprobs=3), torch.tensor([[*PROMPT, *TEXT]])
        reference = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        with torch.inference_mode():
            logp = reference(tokens).logits[0, len(PROMPT) - 1 : -1].double().log_softmax(-1)
        theirs = logp.gather(1, torch.tensor(TEXT)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found.token_logprobs).double(), theirs, atol=1e-4, rtol=0)
        assert [[token for token, _ in one.top] for one in found.logprobs] == logp.topk(3).indices.tolist()

    def test_a_mask_is_no_text(self, llama: Engine) -> None:
        mask = llama.runtime.corruption.mask
        assert mask is not None
        for bound in ("monte_carlo", None):
            with pytest.raises(RequestError, match=rf"text token 1 \({mask}\) is the mask"):
                llama.score(PROMPT, [5, mask], bound=bound)
        with pytest.raises(RequestError, match="top_logprobs and bound exclude each other"):
            llama.score(PROMPT, TEXT, bound="monte_carlo", top_logprobs=1)
