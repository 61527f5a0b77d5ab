"""What the server adds to the engine: throughput at 1 to 16 clients, time to first text, and ``transformers``' ratio.

    python -m bench.serving                          # on the bundled model
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Lock, Thread
from typing import Any

import httpx
import numpy as np

from bench.load import start
from redraft.train.recipes.sudoku.evaluate import KINDS, fresh_puzzles

_PATIENCE = 600.0


def prompts(count: int) -> list[str]:
    """Fresh puzzles as text."""
    boards = fresh_puzzles(next(iter(KINDS)), count, seed=1).boards
    return ["".join(str(digit) if digit else "." for digit in np.asarray(board).tolist()) for board in boards]


def body(model: str, prompt: str, seed: int) -> dict[str, Any]:
    """One request."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "seed": seed}


def direct(model: str, asked: list[str]) -> dict[str, float]:
    """Tokens a second of the engine, called directly."""
    import redraft

    engine = redraft.load(model)
    engine.generate([{"role": "user", "content": asked[0]}], seed=0)
    began, tokens = time.perf_counter(), 0
    for seed, prompt in enumerate(asked):
        tokens += engine.generate([{"role": "user", "content": prompt}], seed=seed).usage.completion_tokens
    return {"tokens": tokens, "seconds": time.perf_counter() - began}


async def served(url: str, model: str, asked: list[str], clients: int) -> dict[str, float]:
    """Tokens a second of so many clients, who share the requests."""
    queue = list(enumerate(asked))
    tokens = 0

    async def one(http: httpx.AsyncClient) -> None:
        nonlocal tokens
        while queue:
            seed, prompt = queue.pop(0)
            answer = await http.post("/v1/chat/completions", json=body(model, prompt, seed))
            tokens += answer.json()["usage"]["completion_tokens"]

    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http:
        await http.post("/v1/chat/completions", json=body(model, asked[0], 0))
        began = time.perf_counter()
        await asyncio.gather(*(one(http) for _ in range(clients)))
        return {"tokens": tokens, "seconds": time.perf_counter() - began}


def first_text(url: str, model: str, prompt: str, **fields: Any) -> float:
    """Seconds until a stream has its first text."""
    began = time.perf_counter()
    asked = {**body(model, prompt, 1), "stream": True, **fields}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=_PATIENCE) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - began
    return float("nan")


def first_texts(url: str, model: str, prompt: str, rounds: int) -> dict[str, float]:
    """Medians for short and long answers, for every step's text, and for a schema's certain beginning."""
    # All of these numbers begin with a 1, which can be sent before any work; the Sudoku model can spell them.
    named = {"name": "x", "schema": {"type": "integer", "minimum": 1111, "maximum": 1999}}
    kinds: dict[str, dict[str, Any]] = {
        "short answer": {"max_tokens": 8},
        "long answer": {"max_tokens": 300},
        "diffusing": {"max_tokens": 300, "diffusing": True},
        "schema": {"max_tokens": 40, "response_format": {"type": "json_schema", "json_schema": named}},
    }
    return {
        name: median(first_text(url, model, prompt, **fields) for _ in range(rounds)) for name, fields in kinds.items()
    }


def reference(model: str, asked: list[str]) -> dict[str, float]:
    """Tokens a second of ``transformers``' generate behind a server that takes one request at a time."""
    import torch
    from transformers import DiffusionGemmaForBlockDiffusion

    from redraft.models import checkpoint
    from redraft.models.tokenizer import ChatTokenizer

    folder = checkpoint.find(model)
    tokenizer = ChatTokenizer.from_folder(folder)
    with tempfile.TemporaryDirectory() as plain:
        # transformers refuses a generation setting that it does not know.
        shutil.copytree(folder, plain, dirs_exist_ok=True)
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
                out = net.generate(ids, max_new_tokens=net.config.canvas_length)
            sequences = getattr(out, "sequences", out)
            new = sequences[0, ids.shape[1] :].tolist()
            data = json.dumps({"tokens": len(new), "text": tokenizer.decode(new)}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    httpx.post(url, json=body(model, asked[0], 0), timeout=_PATIENCE)
    began, tokens = time.perf_counter(), 0
    for seed, prompt in enumerate(asked):
        tokens += httpx.post(url, json=body(model, prompt, seed), timeout=_PATIENCE).json()["tokens"]
    seconds = time.perf_counter() - began
    server.shutdown()
    return {"tokens": tokens, "seconds": seconds}


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--without-reference", action="store_true")
    parser.add_argument("--port", type=int, default=8766)
    given = parser.parse_args()
    asked, name = prompts(given.requests), Path(given.model).name
    url = f"http://127.0.0.1:{given.port}"
    figures: dict[str, Any] = {"requests": given.requests, "seconds": {"engine": [], **{n: [] for n in given.clients}}}
    server = start(given.model, given.port, "--max-concurrency", "16")
    try:
        # In turns, so that what else the machine does meets all of them; each has the machine to itself meanwhile.
        for _ in range(given.rounds):
            figures["seconds"]["engine"].append(_apart(direct, given.model, asked)["seconds"])
            for clients in given.clients:
                figures["seconds"][clients].append(asyncio.run(served(url, name, asked, clients))["seconds"])
        figures["seconds to first text"] = first_texts(url, name, asked[0], given.rounds)
    finally:
        server.terminate()
        server.wait(60)
    engine = median(figures["seconds"]["engine"])
    figures["server's seconds over the engine's"] = {
        clients: round(median(figures["seconds"][clients]) / engine, 3) for clients in given.clients
    }
    if not given.without_reference:
        found = _apart(reference, given.model, asked[: max(4, given.requests // 8)])
        ours = engine / given.requests
        figures["transformers' seconds a request over the engine's"] = round(
            found["seconds"] / max(4, given.requests // 8) / ours, 1
        )
    print(json.dumps(figures, indent=2))


def _apart(measure: Any, model: str, asked: list[str]) -> dict[str, float]:
    """Measure in a process of its own."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found: dict[str, float] = pool.submit(measure, model, asked).result()
        return found


if __name__ == "__main__":
    main()
