"""The folders in which what was computed from a checkpoint is kept for the next time."""

import hashlib
import os
from pathlib import Path

from redraft.formats.source import is_single_file

FOLDER = ".redraft"


def cache_folders(path: Path) -> list[Path]:
    """Return where what was computed from a checkpoint may be kept, the best place first: in its folder, or for a GGUF
    file, which may lie beside others, in a folder of its name beside it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    beside = path.parent / FOLDER / path.name if is_single_file(path) else path / FOLDER
    return [beside, home / "redraft" / own_name(path)]


def own_name(path: Path) -> str:
    """Return a name that no other checkpoint has."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
