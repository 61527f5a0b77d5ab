"""Files written as they are made: whole or not there, gone on with after a kill, and every damage named."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats import streamed
from redraft.formats.streamed import Group, NoRoomError, read_header, unfinished, verify, write

TENSORS = {
    "a": torch.arange(48.0).view(6, 8),
    "b": torch.arange(200, dtype=torch.uint8).view(4, 50),
    "c": torch.arange(7, dtype=torch.bfloat16),
    "d": torch.full((3, 64), 5, dtype=torch.int32),
}


def group(*names: str, made: list[str] | None = None) -> Group:
    """Tensors that come in rows, those of several in turn."""

    def pieces() -> Iterator[tuple[str, Tensor]]:
        if made is not None:
            made.extend(names)
        longest = max(len(TENSORS[name]) for name in names)
        for row in range(longest):
            yield from ((name, TENSORS[name][row : row + 1]) for name in names if row < len(TENSORS[name]))

    return Group({name: (tuple(TENSORS[name].shape), TENSORS[name].dtype) for name in names}, pieces)


def groups(made: list[str] | None = None) -> list[Group]:
    return [group("a", "b", made=made), group("c", made=made), group("d", made=made)]


def test_what_is_written_is_read_by_the_library_and_told_as_it_grows(tmp_path: Path):
    told: list[int] = []
    write(tmp_path / "w.safetensors", groups(), {"said": "words"}, told.append)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert told == [0, 192 + 200, 192 + 200 + 14, 192 + 200 + 14 + 768]
    assert read_header(tmp_path / "w.safetensors")["__metadata__"]["said"] == "words"
    verify(tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", TENSORS)
def test_a_flipped_bit_is_named_by_tensor_and_file(tmp_path: Path, name: str):
    path = tmp_path / "w.safetensors"
    write(path, groups(), {})
    content = bytearray(path.read_bytes())
    begin = streamed.layout(groups(), {}).places[name][0]
    content[begin + 3] ^= 16
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\.safetensors: tensor {name} is damaged: its checksum"):
        verify(path)


def test_a_header_that_was_changed_is_named(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    write(path, groups(), {"said": "words"})
    path.write_bytes(path.read_bytes().replace(b'"words"', b'"wards"'))
    with pytest.raises(CheckpointError, match="the header is damaged"):
        verify(path)


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, cut: int):
    path = tmp_path / "w.safetensors"
    write(path, groups(), {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"w\.safetensors (is damaged or cut short|has .* bytes, and by its)"):
        read_header(path)


def test_what_was_finished_before_a_stop_is_not_made_again_and_what_is_damaged_is(tmp_path: Path):
    path, made = tmp_path / "w.safetensors", list[str]()

    def stopped() -> Iterator[tuple[str, Tensor]]:
        yield "d", TENSORS["d"][:1]
        raise KeyboardInterrupt

    parts = groups()
    with pytest.raises(KeyboardInterrupt):
        write(path, [*parts[:2], Group(parts[2].described, stopped)], {})
    assert not path.exists()
    growing = bytearray(unfinished(path).read_bytes())
    growing[streamed.layout(parts, {}).places["c"][0]] ^= 1
    unfinished(path).write_bytes(growing)
    write(path, groups(made), {})
    assert made == ["c", "d"]
    verify(path)
    assert torch.equal(load_file(path)["c"], TENSORS["c"])


def test_another_file_of_the_same_name_is_begun_anew(tmp_path: Path):
    path, made = tmp_path / "w.safetensors", list[str]()
    unfinished(path).write_bytes(b"something else " * 100)
    write(path, groups(made), {})
    assert made == ["a", "b", "c", "d"]
    verify(path)


def test_a_fault_half_way_leaves_nothing(tmp_path: Path):
    def faulty() -> Iterator[tuple[str, Tensor]]:
        raise CheckpointError("the tensor is damaged")
        yield "d", TENSORS["d"]

    parts = groups()
    with pytest.raises(CheckpointError, match="the tensor is damaged"):
        write(tmp_path / "w.safetensors", [*parts[:2], Group(parts[2].described, faulty)], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("short", [True, False])
def test_tensors_that_are_not_as_they_were_described_are_refused(tmp_path: Path, short: bool):
    rows = TENSORS["d"][: 2 if short else 3]
    wrong = Group(group("d").described, lambda: iter([("d", rows), *([] if short else [("d", rows)])]))
    with pytest.raises(ValueError, match=f"d has {'fewer' if short else 'more'} numbers than its shape"):
        write(tmp_path / "w.safetensors", [wrong], {})


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[str] = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(NoRoomError, match="make room, or name another folder"):
        write(tmp_path / "w.safetensors", groups(made), {})
    assert (made, list(tmp_path.iterdir())) == ([], [])


def test_a_disk_that_is_full_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    really, written = os.pwrite, list[int]()

    def pwrite(descriptor: int, content: bytes, place: int) -> int:
        written.append(len(content))
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(descriptor, content, place)

    monkeypatch.setattr("os.pwrite", pwrite)
    with pytest.raises(NoRoomError, match="the disk was full before"):
        write(tmp_path / "w.safetensors", groups(), {})
    assert len(written) == 6
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path: Path):
    (tmp_path / "w").write_text("a file")
    with pytest.raises(OSError, match=str(tmp_path / "w")):
        write(tmp_path / "w" / "w.safetensors", groups(), {})


_SECOND = """
import fcntl
import sys
from pathlib import Path
from tests.formats.test_streamed import groups
from redraft.formats.streamed import write
made = []
plain = fcntl.flock

def flock(file, operation):
    try:
        plain(file, operation)
    except BlockingIOError:
        print("taken", flush=True)
        raise

fcntl.flock = flock
write(Path(sys.argv[1]), groups(made), {})
print(made, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
@pytest.mark.parametrize("killed", [True, False])
def test_a_second_process_waits_for_the_first_and_goes_on_where_it_was_killed(tmp_path: Path, killed: bool):
    """The first process is this one's child, stopped while it has half of the file."""
    path = tmp_path / "w.safetensors"
    first = subprocess.Popen(
        [sys.executable, "-c", _FIRST, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdin is not None
    assert first.stdout is not None
    assert first.stdout.readline() == "half\n"
    second = subprocess.Popen([sys.executable, "-c", _SECOND, str(path)], stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert second.stdout.readline() == "taken\n"
    if killed:
        first.send_signal(signal.SIGKILL)
    else:
        first.stdin.write("go on\n")
        first.stdin.flush()
    out, _ = second.communicate(timeout=300)
    first.wait(timeout=300)
    assert (second.returncode, out.strip()) == (0, "['c', 'd']" if killed else "[]")
    verify(path)
    assert [one.name for one in tmp_path.iterdir()] == ["w.safetensors"]


_FIRST = """
import sys
from pathlib import Path
from tests.formats.test_streamed import Group, groups
from redraft.formats.streamed import write

parts = groups()

def waiting():
    print("half", flush=True)
    sys.stdin.readline()
    yield from parts[1].pieces()

write(Path(sys.argv[1]), [parts[0], Group(parts[1].described, waiting), parts[2]], {})
"""
