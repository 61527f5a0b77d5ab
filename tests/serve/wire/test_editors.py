"""What editors send to Mercury and Codestral; LiteLLM is the client where it can be."""

import json
import threading
from typing import Any

import httpx

from redraft.api import Engine
from redraft.constrain.compiler import Compiler
from tests.serve.conftest import NAME, Served, serving

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


def streamed(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


def with_message(content: str) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "seed": 1}


def test_the_middle_stands_where_either_client_looks(served: Served, alone: Engine) -> None:
    middle = alone.fill("the", " end", max_tokens=8, seed=3).middle
    answer = served.post("/v1/fim/completions", FIM).json()
    assert answer["choices"][0]["text"] == middle
    assert answer["choices"][0]["message"]["content"] == middle
    chunks = sse(served.post("/v1/fim/completions", {**FIM, "stream": True}))
    for chunk in chunks:
        assert chunk["choices"][0]["text"] == chunk["choices"][0]["delta"]["content"]
    assert streamed(chunks) == middle


def test_a_long_middle_is_streamed_canvas_by_canvas(served: Served) -> None:
    for stop in ([], ["e"], ["\ufffd", "nd"]):
        body = {**FIM, "max_tokens": 120, "stop": stop}
        whole = served.post("/v1/fim/completions", body).json()["choices"][0]
        chunks = sse(served.post("/v1/fim/completions", {**body, "stream": True}))
        assert streamed(chunks) == whole["text"]
        ends = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert ends == [None] * (len(chunks) - 1) + [whole["finish_reason"]]
        if not stop:
            assert len(chunks) == whole_canvases(served, body) + 1


def whole_canvases(served: Served, body: dict[str, Any]) -> int:
    count: int = served.post("/v1/fim/completions", body).json()["usage"]["canvases"]
    assert count > 1
    return count


def test_nothing_is_compiled_on_the_thread_that_runs_the_model(engine: Engine, monkeypatch: Any) -> None:
    """Others' steps would have to wait for it."""
    where: list[str] = []
    compiled = Compiler._build

    def noted(self: Compiler, *given: Any) -> Any:
        where.append(threading.current_thread().name)
        return compiled(self, *given)

    monkeypatch.setattr(Compiler, "_build", noted)
    # Nothing is kept, as if there were many others.
    monkeypatch.setattr("redraft.constrain.compiler._KEPT", 0)
    with serving(engine) as up:
        bodies = {"fim": FIM, "edit": with_message(EDIT), "apply": {**with_message(APPLY), "max_tokens": 20}}
        for kind, body in bodies.items():
            assert up.post(f"/v1/{kind}/completions", body).status_code == 200
        gap = {"fill": {"prefix": "the", "suffix": " end"}, "max_tokens": 8}
        assert up.post("/v1/redraft/generate", gap).status_code == 200
    assert where
    assert "redraft-engine" not in where


def test_a_middle_ends_before_a_stop_string(served: Served, alone: Engine) -> None:
    filled = (alone.fill("the", " end", max_tokens=20, seed=seed) for seed in range(20))
    result = next(one for one in filled if len(one.middle) > 2)
    middle = result.middle
    body = {**FIM, "seed": result.seed, "max_tokens": 20, "stop": [middle[1]]}
    answer = served.post("/v1/fim/completions", body).json()
    assert answer["choices"][0]["text"] == middle[: middle.index(middle[1])]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_litellm_fills_as_with_mercury_and_codestral(served: Served, alone: Engine) -> None:
    # Here, since it takes seconds to import, in each process that tests are shared out among.
    import litellm

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
    body = with_message(EDIT)
    answer = served.post("/v1/edit/completions", body)
    assert answer.status_code == 200, answer.text
    region = answer.json()["choices"][0]["message"]["content"]
    assert "# top" not in region
    assert "# end" not in region
    assert streamed(sse(served.post("/v1/edit/completions", {**body, "stream": True}))) == region
    long = {**body, "max_tokens": 120}
    chunks = sse(served.post("/v1/edit/completions", {**long, "stream": True}))
    assert len(chunks) > 2
    assert streamed(chunks) == served.post("/v1/edit/completions", long).json()["choices"][0]["text"]


def test_apply_writes_the_whole(served: Served) -> None:
    body = {**with_message(APPLY), "max_tokens": 100}
    answer = served.post("/v1/apply/completions", body)
    assert answer.status_code == 200, answer.text
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, cost = sse(served.post("/v1/apply/completions", {**body, **options}))
    assert streamed(chunks) == answer.json()["choices"][0]["message"]["content"]
    assert len(chunks) > 2
    assert cost["usage"]["canvases"] == answer.json()["usage"]["canvases"]


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
