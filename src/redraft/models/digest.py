"""Digests that tell one checkpoint from another: SHA-256 of all that its files say."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from redraft.files import write_text
from redraft.formats.adapter import CONFIG_FILE as ADAPTER_FILE
from redraft.formats.quantised.modelopt import CONFIG_FILE as MODELOPT_FILE
from redraft.formats.source import CONFIG_FILE, is_single_file
from redraft.models.cache_folder import cache_folders
from redraft.models.checkpoint import Checkpoint
from redraft.models.tokenizer import TOKENIZER_FILE, ChatTokenizer

DIGESTS_FILE = "digests.json"
# Smaller files are read anew each time, in less time than a person notices.
KEPT_FROM = 64 << 20


def weights_digest(found: Checkpoint, kept_from: int = KEPT_FROM) -> str:
    """Return the digest of ``config.json``, of what modelopt and peft write beside it, and of every weight file that
    the model has a part in, with their names. A GGUF file has its configuration in itself.

    The digest of a file of ``kept_from`` bytes or more is kept beside packed weights, and good for as long as the
    file's size and time of change are the same.
    """
    named = () if is_single_file(found.path) else (CONFIG_FILE, MODELOPT_FILE, ADAPTER_FILE)
    described = [found.path / name for name in named if name == CONFIG_FILE or (found.path / name).exists()]
    paths = [*described, *sorted({file for tensor in found.tensors.values() for file in tensor.files})]
    kept = _Kept(found.path, kept_from)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(kept.digest, paths))
    kept.save()
    whole = "".join(f"{path.name} {digest}\n" for path, digest in zip(paths, digests, strict=True))
    return hashlib.sha256(whole.encode()).hexdigest()


def tokenizer_digest(path: Path) -> str:
    """Return the digest of ``tokenizer.json``, or of what a GGUF file says in its place."""
    if is_single_file(path):
        return hashlib.sha256(ChatTokenizer.from_checkpoint(path).tokenizer.to_str().encode()).hexdigest()
    return _digest(path / TOKENIZER_FILE)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Kept:
    """Digests of large files, by name, from one run to the next."""

    def __init__(self, folder: Path, kept_from: int) -> None:
        self._paths = [place / DIGESTS_FILE for place in cache_folders(folder)]
        self._kept_from, self._changed = kept_from, False
        self._digests: dict[str, list[object]] = {}
        for path in reversed(self._paths):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self._digests |= content if isinstance(content, dict) else {}
            except (OSError, ValueError):
                continue

    def digest(self, path: Path) -> str:
        stat = path.stat()
        if stat.st_size < self._kept_from:
            return _digest(path)
        key = [stat.st_size, stat.st_mtime_ns]
        entry = self._digests.get(path.name)
        if isinstance(entry, list) and entry[:2] == key and len(entry) == 3 and isinstance(entry[2], str):
            return entry[2]
        found = _digest(path)
        self._digests[path.name] = [*key, found]
        self._changed = True
        return found

    def save(self) -> None:
        """Keep what was found. A folder that cannot be written is no fault: the next run reads the files again."""
        for path in self._paths if self._changed else []:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(self._digests))
                return
            except OSError:
                continue
