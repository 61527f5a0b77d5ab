"""Every verb on a device that is not the CPU: no two devices are mixed, nothing is float64, the answers are those of
torch on the CPU, and the host waits once a step, more only for what asks for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft import Candidate, JSONSchema
from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.runtime import advance, start
from redraft.engine.task import Progress
from redraft.layers import vocabulary_head
from redraft.models import checkpoint
from redraft.models.tokenizer import ChatTokenizer
from tests.gpu.pretend_device import NAME, PretendDevice
from tests.models.llama_diffusion.conftest import CONFIG
from tests.models.llama_diffusion.conftest import write as write_masks
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint
from tests.random_gemma import random_gemma

pytestmark = pytest.mark.gpu

STEPS = 3
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}
PROMPT = "in the end the one and the other is on and in an end of it"
MESSAGES = [{"role": "user", "content": PROMPT}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
Ask = Callable[[Engine], Any]


class Both:
    """One model twice: on the CPU, in plain torch, and on the pretend device."""

    def __init__(self, folder: Path, *, drafts: bool = False) -> None:
        """``drafts``: it drafts for itself, as another model would."""
        self._drafts = drafts
        self.device = PretendDevice()
        self._found = checkpoint.read(folder)
        self._tokenizer = ChatTokenizer.from_checkpoint(folder)
        self.plain = self._engine("cpu")
        with self.device.active():
            self.pretend = self._engine(NAME)

    def _engine(self, device: str) -> Engine:
        draft = Engine(self._found.load("float32", {}).to(device), self._tokenizer) if self._drafts else None
        return Engine(self._found.load("float32", {}).to(device), self._tokenizer, prefill_chunk=16, draft=draft)

    def ask(self, ask: Ask) -> Any:
        """Return what is answered, after it is the same on both."""
        expected = ask(self.plain)
        with self.device.active():
            self.device.forget()
            found = ask(self.pretend)
        assert _shown(found) == _shown(expected)
        return found

    @property
    def reads(self) -> int:
        """Times the host waited in what was asked last."""
        return sum(self.device.reads.values())


def _shown(answer: Any) -> object:
    for name in ("token_ids", "text", "value"):
        if hasattr(answer, name):
            return getattr(answer, name)
    return answer


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with pytest.MonkeyPatch.context() as patch:
        # Several tiles of a small vocabulary, the last one shorter, and of no whole number of groups.
        patch.setattr(vocabulary_head, "DEVICE_TILE", 100)
        folder = random_checkpoint(
            tmp_path_factory.mktemp("model"), vocab_size=LETTERS_SIZE, letters=True, canvas_length=16,
            layer_types=("sliding_attention", "full_attention"), generation={"max_denoising_steps": STEPS},
        )  # fmt: skip
        yield Both(folder)


@pytest.mark.parametrize("temperature", [None, 0.0])
def test_a_step_of_plain_generation_waits_once(both: Both, temperature: float | None) -> None:
    more: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    answer = both.ask(lambda engine: engine.generate(PROMPT, max_tokens=32, seed=1, **more))
    assert answer.usage.canvases == 2
    # One a step, and at each canvas's end one for its tokens.
    assert both.reads == answer.usage.denoising_steps + answer.usage.canvases
    assert {line.partition(":")[0] for line in both.device.reads} == {"engine/runtime.py", "canvas/host.py"}


def test_requests_of_one_batch_are_read_together(both: Both) -> None:
    def together(engine: Engine) -> list[object]:
        runtime = engine.runtime
        asked: list[tuple[str, dict[str, Any]]] = [(PROMPT, {}), ("on", {"temperature": 0.0}), ("other", {"top_k": 5})]
        tasks = [
            Progress(Generate(runtime, engine.request(text, max_tokens=16, seed=seed, **more)).task())
            for seed, (text, more) in enumerate(asked)
        ]
        for task in tasks:
            start(task)
        while alive := [task for task in tasks if not task.ended]:
            advance(runtime, alive)
        return [task.value.token_ids for task in tasks]

    both.ask(together)
    # The prompts' chunks are encoded one after the other: so canvases begin at steps of their own, and share those
    # that follow. Beside those only filters that ask what stands on a canvas read, and each canvas's end.
    assert both.reads <= 4 * STEPS + 6


CASES: dict[str, tuple[Ask, int]] = {
    # What is asked, and how often the host may wait in a step.
    "penalties and filters": (
        lambda engine: engine.generate(
            PROMPT, max_tokens=16, seed=2, top_k=20, top_p=0.9, min_p=1e-3, presence_penalty=0.5, logit_bias={70: 2.0}
        ),
        2,
    ),
    "constraint, sampled": (
        lambda engine: engine.generate(PROMPT, max_tokens=32, seed=3, constraint=JSONSchema(SCHEMA)),
        4,
    ),
    "constraint, greedy": (
        lambda engine: engine.generate(PROMPT, max_tokens=32, seed=3, temperature=0.0, constraint=JSONSchema(SCHEMA)),
        4,
    ),
    "constraint and filters": (
        lambda engine: engine.generate(
            PROMPT, max_tokens=32, seed=4, top_k=50, repetition_penalty=1.1, constraint=JSONSchema(SCHEMA)
        ),
        5,
    ),
    "fill": (lambda engine: engine.fill("in the", " end", max_tokens=8, seed=5), 4),
    "edit": (lambda engine: engine.edit("the other is on", [(4, 9)], seed=5), 4),
    "choose": (lambda engine: engine.choose(PROMPT, ["yes", "no"], seed=6).choice, 4),
    "extract as text": (lambda engine: engine.extract("yes it is on", SCHEMA, layout="text", seed=7), 6),
    "extract slots": (lambda engine: engine.extract("yes it is on", SCHEMA, layout="slots", seed=7), 6),
    "steps are watched": (lambda engine: engine.generate(PROMPT, max_tokens=16, seed=8, on_step=lambda step: None), 3),
    "causal log probabilities": (
        lambda engine: engine.generate(PROMPT, max_tokens=16, seed=9, causal_logprobs=True, top_logprobs=2),
        3,
    ),
    "verifier": (
        lambda engine: engine.generate(PROMPT, max_tokens=16, seed=10, verifier=_odd, verify_rounds=1),
        3,
    ),
    "thinking": (lambda engine: engine.generate(MESSAGES, max_tokens=48, seed=11, thinking_budget=4), 3),
    "tools": (
        lambda engine: engine.generate(MESSAGES, max_tokens=48, seed=11, tools=TOOLS, tool_choice="required"),
        4,
    ),
    "deadline": (lambda engine: _late(engine), 6),
    "best of": (lambda engine: engine.generate(PROMPT, max_tokens=16, seed=11, best_of=2), 3),
    "autoregressive": (lambda engine: engine.generate(PROMPT, max_tokens=4, seed=12, mode="autoregressive"), 1),
    "autoregressive, constraint": (
        lambda engine: engine.generate(
            PROMPT, max_tokens=32, seed=12, mode="autoregressive", constraint=JSONSchema(SCHEMA)
        ),
        4,
    ),
    "speculative": (lambda engine: engine.generate(PROMPT, max_tokens=4, seed=13, mode="speculative"), 2),
}


def _late(engine: Engine) -> Any:
    """An answer whose deadline comes after as many looks at the clock on any machine."""
    ticks, kept = count(), engine.runtime.clock
    engine.runtime.clock = lambda: float(next(ticks))
    try:
        return engine.generate(PROMPT, max_tokens=32, seed=11, deadline_ms=6000.0)
    finally:
        engine.runtime.clock = kept


def _odd(candidate: Candidate) -> list[int]:
    return [position for position, token in enumerate(candidate.token_ids) if token % 2]


@pytest.mark.parametrize("case", CASES)
def test_a_request_gives_what_the_cpu_gives(both: Both, case: str) -> None:
    ask, a_step = CASES[case]
    answer = both.ask(ask)
    usage = getattr(answer, "usage", None)
    if usage is not None:
        assert both.reads <= a_step * max(1, usage.forwards) + 3


def test_scores_are_those_of_the_cpu(both: Both) -> None:
    expected = both.plain.score(PROMPT, " and on").log_likelihood
    with both.device.active():
        found = both.pretend.score(PROMPT, " and on").log_likelihood
    assert found == pytest.approx(expected, abs=1e-4)


def test_chunks_are_handed_out_as_they_come(both: Both) -> None:
    both.ask(lambda engine: [chunk.text for chunk in engine.stream(PROMPT, max_tokens=32, seed=14)])


def test_it_refuses_what_a_gpu_would(both: Both) -> None:
    with both.device.active():
        there = torch.arange(3, device=NAME)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.arange(3)
        with pytest.raises(RuntimeError, match="float64"):
            there.double()
        both.device.forget()
        assert bool((there > 1).any())
        assert there[there > 1].tolist() == [2]
        assert both.reads == 3


def test_no_layer_waits(both: Both) -> None:
    """A forward and a readout by themselves: whatever the host must know is asked for afterwards, in one read."""
    both.ask(lambda engine: engine.generate(PROMPT, max_tokens=16, seed=15))
    assert not [line for line in both.device.reads if line.startswith(("layers/", "models/"))]


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Both:
    config = replace(CONFIG, num_hidden_layers=1, canvas_length=8)
    return Both(write_masks(tmp_path_factory.mktemp("masks"), config))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(random_gemma(tmp_path_factory.mktemp("gemma"), "gemma4 experts"), drafts=True)


class TestOtherFamilies:
    """A model of masks, and one without a canvas."""

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_a_step_of_masks_waits_once(self, masks: Both, temperature: float) -> None:
        answer = masks.ask(
            lambda engine: engine.generate(
                PROMPT, max_tokens=8, seed=1, temperature=temperature, max_denoising_steps=STEPS
            )
        )
        assert masks.reads == answer.usage.denoising_steps + answer.usage.canvases

    def test_masks_under_a_constraint(self, masks: Both) -> None:
        masks.ask(
            lambda engine: engine.generate(
                PROMPT, max_tokens=24, seed=2, constraint=JSONSchema(SCHEMA), max_denoising_steps=STEPS
            )
        )

    @pytest.mark.parametrize("mode", ["autoregressive", "speculative"])
    def test_a_model_without_a_canvas(self, gemma: Both, mode: Any) -> None:
        answer = gemma.ask(lambda engine: engine.generate(PROMPT, max_tokens=3, seed=3, mode=mode))
        if mode == "autoregressive":
            assert gemma.reads == answer.usage.forwards
