"""Whether, how long and how carefully a model thinks: words for it, and a budget that ends the thought."""

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft.api import Engine
from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
from redraft.constrain.compiler import ThoughtMarkers
from redraft.constrain.constraint import JSONSchema, Regex
from redraft.engine.request import thought_budget
from redraft.engine.thinking import EFFORTS, ReasoningEffort, ThoughtBudget, wants_thought
from redraft.errors import RequestError
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine
from tests.engine.thinker import CLOSING, OPENING, Thinker
from tests.random_checkpoint import END_TOKEN_IDS
from tests.thorough import some

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return scripted_engine(tmp_path_factory.mktemp("thinking"), random_logits(0))


class TestWhetherToThink:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ((None,), False),
            ((True,), True),
            ((None, "high"), True),
            ((None, "low"), True),
            ((None, "minimal"), False),
            ((None, "instant"), False),
            ((None, "none"), False),
            ((False, "high"), False),
            ((True, "minimal"), True),
            ((None, None, 5), True),
            ((None, "high", 5), True),
            ((None, None, None, {"enable_thinking": True}), True),
            ((None, "high", None, {"thinking": False, "other": 1}), False),
        ],
    )
    def test_a_switch_is_obeyed_before_an_effort_and_an_effort_before_nothing(self, given, expected):
        assert wants_thought(*given) is expected

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (("yes",), "thinking 'yes' must be True or False"),
            (
                (None, "enormous"),
                "reasoning_effort 'enormous' must be one of none, instant, minimal, low, medium, high",
            ),
            (
                (None, None, None, {"enable_thinking": 1}),
                "chat_template_kwargs: enable_thinking 1 must be True or False",
            ),
            ((True, "none"), "thinking asks for a thought, and reasoning_effort 'none' for none"),
            ((False, None, 5), "thinking_budget asks for a thought, and thinking for none"),
            ((True, None, None, {"enable_thinking": False}), "and chat_template_kwargs: enable_thinking for none"),
        ],
    )
    def test_what_contradicts_itself_is_refused_by_name(self, given, words):
        with pytest.raises(RequestError, match=words):
            wants_thought(*given)


class TestEffort:
    def test_it_sets_the_steps_and_the_bound_of_the_checkpoint(self, engine: Engine) -> None:
        defaults = engine.model.defaults
        requests = {word: engine.request(MESSAGES, reasoning_effort=word) for word in get_args(ReasoningEffort)}
        assert set(requests) == set(EFFORTS)
        plain = engine.request(MESSAGES)
        for word, request in requests.items():
            share = {"instant": 0.5, "minimal": 0.5, "low": 0.5, "high": 2, "xhigh": 2, "max": 2}.get(word, 1)
            assert request.max_denoising_steps == defaults.max_denoising_steps * share
            assert request.acceptance == EntropyBound(defaults.entropy_bound / share)
            thinks = word in ("low", "medium", "high", "xhigh", "max")
            assert (request.thought is not None) == thinks
            assert (request.prompt == plain.prompt) != thinks, "a thought is asked for in the prompt too"

    def test_what_is_said_of_steps_and_rules_themselves_comes_first(self, engine: Engine) -> None:
        own = engine.request(MESSAGES, reasoning_effort="high", max_denoising_steps=3, entropy_bound=0.7)
        assert (own.max_denoising_steps, own.acceptance) == (3, EntropyBound(0.7))
        rule = ConfidenceThreshold(0.9)
        assert engine.request(MESSAGES, reasoning_effort="low", acceptance=rule).acceptance == rule


def spent(tokens: list[int], budget: int) -> tuple[list[int], int | None]:
    """The tokens up to the first that is one too many within a thought, and its place: counted in another way."""
    inside, count = False, 0
    for place, token in enumerate(tokens):
        if token in END_TOKEN_IDS:
            return tokens[:place], None
        if inside and token != CLOSING:
            count += 1
        if count > budget:
            return tokens[:place], place
        inside = token != CLOSING if inside else token == OPENING
    return tokens, None


@settings(max_examples=some(200), deadline=None)
@given(
    tokens=st.lists(st.sampled_from([OPENING, CLOSING, 20, 21, END_TOKEN_IDS[0]]), max_size=14),
    budget=st.integers(0, 6),
    cut=st.integers(0, 14),
)
def test_tokens_of_all_thoughts_together_are_counted_over_canvases(tokens, budget, cut):
    _, expected = spent(tokens, budget)
    found = ThoughtBudget(ThoughtMarkers(OPENING, CLOSING), budget, END_TOKEN_IDS)
    first = found.overrun(tokens[:cut])
    if expected is not None and expected < cut:
        assert first == expected
        return
    assert first is None
    if any(token in END_TOKEN_IDS for token in tokens[:cut]):
        return
    found.take(tokens[:cut])
    assert found.overrun(tokens[cut:]) == (None if expected is None else expected - cut)


class TestBudget:
    """A model that would think for ever answers: however canvases meet, under a constraint and without."""

    @staticmethod
    def endless(engine: Engine, budget: int, answer: str, **parameters: Any) -> Thinker:
        tokenizer = engine.tokenizer
        prompt = engine.request(MESSAGES, thinking=True, **parameters).prompt
        thought = tokenizer.encode_text("thought\nhm, the é is 10 and 20 and ")
        return Thinker([OPENING, *thought], len(prompt), tokenizer.encode_text(answer), 1 + budget)

    @pytest.mark.parametrize("canvas_length", [1, 4, 7, 30])
    @pytest.mark.parametrize("budget", [0, 1, 6, 13, 45])
    @pytest.mark.parametrize("constraint", [None, Regex("[0-9]+")], ids=str)
    def test_the_thought_ends_there_and_the_answer_follows(self, engine, constraint, budget, canvas_length):
        thinker = model_of(engine).script = self.endless(engine, budget, "2026")
        generation = engine.stream(
            MESSAGES, thinking_budget=budget, constraint=constraint, canvas_length=canvas_length, max_tokens=80, seed=1
        )
        chunks, result = list(generation), generation.result()
        thought = [thinker.tokens[min(at, len(thinker.tokens) - 1)] for at in range(1, 1 + budget)]
        assert list(result.token_ids) == [OPENING, *thought, CLOSING, *engine.tokenizer.encode_text("2026")]
        assert result.text == "2026" == "".join(chunk.text for chunk in chunks)
        written = engine.tokenizer.decode(thought)
        assert result.thought == ("" if written == "thought" else written.removeprefix("thought\n"))
        assert result.thought == "".join(chunk.thought for chunk in chunks)
        assert result.finish_reason == "stop"

    def test_a_thought_that_ends_by_itself_is_left_alone(self, engine: Engine) -> None:
        tokenizer = engine.tokenizer
        prompt = len(engine.request(MESSAGES, thinking=True).prompt)
        said = [OPENING, *tokenizer.encode_text("thought\nhm"), CLOSING, *tokenizer.encode_text("yes")]
        model_of(engine).script = Thinker(said, prompt)
        free = engine.generate(MESSAGES, thinking=True, max_tokens=60, seed=1)
        assert free.thought == "hm"
        bounded = engine.generate(MESSAGES, thinking_budget=len(said), max_tokens=60, seed=1)
        usage = replace(free.usage, seconds=0, time_to_first_token=0)
        assert replace(bounded, usage=replace(bounded.usage, seconds=0, time_to_first_token=0)) == replace(
            free, usage=usage
        )

    def test_a_schema_begins_after_the_thought_that_was_ended(self, engine: Engine) -> None:
        model_of(engine).script = self.endless(engine, 5, '{"value":20}')
        schema = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}
        for canvas_length in (5, 48):
            result = engine.generate(
                MESSAGES,
                thinking_budget=5,
                constraint=JSONSchema(schema),
                max_tokens=100,
                canvas_length=canvas_length,
                seed=2,
            )
            assert json.loads(result.text) == {"value": 20}
            assert result.token_ids.index(CLOSING) == 6

    def test_with_tools_the_call_comes_after_it(self, engine: Engine) -> None:
        parameters = {"type": "object", "properties": {"n": {"type": "integer", "enum": [1, 2]}}, "required": ["n"]}
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
        model_of(engine).script = self.endless(engine, 4, "<|tool_call>call:f{n:2}<tool_call|>", tools=tools)
        result = engine.generate(
            MESSAGES, thinking_budget=4, tools=tools, tool_choice="required", max_tokens=60, canvas_length=9, seed=1
        )
        assert [(call.name, call.arguments) for call in result.tool_calls] == [("f", '{"n":2}')]
        assert (result.text, result.token_ids.index(CLOSING)) == ("", 5)

    @pytest.mark.parametrize("canvas_length", [5, 12])
    def test_a_model_that_would_think_again_and_again_answers_at_once(self, engine: Engine, canvas_length: int) -> None:
        """A thought that passes its budget costs one canvas, however many the model would begin behind it."""
        (letter,) = engine.tokenizer.encode_text("a")
        model = model_of(engine)

        def opening(canvas: Tensor, context: int) -> Tensor:
            logits = torch.zeros(len(canvas), VOCAB_SIZE)
            logits[:, OPENING], logits[:, letter] = 2 * 40.0, 40.0
            return logits

        model.script = opening
        before = model.forwards
        result = engine.generate(MESSAGES, thinking_budget=2, max_tokens=24, canvas_length=canvas_length, seed=1)
        assert list(result.token_ids) == [OPENING] * 3 + [CLOSING] + [letter] * 20
        assert result.text == "a" * 20
        # The prompt, and each canvas's steps, those of one of them twice.
        steps = model.defaults.max_denoising_steps
        assert model.forwards - before <= 1 + steps * (result.usage.canvases + 1)

    def test_an_end_token_that_ends_nothing_is_one_of_its_tokens(self, engine: Engine) -> None:
        """With ``ignore_eos`` the thought goes on behind it."""
        for ignored, place in ((False, None), (True, 3)):
            request = engine.request(MESSAGES, thinking_budget=2, ignore_eos=ignored)
            counted = thought_budget(request)
            assert counted is not None
            assert counted.overrun([OPENING, END_TOKEN_IDS[0], 5, 6]) == place

    def test_candidates_are_each_held_to_it(self, engine: Engine) -> None:
        model_of(engine).script = self.endless(engine, 6, "20")
        result = engine.generate(
            MESSAGES,
            thinking_budget=6,
            max_tokens=30,
            seed=3,
            best_of=2,
            verifier=lambda candidate: [len(candidate.token_ids) - 1],
            verify_rounds=1,
        )
        assert result.text == "20"
        assert result.token_ids.index(CLOSING) == 7

    @pytest.mark.parametrize("budget", [-1, 1.5, True, "3"])
    def test_what_is_no_number_of_tokens_is_refused(self, engine: Engine, budget: Any) -> None:
        with pytest.raises(RequestError, match="thinking_budget"):
            engine.request(MESSAGES, thinking_budget=budget)


class TestTemplateVariables:
    def test_those_that_the_template_reads_are_given_to_it(self, engine: Engine) -> None:
        asked = engine.request(MESSAGES, chat_template_kwargs={"enable_thinking": True})
        assert asked == engine.request(MESSAGES, thinking=True, seed=asked.seed)
        own = engine.tokenizer
        reading = type(own)(own.tokenizer, own.special, own.template + "{{ mood }}")
        assert reading.encode_chat(MESSAGES, variables={"mood": "the"})[-1] == own.encode_text("the")[0]
        closed = reading.encode_chat(MESSAGES, variables={"mood": "<turn|>"})
        assert closed.count(5) == own.encode_chat(MESSAGES).count(5), "what a client gives is text"

    @pytest.mark.parametrize("name", ["mood", "messages", "bos_token"])
    def test_others_are_refused_by_name(self, engine: Engine, name: str) -> None:
        with pytest.raises(RequestError, match=f"chat_template_kwargs: .*{name}"):
            engine.request(MESSAGES, chat_template_kwargs={name: "x"})

    def test_without_a_chat_they_have_nothing_to_do(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="chat_template_kwargs need chat messages"):
            engine.request("hi", chat_template_kwargs={"mood": "x"})
