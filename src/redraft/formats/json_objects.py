"""The JSON files of a checkpoint's folder, each an object, with every fault named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redraft.errors import CheckpointError
from redraft.files import write_text
from redraft.formats.pointer import check_no_pointer


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises CheckpointError naming the file that is missing, damaged or something else."""
    check_no_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}; is it a checkpoint folder?") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not a JSON object")
    return content


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a checkpoint's folder, whole."""
    # A link, as in the hub's cache, is replaced itself: others share the file that it leads to.
    write_text(path, json.dumps(content, indent=2) + "\n", keep_link=False)
