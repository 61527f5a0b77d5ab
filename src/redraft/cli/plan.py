"""``redraft plan``: what a checkpoint takes on this machine, before its weights are fetched or read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer

from redraft.cli import options, printing, settings, talk
from redraft.errors import counted

if TYPE_CHECKING:
    from redraft.measure.plan import Plan, Times, Work
    from redraft.models.checkpoint import DType

DOES_NOT_FIT = 3
"""The exit code for what does not fit; 1 is an error."""
_NAME = 26


def plan(
    model: Annotated[
        str | None, typer.Argument(help="A bundled name, a checkpoint folder, a GGUF file, or a hub id.")
    ] = None,
    revision: options.Revision = None,
    dtype: options.DTypeOption = "auto",
    device: options.Device = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompt and answer of each request; by default 1024.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    answer: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer; by default a canvas.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps of a canvas; by default 16.")] = None,
    memory: options.MemoryOption = None,
    pack_folder: options.PackFolderOption = None,
    threads: options.Threads = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Measure how long it takes, on a sample.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a model takes here, what would fit, and how long an answer takes. Nothing of its weights is fetched.

    Exit code 0 if it fits, 3 if it does not. Times are estimates, of a sample with random numbers measured now.

    Example: redraft plan google/diffusiongemma-26B-A4B-it --memory 24GB --no-time
    """
    name = options.model_name(model)
    limit = options.memory_limit(memory)
    from redraft.kernels.library import use_threads
    from redraft.measure.plan import plan as make_plan

    if threads is not None:
        use_threads(threads)
    place = settings.setting("pack_folder").value if pack_folder is None else pack_folder
    found = make_plan(
        name,
        revision=revision,
        dtype=cast("DType", dtype),
        device=settings.setting("device").value if device is None else device,
        context=context,
        concurrency=concurrency,
        answer=answer,
        steps=steps,
        memory=limit,
        pack_folder=None if place == "none" else place,
        timed=time,
    )
    if as_json:
        typer.echo(json.dumps(as_object(found), indent=2))
    else:
        for title, rows in sections(found):
            typer.echo(title)
            for row, value in rows.items():
                typer.echo("\n".join(printing.row(row, value, _NAME)))
        if found.warning is not None:
            talk.note(f"warning: {found.warning}")
    if not found.fits:
        raise typer.Exit(DOES_NOT_FIT)


def as_object(found: "Plan") -> dict[str, object]:
    """Return a plan as ``--json`` prints it: sizes in bytes, times in seconds."""
    return {
        **asdict(found),
        "footprint": {**asdict(found.footprint), "running": found.footprint.running, "needed": found.footprint.needed},
        "fits": found.fits,
        "fits_memory": found.fits_memory,
        "fits_disk": found.fits_disk,
        "faster": found.faster,
        "best_copy": None if found.best_copy is None else found.best_copy.name,
        "estimate": True,
    }


def sections(found: "Plan") -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield a plan as people read it: titles, and rows of a name and a text."""
    yield found.source, {"shapes from": found.origin, "computed as": f"{found.dtype} on {found.device}, {found.reason}"}
    yield "memory", _memory(found)
    yield "disk", _disk(found)
    if not found.fits:
        yield "what fits", _alternatives(found)
    yield from _times(found)
    for mode, work in found.work.items():
        yield f"a forward of mode {mode}", _work(work)
    if found.copies:
        best = "none fits" if found.best_copy is None else f"{found.best_copy.name} ({found.best_copy.stored})"
        yield "published copies of it", {"to fetch for this memory": best}
        for copy in found.copies:
            size, needed = printing.size(copy.fetched), printing.size(copy.memory)
            does = "fits" if copy.fits else "does not fit"
            yield (
                f"  {copy.name}",
                {f"  {copy.stored}": f"{size} to fetch; as {copy.dtype} ({copy.kept}) it takes {needed}: {does}"},
            )


def _memory(found: "Plan") -> dict[str, str]:
    own, size = found.footprint, printing.size
    requests = f"{counted(found.concurrency, 'request')} of {counted(found.context, 'token')}"
    left = "nobody can tell" if found.memory is None else f"{size(found.memory.free)} ({found.memory.limit})"
    return {
        "weights": size(own.weights),
        "keys and values": f"{size(own.keys_values)} ({requests})",
        "scratch": size(own.scratch),
        "tokenizer": size(own.tokenizer),
        "all of it": size(own.running),
        **({"while it is packed": size(own.packing)} if own.packing else {}),
        "there is": left,
        "fits": "yes" if found.fits_memory else "no",
    }


def _disk(found: "Plan") -> dict[str, str]:
    size = printing.size
    return {
        "to be fetched": size(found.fetched) if found.fetched else "nothing",
        "packed weights": size(found.footprint.packed_file) if found.footprint.packed_file else "none are made",
        "free": size(found.free_disk),
        "fits": "yes" if found.fits_disk else "no",
    }


def _alternatives(found: "Plan") -> dict[str, str]:
    if found.fits_memory:
        best = "" if found.best_copy is None else f"{found.best_copy.name} ({found.best_copy.stored}), or "
        return {"": f"{best}a disk with more room"}
    if not found.alternatives:
        return {"": "nothing smaller of it"}
    return {f"{number}.": one.words for number, one in enumerate(found.alternatives, 1)}


def _times(found: "Plan") -> Iterator[tuple[str, Mapping[str, str]]]:
    if not found.times:
        yield "time", {"": f"not estimated: {found.not_timed}"}
        return
    prompt = found.context - found.answer
    title = (
        f"time, estimated (answers of {counted(found.answer, 'token')} to prompts of {prompt:,}, "
        f"{counted(found.concurrency, 'at a time', 'at a time')})"
    )
    rows = {"measured now with": f"{found.kernels}, on a sample of it"}
    for mode, times in found.times.items():
        rows |= _of_mode(mode, times, found)
    if found.faster is not None:
        other = next(times for mode, times in found.times.items() if mode != found.faster)
        ratio = other.answer / found.times[found.faster].answer
        rows["faster here"] = f"{found.faster}, {ratio:.1f} times"
    yield title, rows


def _of_mode(mode: str, times: "Times", found: "Plan") -> dict[str, str]:
    each = f"{counted(found.steps, 'step')} of {seconds(times.forward)} a canvas"
    if mode != "diffusion":
        each = f"{seconds(times.forward)} a token"
    answer = f"{seconds(times.answer)} an answer, {times.tokens_per_second:.3g} tokens a second ({each}"
    return {mode: f"{answer}; prompt {seconds(times.prompt)})"}


def _work(work: "Work") -> dict[str, str]:
    experts = "" if work.experts is None else f", {work.experts:.0%} of the experts"
    return {
        "rows": f"{work.rows:,}{experts}",
        "reads": f"{printing.size(work.bytes)}, {printing.size(round(work.bytes / work.tokens))} a token",
        "multiply-adds": f"{printing.quantity(work.multiply_adds)}, "
        f"{printing.quantity(round(work.multiply_adds / work.tokens))} a token",
    }


def seconds(value: float) -> str:
    """Write a time as a person reads it: "3.2 ms", "0.85 s", "12 s", "4.5 min"."""
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    if value < 100:
        return f"{value:.2g} s"
    return f"{value / 60:.2g} min" if value < 6000 else f"{value / 3600:.2g} h"
