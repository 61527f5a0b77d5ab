"""Packed weights on disk: packed once beside their checkpoint, mapped at every later load."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from redraft.errors import CheckpointError
from redraft.files import replacing
from redraft.formats.source import is_single_file
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.checkpoint import Checkpoint
from redraft.models.family import PlainModel
from redraft.models.packed import PackedModel
from redraft.models.packed_folder import LAYOUTS, read_matrices
from redraft.models.sizing import part_bytes

FOLDER = ".redraft"
# Smaller models are packed anew each time, in less time than a person notices.
CACHED_FROM = 64 << 20

PackFolder = str | Path | None
"""The folder that packed weights are kept in; "auto" for the usual places, None for nowhere."""


@dataclass(frozen=True)
class PackingStep:
    """The packing of large weights, and how far it has come."""

    source: Path
    """The checkpoint."""
    format: Format
    done: int
    """Bytes that are packed."""
    total: int
    """About as many as there will be."""
    folder: Path | None
    """The folder that they will be kept in for the next load; None where they will not be."""
    reason: str
    """Why they will not be kept."""


OnPacking = Callable[[PackingStep], None]
"""Called before the first matrix is packed, and after each."""


def load_packed(
    found: Checkpoint,
    format: Format,
    options: Mapping[str, object] | None = None,
    cached_from: int = CACHED_FROM,
    *,
    pack_folder: PackFolder = "auto",
    on_packing: OnPacking | None = None,
) -> PackedModel:
    """Load ``found`` in ``format``; packed weights of ``cached_from`` bytes or more are kept for the next load.
    ``options`` are the family's own.

    pack_folder "auto": they lie in ``.redraft`` in the checkpoint's folder, or, where that cannot be written or has no
    room, in the user's cache folder ($XDG_CACHE_HOME/redraft, by default ~/.cache/redraft). Another is the folder that
    they lie in, and None keeps none. on_packing: told before the first matrix is packed and after each, if so much is
    packed. A cache that belongs to other weight files is replaced; one that cannot be written or read is a warning,
    not an error.
    """
    model = found.load_beside(format, options)
    if found.packed is not None:
        return _of_folder(found, found.packed, model)
    name, key = f"{format}-{LAYOUTS[format]}.pt", _fingerprint(found)
    places = _places(found.path, pack_folder)
    for folder in places:
        matrices = _read(folder / name, key)
        if matrices is not None:
            return found.family.packed(model, matrices, format)
    plan = _plan(found, format, places)
    large = plan.total >= cached_from
    matrices = _pack(found, format, plan, on_packing if large else None)
    if sum(matrix.nbytes for matrix in matrices.values()) >= cached_from and places:
        rooms = [place for place in places if _room(place) >= plan.total]
        if rooms:
            _write(rooms, name, key, matrices)
        else:
            warnings.warn(f"packed weights are not kept, the next load packs again: {plan.reason}", stacklevel=3)
    return found.family.packed(model, matrices, format)


def _plan(found: Checkpoint, format: Format, places: Sequence[Path]) -> PackingStep:
    """Say what will be packed, and which of ``places`` has room for it."""
    total = sum(part_bytes(found, format).values())
    free = {place: _room(place) for place in places}
    folder = next((place for place, bytes in free.items() if bytes >= total), None)
    full = "; ".join(f"{place} has {bytes / 1e9:.1f} GB free of {total / 1e9:.1f}" for place, bytes in free.items())
    return PackingStep(found.path, format, 0, total, folder, "" if folder is not None else full or "as was asked for")


def _pack(
    found: Checkpoint, format: Format, step: PackingStep, on_packing: OnPacking | None
) -> dict[str, PackedMatrix]:
    """Pack one matrix at a time: what is read for it, or dequantised, never is in memory whole."""
    matrices: dict[str, PackedMatrix] = {}
    if on_packing is not None:
        on_packing(step)
    with found.weights() as weights:
        for name, matrix in found.family.pack(weights, found.config, format):
            matrices[name] = matrix
            step = replace(step, done=step.done + matrix.nbytes)
            if on_packing is not None:
                on_packing(step)
    return matrices


def _places(path: Path, pack_folder: PackFolder) -> list[Path]:
    """Return where packed weights of a checkpoint are looked for and kept, the best place first."""
    if pack_folder is None:
        return []
    return cache_folders(path) if pack_folder == "auto" else [Path(pack_folder).expanduser() / _own_name(path)]


def _room(folder: Path) -> int:
    """Return the bytes that a folder, which may not be there yet, has room for."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _of_folder(found: Checkpoint, format: Format, model: PlainModel) -> PackedModel:
    try:
        return found.family.packed(model, read_matrices(found.path, format), format)
    except KeyError as missing:
        raise CheckpointError(
            f"{found.path} has no packed matrix {missing}; write it again: redraft quantize"
        ) from None


def cache_folders(path: Path) -> list[Path]:
    """Return where what was computed from a checkpoint may be kept, the best place first: in its folder, or for a GGUF
    file, which may lie beside others, in a folder of its name beside it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    beside = path.parent / FOLDER / path.name if is_single_file(path) else path / FOLDER
    return [beside, home / "redraft" / _own_name(path)]


def _own_name(path: Path) -> str:
    """Return a name that no other checkpoint has."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]


def _fingerprint(found: Checkpoint) -> str:
    """Return what changes when the weight files do: their names, sizes and times."""
    files = sorted({file for tensor in found.tensors.values() for file in tensor.files})
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return json.dumps(stats)


def _read(path: Path, key: str) -> dict[str, PackedMatrix] | None:
    if not path.exists():
        return None
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        if content["key"] != key:
            return None
        return {name: PackedMatrix(**fields) for name, fields in content["matrices"].items()}
    except Exception as error:  # a damaged archive raises many kinds
        warnings.warn(f"{path} cannot be read and is made again: {error}", stacklevel=3)
        return None


def _write(folders: list[Path], name: str, key: str, matrices: dict[str, PackedMatrix]) -> None:
    # Not by asdict, which copies every tensor.
    content = {
        "key": key,
        "matrices": {
            name: {field.name: getattr(matrix, field.name) for field in fields(matrix)}
            for name, matrix in matrices.items()
        },
    }
    failures = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Another process never maps half a file.
            with replacing(folder / name) as new:
                torch.save(content, new)
            return
        except (OSError, RuntimeError) as error:
            failures.append(f"{folder}: {error}")
    warnings.warn(f"packed weights could not be kept, the next load packs again ({'; '.join(failures)})", stacklevel=3)
