"""Token after token: the causal rows' own distribution, the same in any company, held to constraints and stops."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft import Choice, ConfidenceThreshold, Draft, JSONSchema, Regex, RequestError, Result
from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.sampling import NOTHING
from redraft.engine.scheduler import Scheduler
from redraft.loading import load
from redraft.models.base import GenerationMode
from redraft.record.recorder import RecordingFolder
from tests.engine.scripted import VOCAB_SIZE, model_of, scripted_engine
from tests.models.driving import causal_rows, fresh
from tests.random_checkpoint import END_TOKEN_IDS, LETTERS_SIZE, THOUGHT_IDS, random_checkpoint, reference_model
from tests.thorough import some

PROMPT = list(range(20, 50))
OPENING, CLOSING = THOUGHT_IDS
TOKEN_MODES: tuple[GenerationMode, ...] = ("autoregressive", "speculative")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The window of its sliding layers is shorter than the prompt."""
    return random_checkpoint(
        tmp_path_factory.mktemp("model"), letters=True, vocab_size=LETTERS_SIZE + 2, query_scale=0.03
    )


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load(folder)


def bigram(seed: int = 0, scale: float = 2.0) -> Tensor:
    """Logits [V, V] of what follows each token; nothing ends."""
    table = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * scale
    table[:, list(END_TOKEN_IDS)] = -1e4
    return table


def noise(canvas: Tensor, _: int) -> Tensor:
    return torch.zeros(len(canvas), VOCAB_SIZE)


def chi_square_is_likely(seen: Counter[Any], expected: dict[Any, float]) -> bool:
    """Whether counts are those of draws from probabilities, by Pearson's statistic; rare outcomes count as one."""
    total = sum(seen.values())
    assert set(seen) <= set(expected)
    cells = [(seen[key], total * p) for key, p in expected.items() if total * p >= 5]
    rest = total - sum(count for count, _ in cells), total - sum(wanted for _, wanted in cells)
    cells += [rest] if rest[1] >= 5 else []
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty: the cube root is nearly normal; four deviations are less than one time in ten thousand.
    deviate = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return deviate < 4


def test_greedy_is_that_of_the_references_encoder_and_head(engine: Engine, folder: Path) -> None:
    reference = reference_model(folder)
    result = engine.generate(PROMPT, mode="autoregressive", temperature=0, max_tokens=12, ignore_eos=True)
    tokens = list(PROMPT)
    with torch.inference_mode():
        for _ in range(12):
            states = reference.model.encoder(input_ids=torch.tensor([tokens])).last_hidden_state
            logits = reference.lm_head(states)[0, -1]
            logits[list(END_TOKEN_IDS)] = -math.inf
            tokens.append(int(logits.argmax()))
    assert list(result.token_ids) == tokens[len(PROMPT) :]
    assert (result.usage.forwards, result.usage.denoising_steps, result.usage.canvases) == (12, 0, 0)
    assert result.usage.tokens_per_forward == 1


def test_a_seed_means_the_same_answer_alone_among_others_and_with_its_prompt_cached(folder: Path) -> None:
    """In batches with canvases, with others' tokens, behind a cached prefix, and where memory runs out between."""
    one = load(folder)
    # Of what a context is added up in, the borders count: those of blocks.
    small = Engine(one.model, one.tokenizer, kv_block=8)
    alone = small.generate(PROMPT, mode="autoregressive", max_tokens=24, seed=7, top_logprobs=2)
    busy = Engine(one.model, one.tokenizer, prefill_chunk=8, kv_block=8)
    scheduler = Scheduler(busy.runtime)
    try:
        asked = [
            busy.request(PROMPT, mode="autoregressive", max_tokens=24, seed=7, top_logprobs=2),
            busy.request(PROMPT[:9], max_tokens=30, seed=1),
            busy.request(PROMPT[5:], mode="speculative", max_tokens=20, seed=2),
            busy.request([16, 17], mode="autoregressive", max_tokens=40, seed=3, top_p=0.9),
        ]
        found = [scheduler.submit(Generate(busy.runtime, one)) for one in asked]
        first, *_ = (handle.result(120) for handle in found)
    finally:
        scheduler.close()
    again = busy.generate(PROMPT, mode="autoregressive", max_tokens=24, seed=7, top_logprobs=2)
    assert again.usage.cached_prompt_tokens > 0
    tight = Engine(one.model, one.tokenizer, kv_block=8)
    tight.runtime.pool.budget = tight.runtime.pool.bytes_for(len(PROMPT) + 24) * 3 // 2
    many = tight.generate_many([PROMPT, PROMPT[3:], PROMPT[:20]], mode="autoregressive", max_tokens=24, seeds=[7, 8, 9])
    for other in (first, again, many[0]):
        assert other.token_ids == alone.token_ids
    for other in (first, again):
        assert [one.top for one in other.logprobs] == [one.top for one in alone.logprobs]
        own = [one.logprob for one in other.logprobs]
        assert own == pytest.approx([one.logprob for one in alone.logprobs], abs=1e-5)


def test_log_probabilities_are_those_of_the_causal_rows(engine: Engine) -> None:
    result = engine.generate(PROMPT, mode="autoregressive", temperature=0.7, max_tokens=6, seed=3, top_logprobs=2)
    tokens = torch.tensor([*PROMPT, *result.token_ids])
    logits = engine.model.logits(causal_rows(engine.model, tokens, fresh(engine.model)))[len(PROMPT) - 1 : -1]
    expected = (logits.float() / 0.7).log_softmax(-1)
    assert len(result.logprobs) == len(result.token_ids)
    for place, one in enumerate(result.logprobs):
        assert one.token == result.token_ids[place]
        assert one.logprob == pytest.approx(expected[place, one.token].item(), abs=2e-3)
        assert [token for token, _ in one.top] == expected[place].topk(2).indices.tolist()


@pytest.mark.slow
def test_tokens_are_drawn_from_the_models_distribution(tmp_path: Path) -> None:
    """Two tokens, whose joint distribution is that of the script; drafts that are always the same do not show.

    Of the speculative mode, which test_speculative.py holds to writing what the autoregressive one does.
    """
    table = bigram()

    def canvas(tokens: Tensor, _: int) -> Tensor:
        out = torch.zeros(len(tokens), VOCAB_SIZE)
        out[:, 30] = 40.0
        return out

    engine = scripted_engine(tmp_path, canvas, causal=lambda tokens, _: table[tokens], canvas_length=8)
    # Of four tokens alone, so that few draws tell much.
    kept = [16, 20, 30, 40]
    bias, draws = {token: 30.0 for token in kept}, some(400, 200)
    results = [
        engine.generate([25], mode="speculative", max_tokens=2, seed=seed, logit_bias=bias, temperature=2.0)
        for seed in range(draws)
    ]
    changed = table.clone()
    changed[:, kept] += 30.0
    p = (changed / 2.0).softmax(-1)
    expected = {(a, b): (p[25, a] * p[a, b]).item() for a in kept for b in kept}
    missing = 1 - sum(expected.values())
    assert missing < 1e-2
    seen = Counter(result.token_ids for result in results)
    assert chi_square_is_likely(Counter({key: seen[key] for key in expected if seen[key]}), expected)
    assert sum(result.usage.accepted_drafts for result in results) > draws // 20


@pytest.mark.slow
def test_under_a_constraint_each_token_is_drawn_from_those_that_can_still_finish(tmp_path: Path) -> None:
    """The model's distribution over these, made to add up to 1: computed anew from what each token spells."""
    table = bigram(1)
    engine = scripted_engine(tmp_path, noise, causal=lambda tokens, _: table[tokens], canvas_length=8)
    options = ["yes", "yeah", "no", "the end"]
    constraint, budget = Choice(options), 3
    texts = {token: engine.tokenizer.decode([token]) for token in range(16, VOCAB_SIZE) if token not in THOUGHT_IDS}
    texts = {token: text for token, text in texts.items() if text and "\ufffd" not in text}

    def fewest(rest: str) -> int:
        """The fewest tokens that spell a text."""
        if not rest:
            return 0
        return min((1 + fewest(rest[len(t) :]) for t in texts.values() if rest.startswith(t)), default=99)

    def distribution(last: int, said: str, left: int) -> dict[tuple[int, ...], float]:
        if said in options and not any(one.startswith(said) and one != said for one in options):
            return {(): 1.0}
        fits = {
            token
            for token, text in texts.items()
            for one in options
            if one.startswith(said + text) and fewest(one[len(said + text) :]) <= left - 1
        }
        p = table[last].softmax(-1)
        total = sum(p[token].item() for token in fits)
        return {
            (token, *rest): p[token].item() / total * share
            for token in fits
            for rest, share in distribution(token, said + texts[token], left - 1).items()
        }

    expected = distribution(25, "", budget)
    results = [
        engine.generate([25], mode="speculative", max_tokens=budget, seed=seed, constraint=constraint)
        for seed in range(some(300, 150))
    ]
    assert {result.text for result in results} <= set(options)
    assert chi_square_is_likely(Counter(result.token_ids for result in results), expected)
    assert all(result.finish_reason == "stop" and result.log_valid[0] < 0 for result in results)


SCHEMAS: Sequence[JSONSchema | Regex] = (
    JSONSchema({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy", None]}},
                "required": ["a", "b"], "additionalProperties": False}),
    JSONSchema({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4}),
    Regex("[a-c]{2,5}(-[0-9]+)?"),
)  # fmt: skip


@pytest.mark.parametrize("mode", TOKEN_MODES)
@pytest.mark.parametrize("constraint", SCHEMAS, ids=["object", "array", "regex"])
def test_no_constrained_answer_is_invalid_at_the_smallest_budget_either(
    engine: Engine, constraint: JSONSchema | Regex, mode: GenerationMode
) -> None:
    fewest = engine.min_tokens(constraint)
    for seed in range(8):
        budget = fewest + (seed // 2) * (seed % 2)
        temperature = [0.0, 1.0, 3.0][seed % 3]
        result = engine.generate(
            PROMPT, mode=mode, constraint=constraint, max_tokens=budget, seed=seed, temperature=temperature
        )
        assert len(result.token_ids) <= budget
        assert result.finish_reason == "stop"
        if isinstance(constraint, Regex):
            assert re.fullmatch(constraint.pattern, result.text)
        elif constraint is SCHEMAS[0]:
            found = json.loads(result.text)
            assert set(found) == {"a", "b"}
            assert isinstance(found["a"], int)
            assert found["b"] in ("x", "yy", None)
        else:
            found = json.loads(result.text)
            assert 1 <= len(found) <= 4
            assert all(value in (True, False) for value in found)
    with pytest.raises(RequestError, match=f"takes {fewest} token"):
        engine.generate(PROMPT, mode=mode, constraint=constraint, max_tokens=fewest - 1)


def says(*tokens: int) -> Any:
    """A causal script that says these tokens one after the other from position 1 on, and then ends."""

    def rows(given: Tensor, position: int) -> Tensor:
        out = torch.zeros(len(given), VOCAB_SIZE)
        for row in range(len(given)):
            place = position + row
            out[row, tokens[place] if place < len(tokens) else END_TOKEN_IDS[0]] = 40.0
        return out

    return rows


@pytest.mark.parametrize("mode", TOKEN_MODES)
def test_text_comes_by_the_token_and_what_may_become_a_stop_string_is_held_back(
    tmp_path: Path, mode: GenerationMode
) -> None:
    engine = scripted_engine(tmp_path, noise, causal=says(), canvas_length=8)
    tokens = engine.tokenizer.encode("the yes and stopping on", literal=True)[1:]
    model_of(engine).causal = says(*tokens)
    generation = engine.stream([2], mode=mode, stop="stopped", temperature=0)
    chunks = list(generation)
    result = generation.result()
    assert result.text == "the yes and stopping on"
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert len(chunks) == len(tokens) + 1, "a chunk a token, and one for the end"
    assert [chunk.canvas_index for chunk in chunks] == list(range(len(chunks)))
    given = ""
    for chunk in chunks[:-1]:
        given += chunk.text
        assert not given.endswith(("s", "st", "sto", "stop", "stopp"))
    cut = engine.generate([2], mode=mode, stop=["and", "zzz"], temperature=0)
    assert (cut.text, cut.finish_reason) == ("the yes ", "stop")
    assert cut.token_ids == tuple(tokens[: len(cut.token_ids)])
    short = engine.generate([2], mode=mode, max_tokens=3, temperature=0)
    assert (short.token_ids, short.finish_reason) == (tuple(tokens[:3]), "length")


@pytest.mark.parametrize("mode", TOKEN_MODES)
def test_a_thought_is_no_text_and_ends_at_its_budget(tmp_path: Path, mode: GenerationMode) -> None:
    engine = scripted_engine(tmp_path, noise, causal=says(), canvas_length=8)
    inside, after = (engine.tokenizer.encode(text, literal=True)[1:] for text in ("the thought on", "yes no"))
    model_of(engine).causal = says(OPENING, *inside, CLOSING, *after)
    free = engine.generate([2], mode=mode, thinking=True, temperature=0)
    assert (free.thought, free.text) == ("the thought on", "yes no")
    bounded = engine.generate([2], mode=mode, thinking_budget=3, temperature=0)
    assert bounded.token_ids[:5] == (OPENING, *inside[:3], CLOSING)
    assert bounded.thought == engine.tokenizer.decode(inside[:3])
    none = engine.generate([2], mode=mode, thinking_budget=0, temperature=0)
    assert none.token_ids[:2] == (OPENING, CLOSING)
    assert none.thought == ""


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        *(
            ("autoregressive", name, value)
            for name, value in {
                "max_denoising_steps": 3,
                "canvas_length": 4,
                "entropy_bound": 0.1,
                "acceptance": ConfidenceThreshold(0.9),
            }.items()
        ),
        *(
            (mode, name, value)
            for mode in TOKEN_MODES
            for name, value in {
                "best_of": 2,
                "verifier": lambda candidate: [],
                "draft": Draft(torch.tensor([20]), torch.ones(1)),
                "on_step": print,
            }.items()
        ),
    ],
)
def test_what_is_for_canvases_is_refused_by_name(engine: Engine, mode: GenerationMode, name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(RequestError, match=rf"^{name} .* mode '{mode}'"):
        engine.generate(PROMPT, mode=mode, **given)


def test_a_mode_that_there_is_not_is_refused_and_so_is_its_recording(engine: Engine, tmp_path: Path) -> None:
    wrong: Any = "fast"
    with pytest.raises(RequestError, match="mode 'fast' must be one of 'diffusion', 'autoregressive', 'speculative'"):
        engine.generate(PROMPT, mode=wrong)
    none = scripted_engine(tmp_path, noise)
    with pytest.raises(RequestError, match="mode 'autoregressive' is none of this checkpoint: its causal rows are no"):
        none.generate([2], mode="autoregressive")
    for mode in TOKEN_MODES:
        with pytest.raises(RequestError, match=f"record cannot be given with mode '{mode}'"):
            engine.generate(PROMPT, mode=mode, record=RecordingFolder(tmp_path / "kept"))
        with pytest.raises(RequestError, match=f"record cannot be given with mode '{mode}'"):
            engine.generate_many([PROMPT], mode=mode, record=RecordingFolder(tmp_path / "kept"))
    assert not list((tmp_path / "kept").glob("*"))


def test_a_checkpoint_says_how_its_tokens_are_drawn(tmp_path: Path) -> None:
    """By generation_config.json, where a request does not; of canvases that says nothing."""

    file = random_checkpoint(tmp_path / "model", query_scale=0.03) / "generation_config.json"
    saved = json.loads(file.read_text())

    def loaded(**generation: object) -> Engine:
        file.write_text(json.dumps({**saved, **generation}))
        return load(file.parent)

    def answers(engine: Engine, **given: Any) -> set[tuple[int, ...]]:
        given = {"mode": "autoregressive", "max_tokens": 8, **given}
        return {engine.generate(PROMPT, seed=seed, **given).token_ids for seed in range(4)}

    with loaded() as plain:
        (greedy,) = answers(plain, temperature=0)
        drawn = answers(plain)
        assert len(drawn) > 1
        kept = answers(plain, top_k=3, repetition_penalty=1.5, temperature=0.7)
    for own in (
        {"temperature": 1e-3, "do_sample": True},
        {"top_k": 1},
        {"top_p": 1e-6},
        {"min_p": 1.0},
        {"do_sample": False, "temperature": 0.9, "top_k": 5},
    ):
        with loaded(**own) as engine:
            assert answers(engine) == {greedy}, own
            # What a request says itself counts, also where it asks for nothing.
            assert answers(engine, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) == drawn, own
            assert engine.request(PROMPT).sampling == NOTHING
            assert engine.request(PROMPT).temperature == 1.0
    with loaded(top_k=3, repetition_penalty=1.5, temperature=0.7) as engine:
        assert answers(engine) == kept != drawn
        assert answers(engine, mode="speculative") == kept


def test_a_result_says_what_it_cost(engine: Engine) -> None:
    result: Result = engine.generate(PROMPT, mode="autoregressive", max_tokens=5, seed=1, ignore_eos=True)
    assert "5 tokens in 5 forwards" in repr(result)
    diffusion = engine.generate(PROMPT, max_tokens=5, seed=1)
    assert diffusion.usage.forwards == diffusion.usage.denoising_steps
    assert diffusion.usage.accepted_drafts == 0
