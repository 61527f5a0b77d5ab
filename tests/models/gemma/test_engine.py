"""The engine on a Gemma: greedy tokens are those of ``transformers``, batches change nothing, canvases are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.models.base import GenerationDefaults
from tests.gguf_files import gemma3_gguf
from tests.models.gemma.test_model import tokens
from tests.random_gemma import random_gemma
from tests.serve.conftest import NAME, Served, serving

COUNT = 24


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Iterator[Engine]:
    with redraft.load(folders["gemma3"], dtype="float32") as engine:
        yield engine


@torch.no_grad()
def greedy(reference: Any, prompt: torch.Tensor, count: int) -> list[int]:
    """What ``transformers`` writes; ends are tokens like others."""
    found = reference.generate(
        prompt[None], max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    written: list[int] = found[0, len(prompt) :].tolist()
    return written


@pytest.mark.parametrize("kind", ["gemma3", "gemma4 dense", "gemma4 experts"])
def test_greedy_tokens_are_those_of_the_reference(folders: dict[str, Path], references: dict[str, Any], kind: str):
    """Prompts are shorter and longer than a window, and one grows over the border of a block."""
    with redraft.load(folders[kind], dtype="float32") as own:
        own.model.defaults = GenerationDefaults(end_token_ids=())
        written = set()
        for length in (1, 30, 120):
            prompt = tokens(length, seed=length)
            found = own.generate(prompt.tolist(), max_tokens=COUNT, temperature=0)
            assert list(found.token_ids) == greedy(references[kind], prompt, COUNT)
            assert (found.usage.forwards, found.usage.denoising_steps) == (COUNT, 0)
            written |= {*found.token_ids}
        assert len(written) > 2, "it says more than one thing"


def test_it_says_what_it_is(engine: Engine, folders: dict[str, Path]):
    assert repr(engine).endswith("float32 on cpu, context 512, no canvas>")
    with pytest.raises(redraft.CheckpointError, match="Gemma has no option 'window_policy'"):
        redraft.load(folders["gemma3"], window_policy="per_query")


def test_an_answer_is_the_same_alone_and_among_others(engine: Engine):
    prompts = [tokens(length, seed=length).tolist() for length in (3, 40, 130)]
    parameters: dict[str, Any] = {"max_tokens": 20, "temperature": 3.0}
    together = engine.generate_many(prompts, seeds=[1, 2, 3], **parameters)
    alone = [engine.generate(prompt, seed=seed, **parameters) for prompt, seed in zip(prompts, (1, 2, 3), strict=True)]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert engine.generate(prompts[0], seed=4, **parameters).token_ids != alone[0].token_ids


def test_a_constraint_holds_at_the_smallest_budget(engine: Engine):
    for seed in range(3):
        found = engine.generate("a number: ", constraint=redraft.Regex("[0-9]{3}-[0-9]{2}"), seed=seed, max_tokens=6)
        assert len(found.text) == 6
        assert found.text.replace("-", "").isdigit()


@pytest.mark.parametrize("mode", ["diffusion", "speculative"])
def test_a_mode_with_a_canvas_is_refused(engine: Engine, mode: Any):
    with pytest.raises(redraft.RequestError, match=f"mode '{mode}' .* it has no canvas .* use 'autoregressive'"):
        engine.generate("text", mode=mode)


@pytest.mark.parametrize(
    "given",
    [
        {"canvas_length": 8},
        {"max_denoising_steps": 4},
        {"entropy_bound": 0.1},
        {"acceptance": redraft.ConfidenceThreshold(0.9)},
        {"stopping": redraft.ReproducesCanvas()},
        {"best_of": 2},
        {"on_step": print},
    ],
)
def test_a_parameter_of_canvases_is_refused_by_name(engine: Engine, given: dict[str, Any]):
    (name,) = given
    with pytest.raises(redraft.RequestError, match=f"{name} .*mode 'autoregressive'.*; this checkpoint has no canvas"):
        engine.generate("text", **given)


def test_verbs_that_fill_a_canvas_are_refused(engine: Engine):
    verbs: dict[str, Any] = {
        "fill": lambda: engine.fill("in the ", " and on"),
        "edit": lambda: engine.edit("in the end", [(3, 6)]),
        "choose": lambda: engine.choose("yes or no", ["yes", "no"]),
        "extract": lambda: engine.extract("yes", {"type": "object", "properties": {"a": {"type": "boolean"}}}),
    }
    for verb, use in verbs.items():
        with pytest.raises(redraft.RequestError, match=f"{verb} needs a canvas, and this checkpoint has none"):
            use()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A GGUF file on a real socket."""
    folder = tmp_path_factory.mktemp("served")
    file = gemma3_gguf(folder / "model.gguf", random_gemma(folder / "model", published_layers=True))
    with redraft.load(file, dtype="bfloat16") as own, serving(own) as up:
        yield up


@pytest.mark.slow
def test_a_file_is_served_token_by_token(served: Served):
    # Here, since it takes seconds.
    import openai

    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": "the value"}]
    parameters: dict[str, Any] = {"model": NAME, "messages": messages, "max_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**parameters)
    assert whole.usage is not None
    parts = [
        event.choices[0].delta.content or "" for event in client.chat.completions.create(**parameters, stream=True)
    ]
    assert "".join(parts) == whole.choices[0].message.content
    found = served.engine.generate(messages, max_tokens=12, seed=3)
    assert (found.text, found.usage.completion_tokens) == ("".join(parts), whole.usage.completion_tokens)


def test_a_server_without_a_canvas_says_so(served: Served):
    prompt = {"model": NAME, "messages": [{"role": "user", "content": "yes"}], "max_tokens": 4}
    refused = served.post("/v1/chat/completions", {**prompt, "mode": "diffusion"})
    assert refused.status_code == 400
    assert "it has no canvas" in refused.json()["error"]["message"]
    filled = served.post("/v1/completions", {"model": NAME, "prompt": "in the ", "suffix": " end", "max_tokens": 4})
    assert filled.status_code == 400
    assert "needs a canvas" in filled.json()["error"]["message"]
    assert served.post("/v1/chat/completions", prompt).status_code == 200
