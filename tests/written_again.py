"""Small folders that many tests write alike are made once a process, and written again from memory after that."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

P = ParamSpec("P")
LARGEST = 4 << 20


def written_again(write: Callable[Concatenate[Path, P], Path]) -> Callable[Concatenate[Path, P], Path]:
    """Have ``write``, whose first parameter is a folder and whose others decide what is written there, work once for
    the same parameters. What is large is not kept, and where something stands already it works anew."""
    kept: dict[str, dict[str, bytes]] = {}

    @wraps(write)
    def again(folder: Path, *arguments: P.args, **parameters: P.kwargs) -> Path:
        if folder.exists() and any(folder.iterdir()):
            return write(folder, *arguments, **parameters)
        key = repr((arguments, sorted(parameters.items(), key=lambda one: one[0])))
        if key not in kept:
            write(folder, *arguments, **parameters)
            written = [path for path in folder.iterdir() if path.is_file()]
            if sum(path.stat().st_size for path in written) <= LARGEST:
                kept[key] = {path.name: path.read_bytes() for path in written}
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in kept[key].items():
            (folder / name).write_bytes(content)
        return folder

    return again
