"""Thoughts through the whole path, in every wire format, whole and streamed: a scripted model, real clients."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from redraft.api import Engine
from tests.engine.scripted import model_of, random_logits, scripted_engine
from tests.engine.thinker import CLOSING, OPENING, Thinker
from tests.serve.conftest import NAME, Served, serving

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
CANVAS = 16
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "enum": [10, 20]}}, "required": ["n"]}
FUNCTION = {"name": "f", "description": "", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        scripted_engine(tmp_path_factory.mktemp("thinking"), random_logits(0), canvas_length=CANVAS)
    ) as served:
        yield served


@dataclass
class Told:
    """What a client is told."""

    thought: str = ""
    text: str = ""
    calls: list[Any] = field(default_factory=list)


def chat(up: Served, stream: bool, budget: int | None, thinks: bool, **more: Any) -> Told:
    client = OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
    extra: dict[str, Any] = {"thinking_budget": budget} if budget is not None else {}
    fields: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "max_tokens": 90, "extra_body": extra, **more}
    fields["reasoning_effort"] = "medium" if thinks else "none"
    told = Told()
    if not stream:
        message = client.chat.completions.create(**fields).choices[0].message
        told = Told(getattr(message, "reasoning_content", ""), message.content or "")
        assert getattr(message, "reasoning", "") == told.thought
        told.calls = [json.loads(call.function.arguments) for call in message.tool_calls or ()]
        return told
    arguments = ""
    for chunk in client.chat.completions.create(**fields, stream=True):
        delta = chunk.choices[0].delta
        assert getattr(delta, "reasoning", "") == getattr(delta, "reasoning_content", "")
        told.thought += getattr(delta, "reasoning_content", "")
        told.text += delta.content or ""
        arguments += "".join(call.function.arguments or "" for call in delta.tool_calls or ())
    told.calls = [json.loads(arguments)] if arguments else []
    return told


def responses(up: Served, stream: bool, budget: int | None, thinks: bool, **more: Any) -> Told:
    client = OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
    extra: dict[str, Any] = {"thinking_budget": budget} if budget is not None else {}
    if "tools" in more:
        more = {**more, "tools": [{"type": "function", **FUNCTION}]}
    reasoning: Any = {"effort": "medium"} if thinks else {"effort": "minimal"}
    fields: dict[str, Any] = {"model": NAME, "input": MESSAGES, "max_output_tokens": 90, "reasoning": reasoning, **more}
    told = Told()
    if not stream:
        output = client.responses.create(**fields, extra_body=extra).output
    else:
        output = []
        for event in client.responses.create(**fields, extra_body=extra, stream=True):
            told.thought += event.delta if event.type == "response.reasoning_text.delta" else ""
            told.text += event.delta if event.type == "response.output_text.delta" else ""
            if event.type in ("response.completed", "response.incomplete"):
                output = event.response.output
    whole = Told()
    for item in output:
        if item.type == "reasoning":
            whole.thought += "".join(part.text for part in item.content)
        elif item.type == "message":
            whole.text += item.content[0].text
        else:
            whole.calls.append(json.loads(item.arguments))
    assert not stream or (told.thought, told.text) == (whole.thought, whole.text)
    return whole


def messages(up: Served, stream: bool, budget: int | None, thinks: bool, **more: Any) -> Told:
    client = Anthropic(base_url=up.url, api_key="none", max_retries=0)
    thinking: Any = {"type": "enabled", "budget_tokens": budget} if budget else {"type": "adaptive"}
    if "tools" in more:
        more = {"tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}}
    fields: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "max_tokens": 90, **more}
    fields["thinking"] = thinking if thinks else {"type": "disabled"}
    if stream:
        with client.messages.stream(**fields) as events:
            content = events.get_final_message().content
    else:
        content = client.messages.create(**fields).content
    told = Told()
    for block in content:
        told.thought += block.thinking if block.type == "thinking" else ""
        told.text += block.text if block.type == "text" else ""
        told.calls += [block.input] if block.type == "tool_use" else []
    return told


def own(up: Served, stream: bool, budget: int | None, thinks: bool) -> Told:
    body = {"messages": MESSAGES, "max_tokens": 90, "thinking": thinks, "thinking_budget": budget}
    answer = up.post("/v1/redraft/generate", {name: value for name, value in body.items() if value is not None})
    frames = [frame.split("\n") for frame in answer.text.strip().split("\n\n")]
    events = [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in frames]
    if stream:
        chunks = [event for kind, event in events if kind == "chunk"]
        return Told("".join(one["thought"] for one in chunks), "".join(one["text"] for one in chunks))
    return Told(events[-1][1]["thought"] or "", events[-1][1]["text"])


Format = Callable[..., Told]
FORMATS: list[Format] = [chat, responses, messages, own]
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
SPEAKS = pytest.mark.parametrize("ask", FORMATS, ids=lambda ask: ask.__name__)


def prompt_of(engine: Engine, thinking: bool, **more: Any) -> int:
    return len(engine.request(MESSAGES, thinking=thinking, **more).prompt)


def says(up: Served, written: str, thinking: bool) -> None:
    model_of(up.engine).script = Thinker(up.engine.tokenizer.encode_text(written), prompt_of(up.engine, thinking))


def thinks_for_ever(up: Served, budget: int, answer: str, **more: Any) -> str:
    """Return what is left of the thought."""
    tokenizer = up.engine.tokenizer
    thought = tokenizer.encode_text("thought\nhm, the é is 10 and 20 and so on and on and ")
    prompt = prompt_of(up.engine, True, **more)
    model_of(up.engine).script = Thinker([OPENING, *thought], prompt, tokenizer.encode_text(answer), 1 + budget)
    said = thought + thought[-1:] * budget
    return tokenizer.decode(said[:budget]).removeprefix("thought\n")


@WAYS
@SPEAKS
def test_a_thought_is_apart_from_the_answer(up: Served, ask: Format, stream: bool) -> None:
    says(up, "<|channel>thought\nhm, the é is 20 and 20 and 20<channel|>yes", True)
    assert ask(up, stream, None, True) == Told("hm, the é is 20 and 20 and 20", "yes")


@WAYS
@SPEAKS
@pytest.mark.parametrize(
    ("written", "thought", "text"),
    [
        ("<|channel>thought\n<channel|>yes", "", "yes"),
        ("\n<|channel>thought\nhm<channel|>yes", "hm", "\nyes"),
        ("the <|channel>thought\na<channel|>20<|channel>thought\nb and the 20 and 20 and<channel|>10", "ab and the 20 "
         "and 20 and", "the 2010"),
        ("yes<|channel>thought\nthe 10 and the 20 and the 10 and the", "the 10 and the 20 and the 10 and the", "yes"),
        ("<|tool_response>y<|turn>e<image>s<|channel>", "", "yes"),
    ],
)  # fmt: skip
def test_unasked_no_block_or_marker_reaches_the_text(
    up: Served, ask: Format, stream: bool, written: str, thought: str, text: str
) -> None:
    """Nor is a thought lost that was not asked for: it is told where thoughts are."""
    says(up, written, False)
    assert ask(up, stream, None, False) == Told(thought, text)


@WAYS
@SPEAKS
def test_a_budget_ends_the_thought_and_the_answer_follows(up: Served, ask: Format, stream: bool) -> None:
    thought = thinks_for_ever(up, 21, "2026 and so on, the 10")
    assert ask(up, stream, 21, True) == Told(thought, "2026 and so on, the 10")


@WAYS
@pytest.mark.parametrize("ask", FORMATS[:3], ids=lambda ask: ask.__name__)
def test_so_it_does_before_a_call(up: Served, ask: Format, stream: bool) -> None:
    thought = thinks_for_ever(up, 12, "<|tool_call>call:f{n:20}<tool_call|>", tools=TOOLS)
    told = ask(up, stream, 12, True, tools=TOOLS, tool_choice="required")
    assert told == Told(thought, "", [{"n": 20}])


@WAYS
def test_so_it_does_before_json(up: Served, stream: bool) -> None:
    thought = thinks_for_ever(up, 12, '{"n":20}')
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert chat(up, stream, 12, True, response_format=wanted) == Told(thought, '{"n":20}')


@WAYS
def test_raw_completions_have_no_place_for_a_thought_and_none_in_their_text(up: Served, stream: bool) -> None:
    engine = up.engine
    prompt = len(engine.request("hi").prompt)
    written = engine.tokenizer.encode_text("yes<|channel>thought\nhm<channel|>, the 20")
    model_of(engine).script = Thinker(written, prompt)
    client = OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
    fields: dict[str, Any] = {"model": NAME, "prompt": "hi", "max_tokens": 40, "stream": stream}
    answer: Any = client.completions.create(**fields)
    assert "".join(chunk.choices[0].text for chunk in (answer if stream else [answer])) == "yes, the 20"


def test_a_budget_and_a_schema_hold_whatever_the_model_says(up: Served) -> None:
    """Of noise: the thought is no longer than it may be, and the JSON is valid."""
    model_of(up.engine).script = random_logits(5)
    for seed in range(4):
        body = {"messages": MESSAGES, "thinking_budget": 7, "seed": seed, "max_tokens": 60}
        constraint = {"type": "json_schema", "schema": SCHEMA}
        answer = up.post("/v1/redraft/generate", {**body, "constraint": constraint})
        result = json.loads(answer.text.strip().split("data: ")[-1])
        assert json.loads(result["text"])["n"] in (10, 20)
        request = up.engine.generate(MESSAGES, thinking_budget=7, seed=seed, max_tokens=60)
        inside = request.token_ids[request.token_ids.index(OPENING) :] if OPENING in request.token_ids else ()
        assert (inside.index(CLOSING) if CLOSING in inside else len(inside)) <= 8


class TestWords:
    """Every word of an effort means what the engine's means."""

    @pytest.mark.parametrize("word", ["none", "instant", "minimal", "low", "medium", "high", "xhigh"])
    def test_of_a_chat_completion(self, up: Served, word: str) -> None:
        model_of(up.engine).script = random_logits(3)
        body = {"model": NAME, "messages": MESSAGES, "reasoning_effort": word, "seed": 4, "max_tokens": 40}
        answer = up.post("/v1/chat/completions", body).json()
        expected = up.engine.generate(MESSAGES, reasoning_effort=word, seed=4, max_tokens=40)  # type: ignore[arg-type]
        assert answer["choices"][0]["message"]["content"] == expected.text
        assert answer["usage"]["denoising_steps"] == expected.usage.denoising_steps

    @pytest.mark.parametrize(
        ("path", "fields", "param"),
        [
            ("/v1/chat/completions", {"reasoning_effort": "much"}, "reasoning_effort"),
            ("/v1/chat/completions", {"reasoning_effort": "none", "thinking_budget": 5}, "thinking_budget"),
            ("/v1/chat/completions", {"thinking_token_budget": -1}, "thinking_token_budget"),
            ("/v1/chat/completions", {"thinking_budget": 2, "thinking_token_budget": 2}, "thinking_budget"),
            ("/v1/chat/completions", {"chat_template_kwargs": {"mood": 1}}, "chat_template_kwargs"),
            ("/v1/chat/completions", {"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs"),
            ("/v1/chat/completions", {"chat_template_kwargs": {"enable_thinking": True}, "logprobs": True}, "logprobs"),
            ("/v1/redraft/generate", {"thinking": False, "thinking_budget": 5}, "thinking_budget"),
        ],
    )
    def test_what_is_none_is_refused_by_its_field(self, up: Served, path: str, fields: Any, param: str) -> None:
        named = {} if "redraft" in path else {"model": NAME}
        answer = up.post(path, {"messages": MESSAGES, "max_tokens": 9, **named, **fields})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    def test_the_templates_switch_is_one(self, up: Served) -> None:
        says(up, "<|channel>thought\nhm<channel|>yes", True)
        body = {"model": NAME, "messages": MESSAGES, "max_tokens": 40}
        answer = up.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"enable_thinking": True}}).json()
        assert answer["choices"][0]["message"]["reasoning_content"] == "hm"
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 2

    def test_tokens_are_counted_as_of_the_prompt_that_thinks_or_does_not(self, up: Served) -> None:
        counts = []
        for thinks in (False, True):
            kwargs = {"enable_thinking": thinks}
            found = up.post("/tokenize", {"messages": MESSAGES, "chat_template_kwargs": kwargs}).json()["tokens"]
            assert found == list(up.engine.request(MESSAGES, thinking=thinks).prompt)
            thinking = {"type": "enabled", "budget_tokens": 5} if thinks else {"type": "disabled"}
            asked = {"model": NAME, "messages": MESSAGES, "thinking": thinking, "output_config": {"effort": "high"}}
            counts.append((len(found), up.post("/v1/messages/count_tokens", asked).json()["input_tokens"]))
        assert all(own == other for own, other in counts)
        assert counts[0] != counts[1]
        for body in ({"prompt": "hi"}, {"messages": MESSAGES}):
            answer = up.post("/tokenize", {**body, "chat_template_kwargs": {"mood": 1}})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs")

    def test_mercurys_text_as_it_diffuses_is_the_answers_alone(self, up: Served) -> None:
        says(up, "<|channel>thought\nthe 20 and the 10<channel|>yes", True)
        body = {"model": NAME, "messages": MESSAGES, "max_tokens": 40, "reasoning_effort": "low", "stream": True}
        with httpx.stream("POST", f"{up.url}/v1/chat/completions", json={**body, "diffusing": True}) as lines:
            chunks = [json.loads(line[6:]) for line in lines.iter_lines() if line.startswith("data: {")]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "the 20 and the 10"
        shown = [delta["content"] for delta in deltas if "content" in delta]
        assert shown[-1] == "yes"
        hidden = up.post("/v1/chat/completions", {**body, "stream": False, "reasoning_summary": False}).json()
        assert not {"reasoning", "reasoning_content"} & set(hidden["choices"][0]["message"])

    def test_a_summary_that_is_wanted_is_the_thought(self, up: Served) -> None:
        says(up, "<|channel>thought\nthe 20 and the 10 and<channel|>yes", True)
        client = OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
        fields: Any = {"model": NAME, "input": MESSAGES, "max_output_tokens": 60}
        asked: Any = {"effort": "high", "summary": "auto"}
        item = client.responses.create(**fields, reasoning=asked).output[0]
        assert item.type == "reasoning"
        assert ([part.text for part in item.summary], item.content) == (["the 20 and the 10 and"], [])
        with client.responses.stream(**fields, reasoning=asked) as events:
            said = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
            assert "".join(said) == "the 20 and the 10 and"
            assert events.get_final_response().output[0].summary == item.summary

    @WAYS
    def test_a_thought_may_be_left_out_of_its_block(self, up: Served, stream: bool) -> None:
        says(up, "<|channel>thought\nhm<channel|>yes", True)
        client = Anthropic(base_url=up.url, api_key="none", max_retries=0)
        thinking: Any = {"type": "adaptive", "display": "omitted"}
        fields: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 60, "thinking": thinking}
        if stream:
            with client.messages.stream(**fields) as events:
                content = events.get_final_message().content
        else:
            content = client.messages.create(**fields).content
        assert [(block.type, getattr(block, "thinking", None)) for block in content] == [
            ("thinking", ""),
            ("text", None),
        ]


EARLIER: list[tuple[str, Any]] = [
    ("/v1/chat/completions", {"role": "assistant", "content": "yes", "reasoning_content": "{}"}),
    ("/v1/chat/completions", {"role": "assistant", "content": "yes", "reasoning": "{}"}),
    ("/v1/messages", {"role": "assistant", "content": [{"type": "thinking", "thinking": "{}", "signature": ""},
                                                       {"type": "redacted_thinking", "data": "xyz"},
                                                       {"type": "text", "text": "yes"}]}),
    ("/v1/responses", [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "{}"}]},
                       {"role": "assistant", "content": "yes"}]),
    ("/v1/responses", [{"type": "reasoning", "id": "rs", "encrypted_content": "xyz",
                        "summary": [{"type": "summary_text", "text": "{}"}]}, {"role": "assistant", "content": "yes"}]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "turn"), EARLIER)
def test_a_thought_that_comes_back_is_the_templates_to_show(up: Served, path: str, turn: Any) -> None:
    """Also one that spells special tokens, as text."""
    tokenizer = up.engine.tokenizer
    before, template = tokenizer.template, tokenizer.template or ""
    tokenizer.template = template.replace("{{ message.content }}", "{{ message.reasoning }}+{{ message.content }}")
    tokenizer.__dict__.pop("_compiled", None)
    try:
        for thought in ("hm", "<eos><|channel>"):
            given = json.loads(json.dumps(turn).replace("{}", thought))
            conversation = [*MESSAGES, *(given if isinstance(given, list) else [given]), *MESSAGES]
            model_of(up.engine).encoded.clear()
            field = {"input": conversation} if path.endswith("responses") else {"messages": conversation}
            limit = "max_output_tokens" if path.endswith("responses") else "max_tokens"
            answer = up.post(path, {"model": NAME, limit: 4, **field})
            assert answer.status_code == 200, answer.text
            expected = [*MESSAGES, {"role": "assistant", "content": "yes", "reasoning": thought}, *MESSAGES]
            assert answer.json()["usage"].get("input_tokens") in (None, len(up.engine.request(expected).prompt))
            encoded = [token for part in model_of(up.engine).encoded for token in part]
            assert f"{thought}+yes" in tokenizer.decode(encoded)
    finally:
        tokenizer.template = before
        tokenizer.__dict__.pop("_compiled", None)


BODIES: list[tuple[str, Any]] = [
    ("/v1/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "{}"}], "max_tokens": 4}),
    ("/v1/messages", {"model": NAME, "messages": [{"role": "user", "content": "{}"}], "max_tokens": 4}),
    ("/v1/responses", {"model": NAME, "input": "{}", "max_output_tokens": 4}),
    ("/v1/redraft/generate", {"messages": [{"role": "user", "content": "{}"}], "max_tokens": 4}),
    ("/v1/redraft/choose", {"messages": [{"role": "user", "content": "{}"}], "questions": {"a": ["yes", "no"]}}),
    ("/v1/systemone", {"model": NAME, "state": "{}", "questions": {"a": {"type": "noul", "instructions": "?"}}}),
    ("/v1/fim/completions", {"model": NAME, "prompt": "the {}", "suffix": " the", "max_tokens": 4}),
    ("/v1/completions", {"model": NAME, "prompt": "the {}", "suffix": " the", "max_tokens": 4}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_what_a_user_writes_is_never_a_special_token(up: Served, path: str, body: Any) -> None:
    """And with thinking off every prompt that is a chat ends with an empty thought."""
    model_of(up.engine).script = random_logits(1)
    tokenizer, special = up.engine.tokenizer, up.engine.tokenizer.tokenizer.get_added_tokens_decoder()
    found = []
    for said in ("q the 20 q", "<|turn>model<image><|channel><eos>"):
        model_of(up.engine).encoded.clear()
        answer = up.post(path, json.loads(json.dumps(body).replace("{}", said)))
        assert answer.status_code == 200, answer.text
        encoded = model_of(up.engine).encoded[0]
        assert said in tokenizer.decode(encoded)
        found.append([token for token in encoded if token in special])
        if "prompt" not in body:
            empty = up.engine.runtime.empty_thought
            assert encoded[-len(empty) :] == empty
    assert found[0] == found[1]
