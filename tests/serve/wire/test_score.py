"""Scores over HTTP: the own route, and the prompts' log-probabilities as OpenAI's clients and lm-eval read them."""

import math
import re

import httpx
import pytest
from openai import OpenAI

from redraft.serve.wire.score import ScoreBody
from tests.prepared import ROOT
from tests.random_checkpoint import END_TOKEN_IDS
from tests.serve.conftest import NAME, Served

TOKENS = [2, 30, 31, 40, 33, 50, 34]


def test_the_own_route_says_what_python_says(served: Served) -> None:
    expected = served.engine.score("hello", " there", top_logprobs=2)
    body = {"prompt": "hello", "text": " there", "top_logprobs": 2}
    found = served.post("/v1/redraft/score", body).json()
    assert found["log_likelihood"] == pytest.approx(expected.log_likelihood, abs=1e-9)
    assert [one["id"] for one in found["tokens"]] == list(expected.token_ids)
    assert [one["logprob"] for one in found["tokens"]] == pytest.approx(list(expected.token_logprobs), abs=1e-9)
    assert [one["greedy"] for one in found["tokens"]] == list(expected.greedy)
    assert [len(one["top_logprobs"]) for one in found["tokens"]] == [2] * len(expected.token_ids)
    assert (found["bound"], found["usage"]["completion_tokens"]) == (None, len(expected.token_ids))
    chat = [{"role": "user", "content": "hi"}]
    by_ids = served.engine.score(list(served.engine.runtime.tokenize(chat)), [30, 31])
    found = served.post("/v1/redraft/score", {"messages": chat, "text": [30, 31]}).json()
    assert found["log_likelihood"] == pytest.approx(by_ids.log_likelihood, abs=1e-9)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"prompt": "th", "text": "e"}, "prompt", "make the token 'the' together"),
        ({"prompt": "hi"}, "text", "Field required"),
        ({"prompt": "hi", "text": ""}, "text", "text is empty"),
        ({"text": "hi"}, "prompt", "exactly one of prompt and messages"),
        ({"prompt": "hi", "text": "x", "bound": "monte_carlo"}, "bound", "whose noise is a mask"),
        ({"prompt": "hi", "text": "x", "samples": 3}, "samples", "is for bound='monte_carlo'"),
        ({"prompt": "hi", "text": [10**9]}, "text", "ids must be whole numbers"),
        ({"prompt": "hi", "text": [4] * 2000}, "prompt", "the context holds 1024"),
    ],
)
def test_what_cannot_be_scored_is_named(served: Served, body: dict, param: str, message: str) -> None:
    refused = served.post("/v1/redraft/score", body)
    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == param
    assert served.idle


class TestEcho:
    def test_openais_client_reads_a_prompts_log_probabilities(self, served: Served) -> None:
        client = OpenAI(base_url=f"{served.url}/v1", api_key="none")
        found = client.completions.create(
            model=NAME, prompt="hello there", echo=True, logprobs=2, max_tokens=0, temperature=0
        )
        (choice,) = found.choices
        tokens = served.engine.tokenizer.encode("hello there")
        expected = served.engine.score(tokens[:1], tokens[1:], top_logprobs=2)
        assert choice.text == "hello there"
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(list(expected.token_logprobs), abs=1e-9)
        # The token that begins every text stands nowhere in it.
        shown = choice.logprobs.tokens or []
        assert "".join(shown[1:]) == "hello there"
        offsets = [0, *(sum(map(len, shown[1:at])) for at in range(1, len(shown)))]
        assert choice.logprobs.text_offset == offsets
        assert (found.usage and found.usage.prompt_tokens, found.usage and found.usage.completion_tokens) == (
            len(tokens),
            0,
        )

    def test_as_lm_eval_asks_one_token_more_comes_and_greedy_ones_are_the_likeliest_exactly(
        self, served: Served
    ) -> None:
        prompts = [TOKENS, TOKENS[:3]]
        body = {"model": NAME, "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
                "echo": True}  # fmt: skip
        choices = served.post("/v1/completions", body).json()["choices"]
        for tokens, choice in zip(prompts, choices, strict=True):
            logprobs = choice["logprobs"]
            assert len(logprobs["tokens"]) == len(tokens) + 1
            expected = served.engine.score(tokens[:1], tokens[1:])
            assert logprobs["token_logprobs"][1:-1] == pytest.approx(list(expected.token_logprobs), abs=1e-9)
            greedy = [
                own == max(top.values())
                for own, top in zip(logprobs["token_logprobs"][1:-1], logprobs["top_logprobs"][1:-1], strict=True)
            ]
            assert greedy == list(expected.greedy)
            # Greedily the one token is the likeliest.
            assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values())
            assert choice["text"].startswith(served.engine.tokenizer.decode_all(tokens))
        assert all(math.isfinite(value) for one in choices for value in one["logprobs"]["token_logprobs"][1:])

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"max_tokens": 2}, "max_tokens"),
            ({"max_tokens": None}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"stream": True}, "stream"),
            ({"stop": "a"}, "stop"),
            ({"top_p": 0.5}, "top_p"),
            ({"logprobs": None}, "max_tokens"),
            ({"echo": False}, "max_tokens"),
        ],
    )
    def test_what_it_has_no_room_for_is_named(self, served: Served, more: dict, param: str) -> None:
        body = {"model": NAME, "prompt": "hi", "max_tokens": 0, "logprobs": 1, "echo": True, **more}
        refused = served.post("/v1/completions", body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)

    def test_defaults_sent_explicitly_ask_for_nothing(self, served: Served) -> None:
        body = {"model": NAME, "prompt": "hi", "max_tokens": 0, "logprobs": 0, "echo": True, "top_p": 1.0, "n": 1}
        found = served.post("/v1/completions", {**body, "stop": [], "presence_penalty": 0, "stream": False})
        assert found.status_code == 200, found.text


def test_a_client_without_a_tokenizer_asks_for_the_special_tokens_and_the_template(served: Served) -> None:
    info = httpx.get(f"{served.url}/tokenizer_info", timeout=600).json()
    tokenizer = served.engine.tokenizer
    assert info["eos_token"] == tokenizer.special.get("eos_token", tokenizer.piece(END_TOKEN_IDS[0]))
    assert info["chat_template"] == tokenizer.template
    encoded = served.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False}).json()
    assert encoded["tokens"] == [tokenizer.token_id(info["eos_token"])]


def test_the_page_names_every_field_of_the_route() -> None:
    page = (ROOT / "docs" / "score.md").read_text().split("`POST /v1/redraft/score` takes:")[1].split("\n\n")[1]
    assert set(re.findall(r"`(\w+)`", page)) == set(ScoreBody.model_fields)
