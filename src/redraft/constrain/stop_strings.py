"""An automaton's texts without those that hold a stop string."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.byte_automaton import ByteAutomaton
from redraft.errors import ConstraintError


def without(automaton: ByteAutomaton, stop: Sequence[str]) -> ByteAutomaton:
    """The accepted texts in which none of ``stop`` stands; ConstraintError where there is none.

    The product with the automaton that looks for all strings at once (Aho & Corasick 1975).
    """
    if not stop:
        return automaton
    search, found = _search([text.encode() for text in stop])
    numbers = {(automaton.start, 0): 0}
    queue, rows = deque(numbers), []
    dead = (automaton.states, 0)
    while queue:
        state, seen = queue.popleft()
        following = search[seen]
        row = []
        for after, looking in zip(automaton.transitions[state].tolist(), following.tolist(), strict=True):
            pair = dead if after == automaton.states or found[looking] else (after, looking)
            if pair != dead and pair not in numbers:
                numbers[pair] = len(numbers)
                queue.append(pair)
            row.append(numbers.get(pair, -1))
        rows.append(row)
    transitions = np.array(rows, dtype=np.int32)
    accepting = np.array([automaton.accepting[state] for state, _ in numbers])
    live = _leads_on(transitions, accepting)
    if not live[0]:
        raise ConstraintError(
            f"every text that the constraint allows has one of the stop strings {list(stop)} in it; take it away"
        )
    number = np.append(np.where(live, live.cumsum() - 1, live.sum()), live.sum()).astype(np.int32)
    kept = number[transitions[live]]
    return ByteAutomaton(
        np.vstack([kept, np.full((1, 256), len(kept), dtype=np.int32)]), 0, np.append(accepting[live], False)
    )


def _search(texts: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """For each beginning of a text that was seen last, what a byte makes of it; and whether a whole text was seen."""
    beginnings = sorted({text[:length] for text in texts for length in range(len(text) + 1)}, key=len)
    number = {beginning: index for index, beginning in enumerate(beginnings)}
    found = np.array([any(beginning.endswith(text) for text in texts) for beginning in beginnings])
    after = np.zeros((len(beginnings), 256), dtype=np.int32)
    for index, beginning in enumerate(beginnings):
        for byte in set(b"".join(texts)):
            seen = beginning + bytes([byte])
            after[index, byte] = next(number[seen[cut:]] for cut in range(len(seen) + 1) if seen[cut:] in number)
    return after, found


def _leads_on(transitions: NDArray[np.int32], accepting: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which states [S] lead to an accepting one; -1 among the transitions [S, 256] leads nowhere."""
    live = accepting.copy()
    while True:
        reaching = live | (live[transitions] & (transitions >= 0)).any(1)
        if (reaching == live).all():
            return live
        live = reaching
