"""Git LFS pointers: small text files that stand where a clone without git-lfs has not fetched the file itself."""

from pathlib import Path

from redraft.errors import CheckpointError

_BEGINNING = b"version https://git-lfs.github.com/spec/"
_MAX_BYTES = 1024


def check_no_pointer(path: Path) -> None:
    """Raise CheckpointError, which says how the file is fetched, where ``path`` is a pointer."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_MAX_BYTES)
    except OSError:
        # Whoever reads the file itself says why it cannot be read.
        return
    if beginning.startswith(_BEGINNING):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself; fetch it: 'git lfs pull' in {path.parent}, or 'redraft "
            "pull' with the name on the hub"
        )
