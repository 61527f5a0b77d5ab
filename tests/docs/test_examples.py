"""Every example in README, docs and examples/ runs: python blocks of a page in one session, console lines in one
shell."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.prepared import ROOT
from tests.serve.conftest import serving

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose commands need what no test has (docker, a cluster, root, vLLM), or that have none of their own.
ELSEWHERE = {"deploy.md", "vllm.md", "index.md", "python.md"}
# Lines that set up a machine; CI itself is the test of those.
SETUP = re.compile(r"(git clone|cd redraft|script/)")
# Where the examples of serve.md find a server.
ADDRESS = "http://127.0.0.1:8000"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def path_for(page: Path, clients: Path) -> str:
    """The README is read in a fresh clone, where nobody has the command yet; it says how to get it for all others."""
    own = str(Path(sys.executable).parent)
    others = [place for place in os.environ["PATH"].split(os.pathsep) if place != own]
    return os.pathsep.join(others if page.name == "README.md" else [str(clients), *others])


def console_lines(page: Path) -> list[str]:
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if not SETUP.match(line)]


def named(pages: list[Path]) -> list[object]:
    return [pytest.param(page, id=page.name) for page in pages]


@pytest.fixture(scope="module")
def server(bundled: Engine) -> Iterator[str]:
    """The address of a server with the bundled model."""
    with serving(bundled, ServerSettings("sudoku")) as up:
        yield up.url


@pytest.fixture
def address(request: pytest.FixtureRequest, page: Path) -> str:
    """The address that takes the place of the server's in the examples of a page."""
    return request.getfixturevalue("server") if ADDRESS in page.read_text() else ADDRESS


@pytest.mark.slow
@pytest.mark.parametrize("page", named([page for page in PAGES if blocks(page, "python")]))
def test_python_examples_run(commands: Path, page: Path, address: str, tmp_path: Path) -> None:
    source = "\n".join(blocks(page, "python")).replace(ADDRESS, address)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [commands / "python", "-c", source],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", named([page for page in PAGES if console_lines(page)]))
def test_console_examples_run(commands: Path, page: Path, address: str, tmp_path: Path) -> None:
    # An answer that is an error is no example.
    lines = [re.sub("^curl ", "curl --fail-with-body ", line) for line in console_lines(page)]
    environment = {**os.environ, "PATH": path_for(page, commands), "PYTHONPATH": str(ROOT)}
    (tmp_path / ".venv").symlink_to(sys.prefix)
    if page.name == "README.md":
        # That the page's own way to the command leads to it, its first use shows; the others need not import torch.
        first = next(number for number, line in enumerate(lines) if line.startswith("redraft "))
        lines.insert(first + 1, f"PATH={shlex.quote(str(commands))}:$PATH; hash -r")
    script = "set -e\n" + "\n".join(lines).replace(ADDRESS, address)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("example", named(sorted((ROOT / "examples").glob("*.py"))))
def test_examples_of_their_own_run(commands: Path, example: Path, tmp_path: Path) -> None:
    done = subprocess.run([commands / "python", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout


def test_every_page_has_examples_and_every_block_names_its_language() -> None:
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", page.read_text(), re.MULTILINE)
        assert all(language in ("python", "console", "text", "") for language in fences)
        assert "python" in fences or "console" in fences or page.name in ELSEWHERE, page.name
        assert all(fence for fence in fences[::2]), f"{page.name}: an opening fence names no language"
