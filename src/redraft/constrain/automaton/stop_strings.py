"""An automaton's texts without those that hold a stop string."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import DEFAULT_LIMITS
from redraft.errors import ConstraintError

_MAX_STATES = DEFAULT_LIMITS.states_at_work


def without(automaton: ByteAutomaton, stop: Sequence[str]) -> ByteAutomaton:
    """The accepted texts in which none of ``stop`` stands.

    It is the product with the automaton that looks for all strings at once (Aho & Corasick 1975). Raises
    ConstraintError where no text is left, or the product has too many states.
    """
    if not stop:
        return automaton
    search, found = _search([text.encode() for text in stop])
    # A pair of a state and what was seen last is one number; numbered again as they are met, level by level.
    numbers = {automaton.start * len(search): 0}
    frontier, levels = [automaton.start * len(search)], []
    while frontier:
        state, seen = np.divmod(np.array(frontier), len(search))
        after, looking = automaton.transitions[state], search[seen]
        pairs = np.where(
            (after == automaton.states) | found[looking], -1, after.astype(np.int64) * len(search) + looking
        )
        met = np.unique(pairs)
        frontier = [pair for pair in met.tolist() if pair >= 0 and pair not in numbers]
        numbers.update(zip(frontier, range(len(numbers), len(numbers) + len(frontier)), strict=True))
        if len(numbers) > _MAX_STATES:
            raise ConstraintError(
                f"the constraint without the stop strings has more than {_MAX_STATES} states; a smaller constraint, "
                "or fewer or shorter stop strings would help"
            )
        number = np.array([numbers.get(pair, -1) for pair in met.tolist()], dtype=np.int32)
        levels.append(number[np.searchsorted(met, pairs)])
    transitions = np.vstack(levels)
    accepting = automaton.accepting[np.array(list(numbers)) // len(search)]
    live = _leads_on(transitions, accepting)
    if not live[0]:
        raise ConstraintError(
            f"every text that the constraint allows has one of the stop strings {list(stop)} in it; take it away"
        )
    # The last number is for the dead state, and so for -1, no state at all.
    number = np.append(np.where(live, live.cumsum() - 1, live.sum()), live.sum()).astype(np.int32)
    kept = number[transitions[live]]
    return ByteAutomaton(
        np.vstack([kept, np.full((1, 256), len(kept), dtype=np.int32)]), 0, np.append(accepting[live], False)
    )


def _search(texts: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The beginning of a text that is seen after another one and a byte [., 256]; True if a whole text is seen [.]."""
    beginnings = sorted({text[:length] for text in texts for length in range(len(text) + 1)}, key=len)
    number = {beginning: index for index, beginning in enumerate(beginnings)}
    found = np.array([beginning in texts for beginning in beginnings])
    longer: list[list[int]] = [[] for _ in beginnings]
    for index, beginning in enumerate(beginnings[1:], 1):
        longer[number[beginning[:-1]]].append(index)
    after = np.zeros((len(beginnings), 256), dtype=np.int32)
    # The longest other beginning that each one ends with; it is shorter, and so complete before it.
    ending = np.zeros(len(beginnings), dtype=np.int32)
    for index in range(len(beginnings)):
        after[index] = after[ending[index]]
        found[index] |= found[ending[index]]
        for child in longer[index]:
            byte = beginnings[child][-1]
            ending[child], after[index, byte] = after[index, byte], child
    return after, found


def _leads_on(transitions: NDArray[np.int32], accepting: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[S]: True for states that lead to an accepting one; -1 among the transitions [S, 256] leads nowhere."""
    source, byte = np.nonzero(transitions >= 0)
    steps = np.unique(np.stack([transitions[source, byte], source]), axis=1)
    bounds = np.searchsorted(steps[0], np.arange(len(accepting) + 1))
    live = accepting.copy()
    pending = np.flatnonzero(live).tolist()
    while pending:
        target = pending.pop()
        before = steps[1, bounds[target] : bounds[target + 1]]
        before = before[~live[before]]
        live[before] = True
        pending += before.tolist()
    return live
