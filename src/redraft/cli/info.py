"""``redraft info``: describes a checkpoint without loading its weights, and says what would compute it."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, printing, settings
from redraft.errors import CheckpointError, counted

if TYPE_CHECKING:
    from redraft.canvas.acceptance import AcceptanceRule
    from redraft.canvas.corruption import Corruption
    from redraft.kernels.packed import Format
    from redraft.models.checkpoint import Checkpoint
    from redraft.models.sampling import SamplingDefaults
    from redraft.models.tokenizer import ChatTokenizer
    from redraft.train.adapt import Base

Facts = dict[str, dict[str, object]]
_NAME = 26


class Bytes(int):
    """A size: a number of bytes in JSON, in text as people read it."""


class Quantity(int):
    """A large count: a number in JSON, in text as people read it."""


def info(
    model: Annotated[
        str | None, typer.Argument(help="A bundled name, a checkpoint folder, a GGUF file, or a hub id.")
    ] = None,
    revision: options.Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a checkpoint's size, memory by part, sampling defaults, what of it is not supported, and the kernels in use.
    Of the hub only its configuration and the headers of its weights are read.

    Example: redraft info sudoku
    """
    from redraft.models import checkpoint
    from redraft.train.adapt import is_base, read_base

    name = options.model_name(model)
    with _opened(name, revision) as (path, of_hub):
        facts = describe_base(read_base(path, name)) if is_base(path) else describe(checkpoint.read(path))
        if of_hub:
            facts["checkpoint"] = {**of_hub, "architecture": facts["checkpoint"]["architecture"]}
    facts["defaults of commands"] = _defaults()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for title, rows in facts.items():
        typer.echo(title)
        for row, value in rows.items():
            typer.echo("\n".join(printing.row(row, _shown(value), _NAME)))


@contextmanager
def _opened(name: str, revision: str | None) -> "Iterator[tuple[Path, dict[str, object]]]":
    """Return where a checkpoint can be described, and what of it is to be said if that is not the whole."""
    from redraft.models import checkpoint, hub

    here = checkpoint.find_local(name)
    if here is not None:
        yield checkpoint.find(name, revision), {}
        return
    cached = hub.find_cached(name, revision)
    if cached is not None:
        yield cached, {}
        return
    found = hub.survey(name, revision)
    hub.judge(found, bases=True)
    with hub.headers(found) as path:
        size = Bytes(sum(found.fetched.values()))
        yield path, {"on the hub": name, "revision": found.commit, "to be fetched": size}


_LOSSES: "dict[Format, str]" = {
    "float32": "exact",
    "bfloat16": "rounded",
    "int8": "lossy, little",
    "int4": "lossy",
}


def describe(found: "Checkpoint") -> Facts:
    """Return facts about a checkpoint, grouped; sizes in bytes."""
    from redraft.loading import why_device
    from redraft.models.choice import choose
    from redraft.models.sizing import kv_bytes_per_token, parameters, part_bytes
    from redraft.room import allowed

    config, choice = found.config, choose(found, memory=allowed("auto"))
    total, active = parameters(found)
    fixed, per_token = kv_bytes_per_token(found)
    sliding = {"sliding layers, at most": Bytes(fixed)} if fixed else {}
    parts = part_bytes(found, choice.format)
    return {
        "checkpoint": {_kind(found.path): str(found.path), "architecture": found.architecture},
        "model": {
            "parameters": Quantity(total),
            "active per token": Quantity(active),
            "vocabulary": config.vocab_size,
            **found.family.describe(config),
            "modes": ", ".join(found.family.modes),
            **({"canvas": config.canvas_length} if config.canvas_length else {}),
            "context": config.context_length,
            "stored as": _stored(found),
            "computed as (auto)": choice.format if choice.usual else f"{choice.format}, {choice.reason}",
            "runs on (auto)": why_device(found),
        },
        f"weights in memory, {choice.format}": {
            "all": Bytes(sum(parts.values())),
            **{part: Bytes(size) for part, size in parts.items()},
        },
        **_becomings(found, choice.format),
        **({"all weights by dtype": _sizes(found)} if found.packed is None else {}),
        "keys and values in memory": {**sliding, "full layers, per token": Bytes(per_token)},
        "sampling defaults": _sampling(found, _tokenizer(found.path)),
        **_unsupported(found),
        "kernels": _kernels(),
    }


def _defaults() -> dict[str, object]:
    """Return what a command without these options takes, and where that was said."""
    found = {name: settings.setting(name) for name in settings.BUILT_IN}
    shown: dict[str, object] = {name.replace("_", "-"): f"{one.value} ({one.origin})" for name, one in found.items()}
    return {**shown, "settings file": str(settings.config_file())}


def describe_base(base: "Base") -> Facts:
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
            "parameters": Quantity(sum(stored.values())),
            "vocabulary": base.config["vocab_size"],
            "hidden size": base.config["hidden_size"],
            "layers": base.config["num_hidden_layers"],
            "context": base.config["max_position_embeddings"],
            "stored as": stored.most_common(1)[0][0],
        },
    }


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file"


def _stored(found: "Checkpoint") -> str:
    """Return the format of most weights, as the files have them."""
    if found.packed is not None:
        return f"{found.packed}, packed for the kernels"
    return found.quantised or str(found.stored).removeprefix("torch.")


def _becomings(found: "Checkpoint", format: "Format") -> "dict[str, dict[str, object]]":
    """Say what becomes of a quantised copy's numbers; nothing of a checkpoint that is none."""
    from redraft.models.kept import becomings

    listed = becomings(found, format) if found.packed is None else []
    total, rows = sum(one.weights for one in listed), dict[str, object]()
    for one in listed:
        name, share = one.stored or "not quantised", f"{one.weights / total:.1%} of the weights"
        own = share if one.stored is None else f"{share} {one.becomes}"
        rows[name] = f"{rows[name]}; {own}" if name in rows else own
    return {"quantised weights, as computed (auto)": rows} if len(rows) > 1 or "not quantised" not in rows else {}


def _sizes(found: "Checkpoint") -> dict[str, object]:
    from redraft.models.sizing import part_bytes

    return {f"{format}, {loss}": Bytes(sum(part_bytes(found, format).values())) for format, loss in _LOSSES.items()}


def _tokenizer(path: Path) -> "ChatTokenizer | None":
    """Return what names tokens; None where the checkpoint's tokenizer is not here or cannot be read."""
    from redraft.models.tokenizer import ChatTokenizer

    try:
        return ChatTokenizer.from_checkpoint(path)
    except CheckpointError:
        return None


def _token(token: int, tokenizer: "ChatTokenizer | None") -> str:
    name = None if tokenizer is None else tokenizer.tokenizer.id_to_token(token)
    return f"id {token}" if name is None else f"{name} (id {token})"


def _sampling(found: "Checkpoint", tokenizer: "ChatTokenizer | None") -> dict[str, object]:
    defaults = found.defaults
    corruption = found.family.corruption(found.config)
    ends = ", ".join(_token(token, tokenizer) for token in defaults.end_token_ids) or "none"
    if corruption is None:
        return {"tokens one by one": _one_by_one(defaults.sampling), "end tokens": ends}
    drawn = {"tokens one by one": _one_by_one(defaults.sampling)} if "autoregressive" in found.family.modes else {}
    return {
        "denoising steps, at most": defaults.max_denoising_steps,
        **(
            {"entropy bound": f"{defaults.entropy_bound:g} nats a canvas"}
            if defaults.acceptance is None
            else {"accepts": _accepts(defaults.acceptance)}
        ),
        "temperature": f"from {defaults.t_max:g} down to {defaults.t_min:g}",
        "stops when": "every position has its token"
        if corruption.monotone
        else f"the argmax canvas is unchanged for {counted(defaults.stability_threshold, 'step')} and the mean entropy "
        f"is below {defaults.confidence_threshold:g} nats",
        **drawn,
        **({} if corruption.mask is None else {"mask token": _token(corruption.mask, tokenizer)}),
        **_order(corruption),
        "end tokens": ends,
    }


def _one_by_one(sampling: "SamplingDefaults") -> str:
    """Say in words how tokens are drawn one by one."""
    own = sampling.as_object()
    greedy = own.pop("do_sample", True) is False
    heat = "the likeliest" if greedy else f"temperature {own.pop('temperature', 1.0):g}"
    return ", ".join([heat, *(f"{name} {value:g}" for name, value in own.items())])


def _order(corruption: "Corruption") -> dict[str, object]:
    """Say in words in which order masks are revealed, where there is one."""
    from redraft.canvas.corruption import AbsorbingCorruption

    if isinstance(corruption, AbsorbingCorruption) and corruption.order == "left-to-right":
        return {"reveals": "every gap from its beginning on, one token a step or more"}
    return {}


def _accepts(rule: "AcceptanceRule") -> str:
    """Say in words which positions a rule accepts."""
    from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound

    match rule:
        case ConfidenceThreshold(threshold):
            return f"positions whose likeliest token has probability {threshold:g} or more, and always the surest"
        case EntropyBound(bound):
            return f"the surest positions, up to {bound:g} nats a step"
    return type(rule).__name__


def _kernels() -> dict[str, object]:
    from redraft.kernels.library import status

    now = status()
    return {
        "in use": now.tier,
        "because": now.reason,
        "best of this processor": now.best_tier or "not known without the library",
        "threads": now.threads or "torch's",
        "of a card": _card(),
    }


def _card() -> str:
    import torch

    from redraft.kernels.triton.status import status

    if not torch.cuda.is_available():
        return "no card"
    found = status("cuda")
    return f"triton: {found.reason}" if found.used else f"torch: {found.reason}"


def _unsupported(found: "Checkpoint") -> dict[str, dict[str, object]]:
    from redraft.models.family import TIED_COPY

    parts = Counter(part for name in found.unused if (part := found.family.unused_part(name)) != TIED_COPY)
    rows: dict[str, object] = {f"{part} tensors, not loaded": count for part, count in parts.items()}
    if found.config.image_token_ids:
        rows = {"images": "refused; image tokens in a prompt are an error", **rows}
    unread = [*found.defaults.sampling.unread]
    if "autoregressive" not in found.family.modes:
        unread = [f"{name} {value}" for name, value in found.defaults.sampling.as_object().items()] + unread
    if unread:
        rows["of generation_config.json"] = f"not read: {', '.join(unread)}"
    return {"not supported": rows} if rows else {}


def _shown(value: object) -> str:
    """Write a value as a person reads it."""
    match value:
        case Bytes():
            return printing.size(value)
        case Quantity():
            return printing.quantity(value)
        case int():
            return f"{value:,}"
    return str(value)
