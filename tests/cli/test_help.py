"""Help comes at once and shows how each verb is used."""

import subprocess
import sys

import pytest
import typer

from redraft.cli.main import app

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(redraft_here, verb):
    shown = redraft_here(verb, "--help")
    assert shown.returncode == 0
    assert f"Example: redraft {verb}" in shown.stdout


def test_the_command_lists_its_verbs(redraft_here):
    shown = redraft_here("--help")
    assert all(verb in shown.stdout for verb in VERBS)


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_slow(arguments):
    code = f"""
import sys
from redraft.cli.main import main
sys.argv = ["redraft", *{arguments!r}]
try:
    main()
finally:
    print(*(name for name in ("torch", "transformers", "huggingface_hub", "numpy") if name in sys.modules),
          file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, "\n")
    assert "Usage: " in shown.stdout
