"""The tokens that may stand in the strands of a frame with holes, at every place where each of them may stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference.chain import Floats
from redraft.constrain.inference.strands import StrandLayout, named
from redraft.errors import ConstraintError

_SHOWN = 60


@dataclass(frozen=True, eq=False)
class Words:
    """The W byte strings that tokens spell and that stand somewhere in a strand, and each of these places [P]."""

    start: NDArray[np.int64]
    """[P]: the slot before the word, ascending."""
    end: NDArray[np.int64]
    """[P]: the slot after it."""
    number: NDArray[np.int64]
    """[P]: the number of the word, from 1 on."""
    token_class: NDArray[np.int32]
    """[V]: the number of a token's word, 0 if it has none, W + 1 for end tokens."""
    fewest: tuple[int, ...]
    """The tokens of the shortest strand of each part."""

    @property
    def count(self) -> int:
        """W."""
        return int(self.number.max(initial=0))

    @classmethod
    def of(cls, layout: StrandLayout, vocabulary: Vocabulary, ends: NDArray[np.int64]) -> "Words":
        tree = vocabulary.prefixes
        start, end, node = _occurrences(layout, vocabulary, ends)
        read = _min_steps(start, end, layout.first, layout.slots)
        unread = _min_steps(end[::-1], start[::-1], layout.last, layout.slots)
        fewest = _fewest(layout, unread[layout.first].tolist())
        useful = np.isfinite(read[start]) & np.isfinite(unread[end])
        words, number = np.unique(node[useful], return_inverse=True)
        of_node = np.zeros(len(tree.parent), dtype=np.int32)
        of_node[words] = np.arange(1, len(words) + 1)
        token_class = of_node[tree.token_node]
        token_class[ends] = len(words) + 1
        return cls(start[useful], end[useful], number + 1, token_class, fewest)


def _occurrences(
    layout: StrandLayout, vocabulary: Vocabulary, ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The places of tokens in strands: the slots before and after them, by the first, and the nodes of their bytes.

    It walks the vocabulary's prefix tree from all slots at once.
    """
    tree = vocabulary.prefixes
    spells = np.zeros(len(tree.parent), dtype=bool)
    spells[np.delete(tree.token_node, ends)] = True
    spells[0] = False
    slot, node = np.arange(layout.slots), np.zeros(layout.slots, dtype=np.int64)
    found = [np.empty((3, 0), dtype=np.int64)]
    for depth, (first, last) in enumerate(pairwise(tree.level_start[1:].tolist())):
        inside = layout.left[slot] > depth
        slot, node = slot[inside], node[inside]
        # Within a level the nodes are sorted by their parents and bytes.
        keys = tree.parent[first:last].astype(np.int64) * 256 + tree.byte[first:last]
        wanted = node * 256 + layout.byte[slot + depth]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = keys[at] == wanted
        slot, node = slot[known], first + at[known]
        if not len(slot):
            break
        whole = spells[node]
        found.append(np.stack([slot[whole], slot[whole] + depth + 1, node[whole]]))
    start, end, node = np.concatenate(found, axis=1)
    order = np.lexsort((end, start))
    return start[order], end[order], node[order]


def _min_steps(source: NDArray[np.int64], target: NDArray[np.int64], origins: NDArray[np.int64], slots: int) -> Floats:
    """[slots]: the fewest steps from an origin to each slot; infinite where there is no way.

    Steps that lead to a slot must come before those that lead on from it.
    """
    found = np.full(slots, math.inf)
    found[origins] = 0.0
    steps: list[float] = found.tolist()
    for before, after in zip(source.tolist(), target.tolist(), strict=True):
        steps[after] = min(steps[after], steps[before] + 1)
    return np.array(steps)


def _fewest(layout: StrandLayout, needed: Sequence[float]) -> tuple[int, ...]:
    """The tokens of each part's shortest strand, of those that each strand needs; each must be possible to spell."""
    for strand, tokens in zip(layout.strands, needed, strict=True):
        if tokens == math.inf:
            shown = strand.spelled.decode()[:_SHOWN]
            what = f"{shown!r}, which stands between holes" if strand.option is None else f"the option {shown!r}"
            raise ConstraintError(
                f"{named(strand.question)}: the tokens of the model's vocabulary do not add up to {what}"
            )
    strands = iter(needed)
    return tuple(int(min(next(strands) for _ in part)) for part in layout.parts)
