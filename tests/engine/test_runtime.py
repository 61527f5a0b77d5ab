"""One loop over batches: what fails is one request's, and what the host has to know is read once for all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft import GenerationError, Regex, Result, StepEvent
from redraft.api import Engine
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.engine.generation import Generate
from redraft.engine.runtime import Runtime, advance, run, start
from redraft.engine.task import Forward, HostRead, Progress, Task
from redraft.models.base import Span
from tests.engine.scripted import model_of, random_logits, scripted_engine

PROMPTS = [[2, 30, 31], [2, 40], [2, 50, 51, 52]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return scripted_engine(tmp_path, random_logits(0), canvas_length=8)


def begun(
    engine: Engine, prompt: Sequence[int], seen: list[StepEvent] | None = None, **parameters: Any
) -> Progress[Any]:
    request = engine.request(prompt, **({"max_tokens": 20, "seed": 1} | parameters))
    progress: Progress[Result] = Progress(Generate(engine.runtime, request).task(None if seen is None else seen.append))
    start(progress)
    return progress


def finish(engine: Engine, tasks: Sequence[Progress[Any]]) -> None:
    """All of them together, a batch a forward."""
    while running := [task for task in tasks if not task.ended]:
        advance(engine.runtime, running)


def tokens_alone(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return [engine.generate(prompt, max_tokens=20, seed=1).token_ids for prompt in prompts]


def test_requests_in_one_batch_get_what_they_get_alone_in_one_forward_a_step(engine: Engine) -> None:
    expected = tokens_alone(engine, PROMPTS)
    model_of(engine).forwards = model_of(engine).readouts = 0
    tasks = [begun(engine, prompt) for prompt in PROMPTS]
    finish(engine, tasks)
    assert [task.value.token_ids for task in tasks] == expected
    steps = max(task.value.usage.denoising_steps for task in tasks)
    model = model_of(engine)
    assert model.forwards == model.readouts == steps, "a prompt shares the forward of the first step"


class FaultError(Exception):
    """A test's own."""


def test_a_fault_in_the_forward_is_that_of_the_request_which_has_it(engine: Engine) -> None:
    """The batch is repeated, each request alone."""
    expected = tokens_alone(engine, PROMPTS)
    forward = engine.model.forward

    def failing(spans: Sequence[Span]) -> list[Tensor | None]:
        if any(span.tokens.tolist() == PROMPTS[1] for span in spans):
            raise FaultError("of the second")
        return forward(spans)

    engine.model.forward = failing  # type: ignore[method-assign]
    tasks = [begun(engine, prompt) for prompt in PROMPTS]
    finish(engine, tasks)
    assert [task.value.token_ids for task in (tasks[0], tasks[2])] == [expected[0], expected[2]]
    with pytest.raises(FaultError, match="of the second"):
        _ = tasks[1].value
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0
    engine.model.forward = forward  # type: ignore[method-assign]
    assert tokens_alone(engine, PROMPTS) == expected


def test_a_fault_in_the_readout_is_that_of_the_request_which_has_it(engine: Engine) -> None:
    """No forward is repeated for it: what was computed stays."""
    prompts = [PROMPTS[0], PROMPTS[2]]
    expected = tokens_alone(engine, prompts)
    readout = engine.model.readout

    def failing(hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        if any(spec.top_logprobs for spec in specs):
            raise FaultError("of the second")
        return readout(hidden, specs)

    engine.model.readout = failing  # type: ignore[method-assign]
    engine.runtime.pool.forget()
    model_of(engine).forwards = 0
    model_of(engine).encoded.clear()
    tasks = [begun(engine, prompts[0]), begun(engine, PROMPTS[1], top_logprobs=3), begun(engine, prompts[1])]
    finish(engine, tasks)
    assert [task.value.token_ids for task in (tasks[0], tasks[2])] == expected
    with pytest.raises(FaultError, match="of the second"):
        _ = tasks[1].value
    assert model_of(engine).forwards == max(task.value.usage.denoising_steps for task in (tasks[0], tasks[2]))
    assert model_of(engine).encoded.count(PROMPTS[1]) == 1


def test_numbers_that_are_none_end_the_request_that_has_them(engine: Engine) -> None:
    plain = random_logits(0)
    expected = tokens_alone(engine, [PROMPTS[0], PROMPTS[2]])
    model_of(engine).script = lambda canvas, context: (
        plain(canvas, context) * (torch.nan if context == len(PROMPTS[1]) else 1.0)
    )
    tasks = [begun(engine, prompt) for prompt in PROMPTS]
    finish(engine, tasks)
    assert [task.value.token_ids for task in (tasks[0], tasks[2])] == expected
    with pytest.raises(GenerationError, match=r"not a number at 8 of 8 positions of canvas 0, step 1"):
        _ = tasks[1].value


def test_a_fault_of_a_receiver_ends_its_request_alone(engine: Engine) -> None:
    expected = tokens_alone(engine, PROMPTS[:1])

    def fail(event: StepEvent) -> None:
        raise FaultError("the caller's own")

    request = engine.request(PROMPTS[1], max_tokens=20, seed=1)
    failing: Progress[Result] = Progress(Generate(engine.runtime, request).task(fail))
    start(failing)
    other = begun(engine, PROMPTS[0])
    finish(engine, [failing, other])
    assert isinstance(failing.error, FaultError)
    assert other.value.token_ids == expected[0]
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0


def test_what_the_host_has_to_know_is_read_once_for_all_of_a_batch(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read a forward of flags for everybody. A constraint needs a check before inference, and so a read more."""
    reads: list[int] = []
    tolist = Tensor.tolist

    def counted(self: Tensor) -> Any:
        if self.dtype == torch.bool:
            reads.append(self.numel())
        return tolist(self)

    tasks = [begun(engine, prompt) for prompt in PROMPTS]
    monkeypatch.setattr(Tensor, "tolist", counted)
    advance(engine.runtime, tasks)
    assert reads == [3 * 2], "two flags each"
    reads.clear()
    held = [begun(engine, prompt, constraint=Regex("[a-z]{5}")) for prompt in PROMPTS]
    advance(engine.runtime, [*tasks, *held])
    assert reads == [3 * 2 + 3 * 1, 3 * 2]


def test_host_reads_are_answered_each_with_its_own_values(engine: Engine) -> None:
    seen: dict[str, list[Any]] = {"a": [], "b": [], "c": []}

    def asks(name: str, *values: list[bool]) -> Task[str]:
        yield Forward()
        for own in values:
            seen[name].append((yield HostRead(torch.tensor(own))))
        return name

    tasks = [
        Progress(asks("a", [True, False], [False])),
        Progress(asks("b")),
        Progress(asks("c", [False, False, True])),
    ]
    for task in tasks:
        start(task)
    advance(engine.runtime, tasks)
    assert [task.value for task in tasks] == ["a", "b", "c"]
    assert seen == {"a": [[True, False], [False]], "b": [], "c": [[False, False, True]]}


def test_a_run_that_is_given_up_gives_its_memory_back(engine: Engine) -> None:
    def fail(event: StepEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS[0], max_tokens=20, seed=1, on_step=fail)
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0


def test_forwards_of_nothing_take_no_rows_and_hidden_rows_are_read_again(engine: Engine) -> None:
    runtime: Runtime = engine.runtime
    logits = random_logits(5)(torch.arange(8), 3)
    again = Forward(readout=ReadoutSpec(1.0), hidden=logits)
    assert (Forward().rows, again.rows) == (0, 0)
    model_of(engine).forwards = 0
    rows = runtime.forward([Forward(), again])
    read = runtime.read([Forward(), again], rows)
    assert model_of(engine).forwards == 0
    assert (rows[0].last, rows[0].encoded) == (None, None)
    assert read[0] is None
    assert read[1] is not None
    assert torch.equal(read[1].readout.argmax, logits.argmax(-1))
    assert read[1].hidden is logits


def test_run_returns_what_a_task_returns_and_hands_out_chunks_on_the_way(engine: Engine) -> None:
    request = engine.request(PROMPTS[0], max_tokens=20, seed=1)
    texts: list[str] = []
    result = run(engine.runtime, Generate(engine.runtime, request).task(), lambda chunk: texts.append(chunk.text))
    assert "".join(texts) == result.text
    assert len(texts) == result.usage.canvases
