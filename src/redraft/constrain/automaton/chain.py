"""The edges of a token automaton, as inference walks them in Python and in compiled code."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Chain:
    """The edges of a token automaton with S states and, numbered S, END, after which any token may stand.

    It must be unambiguous: no sequence of tokens has two paths from where inference starts to where it may end. That
    holds where it is deterministic, the tokens of a class leading from a state along one edge at most. Class 0 holds
    the tokens that are allowed nowhere but after END, the last class the end tokens, which lead from accepting states
    to END.
    """

    edge_start: NDArray[np.int64]
    """[S + 1]: the edges of state s are those from edge_start[s] up to, not including, edge_start[s + 1]."""
    edge_target: NDArray[np.int32]
    """[E]: the state that an edge leads to."""
    edge_group: NDArray[np.int32]
    """[E]: the group of classes whose tokens take the edge."""
    group_start: NDArray[np.int64]
    """[G + 1]: the classes of group g are those from group_start[g] up to, not including, group_start[g + 1]."""
    group_class: NDArray[np.int32]
    """The classes of all groups, ascending within each."""

    def __post_init__(self) -> None:
        # Compiled code follows these numbers into memory.
        _check_integers("edge_start", self.edge_start, np.int64)
        _check_integers("group_start", self.group_start, np.int64)
        _check_starts("edge_start", self.edge_start, len(self.edge_target))
        _check_starts("group_start", self.group_start, len(self.group_class))
        _check_integers("edge_target", self.edge_target, np.int32, self.states + 1)
        _check_integers("edge_group", self.edge_group, np.int32, len(self.group_start) - 1)
        _check_integers("group_class", self.group_class, np.int32)
        if len(self.edge_target) != len(self.edge_group):
            raise ValueError(f"{len(self.edge_target)} edges have targets, but {len(self.edge_group)} have groups")

    @property
    def states(self) -> int:
        """S, which is also the number of END."""
        return len(self.edge_start) - 1

    @cached_property
    def edge_source(self) -> NDArray[np.int64]:
        """[E]: the state that an edge leaves."""
        return np.repeat(np.arange(self.states), np.diff(self.edge_start))

    @cached_property
    def min_classes(self) -> int:
        """The number of classes that the groups need at least."""
        return int(self.group_class.max(initial=-1)) + 1

    def read(self, start: int, classes: Iterable[int]) -> tuple[frozenset[int], int]:
        """Read tokens of these classes from a state on -> the states that they lead to, none where no way goes on, and
        how many of them were read."""
        states, count = frozenset((start,)), 0
        for number in classes:
            following = frozenset(target for state in states for target in self._targets(state, number))
            if not following:
                return following, count
            states, count = following, count + 1
        return states, count

    def _targets(self, state: int, number: int) -> list[int]:
        if state == self.states:
            return [state]
        edges = slice(*self.edge_start[state : state + 2])
        holding = (self.group_class == number).nonzero()[0]
        groups = np.searchsorted(self.group_start, holding, side="right") - 1
        found: list[int] = self.edge_target[edges][np.isin(self.edge_group[edges], groups)].tolist()
        return found


def _check_integers(name: str, array: NDArray[np.integer], dtype: type[np.integer], limit: int | None = None) -> None:
    if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
        shown = f"{array.dtype} {[*array.shape]}"
        raise ValueError(f"{name} must be one contiguous row of {np.dtype(dtype)}, not {shown}")
    if len(array) and (array.min() < 0 or (limit is not None and array.max() >= limit)):
        raise ValueError(f"{name} has {array.min()} to {array.max()}; at least 0 and below {limit} is possible")


def _check_starts(name: str, starts: NDArray[np.int64], count: int) -> None:
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise ValueError(f"{name} must rise from 0 to {count}, the number of what it divides")
