"""Help comes at once and shows how each verb is used."""

import subprocess
import sys

import pytest
import typer

from redraft.cli.main import app

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
# Help with each, and what was imported until then.
EVERY_HELP = """
import sys
from redraft.cli.main import main
for verb in sys.argv[1:]:
    sys.argv = ["redraft", *verb.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        heavy = {"torch", "transformers", "huggingface_hub", "numpy", "tokenizers", "fastapi"} & set(sys.modules)
        print(f"redraft {verb} --help".replace("  ", " "), end.code, sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(redraft_here, verb):
    shown = redraft_here(verb, "--help")
    assert shown.returncode == 0
    assert f"Example: redraft {verb}" in shown.stdout


def test_the_command_lists_its_verbs(redraft_here):
    shown = redraft_here("--help")
    assert all(verb in shown.stdout for verb in VERBS)


def test_help_imports_nothing_that_takes_long():
    """Importing is nearly all that help has to wait for; torch alone would take it seconds."""
    command = [sys.executable, "-c", EVERY_HELP, "", *VERBS]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600)
    calls = ["redraft --help", *(f"redraft {verb} --help" for verb in VERBS)]
    assert shown.stderr.splitlines() == [f"{call} 0 []" for call in calls]
    assert shown.stdout.count("Usage: ") == len(calls)
