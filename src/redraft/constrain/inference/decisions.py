"""Typed decisions: the exact probability of each option of each question in a text, from one denoising step.

A frame with holes becomes a token automaton in which every option has states of its own, so that forward-backward over
the canvas tells how probable it is that the text takes the way through it, all its tokenisations together.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.chain import Chain
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference.chain import ClassSums, Floats, edge_posteriors, state_messages
from redraft.constrain.inference.strands import StrandLayout, check_unambiguous, named, strands_of
from redraft.errors import ConstraintError

Normalize = Literal["length"]
"""The properties that may be taken out of an option's probability."""
# The first state is where the text starts.
_START = 0
_SHOWN = 60


@dataclass(frozen=True)
class Decided:
    """The options' distribution that one step gives for every question, provided the text is a filling of the frame."""

    log_probabilities: dict[str, dict[str, float]]
    """Natural logs by question and option, both in the order in which they were given."""
    log_valid: float
    """The log probability that tokens drawn independently at each position make a filling of the frame at all."""

    @property
    def probabilities(self) -> dict[str, dict[str, float]]:
        """Probabilities by question and option; those of a question add up to 1."""
        return {
            question: {option: math.exp(logprob) for option, logprob in options.items()}
            for question, options in self.log_probabilities.items()
        }


@dataclass(frozen=True)
class Gap:
    """A hole of the frame as a whole: where its options stand, and how long they are."""

    before: int
    """The state in which all its options begin."""
    after: int
    """The state in which they end."""
    tokens: tuple[int, ...]
    """The numbers of tokens that an option may have."""
    nbytes: Mapping[str, int]
    """The UTF-8 bytes of each option, with the spaces before the hole."""


@dataclass(frozen=True, eq=False)
class Decisions:
    """A frame with questions as a token automaton, and the edges at which each option is entered.

    The text starts in state 0 and is complete in the last state, from which an end token leads to END. Tokens never
    reach over the border of a hole, which makes every token part of one option or of the frame. One thing is
    different: the spaces that stand right before a hole belong to each of its options, since tokenizers like to begin a
    word with its space. Within these borders every way to split the text into tokens counts, not the tokenizer's own
    alone.
    """

    chain: Chain
    token_class: NDArray[np.int32]
    """[V]: 0 for tokens that stand nowhere in a text, n - 1 for the end tokens; tokens of equal bytes share one."""
    min_tokens: int
    """Tokens of the shortest filling, without an end token; a canvas needs at least as many positions."""
    entering: dict[str, dict[str, NDArray[np.int64]]]
    """The edges with which each option begins, by question and option; a text takes one of them or none."""
    gaps: dict[str, Gap]
    """The hole of each question."""

    @classmethod
    def compile(
        cls,
        frame: str,
        questions: Mapping[str, Sequence[str]],
        vocabulary: Vocabulary,
        end_token_ids: Collection[int],
    ) -> "Decisions":
        """Compile ``frame``, with a hole ``{name}`` for each question and ``{{``, ``}}`` for braces, and their options.

        Raises ConstraintError, with the name of the question, for fewer than two options, equal or empty ones, a hole
        without options or options without a hole, an option that the vocabulary cannot spell, and a frame in which two
        different fillings make the same text; also without an end token.
        """
        ends = np.array(sorted(set(end_token_ids)), dtype=np.int64)
        if not len(ends):
            raise ConstraintError("decisions need an end token, with which a text may end before its canvas does")
        if not 0 <= ends[0] <= ends[-1] < vocabulary.size:
            raise ValueError(f"end token ids {ends.tolist()} must be ids of a vocabulary of {vocabulary.size} tokens")
        layout = StrandLayout(strands_of(frame, questions))
        check_unambiguous(layout)
        words = _Words.of(layout, vocabulary, ends)
        chain, slot = _chain(layout, words)
        entering = _entering(layout, slot)
        return cls(
            chain,
            words.token_class,
            words.min_tokens,
            {name: {option: entering[name, option] for option in options} for name, options in questions.items()},
            _gaps(layout, words),
        )

    @property
    def classes(self) -> int:
        """n, with the class of tokens never allowed and that of the end tokens."""
        return self.chain.min_classes

    @cached_property
    def end_potential(self) -> Floats:
        """[S + 1]: a canvas ends with the complete text, or after an end token."""
        allowed = np.full(self.chain.states + 1, -np.inf)
        allowed[-2:] = 0.0
        return allowed

    def decide(
        self,
        sums: ClassSums,
        length: int | None = None,
        normalize: Normalize | None = None,
    ) -> Decided:
        """The probability of every option from the class sums of each position's token distribution.

        The canvas consists of the first ``length`` positions, or of all; the text may fill it, or end before with an
        end token. With ``normalize="length"``, options compare by the geometric mean over their bytes of the
        probability that they fill the hole, given that the rest of the frame stands around it. Raises ConstraintError
        where every filling has more tokens, or pinned tokens allow none.
        """
        length = sums.positions if length is None else length
        if not 0 <= length <= sums.positions:
            raise ValueError(f"length {length} must be at most the {sums.positions} positions that there are sums of")
        if self.min_tokens > length:
            raise ConstraintError(
                f"the frame needs at least {self.min_tokens} tokens, but the canvas has {length} positions; shorten "
                "it, or ask in parts"
            )
        rows = sums.rows(slice(length))
        found = edge_posteriors(self.chain, _START, self.end_potential, rows)
        logs = {
            name: _normalised(
                {option: float(np.logaddexp.reduce(found.log_expected[edges])) for option, edges in options.items()}
            )
            for name, options in self.entering.items()
        }
        return Decided(logs if normalize is None else self._by_length(logs, rows), found.log_valid)

    def _by_length(self, logs: Mapping[str, Mapping[str, float]], sums: ClassSums) -> dict[str, dict[str, float]]:
        """Log probabilities by question and option, from those of the sum, with the length of options taken out."""
        before, after = state_messages(self.chain, _START, self.end_potential, sums)
        # The sum of all that is valid, with the weights that the messages have.
        total = after[0, _START]
        found = {}
        for name, options in logs.items():
            gap = self.gaps[name]
            # What the frame weighs, with a hole of so many positions that may hold anything.
            room = [
                np.logaddexp.reduce(before[: len(before) - n, gap.before] + after[n:, gap.after])
                for n in gap.tokens
                if n < len(before)
            ]
            frame = float(np.logaddexp.reduce(room))
            found[name] = _normalised(
                {option: (total + log - frame) / gap.nbytes[option] for option, log in options.items()}
            )
        return found

    def probabilities(
        self,
        sums: ClassSums,
        length: int | None = None,
    ) -> dict[str, dict[str, float]]:
        """The probabilities that ``decide`` finds, by question and option."""
        return self.decide(sums, length).probabilities


def calibrated(probabilities: Mapping[str, Mapping[str, float]], temperature: float) -> dict[str, dict[str, float]]:
    """Probabilities by question and option raised to 1 / temperature, and made to add up to 1 for each question again.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599): above 1 for a model that is too sure of itself. What comes
    first stays first; ``calibrate.calibration.fit_temperature`` finds the temperature.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature {temperature} must be above 0 and finite")
    return {question: _tempered(options, temperature) for question, options in probabilities.items()}


def _tempered(options: Mapping[str, float], temperature: float) -> dict[str, float]:
    if not all(0 <= probability < math.inf for probability in options.values()) or not any(options.values()):
        raise ValueError(f"{dict(options)} are no probabilities")
    # Relative to the largest, which cannot underflow.
    top = max(options.values())
    powers = {option: (probability / top) ** (1 / temperature) for option, probability in options.items()}
    total = sum(powers.values())
    return {option: power / total for option, power in powers.items()}


@dataclass(frozen=True, eq=False)
class _Words:
    """The W byte strings that tokens spell and that stand somewhere in a strand, and each of these places [P]."""

    start: NDArray[np.int64]
    """[P]: the slot before the word, ascending."""
    end: NDArray[np.int64]
    """[P]: the slot after it."""
    number: NDArray[np.int64]
    """[P]: the number of the word, from 1 on."""
    token_class: NDArray[np.int32]
    """[V]: the number of a token's word, 0 if it has none, W + 1 for end tokens."""
    min_tokens: int

    @classmethod
    def of(cls, layout: StrandLayout, vocabulary: Vocabulary, ends: NDArray[np.int64]) -> "_Words":
        tree = vocabulary.prefixes
        start, end, node = _occurrences(layout, vocabulary, ends)
        read = _min_steps(start, end, layout.first, layout.slots)
        unread = _min_steps(end[::-1], start[::-1], layout.last, layout.slots)
        min_tokens = _min_tokens(layout, unread[layout.first].tolist())
        useful = np.isfinite(read[start]) & np.isfinite(unread[end])
        words, number = np.unique(node[useful], return_inverse=True)
        of_node = np.zeros(len(tree.parent), dtype=np.int32)
        of_node[words] = np.arange(1, len(words) + 1)
        token_class = of_node[tree.token_node]
        token_class[ends] = len(words) + 1
        return cls(start[useful], end[useful], number + 1, token_class, min_tokens)


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


def _min_tokens(layout: StrandLayout, needed: Sequence[float]) -> int:
    """The tokens of the shortest filling, of the tokens that each strand needs; each must be possible to spell."""
    for strand, tokens in zip(layout.strands, needed, strict=True):
        if tokens == math.inf:
            shown = strand.spelled.decode()[:_SHOWN]
            what = f"{shown!r}, which stands between holes" if strand.option is None else f"the option {shown!r}"
            raise ConstraintError(
                f"{named(strand.question)}: the tokens of the model's vocabulary do not add up to {what}"
            )
    strands = iter(needed)
    return int(sum(min(next(strands) for _ in part) for part in layout.parts))


def _chain(layout: StrandLayout, words: _Words) -> tuple[Chain, NDArray[np.int64]]:
    """The token automaton, and the slot before each edge [E], ``layout.slots`` for the end tokens' edge.

    Every word is a class, and a group of its own.
    """
    source, target = layout.state[words.start], layout.state[words.end]
    order = np.argsort(source, kind="stable")
    source, target, group, slot = source[order], target[order], words.number[order] - 1, words.start[order]
    source, target = np.append(source, layout.states - 1), np.append(target, layout.states)
    groups = int(group.max()) + 2
    group, slot = np.append(group, groups - 1), np.append(slot, layout.slots)
    chain = Chain(
        edge_start=np.searchsorted(source, np.arange(layout.states + 1)).astype(np.int64),
        edge_target=target.astype(np.int32),
        edge_group=group.astype(np.int32),
        group_start=np.arange(groups + 1),
        group_class=np.arange(1, groups + 1, dtype=np.int32),
    )
    return chain, slot


def _entering(layout: StrandLayout, slot: NDArray[np.int64]) -> dict[tuple[str | None, str | None], NDArray[np.int64]]:
    """The edges that begin in each option's first slot, by question and option; ``slot`` [E] is that before an edge."""
    order = np.argsort(slot, kind="stable")
    bounds = np.searchsorted(slot[order], [layout.first, layout.first + 1]).T.tolist()
    return {
        (strand.question, strand.option): order[start:end]
        for strand, (start, end) in zip(layout.strands, bounds, strict=True)
    }


def _gaps(layout: StrandLayout, words: _Words) -> dict[str, Gap]:
    """The hole of each question."""
    # The numbers of tokens that lead from a strand's first slot to each slot, as the bits of an integer.
    counts = [0] * layout.slots
    for first in layout.first.tolist():
        counts[first] = 1
    for start, end in zip(words.start.tolist(), words.end.tolist(), strict=True):
        counts[end] |= counts[start] << 1
    gaps, number = {}, 0
    for part in layout.parts:
        numbers = range(number, number + len(part))
        number += len(part)
        if (name := part[0].question) is None:
            continue
        possible = 0
        for strand in numbers:
            possible |= counts[layout.last[strand]]
        gaps[name] = Gap(
            int(layout.state[layout.first[numbers[0]]]),
            int(layout.state[layout.last[numbers[0]]]),
            tuple(n for n in range(possible.bit_length()) if possible >> n & 1),
            {strand.option: len(strand.spelled) for strand in part if strand.option is not None},
        )
    return gaps


def _normalised(logs: Mapping[str, float]) -> dict[str, float]:
    """The log probability of each option, made to add up to 1 with the others.

    Those of sums do by themselves, but for the rounding of potentials as low as -1e9.
    """
    # In an order that is not that of the options, which are to make no difference.
    total = float(np.logaddexp.reduce(sorted(logs.values())))
    return {option: log - total for option, log in logs.items()}
