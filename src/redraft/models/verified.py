"""Checksums of large files looked at once: when a file is first used, and again when it has changed."""

import json
from contextlib import suppress
from pathlib import Path

from redraft.files import write_text
from redraft.formats import streamed
from redraft.models.cache_folder import FOLDER, cache_folders

VERIFIED_FILE = "verified.json"
# Smaller files are read anew each time, in less time than a person notices.
KEPT_FROM = 64 << 20


def verify_once(path: Path, kept_from: int = KEPT_FROM) -> None:
    """Compare a packed file's tensors with the checksums in its header, unless that was done before and its size and
    time of change are the same. That it was done is noted beside what is kept of a checkpoint; of a file below
    ``kept_from`` bytes it is not.

    Raises CheckpointError naming the file and the tensor that is damaged.
    """
    stat = path.stat()
    places = _places(path)
    key = [stat.st_size, stat.st_mtime_ns]
    if stat.st_size >= kept_from and any(_noted(place).get(str(path.name)) == key for place in places):
        return
    streamed.verify(path)
    if stat.st_size < kept_from:
        return
    for place in places:
        # A folder that cannot be written is no fault: the next load reads the file again.
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, json.dumps({**_noted(place), path.name: key}))
            return


def _places(path: Path) -> list[Path]:
    folder = path.parent
    own = [folder] if FOLDER in folder.parts else []
    return [place / VERIFIED_FILE for place in (*own, *cache_folders(folder))]


def _noted(place: Path) -> dict[str, object]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
