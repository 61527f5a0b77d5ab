"""What ships: small, self-contained, and built from the sources that stand beside it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DIST = ROOT / "src/redraft/serve/page/dist"
FILES = sorted(path for path in DIST.rglob("*") if path.is_file())


def test_it_is_small():
    assert sum(path.stat().st_size for path in FILES) < 150_000
    assert {path.suffix for path in FILES} == {".html", ".js", ".css", ".svg"}


def test_it_runs_under_a_strict_content_security_policy():
    html = (DIST / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []
    assert "<style" not in html
    assert re.findall(r"\s(?:style|on\w+)=", html) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_names_no_other_host(path: Path):
    hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
    # The names of XML's languages, and where Svelte explains its errors; neither is fetched.
    assert hosts <= {"www.w3.org", "svelte.dev"}
    assert "sourceMappingURL" not in path.read_text()


@pytest.mark.slow
@pytest.mark.builds
@pytest.mark.skipif(shutil.which("npm") is None and "CI" not in os.environ, reason="needs npm")
def test_it_is_what_the_sources_build_to():
    done = subprocess.run([ROOT / "script/page", "--check"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
