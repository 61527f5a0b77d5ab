"""What vLLM's sampler gets from our tasks is what the engine writes: the same tokens for the same seed, whatever else
is in the batch; valid under every constraint; and one request's fault ends that request alone.

A small model in plain torch is driven by a scheduler in the manner of vLLM; the engine has the same checkpoint on its
kernels.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from redraft import Choice, GenerationError, Hole, JSONSchema, Regex, ReproducesCanvas, RequestError, Template
from redraft.api import Engine
from redraft.canvas.draft import Draft
from redraft.canvas.step import Pinned
from redraft.engine.request import Request, generate
from redraft.engine.runtime import Runtime
from redraft.layers.vocabulary_head import Embedding
from redraft.loading import load
from redraft.models import checkpoint
from redraft.models.family import PlainModel
from redraft.tasks.edit import EditRequest, edit
from redraft.tasks.fill import fill
from redraft.vllm_plugin.canvases import Canvases, Share
from redraft.vllm_plugin.carried import Unpacker, packed
from redraft.vllm_plugin.model import remote_runtime
from tests.constrain.random_schemas import RandomSchemas
from tests.engine.test_constrained import json_judge
from tests.vllm_plugin.tiny_vllm import Served, TinyVLLM, cut

VOCAB, CANVAS, CONTEXT, WINDOW = 384, 16, 256, 512
GENERATION = {"max_denoising_steps": 6, "eos_token_id": [1, 5]}
PROMPT = [2, 300, 310, 290, 281]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine(checkpoint_of: Callable[..., Any]) -> Engine:
    folder = checkpoint_of(
        vocab_size=VOCAB, canvas_length=CANVAS, context_length=CONTEXT, sliding_window=WINDOW, letters=True,
        generation=GENERATION,
    )  # fmt: skip
    return load(folder, dtype="float32")


@pytest.fixture(scope="module")
def model(engine: Engine) -> PlainModel:
    assert engine.runtime.origin is not None
    return checkpoint.read(engine.runtime.origin.checkpoint.path).load("float32")


@pytest.fixture(scope="module")
def runtime(engine: Engine, model: Any) -> Runtime:
    assert engine.runtime.origin is not None
    folder = engine.runtime.origin.checkpoint.path
    embedding = Embedding(model.embed_tokens.weight, model.config.hidden_size**0.5)
    return remote_runtime(folder, context_length=CONTEXT, canvas_length=CANVAS, embedding=embedding)


@pytest.fixture
def vllm(runtime: Runtime, model: PlainModel) -> TinyVLLM:
    return TinyVLLM(model, Canvases(runtime))


def as_carried(request: Request) -> Request:
    """What a worker has of a request."""
    return Unpacker().request(packed(request))


def served(vllm: TinyVLLM, requests: list[Request], join_every: int = 3) -> list[Served]:
    """Serve the requests, which join one after the other while others are under way."""
    found = []
    for slot, request in enumerate(requests):
        found.append(vllm.add(slot, request))
        for _ in range(join_every if vllm.running else 0):
            if vllm.running:
                vllm.step()
    vllm.finish()
    return found


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "value": {"enum": [10, 20, None]}},
    "required": ["name", "value"],
    "additionalProperties": False,
}
FREE: list[dict[str, Any]] = [
    {"seed": 7, "max_tokens": CONTEXT - len(PROMPT) - 1},
    {"seed": 1, "max_tokens": 40},
    {"seed": 2, "max_tokens": 16, "temperature": 0.5},
    {"seed": 3, "max_tokens": 33, "temperature": 0, "max_denoising_steps": 3},
    {"seed": 2**64 - 1, "max_tokens": 20, "entropy_bound": 3.0, "stopping": ReproducesCanvas(2.0)},
    {"seed": 5, "max_tokens": 30, "top_k": 5, "presence_penalty": 1.5, "logit_bias": {300: 5.0}},
    {"seed": 6, "max_tokens": 24, "min_tokens": 20, "best_of": 2},
]
CONSTRAINED: list[dict[str, Any]] = [
    {"seed": 1, "constraint": JSONSchema(SCHEMA), "max_tokens": 60},
    {"seed": 2, "constraint": Regex("[a-z]{20}(yes|no)"), "max_tokens": 40},
    {"seed": 3, "constraint": Choice(["yes", "no", "nothing at all of the kind"])},
    {
        "seed": 4,
        "constraint": Template("in {year} the {what}.", {"year": Hole(regex="[12][0-9]{3}")}),
        "max_tokens": 40,
    },
    {"seed": 5, "constraint": Regex("[0-9]{16}"), "max_tokens": 16},
    {"seed": 6, "constraint": Regex("(th|he|[0-9]){4,300}"), "max_tokens": 37, "temperature": 0},
]


@pytest.mark.parametrize("parameters", [FREE, CONSTRAINED], ids=["free", "constrained"])
def test_writes_what_the_engine_writes(engine: Engine, vllm: TinyVLLM, parameters: list[dict[str, Any]]) -> None:
    """Requests that join while others are under way, in batches of prefills, canvases and commits."""
    requests = [
        as_carried(generate(vllm.canvases.runtime, [*PROMPT, *range(280, 281 + 40 * index)][:90], **own))
        for index, own in enumerate(parameters)
    ]
    prompts = [[*PROMPT, *range(280, 281 + 40 * index)][:90] for index in range(len(parameters))]
    requests = [replace(one, prompt=tuple(prompt)) for one, prompt in zip(requests, prompts, strict=True)]
    found = served(vllm, requests)
    for one, prompt, own in zip(found, prompts, parameters, strict=True):
        wanted = engine.generate(prompt, **own)
        assert tuple(one.output) == wanted.token_ids, own
        if "constraint" in own:
            assert engine.runtime.tokenizer.decode(one.output) == wanted.text
        else:
            assert one.finish == wanted.finish_reason, own
    assert vllm.batches_of_many > 3


def test_fills_and_edits_as_the_engine_does(engine: Engine, vllm: TinyVLLM) -> None:
    """An infill and an edit are constraints and drafts, which hold here as they do there."""
    runtime = vllm.canvases.runtime
    filling = fill(runtime, "the name is ", " and the value", seed=4, max_tokens=12)
    text = "in 2026 the name is no value"
    editing = edit(runtime, text, [(3, 7)], seed=9, hole=Hole(regex="[0-9]{4}"), strength=0.5)
    assert isinstance(editing, EditRequest)
    first, second = served(vllm, [filling.request, editing.request])
    decode = engine.runtime.tokenizer.decode
    wanted = engine.fill("the name is ", " and the value", seed=4, max_tokens=12)
    assert decode(first.output) == wanted.middle + filling.shown
    edited = engine.edit(text, [(3, 7)], seed=9, hole=Hole(regex="[0-9]{4}"), strength=0.5)
    assert decode(second.output) == edited.replacements[0] + editing.canvases[0].shown


def test_an_answer_survives_preemption(engine: Engine, vllm: TinyVLLM) -> None:
    """Its task stays where it was; what vLLM lost of what was handed out is committed again."""
    parameters: dict[str, Any] = {"seed": 11, "max_tokens": 60, "constraint": Regex("[a-z]{55}")}
    request = generate(vllm.canvases.runtime, PROMPT, **parameters)
    answer = vllm.add(0, request)
    for stop, lost in ((5, 0), (9, CANVAS), (3, 0)):
        for _ in range(stop):
            vllm.step()
        assert answer.finish is None
        vllm.preempt(0)
        vllm.resume(0, min(lost, len(answer.output)))
    vllm.finish()
    assert tuple(answer.output) == engine.generate(PROMPT, **parameters).token_ids


def test_a_cut_canvas_changes_nothing(engine: Engine, vllm: TinyVLLM) -> None:
    """Whoever schedules a part of a canvas is handed out nothing, and the canvas is there the next time."""
    request = generate(vllm.canvases.runtime, PROMPT, seed=3, max_tokens=20)
    answer = vllm.add(0, request)
    logits = torch.randn(CANVAS, VOCAB)
    vllm.step()
    while answer.finish is None:
        before = vllm.canvases.slots[0].input
        (output,) = vllm.canvases.step(*cut(logits, Share(0, 0, CANVAS)))
        after = vllm.canvases.slots[0].input
        assert not output.tokens
        assert output.error is None
        assert torch.equal(before.tokens, after.tokens)
        vllm.step()
    assert tuple(answer.output) == engine.generate(PROMPT, seed=3, max_tokens=20).token_ids


def test_not_a_number_ends_one_request_alone(engine: Engine, vllm: TinyVLLM) -> None:
    """Whether its answer is constrained or not; the others do not notice."""
    runtime = vllm.canvases.runtime
    own: list[dict[str, Any]] = [
        {"seed": 1, "max_tokens": 40},
        {"seed": 2, "constraint": Regex("[a-z]{30}")},
        {"seed": 3, "max_tokens": 40},
    ]
    answers = [vllm.add(slot, generate(runtime, PROMPT, **parameters)) for slot, parameters in enumerate(own)]
    vllm.step()
    vllm.step(spoil=0)
    vllm.step(spoil=1)
    assert all(isinstance(answer.error, GenerationError) for answer in answers[:2])
    assert "not a number" in str(answers[0].error)
    vllm.finish()
    assert tuple(answers[2].output) == engine.generate(PROMPT, **own[2]).token_ids


def test_pins_survive_into_the_answer(vllm: TinyVLLM) -> None:
    """Tokens that are pinned stand in the answer where they were put, and on no later canvas."""
    tokens = torch.tensor([300 + place for place in range(CANVAS)])
    mask = torch.tensor([place % 3 == 0 for place in range(CANVAS)])
    draft = Draft(tokens, torch.ones(CANVAS, dtype=torch.float64))
    request = generate(vllm.canvases.runtime, PROMPT, seed=5, max_tokens=2 * CANVAS, ignore_eos=True, draft=draft)
    (answer,) = served(vllm, [as_carried(replace(request, pinned=Pinned(mask, tokens)))])
    first, second = answer.output[:CANVAS], answer.output[CANVAS:]
    assert [first[place] for place in range(0, CANVAS, 3)] == [300 + place for place in range(0, CANVAS, 3)]
    assert len(second) == CANVAS
    assert second[0] != 300 or second[3] != 303


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, Tensor) and not any(one.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
                                                   for own in args if isinstance(own, Tensor)):  # fmt: skip
                self.numel = max(self.numel, one.numel())
        return found


def test_logits_are_read_where_they_are(engine: Engine, model: Any) -> None:
    """Of logits [n, C, V] no copy is made, and they are not written to."""
    assert engine.runtime.origin is not None
    vocabulary, table = 3 * 4096, torch.randn(3 * 4096, 8)
    runtime = remote_runtime(
        engine.runtime.origin.checkpoint.path, context_length=CONTEXT, canvas_length=CANVAS,
        embedding=Embedding(table, 2.0),
    )  # fmt: skip
    canvases = Canvases(runtime)
    for slot in range(3):
        canvases.add(slot, generate(runtime, PROMPT, seed=slot, max_tokens=40))
    logits = torch.randn(3 * CANVAS, vocabulary)
    before = logits.clone()
    with _Largest() as made:
        canvases.step(logits, [Share(slot, slot * CANVAS, CANVAS) for slot in range(3)])
    assert torch.equal(logits, before)
    assert made.numel == CANVAS * 4096
    assert canvases.slots[0].input.self_conditioning.shape == (CANVAS, 8)


@pytest.mark.slow
def test_hundreds_of_constrained_answers_are_valid(runtime: Runtime) -> None:
    """Whatever the logits say, under random schemas, with canvases that a schema's texts spread over."""
    numbers, schemas = random.Random(18), RandomSchemas(18)
    generator = torch.Generator().manual_seed(18)
    judged = spread = 0
    while judged < 300:
        schema = schemas.draw()
        parameters: dict[str, Any] = {"constraint": JSONSchema(schema), "max_denoising_steps": 2, "seed": judged}
        try:
            request = generate(runtime, PROMPT, **parameters, temperature=numbers.choice([0, 1.0]))
        except RequestError:
            # Too large for a context of this length, or for its automaton.
            continue
        shortest = request.constraint.min_tokens
        request = as_carried(replace(request, max_tokens=min(request.max_tokens, shortest + numbers.randrange(40))))
        canvases, output = Canvases(runtime), list[int]()
        canvases.add(0, request)
        while not set(output) & set(request.ends):
            asked = canvases.slots[0].input
            logits = torch.randn(len(asked.tokens), VOCAB, generator=generator) * numbers.choice([1, 8])
            (step,) = canvases.step(logits, [Share(0, 0, len(asked.tokens))])
            assert step.error is None
            output += step.tokens
        text = runtime.tokenizer.decode(output[: next(i for i, token in enumerate(output) if token in request.ends)])
        assert json_judge(schema)(text), (schema, text)
        judged += 1
        spread += len(output) > CANVAS
    assert spread > 10
