"""Deadlines, qualities and a recipe on the server, by a clock that counts the scheduler's forwards."""

import pytest

from redraft.measure.tune import Recipe, Setting
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, serving

TEXT = {"type": "string", "minLength": 400, "maxLength": 410}
LONG = {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}


@pytest.fixture
def ticking(served: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    # A forward takes a little more than 10 ms, so that no rounding decides whether two of them reach 20.
    monkeypatch.setattr(served.engine.runtime, "clock", lambda: served.server.scheduler.load.forwards * 0.01001)
    return served


def test_the_best_that_there_is_then_is_told_as_such_by_every_format(ticking: Served) -> None:
    asked = {"model": NAME, "max_tokens": 200, "seed": 1, "ignore_eos": True}
    chat = {**asked, "messages": [{"role": "user", "content": "hi"}]}
    whole = ticking.post("/v1/completions", {**asked, "prompt": "hi", "max_tokens": 96}).json()["choices"][0]
    assert "deadline_reached" not in whole
    late = ticking.post("/v1/completions", {**asked, "prompt": "hi", "deadline_ms": 20}).json()["choices"][0]
    assert (late["deadline_reached"], late["finish_reason"]) == (True, "length")
    said = ticking.post("/v1/chat/completions", {**chat, "deadline_ms": 20}).json()
    assert said["choices"][0]["deadline_reached"]
    assert said["usage"]["denoising_steps"] <= 3
    responses = ticking.post(
        "/v1/responses", {"model": NAME, "input": "hi", "max_output_tokens": 200, "ignore_eos": True, "deadline_ms": 20}
    )
    assert responses.json()["deadline_reached"]
    told = ticking.post("/v1/redraft/generate", {"prompt": "hi", "ignore_eos": True, "deadline_ms": 20}).text
    assert '"deadline_reached":true' in told


FIM = {"model": NAME, "prompt": "the", "suffix": " end", "max_tokens": 90, "seed": 1}
REGION = "<|current_file_content|>\nx = <|code_to_edit|>1<|/code_to_edit|>\n<|/current_file_content|>"
ORIGINAL = "<|original_code|>\nx = 1\n<|/original_code|>\n<|update_snippet|>\nx = 2\n<|/update_snippet|>"


def test_what_is_written_into_a_text_keeps_to_it_on_every_route(ticking: Served) -> None:
    """The text around stays as it was, whatever was cut."""
    for route in ("/v1/fim/completions", "/v1/completions"):
        whole = ticking.post(route, FIM).json()
        assert "deadline_reached" not in whole["choices"][0]
        late = ticking.post(route, {**FIM, "deadline_ms": 20}).json()
        assert late["choices"][0]["deadline_reached"], route
        assert late["usage"]["denoising_steps"] < whole["usage"]["denoising_steps"]
        fast = ticking.post(route, {**FIM, "quality": "fast", "mode": "diffusion"}).json()
        assert fast["usage"]["denoising_steps"] < whole["usage"]["denoising_steps"]
        refused = ticking.post(route, {**FIM, "quality": "exact"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "quality")
        assert "fill writes on canvases alone" in refused.json()["error"]["message"]
        assert ticking.post(route, {**FIM, "mode": "autoregressive"}).json()["error"]["param"] == "mode"
    gap = {"fill": {"prefix": "the", "suffix": " end"}, "max_tokens": 90, "seed": 1, "deadline_ms": 20}
    told = ticking.post("/v1/redraft/generate", {**gap, "mode": "diffusion"}).text
    assert '"deadline_reached":true' in told
    for route, content in (("/v1/edit/completions", REGION), ("/v1/apply/completions", ORIGINAL)):
        body = {"model": NAME, "messages": [{"role": "user", "content": content}], "seed": 1, "max_tokens": 40}
        late = ticking.post(route, {**body, "deadline_ms": 10}).json()
        assert late["choices"][0]["deadline_reached"], route
        assert late["usage"]["denoising_steps"] < ticking.post(route, body).json()["usage"]["denoising_steps"]
        assert ticking.post(route, {**body, "quality": "exact"}).json()["error"]["param"] == "quality"
        assert ticking.post(route, {**body, "deadline_ms": 0}).status_code == 400
    assert ticking.idle


def test_a_decision_is_read_as_it_stands_then(ticking: Served) -> None:
    body = {"prompt": "hi", "questions": {"a": ["yes", "no"]}, "max_denoising_steps": 8, "seed": 1}
    late = ticking.post("/v1/redraft/choose", {**body, "deadline_ms": 20}).json()
    assert late["deadline_reached"]
    assert late["usage"]["denoising_steps"] <= 3
    assert sum(late["answers"]["a"]["probabilities"].values()) == pytest.approx(1)
    assert "deadline_reached" not in ticking.post("/v1/redraft/choose", body).json()


def test_what_cannot_be_whole_by_then_says_what_it_needs(ticking: Served) -> None:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": LONG}},
        "deadline_ms": 10,
    }
    refused = ticking.post("/v1/chat/completions", body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (422, "deadline_exceeded", "deadline_ms")
    assert "tokens more at least" in error["message"]
    for wrong in ({"deadline_ms": 0}, {"deadline_ms": "soon"}, {"quality": "best"}):
        assert ticking.post("/v1/chat/completions", {**body, **wrong}).status_code == 400
    assert ticking.idle


def test_a_recipe_is_for_requests_that_do_not_name_their_settings(served: Served) -> None:
    recipe = Recipe("tiny", Setting("diffusion", 1, entropy_bound=0.0))
    body = {"model": NAME, "prompt": "hi", "max_tokens": 40, "seed": 1}
    with serving(served.engine, ServerSettings(NAME, recipe=recipe)) as up:
        by_recipe = up.post("/v1/completions", body).json()
        assert by_recipe["usage"]["denoising_steps"] == 1
        # The checkpoint's own limit is 3 steps, of which "fast" takes half as many.
        assert up.post("/v1/completions", {**body, "quality": "balanced"}).json()["usage"]["denoising_steps"] > 1
        filled = up.post("/v1/completions", {**body, "suffix": " there"})
        assert filled.json()["usage"]["denoising_steps"] == 1
        edited = {"model": NAME, "messages": [{"role": "user", "content": REGION}], "seed": 1}
        assert up.post("/v1/edit/completions", edited).json()["usage"]["denoising_steps"] == 1
