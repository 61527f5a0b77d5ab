"""The attacks of ``bench.hostile``: a process of their own, which imports nothing of Redraft.

    python -m bench.attacks NAME PORT MODEL SECONDS

prints a line once it has begun, and how its requests were answered when it is over.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

PUZZLE = "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5 ....8..79"
CHAT = "/v1/chat/completions"
KEY = "attacker"


class Attack:
    """What an attacker has at hand."""

    def __init__(self, port: int, model: str) -> None:
        self.port, self.model = port, model
        self.statuses: Counter[str] = Counter()
        self.chance = random.Random(0)

    def request(self, body: bytes, path: str = CHAT) -> bytes:
        """Return a request as it is sent."""
        head = (
            f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", "content-type: application/json",
            f"authorization: Bearer {KEY}", f"content-length: {len(body)}", "connection: close", "", "",
        )  # fmt: skip
        return "\r\n".join(head).encode() + body

    def chat(self, content: str = PUZZLE, **more: Any) -> bytes:
        """Return a chat request."""
        asked = {"model": self.model, "messages": [{"role": "user", "content": content}], **more}
        return self.request(json.dumps(asked).encode())

    async def send(self, data: bytes, hold: float | None = None) -> None:
        """Send on a connection of its own; wait ``hold`` seconds and close it, or wait for the answer."""
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(data)
                await writer.drain()
                if hold is not None:
                    await asyncio.sleep(hold)
                    self.statuses["left"] += 1
                    return
                line = await reader.readline()
                self.statuses[line[9:12].decode() or "closed"] += 1
                await reader.read()
            finally:
                writer.close()

    async def together(self, count: int, one: Callable[[int], Awaitable[None]]) -> None:
        """Repeat so many at once for ever."""

        async def again(number: int) -> None:
            while True:
                await one(number)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(again(number) for number in range(count)))


async def bodies(attack: Attack) -> None:
    """Ten bodies of nearly 4 MB at a time: one long text, or many small values."""
    small = json.dumps({"model": attack.model, "messages": [{"role": "user", "content": [{}] * 900_000}]}).encode()
    kinds = [attack.chat("word " * 800_000), attack.chat("x" * 4_000_000), attack.request(small)]
    await attack.together(10, lambda number: attack.send(kinds[number % len(kinds)]))


async def schemas(attack: Attack) -> None:
    """Twelve large schemas at a time, none like another, their connections closed at once."""

    def schema() -> bytes:
        names = [f"{attack.chance.randrange(10**9)}" for _ in range(300)]
        wanted = {"type": "object", "properties": {name: {"type": "string", "maxLength": 60} for name in names}}
        format = {"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}}
        return attack.chat(response_format=format)

    while True:
        await asyncio.gather(*(attack.send(schema(), hold=0.05) for _ in range(12)))
        await asyncio.sleep(0.5)


async def half_open(attack: Attack) -> None:
    """A hundred connections: half a head, or a head and half a body."""
    whole = attack.chat()
    await attack.together(100, lambda number: attack.send(whole[: 40 if number % 2 else -5]))


async def leaving(attack: Attack) -> None:
    """Clients that leave before their answer, at random."""
    await attack.together(
        64, lambda number: attack.send(attack.chat(seed=number, stream=bool(number % 2)), attack.chance.random() * 0.3)
    )


async def users(attack: Attack) -> None:
    """Two hundred names of one caller, whose answers each take several canvases."""
    names = iter(range(10**9))

    async def one(number: int) -> None:
        await attack.send(attack.chat(user=f"user {next(names) % 200}", n=4))

    await attack.together(200, one)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "bodies": bodies,
    "schemas": schemas,
    "half-open": half_open,
    "leaving": leaving,
    "users": users,
}


async def attacked(name: str, port: int, model: str, seconds: float) -> Counter[str]:
    """Attack for so long, and return what came of it."""
    attack = Attack(port, model)
    with suppress(TimeoutError):
        await asyncio.wait_for(ATTACKS[name](attack), seconds)
    return attack.statuses


def main() -> None:
    """Attack as the arguments say."""
    name, port, model, seconds = sys.argv[1:]
    print("begun", flush=True)
    print(json.dumps(asyncio.run(attacked(name, int(port), model, float(seconds)))))


if __name__ == "__main__":
    main()
