"""Jobs of compilation, apart from where they are done: in this process, or in one that has no model.

It imports no torch, so that a process which only compiles starts soon and stays small.
"""

from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

from redraft.constrain.automaton import fitting
from redraft.constrain.automaton import slots as slot_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.fitting import Fitted
from redraft.constrain.automaton.limits import TooLargeError
from redraft.constrain.automaton.preamble import after_thought
from redraft.constrain.automaton.slots import SlotAutomaton, Turn
from redraft.constrain.automaton.stop_strings import without
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.constraint import Constraint, Exactly
from redraft.constrain.expression import Expression
from redraft.constrain.inference.decisions import Decisions

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class ThoughtMarkers:
    """The token ids between which a model thinks before it answers."""

    opening: int
    closing: int
    name: str = ""
    """The text behind the opening marker that is no part of the thought."""


class Job(Protocol[T_co]):
    """Something to compile. It can be pickled, and so can what it builds."""

    def build(self, vocabulary: Vocabulary) -> T_co:
        """Compile it; ConstraintError where that cannot be."""
        ...


@dataclass(frozen=True)
class Built:
    """A token automaton, the text with which every answer begins, up to how many tokens it is right, and for what."""

    automaton: TokenAutomaton
    beginning: str = ""
    max_tokens: int | None = None
    """None where it is right for any number."""
    lowered: bool = False
    """True where counts of the constraint were lowered, so that its longest texts are not among the automaton's."""


@dataclass(frozen=True)
class ConstraintJob:
    """A constraint without its ``stop`` strings, after a thought where there are markers."""

    constraint: Constraint
    end_token_ids: tuple[int, ...]
    stop: tuple[str, ...]
    thought: ThoughtMarkers | None

    def build(self, vocabulary: Vocabulary) -> Built:
        """Compile it; ConstraintError for what is not supported, contradicts itself, is too large, or has no tokens."""
        refusal: TooLargeError | None = None
        for fitted in fitting.attempts(self.constraint.expression):
            try:
                return self._over_tokens(fitted, vocabulary)
            except TooLargeError as error:
                # With lower counts it may have few enough edges.
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def _over_tokens(self, fitted: Fitted, vocabulary: Vocabulary) -> Built:
        texts = without(fitted.automaton, self.stop)
        # So many tokens surely have no more bytes than the automaton is right for.
        most = None if fitted.max_bytes is None else fitted.max_bytes // vocabulary.longest
        automaton = token_automaton.build(texts, vocabulary, self.end_token_ids)
        if self.thought is None:
            return Built(automaton, _whole_characters(texts.beginning()), most, fitted.lowered)
        with_text = vocabulary.has_text.copy()
        with_text[list(self.end_token_ids)] = False
        # What comes first may be a thought; that of the answer is not known to be the beginning.
        thoughtful = after_thought(automaton, self.thought.opening, self.thought.closing, with_text)
        return Built(thoughtful, max_tokens=most, lowered=fitted.lowered)


@dataclass(frozen=True)
class DecisionsJob:
    """Questions in a frame: each a name, and its options."""

    frame: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    end_token_ids: tuple[int, ...]

    def build(self, vocabulary: Vocabulary) -> Decisions:
        """Compile them; ConstraintError as in ``Decisions.compile``."""
        return Decisions.compile(self.frame, dict(self.questions), vocabulary, self.end_token_ids)


@dataclass(frozen=True)
class SlotDecisionsJob:
    """Questions in a frame, each of which is answered in a slot of its own; fields as of ``DecisionsJob``."""

    frame: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    end_token_ids: tuple[int, ...]

    def build(self, vocabulary: Vocabulary) -> dict[str, Decisions]:
        """Compile them, each by its name; ConstraintError as in ``Decisions.compile``."""
        return Decisions.in_slots(self.frame, dict(self.questions), vocabulary, self.end_token_ids)


@dataclass(frozen=True)
class SlotsJob:
    """Slots that follow each other on a canvas."""

    texts: tuple[Expression, ...]
    """Texts that may stand in a slot, by the numbers that ``levels`` has."""
    levels: tuple[tuple[Turn, ...], ...]
    """The ways to fill each slot."""
    end_token_ids: tuple[int, ...]

    def build(self, vocabulary: Vocabulary) -> SlotAutomaton:
        """Compile them, from place 0 before the first slot; ConstraintError as of a constraint."""
        jobs = [ConstraintJob(Exactly(text), self.end_token_ids, (), None) for text in self.texts]
        return slot_automaton.build([job.build(vocabulary).automaton for job in jobs], self.levels, 0)


class Builder(Protocol):
    """A place where jobs are built."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait for the place that one job takes, and hold it; raises what a client is told that may not have one."""
        ...

    def build(self, job: Job[T], vocabulary: Vocabulary) -> T:
        """Build a job, whose place is held."""
        ...


BUILDER: ContextVar[Builder | None] = ContextVar("redraft_builder", default=None)
"""The place where the current thread or task has its constraints compiled; None for the thread itself."""


def _whole_characters(text: bytes) -> str:
    """The beginning of ``text`` that is UTF-8: up to a character that lacks bytes, or a marker."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        return text[: error.start].decode()
