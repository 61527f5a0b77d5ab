"""Requests that begin alike go to one replica, but not so many that others stand idle."""

import json
import random
from typing import Any

from redraft.serve.replicas.prefixes import BLOCK, MAX_BLOCKS, PrefixTable, blocks_of

LONG = "You are careful. " * 100


def body(*said: str, **more: Any) -> bytes:
    messages = [{"role": "user" if at % 2 == 0 else "assistant", "content": text} for at, text in enumerate(said)]
    return json.dumps({**more, "messages": messages}).encode()


def shared(one: list[bytes], other: list[bytes]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_a_conversation_that_goes_on_begins_with_the_blocks_it_had() -> None:
    first = blocks_of(body(LONG, seed=1, temperature=0.5, model="a"))
    second = blocks_of(body(LONG, "yes", "and " * 200, model="a", seed=2))
    assert len(first) == blocks_in(len(LONG))
    assert shared(first, second) == len(first)
    assert len(second) > len(first) + 3


def blocks_in(characters: int) -> int:
    """Blocks of a text with the few characters that are put around it."""
    return (characters + 40) // BLOCK


def test_what_differs_early_shares_nothing_behind_it() -> None:
    one, other = blocks_of(body(LONG, model="a")), blocks_of(body("x" + LONG, model="a"))
    assert shared(one, other) == 0
    assert shared(one, blocks_of(body(LONG, model="b"))) == 0
    changed = LONG[:1000] + "!" + LONG[1001:]
    assert shared(one, blocks_of(body(changed, model="a"))) == blocks_in(1000)


def test_whatever_a_client_sends_has_blocks_of_some_kind() -> None:
    assert blocks_of(b"") == blocks_of(b'{"prompt": "hi"}') == []
    raw = random.Random(1).randbytes(4000)
    assert len(blocks_of(raw)) == 4000 // BLOCK
    assert len(blocks_of(b'{"a":' * 3000)) > 1
    assert len(blocks_of(b"[" * (1 << 20))) == MAX_BLOCKS
    assert len(blocks_of(b'{"prompt": "\\ud800' + b"x" * 520 + b'"}')) == 4
    for name in ("system", "prompt", "input", "text", "state"):
        assert len(blocks_of(json.dumps({name: LONG}).encode())) > 10


def test_the_replica_that_has_most_of_a_prompt_comes_first_unless_it_has_much_more_to_do() -> None:
    table = PrefixTable(worth=4)
    blocks = blocks_of(body(LONG))
    more = blocks_of(body(LONG, "ok", LONG))
    table.sent(blocks, "a")
    table.sent(blocks[: len(blocks) // 2], "b")
    assert table.ranked(blocks, {"a": 0, "b": 0, "c": 0})[0] == "a"
    assert table.ranked(more, {"a": 0, "b": 0, "c": 0})[:2] == ["a", "b"]
    assert table.ranked(blocks, {"a": 3, "b": 3, "c": 0})[0] == "a"
    assert table.ranked(blocks, {"a": 5, "b": 3, "c": 0})[0] == "c"
    assert table.ranked(blocks, {"a": 0, "b": 0, "c": 0}, avoid=["a"]) == ["b", "c", "a"]
    table.sent(blocks, "c")
    assert table.ranked(blocks, {"a": 1, "b": 0, "c": 0})[0] == "c", "both have it: who has less to do"


def test_fronts_that_do_not_know_of_each_other_choose_alike_and_spread_what_differs() -> None:
    loads = dict.fromkeys("abcd", 0)
    prompts = [blocks_of(body(f"{number} {LONG}")) for number in range(200)]
    chosen = [PrefixTable().ranked(one, loads)[0] for one in prompts]
    assert chosen == [PrefixTable().ranked(one, loads)[0] for one in prompts]
    assert all(chosen.count(name) > 25 for name in loads)


def test_what_is_too_short_to_have_a_block_goes_in_turn() -> None:
    table, seen = PrefixTable(), []
    for _ in range(6):
        seen.append(table.ranked([], {"a": 0, "b": 0, "c": 0})[0])
        table.sent([], seen[-1])
    assert all(seen.count(name) == 2 for name in "abc")


def test_replicas_that_have_gone_and_old_blocks_are_forgotten() -> None:
    table = PrefixTable(size=20)
    blocks = blocks_of(body(LONG))
    table.sent(blocks, "a")
    table.keep(["b"])
    assert not table.known(blocks, {"a": 0, "b": 0})
    table.sent(blocks, "a")
    for number in range(3):
        table.sent(blocks_of(body(f"{number} {LONG}"))[:8], "b")
    assert not table.known(blocks, {"a": 0})
    latest, oldest = (blocks_of(body(f"{number} {LONG}"))[:8] for number in (2, 0))
    assert table.known(latest, {"b": 0})["b"] == 8
    assert table.known(oldest, {"b": 0})["b"] < 8
