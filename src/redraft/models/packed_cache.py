"""Packed weights on disk: packed once beside their checkpoint, mapped at every later load."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
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

FOLDER = ".redraft"
# Smaller models are packed anew each time, in less time than a person notices.
CACHED_FROM = 64 << 20


def load_packed(
    found: Checkpoint,
    format: Format,
    options: Mapping[str, object] | None = None,
    cached_from: int = CACHED_FROM,
) -> PackedModel:
    """Load ``found`` in ``format``; packed weights of ``cached_from`` bytes or more are kept for the next load.
    ``options`` are the family's own.

    They lie in ``.redraft`` in the checkpoint's folder, or, where that cannot be written, in the user's cache folder
    ($XDG_CACHE_HOME/redraft, by default ~/.cache/redraft). A cache that belongs to other weight files is replaced; one
    that cannot be written or read is a warning, not an error.
    """
    model = found.load_beside(format, options)
    if found.packed is not None:
        return _of_folder(found, found.packed, model)
    name, key = f"{format}-{LAYOUTS[format]}.pt", _fingerprint(found)
    for folder in cache_folders(found.path):
        matrices = _read(folder / name, key)
        if matrices is not None:
            return found.family.packed(model, matrices, format)
    # One tensor at a time: what is read for packing, or dequantised, never is in memory whole.
    with found.weights() as weights:
        matrices = dict(found.family.pack(weights, found.config, format))
    if sum(matrix.nbytes for matrix in matrices.values()) >= cached_from:
        _write(cache_folders(found.path), name, key, matrices)
    return found.family.packed(model, matrices, format)


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
    own = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    beside = path.parent / FOLDER / path.name if is_single_file(path) else path / FOLDER
    return [beside, home / "redraft" / own]


def _fingerprint(found: Checkpoint) -> str:
    """Return what changes when the weight files do: their names, sizes and times."""
    files = sorted({tensor.file for tensor in found.tensors.values()})
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
