"""Random sequences of tokens out of a token automaton, by walking it to acceptance."""

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.tokens import TokenAutomaton


class RandomTokens:
    """Walks a token automaton: for a while at random, then the shortest way to an end."""

    def __init__(self, automaton: TokenAutomaton) -> None:
        self._automaton = automaton
        self._tokens: dict[int, NDArray[np.integer]] = {}

    def _edges_from(self, state: int) -> list[tuple[int, int]]:
        """(target, group) of the edges to other states than END."""
        automaton = self._automaton
        edges = slice(automaton.edge_start[state], automaton.edge_start[state + 1])
        found = zip(automaton.edge_target[edges].tolist(), automaton.edge_group[edges].tolist(), strict=True)
        return [(target, group) for target, group in found if target != automaton.end]

    def _token_of(self, token_class: int, chance: np.random.Generator) -> int:
        if token_class not in self._tokens:
            self._tokens[token_class] = self._automaton.tokens_of(token_class)
        tokens = self._tokens[token_class]
        return int(tokens[chance.integers(len(tokens))])

    def draw(self, chance: np.random.Generator, wander: int = 40) -> list[int]:
        """Tokens without an end token; after up to ``wander`` of them the walk heads for an end."""
        automaton, state, tokens = self._automaton, self._automaton.start, list[int]()
        wander = int(chance.integers(wander + 1))
        while True:
            edges = self._edges_from(state)
            if automaton.accepting[state] and (len(tokens) >= wander or not edges or chance.random() < 0.2):
                return tokens
            if len(tokens) >= wander:
                edges = [edge for edge in edges if automaton.distance[edge[0]] < automaton.distance[state]]
            state, group = edges[chance.integers(len(edges))]
            classes = automaton.group_class[automaton.group_start[group] : automaton.group_start[group + 1]]
            tokens.append(self._token_of(int(classes[chance.integers(len(classes))]), chance))


def accepts(automaton: TokenAutomaton, tokens: list[int]) -> bool:
    """Whether the tokens lead from the start to an accepting state."""
    state = automaton.start
    for token in tokens:
        edges = np.arange(automaton.edge_start[state], automaton.edge_start[state + 1])
        starts, ends = (automaton.group_start[automaton.edge_group[edges] + by] for by in (0, 1))
        groups = zip(starts, ends, strict=True)
        taken = [automaton.token_class[token] in automaton.group_class[first:last] for first, last in groups]
        if not any(taken):
            return False
        state = int(automaton.edge_target[edges[taken.index(True)]])
    return bool(automaton.accepting[state])
