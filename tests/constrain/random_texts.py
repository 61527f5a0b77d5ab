"""Random texts out of an automaton, by walking it."""

import random

import numpy as np

from redraft.constrain.automaton.bytes import ByteAutomaton


class RandomTexts:
    """Walks a byte automaton: for a while at random, then the shortest way to an end."""

    def __init__(self, automaton: ByteAutomaton) -> None:
        self._start = automaton.start
        self._accepting = automaton.accepting
        self._steps = [self._grouped(row, automaton.states) for row in automaton.transitions[:-1]]
        self._distance = self._distances()

    @staticmethod
    def _grouped(row: np.ndarray, dead: int) -> list[tuple[int, list[int]]]:
        """By state after it: the bytes that lead there."""
        grouped: dict[int, list[int]] = {}
        for byte in np.flatnonzero(row != dead).tolist():
            grouped.setdefault(int(row[byte]), []).append(byte)
        return list(grouped.items())

    def _distances(self) -> list[int]:
        """Bytes to the nearest end, from each state."""
        before: list[list[int]] = [[] for _ in self._steps]
        for state, steps in enumerate(self._steps):
            for target, _ in steps:
                before[target].append(state)
        reached = [state for state, accepts in enumerate(self._accepting[:-1]) if accepts]
        distance = dict.fromkeys(reached, 0)
        for state in reached:
            for source in before[state]:
                if source not in distance:
                    distance[source] = distance[state] + 1
                    reached.append(source)
        return [distance[state] for state in range(len(self._steps))]

    def draw(self, chance: random.Random, wander: int = 60) -> bytes:
        """A text; after ``wander`` bytes the walk heads for an end."""
        state, text = self._start, bytearray()
        wander = chance.randrange(wander + 1)
        while True:
            steps = self._steps[state]
            if self._accepting[state] and (len(text) >= wander or not steps or chance.random() < 0.2):
                return bytes(text)
            if len(text) >= wander:
                steps = [step for step in steps if self._distance[step[0]] < self._distance[state]]
            state, possible = chance.choice(steps)
            text.append(chance.choice(possible))
