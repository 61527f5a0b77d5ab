"""Files that are replaced whole: written beside, then renamed, so that a failure or a kill leaves the old content."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Names of open files. What they lead to must be written: a process that has it open would never see another file.
_OPEN_FILES = ("/dev/fd/", "/dev/std", "/proc/")


@contextmanager
def replacing(path: Path, *, keep_link: bool = True) -> Iterator[Path]:
    """A new file to write by its name, which takes the place of ``path`` once the block ends without an error.

    It has the suffix of ``path``, and gets the permissions and, where that is allowed, the owner of the file that it
    replaces. ``keep_link``: where ``path`` is a symbolic link, the file that it leads to is replaced; otherwise the
    link is. What is no regular file, such as a pipe, is written as it is.

    Raises OSError where the folder, or a file that is there, may not be written.
    """
    if (path.exists() and not path.is_file()) or str(path).startswith(_OPEN_FILES):
        yield path
        return
    target = Path(os.path.realpath(path)) if keep_link else path
    old = target.stat() if target.exists() and not target.is_symlink() else None
    # A rename asks for no permission of the file itself.
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(f"{target} is read-only")
    aside = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        # Until it has its owner, nobody else reads what may be private.
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if old is None else 0o600))
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        if old is not None:
            _liken(aside, old)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, keep_link: bool = True) -> None:
    """Write a file of UTF-8 text whole, or leave it as it was; links and errors as in ``replacing``."""
    content = text.encode()
    with replacing(path, keep_link=keep_link) as new:
        new.write_bytes(content)


def copy_file(path: Path, target: Path) -> None:
    """Copy a file with its permissions, in the place of what ``target`` was; a link there is replaced itself.

    Raises OSError where that cannot be.
    """
    with replacing(target, keep_link=False) as new:
        shutil.copyfile(path, new)
        new.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)


def make_new_folder(folder: Path) -> None:
    """Make a folder for what belongs together; its parents, too.

    Raises FileExistsError where there is something in it already, and OSError where it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(errno.EEXIST, "The folder is not empty; give a new one, or remove it", str(folder))


def check_writable(path: Path) -> None:
    """Raise OSError, before any work, where a file ``path`` could not be written."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _liken(path: Path, old: os.stat_result) -> None:
    # Each by itself: who may not give a file away may still give it to one of their groups.
    for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(OSError):
            os.chown(path, owner, group)
    # Last, because a change of owner drops bits.
    path.chmod(stat.S_IMODE(old.st_mode))
