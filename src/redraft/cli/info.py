"""``redraft info``: what a checkpoint is, without loading its weights, and what would compute it."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from redraft.kernels.packed import Format
    from redraft.models.checkpoint import Checkpoint


def info(
    model: Annotated[str, typer.Argument(help="A bundled name, a checkpoint folder, or a hub id.")] = "sudoku",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a checkpoint's size, memory by part, sampling defaults, what of it is not supported, and the kernels in use.

    Example: redraft info sudoku
    """
    from redraft.models import checkpoint

    found = checkpoint.read(checkpoint.find(model))
    facts = describe(found)
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
    "bfloat16": "rounded: logits of random checkpoints off by 0.5 to 18 %, hard Sudokus solved 82.2 % (float32 82.7 %)",
    "int8": "lossy: logits of random checkpoints off by 2 to 29 %, hard Sudokus solved 81.8 % (float32 82.7 %)",
    "int4": "lossy: logits of random checkpoints off by 20 to 68 %, hard Sudokus solved 65.8 % (float32 82.7 %)",
}


def describe(found: "Checkpoint") -> dict[str, dict[str, object]]:
    """Facts about a checkpoint, grouped; memory in bytes."""
    from redraft.models.sizing import kv_bytes_per_token, parameters, part_bytes

    config, defaults = found.config, found.defaults
    total, active = parameters(found)
    full = sum(spec.window is None for spec in config.layers)
    windows = sorted({spec.window for spec in config.layers if spec.window is not None})
    unsupported = {} if not found.unused else _unsupported(found)
    fixed, per_token = kv_bytes_per_token(found)
    return {
        "checkpoint": {"folder": str(found.folder), "architecture": found.architecture},
        "model": {
            "parameters": total,
            "active per token": active,
            "vocabulary": config.vocab_size,
            "hidden size": config.hidden_size,
            "layers": f"{len(config.layers)} ({full} full, {len(config.layers) - full} sliding"
            + (f" with window {', '.join(map(str, windows))})" if windows else ")"),
            "experts": f"{config.num_experts}, {config.top_k_experts} per token",
            "canvas": config.canvas_length,
            "context": config.context_length,
            "stored as": str(next(iter(found.tensors.values())).dtype).removeprefix("torch."),
            "computed as (auto)": found.format("auto"),
        },
        "memory of the weights as computed, bytes": dict(part_bytes(found, found.format("auto"))),
        "other dtypes, bytes": {
            format: f"{sum(part_bytes(found, format).values()):,}, {loss}" for format, loss in LOSSES.items()
        },
        "memory of the KV cache, bytes": {"sliding layers, about at most": fixed, "full layers, per token": per_token},
        "sampling defaults": {
            "denoising steps at most": defaults.max_denoising_steps,
            "entropy bound": f"{defaults.entropy_bound} nats a canvas",
            "temperature": f"{defaults.t_max} to {defaults.t_min}",
            "stops when": f"the argmax canvas is unchanged for {defaults.stability_threshold} step(s) and the mean "
            f"entropy is below {defaults.confidence_threshold} nats",
            "end tokens": ", ".join(map(str, defaults.end_token_ids)),
        },
        "not supported": {"images": "refused; image tokens in a prompt are an error", **unsupported},
        "kernels": _kernels(),
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


def _unsupported(found: "Checkpoint") -> dict[str, object]:
    from redraft.models.diffusion_gemma.model import DiffusionGemma

    vision = [name for name in found.unused if DiffusionGemma.unused_part(name) == "vision"]
    return {"vision tensors, not loaded": len(vision)} if vision else {}


def _shown(name: str, value: object) -> str:
    if not isinstance(value, int):
        return str(value)
    return f"{value:,}"
