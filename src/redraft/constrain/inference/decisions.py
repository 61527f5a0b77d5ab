"""Typed decisions: the exact probability of each option of each question in a text, from one denoising step.

A frame with holes becomes a token automaton in which every option has states of its own, so that forward-backward over
the canvas tells how probable it is that the text takes the way through it, all its tokenisations together.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.chain import Chain
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference.chain import ClassSums, Floats, edge_posteriors, state_messages
from redraft.constrain.inference.strands import StrandLayout, check_unambiguous, strands_of
from redraft.constrain.inference.words import Words
from redraft.errors import ConstraintError

Normalize = Literal["length"]
"""The properties that may be taken out of an option's probability."""
# The first state is where the text starts.
_START = 0


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
    filled: bool = False
    """True for the text of a slot: end tokens fill it up, one at least."""

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
        ends = _ends(vocabulary, end_token_ids)
        layout = StrandLayout(strands_of(frame, questions))
        check_unambiguous(layout)
        words = Words.of(layout, vocabulary, ends)
        chain, slot = _chain(layout, words)
        entering = _entering(layout, slot)
        return cls(
            chain,
            words.token_class,
            sum(words.fewest),
            {name: {option: entering[name, option] for option in options} for name, options in questions.items()},
            _gaps(layout, words),
        )

    @classmethod
    def in_slots(
        cls,
        frame: str,
        questions: Mapping[str, Sequence[str]],
        vocabulary: Vocabulary,
        end_token_ids: Collection[int],
    ) -> dict[str, "Decisions"]:
        """Compile each question of ``frame`` by itself, for a slot that its answer fills with end tokens behind it; all
        of the frame but the spaces right before a hole stands outside of the slots. They share ``token_class``.

        Raises ConstraintError as ``compile`` does.
        """
        parts = [part for part in strands_of(frame, questions) if part[0].question is not None]
        layout, found, number = StrandLayout(parts), dict[str, Decisions](), 0
        words = Words.of(layout, vocabulary, _ends(vocabulary, end_token_ids))
        gaps = _gaps(layout, words)
        for part, fewest in zip(parts, words.fewest, strict=True):
            chain, slot, complete = _slot_chain(layout, words, range(number, number + len(part)))
            number += len(part)
            name = part[0].question
            assert name is not None, "the frame's own text was left out"
            entering = _entering(layout, slot)
            found[name] = cls(
                chain,
                words.token_class,
                fewest,
                {name: {option: entering[name, option] for option in questions[name]}},
                {name: replace(gaps[name], before=_START, after=complete)},
                filled=True,
            )
        return {name: found[name] for name in questions}

    @property
    def classes(self) -> int:
        """n, with the class of tokens never allowed and that of the end tokens."""
        return self.chain.min_classes

    @cached_property
    def end_potential(self) -> Floats:
        """[S + 1]: a canvas ends with the complete text, or after an end token; a slot with end tokens."""
        allowed = np.full(self.chain.states + 1, -np.inf)
        allowed[slice(-2, -1) if self.filled else slice(-2, None)] = 0.0
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
        if self.min_tokens + self.filled > length:
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


def _ends(vocabulary: Vocabulary, end_token_ids: Collection[int]) -> NDArray[np.int64]:
    ends = np.array(sorted(set(end_token_ids)), dtype=np.int64)
    if not len(ends):
        raise ConstraintError("decisions need an end token, with which a text may end before its canvas does")
    if not 0 <= ends[0] <= ends[-1] < vocabulary.size:
        raise ValueError(f"end token ids {ends.tolist()} must be ids of a vocabulary of {vocabulary.size} tokens")
    return ends


def _chain(layout: StrandLayout, words: Words) -> tuple[Chain, NDArray[np.int64]]:
    """The token automaton, and the slot before each edge [E], ``layout.slots`` for the end tokens' edge."""
    source, target = layout.state[words.start], layout.state[words.end]
    last = layout.states - 1
    return _of_edges(source, target, words.number, words.start, [(last, layout.states)], layout, words)


def _slot_chain(layout: StrandLayout, words: Words, strands: range) -> tuple[Chain, NDArray[np.int64], int]:
    """The token automaton of one part in a slot, the slot of the layout before each edge as in ``_chain``, and the
    state in which its text is complete. From there end tokens lead to the last state, and fill the slot up."""
    first, last = layout.first[strands[0]], layout.last[strands[-1]]
    own = (words.start >= first) & (words.start <= last)
    start, end, number = words.start[own], words.end[own], words.number[own]
    begin = int(layout.state[first])
    complete = int(layout.state[last]) - begin
    source, target = layout.state[start] - begin, layout.state[end] - begin
    ending = [(complete, complete + 1), (complete + 1, complete + 1)]
    return *_of_edges(source, target, number, start, ending, layout, words), complete


def _of_edges(
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    number: NDArray[np.int64],
    slot: NDArray[np.int64],
    ending: Sequence[tuple[int, int]],
    layout: StrandLayout,
    words: Words,
) -> tuple[Chain, NDArray[np.int64]]:
    """Order edges [E] of words by their ``number``, with those of the end tokens behind them, from the last states on.

    Every word is a class, and a group of its own.
    """
    order = np.argsort(source, kind="stable")
    leaves, reaches = zip(*ending, strict=True)
    source, target = np.append(source[order], leaves), np.append(target[order], reaches)
    group = np.append(number[order] - 1, [words.count] * len(ending))
    slot = np.append(slot[order], [layout.slots] * len(ending))
    chain = Chain(
        edge_start=np.searchsorted(source, np.arange(leaves[-1] + 2)).astype(np.int64),
        edge_target=target.astype(np.int32),
        edge_group=group.astype(np.int32),
        group_start=np.arange(words.count + 2),
        group_class=np.arange(1, words.count + 2, dtype=np.int32),
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


def _gaps(layout: StrandLayout, words: Words) -> dict[str, Gap]:
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
