"""Choices that a user made once for all commands, by environment or file: model, device, memory, packed weights.

An option on the command line comes first, then the environment (REDRAFT_MODEL, REDRAFT_DEVICE, REDRAFT_MEMORY, ...),
then the file ($XDG_CONFIG_HOME/redraft/config.toml, by default ~/.config/redraft/config.toml, or what REDRAFT_CONFIG
names), then what is built in. An empty variable counts as none.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redraft.errors import RequestError
from redraft.models.names import DEFAULT_MODEL

BUILT_IN = {"model": DEFAULT_MODEL, "device": "auto", "pack_folder": "auto", "memory": "auto"}
FILE_VARIABLE, BUILT_IN_ORIGIN = "REDRAFT_CONFIG", "built in"


@dataclass(frozen=True)
class Setting:
    """A value, and where it comes from."""

    value: str
    origin: str


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"REDRAFT_{name.upper()}"


def setting(name: str) -> Setting:
    """Look a setting up; RequestError for a file that cannot be read or does not say what it should."""
    found = os.environ.get(variable(name), "")
    if found.strip():
        return Setting(found, variable(name))
    path = config_file()
    of_file = _read(path)
    if name in of_file:
        return Setting(of_file[name], str(path))
    return Setting(BUILT_IN[name], BUILT_IN_ORIGIN)


def config_file() -> Path:
    """Return where the file is, or would be."""
    named = os.environ.get(FILE_VARIABLE, "")
    if named.strip():
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(home) if home.strip() else Path.home() / ".config") / "redraft" / "config.toml"


def _read(path: Path) -> Mapping[str, str]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE, "").strip():
            raise RequestError(f"{FILE_VARIABLE} names {path}, which does not exist") from None
        return {}
    except (OSError, ValueError) as error:
        raise RequestError(f"the settings {path} cannot be read: {error}") from error
    for name, value in found.items():
        if name not in BUILT_IN:
            raise RequestError(f"the settings {path} name {name!r}; known are {', '.join(BUILT_IN)}")
        if not isinstance(value, str) or not value.strip():
            raise RequestError(f"the settings {path}: {name} is {value!r}; it must be a text")
    return found
