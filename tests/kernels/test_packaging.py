"""A wheel, built with a compiler and without, installs in an empty environment and works there."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.kernels.compiler import needs_compiler

ROOT = Path(__file__).parents[2]
PUZZLE = "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5 ....8..79"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.builds,
    pytest.mark.skipif(sys.platform == "win32", reason="lays out its environment by hand"),
]


def run(*command: object, cwd: Path) -> str:
    chosen = ("LD_PRELOAD", "PYTHONPATH", "REDRAFT_KERNELS", "REDRAFT_KERNELS_LIBRARY")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def built(folder: Path) -> Path:
    """The wheel that the project builds to, by way of its source distribution."""
    folder.mkdir()
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(folder: Path, wheel: Path) -> Path:
    """The scripts of a new environment that holds the wheel. What it depends on is lent by this environment."""
    venv.create(folder, with_pip=False)
    scripts = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    purelib = run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    # A folder named in a .pth file comes last, and the .pth files in it are not read: an editable redraft stays out.
    (Path(purelib.strip()) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def smoke_test(scripts: Path, folder: Path) -> dict[str, object]:
    """Use the installed command, and return what it says about its kernels."""
    where = run(scripts / "python", "-c", "import redraft; print(redraft.__file__)", cwd=folder)
    assert where.startswith(str(scripts.parent))
    answer = run(scripts / "redraft", "generate", "-m", "sudoku", "--seed", "1", PUZZLE, cwd=folder)
    assert re.sub(r"\D", "", answer).startswith("534678912672195348198342567")
    kernels: dict[str, object] = json.loads(run(scripts / "redraft", "info", "sudoku", "--json", cwd=folder))["kernels"]
    return kernels


def path_without_compiler(folder: Path) -> str:
    """Every program that is on the path, but for compilers and what would build with them."""
    folder.mkdir()
    left_out = re.compile(r"(.*-)?(c\+\+|cc|gcc|g\+\+|clang(\+\+)?|cl|icpx?|icx|cmake|ninja|make)([.-]?[\d.]*)(-\d.*)?")
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not left_out.fullmatch(program.name) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


@needs_compiler
def test_a_wheel_built_with_a_compiler(tmp_path):
    wheel = built(tmp_path / "dist")
    assert re.fullmatch(r"redraft-[\d.]+-py3-none-(?!any).+\.whl", wheel.name)
    names = run(sys.executable, "-m", "zipfile", "-l", wheel, cwd=tmp_path)
    assert "redraft/kernels/_native." in names
    assert ".cpp" not in names
    assert "redraft/serve/page/dist/index.html" in names
    assert "redraft/serve/page/package.json" not in names
    for data in ("templates/it_support", "phrasings/first", "words/surname", "wordings"):
        assert f"redraft/train/recipes/pocket/{data}.txt" in names
    for data in ("finished.jsonl", "excerpts/excerpts.jsonl", "excerpts/NOTICE.txt", "openings/it_support.txt"):
        assert f"redraft/train/recipes/pocket/{data}" in names
    assert not re.search(r"\.(ts|svelte) ", names)
    kernels = smoke_test(installed(tmp_path / "environment", wheel), tmp_path)
    assert kernels["in use"] == kernels["best of this processor"] != "torch"


def test_a_wheel_built_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_without_compiler(tmp_path / "programs"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    wheel = built(tmp_path / "dist")
    assert re.fullmatch(r"redraft-[\d.]+-py3-none-any\.whl", wheel.name)
    kernels = smoke_test(installed(tmp_path / "environment", wheel), tmp_path)
    assert kernels["in use"] == "torch"
    assert kernels["because"] == "no compiled library (built without a C++ compiler; reinstall with one for speed)"
