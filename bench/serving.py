"""What the server adds to the engine: throughput at 1 to 16 clients, time to first text, and ``transformers``' ratio.

    python -m bench.serving                          # on the bundled model, which answers in hundredths of a second
    python -m bench.serving --random                 # hidden 512, 8 layers, vocabulary 32,768, 8 steps a canvas of 256
    python -m bench.serving --rounds 2 --clients 1 4 --without-reference

The engine is called directly, one request after the other, in a process of its own; the server has as many clients as
it is said, which share the same requests. The minimal server around ``transformers``' generate takes one at a time.
Each of them takes turns with the engine; which of the two goes first changes from round to round, and the other waits.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import torch
from transformers import DiffusionGemmaForBlockDiffusion

import redraft
from bench.denoising_step import SHAPE
from bench.load import start
from redraft.api import Engine
from redraft.measure.timing import Spread, alternate, times_as_fast
from redraft.models import checkpoint
from redraft.models.tokenizer import ChatTokenizer
from redraft.train.recipes.sudoku.evaluate import KINDS, fresh_puzzles

_PATIENCE = 600.0
RANDOM_STEPS = 8


@dataclass(frozen=True)
class Questions:
    """What is asked of every contender: a canvas at most to each prompt, the prompt's number its seed."""

    folder: str
    name: str
    prompts: tuple[str, ...]
    max_tokens: int

    def body(self, number: int, **fields: Any) -> dict[str, Any]:
        """A question as a client sends it."""
        messages = [{"role": "user", "content": self.prompts[number]}]
        asked = {"model": self.name, "messages": messages, "seed": number, "max_tokens": self.max_tokens}
        return {**asked, **fields}

    @property
    def fewer(self) -> "Questions":
        """Those that the slow contender gets."""
        return replace(self, prompts=self.prompts[: max(4, len(self.prompts) // 8)])


def questions(model: str, count: int) -> Questions:
    """Fresh puzzles, as text."""
    found = checkpoint.read(checkpoint.find(model))
    boards = fresh_puzzles(next(iter(KINDS)), count, seed=1).boards
    prompts = ("".join(str(digit) if digit else "." for digit in np.asarray(board).tolist()) for board in boards)
    return Questions(str(found.path), Path(model).name, tuple(prompts), found.config.canvas_length or 256)


def random_model(folder: Path) -> str:
    """Random weights of a size at which a step takes longer than a whole request to the bundled model. Noise never
    settles: every canvas takes all of its steps."""
    from tests.random_checkpoint import random_checkpoint

    settings = {"max_denoising_steps": RANDOM_STEPS}
    return str(random_checkpoint(folder / "random", letters=True, vocab_size=32_768, generation=settings, **SHAPE))


@cache
def _engine(folder: str) -> Engine:
    return redraft.load(folder)


def direct(asked: Questions) -> float:
    """Seconds of the engine, called directly, one request after the other."""
    engine = _engine(asked.folder)

    def answer(number: int) -> None:
        messages = [{"role": "user", "content": asked.prompts[number]}]
        engine.generate(messages, seed=number, max_tokens=asked.max_tokens)

    answer(0)
    began = time.perf_counter()
    for number in range(len(asked.prompts)):
        answer(number)
    return time.perf_counter() - began


def served(url: str, asked: Questions, clients: int) -> float:
    """Seconds of so many clients, who share the requests.

    They are the standard library's, each a connection that stays open: a full client's own work would be counted as the
    server's, as both have the same processors (``httpx`` takes as long for a request as the server does).
    """
    place = urlsplit(url)
    bodies = [json.dumps(asked.body(number)) for number in range(len(asked.prompts))]

    def ask(link: HTTPConnection, body: str) -> None:
        link.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = link.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}: {text.decode()}")

    left = iter(bodies)

    def one(link: HTTPConnection) -> None:
        for body in left:
            ask(link, body)

    links = [HTTPConnection(place.hostname or "", place.port, timeout=_PATIENCE) for _ in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        ask(links[0], bodies[0])
        began = time.perf_counter()
        list(pool.map(one, links))
        seconds = time.perf_counter() - began
    for link in links:
        link.close()
    return seconds


def first_text(http: httpx.Client, body: dict[str, Any]) -> float:
    """Seconds until a stream has its first text; NaN if it has none."""
    began = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - began
    return float("nan")


def first_texts(url: str, asked: Questions, rounds: int) -> dict[str, float]:
    """Medians for short and long answers, for every step's text, and for a schema's certain beginning."""
    # All of these numbers begin with a 1, which can be sent before any work; the Sudoku model can spell them.
    named = {"name": "x", "schema": {"type": "integer", "minimum": 1111, "maximum": 1999}}
    kinds: dict[str, dict[str, Any]] = {
        "short answer": {"max_tokens": 8},
        "long answer": {"max_tokens": 300},
        "diffusing": {"max_tokens": 300, "diffusing": True},
        "schema": {"max_tokens": 40, "response_format": {"type": "json_schema", "json_schema": named}},
    }
    bodies = {name: asked.body(1, **fields) for name, fields in kinds.items()}
    with httpx.Client(base_url=url, timeout=_PATIENCE) as http:
        return {name: median(first_text(http, body) for _ in range(rounds)) for name, body in bodies.items()}


@cache
def _reference_server(folder: str) -> str:
    """A server around ``transformers``' generate that takes one request at a time; its address."""
    tokenizer = ChatTokenizer.from_folder(Path(folder))
    with tempfile.TemporaryDirectory() as plain:
        # transformers refuses a generation setting that it does not know.
        shutil.copytree(folder, plain, dirs_exist_ok=True)
        config = Path(plain) / "generation_config.json"
        known = {name: value for name, value in json.loads(config.read_text()).items() if name != "choice_temperature"}
        config.write_text(json.dumps(known))
        net = DiffusionGemmaForBlockDiffusion.from_pretrained(plain, dtype=torch.float32)
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["content-length"])))
            ids = torch.LongTensor([tokenizer.encode_chat(content["messages"])])
            with lock, torch.inference_mode():
                out = net.generate(ids, max_new_tokens=content["max_tokens"])
            new = getattr(out, "sequences", out)[0, ids.shape[1] :].tolist()
            data = json.dumps({"text": tokenizer.decode(new)}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def reference(asked: Questions) -> float:
    """Seconds of ``transformers``' generate behind a server, asked by one client."""
    return served(_reference_server(asked.folder), asked, 1)


def in_turns(engine: Callable[[], float], other: Callable[[], float], rounds: int) -> dict[str, list[float]]:
    """Seconds of both by round, the one right after the other."""
    return alternate({"engine": lambda _: engine(), "other": lambda _: other()}, rounds)


def measure(asked: Questions, port: int, rounds: int, clients: list[int], with_reference: bool) -> dict[str, Any]:
    """The server at so many clients, then ``transformers``, each against the engine."""
    url = f"http://127.0.0.1:{port}"
    server = start(asked.folder, port, "--name", asked.name, "--max-concurrency", "16")
    with _apart() as process, _apart() as reference_process:

        def engine(questions: Questions = asked) -> float:
            return process.submit(direct, questions).result()

        try:
            seconds = {
                f"{count} clients": in_turns(engine, partial(served, url, asked, count), rounds) for count in clients
            }
            texts = first_texts(url, asked, rounds)
        finally:
            server.terminate()
            server.wait(60)
        alone = Spread(tuple(taken for own in seconds.values() for taken in own["engine"]))
        if with_reference:
            few = asked.fewer
            seconds["transformers"] = in_turns(
                partial(engine, few), lambda: reference_process.submit(reference, few).result(), rounds
            )
    ratios = {name: times_as_fast(own["engine"], own["other"]) for name, own in seconds.items()}
    return {
        "model": asked.name,
        "requests": len(asked.prompts),
        "seconds a request, engine called directly": alone.median / len(asked.prompts),
        "times the engine's seconds": {name: ratio.as_object() for name, ratio in ratios.items() if ratio is not None},
        "seconds to first text": texts,
    }


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku")
    parser.add_argument("--random", action="store_true", help="a random checkpoint of middling size in its place")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--without-reference", action="store_true")
    parser.add_argument("--port", type=int, default=8766)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(random_model(Path(folder)) if given.random else given.model, given.requests)
        figures = measure(asked, given.port, given.rounds, given.clients, not given.without_reference)
    print(json.dumps(figures, indent=2))


def _apart() -> ProcessPoolExecutor:
    """A process of its own, which keeps what it has loaded."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


if __name__ == "__main__":
    main()
