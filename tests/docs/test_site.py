"""The site has every page and every public name, and what checks its links finds those that lead nowhere."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import redraft
from tests.prepared import ROOT


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "zensical.toml").read_text()
    tomllib.loads(text)
    named = Counter(re.findall(r'"([\w-]+\.md)"', text))
    assert named == Counter(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    assert sorted(re.findall(r"^::: redraft\.(\w+)$", page, re.MULTILINE)) == sorted(
        name for name in redraft.__all__ if not name.startswith("_")
    )


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#there">1</a><a href="#top">2</a><a href="https://elsewhere.example/">3</a>'
        '<a href="b.html#gone">4</a><a href="c.html">5</a><img src="no.svg"><a href="#nowhere">6</a>'
    )
    (tmp_path / "b.html").write_text('<a name="there" href="a.html">back</a>')
    command = [sys.executable, str(ROOT / "script" / "check_links.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["#nowhere", "b.html#gone", "c.html", "no.svg"]
    (tmp_path / "a.html").write_text('<a href="b.html#there">1</a>')
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
