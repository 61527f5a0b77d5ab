"""``redraft bench --modes``: one checkpoint, every way in which it can write, at several numbers of clients."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from redraft.errors import RequestError, counted
from redraft.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

    from redraft.api import Engine
    from redraft.measure.machine import Machine
    from redraft.measure.modes import Comparison, Question, Settings, Way
    from redraft.models.checkpoint import Checkpoint, DType

DEFAULT_CLIENTS = (1, 4, 16)
DEFAULT_STEPS = (4, 12, None)
PROMPTS, PROMPT_TOKENS, MAX_TOKENS = 8, 32, 64


@dataclass(frozen=True)
class Given:
    """The command line's words."""

    model: str
    dtype: str
    rounds: int
    prompt: str | None
    prompt_tokens: int | None
    max_tokens: int | None
    steps: list[int]
    modes: list[str]
    """The ones to compare alone; empty for all that the checkpoint has."""
    clients: list[int]
    task: Path | None
    temperature: float | None
    draft_model: str | None
    json_file: Path | None
    seed: int
    device: str
    threads: int | None


def run(
    given: Given, console: "Console", progress: Callable[[int], AbstractContextManager[Callable[[], None]]]
) -> None:
    """Measure, write the JSON, and print the tables. Raises RequestError, before a model is loaded, for what no model
    could honour."""
    from redraft.engine import request
    from redraft.kernels import library
    from redraft.loading import load
    from redraft.measure import machine, timing
    from redraft.measure.modes import compare, ways
    from redraft.models import checkpoint

    timing.check_rounds(given.rounds)
    if given.temperature is not None:
        request.check_temperature(given.temperature)
    if given.task is not None and (given.prompt is not None or given.prompt_tokens is not None):
        raise RequestError("give --task, or --prompt or --prompt-tokens, not both: a task has prompts of its own")
    items = None if given.task is None else _items(given.task)
    found = checkpoint.read(checkpoint.find(given.model))
    drafted = given.draft_model is not None and (not given.modes or "speculative" in given.modes)
    own = found.family.modes
    for mode in given.modes:
        request.check_mode(mode, (*own, "speculative") if drafted else own)
    modes = [mode for mode in own if not given.modes or mode in given.modes]
    if given.steps and "diffusion" not in modes:
        raise RequestError("--steps is for mode 'diffusion', which is not compared; leave it out")
    described = machine.describe()
    with load(
        found.path, dtype=cast("DType", given.dtype), device=given.device, draft_model=given.draft_model
    ) as engine:
        if given.threads is not None:
            library.set_threads(given.threads)
        compared = ways(modes, given.steps or DEFAULT_STEPS, draft_model=drafted)
        settings = _settings(given, found, engine, items)
        with progress(len(compared) * len(settings.clients) * (settings.rounds + 1)) as advance:
            measured = compare(engine, compared, settings, advance)
        bound = _allowed(engine, measured)
    if given.json_file is not None:
        whole = as_object(given, described, compared, settings, measured, bound)
        write_text(given.json_file, json.dumps(whole, indent=2) + "\n")
    show(console, given, described, settings, measured, bound)


def _items(path: Path) -> "list[Any]":
    """Read a task's items, which must all be prompts to answer."""
    from redraft.measure.evaluate.items import Generate, read_items

    items = read_items(path)
    for item in items:
        if not isinstance(item.asked, Generate):
            raise RequestError(f"{item.place}: {item.verb} is answered in one way alone; give items of verb 'generate'")
        if item.parameters:
            name = next(iter(item.parameters))
            raise RequestError(f"{item.place}: {name!r} cannot be given with --modes; all ways are asked alike")
    return items


def _settings(given: Given, found: "Checkpoint", engine: "Engine", items: "list[Any] | None") -> "Settings":
    from redraft.measure.modes import Settings

    return Settings(
        tuple(_questions(given, found, engine, items)),
        given.max_tokens if given.max_tokens is not None or items is not None else MAX_TOKENS,
        given.temperature,
        tuple(sorted(set(given.clients or DEFAULT_CLIENTS))),
        given.rounds,
        given.seed,
    )


def _questions(given: Given, found: "Checkpoint", engine: "Engine", items: "list[Any] | None") -> "list[Question]":
    from redraft.measure.modes import Question
    from redraft.measure.workload import random_prompt

    tokenize = engine.runtime.tokenize
    if items is not None:
        return [Question(tuple(tokenize(item.asked.prompt)), item) for item in items]
    if given.prompt is not None:
        return [Question(tuple(tokenize([{"role": "user", "content": given.prompt}])))]
    length = PROMPT_TOKENS if given.prompt_tokens is None else given.prompt_tokens
    return [Question(random_prompt(found, length, given.seed + number)) for number in range(PROMPTS)]


def _allowed(engine: "Engine", measured: "Comparison") -> dict[str, dict[int, float]]:
    """Return what bytes and products allow; empty where torch computes, whose products are not measured."""
    from redraft.kernels import bindings
    from redraft.measure.allowed import Machine, allowed
    from redraft.models.packed import PackedModel

    model = engine.model
    if bindings.kernels() is None or not isinstance(model, PackedModel) or model.device.type != "cpu":
        return {}
    return allowed(model, Machine.measured(model), measured.figures)


def as_object(
    given: Given,
    machine: "Machine",
    compared: "Sequence[Way]",
    settings: "Settings",
    measured: "Comparison",
    bound: dict[str, dict[int, float]],
) -> dict[str, Any]:
    """Return all figures for JSON."""
    from redraft.measure.modes import crossovers

    return {
        "machine": {**asdict(machine), "warning": machine.warning},
        "model": given.model,
        "dtype": given.dtype,
        "draft_model": given.draft_model,
        "task": None if given.task is None else str(given.task),
        "questions": len(settings.questions),
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "rounds": settings.rounds,
        "seed": settings.seed,
        "ways": [{"name": way.name, "mode": way.mode, "steps": way.steps} for way in compared],
        "figures": [
            {
                "way": one.way.name,
                "clients": one.clients,
                "tokens_per_second": one.tokens_per_second.as_object(),
                "first_text_seconds": one.first_text.as_object(),
                "forwards": one.forwards,
                "tokens_per_forward": one.tokens_per_forward,
                "accepted_per_forward": one.accepted_per_forward,
            }
            for one in measured.figures
        ],
        "quality": {name: asdict(own) for name, own in measured.quality.items()},
        "crossovers": crossovers(measured.figures),
        "allowed_tokens_per_second": bound,
    }


def show(
    console: "Console",
    given: Given,
    machine: "Machine",
    settings: "Settings",
    measured: "Comparison",
    bound: dict[str, dict[int, float]],
) -> None:
    """Print the tables."""
    from redraft.measure.modes import crossovers

    length = "as long as they like" if settings.max_tokens is None else f"at most {settings.max_tokens} tokens"
    heat = "the checkpoint's, in each mode" if settings.temperature is None else f"{settings.temperature:g}"
    lines = [
        f"model: {given.model}, {given.dtype}",
        f"machine: {machine.processor}, {machine.cores} usable cores; kernels: {machine.kernels}",
        f"questions: {len(settings.questions)}; answers: {length}; temperature: {heat}",
        f"method: ways in turn in rotating order, one round to warm up, then {settings.rounds}; median (min to max)",
        *([f"warning: {machine.warning}"] if machine.warning else []),
    ]
    for line in lines:
        console.print(line, highlight=False)
    for clients in settings.clients:
        console.print(_speed_table(measured, clients))
    console.print(_quality_table(measured))
    if bound:
        console.print(_allowed_table(bound))
    for line in crossovers(measured.figures):
        console.print(line, highlight=False)


def _speed_table(measured: "Comparison", clients: int) -> Any:
    from rich.table import Table

    from redraft.measure.report import cell

    table = Table(title=counted(clients, "client"), title_justify="left")
    for name in (
        "way",
        "tokens a second",
        "seconds to first text",
        "forwards an answer",
        "tokens a forward",
        "accepted",
    ):
        table.add_column(name, justify="left" if name == "way" else "right")
    for one in measured.figures:
        if one.clients == clients:
            accepted = f"{one.accepted_per_forward:.2f}" if one.way.mode == "speculative" else "-"
            cells = (cell(one.tokens_per_second), cell(one.first_text), f"{one.forwards:.1f}")
            table.add_row(one.way.name, *cells, f"{one.tokens_per_forward:.2f}", accepted)
    return table


def _quality_table(measured: "Comparison") -> Any:
    from rich.table import Table

    table = Table(title="answers, in the eyes of the causal mode, and of the task", title_justify="left")
    for name in ("way", "causal nats a token", "right", "what is wrong"):
        table.add_column(name, justify="left" if name in ("way", "what is wrong") else "right")
    for name, own in measured.quality.items():
        likely = "-" if own.logprob is None else f"{own.logprob:.3f}"
        right = "-" if own.right is None else f"{own.right:.1%}"
        wrong = ", ".join(f"{fault} {count}" for fault, count in sorted((own.faults or {}).items()))
        table.add_row(name, likely, right, wrong or "-")
    return table


def _allowed_table(bound: dict[str, dict[int, float]]) -> Any:
    from rich.table import Table

    from redraft.measure.report import short

    table = Table(title="tokens a second that bytes and products allow, by clients", title_justify="left")
    table.add_column("way")
    for clients in next(iter(bound.values())):
        table.add_column(str(clients), justify="right")
    for name, own in bound.items():
        table.add_row(name, *(short(value) for value in own.values()))
    return table
