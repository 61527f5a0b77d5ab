"""A file that is replaced is the old one or the new one, whole, whatever happens in between."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from redraft.files import check_writable, copy_file, make_new_folder, replacing, write_text
from tests.random_checkpoint import random_checkpoint

OLD = "what a person wrote\n"
LIMIT = 4096
TOO_MUCH = 3 * LIMIT


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    path = tmp_path / "letter.txt"
    path.write_text(OLD)
    return path


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def python_on_a_small_disk(commands: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where no file can grow beyond LIMIT bytes, which fails in the middle of a write as a full disk."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))\n{code}"
    command = [str(commands / "python"), "-c", f"import sys\n{limited}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


WRITERS = {
    "text": f"from redraft.files import write_text; write_text(path, 'x' * {TOO_MUCH})",
    "tensors": f"""
import torch
from redraft.files import replacing
from safetensors.torch import save_file
with replacing(path) as new:
    save_file({{"x": torch.zeros({TOO_MUCH})}}, new)
""",
    "archive": f"""
import torch
from redraft.files import replacing
with replacing(path) as new:
    torch.save(torch.zeros({TOO_MUCH}), new)
""",
    "copy": f"""
from redraft.files import copy_file
copy_file(Path({sys.executable!r}), path)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_fills_leaves_the_old_content_and_nothing_else(commands: Path, letter: Path, writer: str) -> None:
    code = f"from pathlib import Path; path = Path(sys.argv[1])\n{writer}"
    failed = python_on_a_small_disk(commands, code, letter)
    assert failed.returncode == 1, "the limit was not met"
    assert letter.read_text() == OLD
    assert only(letter.parent) == [letter.name]


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_saved_over_is_the_old_one(commands: Path, tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before["model.safetensors"]) > LIMIT
    code = (
        "import torch; from pathlib import Path; from redraft.models import checkpoint\n"
        "folder = Path(sys.argv[1]); model = checkpoint.read(folder).load('float32')\n"
        "checkpoint.save(model, folder, torch.float32)"
    )
    failed = python_on_a_small_disk(commands, code, folder)
    assert failed.returncode == 1, "the limit was not met"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_kill_in_the_middle_leaves_the_old_content(letter: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from redraft.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as new:\n"
        "    new.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(letter)], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert letter.read_text() == OLD


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_old_content_and_nothing_else(
    letter: Path, error: type[BaseException]
) -> None:
    def fails() -> None:
        with replacing(letter) as new:
            new.write_text("half")
            raise error

    with pytest.raises(error):
        fails()
    assert letter.read_text() == OLD
    assert only(letter.parent) == [letter.name]


def test_until_the_end_the_old_content_is_read(letter: Path) -> None:
    with replacing(letter) as new:
        assert new.suffix == letter.suffix, "writers tell a format by it"
        new.write_text("new")
        assert letter.read_text() == OLD
    assert letter.read_text() == "new"
    assert only(letter.parent) == [letter.name]


def saved_by_torch(path: Path) -> None:
    with replacing(path) as new:
        torch.save(torch.zeros(3), new)


def saved_as_safetensors(path: Path) -> None:
    with replacing(path) as new:
        save_file({"x": torch.zeros(3)}, new)


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), saved_by_torch, saved_as_safetensors])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_permissions_stay(letter: Path, mode: int, write: Callable[[Path], None]) -> None:
    letter.chmod(mode)
    write(letter)
    assert stat.S_IMODE(letter.stat().st_mode) == mode
    assert letter.read_bytes() != OLD.encode()


def test_a_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o640


def test_what_is_private_is_so_while_it_is_written(letter: Path) -> None:
    letter.chmod(0o600)
    with replacing(letter) as new:
        assert stat.S_IMODE(new.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(letter: Path) -> None:
    os.chown(letter, 1234, 5678)
    letter.chmod(0o640)
    write_text(letter, "new")
    found = letter.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 5678, 0o640)


def test_a_link_stays_a_link(letter: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    near, link = elsewhere / "near.txt", elsewhere / "link.txt"
    near.symlink_to(Path("..") / letter.name)
    link.symlink_to("near.txt")
    write_text(link, "new")
    assert (os.readlink(link), os.readlink(near)) == ("near.txt", f"../{letter.name}")
    assert letter.read_text() == "new"
    assert not letter.is_symlink()


def test_a_link_to_nothing_makes_its_file(tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to("made.txt")
    write_text(link, "new")
    assert (os.readlink(link), (tmp_path / "made.txt").read_text()) == ("made.txt", "new")


def test_a_link_that_is_not_kept_leaves_what_it_led_to(letter: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(letter)
    write_text(link, "new", keep_link=False)
    assert not link.is_symlink()
    assert (link.read_text(), letter.read_text()) == ("new", OLD)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes what is read-only")
def test_what_is_read_only_stays(letter: Path) -> None:
    letter.chmod(0o444)
    with pytest.raises(PermissionError, match="read-only"):
        write_text(letter, "new")
    assert letter.read_text() == OLD


def test_a_pipe_is_written_not_replaced(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "new")
    reader.join(600)
    assert read == ["new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_file_that_somebody_has_open_by_that_name_is_written(letter: Path) -> None:
    with letter.open("r+") as file:
        write_text(Path(f"/dev/fd/{file.fileno()}"), "new")
        assert file.read() == "new"


def test_half_a_character_is_refused_before_anything_is_written(letter: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(letter, "\ud800")
    assert letter.read_text() == OLD


def test_a_copy_has_the_permissions_of_what_it_is_a_copy_of(letter: Path, tmp_path: Path) -> None:
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.write_text("of others")
    link.symlink_to(shared)
    letter.chmod(0o640)
    copy_file(letter, link)
    assert (link.read_text(), link.is_symlink(), stat.S_IMODE(link.stat().st_mode)) == (OLD, False, 0o640)
    assert shared.read_text() == "of others"


def test_a_new_folder_holds_nothing_of_another(tmp_path: Path) -> None:
    make_new_folder(tmp_path / "a" / "b")
    make_new_folder(tmp_path / "a" / "b")
    with pytest.raises(FileExistsError, match="not empty"):
        make_new_folder(tmp_path / "a")


def test_what_cannot_be_written_is_known_before_the_work(letter: Path, tmp_path: Path) -> None:
    check_writable(letter)
    check_writable(tmp_path / "new.json")
    assert only(tmp_path) == ["letter.txt"]
    for path in (tmp_path, tmp_path / "none" / "new.json", Path("/proc/new.json")):
        with pytest.raises(OSError, match=str(path.parent)):
            check_writable(path)
    assert letter.read_text() == OLD
