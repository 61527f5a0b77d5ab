"""Checkpoints on the hub: judged before their weights are fetched, fetched, described from their headers, listed.

All goes through ``huggingface_hub``, whose cache, login and settings (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE) it uses.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from redraft.errors import CheckpointError, RoomError
from redraft.formats.adapter import CONFIG_FILE as ADAPTER_FILE
from redraft.formats.json_objects import read_object
from redraft.formats.quantised.modelopt import CONFIG_FILE as MODELOPT_FILE
from redraft.formats.safetensors import INDEX_FILE, WEIGHTS_FILE
from redraft.formats.source import CONFIG_FILE, GENERATION_FILE
from redraft.models import foreign
from redraft.models.registry import BASES, family_of
from redraft.room import disk, size_text

_FETCHED = ("*.json", "*.safetensors", "*.jinja", "README.md", "LICENSE*", "NOTICE*")
# What ``info`` reads: no tokenizer, which may have many megabytes.
_DESCRIBING = (CONFIG_FILE, GENERATION_FILE, "redraft.json", MODELOPT_FILE, INDEX_FILE)
_TALKING = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class UnreachableError(CheckpointError):
    """The hub gave no answer."""


@dataclass(frozen=True)
class Repository:
    """A repository as the hub describes it, before any of its weights are fetched."""

    name: str
    commit: str
    sizes: Mapping[str, int]
    """Bytes of each file."""
    config: Mapping[str, Any] | None
    """The content of ``config.json``; None where there is none."""

    @property
    def fetched(self) -> dict[str, int]:
        """The files that ``fetch`` fetches, with their sizes."""
        return {name: size for name, size in self.sizes.items() if any(fnmatch(name, own) for own in _FETCHED)}


@dataclass(frozen=True)
class Pulled:
    """A revision of a repository in the hub's cache."""

    name: str
    commit: str
    refs: tuple[str, ...]
    """Branches and tags that it is."""
    path: Path
    size: int
    """Bytes on disk; files that several revisions share count for each."""
    last_used: float
    """Seconds since the epoch."""
    architecture: str | None
    """The architecture in its ``config.json``; None where there is none."""


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form owner/name."""
    return _HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def fetch(name: str, revision: str | None = None, *, bases: bool = False) -> Path:
    """Return the folder of a repository in the hub's cache, fetched if it is not there yet.

    ``bases``: autoregressive models are wanted, too. Raises CheckpointError, before any weights are fetched, for what
    does not load and for what the disk has no room for.
    """
    from huggingface_hub import snapshot_download

    try:
        found = survey(name, revision)
    except UnreachableError:
        # What is here already needs nobody's leave.
        cached = find_cached(name, revision)
        if cached is None:
            raise
        return cached
    judge(found, bases=bases)
    check_room(found)
    with _faults(name):
        # By the branch or tag that was asked for, so that the cache knows which commit that was.
        folder = snapshot_download(name, revision=revision, allow_patterns=list(_FETCHED))
    return Path(folder)


def find_cached(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of a repository in the hub's cache if its weights are there; nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if (folder / CONFIG_FILE).exists() and any(folder.glob("*.safetensors")) else None


def survey(name: str, revision: str | None = None) -> Repository:
    """Ask the hub for a repository's files and their sizes, and read its ``config.json``."""
    from huggingface_hub import HfApi

    with _faults(name):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        commit = info.sha or revision or "main"
        config = _read(name, commit, CONFIG_FILE) if CONFIG_FILE in sizes else None
    return Repository(name, commit, sizes, config)


def judge(found: Repository, *, bases: bool = False) -> None:
    """Raise CheckpointError that says what a repository is, and what to do, where it would not load."""
    adapter: Mapping[str, Any] = {}
    if ADAPTER_FILE in found.sizes:
        with _faults(found.name):
            adapter = _read(found.name, found.commit, ADAPTER_FILE)
    foreign.check(found.name, found.sizes, found.config, adapter)
    if found.config is None:
        raise CheckpointError(f"{found.name} has no {CONFIG_FILE}, so nothing says what its weights are")
    named = found.config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    if not (bases and architecture in BASES):
        try:
            family_of(architecture)
        except CheckpointError as error:
            raise CheckpointError(f"{found.name}: {error}") from None


@contextmanager
def headers(found: Repository) -> Iterator[Path]:
    """A folder that is described as the whole repository would be: its configuration, and of its weight files the
    headers, read by ranges. What follows a header is a hole, which takes no space and no time."""
    from huggingface_hub import HfApi, hf_hub_download

    with TemporaryDirectory(prefix="redraft-") as temporary, _faults(found.name):
        folder = Path(temporary)
        for name in _DESCRIBING:
            if name in found.sizes:
                hf_hub_download(found.name, name, revision=found.commit, local_dir=folder)
        index = read_object(folder / INDEX_FILE).get("weight_map") if INDEX_FILE in found.sizes else None
        for name in sorted(set(index.values())) if isinstance(index, dict) else [WEIGHTS_FILE]:
            # What an index says decides where a file is written.
            if name not in found.sizes or not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise CheckpointError(f"{found.name}: {INDEX_FILE} names {name!r}, which the repository does not have")
            header = HfApi().parse_safetensors_file_metadata(found.name, name, revision=found.commit)
            _write_header(folder / name, header)
        yield folder


def pulled() -> list[Pulled]:
    """List the revisions of models in the hub's cache, by name."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    found = [
        Pulled(
            repo.repo_id, one.commit_hash, tuple(sorted(one.refs)), one.snapshot_path, one.size_on_disk,
            repo.last_accessed, _architecture(one.snapshot_path),
        )
        for repo in cache.repos
        if repo.repo_type == "model"
        for one in repo.revisions
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one.name.lower(), one.commit))


def remove(revisions: list[Pulled]) -> int:
    """Remove revisions from the hub's cache and return the bytes that are free again."""
    from huggingface_hub import constants, scan_cache_dir

    strategy = scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*(one.commit for one in revisions))
    freed = strategy.expected_freed_size
    strategy.execute()
    return freed


def _read(name: str, commit: str, file: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    return read_object(Path(hf_hub_download(name, file, revision=commit)))


def _write_header(path: Path, header: Any) -> None:
    described: dict[str, Any] = {
        name: {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": list(one.data_offsets)}
        for name, one in header.tensors.items()
    }
    if header.metadata:
        described["__metadata__"] = header.metadata
    text = json.dumps(described).encode()
    end = max((one.data_offsets[1] for one in header.tensors.values()), default=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _architecture(folder: Path) -> str | None:
    try:
        named = read_object(folder / CONFIG_FILE).get("architectures")
    except CheckpointError:
        return None
    return str(named[0]) if isinstance(named, list) and named else None


def check_room(found: Repository) -> None:
    """Raise RoomError where what is left to fetch is more than the disk has room for."""
    from huggingface_hub import constants, try_to_load_from_cache

    left = sum(
        size
        for name, size in found.fetched.items()
        if not isinstance(try_to_load_from_cache(found.name, name, revision=found.commit), str)
    )
    cache = Path(constants.HF_HUB_CACHE)
    free = disk(cache)
    if left > free:
        raise RoomError(
            f"{found.name} takes {size_text(left)} more, and {cache} has {size_text(free)} free; make room, or name "
            "another place with HF_HUB_CACHE"
        )


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Make what the hub's library raises a CheckpointError that says what would help."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its terms on its page on the hub, then log in with 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name!r} is no folder here, and the hub has no such model that you may see; check the name, or log in "
            "with 'hf auth login' if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no such revision; name one of its branches, tags or commits") from error
    except Exception as error:
        # Whatever the library talks with raises its own.
        if not isinstance(error, OSError | ValueError) and not type(error).__module__.startswith(_TALKING):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        kind = CheckpointError if isinstance(error, HFValidationError) else UnreachableError
        raise kind(
            f"{name!r} is no folder here and could not be fetched from the hub: {reason}. Check the name and the "
            "connection, log in with 'hf auth login' if the model is private, or pass a local folder"
        ) from error
