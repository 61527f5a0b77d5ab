"""Sampling parameters through the whole path, with a model whose logits a test scripts, against a dense reference."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft import JSONSchema, Regex, RequestError, StepEvent
from redraft.api import Engine
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.canvas.stopping import StableAndConfident
from tests.engine.scripted import VOCAB_SIZE, Logits, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS

MASK = VOCAB_SIZE - 1
CANVAS = 64
BIAS = {40: 2.5, 90: -100.0, 100: 1.5}
ALL: dict[str, Any] = {
    "top_k": 60,
    "top_p": 0.9,
    "min_p": 0.02,
    "logit_bias": BIAS,
    "presence_penalty": 0.7,
    "frequency_penalty": 0.4,
    "repetition_penalty": 1.4,
    "min_tokens": 80,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return scripted_engine(tmp_path_factory.mktemp("uniform"), random_logits(1))


@pytest.fixture(scope="module")
def absorbing(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    corruption = AbsorbingCorruption(MaskNoise(MASK))
    return scripted_engine(tmp_path_factory.mktemp("absorbing"), random_logits(1), corruption=corruption)


def constant(tokens: list[int], other: int = 300) -> Logits:
    """Logits of a model that is sure of these tokens, from the answer's first on, and of ``other`` behind them."""

    def logits(canvas: Tensor, context: int) -> Tensor:
        start = context - len(PROMPT)
        said = [*tokens, *[other] * (start + len(canvas))][start : start + len(canvas)]
        return torch.nn.functional.one_hot(torch.tensor(said), VOCAB_SIZE).float() * 40

    return logits


PROMPT = list(range(20, 30))


def dense(
    logits: Tensor, event: StepEvent, answer: list[int], stands: Tensor, stays: Tensor, mask: int | None
) -> Tensor:
    """Processed, changed and filtered log probabilities [C, V] of ALL, each position by itself."""
    rows = logits.double().clone()
    for position, row in enumerate(rows):
        others = [i for i in range(len(rows)) if stands[i] and (i < position or (i > position and stays[i]))]
        standing = [token for token in event.tokens_in[others].tolist() if token not in END_TOKEN_IDS]
        seen = [token for token in answer if token not in END_TOKEN_IDS] + standing
        for token in set(seen):
            row[token] = row[token] / 1.4 if row[token] > 0 else row[token] * 1.4
            row[token] -= 0.7 + 0.4 * seen.count(token)
        for token, bias in BIAS.items():
            row[token] += bias
        if len(answer) + position < ALL["min_tokens"]:
            row[list(END_TOKEN_IDS)] = -math.inf
        if mask is not None:
            row[mask] = -math.inf
        row /= event.temperature
        order = row.argsort(descending=True, stable=True)
        kept = row[order][: ALL["top_k"]].softmax(-1)
        kept = kept[kept.cumsum(-1) - kept < ALL["top_p"]]
        count = int((kept >= ALL["min_p"] * kept[0]).sum())
        row[order[count:]] = -math.inf
    return rows.log_softmax(-1)


@pytest.mark.parametrize("family", ["engine", "absorbing"])
def test_every_step_is_that_of_the_dense_reference(family: str, request: pytest.FixtureRequest) -> None:
    own: Engine = request.getfixturevalue(family)
    model_of(own).script = random_logits(5)
    mask = MASK if family == "absorbing" else None
    events: list[StepEvent] = []
    result = own.generate(PROMPT, max_tokens=2 * CANVAS, seed=3, max_denoising_steps=3, on_step=events.append, **ALL)
    assert len(result.token_ids) >= ALL["min_tokens"]
    answer: list[int] = []
    accepted = torch.zeros(CANVAS, dtype=torch.bool)
    penalised = 0
    for number, event in enumerate(events):
        context = len(PROMPT) + event.canvas_index * CANVAS
        if mask is None:
            stands, stays = accepted, torch.zeros(CANVAS, dtype=torch.bool)
        else:
            stands = stays = event.tokens_in != mask
        logp = dense(model_of(own).script(event.tokens_in, context), event, answer, stands, stays, mask)
        open = ~stays
        assert torch.equal(event.argmax[open], logp.argmax(-1)[open])
        entropy = -torch.where(logp > -math.inf, logp * logp.exp(), 0.0).sum(-1)
        torch.testing.assert_close(event.entropy[open].double(), entropy[open], atol=1e-3, rtol=0)
        assert (logp.gather(1, event.sample[:, None])[:, 0] > -math.inf)[open].all()
        penalised += int(stands.sum())
        accepted = event.accepted
        if number + 1 < len(events) and events[number + 1].canvas_index > event.canvas_index:
            answer = list(result.token_ids[:CANVAS])
            accepted = torch.zeros(CANVAS, dtype=torch.bool)
    assert penalised > 10
    assert {event.canvas_index for event in events} == {0, 1}


def test_defaults_written_out_ask_for_nothing(engine: Engine) -> None:
    model_of(engine).script = random_logits(2)
    plain = engine.generate(PROMPT, max_tokens=50, seed=5)
    asked = engine.generate(
        PROMPT, max_tokens=50, seed=5, top_p=1, top_k=-1, min_p=0.0, logit_bias={}, presence_penalty=0,
        frequency_penalty=0.0, repetition_penalty=1, min_tokens=0, ignore_eos=False, stop_token_ids=[],
    )  # fmt: skip
    assert asked.token_ids == plain.token_ids


@pytest.mark.parametrize("least", [0, 5, 63, 64, 70])
def test_no_end_token_stands_before_min_tokens(engine: Engine, least: int) -> None:
    """The model is sure that the answer is over at once."""
    model_of(engine).script = constant([], other=END_TOKEN_IDS[0])
    result = engine.generate(PROMPT, max_tokens=100, seed=1, min_tokens=least)
    assert len(result.token_ids) == least
    assert result.finish_reason == "stop"
    assert not set(result.token_ids) & set(END_TOKEN_IDS)


def test_no_stop_string_counts_that_begins_before_min_tokens(engine: Engine) -> None:
    tokens = engine.tokenizer.encode_text("xo stop xo stop xo")
    model_of(engine).script = constant(tokens, other=END_TOKEN_IDS[0])
    ask: dict[str, Any] = {"max_tokens": 60, "seed": 1, "stop": "stop"}
    assert engine.generate(PROMPT, **ask).text == "xo "
    second = len(engine.tokenizer.encode_text("xo s"))
    result = engine.generate(PROMPT, min_tokens=second, **ask)
    assert result.text == "xo stop xo "
    assert result.finish_reason == "stop"
    assert engine.generate(PROMPT, min_tokens=len(tokens), **ask).text == "xo stop xo stop xo"


def test_ignore_eos_goes_on_to_max_tokens(engine: Engine) -> None:
    model_of(engine).script = constant([], other=END_TOKEN_IDS[1])
    result = engine.generate(PROMPT, max_tokens=90, seed=1, ignore_eos=True)
    assert (len(result.token_ids), result.finish_reason) == (90, "length")
    assert not set(result.token_ids) & set(END_TOKEN_IDS)


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(engine: Engine) -> None:
    tokens = engine.tokenizer.encode_text("one two three")
    model_of(engine).script = constant(tokens, other=END_TOKEN_IDS[0])
    at = tokens.index(tokens[-4])
    result = engine.generate(PROMPT, max_tokens=60, seed=1, stop_token_ids=[tokens[-4]])
    assert result.token_ids == tuple(tokens[:at])
    assert result.finish_reason == "stop"
    # It is an end like any other: not before min_tokens, and ignore_eos leaves it.
    late = engine.generate(PROMPT, max_tokens=60, seed=1, stop_token_ids=[tokens[-4]], min_tokens=at + 1)
    assert len(late.token_ids) > at
    assert tokens[-4] not in late.token_ids[: at + 1]
    both = engine.generate(PROMPT, max_tokens=60, seed=1, stop_token_ids=[tokens[-4]], ignore_eos=True)
    assert both.token_ids == tuple(tokens[:at])


def test_a_bias_bans_and_forces_a_token(engine: Engine) -> None:
    model_of(engine).script = random_logits(4)
    forced = engine.generate(PROMPT, max_tokens=20, seed=1, logit_bias={77: 100})
    assert set(forced.token_ids) == {77}
    plain = engine.generate(PROMPT, max_tokens=60, seed=1)
    banned = engine.generate(PROMPT, max_tokens=60, seed=1, logit_bias={token: -100 for token in plain.token_ids})
    assert not set(banned.token_ids) & set(plain.token_ids)


def test_a_penalty_leaves_fewer_repetitions_and_the_canvas_comes_to_rest(engine: Engine) -> None:
    """A model that would say one word for ever, and a little less gladly one of forty others."""

    def logits(canvas: Tensor, context: int) -> Tensor:
        rows = torch.full((len(canvas), VOCAB_SIZE), -20.0)
        rows[:, 50:91] = torch.linspace(18.0, 10.07, 41)
        return rows

    model_of(engine).script = logits
    ask: dict[str, Any] = {
        **{"max_tokens": 32, "canvas_length": 16, "seed": 1, "temperature": 0, "max_denoising_steps": 20},
        **{"entropy_bound": 1e3, "stopping": StableAndConfident(1, 1e3)},
    }
    assert engine.generate(PROMPT, **ask).token_ids == (50,) * 32
    present = engine.generate(PROMPT, presence_penalty=2.0, **ask)
    assert present.converged
    # Each is taken once until what is left is no better than the first, less 2.
    assert present.token_ids == (*range(50, 61), *(50,) * 21)
    often = engine.generate(PROMPT, frequency_penalty=2.0, **ask)
    assert often.converged
    assert len(set(often.token_ids)) > 15


def test_filters_hold_under_a_constraint_until_it_needs_what_they_took(engine: Engine) -> None:
    model_of(engine).script = random_logits(9)
    for seed in range(4):
        ask: dict[str, Any] = {"max_tokens": 40, "seed": seed, "constraint": Regex("[0-9]{20}")}
        # No digit is the likeliest token anywhere, and yet digits are what comes.
        assert engine.generate(PROMPT, top_k=1, **ask).text.isdigit()
        assert engine.generate(PROMPT, top_p=0.0, min_p=1.0, **ask).text.isdigit()
    digits = engine.tokenizer.encode_text("0123456789")[-10:]

    def logits(canvas: Tensor, context: int) -> Tensor:
        rows = random_logits(9, scale=0.05)(canvas, context)
        rows[:, digits] += 2.4
        rows[:, [digits[5], digits[7]]] += 0.8
        return rows

    model_of(engine).script = logits
    drawn: dict[int | None, set[int]] = {2: set(), None: set()}
    for top_k, seen in drawn.items():

        def listen(event: StepEvent, seen: set[int] = seen) -> None:
            seen.update(event.sample[:20].tolist())

        engine.generate(PROMPT, max_tokens=40, seed=1, constraint=Regex("[0-9]{20}"), top_k=top_k, on_step=listen)
    assert drawn[2] == {digits[5], digits[7]}
    assert len(drawn[None]) > 2


def test_what_a_filter_takes_out_has_no_log_probability(engine: Engine) -> None:
    model_of(engine).script = random_logits(3)
    result = engine.generate(PROMPT, max_tokens=30, seed=1, top_k=3, top_logprobs=8, ignore_eos=True)
    for one in result.logprobs:
        assert len(one.top) <= 3
        assert sum(math.exp(logprob) for _, logprob in one.top) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_p": 1.5}, "top_p 1.5 must be a number from 0 to 1"),
        ({"top_p": math.nan}, "top_p nan must be a number"),
        ({"top_k": 0.5}, "top_k 0.5 must be a whole number, 1 or more"),
        ({"top_k": True}, "top_k True must be"),
        ({"min_p": -0.1}, "min_p -0.1 must be"),
        ({"presence_penalty": 3}, "presence_penalty 3 must be a number from -2 to 2"),
        ({"frequency_penalty": "1"}, "frequency_penalty '1' must be"),
        ({"repetition_penalty": 0}, "repetition_penalty 0 must be a number from 0.01 to 100"),
        ({"logit_bias": {5: 101}}, "logit_bias of token 5 101 must be a number from -100 to 100"),
        ({"logit_bias": {VOCAB_SIZE: 1}}, f"logit_bias has {VOCAB_SIZE}; token ids are whole numbers from 0 to"),
        ({"logit_bias": {"a": 1}}, "logit_bias has 'a'"),
        ({"logit_bias": 3}, "logit_bias 3 must be a mapping"),
        ({"min_tokens": -1}, "min_tokens -1 must be a whole number, 0 or more"),
        ({"min_tokens": 31}, "min_tokens 31 is more than the 30 tokens"),
        ({"ignore_eos": 1}, "ignore_eos 1 must be True or False"),
        ({"stop_token_ids": "1"}, "stop_token_ids '1' must be a list"),
        ({"stop_token_ids": [-1]}, "stop_token_ids has -1"),
        ({"min_tokens": 2, "constraint": JSONSchema(True)}, "min_tokens and a constraint exclude each other"),
        ({"ignore_eos": True, "constraint": JSONSchema(True)}, "ignore_eos and a constraint exclude"),
        ({"stop_token_ids": [50], "constraint": JSONSchema(True)}, "stop_token_ids and a constraint exclude"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    engine: Engine, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message.replace("(", r"\(")):
        engine.request(PROMPT, max_tokens=30, **parameters)


def test_the_checkpoints_own_ends_as_stop_tokens_ask_for_nothing(engine: Engine) -> None:
    request = engine.request(PROMPT, max_tokens=30, stop_token_ids=[*END_TOKEN_IDS], constraint=Regex("[a-z]{3}"))
    assert set(request.ends) == set(END_TOKEN_IDS)
