"""What a request sees depends on nothing but the request: not on who else runs, on what was cached, or on chunk sizes.

Entropies of every step are compared bit for bit; a single bit of a key or a value would show in them.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft import Generation, GenerationError, RequestError
from redraft.api import Engine
from redraft.engine.context import open_context
from redraft.engine.generation import Generate
from redraft.engine.result import Result
from redraft.engine.runtime import advance, start
from redraft.engine.task import Progress, Waiting
from redraft.errors import RedraftError
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS
from redraft.loading import load
from redraft.models import checkpoint
from redraft.models.base import BlockDiffusionModel
from redraft.models.packed_cache import load_packed
from redraft.models.tokenizer import ChatTokenizer
from tests.random_checkpoint import random_checkpoint

SLIDING, FULL = "sliding_attention", "full_attention"
PROMPT = [20 + i * 7 % 43 for i in range(53)]
OTHERS = [[*PROMPT[:29], 16, 17, 18], [30] * 40, [*PROMPT, *range(16, 40)], PROMPT[:5]]
Seen = list[torch.Tensor]
# In torch what is packed is exact, or it is rounded: one of each is enough.
PATHS = [*(f"kernels {format}" for format in FORMATS), "torch float32", "torch int8", "module"]
# What is stored of a prompt does not go by how weights are: for who runs when, an exact path and a rounded one.
TURNS = pytest.mark.parametrize("model", ["kernels float32", "kernels int8", "torch float32", "module"], indirect=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window that the prompt outgrows, and sizes that are no multiples of the kernels' blocks."""
    return random_checkpoint(
        tmp_path_factory.mktemp("model"),
        generation={"max_denoising_steps": 3, "t_max": 0.4, "t_min": 0.2},
        hidden_size=48,
        layer_types=(SLIDING, FULL, SLIDING, FULL),
        sliding_window=12,
        num_experts=6,
        top_k=2,
    )


@pytest.fixture(params=PATHS)
def model(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> BlockDiffusionModel:
    kind, _, format = request.param.partition(" ")
    if kind == "kernels" and bindings.kernels() is None:
        pytest.skip("no compiled kernels are in use")
    if kind == "torch":
        monkeypatch.setattr(bindings, "kernels", lambda: None)
    found = checkpoint.read(folder)
    model = found.load("float32") if kind == "module" else load_packed(found, format)
    model.defaults = replace(model.defaults, end_token_ids=())
    return model


def engine_of(
    model: BlockDiffusionModel, folder: Path, chunk: int = 16, block: int = 8, room: int | None = None
) -> Engine:
    """``room``: how many positions fit the budget."""
    engine = Engine(model, ChatTokenizer.from_folder(folder), chunk, kv_block=block)
    if room is not None:
        engine.runtime.pool.budget = engine.runtime.pool.bytes_for(room)
    return engine


def stream(engine: Engine, prompt: list[int], seen: Seen, **parameters: int) -> Generation:
    settings: dict[str, Any] = {"max_tokens": 30, "seed": 7} | parameters
    return engine.stream(prompt, on_step=lambda event: seen.append(event.entropy), **settings)


def begun(engine: Engine, prompt: list[int], seen: Seen) -> Progress[Result]:
    """The task of ``stream``, up to what it asks first."""
    request = engine.request(prompt, max_tokens=30, seed=7)
    task: Progress[Result] = Progress(Generate(engine.runtime, request).task(lambda event: seen.append(event.entropy)))
    start(task)
    return task


def entropies(engine: Engine, prompt: list[int] = PROMPT) -> tuple[Seen, int]:
    """Of every step, and how many prompt tokens were cached."""
    seen: Seen = []
    usage = stream(engine, prompt, seen).result().usage
    return seen, usage.cached_prompt_tokens


@pytest.fixture(scope="module")
def known_alone() -> dict[tuple[str, tuple[int, ...]], Seen]:
    """What a prompt comes to on an engine that has seen no other, by the path and the prompt."""
    return {}


@pytest.fixture
def alone(
    request: pytest.FixtureRequest,
    known_alone: dict[tuple[str, tuple[int, ...]], Seen],
    model: BlockDiffusionModel,
    folder: Path,
) -> Callable[[list[int]], Seen]:
    path = request.node.callspec.params["model"]

    def seen(prompt: list[int]) -> Seen:
        if (path, tuple(prompt)) not in known_alone:
            known_alone[path, tuple(prompt)] = entropies(engine_of(model, folder), prompt)[0]
        return known_alone[path, tuple(prompt)]

    return seen


def assert_same(one: Seen, other: Seen) -> None:
    assert len(one) == len(other) == 12, "four canvases of three steps"
    for own, expected in zip(one, other, strict=True):
        assert torch.equal(own, expected)


def test_alone_after_others_and_with_any_prefix_cached(
    model: BlockDiffusionModel, folder: Path, alone: Callable[[list[int]], Seen]
) -> None:
    expected = alone(PROMPT)
    busy, cached = engine_of(model, folder), []
    for number, other in enumerate(OTHERS):
        stream(busy, other, [], seed=number).result()
        seen, known = entropies(busy)
        assert_same(seen, expected)
        cached.append(known)
    assert cached[0] in (24, 16), "whole blocks of 29 tokens; in torch, whole chunks of 16"
    assert cached[1:] == [48] * 3
    assert busy.runtime.pool.used == busy.runtime.pool.promised == 0


@TURNS
def test_in_turns_with_others(model: BlockDiffusionModel, folder: Path, alone: Callable[[list[int]], Seen]) -> None:
    prompts = [PROMPT, OTHERS[0], OTHERS[2], OTHERS[3], PROMPT]
    expected = [alone(prompt) for prompt in prompts]
    engine = engine_of(model, folder)
    seen: list[Seen] = [[] for _ in prompts]
    tasks = [begun(engine, prompt, own) for prompt, own in zip(prompts, seen, strict=True)]
    while running := [task for task in tasks if not task.ended]:
        for task in running:
            assert task.asked is not Waiting.FOR_MEMORY
            advance(engine.runtime, [task])
    assert all(len(task.value.token_ids) == 30 for task in tasks)
    for own, wanted in zip(seen, expected, strict=True):
        assert_same(own, wanted)
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0


@TURNS
def test_after_what_was_cached_had_to_go(
    model: BlockDiffusionModel, folder: Path, alone: Callable[[list[int]], Seen]
) -> None:
    expected = alone(PROMPT)
    engine, found = engine_of(model, folder, room=100), []
    for prompt in (PROMPT, [40] * 60, PROMPT, [41] * 70, PROMPT):
        seen, known = entropies(engine, prompt)
        if prompt == PROMPT:
            assert_same(seen, expected)
            found.append(known)
    assert min(found) < 48, "nothing was ever dropped"
    assert engine.runtime.pool.used + engine.runtime.pool.cached <= engine.runtime.pool.budget


@pytest.mark.parametrize("path", ["kernels float32", "kernels int8"])
def test_with_any_chunk_size_on_the_kernels(folder: Path, path: str) -> None:
    if bindings.kernels() is None:
        pytest.skip("torch's products are not bit for bit by row")
    model = load_packed(checkpoint.read(folder), path.split()[1])  # type: ignore[arg-type]
    model.defaults = replace(model.defaults, end_token_ids=())
    expected, _ = entropies(engine_of(model, folder))
    for chunk in (1, 3, 8, 13, 53, 256):
        engine = engine_of(model, folder, chunk)
        for prompt in (PROMPT, OTHERS[0], PROMPT):
            seen, _ = entropies(engine, prompt)
        assert_same(seen, expected)


@TURNS
def test_waiting_for_memory_changes_nothing(
    model: BlockDiffusionModel, folder: Path, alone: Callable[[list[int]], Seen]
) -> None:
    """More than fits at a time: some wait, all end, and each as if it had been alone."""
    prompts = [PROMPT, OTHERS[1], [50] * 30, OTHERS[0]]
    expected = [alone(prompt) for prompt in prompts]
    engine = engine_of(model, folder, room=96)
    seen: list[Seen] = [[] for _ in prompts]
    tasks = {which: begun(engine, prompt, seen[which]) for which, prompt in enumerate(prompts)}
    waited = 0
    while running := [which for which, task in tasks.items() if not task.ended]:
        for which in running:
            task = tasks[which]
            if task.asked is not Waiting.FOR_MEMORY:
                advance(engine.runtime, [task])
            else:
                task.advance()
            if task.asked is Waiting.FOR_MEMORY:
                waited += 1
                if which == running[0]:
                    # The first one always gets what it needs: whoever started later starts again.
                    for later in running[1:]:
                        tasks[later].close()
                        seen[later].clear()
                    task.advance()
                    assert task.asked is not Waiting.FOR_MEMORY, "nobody else holds any"
                    for later in running[1:]:
                        tasks[later] = begun(engine, prompts[later], seen[later])
                    break
            assert engine.runtime.pool.used + engine.runtime.pool.cached <= engine.runtime.pool.budget
    assert waited
    assert all(len(task.value.token_ids) == 30 for task in tasks.values())
    for own, wanted in zip(seen, expected, strict=True):
        assert_same(own, wanted)
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0


@pytest.fixture
def engine(folder: Path) -> Engine:
    plain = load(folder)
    plain.model.defaults = replace(plain.model.defaults, end_token_ids=())
    return engine_of(plain.model, folder)


def test_a_request_that_never_fits_is_refused_with_what_would(engine: Engine) -> None:
    pool = engine.runtime.pool
    pool.budget = pool.bytes_for(53 + 16)
    engine.generate(PROMPT, max_tokens=24, seed=1)
    needed = pool.bytes_for(53 + 24)
    with pytest.raises(RequestError, match=f"max_tokens 24 would fit, or kv_bytes {needed:,}"):
        engine.generate(PROMPT, max_tokens=25)
    result = engine.generate(PROMPT, seed=1)
    assert (len(result.token_ids), result.finish_reason) == (24, "length"), "as many as there is room for"
    with pytest.raises(RequestError, match=r"prompt's 80 tokens take .* shorten the prompt to 72 tokens"):
        engine.generate([20] * 80, max_tokens=1)


@pytest.mark.parametrize("kv_bytes", [0, -1, 1.5, True, "1GB"])
def test_a_budget_that_is_no_size_is_refused(folder: Path, kv_bytes: object) -> None:
    with pytest.raises(RequestError, match="kv_bytes"):
        load(folder, kv_bytes=kv_bytes)  # type: ignore[arg-type]


def test_load_sets_the_budget(folder: Path) -> None:
    assert load(folder, kv_bytes=1 << 20).runtime.pool.budget == 1 << 20


def test_a_budget_that_just_suffices_does_for_one_after_the_other(engine: Engine) -> None:
    expected, _ = entropies(engine)
    engine.runtime.pool.forget()
    engine.runtime.pool.budget = engine.runtime.pool.bytes_for(53 + 24)
    for prompt in (OTHERS[1], PROMPT, OTHERS[0], PROMPT, PROMPT):
        seen, _ = entropies(engine, prompt)
    assert_same(seen, expected)


def test_who_cannot_go_on_alone_is_told_who_holds_the_memory(engine: Engine) -> None:
    engine.runtime.pool.budget = engine.runtime.pool.bytes_for(53 + 24)
    first, second = (stream(engine, prompt, []) for prompt in (PROMPT, OTHERS[1]))
    next(first)
    with pytest.raises(GenerationError, match="kv_bytes allows, other answers under way hold"):
        second.result()
    assert next(open_context(engine.runtime, OTHERS[1])) is Waiting.FOR_MEMORY
    first.close()
    assert len(second.result().token_ids) == 30, "it waited, and goes on"


def stops_early(engine: Engine) -> None:
    generation = stream(engine, PROMPT, [])
    next(generation)
    generation.close()
    with pytest.raises(RuntimeError, match="was closed"):
        generation.result()
    assert list(generation) == []


def is_dropped(engine: Engine) -> None:
    next(stream(engine, PROMPT, []))


def fails(engine: Engine) -> None:
    def fail(_: object) -> None:
        raise RedraftError("the caller's own")

    with pytest.raises(RedraftError, match="own"):
        engine.generate(PROMPT, max_tokens=30, seed=7, on_step=fail)


@pytest.mark.parametrize("end", [stops_early, is_dropped, fails])
def test_whatever_ends_an_answer_gives_its_memory_back(engine: Engine, end: Callable[[Engine], None]) -> None:
    expected, _ = entropies(engine)
    engine.runtime.pool.forget()
    end(engine)
    gc.collect()
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0
    seen, known = entropies(engine)
    assert known == 48, "what was encoded before stays"
    assert_same(seen, expected)


@pytest.mark.skipif(bindings.kernels() is None, reason="torch shares whole chunks of prompts alone")
def test_committed_canvases_are_found_by_a_prompt_that_goes_on(engine: Engine, folder: Path) -> None:
    answer = engine.generate(PROMPT, max_tokens=30, seed=7).token_ids
    following = [*PROMPT, *answer, 20, 21, 22]
    expected, _ = entropies(engine_of(engine.model, folder), following)
    seen, known = entropies(engine, following)
    assert known == 72, "53 + 24 tokens were encoded, in blocks of 8"
    assert_same(seen, expected)
