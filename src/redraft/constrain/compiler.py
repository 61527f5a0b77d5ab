"""The compiler: from a constraint to its token automaton, once for each constraint and vocabulary."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton import fitting
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.preamble import after_thought
from redraft.constrain.automaton.stop_strings import without
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.constraint import Constraint
from redraft.constrain.inference.decisions import Decisions

_KEPT = 32
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

    @classmethod
    def of(cls, automaton: TokenAutomaton, beginning: str = "", max_tokens: int | None = None) -> "CompiledConstraint":
        return cls(automaton, TokenClasses.of(automaton.token_class, automaton.classes), beginning, max_tokens)

    @property
    def min_tokens(self) -> int:
        """Tokens of the shortest text, without an end token."""
        return int(self.automaton.distance[self.automaton.start])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return self.automaton.nbytes + self.classes.nbytes

    def complete(self, state: int) -> bool:
        """True if a text that led to ``state`` is whole and cannot go on."""
        automaton = self.automaton
        if state == automaton.end:
            return True
        targets = automaton.edge_target[automaton.edge_start[state] : automaton.edge_start[state + 1]]
        return bool(automaton.accepting[state] and (targets == automaton.end).all())


@dataclass(frozen=True)
class ThoughtMarkers:
    """The token ids between which a model thinks before it answers."""

    opening: int
    closing: int


@dataclass
class _Entry:
    """A compiled object, and the lock of whoever compiles it."""

    compiled: object = None
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
        return self._compiled_in(self._vocabulary, self._read)

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

        def compiled() -> CompiledConstraint:
            known = self._in_use.get(key)
            if known is None:
                known = self._in_use[key] = self._compiled(constraint, end_token_ids, stop, thought)
            return known

        return self._once(key, compiled)

    def decisions(
        self, frame: str, questions: Mapping[str, Sequence[str]], end_token_ids: Sequence[int]
    ) -> tuple[Decisions, TokenClasses]:
        """The decisions on questions in a frame, and their classes as the readout takes them.

        Raises ConstraintError as ``Decisions.compile`` does.
        """
        key = (Decisions, frame, tuple((name, *options) for name, options in questions.items()), tuple(end_token_ids))

        def compiled() -> tuple[Decisions, TokenClasses]:
            decisions = Decisions.compile(frame, questions, self.vocabulary, end_token_ids)
            return decisions, TokenClasses.of(decisions.token_class, decisions.classes)

        return self._once(key, compiled)

    def _once(self, key: object, compile: Callable[[], _Compiled]) -> _Compiled:
        """Run ``compile`` once for each key; other keys need not wait meanwhile."""
        with self._lock:
            entry = self._kept.setdefault(key, _Entry())
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._compiled_in(entry, compile)

    def _compiled_in(self, entry: _Entry, compile: Callable[[], _Compiled]) -> _Compiled:
        with entry.lock:
            if entry.compiled is None:
                entry.compiled = compile()
        return cast(_Compiled, entry.compiled)

    def _compiled(
        self, constraint: Constraint, ends: Sequence[int], stop: Sequence[str], thought: ThoughtMarkers | None
    ) -> CompiledConstraint:
        fitted = fitting.build(constraint.expression)
        texts = without(fitted.automaton, stop)
        automaton = token_automaton.build(texts, self.vocabulary, ends)
        if thought is not None:
            with_text = self.vocabulary.has_text.copy()
            with_text[list(ends)] = False
            automaton = after_thought(automaton, thought.opening, thought.closing, with_text)
            # What comes first may be a thought; that of the answer is not known to be the beginning.
            return CompiledConstraint.of(automaton, "", self._longest(fitted.max_bytes))
        return CompiledConstraint.of(automaton, _whole_characters(texts.beginning()), self._longest(fitted.max_bytes))

    def _longest(self, max_bytes: int | None) -> int | None:
        """The number of tokens that surely have no more bytes than that."""
        return None if max_bytes is None else max_bytes // self.vocabulary.longest


def _whole_characters(text: bytes) -> str:
    """The beginning of ``text`` that is UTF-8: up to a character that lacks bytes, or a marker."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        return text[: error.start].decode()
