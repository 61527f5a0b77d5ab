"""The memory that is left is the least that the system and any control group above the process leave."""

from pathlib import Path

import pytest

from redraft import room
from redraft.errors import RequestError, RoomError
from redraft.room import allowed, check_disk, disk, memory, parse_memory

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def machine(root: Path, kilobytes: int = 20_000_000, cgroup: str = "0::/a/b\n") -> Path:
    return write(
        root, {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {kilobytes} kB\n", "proc/self/cgroup": cgroup}
    )


def group(limit: object, used: int, reclaimable: int = 0, high: object = "max") -> dict[str, str]:
    stat = f"anon 1\nactive_file {reclaimable // 2}\ninactive_file {reclaimable - reclaimable // 2}\nshmem 7\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat, "memory.high": f"{high}\n"}


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}{name}": text for name, text in files.items()}


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path, below("a/b/", group("max", 5 * GB)))
    found = memory(tmp_path)
    assert found is not None
    assert (found.free, found.limit) == (20_000_000 * 1024, "this machine")


def test_a_control_group_counts_with_those_above_it_and_files_may_be_given_back(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path, below("a/b/", group(12 * GB, 5 * GB, reclaimable=2 * GB)))
    found = memory(tmp_path)
    assert found is not None
    assert found.free == 9 * GB
    assert "control group b" in found.limit
    assert "12 GB" in found.limit
    write(tmp_path, below("a/", group(8 * GB, 5 * GB)))
    outer = memory(tmp_path)
    assert outer is not None
    assert outer.free == 3 * GB
    # What is held up is no better than what is killed, and less than nothing is nothing.
    write(tmp_path, below("a/b/", group(12 * GB, 5 * GB, high=4 * GB)))
    held = memory(tmp_path)
    assert held is not None
    assert held.free == 0


def test_a_container_sees_its_own_group_as_the_mount(tmp_path: Path) -> None:
    machine(tmp_path, cgroup="0::/docker/of-the-host\n")
    write(tmp_path, below("", group(4 * GB, 1 * GB)))
    found = memory(tmp_path)
    assert found is not None
    assert found.free == 3 * GB


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    machine(tmp_path, cgroup="9:name=systemd:/\n4:memory:/job\n0::/\n")
    files = {
        "memory.limit_in_bytes": str(6 * GB),
        "memory.usage_in_bytes": str(5 * GB),
        "memory.stat": f"total_active_file {GB}\ntotal_inactive_file {GB}\n",
    }
    write(tmp_path, {f"sys/fs/cgroup/memory/job/{name}": text for name, text in files.items()})
    found = memory(tmp_path)
    assert found is not None
    assert found.free == 3 * GB
    # Without a limit the first version has as many pages as fit 64 bits.
    write(tmp_path, {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712"})
    unlimited = memory(tmp_path)
    assert unlimited is not None
    assert unlimited.limit == "this machine"


def test_this_machine_tells() -> None:
    found = memory()
    assert found is not None
    assert found.free > 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * GB),
        ("1.5 GiB", 3 << 29),
        ("800m", 800_000_000),
        ("123456", 123_456),
        ("auto", "auto"),
        ("None", None),
    ],
)
def test_sizes(text: str, size: object) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1.5.2GB", "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="24GB"):
        parse_memory(text)


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(room.VARIABLE, "3GB")
    found = allowed("auto")
    assert found is not None
    assert found.free == 3 * GB
    assert allowed(None) is None
    monkeypatch.setenv(room.VARIABLE, "none")
    assert allowed("auto") is None
    own = allowed(17)
    assert own is not None
    assert own.free == 17
    with pytest.raises(RequestError, match="memory"):
        allowed(True)


def test_a_disk_that_is_too_small_is_told_with_the_numbers(tmp_path: Path) -> None:
    there = tmp_path / "not" / "yet"
    check_disk(there, 1, "a file")
    with pytest.raises(RoomError, match=r"a file takes .* TB, and .* free"):
        check_disk(there, disk(tmp_path) + 10**13, "a file")
