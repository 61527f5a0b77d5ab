"""A server whose answers are given byte by byte, for what a real one cannot be made to do at a certain moment."""

import json
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from redraft.serve.app import PAGE

# Bytes of a stream, or what to wait for before the next of them.
Part = bytes | threading.Event
LETTERS = "abcd"
"""What stands on the canvas of every scripted answer, four positions long."""


class ScriptedServer(ThreadingHTTPServer):
    """Serves the page; every POST takes the next of ``answers``, a stream that ends with its parts or a bare status."""

    daemon_threads = True

    def __init__(self, *answers: Sequence[Part] | HTTPStatus) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = iter(answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(SimpleHTTPRequestHandler):
    server: ScriptedServer

    def __init__(self, *given: Any) -> None:
        super().__init__(*given, directory=str(PAGE))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        described = {"/v1/models": {"data": [{"id": "scripted"}]}, "/health": {"version": "1.2.3"}}
        if self.path not in described:
            super().do_GET()
            return
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.write(json.dumps(described[self.path]).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = next(self.server.answers)
        if isinstance(answer, HTTPStatus):
            self.send_error(answer)
            return
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        for part in answer:
            if isinstance(part, threading.Event):
                part.wait(30)
            else:
                self.wfile.write(part)


def event(kind: str, data: object) -> bytes:
    """One event, with a comment and with both line ends, which occur in the wild."""
    return f": ping\r\nevent: {kind}\r\ndata: {json.dumps(data)}\n\n".encode()


def started() -> bytes:
    """The first event of an answer."""
    return event("start", {"id": "1", "model": "scripted", "seed": 7, "prompt_tokens": 3, "end_token_ids": []})


def stepped(number: int, letters: str = LETTERS) -> bytes:
    """The event of one denoising step of eight, counted from 1."""
    step = {
        "canvas": 0,
        "step": number,
        "of": 8,
        "temperature": 0.5,
        "tokens": [0, 1, 2, 3],
        "argmax": [0, 1, 2, 3],
        "entropy": [0.5] * 4,
        "accepted": [1, 0, 0, 0],
        "finished": False,
        "changed": [],
        "pieces": dict(enumerate(letters)) if number == 1 else {},
    }
    return event("step", step)


def resulted(text: str = LETTERS) -> bytes:
    """The last event of an answer of two steps."""
    usage = {
        "prompt_tokens": 3,
        "cached_prompt_tokens": 0,
        "completion_tokens": 4,
        "canvases": 1,
        "denoising_steps": 2,
        "time_to_first_token": 0.1,
        "seconds": 0.1,
        "tokens_per_step": 2.0,
    }
    result = {
        "text": text,
        "finish_reason": "stop",
        "seed": 7,
        "thought": None,
        "log_valid": [],
        "unconverged_canvases": [],
        "usage": usage,
    }
    return event("result", result)
