"""Random token automata, and inference on small ones by enumeration of every sequence of tokens."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.chain import Chain
from redraft.constrain.inference.chain import ClassSums

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Toy:
    """An automaton over classes, written as a table, and the class of every token."""

    table: NDArray[np.int64]
    """[S + 1, n]: the state after a token of a class, -1 for none; the last row is END's, which allows all."""
    token_class: NDArray[np.int64]

    @property
    def states(self) -> int:
        return len(self.table) - 1

    @property
    def classes(self) -> int:
        return self.table.shape[1]

    @property
    def accepting(self) -> NDArray[np.bool_]:
        return self.table[:-1, -1] == self.states

    @property
    def distance(self) -> NDArray[np.int64]:
        """[S]: the fewest tokens to an accepting state, 1000 if there is no way."""
        distance = np.where(self.accepting, 0, 1000)
        used = np.isin(np.arange(self.classes), self.token_class)
        onward = (self.table[:-1] >= 0) & (self.table[:-1] < self.states) & used
        for _ in range(self.states):
            distance = np.minimum(distance, np.where(onward, distance[self.table[:-1] % self.states] + 1, 1000).min(1))
        return distance

    @cached_property
    def chain(self) -> Chain:
        groups: dict[tuple[int, ...], int] = {}
        edges = [
            (state, target, groups.setdefault(tuple(np.flatnonzero(row == target).tolist()), len(groups)))
            for state, row in enumerate(self.table[:-1])
            for target in sorted(set(row.tolist()) - {-1})
        ]
        sources, targets, numbers = np.array(edges, dtype=np.int64).reshape(-1, 3).T
        return Chain(
            edge_start=np.searchsorted(sources, np.arange(self.states + 1)),
            edge_target=targets.astype(np.int32),
            edge_group=numbers.astype(np.int32),
            group_start=np.cumsum([0, *map(len, groups)]),
            group_class=np.array([c for group in groups for c in group], dtype=np.int32),
        )

    def class_sums(self, logp: Floats) -> ClassSums:
        """The class sums of the distributions [L, T]."""
        own = self.token_class == np.arange(self.classes)[:, None]
        p = np.exp(logp)
        mass = np.where(own, p[:, None], 0.0).sum(-1)
        plogp = np.where(own, (p * np.maximum(logp, -1e9))[:, None], 0.0).sum(-1)
        return ClassSums(mass, plogp, np.where(own, logp[:, None], -np.inf).max(-1))

    def walk(self, start: int, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The states [..., L + 1] along sequences of tokens [..., L]; -1 once one is not allowed."""
        states = [np.full(tokens.shape[:-1], start)]
        for column in np.moveaxis(tokens, -1, 0):
            states.append(np.where(states[-1] < 0, -1, self.table[states[-1], self.token_class[column]]))
        return np.stack(states, axis=-1)


def toy(rng: np.random.Generator, states: int, tokens: int = 5, allowed: float = 0.5, accepting: float = 0.4) -> Toy:
    """A random automaton with at least one accepting state; some tokens are end tokens, some never allowed."""
    classes = int(rng.integers(3, tokens + 2))
    token_class = rng.integers(0, classes, tokens)
    token_class[rng.integers(tokens)] = classes - 1
    table = np.where(rng.random((states, classes)) < allowed, rng.integers(0, states, (states, classes)), -1)
    accepts = rng.random(states) < accepting
    accepts[rng.integers(states)] = True
    table[:, 0] = -1
    table[:, -1] = np.where(accepts, states, -1)
    return Toy(np.append(table, np.full((1, classes), states), axis=0), token_class)


def distributions(rng: np.random.Generator, length: int, tokens: int = 5, scale: float = 2.0) -> Floats:
    """Random log probabilities [length, tokens]."""
    logits = scale * rng.standard_normal((length, tokens))
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


class Enumeration:
    """Every sequence of tokens with its probability, and what follows from them."""

    def __init__(self, toy: Toy, start: int, end: Floats, logp: Floats) -> None:
        length, tokens = logp.shape
        self.toy = toy
        self.sequences = np.array(list(product(range(tokens), repeat=length)), dtype=np.int64)
        self.states = toy.walk(start, self.sequences)
        valid = self.states[:, -1] >= 0
        self.logprob = np.where(
            valid, logp[np.arange(length), self.sequences].sum(-1) + end[self.states[:, -1]], -np.inf
        )

    @property
    def possible(self) -> bool:
        return bool(self.logprob.max() > -np.inf)

    @property
    def log_valid(self) -> float:
        top = self.logprob.max()
        return float(top + np.log(np.exp(self.logprob - top).sum()))

    @property
    def posterior(self) -> Floats:
        """[sequences]."""
        return np.exp(self.logprob - self.log_valid)

    @property
    def marginals(self) -> Floats:
        """[L, T]."""
        tokens = len(self.toy.token_class)
        counts = [np.bincount(column, self.posterior, tokens) for column in self.sequences.T]
        return np.array(counts, dtype=np.float64).reshape(-1, tokens)

    @property
    def tail(self) -> Floats:
        """[L]."""
        return self.posterior @ (self.states[:, :-1] == self.toy.states)

    def best(self) -> NDArray[np.int64]:
        """The sequences [., L] that are as probable as the best, but for rounding."""
        return self.sequences[self.logprob > self.logprob.max() - 1e-9]
