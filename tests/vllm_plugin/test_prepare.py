"""What vLLM's server is asked for becomes the engine's request, or is refused by name before any work."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from redraft import Choice, ConfidenceThreshold, JSONSchema, Regex, ReproducesCanvas, RequestError
from redraft.engine.request import generate
from redraft.engine.runtime import Runtime
from redraft.vllm_plugin.carried import Unpacker, packed
from redraft.vllm_plugin.hooks import ARCHITECTURE, CARRIED, TOOLS
from redraft.vllm_plugin.model import remote_runtime
from redraft.vllm_plugin.prepare import Wanted, prepare, structured
from redraft.vllm_plugin.register import VERSIONS, check_version
from redraft.vllm_plugin.requests import Requests, asks_for_ours, check

PROMPT = [2, 300, 310]
CANVAS, CONTEXT = 16, 128


@pytest.fixture(scope="module")
def folder(checkpoint_of: Any) -> Any:
    generation = {"max_denoising_steps": 6, "eos_token_id": [1, 5]}
    return checkpoint_of(
        vocab_size=384, canvas_length=CANVAS, context_length=256, sliding_window=512, letters=True,
        generation=generation,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runtime(folder: Any) -> Runtime:
    return remote_runtime(folder, context_length=CONTEXT, canvas_length=CANVAS)


@dataclass
class Params:
    """vLLM's ``SamplingParams``, as far as they are read."""

    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    min_tokens: int = 0
    max_tokens: int | None = 20
    logit_bias: dict[int, float] | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    structured_outputs: Any = None
    ignore_eos: bool = False
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    thinking_token_budget: int | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None

    def clone(self) -> "Params":
        return replace(self)


@dataclass
class Structured:
    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None


@pytest.fixture(scope="module")
def requests(folder: Any) -> Requests:
    model = SimpleNamespace(model=str(folder), max_model_len=CONTEXT, architectures=[ARCHITECTURE])
    return Requests(SimpleNamespace(model_config=model, diffusion_config=SimpleNamespace(canvas_length=CANVAS)))


def made(requests: Requests, params: Params, prompt: list[int] = PROMPT) -> Any:
    """What the front end hands to the engine; ``process`` is what vLLM does."""

    def process(own: Params) -> Any:
        assert own is params or own.structured_outputs is None
        own = own.clone()
        own.max_tokens = CONTEXT - len(prompt) if own.max_tokens is None else own.max_tokens
        return SimpleNamespace(sampling_params=own, prompt_token_ids=list(prompt))

    return requests.made(params, process)


def test_what_asks_for_nothing_of_ours_is_left_alone(requests: Requests) -> None:
    """vLLM's own sampler does it, as before."""
    for params in (Params(), Params(top_k=5, top_p=0.5, logprobs=3), Params(extra_args={"diffusion_read_only": 1})):
        assert not asks_for_ours(params)
        assert CARRIED not in (made(requests, params).sampling_params.extra_args or {})


def test_a_request_arrives_as_the_engine_would_make_it(requests: Requests) -> None:
    """With all that its fields, its constraint and ``vllm_xargs`` say; the caller's parameters are not changed."""
    extra = {
        "redraft_confidence": 0.7, "redraft_stopping": "reproduces", "redraft_confidence_threshold": 0.1,
        "diffusion_max_steps": 3, "redraft_best_of": 2, "mine": 1,
    }  # fmt: skip
    given = Params(seed=5, temperature=0.5, structured_outputs=Structured(regex="[a-z]{3,9}"), extra_args=extra)
    whole = made(requests, given)
    assert given.structured_outputs is not None
    assert given.extra_args == extra
    own = whole.sampling_params
    assert set(own.extra_args) == {"mine", "diffusion_max_steps", "redraft"}
    assert own.max_tokens == 21
    found = Unpacker().request(own.extra_args[CARRIED], own.seed)
    assert (found.seed, found.temperature, found.max_tokens) == (5, 0.5, 20)
    assert (found.max_denoising_steps, found.best_of) == (3, 2)
    assert found.acceptance == ConfidenceThreshold(0.7)
    assert found.stopping == ReproducesCanvas(0.1)
    assert found.constraint is not None
    assert found.constraint.min_tokens == 1


def test_each_of_several_answers_has_a_seed_of_its_own(requests: Requests) -> None:
    """vLLM counts seeds up for ``n``; without one a seed is drawn once, in the front end."""
    drawn = made(requests, Params(temperature=0.5)).sampling_params
    assert isinstance(drawn.seed, int)
    assert Unpacker().request(drawn.extra_args[CARRIED], drawn.seed + 1).seed == drawn.seed + 1


def test_what_stands_before_an_infill_or_an_edit_ends_the_prompt(requests: Requests, runtime: Runtime) -> None:
    """And what stands behind it is part of what is written."""
    extra: dict[str, Any] = {"redraft_prefix": "the name is ", "redraft_suffix": " and"}
    whole = made(requests, Params(max_tokens=None, seed=1, extra_args=extra))
    before = runtime.tokenizer.encode_text("the name is ", literal=True)
    assert whole.prompt_token_ids == [*PROMPT, *before]
    assert whole.sampling_params.max_tokens <= CANVAS
    extra = {"redraft_edit": "in 2026 the end", "redraft_spans": [3, 7], "redraft_hole": '{"regex": "[0-9]{4}"}'}
    whole = made(requests, Params(max_tokens=None, extra_args=extra))
    assert whole.prompt_token_ids == [*PROMPT, *runtime.tokenizer.encode_text("in ", literal=True)]
    found = Unpacker().request(whole.sampling_params.extra_args[CARRIED])
    assert found.draft is not None
    assert found.constraint is not None


def test_pins_are_carried(requests: Requests) -> None:
    """With the canvas that they are of."""
    canvas = list(range(300, 300 + CANVAS))
    whole = made(requests, Params(extra_args={"diffusion_seed_canvas": canvas, "diffusion_pinned": [0, 3]}))
    found = Unpacker().request(whole.sampling_params.extra_args[CARRIED])
    assert found.pinned is not None
    assert torch.equal(found.pinned.mask.nonzero()[:, 0], torch.tensor([0, 3]))
    assert found.draft is not None
    assert found.draft.tokens.tolist() == canvas


def test_a_tool_that_must_be_called_is_a_constraint(requests: Requests) -> None:
    """In the syntax that the model calls tools in."""
    tool = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}
    whole = made(requests, Params(max_tokens=60, extra_args={TOOLS: [[tool], "required"]}))
    assert TOOLS not in whole.sampling_params.extra_args
    found = Unpacker().request(whole.sampling_params.extra_args[CARRIED])
    assert found.constraint is not None
    assert found.constraint.min_tokens > 3


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (Params(seed=-1), "seed"),
        (Params(temperature=0.5, logprobs=2), "logprobs"),
        (Params(structured_outputs=Structured(grammar="root ::= 'a'")), "grammar"),
        (Params(structured_outputs=Structured(json='{"type": "objct"}')), "objct"),
        (Params(structured_outputs=Structured(regex="[a-z]{190}")), "max_tokens 20 is too small"),
        (Params(extra_args={"redraft_stepz": 3}), "redraft_stepz"),
        (Params(extra_args={"redraft_holes": "{}"}), "redraft_template"),
        (Params(extra_args={"redraft_template": "{a}", "redraft_holes": "{"}), "must be JSON"),
        (Params(extra_args={"redraft_template": "{a}", "redraft_suffix": "b"}), "exclude each other"),
        (Params(extra_args={"redraft_stopping": "never"}), "redraft_stopping"),
        (Params(extra_args={"redraft_confidence": 3}), "confidence threshold"),
        (Params(extra_args={"redraft_edit": "the end", "redraft_spans": [3]}), "redraft_spans"),
        (Params(seed=1, extra_args={"diffusion_read_only": 1}), "diffusion_read_only"),
        (Params(extra_args={"redraft_thinking": 2}), "redraft_thinking"),
    ],
)
def test_what_cannot_be_honoured_is_named(requests: Requests, params: Params, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        made(requests, params)


def test_what_neither_can_do_is_named() -> None:
    """Whoever would have to do it: prompt_logprobs end vLLM's engine otherwise."""
    for params, named in (
        (Params(prompt_logprobs=1), "prompt_logprobs"),
        (Params(bad_words=["no"]), "bad_words"),
        (Params(allowed_token_ids=[3]), "allowed_token_ids"),
    ):
        with pytest.raises(RequestError, match=named):
            check(params)


def test_another_version_is_refused_by_name() -> None:
    """Its insides may be others."""
    check_version(f"{VERSIONS[0]}+cpu")
    with pytest.raises(RequestError, match=r"0\.31\.2"):
        check_version("0.31.2")


def test_structured_outputs_are_constraints() -> None:
    """Of each kind that there is one for."""
    assert structured({"json": {"type": "null"}}) == JSONSchema({"type": "null"})
    assert structured({"json": '{"type": "null"}'}) == JSONSchema('{"type": "null"}')
    assert structured({"json_object": True}) == JSONSchema({"type": "object"})
    assert structured({"regex": "a+"}) == Regex("a+")
    assert structured({"choice": ["a", "b"]}) == Choice(["a", "b"])


def test_a_request_comes_through_as_it_was(runtime: Runtime) -> None:
    """But for the prompt, which vLLM encodes; the same constraint becomes the same object."""
    request = generate(
        runtime, PROMPT, seed=2**64 - 1, constraint=Regex("(yes|no){2,4}"), stop=["maybe"], top_k=7,
        logit_bias={300: 1.5}, temperature=0.25, canvas_length=8,
    )  # fmt: skip
    unpacker, given = Unpacker(), packed(request)
    found, again = unpacker.request(given), unpacker.request(given)
    assert found.constraint is again.constraint
    alike: dict[str, Any] = {
        "prompt": request.prompt,
        "constraint": request.constraint,
        "constraint_source": request.constraint_source,
    }
    assert replace(found, **alike) == request
    assert len(found.prompt) == len(PROMPT)


def test_a_rule_of_somebody_else_stays_here(runtime: Runtime) -> None:
    """What is code cannot be taken to another process."""

    class Never:
        memory = 0

        def finished(self, view: Any) -> Any:
            return view.entropy.sum(-1) < 0

    request = generate(runtime, PROMPT, seed=1, stopping=Never())
    with pytest.raises(RequestError, match="Never"):
        packed(request)
    assert packed(prepare(runtime, PROMPT, Wanted({"seed": 1})))["seed"] == 1
