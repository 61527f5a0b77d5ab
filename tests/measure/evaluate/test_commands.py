"""Commands judge a text by their exit code, and none of them outlives its time."""

import os

import pytest

from redraft.measure.evaluate.commands import run_command

pytestmark = pytest.mark.slow


def test_what_does_not_pass_is_said():
    assert run_command(["true"], "a", 60) is None
    assert run_command(["false"], "a", 60) == "exit code 1"
    assert run_command(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], "a", 60) == "exit code 3: last"
    assert "cannot be run" in str(run_command(["no-such-command"], "a", 60))
    assert run_command(["sh", "-c", "kill -9 $$"], "a", 60) == "exit code -9"


def test_no_shell_reads_the_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["sh", "-c", '[ "$1" = "a * $(echo b)" ]', "sh", "a * $(echo b)"], "", 60) == "exit code 1"
    assert run_command(["sh", "-c", "[ \"$1\" = '$(touch x)' ]", "sh", "$(touch x)"], "", 60) is None
    assert not list(tmp_path.iterdir())


def test_a_command_that_reads_nothing_may_get_much(tmp_path):
    assert run_command(["true"], "a" * 10_000_000, 60) is None


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    """What is left holds a pipe open: if it went on, reading the pipe would not come to an end."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        left = ["sh", "-c", f"exec 3>{tmp_path / 'pipe'}; echo here >&3; sleep 600 & exit 0"]
        assert run_command(left, "", 60) is None, "and it is not waited for"
        os.set_blocking(reader, True)
        assert os.read(reader, 10) == b"here\n"
        assert os.read(reader, 10) == b"", "nobody has the other end open"
    finally:
        os.close(reader)


def test_a_command_that_takes_too_long_is_ended():
    assert run_command(["sleep", "600"], "", 0.1) == "the command took more than 0.1 s"
