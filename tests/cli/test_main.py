"""The command itself: its names, its version, its help, and what a shell completes."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.cli.test_help import VERBS


def completed(shell: str, words: str) -> list[str]:
    """The words that a shell is told may stand in the place of the last one."""
    environment = {**os.environ, "_REDRAFT_COMPLETE": f"complete_{shell}", "COMP_WORDS": words}
    environment |= {"COMP_CWORD": str(words.count(" ")), "_TYPER_COMPLETE_ARGS": words}
    environment["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    code = "import sys; from redraft.cli.main import main; sys.argv = ['redraft']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_the_short_option_shows_the_same_help(redraft_here, verb):
    verbs = [] if verb is None else [verb]
    short, long = redraft_here(*verbs, "-h"), redraft_here(*verbs, "--help")
    assert short.returncode == 0
    assert short.stdout == long.stdout
    assert "-h, --help" in short.stdout


def test_the_version_is_that_of_the_package(redraft_here):
    shown = redraft_here("--version")
    assert (shown.returncode, shown.stdout) == (0, f"redraft {version('redraft')}\n")


def test_python_runs_the_package_as_the_command():
    command = [sys.executable, "-m", "redraft"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=600)
    assert (shown.returncode, shown.stdout) == (0, f"redraft {version('redraft')}\n")
    failed = subprocess.run([*command, "choose", "a"], capture_output=True, text=True, timeout=600)
    assert failed.returncode == 1
    assert failed.stderr.startswith("redraft: there is nothing to choose from")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_verbs_and_options(shell):
    verbs = "\n".join(completed(shell, "redraft e"))
    assert all((verb in verbs) == verb.startswith("e") for verb in VERBS)
    options = "\n".join(completed(shell, "redraft serve --max-b"))
    assert "--max-batch-rows" in options
    assert "--max-body-bytes" in options
    assert "--max-concurrency" not in options
