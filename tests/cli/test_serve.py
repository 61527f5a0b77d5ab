"""``redraft serve`` in a process of its own, from its first line to a signal."""

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import httpx

from tests.cli.conftest import COMMAND, Run
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint


def test_it_listens_says_where_and_finishes_what_runs_when_it_is_stopped(tmp_path: Path) -> None:
    settings = {"max_denoising_steps": 24, "t_max": 0.4, "t_min": 0.2}
    folder = random_checkpoint(
        tmp_path / "small", letters=True, vocab_size=LETTERS_SIZE, canvas_length=48, generation=settings
    )
    command = [*COMMAND, "serve", "--model", str(folder), "--port", "0", "--name", "mine", "--grace", "30"]
    environment = {**os.environ, "REDRAFT_API_KEY": "from-the-environment"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        found = None
        while found is None:
            line = server.stderr.readline()
            assert line, "it ended before it listened"
            found = re.search(r"serving on (http://127\.0\.0\.1:\d+)", line)
        url, headers = found[1], {"authorization": "Bearer from-the-environment"}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"] == "mine"
        answers: list[httpx.Response] = []
        body = {"model": "mine", "prompt": "a long one", "max_tokens": 300}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60))
        )
        asking.start()
        while httpx.get(f"{url}/health").json()["running"] == 0 and not answers:
            pass
        server.send_signal(signal.SIGTERM)
        asking.join(60)
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] > 0
        server.communicate(timeout=30)


def test_what_cannot_be_served_is_said_in_one_line(redraft: Run, model: Path) -> None:
    done = redraft("serve", "--model", model, "--host", "192.0.2.1", "--port", "1")
    assert done.returncode == 1
    assert "cannot listen at 192.0.2.1 port 1" in done.stderr
    assert "Traceback" not in done.stderr
