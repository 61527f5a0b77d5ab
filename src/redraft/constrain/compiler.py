"""The compiler: from a constraint to its token automaton, once for each constraint and vocabulary."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton.slots import SlotAutomaton, Turn
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.constraint import Constraint
from redraft.constrain.expression import Expression
from redraft.constrain.inference.decisions import Decisions
from redraft.constrain.job import (
    BUILDER,
    Built,
    ConstraintJob,
    DecisionsJob,
    Job,
    SlotDecisionsJob,
    SlotsJob,
    ThoughtMarkers,
)

__all__ = ["CompiledConstraint", "Compiler", "ThoughtMarkers"]

_LOG = logging.getLogger("redraft")
_KEPT = 32
# Memory of the arrays of all that is kept; what is in use is kept besides.
_KEPT_BYTES = 2**27
_Built = TypeVar("_Built")
_Compiled = TypeVar("_Compiled")


@dataclass(frozen=True, eq=False)
class CompiledConstraint:
    """A token automaton, and its classes as the readout takes them."""

    automaton: TokenAutomaton
    classes: TokenClasses
    beginning: str = ""
    """The text with which every answer begins, whatever the model says; it can be handed out before any work."""
    max_tokens: int | None = None
    """The number of tokens up to which every answer is valid; None where a count that large limits none."""
    lowered: bool = False
    """True where counts (``maxLength``, ``maxItems``, a pattern's repeats) were lowered for the automaton to fit: what
    is written is valid, and the longest texts that the constraint allows are not written."""

    @classmethod
    def of(
        cls, automaton: TokenAutomaton, beginning: str = "", max_tokens: int | None = None, lowered: bool = False
    ) -> "CompiledConstraint":
        classes = TokenClasses.of(automaton.token_class, automaton.classes, automaton.class_tokens)
        return cls(automaton, classes, beginning, max_tokens, lowered)

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest text, without an end token."""
        return int(self.automaton.distance[self.automaton.start])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return self.automaton.nbytes + self.classes.nbytes

    def accepts(self, state: int) -> bool:
        """True if a text that led to ``state`` is whole, and may go on or not."""
        return state == self.automaton.end or bool(self.automaton.accepting[state])

    def complete(self, state: int) -> bool:
        """True if a text that led to ``state`` is whole and cannot go on."""
        automaton = self.automaton
        if state == automaton.end:
            return True
        targets = automaton.edge_target[automaton.edge_start[state] : automaton.edge_start[state + 1]]
        return bool(automaton.accepting[state] and (targets == automaton.end).all())


@dataclass
class _Entry:
    """A compiled object with its memory, and the lock of whoever compiles it in this process."""

    compiled: object = None
    nbytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Compiler:
    """Compiles constraints for one vocabulary, and keeps the latest.

    A constraint that somebody still uses is not compiled again. Several threads may share a compiler.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        """``vocabulary`` is called at the first constraint: reading a large tokenizer takes seconds."""
        self._read, self._vocabulary = vocabulary, _Entry()
        self._kept: OrderedDict[object, _Entry] = OrderedDict()
        self._in_use: WeakValueDictionary[object, CompiledConstraint] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token; ConstraintError for a tokenizer that constraints cannot use."""
        with self._vocabulary.lock:
            if self._vocabulary.compiled is None:
                self._vocabulary.compiled = self._read()
        return cast(Vocabulary, self._vocabulary.compiled)

    def compile(
        self,
        constraint: Constraint,
        end_token_ids: Sequence[int],
        stop: Sequence[str] = (),
        thought: ThoughtMarkers | None = None,
    ) -> CompiledConstraint:
        """Compile ``constraint`` without its ``stop`` strings, after a thought where there are markers.

        Raises ConstraintError for what is not supported, contradicts itself, is too large, or cannot be spelled.
        """
        key = (type(constraint), constraint, tuple(end_token_ids), tuple(stop), thought)
        with self._lock:
            used = self._in_use.get(key)
        if used is not None:
            return used

        def finished(built: Built) -> tuple[CompiledConstraint, int]:
            compiled = CompiledConstraint.of(built.automaton, built.beginning, built.max_tokens, built.lowered)
            if built.lowered:
                _LOG.warning(
                    "the constraint is too large to be kept to exactly: counts in it (maxLength, maxItems, a pattern's "
                    "repeats) are lowered, so that its longest texts are not written; what is written is valid"
                )
            with self._lock:
                self._in_use[key] = compiled
            return compiled, compiled.nbytes

        return self._once(key, ConstraintJob(constraint, tuple(end_token_ids), tuple(stop), thought), finished)

    def decisions(
        self, frame: str, questions: Mapping[str, Sequence[str]], end_token_ids: Sequence[int]
    ) -> tuple[Decisions, TokenClasses]:
        """The decisions on questions in a frame, and their classes as the readout takes them.

        Raises ConstraintError as ``Decisions.compile`` does.
        """
        asked = tuple((name, tuple(options)) for name, options in questions.items())
        job = DecisionsJob(frame, asked, tuple(end_token_ids))

        def finished(decisions: Decisions) -> tuple[tuple[Decisions, TokenClasses], int]:
            classes = TokenClasses.of(decisions.token_class, decisions.classes)
            return (decisions, classes), decisions.token_class.nbytes + classes.nbytes

        return self._once(job, job, finished)

    def slot_decisions(
        self, frame: str, questions: Mapping[str, Sequence[str]], end_token_ids: Sequence[int]
    ) -> tuple[dict[str, Decisions], TokenClasses]:
        """The decisions on questions that are each answered in a slot, by name, and their classes, which are the same.

        Raises ConstraintError as ``Decisions.compile`` does.
        """
        asked = tuple((name, tuple(options)) for name, options in questions.items())
        job = SlotDecisionsJob(frame, asked, tuple(end_token_ids))

        def finished(found: dict[str, Decisions]) -> tuple[tuple[dict[str, Decisions], TokenClasses], int]:
            one = next(iter(found.values()))
            classes = TokenClasses.of(one.token_class, one.classes)
            return (found, classes), one.token_class.nbytes + classes.nbytes

        return self._once(job, job, finished)

    def slots(
        self, texts: Sequence[Expression], levels: Sequence[Sequence[Turn]], end_token_ids: Sequence[int]
    ) -> tuple[SlotAutomaton, TokenClasses]:
        """The automaton of slots from place 0 on, and its classes as the readout takes them.

        Raises ConstraintError as ``compile`` does for each of the ``texts`` that may stand in a slot.
        """
        job = SlotsJob(tuple(texts), tuple(map(tuple, levels)), tuple(end_token_ids))

        def finished(automaton: SlotAutomaton) -> tuple[tuple[SlotAutomaton, TokenClasses], int]:
            classes = TokenClasses.of(automaton.token_class, automaton.classes)
            return (automaton, classes), automaton.token_class.nbytes + classes.nbytes

        return self._once(job, job, finished)

    def _once(self, key: object, job: Job[_Built], finished: Callable[[_Built], tuple[_Compiled, int]]) -> _Compiled:
        """Build a job once for each key; other keys need not wait meanwhile.

        Where a ``BUILDER`` is set, whose clients each wait for their own work alone, two may build the same.
        """
        with self._lock:
            entry = self._kept.setdefault(key, _Entry())
            self._kept.move_to_end(key)
            self._drop()
        if entry.compiled is None:
            try:
                self._build(entry, job, finished)
            except BaseException:
                # What cannot be compiled must not take the place of what can.
                with self._lock:
                    if self._kept.get(key) is entry:
                        del self._kept[key]
                raise
        return cast(_Compiled, entry.compiled)

    def _build(self, entry: _Entry, job: Job[_Built], finished: Callable[[_Built], tuple[_Compiled, int]]) -> None:
        builder = BUILDER.get()
        with entry.lock if builder is None else builder.turn():
            if entry.compiled is None:
                built = job.build(self.vocabulary) if builder is None else builder.build(job, self.vocabulary)
                entry.compiled, entry.nbytes = finished(built)

    def _drop(self) -> None:
        """Keep the latest, as far as their number and their memory allow; the very latest in any case."""
        nbytes = sum(entry.nbytes for entry in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _KEPT or nbytes > _KEPT_BYTES):
            _, dropped = self._kept.popitem(last=False)
            nbytes -= dropped.nbytes
