"""One checkpoint, the same prompts, every way to write: what each costs so many clients, and how good its answers are.

Good means here: likely to the same weights' causal rows, which is what the autoregressive mode draws from; and right,
where the prompts are those of a task with a checker.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.result import Chunk, Result
from redraft.engine.runtime import run
from redraft.engine.scheduler import Scheduler
from redraft.errors import counted
from redraft.measure.evaluate.ask import special_texts
from redraft.measure.evaluate.faults import Fault
from redraft.measure.evaluate.items import Item
from redraft.measure.evaluate.judge import judge
from redraft.measure.timing import Spread, alternate
from redraft.models.base import GenerationMode
from redraft.tasks.score import ScoreRequest

AUTOREGRESSIVE = "autoregressive"
"""The name of the way that the others are set against."""


@dataclass(frozen=True)
class Way:
    """A mode, and how many denoising steps its canvases may take."""

    mode: GenerationMode
    steps: int | None = None
    """None for the checkpoint's own, or of drafts for the engine's."""
    draft_model: bool = False
    """True for drafts by the engine's draft model, in place of the checkpoint's own canvases."""

    @property
    def name(self) -> str:
        """The name in tables."""
        if self.mode == "autoregressive":
            return AUTOREGRESSIVE
        if self.draft_model:
            return f"{self.mode}, draft model"
        return self.mode if self.steps is None else f"{self.mode}, {self.steps} step{'s' * (self.steps > 1)}"


@dataclass(frozen=True)
class Question:
    """A prompt, and what a right answer is."""

    prompt: tuple[int, ...]
    item: Item | None = None
    """None where nothing says what is right."""


@dataclass(frozen=True)
class Settings:
    """Questions and conditions, the same for all ways."""

    questions: tuple[Question, ...]
    max_tokens: int | None
    temperature: float | None
    """None for the checkpoint's own, in each mode."""
    clients: tuple[int, ...]
    rounds: int
    seed: int


@dataclass(frozen=True, eq=False)
class Served:
    """All answers of one round."""

    seconds: float
    first_text: tuple[float, ...]
    """Seconds from each request to its first text, or to its end where there is none."""
    results: tuple[Result, ...]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all answers, without their ends, a second."""
        return sum(result.usage.completion_tokens for result in self.results) / self.seconds


@dataclass(frozen=True)
class Quality:
    """The worth of a way's answers."""

    logprob: float | None
    """The mean log probability of a token, in nats, to the causal rows; None of answers without any."""
    right: float | None = None
    """The share of right answers; None without a task."""
    faults: Mapping[Fault, int] | None = None
    """Wrong answers by what is wrong with them."""


@dataclass(frozen=True)
class Figures:
    """The cost of one way at one number of clients."""

    way: Way
    clients: int
    tokens_per_second: Spread
    first_text: Spread
    """Seconds; the median over the requests of each round."""
    forwards: float
    """Forwards of an answer, on average."""
    tokens_per_forward: float
    """Tokens of an answer over its forwards, of all answers together."""
    accepted_per_forward: float
    """Drafted tokens that stood, over the forwards."""


@dataclass(frozen=True)
class Comparison:
    """All that was measured."""

    figures: tuple[Figures, ...]
    quality: Mapping[str, Quality]
    """The worth of each way's answers, by its name: they are the same at any number of clients."""


def ways(modes: Sequence[GenerationMode], steps: Sequence[int | None], *, draft_model: bool = False) -> list[Way]:
    """Return the ways to compare: diffusion at each of ``steps``, the other modes that the checkpoint has, and drafts
    by a draft model, if there is one."""
    found = [Way("diffusion", own) for own in steps] if "diffusion" in modes else []
    found += [Way(mode) for mode in modes if mode != "diffusion"]
    return found + [Way("speculative", draft_model=True)] * draft_model


def ask(engine: Engine, way: Way, settings: Settings, clients: int, seed: int) -> Served:
    """Let ``clients`` ask their questions, each the next one when it has its answer: all questions, and as many more
    as it takes for every client to have one."""
    runtime = engine.runtime
    # Each round encodes its prompts.
    for memory in runtime.pools:
        memory.forget()
    count = max(clients, len(settings.questions))
    asked = [settings.questions[number % len(settings.questions)] for number in range(count)]
    requests = [
        engine.request(
            question.prompt,
            mode=way.mode,
            max_denoising_steps=way.steps,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=seed + number,
        )
        for number, question in enumerate(asked)
    ]
    scheduler = Scheduler(runtime, max_concurrency=clients)
    results: list[Result | None] = [None] * count
    first = [0.0] * count

    def one(client: int) -> None:
        for number in range(client, count, clients):
            began = perf_counter()

            def note(chunk: Chunk, number: int = number, began: float = began) -> None:
                if chunk.text and not first[number]:
                    first[number] = perf_counter() - began

            handle = scheduler.submit(Generate(runtime, requests[number]), client=str(client), on_chunk=note)
            results[number] = handle.result()
            first[number] = first[number] or perf_counter() - began

    try:
        began = perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(one, client) for client in range(clients)]:
                done.result()
        seconds = perf_counter() - began
    finally:
        scheduler.close()
    return Served(seconds, tuple(first), tuple(result for result in results if result is not None))


def compare(
    engine: Engine, ways: Sequence[Way], settings: Settings, on_run: Callable[[], None] | None = None
) -> Comparison:
    """Measure every way at every number of clients, in alternation, after a round that warms up.

    Drafts are made by the engine's draft model for the ways that say so, and for no others.
    """
    drafter = engine.runtime.drafter
    try:
        return _compare(engine, ways, settings, on_run)
    finally:
        engine.runtime.drafter = drafter


def _compare(engine: Engine, ways: Sequence[Way], settings: Settings, on_run: Callable[[], None] | None) -> Comparison:
    drafter = engine.runtime.drafter

    def run(way: Way, clients: int, number: int) -> Served:
        engine.runtime.drafter = drafter if way.draft_model else None
        return ask(engine, way, settings, clients, settings.seed + number * 1_000_003)

    figures: list[Figures] = []
    quality: dict[str, Quality] = {}
    for clients in settings.clients:
        runs = {way.name: partial(run, way, clients) for way in ways}
        found = alternate(runs, settings.rounds, on_run)
        for way in ways:
            figures.append(_figures(way, clients, found[way.name]))
            if way.name not in quality:
                quality[way.name] = judged(engine, settings.questions, found[way.name])
    return Comparison(tuple(figures), quality)


def _figures(way: Way, clients: int, rounds: Sequence[Served]) -> Figures:
    results = [result for served in rounds for result in served.results]
    forwards = sum(result.usage.forwards for result in results)
    return Figures(
        way,
        clients,
        Spread(tuple(served.tokens_per_second for served in rounds)),
        Spread(tuple(statistics.median(served.first_text) for served in rounds)),
        forwards / len(results),
        sum(result.usage.completion_tokens for result in results) / forwards,
        sum(result.usage.accepted_drafts for result in results) / forwards,
    )


def judged(engine: Engine, questions: Sequence[Question], rounds: Sequence[Served]) -> Quality:
    """Judge the answers of all rounds, each question's by its own item."""
    markers = special_texts(engine)
    logprobs: list[float] = []
    right, faults, count = 0, Counter[Fault](), 0
    for served in rounds:
        for number, result in enumerate(served.results):
            question = questions[number % len(questions)]
            if result.token_ids:
                scored = run(engine.runtime, ScoreRequest(engine.runtime, question.prompt, result.token_ids).task())
                logprobs += scored.token_logprobs
            if question.item is not None:
                verdict = judge(question.item, result, markers, 0.0)
                count, right = count + 1, right + verdict.right
                faults.update(() if verdict.fault is None else (verdict.fault,))
    mean = statistics.fmean(logprobs) if logprobs else None
    return Quality(mean, right / count, dict(faults)) if count else Quality(mean)


def crossovers(figures: Sequence[Figures]) -> list[str]:
    """Say of every other way from how many clients on token after token is faster, as far as was measured."""
    by_name: dict[str, dict[int, float]] = {}
    for one in figures:
        by_name.setdefault(one.way.name, {})[one.clients] = one.tokens_per_second.median
    plain = by_name.get(AUTOREGRESSIVE)
    if plain is None or len(by_name) < 2:
        return []
    return [f"{name}: {_crossover(own, plain)}" for name, own in by_name.items() if name != AUTOREGRESSIVE]


def _crossover(own: Mapping[int, float], plain: Mapping[int, float]) -> str:
    measured = sorted(own)
    faster = [clients for clients in measured if own[clients] >= plain[clients]]
    if not faster:
        return f"{AUTOREGRESSIVE} is faster at every number of clients that was measured"
    behind = [clients for clients in measured if clients > faster[-1]]
    if not behind:
        start = next(clients for clients in measured if all(own[n] >= plain[n] for n in measured if n >= clients))
        every = start == measured[0]
        where = "every number of clients that was measured" if every else f"{counted(start, 'client')} and more"
        return f"faster than {AUTOREGRESSIVE} at {where}"
    return f"faster than {AUTOREGRESSIVE} up to {counted(faster[-1], 'client')}, slower from {behind[0]} on"
