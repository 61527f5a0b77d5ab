"""Many clients on one server, most of them well behaved, some of them not.

    python -m bench.load                          # 64 clients for five minutes, on a small random checkpoint
    python -m bench.load --clients 16 --seconds 30

Answers of mixed length, schemas, streams, connections closed in the middle, and bad requests. At the end: no error that
its client did not earn, answers equal to the same request served alone, nothing left running, and how memory grew. Then
the same load once more, in the midst of which the server is killed without warning: a new one at the same port and with
the same folder of recordings has to start, to give the same answers, and to find no recording that is not whole.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from redraft.errors import RecordingError
from redraft.record.recording import SUFFIX, Recording

SCHEMA = {"type": "array", "items": {"type": "integer", "maximum": 999, "minimum": 0}, "maxItems": 4}
BAD = (
    {"top_p": 1.5},
    {"temperature": 99},
    {"nonsense": 1},
    {"max_tokens": 10**6},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}}},
)
KINDS = ("plain", "plain", "stream", "schema", "closed", "bad")
# Busy is an answer: the client comes again.
BUSY, LOST = 429, 503
_PATIENCE = 600.0


@dataclass
class Tally:
    """What happened."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """By request, as JSON: the text."""
    loses: bool = False
    """True if replicas are killed: a stream may end with an error then, and be asked for again."""

    def answered(self, body: dict[str, Any], text: str) -> None:
        """Compare with what the same request got before."""
        key = json.dumps(body, sort_keys=True)
        if self.answers.setdefault(key, text) != text:
            self.faults.append(f"two answers to {key}")


def request(chance: random.Random, model: str) -> dict[str, Any]:
    """One of so few requests that they come again and again."""
    prompt = chance.choice(("a", "one", "two " * 20, "three " * 60))
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return {**body, "seed": chance.randrange(8), "max_tokens": chance.choice((5, 40, 120))}


async def client(number: int, url: str, model: str, end: float, tally: Tally) -> None:
    """Ask until the time is over."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http:
        while time.monotonic() < end:
            kind = chance.choice(KINDS)
            try:
                await ask(http, kind, request(chance, model), chance, tally)
            except httpx.HTTPError as error:
                tally.faults.append(f"{kind}: {error!r}")


async def ask(http: httpx.AsyncClient, kind: str, body: dict[str, Any], chance: random.Random, tally: Tally) -> None:
    """One request of a kind."""
    path = "/v1/chat/completions"
    if kind == "bad":
        answer = await http.post(path, json={**body, **chance.choice(BAD)})
        expect(tally, kind, answer.status_code in (400, BUSY, *([LOST] if tally.loses else [])), answer.text)
    elif kind == "closed":
        try:
            await asyncio.wait_for(http.post(path, json=body), chance.random() * 0.3)
        except TimeoutError:
            tally.counts["closed"] += 1
    elif kind == "stream":
        await stream(http, path, body, tally)
    else:
        if kind == "schema":
            schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
            body = {**body, "max_tokens": 40, "response_format": schema}
        answer = await http.post(path, json=body)
        if answer.status_code == BUSY or (tally.loses and answer.status_code == LOST):
            tally.counts["busy" if answer.status_code == BUSY else "lost"] += 1
            await asyncio.sleep(1)
            return
        expect(tally, kind, answer.status_code == 200, answer.text)
        if answer.status_code == 200:
            text = answer.json()["choices"][0]["message"]["content"]
            tally.answered(body, text)
            if kind == "schema":
                expect(tally, "valid", all(isinstance(one, int) for one in json.loads(text)), text)


async def stream(http: httpx.AsyncClient, path: str, body: dict[str, Any], tally: Tally) -> None:
    """A stream, whose text is that of the whole."""
    text, done = "", False
    async with http.stream("POST", path, json={**body, "stream": True}) as answer:
        if answer.status_code == BUSY or (tally.loses and answer.status_code == LOST):
            tally.counts["busy" if answer.status_code == BUSY else "lost"] += 1
            return
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if tally.loses and "error" in chunk:
                    tally.counts["broken"] += 1
                    return
                text += "".join(one["delta"].get("content") or "" for one in chunk.get("choices", ()))
    expect(tally, "stream", done, "a stream that did not end")
    tally.answered(body, text)


def expect(tally: Tally, kind: str, good: bool, shown: str) -> None:
    """Count what is as it should be, and keep what is not."""
    tally.counts[kind] += 1
    if not good:
        tally.faults.append(f"{kind}: {shown[:300]}")


def resident(pid: int) -> float:
    """Megabytes of a process that are in memory; 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmRSS"))


async def watched(pid: int, end: float, seen: list[float]) -> None:
    """Look at the server's memory now and then."""
    while time.monotonic() < end:
        seen.append(resident(pid))
        await asyncio.sleep(1)


async def checked_alone(url: str, tally: Tally) -> int:
    """Ask once more, one after the other, for all that was answered before."""
    keys = sorted(tally.answers)
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http:
        for key in keys:
            answer = await http.post("/v1/chat/completions", json=json.loads(key))
            tally.answered(json.loads(key), answer.json()["choices"][0]["message"]["content"])
    return len(keys)


async def run(url: str, pid: int, model: str, clients: int, seconds: float) -> tuple[Tally, dict[str, Any]]:
    """The whole load, and what came of it."""
    tally = Tally()
    seen: list[float] = []
    end = time.monotonic() + seconds
    await asyncio.gather(
        watched(pid, end, seen), *(client(number, url, model, end, tally) for number in range(clients))
    )
    batches = in_batches(url)
    compared = await checked_alone(url, tally)
    left = httpx.get(f"{url}/health").json()
    third = max(1, len(seen) // 3)
    return tally, {
        "clients": clients,
        "seconds": seconds,
        "counts": dict(tally.counts),
        "answers compared with those served alone": compared,
        **batches,
        "left running": left["running"] + left["waiting"],
        "memory MB, mean of the second and of the last third": [
            round(sum(part) / max(1, len(part)), 1) for part in (seen[third : 2 * third], seen[-third:])
        ],
        "faults": tally.faults[:20],
        "fault count": len(tally.faults),
    }


def in_batches(url: str) -> dict[str, float]:
    """Read from /metrics how much was computed together, of all models."""
    counts: defaultdict[str, float] = defaultdict(float)
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line[0] != "#":
            name, value = line.rsplit(" ", 1)
            counts[name.partition("{")[0]] += float(value)
    forwards = max(1.0, counts["redraft_forwards_total"])
    return {
        "requests a forward": round(counts["redraft_batched_requests_total"] / forwards, 2),
        "rows a forward": round(counts["redraft_batched_rows_total"] / forwards, 1),
    }


async def killed(server: subprocess.Popen[bytes], url: str, model: str, clients: int, seconds: float) -> int:
    """Load the server, kill it in the midst of that, and return how many requests were open then."""
    tally, open_then = Tally(), 0

    async def kill() -> None:
        nonlocal open_then
        await asyncio.sleep(seconds / 2)
        load = httpx.get(f"{url}/health").json()
        open_then = load["running"] + load["waiting"]
        server.kill()
        server.wait()

    # What the clients are told after it has gone is no fault of anybody's.
    end = time.monotonic() + seconds / 2
    await asyncio.gather(kill(), *(client(number, url, model, end, tally) for number in range(clients)))
    return open_then


def unreadable(folder: Path) -> list[str]:
    """Recordings that are not whole."""
    bad = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            Recording.load(path)
        except RecordingError as error:
            bad.append(str(error))
    return bad


def start(model: str, port: int, *options: str) -> subprocess.Popen[bytes]:
    """A server in a process of its own, once it answers."""
    command = [sys.executable, "-c", "from redraft.cli.main import main; main()", "serve", "--model", model]
    server = subprocess.Popen([*command, "--port", str(port), *options], stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
            return server
        except httpx.TransportError:
            time.sleep(0.1)
    server.kill()
    raise RuntimeError("the server did not start")


def small_model(folder: Path) -> str:
    """Random weights, whose answers are noise and soon given up; any text can be spelled."""
    from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

    folder.mkdir()
    settings = {"max_denoising_steps": 8, "t_max": 0.4, "t_min": 0.2}
    random_checkpoint(
        folder, letters=True, vocab_size=LETTERS_SIZE, canvas_length=48, context_length=1024, generation=settings
    )
    return str(folder)


def main() -> None:
    """Start a server, load it, and say what came of it; exit code 1 where there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="by default a small random checkpoint, which is written to a temporary folder")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--port", type=int, default=8765)
    given = parser.parse_args()
    url = f"http://127.0.0.1:{given.port}"
    with tempfile.TemporaryDirectory() as folder:
        model, recordings = given.model or small_model(Path(folder) / "small"), Path(folder) / "recordings"
        name = Path(model).name
        server = start(model, given.port)
        try:
            tally, report = asyncio.run(run(url, server.pid, name, given.clients, given.seconds))
        finally:
            server.terminate()
            server.wait(60)
        server = start(model, given.port, "--record", str(recordings))
        open_then = asyncio.run(killed(server, url, name, given.clients, min(given.seconds, 20.0)))
        written = len(list(recordings.glob(f"*{SUFFIX}")))
        server = start(model, given.port, "--record", str(recordings))
        try:
            again = Tally(answers=tally.answers)
            compared = asyncio.run(checked_alone(url, again))
        finally:
            server.terminate()
            server.wait(60)
        bad = unreadable(recordings)
    report["killed"] = {
        "requests open then": open_then,
        "recordings until then": written,
        "recordings that are not whole": bad,
        "answers compared after it": compared,
        "faults after it": again.faults[:20],
    }
    print(json.dumps(report, indent=2))
    sys.exit(bool(report["fault count"] or report["left running"] or bad or again.faults))


if __name__ == "__main__":
    main()
