"""A byte automaton read over the tokens of a vocabulary; tokens that do the same from every state are one class."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton import monoid
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.chain import Chain
from redraft.constrain.automaton.limits import DEFAULT_TOKEN_LIMITS, TokenLimits
from redraft.constrain.automaton.monoid import Moves, too_large
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.errors import ConstraintError

# So much of a text an error shows.
_SHOWN = 60


@dataclass(frozen=True, eq=False)
class TokenAutomaton(Chain):
    """States 0 to S - 1, and END (number S), which the end tokens reach from the accepting states.

    Every state can be reached by whole tokens, and can finish. The targets of a source's edges ascend; edges with equal
    sets of classes share a group.
    """

    start: int
    accepting: NDArray[np.bool_]
    """[S]."""
    distance: NDArray[np.int32]
    """[S]: the fewest tokens to an accepting state, not counting an end token."""
    token_class: NDArray[np.int32]
    """[V]: 0 for tokens that are never allowed, n - 1 for the end tokens."""
    class_start: NDArray[np.int64]
    """[n + 1]: the tokens of class c are ``class_tokens[class_start[c] : class_start[c + 1]]``, ascending."""
    class_tokens: NDArray[np.int32]
    """[V]."""

    @property
    def end(self) -> int:
        """The number of END."""
        return self.states

    @property
    def classes(self) -> int:
        """n, with the class of tokens never allowed and that of the end tokens."""
        return len(self.class_start) - 1

    @property
    def nbytes(self) -> int:
        arrays = (getattr(self, field.name) for field in fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    def tokens_of(self, token_class: int) -> NDArray[np.int32]:
        """The tokens of a class, ascending."""
        return self.class_tokens[self.class_start[token_class] : self.class_start[token_class + 1]]


def build(
    automaton: ByteAutomaton,
    vocabulary: Vocabulary,
    end_token_ids: Collection[int],
    limits: TokenLimits = DEFAULT_TOKEN_LIMITS,
) -> TokenAutomaton:
    """The token automaton of the texts that ``automaton`` accepts, however they are split into tokens.

    End tokens end the text; what bytes they may have does not count. Raise ConstraintError where the vocabulary cannot
    spell any of the texts, or where the work goes beyond ``limits``.
    """
    ends = np.array(sorted(set(end_token_ids)), dtype=np.int64)
    if len(ends) and not 0 <= ends[0] <= ends[-1] < vocabulary.size:
        raise ValueError(f"end token ids {ends.tolist()} must be ids of a vocabulary of {vocabulary.size} tokens")
    silent = vocabulary.silent.copy()
    silent[ends] = True
    walked = monoid.walk(automaton, vocabulary.prefixes, silent, limits)
    token_class, moves, distance = walked.token_class, walked.moves, walked.distance
    start, accepting = automaton.start, automaton.accepting[: automaton.states]
    kept = (distance >= 0) & (walked.reached >= 0)
    if not kept[start]:
        example = automaton.shortest()[:_SHOWN].decode(errors="replace")
        raise ConstraintError(
            f"the model's vocabulary cannot spell any text that the constraint allows, the shortest being {example!r}; "
            "allow texts that its tokens add up to"
        )
    if not kept.all():
        moves, new_class = moves.among(kept)
        token_class = np.append(np.int32(0), new_class + 1)[token_class].astype(np.int32)
        start, accepting, distance = int(kept[:start].sum()), accepting[kept], distance[kept]
    edges = _Edges.of(moves, accepting, limits)
    token_class[ends] = moves.classes + 1
    edge_group, group_start, group_class = edges.groups()
    return TokenAutomaton(
        start=start,
        accepting=accepting,
        distance=distance,
        token_class=token_class,
        class_start=_starts(token_class, moves.classes + 2),
        class_tokens=tokens_by_class(token_class, moves.classes + 2),
        edge_start=_starts(edges.source, len(accepting)),
        edge_target=edges.target,
        edge_group=edge_group,
        group_start=group_start,
        group_class=group_class,
    )


@dataclass(frozen=True)
class _Edges:
    """The edges with their classes, sorted by source, target and class; END is the largest target."""

    source: NDArray[np.int32]
    target: NDArray[np.int32]
    first: NDArray[np.int64]
    """[E + 1]: the classes of edge e are ``classes[first[e] : first[e + 1]]``."""
    classes: NDArray[np.int32]

    @classmethod
    def of(cls, moves: Moves, accepting: NDArray[np.bool_], limits: TokenLimits) -> "_Edges":
        """The edges of classes 1, 2, ... that lead from states as ``moves`` says, and of the end tokens' class."""
        states, end_class = len(accepting), moves.classes + 1
        ending = np.flatnonzero(accepting)
        bits = end_class.bit_length()
        keys = (moves.source.astype(np.int64) * (states + 1) + moves.target) << bits | (moves.number + 1)
        keys = np.concatenate([keys, (ending * (states + 1) + states) << bits | end_class])
        # One sort of whole numbers is several times faster than sorting by three keys.
        keys.sort()
        pairs = keys >> bits
        first = np.flatnonzero(np.diff(pairs, prepend=-1))
        if len(first) > limits.edges:
            raise too_large(f"it has {len(first)} edges between states, of at most {limits.edges}")
        sources, targets = np.divmod(pairs[first], states + 1)
        return cls(
            sources.astype(np.int32),
            targets.astype(np.int32),
            np.append(first, len(keys)),
            (keys & ((1 << bits) - 1)).astype(np.int32),
        )

    def groups(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """The group of each edge, the start of each group's classes, and the classes."""
        data, width = self.classes.tobytes(), self.classes.itemsize
        numbers: dict[bytes, int] = {}
        bounds = pairwise((self.first * width).tolist())
        group = [numbers.setdefault(data[start:end], len(numbers)) for start, end in bounds]
        group_start = np.cumsum([0, *(len(classes) // width for classes in numbers)], dtype=np.int64)
        group_class = np.frombuffer(bytearray().join(numbers), dtype=np.int32)
        return np.array(group, dtype=np.int32), group_start, group_class


def tokens_by_class(token_class: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The tokens of class 0, 1, ..., below ``count``, ascending in each; in linear time where 16 bits hold a class."""
    return np.argsort(token_class.astype(np.min_scalar_type(count)), kind="stable").astype(np.int32)


def _starts(values: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """[count + 1]: the start of each number's run in sorted numbers below ``count``, and the end of the last run."""
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=count))]).astype(np.int64)
