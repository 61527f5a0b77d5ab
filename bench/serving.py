"""What the server adds to the engine: throughput at 1 to 16 clients, time to first text, and ``transformers``' ratio.

    python -m bench.serving                          # on the bundled model, which answers in hundredths of a second
    python -m bench.serving --random                 # hidden 512, 8 layers, vocabulary 32,768, 8 steps a canvas of 256
    python -m bench.serving --rounds 2 --clients 1 4 --without-reference

The engine is called directly, one request after the other, in a process of its own; the server has as many clients as
it is said, which share the same requests. The minimal server around ``transformers``' generate takes one at a time.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Lock, Thread
from typing import Any

import httpx
import numpy as np
import torch
from transformers import DiffusionGemmaForBlockDiffusion

import redraft
from bench.denoising_step import SHAPE
from bench.load import start
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
    return Questions(str(found.folder), Path(model).name, tuple(prompts), found.config.canvas_length or 256)


def random_model(folder: Path) -> str:
    """Random weights of a size at which a step takes longer than a whole request to the bundled model. Noise never
    settles: every canvas takes all of its steps."""
    from tests.random_checkpoint import random_checkpoint

    settings = {"max_denoising_steps": RANDOM_STEPS}
    return str(random_checkpoint(folder / "random", letters=True, vocab_size=32_768, generation=settings, **SHAPE))


def direct(asked: Questions) -> float:
    """Seconds of the engine, called directly, one request after the other."""
    engine = redraft.load(asked.folder)

    def answer(number: int) -> None:
        messages = [{"role": "user", "content": asked.prompts[number]}]
        engine.generate(messages, seed=number, max_tokens=asked.max_tokens)

    answer(0)
    began = time.perf_counter()
    for number in range(len(asked.prompts)):
        answer(number)
    return time.perf_counter() - began


async def served(url: str, asked: Questions, clients: int) -> float:
    """Seconds of so many clients, who share the requests."""
    numbers = list(range(len(asked.prompts)))

    async def one(http: httpx.AsyncClient) -> None:
        while numbers:
            answer = await http.post("/v1/chat/completions", json=asked.body(numbers.pop(0)))
            answer.raise_for_status()

    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http:
        await http.post("/v1/chat/completions", json=asked.body(0))
        began = time.perf_counter()
        await asyncio.gather(*(one(http) for _ in range(clients)))
        return time.perf_counter() - began


def first_text(url: str, body: dict[str, Any]) -> float:
    """Seconds until a stream has its first text; NaN if it has none."""
    began = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=_PATIENCE) as answer:
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
    return {name: median(first_text(url, body) for _ in range(rounds)) for name, body in bodies.items()}


def reference(asked: Questions) -> float:
    """Seconds of ``transformers``' generate behind a server that takes one request at a time."""
    tokenizer = ChatTokenizer.from_folder(Path(asked.folder))
    with tempfile.TemporaryDirectory() as plain:
        # transformers refuses a generation setting that it does not know.
        shutil.copytree(asked.folder, plain, dirs_exist_ok=True)
        config = Path(plain) / "generation_config.json"
        known = {name: value for name, value in json.loads(config.read_text()).items() if name != "choice_temperature"}
        config.write_text(json.dumps(known))
        net = DiffusionGemmaForBlockDiffusion.from_pretrained(plain, dtype=torch.float32)
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
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
    url = f"http://127.0.0.1:{server.server_port}/"

    def answer(number: int) -> None:
        httpx.post(url, json=asked.body(number), timeout=_PATIENCE).raise_for_status()

    answer(0)
    began = time.perf_counter()
    for number in range(len(asked.prompts)):
        answer(number)
    seconds = time.perf_counter() - began
    server.shutdown()
    return seconds


def measure(asked: Questions, port: int, rounds: int, clients: list[int], with_reference: bool) -> dict[str, Any]:
    """All contenders in turn, round by round, so that what else the machine does meets all of them; each has the
    machine to itself meanwhile. Ratios are medians of those within a round."""
    url = f"http://127.0.0.1:{port}"
    seconds: list[dict[str, float]] = []
    server = start(asked.folder, port, "--name", asked.name, "--max-concurrency", "16")
    try:
        for _ in range(rounds):
            one = {"engine": _apart(direct, asked)}
            for count in clients:
                one[f"{count} clients"] = asyncio.run(served(url, asked, count))
            if with_reference:
                share = len(asked.fewer.prompts) / len(asked.prompts)
                one["transformers"] = _apart(reference, asked.fewer) / share
            seconds.append(one)
        texts = first_texts(url, asked, rounds)
    finally:
        server.terminate()
        server.wait(60)
    ratios = {
        name: sorted(round(one[name] / one["engine"], 3) for one in seconds) for name in seconds[0] if name != "engine"
    }
    return {
        "model": asked.name,
        "requests": len(asked.prompts),
        "seconds a request, engine called directly": median(one["engine"] for one in seconds) / len(asked.prompts),
        "times the engine's seconds, each round's": ratios,
        "times the engine's seconds, median": {name: median(own) for name, own in ratios.items()},
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


def _apart(contender: Callable[[Questions], float], asked: Questions) -> float:
    """Measure in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(contender, asked).result()


if __name__ == "__main__":
    main()
