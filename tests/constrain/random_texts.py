"""Random texts out of an automaton, by walking it."""

import random

import numpy as np

from redraft.constrain.automaton.bytes import ByteAutomaton


class RandomTexts:
    """Walks a byte automaton: for a while at random, then the shortest way to an end."""

    def __init__(self, automaton: ByteAutomaton) -> None:
        self._automaton = automaton
        self._accepting = automaton.accepting
        self._steps: dict[int, list[tuple[int, list[int]]]] = {}
        self._distance = self._distances()

    def _steps_from(self, state: int) -> list[tuple[int, list[int]]]:
        """The bytes that lead from a state, by the state after it. Nobody asks for states that no walk meets."""
        if state not in self._steps:
            row, grouped = self._automaton.transitions[state], dict[int, list[int]]()
            for byte in np.flatnonzero(row != self._automaton.states).tolist():
                grouped.setdefault(int(row[byte]), []).append(byte)
            self._steps[state] = list(grouped.items())
        return self._steps[state]

    def _distances(self) -> list[int]:
        """Bytes to the nearest end, from each state; no state is a dead end."""
        dead = self._automaton.states
        before: list[list[int]] = [[] for _ in range(dead + 1)]
        # Most bytes lead to where others lead as well.
        for state, row in enumerate(np.unique(self._automaton.transitions[:-1], axis=1).tolist()):
            for target in set(row):
                before[target].append(state)
        reached = np.flatnonzero(self._accepting[:-1]).tolist()
        distance = dict.fromkeys(reached, 0)
        for state in reached:
            for source in before[state]:
                if source not in distance:
                    distance[source] = distance[state] + 1
                    reached.append(source)
        return [distance[state] for state in range(dead)]

    def draw(self, chance: random.Random, wander: int = 60) -> bytes:
        """A text; after ``wander`` bytes the walk heads for an end."""
        state, text = self._automaton.start, bytearray()
        wander = chance.randrange(wander + 1)
        while True:
            steps = self._steps_from(state)
            if self._accepting[state] and (len(text) >= wander or not steps or chance.random() < 0.2):
                return bytes(text)
            if len(text) >= wander:
                steps = [step for step in steps if self._distance[step[0]] < self._distance[state]]
            state, possible = chance.choice(steps)
            text.append(chance.choice(possible))
