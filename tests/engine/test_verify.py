"""A verifier's marks, rounds and candidates: what changes, how often, and which one stays."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft import Candidate, Hole, JSONSchema, Regex, RequestError, StepEvent
from redraft.api import Engine
from redraft.engine.verify import wrong_positions
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS
from tests.thorough import some

PROMPT = [2, 30, 31]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return scripted_engine(tmp_path, random_logits(0, scale=2.0), canvas_length=8)


class Attempts:
    """Splits the events of one canvas into the attempts at it: steps count up anew."""

    def __init__(self) -> None:
        self.attempts: list[list[StepEvent]] = []

    def __call__(self, event: StepEvent) -> None:
        if not self.attempts or event.step <= self.attempts[-1][-1].step or self.new_canvas(event):
            self.attempts.append([])
        self.attempts[-1].append(event)

    def new_canvas(self, event: StepEvent) -> bool:
        return event.canvas_index != self.attempts[-1][-1].canvas_index

    def of_canvas(self, index: int) -> list[list[StepEvent]]:
        return [events for events in self.attempts if events[0].canvas_index == index]


@pytest.mark.parametrize("constraint", [None, Regex("[a-z ]{0,20}"), JSONSchema({"type": "array", "maxItems": 5})])
def test_only_marked_positions_change_in_the_next_round(engine: Engine, constraint) -> None:
    """All others keep their token in every canvas that the model sees, in every argmax and in every sample; also those
    after the end token."""
    changed = rounds = 0
    for seed in range(some(30, 15)):
        model_of(engine).script = random_logits(seed, scale=2.0)
        marks: list[tuple[int, frozenset[int]]] = []

        def verifier(candidate: Candidate, marks=marks) -> list[int]:
            some = [at for at, token in enumerate(candidate.token_ids) if (token + len(marks)) % 3 == 0]
            marks.append((candidate.canvas_index, frozenset(some)))
            return some

        seen = Attempts()
        result = engine.generate(
            PROMPT, constraint=constraint, verifier=verifier, verify_rounds=3, seed=seed, max_tokens=20, on_step=seen
        )
        for index in range(result.usage.canvases):
            attempts = seen.of_canvas(index)
            marked = [own for canvas, own in marks if canvas == index]
            assert len(attempts) == len(marked)
            for before, wrong, after in zip(attempts, marked, attempts[1:], strict=False):
                assert wrong, "a candidate without a wrong position is not tried again"
                rounds += 1
                old = before[-1].argmax
                kept = torch.ones(len(old), dtype=torch.bool)
                kept[list(wrong)] = False
                for event in after:
                    for tokens in (event.tokens_in, event.argmax, event.sample, event.tokens_out):
                        assert torch.equal(tokens[kept], old[kept])
                    assert (event.entropy[kept] == 0).all()
                changed += int((after[-1].argmax != old).sum())
            fewest = min(len(own) for own in marked)
            assert len(attempts) <= 4
            assert len(marked) == 4 or not marked[-1]
            final = next(a for a, own in zip(attempts, marked, strict=True) if len(own) == fewest)
            assert len(final[-1].argmax) == 8
        best = [min(len(own) for canvas, own in marks if canvas == index) for index in range(result.usage.canvases)]
        assert result.verified == (not any(best))
    assert rounds > 3
    assert changed


def test_what_was_not_marked_is_not_cut_off_either(engine: Engine) -> None:
    """A model that would rather end where it was marked: the text after it is kept, so it cannot."""
    calls: list[Candidate] = []

    def logits(canvas: torch.Tensor, context: int) -> torch.Tensor:
        out = torch.zeros(len(canvas), VOCAB_SIZE)
        letters = engine.tokenizer.encode_text("vwxyz")
        for position in range(len(canvas)):
            out[position, letters[position] if position < 5 else END_TOKEN_IDS[0]] = 40.0
        if calls:
            out[:, END_TOKEN_IDS[0]] += 80.0
        return out

    model_of(engine).script = logits

    def once(candidate: Candidate) -> list[int]:
        calls.append(candidate)
        return [1] if len(calls) == 1 else []

    result = engine.generate(
        PROMPT,
        constraint=Regex("[a-z]*"),
        verifier=once,
        seed=1,
        max_tokens=20,
    )
    assert [one.text for one in calls] == ["vwxyz", result.text]
    assert len(result.text) >= 5
    assert result.text[0] == "v"
    assert result.text[-3:] == "xyz"


def test_a_verifier_that_is_never_satisfied_gets_its_rounds_and_the_best_candidate_stays(engine: Engine) -> None:
    candidates: list[tuple[Candidate, int]] = []

    def verifier(candidate: Candidate) -> list[int]:
        wrong = max(1, 5 - len(candidates)) if len(candidates) < 5 else 6
        candidates.append((candidate, wrong))
        return list(range(min(wrong, len(candidate.token_ids))))

    result = engine.generate(
        PROMPT, constraint=Regex("[a-z]{7}"), verifier=verifier, verify_rounds=2, best_of=3, seed=1, max_tokens=7
    )
    per_canvas = [sum(one.canvas_index == index for one, _ in candidates) for index in range(result.usage.canvases)]
    assert per_canvas == [9] * result.usage.canvases, "three candidates with two rounds more each"
    assert result.verified is False
    fewest = min(wrong for _, wrong in candidates)
    assert result.token_ids in [one.token_ids for one, wrong in candidates if wrong == fewest]
    assert result.usage.denoising_steps == 9 * 2 * result.usage.canvases


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_rounds_are_limited(engine: Engine, rounds: int) -> None:
    calls: list[Candidate] = []

    def never(candidate: Candidate) -> list[int]:
        calls.append(candidate)
        return list(range(len(candidate.token_ids)))

    result = engine.generate(
        PROMPT, constraint=Regex("[a-z]{5}"), verifier=never, verify_rounds=rounds, seed=2, max_tokens=6
    )
    assert len(calls) == 1 + rounds
    assert result.verified is False


def test_a_satisfied_verifier_ends_the_search(engine: Engine) -> None:
    calls: list[Candidate] = []

    def satisfied(candidate: Candidate) -> list[int]:
        calls.append(candidate)
        return []

    result = engine.generate(
        PROMPT,
        constraint=Regex("[a-z]{20}"),
        verifier=satisfied,
        best_of=5,
        seed=1,
        max_tokens=25,
    )
    assert result.verified is True
    assert [one.canvas_index for one in calls] == list(range(result.usage.canvases))
    for one, following in pairwise(calls):
        assert following.before == one.before + one.token_ids
        assert following.text.startswith(one.text)
    assert calls[-1].text == result.text
    assert engine.generate(PROMPT, seed=1, max_tokens=3).verified is None


def test_what_a_verifier_raises_reaches_the_caller_and_the_engine_works_on(engine: Engine) -> None:
    expected = engine.generate(PROMPT, constraint=Regex("[a-z]{5}"), seed=4, max_tokens=6).text

    def broken(candidate: Candidate) -> list[int]:
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        engine.generate(PROMPT, verifier=broken, seed=4, max_tokens=6)
    assert engine.generate(PROMPT, constraint=Regex("[a-z]{5}"), seed=4, max_tokens=6).text == expected


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([99], r"the verifier marks position 99 of a candidate of \d tokens"),
        ([-1], "marks position -1"),
        (None, "the verifier returned None; it must return positions"),
        (True, "the verifier returned True"),
        ([1.5], r"the verifier returned \[1.5\]"),
        ("12", "the verifier returned '12'"),
    ],
)
def test_marks_that_are_no_positions_are_refused(engine: Engine, said: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        engine.generate(
            PROMPT, constraint=Regex("[a-z]{5}"), verifier=lambda candidate: said, seed=1, max_tokens=5, canvas_length=5
        )


def test_positions_are_the_tokens_that_share_a_character(engine: Engine) -> None:
    """By hand for words, and against a definition for characters of several tokens: a token has a part in what the text
    gains, or changes, with it."""
    decode = engine.tokenizer.decode
    tokens = engine.tokenizer.encode_text("the name is 10")
    one = Candidate(0, decode(tokens), tuple(tokens), (), decode)
    pieces = [decode([token]) for token in tokens]
    at = 0
    for index, piece in enumerate(pieces):
        assert one.positions(at, at + len(piece)) == [index]
        assert one.positions(at, at) == []
        at += len(piece)
    assert one.positions(0, at) == list(range(len(tokens)))
    before = engine.tokenizer.encode_text("before ")
    later = Candidate(1, decode(before + tokens), tuple(tokens), tuple(before), decode)
    assert later.positions(0, 7) == []
    assert later.positions(7, 10) == one.positions(0, 3)


def test_positions_of_a_character_of_several_tokens_are_all_of_them(engine: Engine) -> None:
    decode = engine.tokenizer.decode
    tokens = engine.tokenizer.encode_text("a😀b€")
    one = Candidate(0, "a😀b€", tuple(tokens), (), decode)
    assert len(tokens) == 9
    assert one.positions(0, 1) == [0]
    assert one.positions(1, 2) == [1, 2, 3, 4]
    assert one.positions(2, 3) == [5]
    assert one.positions(3, 4) == [6, 7, 8]
    half = Candidate(0, decode(tokens[:3]), tuple(tokens[:3]), (), decode)
    assert half.positions(0, len(half.text)) == [0, 1, 2]


def test_an_edit_of_several_canvases_is_verified_if_all_of_them_are(engine: Engine) -> None:
    text = "a" + "the end of it " * 3 + "b"
    spans = [(0, 1), (len(text) - 1, len(text))]
    hole = Hole(choices=("yes", "no"))
    for good, verified in (({"yes", "no"}, True), (set(), False)):
        calls: list[str] = []

        def verifier(candidate: Candidate, calls=calls, good=good) -> list[int]:
            calls.append(candidate.text)
            return [] if any(candidate.text.startswith(one) for one in good) or len(calls) == 1 else [0]

        result = engine.edit(text, spans, hole=hole, verifier=verifier, verify_rounds=1, seed=1)
        assert result.verified is verified
        assert len(calls) == (2 if verified else 3), "the first canvas passes in any case"
    assert engine.edit(text, spans, hole=hole, seed=1).verified is None


# Best of several.


def scored(engine: Engine, events: list[StepEvent]) -> float:
    """The mean log of the likeliest tokens' probabilities at the last step, up to and with the end token."""
    last = events[-1]
    logits = model_of(engine).script(last.tokens_in, len(PROMPT)) / last.temperature
    tokens = last.argmax.tolist()
    end = next((at for at, token in enumerate(tokens) if token in END_TOKEN_IDS), len(tokens))
    return float(logits.log_softmax(-1).max(-1).values[: end + 1].double().mean())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_surest_of_several_candidates_stays_and_the_prompt_is_encoded_once(engine: Engine, count: int) -> None:
    for seed in range(4):
        model_of(engine).script = random_logits(seed, scale=4.0)
        engine.runtime.pool.forget()
        model_of(engine).encoded.clear()
        seen = Attempts()
        result = engine.generate(PROMPT, best_of=count, seed=seed, max_tokens=8, on_step=seen)
        assert model_of(engine).encoded == [PROMPT]
        assert len(seen.attempts) == count
        assert len({tuple(events[-1].argmax.tolist()) for events in seen.attempts}) == count, "candidates differ"
        assert len({tuple(events[0].tokens_in.tolist()) for events in seen.attempts}) == count
        best = max(seen.attempts, key=lambda events: scored(engine, events))[-1].argmax.tolist()
        assert list(result.token_ids) == best[: len(result.token_ids)]
        assert result.usage.denoising_steps == sum(map(len, seen.attempts))
        assert result.usage.canvases == 1


def test_best_of_several_is_the_same_for_a_seed_and_its_first_candidate_that_of_one(engine: Engine) -> None:
    one, several = Attempts(), Attempts()
    alone = engine.generate(PROMPT, seed=3, max_tokens=20, on_step=one)
    best = engine.generate(PROMPT, seed=3, max_tokens=20, best_of=3, on_step=several)
    assert torch.equal(several.attempts[0][-1].argmax, one.attempts[0][-1].argmax)
    assert engine.generate(PROMPT, seed=3, max_tokens=20, best_of=3).token_ids == best.token_ids
    assert engine.generate(PROMPT, seed=3, max_tokens=20).token_ids == alone.token_ids


def test_every_canvas_is_committed_once_however_many_candidates_there_were(engine: Engine) -> None:
    engine.runtime.pool.forget()
    model_of(engine).encoded.clear()
    result = engine.generate(
        PROMPT,
        constraint=Regex("[a-z]{24}"),
        best_of=3,
        verifier=lambda one: [0],
        verify_rounds=1,
        seed=1,
        max_tokens=24,
    )
    commits = [list(result.token_ids[start : start + 8]) for start in range(0, len(result.token_ids), 8)]
    assert model_of(engine).encoded == [PROMPT, *commits[:-1]]


def test_wrong_positions_take_any_whole_numbers(engine: Engine) -> None:
    one = Candidate(0, "ab", (3, 4))
    assert wrong_positions(lambda c: torch.tensor([1, 1]), one) == {1}
    assert wrong_positions(lambda c: {0: "why"}, one) == {0}
    assert wrong_positions(lambda c: range(2), one) == {0, 1}
