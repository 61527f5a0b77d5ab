"""Replicas on Ray: what a second one brings, what the router saves on shared prefixes, and a load while they die.

    python -m bench.replicas throughput           # one process, one replica, two replicas
    python -m bench.replicas prefixes             # two replicas, with the router's weighing of prefixes and without
    python -m bench.replicas routing              # the same counts without Ray, two replicas in this process
    python -m bench.replicas killed --every 20    # a replica killed without warning every so many seconds

Each but `routing` starts replicas in processes of their own, on the small random checkpoint of `bench.load`. The last
one compares every answer with that of the same model in this process: it exits with 1 for one that differs, and where
something is left running. With RAY_ADDRESS set, replicas are of that cluster, which has to be on this machine.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench import load
from redraft.loading import load as load_model

PORT = 8766
# Ray starts half a dozen processes before the first replica.
_START = 900.0
_SERVER = """
import sys
from redraft.serve.ray import run
from redraft.serve.replicas.arguments import Arguments
model, replicas, worth, port = sys.argv[1:]
arguments = Arguments(model=model, replicas=int(replicas), prefix_worth=float(worth))
run(arguments, host="127.0.0.1", port=int(port), grace=5)
"""


@contextmanager
def served(model: str, replicas: int, worth: float = 4.0) -> Iterator[str]:
    """A server with so many replicas; with 0 the plain one. ``worth``: as in ``Arguments.prefix_worth``."""
    plain = ["-c", "from redraft.cli.main import main; main()", "serve", "--model", model, "--port", str(PORT)]
    given = ["-c", _SERVER, model, str(replicas), str(worth), str(PORT)]
    process = subprocess.Popen([sys.executable, *(given if replicas else plain)], stderr=subprocess.DEVNULL)
    url, end = f"http://127.0.0.1:{PORT}", time.monotonic() + _START
    try:
        while not up(url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server did not start")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(120)


def up(url: str) -> bool:
    """Tell whether a server answers."""
    try:
        return httpx.get(f"{url}/health", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def counts(url: str, name: str) -> float:
    """A count of ``/metrics``, of all replicas together."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0] == name)


async def asked(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[float, list[float]]:
    """Have so many clients ask for all of ``bodies``; the seconds in all, and of each."""
    left, seconds = iter(bodies), []
    begun = time.perf_counter()

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            for body in left:
                at = time.perf_counter()
                (await http.post("/v1/chat/completions", json=body)).raise_for_status()
                seconds.append(time.perf_counter() - at)

    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begun, seconds


def throughput(model: str, requests: int, clients: int, rounds: int) -> dict[str, Any]:
    """Answers a second of one process, one replica and two replicas, which share the machine's cores."""
    name, chance = Path(model).name, random.Random(1)
    bodies = [{**load.request(chance, name), "max_tokens": 96, "seed": number} for number in range(requests)]
    found = {}
    for replicas in (0, 1, 2):
        with served(model, replicas) as url:
            asyncio.run(asked(url, bodies[:clients], clients))
            times = [asyncio.run(asked(url, bodies, clients))[0] for _ in range(rounds)]
        found[f"{replicas} replicas" if replicas else "one process"] = {
            "answers a second": [round(requests / seconds, 2) for seconds in sorted(times)]
        }
    return found


def conversations(model: str, prompts: int, turns: int) -> list[dict[str, Any]]:
    """Requests of which ``turns`` each begin with the same long text, in a drawn order."""
    chance = random.Random(2)
    texts = ["".join(chance.choice("abcdefgh ") for _ in range(700)) for _ in range(prompts)]
    bodies = [
        {"model": model, "messages": [{"role": "user", "content": f"{text} {turn}"}], "max_tokens": 8, "seed": turn}
        for turn in range(turns)
        for text in texts
    ]
    chance.shuffle(bodies)
    return bodies


def prefixes(model: str, clients: int) -> dict[str, Any]:
    """The share of prompt tokens that need not be encoded again, and the time, with two replicas."""
    found = {}
    for what, worth in (("by load alone", 0.0), ("by prefix", 4.0)):
        with served(model, 2, worth) as url:
            seconds, each = asyncio.run(asked(url, conversations(Path(model).name, 12, 6), clients))
            tokens = counts(url, "redraft_prompt_tokens_total")
            reused = counts(url, "redraft_prompt_tokens_reused_total")
        found[what] = {
            "prompt tokens": int(tokens),
            "of them cached": f"{reused / tokens:.1%}",
            "seconds": round(seconds, 1),
            "median of a request": round(statistics.median(each), 3),
        }
    return found


def routing(model: str, clients: int) -> dict[str, Any]:
    """The share of prompt tokens that need not be encoded again by two replicas in this process: counts, no times."""
    from tests.serve.replicas.conftest import fronted

    from redraft.serve.backend import Backend
    from redraft.serve.state import ServerSettings

    name, found = Path(model).name, {}
    for what, worth in (("by load alone", 0.0), ("by prefix", 4.0)):
        both = {one: Backend({name: load_model(model)}, ServerSettings(name), names=None) for one in ("a", "b")}
        with fronted(both, ServerSettings(name), worth=worth) as up:
            asyncio.run(asked(up.url, conversations(name, 12, 6), clients))
            pools = [runtime.pool for one in both.values() for runtime in one.models.values()]
            tokens, reused = sum(pool.lookups for pool in pools), sum(pool.hits for pool in pools)
            sent = sorted(up.fleet.taken.count(one) for one in both)
        for one in both.values():
            one.close(0.0)
        found[what] = {"prompt tokens": tokens, "of them cached": f"{reused / tokens:.1%}", "requests of each": sent}
    return found


def replica_processes() -> list[int]:
    """The replicas of this machine, by their processes."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ServeReplica:redraft:replicas" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


async def killer(every: float, end: float, killed: list[float]) -> None:
    """Kill a replica every so many seconds, but for the last third of the time, in which all shall be well again."""
    chance = random.Random(3)
    while time.monotonic() + every < end:
        await asyncio.sleep(every)
        there = replica_processes()
        if there:
            os.kill(chance.choice(there), signal.SIGKILL)
            killed.append(time.monotonic())


def under_fire(model: str, clients: int, seconds: float, every: float) -> dict[str, Any]:
    """Load two replicas while they are killed, then compare all answers with those of a model in this process."""
    tally, killed = load.Tally(loses=True), list[float]()
    with served(model, 2) as url:
        end = time.monotonic() + seconds

        async def run() -> None:
            asking = (load.client(number, url, Path(model).name, end, tally) for number in range(clients))
            await asyncio.gather(killer(every, end, killed), *asking)

        asyncio.run(run())
        # Whoever is left has what a whole answer takes, and then no client waits any longer.
        left, until = 1.0, time.monotonic() + 60
        while left and time.monotonic() < until:
            health = httpx.get(f"{url}/health", timeout=60).json()
            left = health["running"] + health["waiting"]
            time.sleep(0.5)
        told = {name: counts(url, f"redraft_{name}_total") for name in ("replica_losses", "retried_requests",
                                                                        "broken_streams")}  # fmt: skip
    return {
        "killed": len(killed),
        "counts": dict(tally.counts),
        **told,
        "left running": left,
        "answers compared with those of one process": compared(model, tally),
        "fault count": len(tally.faults),
        "faults": tally.faults[:20],
    }


def compared(model: str, tally: load.Tally) -> int:
    """Ask a model in this process for what was answered, and note what differs."""
    engine = load_model(model)
    plain = [key for key in tally.answers if "response_format" not in key]
    for key in plain:
        body = json.loads(key)
        own = engine.generate(body["messages"], max_tokens=body["max_tokens"], seed=body["seed"]).text
        if own != tally.answers[key]:
            tally.faults.append(f"not the answer of one process: {key}")
    return len(plain)


def main() -> None:
    """Run one of them, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "prefixes", "routing", "killed"])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--every", type=float, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = load.small_model(Path(folder) / "small")
        match given.what:
            case "throughput":
                found = throughput(model, given.requests, given.clients, given.rounds)
            case "prefixes":
                found = prefixes(model, given.clients)
            case "routing":
                found = routing(model, given.clients)
            case _:
                found = under_fire(model, given.clients, given.seconds, given.every)
    print(json.dumps(found, indent=2))
    sys.exit(bool(found.get("fault count") or found.get("left running")))


if __name__ == "__main__":
    main()
