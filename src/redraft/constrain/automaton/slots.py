"""Slots on a canvas as one token automaton: texts in stretches of fixed width, each with end tokens up to its width.

Between two slots stand tokens that are pinned. For inference they are one class of their own, which no text has: where
it stands, a slot is over, however its text may go on. So the automaton need not know how wide a slot is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.chain import Chain
from redraft.constrain.automaton.tokens import TokenAutomaton

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Turn:
    """A way through one slot: which texts may stand in it, and where the next slot begins then."""

    source: int
    """The number of the place before the slot, among the places of its level."""
    texts: int
    """The number of the automaton of its texts."""
    target: int
    """The number of the place after it, among those of the next level."""


@dataclass(frozen=True, eq=False)
class SlotAutomaton:
    """The automaton of a canvas whose slots are filled."""

    chain: Chain
    start: int
    token_class: NDArray[np.int32]
    """[V]: the class of each token; the last class, ``frame_class``, has none."""
    frame_class: int
    """The class of what is pinned between slots."""
    after: Mapping[int, int]
    """The state in which the last slot ends, by the place after it."""
    min_tokens: tuple[int, ...]
    """The tokens of the shortest of each slot's texts that is longest in that: so many and an end token a slot needs
    for any of the ways to fill it."""

    @property
    def classes(self) -> int:
        """n, with the class of what is pinned."""
        return self.frame_class + 1

    @property
    def ended(self) -> NDArray[np.float64]:
        """[S + 1]: the log potential of a canvas that ends with the last slot's last position."""
        potential = np.full(self.chain.states + 1, -np.inf)
        potential[list(self.after.values())] = 0.0
        return potential


def build(texts: Sequence[TokenAutomaton], levels: Sequence[Sequence[Turn]], start: int) -> SlotAutomaton:
    """Build the automaton of slots that follow each other, each ``levels`` entry saying how one may be filled.

    Each slot's text ends with an end token or more. No two turns from one place may have a text in common, and the
    automata must be of one vocabulary with the same end tokens. ``start``: the place before the first slot.
    """
    partition = _Partition.of(texts)
    drawing = _Drawing(partition, texts)
    first = drawing.state()
    entries, filled = {start: first}, dict[int, int]()
    for turns in levels:
        filled, following = {}, dict[int, int]()
        for source, entry in entries.items():
            # What is pinned before a slot may be of several tokens.
            drawing.edge(entry, entry, partition.frame_group)
            for turn in (one for one in turns if one.source == source):
                if turn.target not in filled:
                    filled[turn.target] = drawing.filler()
                    if turns is not levels[-1]:
                        following[turn.target] = drawing.state()
                        drawing.edge(filled[turn.target], following[turn.target], partition.frame_group)
                drawing.copy(turn.texts, entry, filled[turn.target])
        entries = following
    shortest = [int(automaton.distance[automaton.start]) for automaton in texts]
    return SlotAutomaton(
        drawing.chain(),
        first,
        partition.token_class,
        partition.frame_class,
        filled,
        tuple(max(shortest[turn.texts] for turn in turns) for turns in levels),
    )


@dataclass(frozen=True, eq=False)
class _Partition:
    """The coarsest token classes that are parts of all automata's classes, and each automaton's groups of them."""

    token_class: NDArray[np.int32]
    frame_class: int
    groups: tuple[tuple[int, ...], ...]
    """The classes of each group: of every automaton's own one after the other, then the end tokens', then the frame's.
    """
    first_group: tuple[int, ...]
    """The number of each automaton's first group."""

    @property
    def end_group(self) -> int:
        return len(self.groups) - 2

    @property
    def frame_group(self) -> int:
        return len(self.groups) - 1

    @classmethod
    def of(cls, texts: Sequence[TokenAutomaton]) -> "_Partition":
        together = np.zeros(len(texts[0].token_class), dtype=np.int64)
        for automaton in texts:
            _, together = np.unique(together * automaton.classes + automaton.token_class, return_inverse=True)
        count = int(together.max()) + 1
        # One token of each class stands for all.
        _, example = np.unique(together, return_index=True)
        groups: list[tuple[int, ...]] = []
        first_group: list[int] = []
        for automaton in texts:
            first_group.append(len(groups))
            own = automaton.token_class[example]
            parts = [np.flatnonzero(own == number) for number in range(automaton.classes)]
            for start, end in zip(automaton.group_start[:-1], automaton.group_start[1:], strict=True):
                held = [parts[number] for number in automaton.group_class[start:end].tolist()]
                groups.append(tuple(np.sort(np.concatenate(held)).tolist()))
        ends = np.flatnonzero(texts[0].token_class[example] == texts[0].classes - 1)
        groups += [tuple(ends.tolist()), (count,)]
        return cls(together.astype(np.int32), count, tuple(groups), tuple(first_group))


class _Drawing:
    """The edges of an automaton that grows."""

    def __init__(self, partition: _Partition, texts: Sequence[TokenAutomaton]) -> None:
        self._partition, self._texts = partition, texts
        self._states = 0
        self._edges: list[tuple[Ints, Ints, Ints]] = []

    def state(self) -> int:
        """Add a state."""
        self._states += 1
        return self._states - 1

    def filler(self) -> int:
        """Add a state in which end tokens fill a slot up to its width."""
        state = self.state()
        self.edge(state, state, self._partition.end_group)
        return state

    def edge(self, source: int, target: int, group: int) -> None:
        """Add an edge."""
        self._edges.append((np.array([source]), np.array([target]), np.array([group])))

    def copy(self, number: int, entry: int, filled: int) -> None:
        """Add a copy of an automaton that begins in ``entry`` too, and whose end tokens lead to ``filled``."""
        automaton, first = self._texts[number], self._states
        self._states += automaton.states
        source = automaton.edge_source
        group = automaton.edge_group.astype(np.int64) + self._partition.first_group[number]
        target = np.where(
            automaton.edge_target == automaton.end, filled, automaton.edge_target.astype(np.int64) + first
        )
        self._edges.append((source + first, target, group))
        begins = source == automaton.start
        self._edges.append((np.full(int(begins.sum()), entry), target[begins], group[begins]))

    def chain(self) -> Chain:
        """Return all edges, of each state by their targets."""
        source, target, group = (np.concatenate(parts) for parts in zip(*self._edges, strict=True))
        order = np.lexsort((target, source))
        groups = self._partition.groups
        return Chain(
            edge_start=np.searchsorted(source[order], np.arange(self._states + 1)).astype(np.int64),
            edge_target=target[order].astype(np.int32),
            edge_group=group[order].astype(np.int32),
            group_start=np.cumsum([0, *map(len, groups)], dtype=np.int64),
            group_class=np.array([one for group in groups for one in group], dtype=np.int32),
        )
