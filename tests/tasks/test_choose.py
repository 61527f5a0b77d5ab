"""Choices held against brute force: every way to spell every answer, from the same hidden states."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redraft import RequestError
from redraft.api import Engine
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.loading import load
from redraft.models.base import Span
from redraft.tasks.choose import choose
from redraft.tasks.layout import widths_alone
from tests.engine.scripted import model_of, random_logits, scripted_engine
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

PROMPT = [2, 30, 31]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = random_checkpoint(
        tmp_path_factory.mktemp("model"), letters=True, vocab_size=LETTERS_SIZE + 3, canvas_length=12
    )
    return load(folder, dtype="float32")


@pytest.fixture
def scripted(tmp_path: Path) -> Engine:
    return scripted_engine(tmp_path, random_logits(0), canvas_length=12)


def spellings(engine: Engine, text: bytes) -> Iterator[tuple[int, ...]]:
    """Every sequence of tokens that spells a text."""
    vocabulary = engine.runtime.constraints.vocabulary
    of_bytes: dict[bytes, list[int]] = {}
    for token in range(vocabulary.size):
        of_bytes.setdefault(vocabulary.spell([token]), []).append(token)

    def from_here(rest: bytes) -> Iterator[tuple[int, ...]]:
        if not rest:
            yield ()
        for count in range(1, len(rest) + 1):
            for token in of_bytes.get(rest[:count], []):
                for more in from_here(rest[count:]):
                    yield (token, *more)

    return from_here(text)


def brute_force(engine: Engine, parts: list[str | list[str]], logits: torch.Tensor) -> tuple[list[np.ndarray], float]:
    """For each list among ``parts`` the probabilities of its options, and the log of all that is valid.

    Tokens stay within a part; the text fills the canvas, or an end token follows it and then anything.
    """
    logp = logits.double().log_softmax(-1).numpy()
    ends = list(engine.model.defaults.end_token_ids)
    questions = [part for part in parts if isinstance(part, list)]
    sums = {combination: 0.0 for combination in product(*(range(len(own)) for own in questions))}
    for combination in sums:
        picks = iter(combination)
        texts = [part if isinstance(part, str) else part[next(picks)] for part in parts]
        for spelled in product(*(list(spellings(engine, text.encode())) for text in texts)):
            tokens = [token for piece in spelled for token in piece]
            if len(tokens) > len(logp):
                continue
            total = sum(logp[position, token] for position, token in enumerate(tokens))
            if len(tokens) < len(logp):
                total += np.logaddexp.reduce(logp[len(tokens), ends])
            sums[combination] += math.exp(total)
    whole = sum(sums.values())
    shares = []
    for number, own in enumerate(questions):
        of_option = [sum(v for c, v in sums.items() if c[number] == option) for option in range(len(own))]
        shares.append(np.array(of_option) / whole)
    return shares, math.log(whole)


def first_logits(engine: Engine, seed: int, length: int) -> torch.Tensor:
    """Those of the first step, from the noise that the seed means."""
    draws = PositionRandom(seed, 0, INITIAL, length)
    cache, _ = engine.runtime.pool.open()
    with torch.inference_mode():
        canvas = engine.model.corruption.noise.tokens(draws.noise)
        spans = [Span(torch.tensor(PROMPT), cache, "encode"), Span(canvas, cache, "denoise")]
        _, hidden = engine.model.forward(spans)
        assert hidden is not None
        return engine.model.logits(hidden)


OPTIONS = [["yes", "no"], ["the", "he", "then"], ["10", "1", "2026", "20"], ["é", "日", "a"], [" the", "the"]]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("length", [4, 7, 12])
def test_probabilities_are_sums_over_all_spellings(real: Engine, options: list[str], length: int) -> None:
    """Of a true model's own logits; the log probability that any answer stands there, too."""
    for seed in range(3):
        (expected,), log_valid = brute_force(real, [options], first_logits(real, seed, length))
        found = real.choose(PROMPT, options, seed=seed, canvas_length=length)
        np.testing.assert_allclose(list(found.probabilities.values()), expected, rtol=2e-3)
        assert found.log_valid == pytest.approx(log_valid, rel=1e-3)
        assert list(found.probabilities) == options
        assert found.choice == options[int(expected.argmax())]
        assert found.usage.denoising_steps == 1
        assert found.usage.completion_tokens == 0


def test_several_questions_are_decided_together(real: Engine) -> None:
    questions = {"first": ["yes", "no"], "second": ["the", "a", "on"]}
    for seed in range(4):
        parts: list[str | list[str]] = [questions["first"], "\n", questions["second"]]
        expected, log_valid = brute_force(real, parts, first_logits(real, seed, 8))
        found = real.choose(PROMPT, questions, seed=seed, canvas_length=8)
        for name, shares in zip(questions, expected, strict=True):
            np.testing.assert_allclose(list(found.answers[name].probabilities.values()), shares, rtol=2e-3)
            assert found.answers[name].confidence == max(found.answers[name].probabilities.values())
        assert found.log_valid == pytest.approx(log_valid, rel=1e-3)
        with pytest.raises(RequestError, match="there are 2 questions"):
            _ = found.choice


def test_the_order_of_options_makes_no_difference(real: Engine) -> None:
    options = ["yes", "no", "the", "10"]
    one = real.choose(PROMPT, options, seed=3).probabilities
    other = real.choose(PROMPT, options[::-1], seed=3).probabilities
    assert one == other
    assert list(other) == options[::-1]
    assert sum(one.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_more_steps_are_read_at_the_last_one(scripted: Engine, steps: int) -> None:
    """The canvas that the model saw last gives the probabilities; the steps before held to the frame."""
    questions = {"a": ["yes", "no"], "b": ["the", "on"]}
    model_of(scripted).script = random_logits(4)
    model_of(scripted).canvases_seen.clear()
    found = scripted.choose(PROMPT, questions, frame="{a}: {b}", max_denoising_steps=steps, seed=1)
    seen = model_of(scripted).canvases_seen
    assert len(seen) == found.usage.denoising_steps == steps
    logits = model_of(scripted).script(seen[-1], len(PROMPT))
    # The space before a hole belongs to its options.
    expected, _ = brute_force(scripted, [["yes", "no"], ":", [" the", " on"]], logits)
    for own, shares in zip(found.answers.values(), expected, strict=True):
        np.testing.assert_allclose(list(own.probabilities.values()), shares, rtol=1e-3)


def test_a_temperature_divides_the_logits_and_a_fitted_one_sharpens_the_answer(real: Engine) -> None:
    options = ["yes", "no", "the"]
    (expected,), _ = brute_force(real, [options], first_logits(real, 2, 12) / 2.5)
    found = real.choose(PROMPT, options, seed=2, temperature=2.5)
    np.testing.assert_allclose(list(found.probabilities.values()), expected, rtol=2e-3)


@pytest.mark.parametrize("length", [7, 12])
def test_by_length_options_compare_by_their_probability_for_each_byte(real: Engine, length: int) -> None:
    """The sums over all spellings without what stands after the option, to the power 1 / bytes."""
    options = ["yes", "a", "2026 a"]
    for seed in range(3):
        logp = first_logits(real, seed, length).double().log_softmax(-1).numpy()
        ends = list(real.model.defaults.end_token_ids)
        rest = {n: float(np.logaddexp.reduce(logp[n, ends])) if n < length else 0.0 for n in range(length + 1)}
        counts, scores = set[int](), []
        for option in options:
            spelled = [one for one in spellings(real, option.encode()) if len(one) <= length]
            counts |= {len(one) for one in spelled}
            logs = [sum(logp[i, token] for i, token in enumerate(one)) + rest[len(one)] for one in spelled]
            scores.append(np.logaddexp.reduce(logs))
        room = np.logaddexp.reduce([rest[count] for count in counts])
        powers = np.exp([(s - room) / len(option.encode()) for s, option in zip(scores, options, strict=True)])
        found = real.choose(PROMPT, options, seed=seed, canvas_length=length, normalize="length")
        np.testing.assert_allclose(list(found.probabilities.values()), powers / powers.sum(), rtol=2e-3)
        assert found.log_valid == real.choose(PROMPT, options, seed=seed, canvas_length=length).log_valid


def test_calibrated_applies_the_checkpoints_own_temperature(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, letters=True, vocab_size=LETTERS_SIZE, canvas_length=6)
    (folder / "redraft.json").write_text(json.dumps({"choice_temperature": 2.0}))
    engine = load(folder)
    plain = engine.choose(PROMPT, ["yes", "no"], seed=1).probabilities
    powers = {option: probability**0.5 for option, probability in plain.items()}
    found = engine.choose(PROMPT, ["yes", "no"], seed=1, calibrated=True).probabilities
    assert found == pytest.approx({option: power / sum(powers.values()) for option, power in powers.items()})
    with pytest.raises(RequestError, match="temperature and calibrated exclude each other"):
        engine.choose(PROMPT, ["yes", "no"], calibrated=True, temperature=1.0)


def test_a_seed_means_the_same_answer_also_after_others(real: Engine) -> None:
    expected = real.choose(PROMPT, ["yes", "no"], seed=5).probabilities
    real.generate([2, 40, 41], max_tokens=3, seed=1)
    again = real.choose(PROMPT, ["yes", "no"], seed=5)
    assert again.probabilities == expected
    drawn = real.choose(PROMPT, ["yes", "no"])
    assert real.choose(PROMPT, ["yes", "no"], seed=drawn.seed).probabilities == drawn.probabilities


@pytest.mark.parametrize(
    ("options", "parameters", "words"),
    [
        (["yes"], {}, "two options or more"),
        (["yes", "yes"], {}, "'yes' is there twice"),
        (["yes", ""], {}, "an option is empty"),
        ("yes", {}, "options 'yes' must be several texts"),
        (5, {}, "options 5 must be several texts"),
        ([["a"], ["b"]], {}, "question {answer}: an option .* must be a text"),
        (["a", "\ud800"], {}, "an option has half a character"),
        ({}, {}, "there is no question"),
        ({3: ["a", "b"]}, {}, "a question's name 3 must be a text"),
        ({"a b": ["x", "y"]}, {}, "a brace that is neither"),
        ({f"q{i}": ["yes", "no"] for i in range(7)}, {}, "take 13 tokens or more, and the canvas has 12; ask fewer"),
        (["a", "b"], {"frame": "no hole"}, "no hole for it"),
        (["a", "b"], {"frame": "{answer} {other}"}, "question {other}: the hole has no options"),
        (["a", "b"], {"frame": 5}, "frame 5 must be a text"),
        (["a", "b"], {"temperature": 0}, "temperature 0 must be"),
        (["a", "b"], {"temperature": "x"}, "temperature 'x' must be"),
        (["a", "b"], {"calibrated": True}, "no fitted choice_temperature"),
        (["a", "b"], {"normalize": "tokens"}, "normalize 'tokens' must be 'length', or None for the sum"),
        (["a", "b"], {"calibrated": "yes"}, "calibrated 'yes' must be True or False"),
        (["a", "b"], {"max_denoising_steps": 0}, "max_denoising_steps 0 is out of range"),
        (["a", "b"], {"seed": -1}, "seed -1 is out of range"),
    ],
)
def test_what_cannot_be_honoured_is_named_before_any_work(scripted: Engine, options, parameters, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        scripted.choose(PROMPT, options, **parameters)
    assert model_of(scripted).encoded == []


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"constraint": None}, "constraint cannot be given to choose"),
        ({"max_tokens": 4}, "max_tokens cannot be given to choose"),
        ({"best_of": 2}, "best_of cannot be given to choose"),
        ({"top_p": 1}, "top_p cannot be given to choose"),
        ({"top_a": 1}, "unknown parameter 'top_a'"),
    ],
)
def test_what_belongs_to_other_verbs_is_refused_by_name(scripted: Engine, parameters, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        choose(scripted.runtime, PROMPT, ["a", "b"], **parameters)
    with pytest.raises(TypeError, match=f"unexpected keyword argument {next(iter(parameters))!r}"):
        scripted.choose(PROMPT, ["a", "b"], **parameters)
    assert model_of(scripted).encoded == []


def in_a_slot(engine: Engine, option: str, logits: torch.Tensor) -> float:
    """The log probability that an option and end tokens, one at least, fill a slot: over all its spellings."""
    logp = logits.double().log_softmax(-1).numpy()
    ends = np.logaddexp.reduce(logp[:, list(engine.model.defaults.end_token_ids)], axis=1)
    logs = [
        sum(logp[at, token] for at, token in enumerate(spelled)) + ends[len(spelled) :].sum()
        for spelled in spellings(engine, option.encode())
        if len(spelled) < len(logp)
    ]
    return float(np.logaddexp.reduce(logs)) if logs else -math.inf


def slot_probabilities(engine: Engine, options: list[str], logits: torch.Tensor) -> np.ndarray:
    logs = np.array([in_a_slot(engine, option, logits) for option in options])
    return np.exp(logs - np.logaddexp.reduce(logs))


class TestSlots:
    """A question in a slot of its own: the option and end tokens behind it fill it, by all spellings together."""

    @pytest.fixture
    def wide(self, tmp_path: Path) -> Engine:
        return scripted_engine(tmp_path, random_logits(0), canvas_length=60)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_the_only_question_is_a_canvas_by_itself(self, real: Engine, options: list[str]) -> None:
        for seed in range(3):
            logits = first_logits(real, seed, 8)
            found = real.choose(PROMPT, options, seed=seed, layout="slots")
            assert (found.layout, found.fallback) == ("slots", None)
            expected = slot_probabilities(real, options, logits)
            np.testing.assert_allclose(list(found.probabilities.values()), expected, rtol=2e-3)
            logs = [in_a_slot(real, option, logits) for option in options]
            assert found.log_valid == pytest.approx(np.logaddexp.reduce(logs), rel=1e-3)
            assert real.choose(PROMPT, options, seed=seed).probabilities != found.probabilities

    @pytest.mark.parametrize("steps", [1, 3])
    @pytest.mark.parametrize("frame", [None, "It is {a}, or {b}!"])
    def test_several_stand_between_what_is_pinned(self, wide: Engine, steps: int, frame: str | None) -> None:
        questions = {"a": ["yes", "no", "then"], "b": ["the", "on"]}
        model = model_of(wide)
        for seed in range(3):
            model.script = random_logits(seed)
            model.canvases_seen.clear()
            found = wide.choose(PROMPT, questions, frame=frame, layout="slots", max_denoising_steps=steps, seed=seed)
            assert len(model.canvases_seen) == steps == found.usage.denoising_steps
            seen = model.canvases_seen[-1]
            logits, log_valid, start = model.script(seen, len(PROMPT)), 0.0, 0
            pinned = ("a:", "\nb:", "") if frame is None else ("It is", ", or", "!")
            for name, before in zip(questions, pinned, strict=False):
                tokens = wide.tokenizer.encode_text(before)
                assert seen[start : start + len(tokens)].tolist() == tokens
                start += len(tokens)
                options = [f" {option}" for option in questions[name]]
                width = 1 + max(len(wide.tokenizer.encode_text(option)) for option in options)
                own = logits[start : start + width]
                expected = slot_probabilities(wide, options, own)
                np.testing.assert_allclose(list(found.answers[name].probabilities.values()), expected, rtol=1e-3)
                log_valid += np.logaddexp.reduce([in_a_slot(wide, option, own) for option in options])
                start += width
            assert seen[start:].tolist() == wide.tokenizer.encode_text(pinned[2])
            assert found.log_valid == pytest.approx(log_valid, rel=1e-3)

    def test_by_length_the_end_tokens_behind_an_option_do_not_count(self, real: Engine) -> None:
        options = ["yes", "a", "2026 a"]
        for seed in range(3):
            length = widths_alone(max(len(real.tokenizer.encode_text(option)) for option in options))[0]
            logits = first_logits(real, seed, length)
            ends = np.logaddexp.reduce(
                logits.double().log_softmax(-1).numpy()[:, list(real.model.defaults.end_token_ids)], axis=1
            )
            counts = {len(own) for option in options for own in spellings(real, option.encode()) if len(own) < length}
            room = np.logaddexp.reduce([ends[count:].sum() for count in counts])
            logs = [(in_a_slot(real, option, logits) - room) / len(option.encode()) for option in options]
            found = real.choose(PROMPT, options, seed=seed, layout="slots", normalize="length")
            powers = np.exp(np.array(logs) - max(logs))
            np.testing.assert_allclose(list(found.probabilities.values()), powers / powers.sum(), rtol=2e-3)

    def test_the_checkpoint_says_which_layout_is_its_own(self, wide: Engine) -> None:
        model = model_of(wide)
        model.defaults = replace(model.defaults, extract_layout="slots")
        assert wide.choose(PROMPT, ["yes", "no"]).layout == "slots"
        assert wide.choose(PROMPT, ["yes", "no"], layout="text").layout == "text"

    @pytest.mark.parametrize(
        ("questions", "given", "reason"),
        [
            ({"a": ["1", "2"], "b": ["1", "2"]}, {"frame": "5{a}{b}"}, "no text stands between the holes {a} and {b}"),
            (["yes", "no"], {"canvas_length": 1}, "positions in slots, and the canvas has 1; ask fewer"),
        ],
    )
    def test_where_there_are_no_slots_a_text_is_read(self, wide: Engine, questions, given, reason: str) -> None:
        found = wide.choose(PROMPT, questions, seed=1, layout="slots", **given)
        assert found.layout == "text"
        assert reason in (found.fallback or "")
        assert found.answers == wide.choose(PROMPT, questions, seed=1, **given).answers

    def test_what_is_wrong_is_named_as_elsewhere(self, wide: Engine) -> None:
        wrong: list[tuple[list[str], dict[str, Any], str]] = [
            (["yes"], {}, "two options or more"),
            (["a", "b"], {"frame": "{answer} {answer}"}, "its hole stands there twice"),
            (["a", "b"], {"layout": "lines"}, "layout 'lines' must be 'slots' or 'text'"),
        ]
        for options, given, words in wrong:
            with pytest.raises(RequestError, match=words):
                wide.choose(PROMPT, options, **{"layout": "slots", **given})
