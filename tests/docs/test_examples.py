"""Every example in README and docs runs: python blocks of a page in one session, console lines in one shell."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Lines that set up a machine; CI itself is the test of those.
SETUP = re.compile(r"(git clone|cd redraft|script/)")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """The server that the examples of serve.md talk to."""
    command = [sys.executable, "-c", "from redraft.cli.main import main; main()", "serve", "--port", "8000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        try:
            end = time.monotonic() + 60
            while not answers():
                assert running.poll() is None, running.stderr and running.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.2)
            yield
        finally:
            running.terminate()


def answers() -> bool:
    try:
        with urlopen("http://127.0.0.1:8000/health", timeout=5):
            return True
    except URLError:
        return False


@pytest.fixture(autouse=True)
def _served(request: pytest.FixtureRequest) -> None:
    if "page" in request.fixturenames and request.getfixturevalue("page").name == "serve.md":
        request.getfixturevalue("server")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path) -> None:
    source = "\n".join(blocks(page, "python"))
    if source:
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


def path_for(page: Path) -> str:
    """The README is read in a fresh clone, where nobody has the command yet; it says how to get it for all others."""
    own = str(Path(sys.executable).parent)
    others = [place for place in os.environ["PATH"].split(os.pathsep) if place != own]
    return os.pathsep.join(others if page.name == "README.md" else [own, *others])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_console_examples_run(page: Path, tmp_path: Path) -> None:
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    # An answer that is an error is no example.
    commands = [re.sub("^curl ", "curl --fail-with-body ", line) for line in lines if not SETUP.match(line)]
    environment = {**os.environ, "PATH": path_for(page), "PYTHONPATH": str(ROOT)}
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = "set -e\n" + "\n".join(commands)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_every_page_has_examples_and_every_block_names_its_language() -> None:
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", page.read_text(), re.MULTILINE)
        assert all(language in ("python", "console", "text", "") for language in fences)
        assert "python" in fences or "console" in fences, page.name
        assert all(fence for fence in fences[::2]), f"{page.name}: an opening fence names no language"
