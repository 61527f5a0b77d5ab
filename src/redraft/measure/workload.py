"""Workloads, the runs that contenders make of them, and the contender that is Redraft itself."""

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from redraft.api import Engine
from redraft.canvas.stopping import StableAndConfident
from redraft.errors import RequestError
from redraft.formats.source import is_single_file
from redraft.loading import load
from redraft.measure.peak import seconds_at_peak, step_multiply_adds
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.packed import PackedModel
from redraft.models.tokenizer import TOKENIZER_FILE, ChatTokenizer


@dataclass(frozen=True)
class Workload:
    """An answer to generate."""

    prompt: tuple[int, ...]
    """Token ids."""
    max_tokens: int
    steps: int | None = None
    """Denoising steps of every canvas, with end tokens ignored, so that all contenders do the same work; None leaves
    both to the checkpoint."""


@dataclass(frozen=True)
class Run:
    """An answer, and the times at which its parts were there, in seconds."""

    seconds: float
    first_token_seconds: float
    """The time until the first canvas was finished: no token of it is final before."""
    first_step_seconds: float
    """The time until the end of the first denoising step, with encoding the prompt."""
    later_step_seconds: tuple[float, ...]
    """The time of each further denoising step of a canvas."""
    commit_step_seconds: tuple[float, ...]
    """The time from the end of one canvas to the end of the next one's first step, with encoding the former."""
    denoising_steps: int
    canvases: int
    token_ids: tuple[int, ...]
    """The answer, without an end token."""
    later_step_at_peak: float | None = None
    """Seconds that a further denoising step of the first canvas would take at the processor's peak, measured right
    after the answer; None where the compiled kernels are not in use."""
    peak_bytes: int | None = None
    """The largest resident set of the contender's own process so far; None where it shares one with others."""

    @property
    def later_step(self) -> float | None:
        """Median seconds of a further denoising step; None if every canvas took one."""
        return statistics.median(self.later_step_seconds) if self.later_step_seconds else None

    @property
    def share_of_peak(self) -> float | None:
        """The share of what the arithmetic units could do that further denoising steps reach."""
        step, ideal = self.later_step, self.later_step_at_peak
        return None if step is None or ideal is None else ideal / step

    @property
    def commit_step(self) -> float | None:
        """Median seconds of a canvas's first step after another canvas; None for an answer of one canvas."""
        return statistics.median(self.commit_step_seconds) if self.commit_step_seconds else None

    @property
    def steps_per_canvas(self) -> float:
        return self.denoising_steps / self.canvases

    @property
    def tokens_per_step(self) -> float:
        return len(self.token_ids) / self.denoising_steps

    @property
    def tokens_per_second(self) -> float:
        return len(self.token_ids) / self.seconds


class Contender(Protocol):
    """Anything that can generate an answer and say when its parts were there."""

    def answer(self, workload: Workload, seed: int) -> Run: ...


class Stopwatch:
    """A watch that starts when it is made, and is told of every denoising step and every finished canvas."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._canvases: list[list[float]] = [[]]
        self._first_canvas = 0.0

    def step(self) -> None:
        """Note the end of a denoising step."""
        self._canvases[-1].append(time.perf_counter())

    def canvas(self) -> None:
        """Note that the canvas of the steps told so far is finished."""
        self._first_canvas = self._first_canvas or time.perf_counter()
        self._canvases.append([])

    def stop(self, token_ids: Sequence[int]) -> Run:
        """Make the run of an answer that is complete now."""
        ended = time.perf_counter()
        canvases = [marks for marks in self._canvases if marks]
        return Run(
            seconds=ended - self._began,
            first_token_seconds=self._first_canvas - self._began,
            first_step_seconds=canvases[0][0] - self._began,
            later_step_seconds=tuple(b - a for marks in canvases for a, b in pairwise(marks)),
            commit_step_seconds=tuple(after[0] - before[-1] for before, after in pairwise(canvases)),
            denoising_steps=sum(map(len, canvases)),
            canvases=len(canvases),
            token_ids=tuple(token_ids),
        )


class RedraftContender:
    """This engine, with the prompt encoded anew for every answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._defaults = engine.model.defaults

    @classmethod
    def load(cls, folder: Path, dtype: DType, device: str = "auto") -> "RedraftContender":
        return cls(load(folder, dtype=dtype, device=device))

    def answer(self, workload: Workload, seed: int) -> Run:
        defaults = self._defaults
        stopping = None
        if workload.steps is not None:
            # Before step N + 1 no canvas can equal those of N earlier steps.
            stopping = StableAndConfident(workload.steps, defaults.confidence_threshold)
            defaults = replace(defaults, end_token_ids=())
        self._engine.model.defaults = defaults
        self._engine.runtime.pool.forget()
        watch = Stopwatch()
        generation = self._engine.stream(
            workload.prompt,
            max_tokens=workload.max_tokens,
            seed=seed,
            max_denoising_steps=workload.steps,
            stopping=stopping,
            on_step=lambda _: watch.step(),
        )
        for _ in generation:
            watch.canvas()
        run = watch.stop(generation.result().token_ids)
        model = self._engine.model
        if not isinstance(model, PackedModel):
            return run
        length = min(model.config.canvas_length, model.config.context_length - len(workload.prompt))
        work = step_multiply_adds(model, len(workload.prompt), length)
        return replace(run, later_step_at_peak=seconds_at_peak(work))


def answer_lengths(canvas_length: int) -> list[int]:
    """Return the tokens of a short answer, a medium one, and one that fills a canvas."""
    return sorted({20, 100, canvas_length})


def random_prompt(found: Checkpoint, tokens: int, seed: int) -> tuple[int, ...]:
    """Draw token ids evenly from the vocabulary without markers and image tokens. A longer prompt of the same seed
    begins with the shorter one."""
    config = found.config
    markers = {*config.special_token_ids}
    if is_single_file(found.path) or (found.path / TOKENIZER_FILE).exists():
        markers |= set(ChatTokenizer.from_checkpoint(found.path).tokenizer.get_added_tokens_decoder())
    ordinary = [token for token in range(config.vocab_size) if token not in markers]
    return tuple(random.Random(seed).choices(ordinary, k=tokens))


def check_room(found: Checkpoint, workload: Workload) -> Workload:
    """Return ``workload`` if the context holds the prompt and all canvases of the answer whole; else raise a
    RequestError that says what would fit. Redraft shortens a last canvas that does not fit, ``transformers`` runs past
    the context."""
    canvas, context = found.config.canvas_length, found.config.context_length
    prompt, canvases = len(workload.prompt), -(-workload.max_tokens // canvas)
    if prompt + canvases * canvas > context:
        raise RequestError(
            f"a prompt of {prompt} tokens and an answer of {workload.max_tokens} (canvases: {canvases} x {canvas}) "
            f"do not fit the context of {context} tokens; with this prompt --max-tokens up to "
            f"{(context - prompt) // canvas * canvas} fits, with this answer a prompt up to "
            f"{max(0, context - canvases * canvas)}"
        )
    return workload
