"""``redraft serve`` in a process of its own, from its first line to a signal."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from redraft.cli import serve
from redraft.engine import scheduler
from redraft.models import checkpoint
from redraft.models.footprint import CONTEXT, Use, footprint
from redraft.record.recording import Recording
from tests.cli.conftest import Run, assert_one_line
from tests.conftest import WriteCheckpoint
from tests.random_checkpoint import LETTERS_SIZE


@contextmanager
def serving(
    commands: Path, folder: Path, *options: str, **environment: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server, and where it listens."""
    command = [str(commands / "redraft"), "serve", "--model", str(folder), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as server:
        assert server.stderr is not None
        found = None
        while found is None:
            line = server.stderr.readline()
            assert line, "it ended before it listened"
            found = re.search(r"serving on (http://127\.0\.0\.1:\d+)", line)
        try:
            yield server, found[1]
        finally:
            server.terminate()
            server.communicate(timeout=600)


def ask_for_long(url: str, outcome: list[object]) -> None:
    # A random seed may end the answer with its first tokens.
    body = {"model": "mine", "prompt": "long", "max_tokens": 400, "seed": 1}
    try:
        outcome.append(httpx.post(f"{url}/v1/completions", json=body, timeout=600))
    except httpx.TransportError as error:
        outcome.append(error)


@pytest.mark.slow
def test_it_listens_says_where_and_finishes_what_runs_when_it_is_stopped(
    commands: Path, checkpoint_of: WriteCheckpoint
) -> None:
    settings = {"max_denoising_steps": 24, "t_max": 0.4, "t_min": 0.2}
    folder = checkpoint_of(letters=True, vocab_size=LETTERS_SIZE, canvas_length=48, generation=settings)
    options = ("--port", "0", "--name", "mine", "--grace", "30")
    headers = {"authorization": "Bearer from-the-environment"}
    with serving(commands, folder, *options, REDRAFT_API_KEY="from-the-environment") as (server, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"] == "mine"
        answers: list[httpx.Response] = []
        body = {"model": "mine", "prompt": "a long one", "max_tokens": 300, "seed": 1}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=600))
        )
        asking.start()
        while httpx.get(f"{url}/health").json()["running"] == 0 and not answers:
            pass
        server.send_signal(signal.SIGTERM)
        asking.join(600)
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] > 0


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_leaves_nothing_that_a_new_one_stumbles_over(
    commands: Path, checkpoint_of: WriteCheckpoint, tmp_path: Path
) -> None:
    folder = checkpoint_of(letters=True, vocab_size=LETTERS_SIZE, canvas_length=48)
    options = ["--name", "mine", "--record", str(tmp_path / "kept")]
    short = {"model": "mine", "prompt": "a short one", "max_tokens": 20, "seed": 1}
    with serving(commands, folder, "--port", "0", *options) as (server, url):
        before = httpx.post(f"{url}/v1/completions", json=short, timeout=600).json()["choices"]
        outcome: list[object] = []
        asking = threading.Thread(target=ask_for_long, args=(url, outcome))
        asking.start()
        while httpx.get(f"{url}/health").json()["running"] == 0:
            pass
        server.kill()
        asking.join(600)
        assert isinstance(outcome[0], httpx.TransportError)
    with serving(commands, folder, "--port", url.rpartition(":")[2], *options) as (_, url):
        load = httpx.get(f"{url}/health").json()
        assert (load["running"], load["waiting"]) == (0, 0)
        assert httpx.post(f"{url}/v1/completions", json=short, timeout=600).json()["choices"] == before
    recordings = [Recording.load(path) for path in (tmp_path / "kept").glob("*.npz")]
    assert len(recordings) == 2
    assert len({str(recording.result and recording.result["text"]) for recording in recordings}) == 1


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_key_is_refused_before_the_model_is_loaded(
    redraft_here: Run, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    missing = "no-such-model"
    monkeypatch.delenv("REDRAFT_API_KEY", raising=False)
    assert_one_line(redraft_here("serve", "--model", missing, "--api-key", key), f"an API key is {key!r}")
    assert_one_line(redraft_here("serve", "--model", missing, "--api-key", "good", "--api-key", key), "an API key is")
    monkeypatch.setenv("REDRAFT_API_KEY", key)
    assert_one_line(redraft_here("serve", "--model", missing), "REDRAFT_API_KEY is set and empty")
    assert_one_line(redraft_here("serve", "--model", missing, "--api-key", "good"), missing)
    monkeypatch.setenv("REDRAFT_API_KEY", "good")
    assert_one_line(redraft_here("serve", "--model", missing), missing)


def test_what_several_models_cannot_share_is_refused_before_weights_are_read(
    redraft_here: Run, checkpoint_of: WriteCheckpoint, tmp_path: Path
) -> None:
    folder, broken = str(checkpoint_of()), tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    two = ("serve", "--model", "sudoku", "--model", folder)
    sudoku = checkpoint.read(checkpoint.find("sudoku"))
    alone = footprint(sudoku, "float32", Use(min(CONTEXT, sudoku.config.context_length))).needed
    for options, told in (
        (("serve", "--model", "sudoku", "--model", "sudoku"), "two models are called 'sudoku'"),
        ((*two, "--name", "one"), "--name was given 1 times and there are 2 models"),
        ((*two, "--name", "one", "--name", " "), "a model's name is empty"),
        ((*two, "--revision", "main"), "--revision is for one model"),
        ((*two, "--draft-model", "sudoku"), "--draft-model is for one model"),
        (("serve", "--model", "sudoku", "--model", str(broken)), f"--model {broken}: "),
        ((*two, "--memory", f"{alone}", "--dtype", "float32"), "what it was given, beside sudoku ("),
        (("serve", "--model", "sudoku", "--model", "no-such"), "--model no-such: no checkpoint 'no-such'"),
    ):
        assert_one_line(redraft_here(*options), told)


def test_the_defaults_that_help_shows_are_the_schedulers() -> None:
    assert (serve.MAX_CONCURRENCY, serve.MAX_BATCH_ROWS) == (scheduler.MAX_CONCURRENCY, scheduler.MAX_BATCH_ROWS)


def test_what_cannot_be_served_is_said_in_one_line_before_the_model_is_loaded(
    redraft_here: Run, tmp_path: Path
) -> None:
    missing = ["serve", "--model", "no-such-model"]
    assert_one_line(redraft_here(*missing, "--host", "192.0.2.1", "--port", "1"), "cannot listen at 192.0.2.1 port 1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line(redraft_here(*missing, "--port", port), f"cannot listen at 127.0.0.1 port {port}: ")
    (tmp_path / "file").write_text("")
    assert_one_line(redraft_here(*missing, "--port", 0, "--record", tmp_path / "file"), str(tmp_path / "file"))
