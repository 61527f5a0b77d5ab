"""Packed weights on disk: packed once beside their checkpoint, mapped at every later load."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from redraft.errors import CheckpointError
from redraft.formats.streamed import NoRoomError, unfinished
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models import recipes
from redraft.models.cache_folder import cache_folders, own_name
from redraft.models.checkpoint import Checkpoint
from redraft.models.packed import PackedModel
from redraft.models.packed_file import PackedFile, file_name
from redraft.models.packing import Packing
from redraft.models.verified import verify_once

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
    """The number that there will be."""
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
    packed. What is kept is written while it is packed, and mapped from there; after a kill the next load goes on. A
    cache that belongs to other weight files, or is damaged, is replaced; one that cannot be written is a warning, not
    an error.

    Raises CheckpointError naming a tensor that cannot be read or, of weights that were packed before, is damaged.
    """
    if found.packed_path is not None and found.packed == format:
        verify_once(found.packed_path)
        return found.load_packed_file(PackedFile(found.packed_path), options)
    packing = Packing(found, format, origin=_fingerprint(found))
    places = _places(found.path, pack_folder)
    file = next(_current(places, format, packing), None)
    if file is None and packing.size >= cached_from:
        file = _kept(found, format, packing, places, on_packing)
    if file is not None:
        return found.load_packed_file(file, options)
    model = found.load_beside(format, options)
    told = on_packing if packing.size >= cached_from else None
    return found.family.packed(model, _in_memory(found, packing, _step(found, format, packing, places), told), format)


def is_kept(found: Checkpoint, format: Format, pack_folder: PackFolder = "auto") -> bool:
    """Tell whether packed weights of a checkpoint lie where ``load_packed`` looks for them."""
    return any((folder / file_name(format)).exists() for folder in _places(found.path, pack_folder))


def _current(places: Sequence[Path], format: Format, packing: Packing) -> Iterator[PackedFile]:
    """Yield the files that are what would be packed now, and are whole."""
    for path in (place / file_name(format) for place in places):
        if not path.exists():
            continue
        try:
            file = PackedFile(path)
            if packing.layout.is_beginning_of(path):
                verify_once(path)
                yield file
        except (CheckpointError, OSError) as error:
            warnings.warn(f"{path} cannot be read and is made again: {error}", stacklevel=4)


def _step(found: Checkpoint, format: Format, packing: Packing, places: Sequence[Path]) -> PackingStep:
    """Say what will be packed, and which of ``places`` has room for it."""
    total = packing.size
    free = {place: _room(place) for place in places}
    folder = next((place for place, bytes in free.items() if bytes >= total), None)
    full = "; ".join(f"{place} has {bytes / 1e9:.1f} GB free of {total / 1e9:.1f}" for place, bytes in free.items())
    return PackingStep(found.path, format, 0, total, folder, "" if folder is not None else full or "as was asked for")


def _kept(
    found: Checkpoint, format: Format, packing: Packing, places: Sequence[Path], on_packing: OnPacking | None
) -> PackedFile | None:
    """Pack into a file in the first of ``places`` that takes it; None, with a warning, where none does."""
    failures = []
    step = _step(found, format, packing, places)
    for place in places:
        path, own = place / file_name(format), replace(step, folder=place, reason="")
        if _room(place) + _there(unfinished(path)) < packing.size:
            failures.append(f"{place} has {_room(place) / 1e9:.1f} GB free of {packing.size / 1e9:.1f}")
            continue
        try:
            place.mkdir(parents=True, exist_ok=True)

            def told(done: int, own: PackingStep = own) -> None:
                if on_packing is not None:
                    on_packing(replace(own, done=done))

            packing.write(path, told)
            _remove_older(place, format)
            verify_once(path)
            return PackedFile(path)
        except (OSError, NoRoomError) as error:
            failures.append(f"{place}: {error}")
    if places:
        warnings.warn(
            f"packed weights could not be kept, the next load packs again ({'; '.join(failures)})", stacklevel=4
        )
    return None


def _in_memory(
    found: Checkpoint, packing: Packing, step: PackingStep, on_packing: OnPacking | None
) -> dict[str, PackedMatrix]:
    """Pack one matrix at a time: what is read for it, or dequantised, never is in memory whole."""
    matrices: dict[str, PackedMatrix] = {}
    if on_packing is not None:
        on_packing(replace(step, folder=None))
    with found.weights() as weights:
        for name, matrix in recipes.made(packing.recipes, weights, found.shape):
            matrices[name] = matrix
            step = replace(step, done=step.done + matrix.nbytes, folder=None)
            if on_packing is not None:
                on_packing(step)
    return matrices


def _places(path: Path, pack_folder: PackFolder) -> list[Path]:
    """Return where packed weights of a checkpoint are looked for and kept, the best place first."""
    if pack_folder is None:
        return []
    return cache_folders(path) if pack_folder == "auto" else [Path(pack_folder).expanduser() / own_name(path)]


def _room(folder: Path) -> int:
    """Return the bytes that a folder, which may not be there yet, has room for."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _there(path: Path) -> int:
    """Return the bytes on disk of a file that may not be there."""
    try:
        stat = path.stat()
    except OSError:
        return 0
    return getattr(stat, "st_blocks", stat.st_size // 512) * 512


def _remove_older(place: Path, format: Format) -> None:
    """Remove what earlier versions kept in the same format, which nothing reads any more."""
    for path in place.glob(f"{format}-*"):
        if path.name != file_name(format):
            path.unlink(missing_ok=True)


def _fingerprint(found: Checkpoint) -> str:
    """Return what changes when the weight files do: their names, sizes and times."""
    files = sorted({file for tensor in found.tensors.values() for file in tensor.files})
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return json.dumps(stats)
