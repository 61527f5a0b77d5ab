"""A server that does on demand what a real one does not: it is slow, fails or falls silent in the midst of an answer,
and writes text of several canvases, which the bundled model cannot. Its runs are scripted."""

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.serve.page.scripted import EOS, Event, Vocabulary, denoised, log_valid

DIST = Path(__file__).parents[3] / "src/redraft/serve/page/dist"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LETTER = (
    "A block-diffusion model does not type. It starts from a canvas of random tokens, and at every step it reads "
    "all of them at once and says what it would rather see. What it is sure of is kept; the rest is noise again.\n\n"
    "So a word at the end can change a word at the beginning, and an answer is done when nothing wants to change."
)


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    model: ClassVar[str] = "writer"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        """What was asked, in order."""
        self.cancelled = threading.Event()
        """Somebody left before the end of a stream."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self._json(200, {"status": "ok", "model": self.server.model, "version": "0.1.0"})
        elif self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": self.server.model}]})
        else:
            self._file(self.path.split("?")[0].removeprefix("/") or "index.html")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        events = answered(self.server.model, body)
        first = next(events)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._event(first)
            for event in events:
                time.sleep(0.8 if "slow" in asked(body) else 0.01)
                if event[0] == "cut":
                    return
                self._event(event)
        except OSError:
            self.server.cancelled.set()

    def _event(self, event: Event) -> None:
        # Comments and both line ends occur in the wild.
        self.wfile.write(f": ping\r\nevent: {event[0]}\r\ndata: {json.dumps(event[1])}\n\n".encode())
        self.wfile.flush()

    def _file(self, name: str) -> None:
        path = DIST / name
        if not path.resolve().is_relative_to(DIST) or not path.is_file():
            self._json(404, {"error": {"message": f"there is no {name}", "type": "not_found_error"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", TYPES[path.suffix])
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(path.read_bytes())

    def _json(self, status: int, value: Any) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


def asked(body: dict[str, Any]) -> str:
    """The prompt's text."""
    return body["messages"][-1]["content"] if body.get("messages") else body.get("prompt", "")


def text_for(body: dict[str, Any]) -> str:
    """What is written on the canvas."""
    if "constraint" in body:
        return '{"name":"Ada Lovelace","born":1815,"share":1.0,"fields":["mathematics","computing"]}'
    return LETTER


def answered(model: str, body: dict[str, Any]) -> Iterator[Event]:
    """All events of one answer."""
    vocabulary = Vocabulary()
    tokens = vocabulary.encode(re.findall(r"\n|[0-9]|[^\S\n]?[\w-]+|[^\w\s]|\s", text_for(body)))
    length = 64
    canvases = [tokens[at : at + length] for at in range(0, len(tokens), length)]
    if "constraint" not in body:
        canvases[-1] = canvases[-1] + [EOS] * (length - len(canvases[-1]))
    seed, limit = body.get("seed", 7), body.get("max_denoising_steps", 18)
    steps = min(limit, 6)
    start = {"id": "r-1", "model": model, "seed": seed, "prompt_tokens": 91, "canvas_length": length}
    yield "start", start | {"end_token_ids": [EOS]}
    known: set[str] = set()
    text = ""
    for canvas, content in enumerate(canvases):
        for number, event in enumerate(denoised(vocabulary, content, canvas, steps, limit, seed, known)):
            yield event
            if number == 2 and "break" in asked(body):
                yield "error", {"message": "the logits are NaN at step 16", "type": "server_error", "param": None}
                return
            if number == 2 and "vanish" in asked(body):
                yield "cut", {}
        new = "".join(vocabulary.texts[token] for token in content if token != EOS)
        text += new
        yield (
            "chunk",
            {"canvas": canvas, "text": new, "thought": "", "denoising_steps": steps, "converged": steps < limit},
        )
    written = len([token for token in tokens if token != EOS])
    result: dict[str, Any] = {
        "text": text,
        "finish_reason": "stop",
        "seed": seed,
        "thought": "First the rows." if body.get("thinking") else None,
        "log_valid": log_valid("constraint" in body),
        "unconverged_canvases": [0] if steps == limit else [],
        "usage": {
            "prompt_tokens": 91,
            "cached_prompt_tokens": 0,
            "completion_tokens": written,
            "canvases": len(canvases),
            "denoising_steps": steps * len(canvases),
            "time_to_first_token": 0.09,
            "seconds": 0.1,
            "tokens_per_step": written / (steps * len(canvases)),
        },
    }
    yield "result", result
