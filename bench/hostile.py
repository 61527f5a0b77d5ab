"""What hostile clients do to others: /health, another client's Sudoku, and memory, during and after each attack.

    python -m bench.hostile                        # the bundled Sudoku model, every attack, 10 seconds each
    python -m bench.hostile --attacks schemas users --seconds 30

Attacks come from a process of their own and with an API key of their own: ten bodies of 4 MB at a time, of text and of
many small values; twelve schemas that take long to compile, whose connections are closed at once; 100 half-sent
requests; 64 clients that leave at random; 200 invented users. The other client solves the same Sudokus alone, before
and after, and during each attack. To reach: /health under 100 ms, a Sudoku under twice its time alone and a forward,
memory within 5 % of what it was, and no answer of 400 or 500 that was not earned. Exit code 1 where that is missed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

import httpx

from bench.attacks import ATTACKS, CHAT, KEY, PUZZLE
from bench.load import resident, start

HEALTH_MS, TIMES_ALONE, MEMORY_SHARE = 100.0, 2.0, 0.05
_PATIENCE = 600.0
_OTHER = "other"


class Other:
    """Another client, and whoever looks whether the server lives."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self._http = httpx.Client(base_url=url, timeout=_PATIENCE, headers={"authorization": f"Bearer {_OTHER}"})

    def sudoku(self, seed: int) -> float:
        """Seconds of one Sudoku."""
        body = {"model": self.model, "messages": [{"role": "user", "content": PUZZLE}], "seed": seed}
        began = time.perf_counter()
        self._http.post(CHAT, json=body).raise_for_status()
        return time.perf_counter() - began

    def sudokus(self, seconds: float) -> list[float]:
        """Seconds of each Sudoku, one after the other for so long; three at least."""
        end, found = time.monotonic() + seconds, list[float]()
        while time.monotonic() < end or len(found) < 3:
            found.append(self.sudoku(len(found) % 4))
        return found

    def health(self, over: Event) -> list[float]:
        """Milliseconds of each look at /health, on a new connection, until it is ``over``."""
        found = []
        while not over.wait(0.02):
            began = time.perf_counter()
            connection = HTTPConnection(self.url.removeprefix("http://"), timeout=_PATIENCE)
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            found.append(1000 * (time.perf_counter() - began))
            connection.close()
        return found

    def kept(self) -> float:
        """Megabytes of keys and values that the server keeps for prompts that come again."""
        lines = self._http.get("/metrics").text.splitlines()
        kept = [line for line in lines if line.startswith("redraft_kv_bytes{") and 'kind="cached"' in line]
        return round(sum(float(line.rsplit(" ", 1)[1]) for line in kept) / 1e6, 1)

    def until_idle(self) -> None:
        """Wait until nothing runs."""
        while True:
            load = self._http.get("/health").json()
            if load["running"] + load["waiting"] == 0:
                return
            time.sleep(0.1)


def memory(pid: int) -> float:
    """Megabytes of a server and of the processes that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = children.read_text().split() if children.exists() else []
    return resident(pid) + sum(resident(int(child)) for child in found)


def watched(other: Other, work: Callable[[], list[float]]) -> tuple[list[float], list[float]]:
    """Do ``work`` while somebody looks at /health; returns what both found."""
    over, looks = Event(), list[float]()
    looking = Thread(target=lambda: looks.extend(other.health(over)))
    looking.start()
    try:
        found = work()
    finally:
        over.set()
        looking.join()
    return found, looks


def measured(name: str, other: Other, pid: int, seconds: float, alone: float, before: float) -> dict[str, Any]:
    """One attack: what the other client had meanwhile, and what is left of it."""
    command = [sys.executable, "-m", "bench.attacks", name, other.url.rpartition(":")[2], other.model, str(seconds + 1)]
    attacker = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert attacker.stdout is not None
    attacker.stdout.readline()
    time.sleep(1)
    times, looks = watched(other, lambda: other.sudokus(seconds))
    said, _ = attacker.communicate()
    other.until_idle()
    time.sleep(3)
    after, statuses = memory(pid), json.loads(said)
    return {
        "sudoku s, median and longest": [round(median(times), 4), round(max(times), 4)],
        "times alone": round(median(times) / alone, 2),
        "health ms, median and longest": [round(median(looks), 1), round(max(looks), 1)],
        "memory MB after": round(after, 1),
        "memory grew by": round(after / before - 1, 3),
        "of it keys and values that are kept MB": other.kept(),
        "the attacker's answers": statuses,
    }


def faults(name: str, found: dict[str, Any], alone: float, forward: float) -> list[str]:
    """What an attack shows that should not be."""
    said = []
    longest, seconds = found["health ms, median and longest"][1], found["sudoku s, median and longest"][0]
    if longest >= HEALTH_MS:
        said.append(f"{name}: /health took {longest} ms")
    if seconds > TIMES_ALONE * alone + forward:
        said.append(f"{name}: a Sudoku took {seconds} s, alone {alone:.4f} s")
    if found["memory grew by"] > MEMORY_SHARE:
        said.append(f"{name}: memory grew by {found['memory grew by']:.1%}")
    answers = found["the attacker's answers"]
    if "500" in answers or (name == "schemas" and "400" in answers):
        said.append(f"{name}: answers {answers}")
    return said


def run(url: str, pid: int, model: str, names: list[str], seconds: float) -> dict[str, Any]:
    """Measure alone, under each attack, and alone again."""
    other = Other(url, model)
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    other._http.post(
        CHAT,
        json={
            "model": model,
            "messages": [{"role": "user", "content": PUZZLE}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        },
    )
    # As much at once as the server takes, so that what it needs for that is there from now on.
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(other.sudoku, range(64)))
    other.sudokus(2)
    times, looks = watched(other, lambda: other.sudokus(seconds))
    time.sleep(3)
    alone, before = median(times), memory(pid)
    steps = other._http.post(
        CHAT, json={"model": model, "messages": [{"role": "user", "content": PUZZLE}], "seed": 0}
    ).json()["usage"]["denoising_steps"]
    found = {name: measured(name, other, pid, seconds, alone, before) for name in names}
    again = median(other.sudokus(seconds))
    slower = max(alone, again)
    return {
        "alone": {
            "sudoku s, median before and after": [round(alone, 4), round(again, 4)],
            "denoising steps": steps,
            "health ms, median and longest": [round(median(looks), 1), round(max(looks), 1)],
            "memory MB": round(before, 1),
        },
        **found,
        "missed": [fault for name in names for fault in faults(name, found[name], slower, slower / steps)],
    }


def main() -> None:
    """Start a server, attack it, and say what came of it; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--port", type=int, default=8766)
    given = parser.parse_args()
    server = start(given.model, given.port, "--api-key", KEY, "--api-key", _OTHER)
    try:
        url = f"http://127.0.0.1:{given.port}"
        report = run(url, server.pid, Path(given.model).name, given.attacks, given.seconds)
    finally:
        server.terminate()
        server.wait(60)
    print(json.dumps(report, indent=2))
    sys.exit(bool(report["missed"]))


if __name__ == "__main__":
    main()
