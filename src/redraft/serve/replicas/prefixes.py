"""Which replica has most of a prompt in its cache: prompts are cut into blocks, each known by a hash of all up to it.

The idea is that of vLLM's and SGLang's routers. It is about text, not tokens: no tokenizer is needed to choose, and
where two texts begin alike, so do their tokens, but for the last few.
"""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

BLOCK = 128
"""Characters, as UTF-8, of a block: some 30 tokens. What prompts share beyond whole blocks counts for nothing."""
MAX_BLOCKS = 1024
# To read a larger body as JSON would hold up all others.
_READ = 256 << 10
# What a prompt is made of, in the order in which templates mostly put it.
_FIELDS = (
    "system", "instructions", "tools", "messages", "input", "prompt", "state", "fill", "edit", "text", "schema",
)  # fmt: skip


def blocks_of(body: bytes) -> list[bytes]:
    """Return the hashes of what the prompt in a request's body begins with, block by block. A body that is no JSON
    object, or a large one, counts as it is."""
    text = body if len(body) > _READ else _prompt(body)
    found, before = [], b""
    for start in range(0, min(len(text) - BLOCK + 1, MAX_BLOCKS * BLOCK), BLOCK):
        before = hashlib.blake2b(before + text[start : start + BLOCK], digest_size=8).digest()
        found.append(before)
    return found


def _prompt(body: bytes) -> bytes:
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(given, dict):
        return body
    # Two models share nothing.
    named = [str(given.get("model", ""))]
    named += [json.dumps(given[name], ensure_ascii=False) for name in _FIELDS if given.get(name)]
    return "\n".join(named).encode(errors="replace")


class PrefixTable:
    """The blocks that were sent to each replica lately, and the choice that follows from it."""

    def __init__(self, *, worth: float = 4.0, size: int = 1 << 16) -> None:
        """``worth``: how many requests more a replica may have than another and still be preferred, where it has all
        of the prompt; half of that where it has half. ``size``: blocks that are remembered."""
        self._worth, self._size = worth, size
        self._holders: OrderedDict[bytes, set[str]] = OrderedDict()
        """The replicas that have each block; used last, last."""
        self._sent: Counter[str] = Counter()

    def ranked(self, blocks: Sequence[bytes], loads: Mapping[str, int], avoid: Sequence[str] = ()) -> list[str]:
        """Return the replicas of ``loads``, their number of open requests, best first; those to ``avoid`` last.

        Where there is nothing to choose between them, fronts that do not know of each other choose the same replica
        for the same beginning, and others take turns.
        """
        known = self.known(blocks, loads)

        def rank(replica: str) -> tuple[bool, float, int, bytes]:
            share = known[replica] / len(blocks) if blocks else 0.0
            drawn = hashlib.blake2b((blocks[0] if blocks else b"") + replica.encode(), digest_size=8).digest()
            turn = 0 if blocks else self._sent[replica]
            return replica in avoid, loads[replica] - self._worth * share, turn, drawn

        return sorted(loads, key=rank)

    def known(self, blocks: Sequence[bytes], replicas: Mapping[str, int]) -> Counter[str]:
        """Return how many of the first ``blocks`` each of ``replicas`` has."""
        found: Counter[str] = Counter()
        left = set(replicas)
        for block in blocks:
            left &= self._holders.get(block, set())
            if not left:
                break
            found.update(left)
        return found

    def sent(self, blocks: Sequence[bytes], replica: str) -> None:
        """Note that a request went to a replica."""
        self._sent[replica] += 1
        # The last block first: what is forgotten first shall be the end of a prompt, without which its beginning helps.
        for block in reversed(blocks):
            self._holders.setdefault(block, set()).add(replica)
            self._holders.move_to_end(block)
        while len(self._holders) > self._size:
            self._holders.popitem(last=False)

    def keep(self, replicas: Sequence[str]) -> None:
        """Forget all replicas but these."""
        there = set(replicas)
        self._sent = Counter({one: count for one, count in self._sent.items() if one in there})
        for block, holders in [*self._holders.items()]:
            holders &= there
            if not holders:
                del self._holders[block]
