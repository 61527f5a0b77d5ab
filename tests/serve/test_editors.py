"""What editors send to Mercury and Codestral; LiteLLM is the client where it can be."""

import json
from typing import Any

import httpx
import litellm

from redraft.engine.engine import Engine
from tests.serve.conftest import NAME, Served

FIM = {"model": NAME, "prompt": "the", "suffix": " end", "max_tokens": 8, "seed": 3}
EDIT = (
    "<|recently_viewed_code_snippets|>\n<|/recently_viewed_code_snippets|>\n\n<|current_file_content|>\n"
    "current_file_path: a.py\n# top\n<|code_to_edit|>\nx = 1<|cursor|>\n<|/code_to_edit|>\n# end\n"
    "<|/current_file_content|>\n\n<|edit_diff_history|>\n<|/edit_diff_history|>"
)
APPLY = "<|original_code|>\nx = 1\n<|/original_code|>\n\n<|update_snippet|>\nx = 2\n<|/update_snippet|>"


def sse(response: httpx.Response) -> list[Any]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_middle_stands_where_either_client_looks(served: Served, alone: Engine) -> None:
    middle = alone.fill("the", " end", max_tokens=8, seed=3).middle
    answer = served.post("/v1/fim/completions", FIM).json()
    assert answer["choices"][0]["text"] == middle
    assert answer["choices"][0]["message"]["content"] == middle
    (chunk,) = sse(served.post("/v1/fim/completions", {**FIM, "stream": True}))
    assert chunk["choices"][0]["text"] == chunk["choices"][0]["delta"]["content"] == middle


def test_a_middle_ends_before_a_stop_string(served: Served, alone: Engine) -> None:
    filled = (alone.fill("the", " end", max_tokens=20, seed=seed) for seed in range(20))
    result = next(one for one in filled if len(one.middle) > 2)
    middle = result.middle
    body = {**FIM, "seed": result.seed, "max_tokens": 20, "stop": [middle[1]]}
    answer = served.post("/v1/fim/completions", body).json()
    assert answer["choices"][0]["text"] == middle[: middle.index(middle[1])]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_litellm_fills_as_with_mercury_and_codestral(served: Served, alone: Engine) -> None:
    mercury = litellm.text_completion(
        model=f"text-completion-inception/{NAME}", prompt="the", suffix=" end", max_tokens=8,
        api_base=f"{served.url}/v1", api_key="none",
    )  # fmt: skip
    assert isinstance(mercury.choices[0].text, str)
    codestral = litellm.text_completion(
        model=f"text-completion-codestral/{NAME}", prompt="the", suffix=" end", max_tokens=8, seed=3,
        api_base=f"{served.url}/v1/fim/completions", api_key="none",
    )  # fmt: skip
    assert codestral.choices[0].text == alone.fill("the", " end", max_tokens=8, seed=3).middle


def test_an_edit_says_what_stands_in_the_region(served: Served) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": EDIT}], "seed": 1}
    answer = served.post("/v1/edit/completions", body)
    assert answer.status_code == 200, answer.text
    region = answer.json()["choices"][0]["message"]["content"]
    assert "# top" not in region
    assert "# end" not in region
    (chunk,) = sse(served.post("/v1/edit/completions", {**body, "stream": True}))
    assert chunk["choices"][0]["delta"]["content"] == region


def test_apply_writes_the_whole(served: Served) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": APPLY}], "seed": 1, "max_tokens": 30}
    answer = served.post("/v1/apply/completions", body)
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)


def test_messages_without_their_marks_are_refused(served: Served) -> None:
    for path in ("edit", "apply"):
        body = {"model": NAME, "messages": [{"role": "user", "content": "no marks"}]}
        answer = served.post(f"/v1/{path}/completions", body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "messages"


def test_diffusing_shows_the_whole_text_with_every_step(served: Served) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "seed": 2, "max_tokens": 90}
    whole = served.post("/v1/chat/completions", body).json()
    chunks = sse(served.post("/v1/chat/completions", {**body, "stream": True, "diffusing": True}))
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    texts = [text for text in texts if text is not None]
    # One for each denoising step, an empty one before them, and the finished text after them.
    assert len(texts) == whole["usage"]["denoising_steps"] + 2
    assert texts[-1] == texts[-2] == whole["choices"][0]["message"]["content"]
    assert len(set(texts)) > 2
