"""OpenAI's own client against the server."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI

from redraft.api import Engine
from tests.serve.conftest import NAME, Endless, Served, serving

MESSAGES: list[Any] = [{"role": "user", "content": "say something"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "value": {"type": "integer", "maximum": 99}},
    "required": ["name", "value"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up",
        "parameters": {
            "type": "object",
            "properties": {
                "word": {"type": "string", "maxLength": 6},
                "count": {"type": "integer", "minimum": 0, "maximum": 9},
                "deep": {"type": "boolean"},
            },
            "required": ["word", "count"],
        },
    },
}
OTHER: Any = {"type": "function", "function": {"name": "stop-it", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def client(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def chat(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": NAME, "messages": MESSAGES, "max_tokens": 60, **fields})


def test_an_answer_is_that_of_the_engine(client: OpenAI, alone: Engine) -> None:
    answer = chat(client, seed=5)
    expected = alone.generate(MESSAGES, seed=5, max_tokens=60)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        expected.usage.prompt_tokens,
        expected.usage.completion_tokens,
    )
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.model_extra == {
        "canvases": expected.usage.canvases,
        "denoising_steps": expected.usage.denoising_steps,
        "forwards": expected.usage.forwards,
        "accepted_drafts": 0,
    }
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as refused:
        chat(client, model="other")
    assert refused.value.param == "model"


@pytest.mark.parametrize("fields", [{}, {"stop": ["e"]}, {"response_format": {"type": "json_object"}}])
def test_a_stream_adds_up_to_the_whole(client: OpenAI, fields: dict[str, Any]) -> None:
    whole = chat(client, seed=3, max_tokens=120, **fields)
    chunks = list(chat(client, seed=3, max_tokens=120, stream=True, stream_options={"include_usage": True}, **fields))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_answers_are_those_of_the_next_seeds(client: OpenAI) -> None:
    answer = chat(client, seed=9, n=3)
    alone = [chat(client, seed=9 + index).choices[0].message.content for index in range(3)]
    assert [choice.message.content for choice in answer.choices] == alone
    assert len(set(alone)) == 3
    streamed = ["", "", ""]
    for chunk in chat(client, seed=9, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == alone


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_holds(client: OpenAI, strict: bool | None) -> None:
    named = {"name": "thing", "schema": SCHEMA, "strict": strict}
    answer = chat(client, seed=1, response_format={"type": "json_schema", "json_schema": named})
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)


def test_what_a_schema_makes_certain_is_sent_at_once(client: OpenAI) -> None:
    named = {"name": "thing", "schema": SCHEMA}
    chunks = chat(client, stream=True, response_format={"type": "json_schema", "json_schema": named})
    assert next(iter(chunks)).choices[0].delta.content == '{"name":"'
    chunks.close()


def test_a_required_call_is_made_and_its_arguments_are_valid(client: OpenAI) -> None:
    answer = chat(client, seed=2, tools=[TOOL, OTHER], tool_choice="required", max_tokens=120)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    for call in choice.message.tool_calls:
        assert call.function.name in ("look_up", "stop-it")
        arguments = json.loads(call.function.arguments)
        if call.function.name == "look_up":
            jsonschema.validate(arguments, TOOL["function"]["parameters"])


@pytest.mark.parametrize("seed", range(4))
def test_a_named_tool_is_called_once(client: OpenAI, seed: int) -> None:
    named: Any = {"type": "function", "function": {"name": "look_up"}}
    answer = chat(client, seed=seed, tools=[TOOL, OTHER], tool_choice=named)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "look_up"
    jsonschema.validate(json.loads(call.function.arguments), TOOL["function"]["parameters"])


LONG_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "write",
        "parameters": {
            "type": "object",
            "properties": {"body": {"type": "string", "minLength": 120}, "ok": {"type": "boolean"}},
            "required": ["body", "ok"],
        },
    },
}


@pytest.mark.parametrize("tools", [[LONG_TOOL], [LONG_TOOL, OTHER]])
@pytest.mark.parametrize("parallel", [False, True])
def test_streamed_calls_are_those_of_the_whole(client: OpenAI, tools: Any, parallel: bool) -> None:
    for seed in range(3):
        fields: Any = {"seed": seed, "tools": tools, "tool_choice": "required", "parallel_tool_calls": parallel}
        calls = chat(client, **fields, max_tokens=300).choices[0].message.tool_calls
        chunks = list(chat(client, stream=True, **fields, max_tokens=300))
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        parts = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or []]
        streamed: list[list[Any]] = []
        for part in parts:
            if part.id is not None:
                assert part.index == len(streamed)
                streamed.append([part.function.name, part.function.arguments])
            else:
                assert part.index == len(streamed) - 1
                assert part.function.name is None
                streamed[-1][1] += part.function.arguments
        assert streamed == [[call.function.name, call.function.arguments] for call in calls]
        if "write" in [name for name, _ in streamed]:
            assert len(parts) > len(calls) + 1, "arguments go out canvas by canvas"


def test_the_name_of_a_call_that_must_be_made_is_sent_before_any_step(engine: Engine) -> None:
    with serving(engine, max_concurrency=1) as up:
        holding = up.server.scheduler.submit(Endless())
        client = OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
        named: Any = {"type": "function", "function": {"name": "look_up"}}
        chunks = iter(chat(client, tools=[TOOL, OTHER], tool_choice=named, stream=True))
        assert next(chunks).choices[0].delta.role == "assistant"
        (call,) = next(chunks).choices[0].delta.tool_calls
        assert (call.function.name, call.function.arguments) == ("look_up", "")
        assert up.server.scheduler.load.waiting == 1, "the model has done nothing for it"
        holding.cancel()
        rest = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
        assert {(part.index, part.id, part.function.name) for part in rest} == {(0, None, None)}
        arguments = "".join(part.function.arguments for part in rest)
        jsonschema.validate(json.loads(arguments), TOOL["function"]["parameters"])


def test_no_tool_is_called_where_none_may_be(client: OpenAI) -> None:
    answer = chat(client, seed=2, tools=[TOOL], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert "<|tool_call>" not in answer.choices[0].message.content


def test_a_tools_answer_goes_back_to_the_model(client: OpenAI, served: Served) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word":"a","count":1}'}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found it"},
    ]
    with_tool = chat(client, messages=messages, seed=1, tools=[TOOL])
    assert with_tool.usage.prompt_tokens > chat(client, seed=1, tools=[TOOL]).usage.prompt_tokens


def test_logprobs_are_those_of_each_token(client: OpenAI, alone: Engine) -> None:
    answer = chat(client, seed=6, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    expected = alone.generate(MESSAGES, seed=6, max_tokens=60).token_ids
    assert [one.token for one in content if not one.bytes] == [
        alone.tokenizer.piece(token) for token in expected if not alone.runtime.constraints.vocabulary.has_text[token]
    ]
    assert [bytes(one.bytes) for one in content if one.bytes] == [
        alone.runtime.constraints.vocabulary.spell([token])
        for token in expected
        if alone.runtime.constraints.vocabulary.has_text[token]
    ]
    for one in content:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob, abs=1e-4)
        assert one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob
    streamed = [
        one
        for chunk in chat(client, seed=6, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert streamed == content


def test_a_thought_is_apart_from_the_answer(client: OpenAI, alone: Engine) -> None:
    answer = chat(client, seed=8, reasoning_effort="high")
    expected = alone.generate(MESSAGES, seed=8, max_tokens=60, reasoning_effort="high")
    assert answer.choices[0].message.content == expected.text
    assert getattr(answer.choices[0].message, "reasoning_content", "") == (expected.thought or "")


def test_completions_and_their_options(client: OpenAI, alone: Engine) -> None:
    fields: Any = {"model": NAME, "prompt": "once upon", "max_tokens": 20, "seed": 1}
    expected = alone.generate("once upon", seed=1, max_tokens=20)
    whole = client.completions.create(**fields)
    assert whole.choices[0].text == expected.text
    assert client.completions.create(**fields, echo=True).choices[0].text == "once upon" + expected.text
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**fields, stream=True))
    assert streamed == expected.text
    logprobs = client.completions.create(**fields, logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 20
    assert len(logprobs.top_logprobs[0]) == 2
    by_ids = client.completions.create(**{**fields, "prompt": alone.tokenizer.encode("once upon")})
    assert by_ids.choices[0].text == expected.text


def test_several_prompts_are_answered_in_the_order_of_the_api(client: OpenAI, alone: Engine) -> None:
    texts = ["once upon", "and then", "the"]
    ids = [alone.tokenizer.encode(text) for text in texts]
    for prompts, echoes in ((texts, texts), (ids, [alone.tokenizer.decode_all(one) for one in ids])):
        fields: Any = {"model": NAME, "prompt": prompts, "max_tokens": 60, "seed": 4, "n": 2, "echo": True}
        whole = client.completions.create(**fields)
        expected = [alone.generate(text, seed=4 + choice, max_tokens=60) for text in texts for choice in range(2)]
        echoed = [echoes[index // 2] + one.text for index, one in enumerate(expected)]
        assert [choice.index for choice in whole.choices] == list(range(6))
        assert [choice.text for choice in whole.choices] == echoed
        usages = [one.usage for one in expected]
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == sum(one.prompt_tokens for one in usages[::2])
        assert whole.usage.completion_tokens == sum(one.completion_tokens for one in usages)
        streamed = [""] * 6
        for chunk in client.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
        assert streamed == echoed
        assert chunk.usage is not None
        assert chunk.usage.prompt_tokens == whole.usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 16}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt.1"),
        ({"prompt": [[5], [6, 10**6]]}, "prompt.1"),
        ({"prompt": ["a", "b"], "suffix": "c"}, "suffix"),
        ({"prompt": [[5]], "suffix": "c"}, "suffix"),
    ],
)
def test_prompts_that_cannot_be_answered_are_named(client: OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=NAME, max_tokens=5, **fields)
    assert refused.value.param == param


def test_a_suffix_is_written_up_to(client: OpenAI, alone: Engine) -> None:
    filled = client.completions.create(model=NAME, prompt="the", suffix=" end", max_tokens=8, seed=3)
    expected = alone.fill("the", " end", max_tokens=8, seed=3)
    assert filled.choices[0].text == expected.middle
    fields: Any = {"model": NAME, "prompt": "the", "suffix": " end", "seed": 3, "echo": True}
    for length in (8, 120):
        expected = alone.fill("the", " end", max_tokens=length, seed=3)
        assert client.completions.create(**fields, max_tokens=length).choices[0].text == expected.text
        texts = [chunk.choices[0].text for chunk in client.completions.create(**fields, max_tokens=length, stream=True)]
        assert "".join(texts) == expected.text
    assert len(texts) == expected.usage.canvases + 2, "the prompt, each canvas's text, the suffix"
