"""``redraft bench``: measures a checkpoint's speed here, against ``transformers``, medians with their spread."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from redraft.cli import options
from redraft.cli.modes import Given, run
from redraft.errors import RedraftError, RequestError
from redraft.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

    from redraft.measure.report import BenchmarkSettings, Report
    from redraft.measure.worker import ContenderSpec
    from redraft.measure.workload import Workload
    from redraft.models.checkpoint import Checkpoint

DEFAULT_PROMPT_TOKENS = 256
REFERENCE_DTYPES = ("float32", "bfloat16")


class MallocOption(StrEnum):
    """Settings of glibc's malloc for all contenders."""

    tuned = "tuned"
    default = "default"


def bench(
    model: options.Model = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="A dtype to measure; may be repeated. By default auto.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Counted rounds, 3 or more; one more warms up.")] = 5,
    prompt: Annotated[str | None, typer.Option(help="A user's chat message; by default random tokens.")] = None,
    prompt_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="Length of a random prompt; may be repeated. By default 256.")
    ] = None,
    max_tokens: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Length of an answer; may be repeated. By default 20, 100 and a canvas."),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Steps of every canvas, for equal work; by default the checkpoint's own stopping. With --modes the "
            "most that a canvas may take; may be repeated then.",
        ),
    ] = None,
    modes: Annotated[
        bool, typer.Option("--modes", help="Compare the ways in which the checkpoint can write, at so many clients.")
    ] = False,
    mode: Annotated[
        list[options.Mode] | None, typer.Option(help="With --modes: compare these alone; may be repeated.")
    ] = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, max=256, help="With --modes: clients at once; may be repeated. 1, 4, 16.")
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(help="With --modes: prompts with what is right, as redraft evaluate takes them: JSON lines."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="With --modes: of all ways; by default the checkpoint's own, in each mode.")
    ] = None,
    against_transformers: Annotated[
        bool | None,
        typer.Option(
            "--against-transformers/--no-against-transformers",
            help="Measure transformers too, in float32 and bfloat16; by default if it is installed.",
        ),
    ] = None,
    malloc: Annotated[
        MallocOption | None,
        typer.Option(help="glibc's thresholds for all contenders; by default tuned, which helps the reference."),
    ] = None,
    draft_model: options.DraftModelOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this JSON file.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw seconds per answer: .png, .svg, .pdf.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides random prompts and noise.")] = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Measure answers in alternation: medians with their spread, never a single best time.

    Each contender runs in a process of its own. Give --steps to compare engines at equal work, leave it out to see
    what the checkpoint's own stopping makes of it.

    With --modes the contenders are the ways in which one checkpoint can write, at several numbers of clients: diffusion
    at several numbers of steps, token after token, and drafts that the latter verifies.

    Example: redraft bench --model sudoku --dtype float32 --dtype bfloat16 --json bench.json
    """
    if modes:
        of_engines = {"--plot": plot_file, "--malloc": malloc, "--against-transformers": against_transformers}
        _refuse(of_engines, "compares engines, and cannot be given with --modes")
        lists = {"--dtype": dtype, "--prompt-tokens": prompt_tokens, "--max-tokens": max_tokens}
        _refuse_several(lists, "with --modes it is the same for all ways")
        _compare_modes(
            Given(
                model=options.model_name(model),
                dtype=dtype[0] if dtype else "auto",
                rounds=rounds,
                prompt=prompt,
                prompt_tokens=prompt_tokens[0] if prompt_tokens else None,
                max_tokens=max_tokens[0] if max_tokens else None,
                steps=steps or [],
                modes=[one.value for one in mode or []],
                clients=clients or [],
                task=task,
                temperature=temperature,
                draft_model=draft_model,
                json_file=json_file,
                seed=seed,
                device=options.device_name(device),
                threads=threads,
            )
        )
        return
    of_modes = {"--mode": mode, "--clients": clients, "--task": task, "--temperature": temperature}
    _refuse({**of_modes, "--draft-model": draft_model}, "is for --modes")
    _refuse_several({"--steps": steps}, "without --modes every canvas takes the same number of steps")
    _compare_engines(
        model, dtype or ["auto"], rounds, prompt, prompt_tokens, max_tokens, steps[0] if steps else None,
        against_transformers, malloc, json_file, plot_file, seed, options.device_name(device), threads,
    )  # fmt: skip


def _compare_engines(
    model: str | None,
    dtypes: list[str],
    rounds: int,
    prompt: str | None,
    prompt_tokens: list[int] | None,
    max_tokens: list[int] | None,
    steps: int | None,
    against_transformers: bool | None,
    malloc: MallocOption | None,
    json_file: Path | None,
    plot_file: Path | None,
    seed: int,
    device: str,
    threads: int | None,
) -> None:
    from redraft.calibrate.plot import check_plot
    from redraft.loading import check_device
    from redraft.measure import machine, timing
    from redraft.measure.plot import plot
    from redraft.measure.report import BenchmarkSettings
    from redraft.models import checkpoint

    timing.check_rounds(rounds)
    for path in (json_file, plot_file):
        if path is not None:
            options.check_output(path)
    if plot_file is not None:
        check_plot(plot_file)
    allocation = machine.malloc(cast(machine.MallocChoice | None, malloc))
    check_device(device)
    if device not in ("auto", "cpu"):
        if against_transformers:
            raise RequestError(f"the reference is measured on the CPU only; leave out --device {device}")
        against_transformers = False
    name = options.model_name(model)
    found = checkpoint.read(checkpoint.find(name))
    if "diffusion" not in found.family.modes:
        raise RequestError(f"{name} has no canvas, whose steps are measured; to measure how it writes, give --modes")
    workloads = _workloads(found, prompt, prompt_tokens, max_tokens, steps, seed)
    specs, remarks = _contenders(found, dtypes, against_transformers, threads)
    specs = {name: replace(spec, device=device) for name, spec in specs.items()}
    described = "random tokens" if prompt is None else f"{prompt!r} as a chat message"
    report = _run(specs, workloads, BenchmarkSettings(name, rounds, seed, described, allocation, remarks))
    # Files first: a reader of the tables may go away.
    if json_file is not None:
        write_text(json_file, json.dumps(report.as_object(), indent=2) + "\n")
    if plot_file is not None:
        plot(report, plot_file)
    report.print(_console())


def _refuse_several(given: Mapping[str, Sequence[object] | None], why: str) -> None:
    """Refuse an option that was given more than once."""
    for option, values in given.items():
        if values is not None and len(values) > 1:
            raise RequestError(f"{option} is given {len(values)} times; {why}")


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Refuse an option that was given and is not None."""
    for option, value in given.items():
        if value is not None:
            raise RequestError(f"{option} {why}; leave it out")


def _compare_modes(given: Given) -> None:
    if given.json_file is not None:
        options.check_output(given.json_file)
    run(given, _console(), _progress)


def _workloads(
    found: "Checkpoint",
    prompt: str | None,
    prompt_tokens: list[int] | None,
    max_tokens: list[int] | None,
    steps: int | None,
    seed: int,
) -> "list[Workload]":
    """Pair every prompt with every answer length, short ones first, so that peaks of memory grow with the work."""
    from redraft.measure.workload import Workload, answer_lengths, check_room, random_prompt
    from redraft.models.tokenizer import ChatTokenizer

    if prompt is not None:
        if prompt_tokens:
            raise RequestError("give --prompt or --prompt-tokens, not both: a prompt has the length it has")
        message = {"role": "user", "content": prompt}
        tokenizer = ChatTokenizer.from_checkpoint(found.path)
        ending = tokenizer.empty_thought(found.config.thought_syntax)
        prompts = [tuple(tokenizer.encode_chat([message], ending=ending))]
    else:
        prompts = [random_prompt(found, n, seed) for n in sorted(set(prompt_tokens or [DEFAULT_PROMPT_TOKENS]))]
    lengths = sorted(set(max_tokens or answer_lengths(found.config.canvas_length)))
    return [check_room(found, Workload(tokens, length, steps)) for tokens in prompts for length in lengths]


def _contenders(
    found: "Checkpoint", dtypes: list[str], against_transformers: bool | None, threads: int | None
) -> "tuple[dict[str, ContenderSpec], tuple[str, ...]]":
    """Return what runs, by name, and remarks about what does not."""
    from redraft.measure.machine import transformers_fault
    from redraft.measure.worker import ContenderSpec
    from redraft.models.checkpoint import DType

    known, folder = get_args(DType), str(found.path)
    specs: dict[str, ContenderSpec] = {}
    for dtype in dtypes:
        if dtype not in known:
            raise RequestError(f"dtype {dtype!r} is not supported; choose from {', '.join(known)}")
        name = f"redraft {dtype}"
        if dtype == "auto":
            name += f" ({found.format('auto')})"
        if name in specs:
            raise RequestError(f"dtype {dtype!r} is given twice; each is one contender")
        specs[name] = ContenderSpec("redraft", folder, dtype, threads)
    if against_transformers is False:
        return specs, ()
    fault = transformers_fault(found)
    if fault is not None:
        if against_transformers:
            raise RequestError(fault)
        return specs, (f"not measured against transformers: {fault}",)
    return specs | {
        f"transformers {dtype}": ContenderSpec("transformers", folder, dtype, threads) for dtype in REFERENCE_DTYPES
    }, ()


def _run(specs: "dict[str, ContenderSpec]", workloads: "list[Workload]", settings: "BenchmarkSettings") -> "Report":
    """Start every contender, one after the other, and measure."""
    from redraft.measure import machine
    from redraft.measure.benchmark import measure
    from redraft.measure.process import ContenderError, ProcessContender
    from redraft.measure.report import Report

    # Described first: loading the contenders is load, too.
    described = machine.describe()
    theirs = [name for name, spec in specs.items() if spec.implementation == "transformers"]
    runs = len(specs) * (1 + len(workloads) * (settings.rounds + 1))
    try:
        with ExitStack() as running, _progress(runs) as advance:
            contenders = {}
            for name, spec in specs.items():
                contenders[name] = running.enter_context(ProcessContender(name, spec, settings.malloc.environment))
                advance()
            measurements = measure(
                contenders, theirs or list(specs)[:1], workloads, settings.rounds, settings.seed, on_run=advance
            )
    except ContenderError as error:
        if error.contender in theirs:
            raise RedraftError(f"{error}; --no-against-transformers measures without it") from error
        raise
    return Report(described, settings, {name: c.loaded for name, c in contenders.items()}, measurements)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error, in a terminal; yields what advances it by one contender loaded or answer given."""
    from rich.console import Console
    from rich.progress import Progress

    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("loading and measuring", total=total)
        yield lambda: bar.advance(task)


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=140, soft_wrap=True)
