"""``redraft info``: describes a checkpoint without loading its weights, and says what would compute it."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from redraft.kernels.packed import Format
    from redraft.models.checkpoint import Checkpoint
    from redraft.train.adapt import Base


def info(
    model: Annotated[
        str, typer.Argument(help="A bundled name, a checkpoint folder, a GGUF file, or a hub id.")
    ] = "sudoku",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a checkpoint's size, memory by part, sampling defaults, what of it is not supported, and the kernels in use.

    Example: redraft info sudoku
    """
    from redraft.models import checkpoint
    from redraft.train.adapt import is_base, read_base

    path = checkpoint.find(model)
    facts = describe_base(read_base(path, model)) if is_base(path) else describe(checkpoint.read(path))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for title, rows in facts.items():
        typer.echo(f"{title}")
        for name, value in rows.items():
            typer.echo(f"  {name:<29} {_shown(name, value)}")


# Measured on the bundled model and on random checkpoints; docs/checkpoints.md says how.
LOSSES: "dict[Format, str]" = {
    "float32": "exact",
    "bfloat16": "rounded: logits of random checkpoints off by 0.5 to 18 %, the Sudoku model solves 82.2 %, not 82.7 %",
    "int8": "lossy: logits of random checkpoints off by 2 to 29 %, the Sudoku model solves 81.8 %, not 82.7 %",
    "int4": "lossy: logits of random checkpoints off by 20 to 68 %, the Sudoku model solves 77.7 %, not 82.7 %",
}


def describe(found: "Checkpoint") -> dict[str, dict[str, object]]:
    """Return facts about a checkpoint, grouped; memory in bytes."""
    from redraft.models.sizing import kv_bytes_per_token, parameters, part_bytes

    config = found.config
    total, active = parameters(found)
    fixed, per_token = kv_bytes_per_token(found)
    sliding = {"sliding layers, about at most": fixed} if fixed else {}
    return {
        "checkpoint": {_kind(found.path): str(found.path), "architecture": found.architecture},
        "model": {
            "parameters": total,
            "active per token": active,
            "vocabulary": config.vocab_size,
            **found.family.describe(config),
            "canvas": config.canvas_length,
            "context": config.context_length,
            "stored as": _stored(found),
            "computed as (auto)": found.format("auto"),
        },
        "memory of the weights as computed, bytes": dict(part_bytes(found, found.format("auto"))),
        **({"other dtypes, bytes": _sizes(found)} if found.packed is None else {}),
        "memory of the KV cache, bytes": {**sliding, "full layers, per token": per_token},
        "sampling defaults": _sampling(found),
        **_unsupported(found),
        "kernels": _kernels(),
    }


def describe_base(base: "Base") -> dict[str, dict[str, object]]:
    """Return facts about an autoregressive checkpoint, and what can be made of it."""
    from math import prod

    stored: Counter[str] = Counter()
    for tensor in base.tensors.values():
        stored[tensor.quantised or str(tensor.dtype).removeprefix("torch.")] += prod(tensor.shape)
    return {
        "checkpoint": {
            _kind(base.path): str(base.path),
            "architecture": f"{base.architecture}, which is autoregressive: it writes token by token",
            "to use it": f"redraft adapt {base.name} --out DIR, then train it to denoise",
        },
        "model": {
            "parameters": sum(stored.values()),
            "vocabulary": base.config["vocab_size"],
            "hidden size": base.config["hidden_size"],
            "layers": base.config["num_hidden_layers"],
            "context": base.config["max_position_embeddings"],
            "stored as": stored.most_common(1)[0][0],
        },
    }


def _kind(path: "Path") -> str:
    return "folder" if path.is_dir() else "file"


def _stored(found: "Checkpoint") -> str:
    """Return the format of most weights, as the files have them."""
    if found.packed is not None:
        return f"{found.packed}, packed for the kernels"
    return found.quantised or str(found.stored).removeprefix("torch.")


def _sizes(found: "Checkpoint") -> dict[str, object]:
    from redraft.models.sizing import part_bytes

    return {format: f"{sum(part_bytes(found, format).values()):,}, {loss}" for format, loss in LOSSES.items()}


def _sampling(found: "Checkpoint") -> dict[str, object]:
    defaults = found.defaults
    return {
        "denoising steps at most": defaults.max_denoising_steps,
        **(
            {"entropy bound": f"{defaults.entropy_bound} nats a canvas"}
            if defaults.acceptance is None
            else {"accepts by": str(defaults.acceptance)}
        ),
        "temperature": f"{defaults.t_max} to {defaults.t_min}",
        "stops when": "every position has its token"
        if found.family.corruption(found.config).monotone
        else f"the argmax canvas is unchanged for {defaults.stability_threshold} step(s) and the mean entropy is below "
        f"{defaults.confidence_threshold} nats",
        "end tokens": ", ".join(map(str, defaults.end_token_ids)),
    }


def _kernels() -> dict[str, object]:
    from redraft.kernels.library import status

    now = status()
    return {
        "in use": now.tier,
        "because": now.reason,
        "best of this processor": now.best_tier or "not known without the library",
        "threads": now.threads or "torch's",
    }


def _unsupported(found: "Checkpoint") -> dict[str, dict[str, object]]:
    from redraft.models.family import TIED_COPY

    parts = Counter(part for name in found.unused if (part := found.family.unused_part(name)) != TIED_COPY)
    rows: dict[str, object] = {f"{part} tensors, not loaded": count for part, count in parts.items()}
    if found.config.image_token_ids:
        rows = {"images": "refused; image tokens in a prompt are an error", **rows}
    return {"not supported": rows} if rows else {}


def _shown(name: str, value: object) -> str:
    if not isinstance(value, int):
        return str(value)
    return f"{value:,}"
