"""A deadline gives the best valid canvas that there is then. The clock counts forwards: each takes ten milliseconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft import Candidate, JSONSchema, Regex, RequestError, Result, StepEvent
from redraft.api import Engine
from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.engine.quality import QUALITIES
from redraft.engine.request import generate
from redraft.engine.runtime import run
from redraft.engine.scheduler import Scheduler
from redraft.errors import DeadlineError
from redraft.models.base import GenerationDefaults
from redraft.tasks.choose import choose
from redraft.tasks.edit import edit
from redraft.tasks.extract import extract
from tests.engine.scripted import Logits, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS
from tests.tasks.conftest import without_end

CANVAS = 16
PROMPT = "the end"
WIDE = Regex("[ -~]{3,60}")
ENDLESS = without_end(random_logits(0))


Make = Callable[..., Engine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An engine whose clock counts its model's forwards."""

    def engine(logits: Logits = ENDLESS, mask: int | None = None, causal: Logits | None = None) -> Engine:
        corruption = None if mask is None else AbsorbingCorruption(MaskNoise(mask))
        made = scripted_engine(tmp_path, logits, canvas_length=CANVAS, corruption=corruption, causal=causal)
        # A little more than 10 ms, so that no rounding decides whether two forwards reach 20.
        made.runtime.clock = lambda: model_of(made).forwards * 0.01001
        return made

    return engine


def is_wide(text: str) -> bool:
    return 3 <= len(text) <= 60 and all(" " <= letter <= "~" for letter in text)


def steps(engine: Engine, **given: Any) -> tuple[Result, list[StepEvent]]:
    model_of(engine).forwards = 0
    events: list[StepEvent] = []
    parameters: dict[str, Any] = {"max_denoising_steps": 8, "entropy_bound": 0.0, "seed": 1, **given}
    return engine.generate(PROMPT, on_step=events.append, **parameters), events


class TestFreely:
    def test_the_canvas_under_way_ends_the_answer_at_the_step_that_was_late(self, make: Make) -> None:
        engine = make()
        found, events = steps(engine, deadline_ms=30, max_tokens=200)
        assert [event.step for event in events] == [1, 2, 3]
        assert found.deadline_reached
        assert (found.finish_reason, found.unconverged_canvases) == ("length", (0,))
        assert found.token_ids == tuple(events[-1].argmax.tolist())
        assert (found.usage.denoising_steps, found.usage.canvases) == (3, 1)

    def test_whole_canvases_come_before_it_and_nothing_is_cut_without_need(self, make: Make) -> None:
        engine = make()
        whole, events = steps(engine, max_tokens=40)
        assert not whole.deadline_reached
        assert len(events) == 24
        late, _ = steps(engine, max_tokens=40, deadline_ms=100)
        assert late.token_ids[:CANVAS] == whole.token_ids[:CANVAS]
        assert (len(late.token_ids), late.usage.denoising_steps, late.unconverged_canvases) == (2 * CANVAS, 10, (0, 1))
        early, _ = steps(engine, max_tokens=40, deadline_ms=1000)
        assert early.token_ids == whole.token_ids
        assert not early.deadline_reached

    def test_between_canvases_none_is_begun(self, make: Make) -> None:
        found, _ = steps(make(), deadline_ms=80, max_tokens=200)
        assert (found.usage.denoising_steps, found.usage.canvases, found.deadline_reached) == (8, 1, True)

    def test_before_the_first_step_there_is_nothing_to_hand_out(self, make: Make) -> None:
        engine = make()
        request = generate(engine.runtime, PROMPT, deadline_ms=10, max_tokens=20)
        model_of(engine).forwards += 1
        with pytest.raises(DeadlineError, match=r"deadline_ms 10 passed before the first denoising step, after 10 ms"):
            engine.begin(request).result()
        assert engine.runtime.pool.used == 0

    def test_what_is_masked_is_filled_with_what_is_likeliest(self, make: Make) -> None:
        mask = 7
        found, events = steps(make(mask=mask), deadline_ms=20, max_tokens=CANVAS)
        assert mask not in found.token_ids
        last = events[-1]
        stands = last.tokens_out != mask
        assert stands.any()
        assert not stands.all()
        expected = torch.where(stands, last.tokens_out, last.argmax)
        assert found.token_ids == tuple(expected.tolist())

    def test_of_several_candidates_those_that_there_was_time_for_count(self, make: Make) -> None:
        found, _ = steps(make(), deadline_ms=100, max_tokens=CANVAS, best_of=5)
        assert found.usage.denoising_steps == 10, "one whole, and two steps of another"

    def test_in_a_scheduler_it_counts_from_the_call(self, make: Make) -> None:
        engine = make()
        requests = [
            generate(engine.runtime, PROMPT, deadline_ms=40, max_tokens=CANVAS, max_denoising_steps=8, seed=seed)
            for seed in (1, 2)
        ]
        from redraft.engine.generation import Generate

        scheduler = Scheduler(engine.runtime, max_concurrency=1)
        try:
            first, second = [scheduler.submit(Generate(engine.runtime, one)) for one in requests]
            assert first.result(600).usage.denoising_steps == 4
            with pytest.raises(DeadlineError, match="passed before"):
                second.result(600)
        finally:
            scheduler.close()


class TestUnderAConstraint:
    @pytest.mark.parametrize("mask", [None, 7], ids=["uniform", "absorbing"])
    def test_the_text_is_whole_on_the_canvas_under_way(self, make: Make, mask: int | None) -> None:
        """Without a deadline it goes on for several canvases."""
        engine = make(mask=mask)
        whole, _ = steps(engine, constraint=WIDE, max_tokens=70)
        assert whole.usage.canvases > 2
        for late in (10, 30, 110, 150):
            found, _ = steps(engine, constraint=WIDE, max_tokens=70, deadline_ms=late)
            assert found.deadline_reached
            assert found.finish_reason == "stop"
            assert is_wide(found.text), found.text
            assert len(found.token_ids) <= CANVAS * -(-late // 80)

    def test_many_random_schemas_are_whole_or_say_what_they_need(self, make: Make) -> None:
        schema = {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "string", "minLength": 12, "maxLength": 30},
                "c": {"type": "boolean"},
            },
            "required": ["a", "b", "c"],
            "additionalProperties": False,
        }
        outcomes = {"whole": 0, "error": 0}
        engines = [make(), make(mask=7)]
        for seed in range(4):
            engine = engines[seed % 2]
            model_of(engine).script = without_end(random_logits(seed))
            for late in (10, 50, 90, 130, 170):
                try:
                    found, _ = steps(engine, constraint=JSONSchema(schema), max_tokens=90, deadline_ms=late, seed=seed)
                except DeadlineError:
                    outcomes["error"] += 1
                    assert engine.runtime.pool.used == 0
                else:
                    outcomes["whole"] += 1
                    assert set(json.loads(found.text)) == {"a", "b", "c"}
        assert min(outcomes.values()) > 3, outcomes

    def test_what_cannot_end_yet_says_how_much_is_missing(self, make: Make) -> None:
        engine = make()
        with pytest.raises(DeadlineError, match=r"behind 0 canvases.*needs 40 tokens more at least, 3 canvases"):
            steps(engine, constraint=Regex("[a-c]{40}"), max_tokens=60, deadline_ms=20)
        with pytest.raises(DeadlineError, match=r"behind 1 canvas,.*2 canvases, about \d+ ms in all"):
            steps(engine, constraint=Regex("[a-c]{40}"), max_tokens=60, deadline_ms=100)

    def test_a_text_that_is_finished_is_not_late(self, make: Make) -> None:
        found, _ = steps(make(), constraint=Regex("[a-c]{3}"), max_tokens=30, deadline_ms=80, max_denoising_steps=8)
        assert (found.finish_reason, found.usage.denoising_steps) == ("stop", 8)

    def test_what_a_verifier_had_pinned_stays(self, make: Make) -> None:
        """Its rounds pin all but the wrong positions; the last round is cut, and what is pinned is in its place."""
        seen: list[tuple[int, ...]] = []

        def verifier(candidate: Candidate) -> list[int]:
            seen.append(candidate.token_ids)
            return [2]

        found, _ = steps(
            make(), constraint=Regex("[ -~]{12}"), max_tokens=12, deadline_ms=90, verifier=verifier, verify_rounds=3
        )
        assert found.deadline_reached
        assert len(seen) == 2, "there was no time for a third"
        text = [*map(str, found.text)]
        assert len(text) == 12
        assert [one for place, one in enumerate(seen[1]) if place != 2] == [
            one for place, one in enumerate(seen[0]) if place != 2
        ]


class TestTokens:
    @pytest.mark.parametrize("mode", ["autoregressive", "speculative"])
    def test_the_tokens_so_far_are_the_answer(self, make: Make, mode: str) -> None:
        engine = make(causal=without_end(random_logits(3)))
        given: dict[str, Any] = {"mode": mode, "max_tokens": 60, "seed": 1}
        whole = engine.generate(PROMPT, **given)
        model_of(engine).forwards = 0
        late = engine.generate(PROMPT, deadline_ms=120, **given)
        assert late.deadline_reached
        assert late.finish_reason == "length"
        assert 0 < len(late.token_ids) < len(whole.token_ids)
        assert late.token_ids == whole.token_ids[: len(late.token_ids)]

    def test_under_a_constraint_only_where_the_text_may_end(self, make: Make) -> None:
        engine = make(causal=without_end(random_logits(3)))
        given: dict[str, Any] = {"mode": "autoregressive", "max_tokens": 60, "seed": 1}
        found = engine.generate(PROMPT, constraint=WIDE, deadline_ms=60, **given)
        assert (found.deadline_reached, found.finish_reason) == (True, "stop")
        assert is_wide(found.text)
        model_of(engine).forwards = 0
        with pytest.raises(DeadlineError, match=r"behind \d+ tokens, .*more at least, \d+ tokens, about \d+ ms in all"):
            engine.generate(PROMPT, constraint=Regex("[a-c]{40}"), deadline_ms=60, **given)

    def test_before_the_first_token_there_is_nothing(self, make: Make) -> None:
        engine = make(causal=ENDLESS)
        request = generate(engine.runtime, PROMPT, mode="autoregressive", deadline_ms=10, max_tokens=20)
        model_of(engine).forwards += 1
        with pytest.raises(DeadlineError, match="passed before the first token"):
            engine.begin(request).result()

    def test_exact_is_the_distribution_of_the_autoregressive_mode(self, make: Make) -> None:
        engine = make(causal=ENDLESS)
        assert generate(engine.runtime, PROMPT, quality="exact", max_tokens=5).mode == "speculative"
        assert generate(engine.runtime, PROMPT, quality="fast", max_tokens=5).mode == "diffusion"
        with pytest.raises(RequestError, match=r"quality 'exact' is written in mode .* not in 'diffusion'"):
            generate(engine.runtime, PROMPT, quality="exact", mode="diffusion")
        with pytest.raises(RequestError, match="this checkpoint has no such mode"):
            generate(make().runtime, PROMPT, quality="exact")

    def test_exact_is_refused_by_what_writes_on_canvases_alone(self, make: Make) -> None:
        engine = make(causal=ENDLESS)
        for verb, ask in (
            ("fill", lambda: engine.fill("a", "b", quality="exact")),
            ("edit", lambda: engine.edit("a b", [(0, 1)], quality="exact")),
            ("extract", lambda: engine.extract("a", {"type": "object"}, quality="exact")),
        ):
            with pytest.raises(RequestError, match=rf"'exact' .* {verb} writes on canvases alone; use 'fast' or"):
                ask()


class TestTasks:
    def test_an_extraction_without_time_for_it_has_no_confidence(self, make: Make) -> None:
        engine = make()
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        given: dict[str, Any] = {"max_denoising_steps": 3, "entropy_bound": 0.0, "seed": 1, "max_tokens": 15}
        late = run(engine.runtime, extract(engine.runtime, "x", schema, deadline_ms=40, **given).task())
        assert late.confidence == {}
        assert json.loads(late.text) == late.value
        in_time = run(engine.runtime, extract(engine.runtime, "x", schema, **given).task())
        assert list(in_time.confidence) == ["/a"]

    def test_slots_are_whole_at_every_step(self, make: Make) -> None:
        engine = make()
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        given: dict[str, Any] = {"max_denoising_steps": 6, "entropy_bound": 0.0, "seed": 1, "layout": "slots"}
        late = run(engine.runtime, extract(engine.runtime, "x", schema, deadline_ms=20, **given).task())
        assert (late.layout, late.deadline_reached, late.usage.denoising_steps) == ("slots", True, 2)
        assert late.value == json.loads(late.text)
        assert set(late.value) == {"a"}

    def test_a_decision_is_read_off_the_step_that_there_is_then(self, make: Make) -> None:
        """As if that had been its last: the same canvas, denoised in as many steps."""
        engine = make()
        given: dict[str, Any] = {"max_denoising_steps": 8, "entropy_bound": 0.0, "seed": 1}
        events: list[StepEvent] = []
        late = run(
            engine.runtime, choose(engine.runtime, PROMPT, ["a", "b"], deadline_ms=30, **given).task(events.append)
        )
        assert (late.deadline_reached, late.usage.denoising_steps, len(events)) == (True, 3, 3)
        assert sum(late.probabilities.values()) == pytest.approx(1)
        whole = run(engine.runtime, choose(engine.runtime, PROMPT, ["a", "b"], **given).task())
        assert (whole.deadline_reached, whole.usage.denoising_steps) == (False, 8)
        request = choose(engine.runtime, PROMPT, ["a", "b"], deadline_ms=10, **given)
        model_of(engine).forwards += 1
        with pytest.raises(DeadlineError, match="passed before the first denoising step"):
            run(engine.runtime, request.task())

    def test_of_an_edit_the_time_counts_over_all_canvases(self, make: Make) -> None:
        engine = make()
        text = "the cat sat on a mat, and then " * 3
        spans = [(4, 7), (60, 63)]
        whole = run(engine.runtime, edit(engine.runtime, text, spans, seed=1, max_denoising_steps=4).task())
        assert whole.usage.canvases == 2
        with pytest.raises(DeadlineError, match="passed before"):
            run(engine.runtime, edit(engine.runtime, text, spans, seed=1, max_denoising_steps=4, deadline_ms=30).task())
        late = edit(engine.runtime, text, spans, seed=1, max_denoising_steps=4, deadline_ms=60)
        found = run(engine.runtime, late.task())
        assert found.deadline_reached
        assert found.text[:4] == text[:4]


@pytest.mark.parametrize(
    "value", [0, -1, float("nan"), float("inf"), True, "5", 10**400], ids=lambda value: str(value)[:9]
)
def test_a_deadline_that_is_no_time_is_refused(make: Make, value: object) -> None:
    with pytest.raises(RequestError, match=r"deadline_ms .* must be a finite number of milliseconds above 0"):
        make().generate(PROMPT, deadline_ms=value)  # type: ignore[arg-type]


class TestQuality:
    def test_a_word_stands_for_steps_and_a_bound(self, make: Make) -> None:
        engine = make()
        model_of(engine).defaults = GenerationDefaults(
            max_denoising_steps=20, entropy_bound=0.2, end_token_ids=END_TOKEN_IDS
        )
        found = {word: generate(engine.runtime, PROMPT, quality=word) for word in ("fast", "balanced")}
        assert [one.max_denoising_steps for one in found.values()] == [10, 20]
        assert [one.acceptance for one in found.values()] == [EntropyBound(0.4), EntropyBound(0.2)]
        threshold = GenerationDefaults(acceptance=ConfidenceThreshold(0.9))
        assert QUALITIES["fast"].acceptance(threshold) == ConfidenceThreshold(0.8)

    @pytest.mark.parametrize(
        "beside", [{"max_denoising_steps": 3}, {"entropy_bound": 0.1}, {"reasoning_effort": "low"}]
    )
    def test_it_is_refused_beside_what_it_stands_for(self, make: Make, beside: dict) -> None:
        with pytest.raises(RequestError, match=f"quality and {next(iter(beside))} exclude each other"):
            make().generate(PROMPT, quality="fast", **beside)

    def test_a_word_that_is_none_is_named(self, make: Make) -> None:
        with pytest.raises(RequestError, match="quality 'best' must be one of fast, balanced, exact"):
            make().generate(PROMPT, quality="best")  # type: ignore[arg-type]
