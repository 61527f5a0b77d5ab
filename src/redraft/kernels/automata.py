"""Byte automata in compiled code, on any processor: `constrain.automaton.bytes` says what they are.

It imports no torch, so that a process which only compiles constraints starts soon and stays small.
"""

import ctypes
from array import array
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain

import numpy as np

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import monoid as token_monoid
from redraft.constrain.automaton.bytes import (
    MAX_COMBINED_DEPTH,
    ByteAutomaton,
    build_reference,
    check_parts,
    too_deep,
)
from redraft.constrain.automaton.limits import MAX_MEMBERS, Budget
from redraft.constrain.automaton.nfa import encoded
from redraft.constrain.expression import (
    AllOf,
    AnyOf,
    Characters,
    Expression,
    Literal,
    Marker,
    Network,
    Repeat,
    Sequence,
    Without,
)
from redraft.kernels import monoid
from redraft.kernels.interface import ENTRIES, CExpression
from redraft.kernels.library import native

# The kinds of parts, in the order of native/nfa.h.
_LITERAL, _CHARACTERS, _MARKER, _SEQUENCE, _ANY_OF, _ALL_OF, _WITHOUT, _NETWORK, _REPEAT = range(9)
_UNBOUNDED = -1
# No automaton has so many states; larger counts are this one.
_COUNTLESS = 2**60
# What a build came to, in the order of native/automaton.h.
_BUILT, _NOTHING, _STEPS, _NFA, _STATES, _MINIMAL_STATES, _MEMBERS, _DEPTH, _MEMORY = range(9)


def use() -> None:
    """Have this process compile constraints in compiled code: their byte automata, and what tokens do to these."""
    byte_automaton.use(build)
    token_monoid.use(monoid.walk)


def build(expression: Expression, budget: Budget) -> ByteAutomaton | None:
    """See ``constrain.automaton.bytes.build_reference``, which is the reference: the same arrays, steps and errors."""
    library = native()
    if library is None:
        return build_reference(expression, budget)
    code = _Code(expression)
    call = _call(code, budget)
    _entry("redraft_automaton")(ctypes.byref(call))
    budget.steps, budget.members = call.steps, call.members
    if call.outcome == _NOTHING:
        return None
    _refuse(call, budget)
    transitions = np.empty((call.states + 1, 256), dtype=np.int32)
    accepting = np.empty(call.states + 1, dtype=np.bool_)
    _entry("redraft_take_automaton")(call.automaton, transitions.ctypes.data, accepting.ctypes.data)
    return ByteAutomaton(transitions, 0, accepting, budget.steps)


@cache
def _entry(name: str) -> Callable[..., None]:
    library = native()
    assert library is not None, "entries are only looked up where there is a library"
    return library.function(name, None, *ENTRIES[name])


def _call(code: "_Code", budget: Budget) -> CExpression:
    limits = budget.limits
    return CExpression(
        code=code.words.buffer_info()[0],
        start=code.start.buffer_info()[0],
        parts=len(code.start),
        root=0,
        max_nfa_states=limits.nfa_states,
        max_nfa_transitions=limits.nfa_transitions,
        max_states=limits.states_at_work,
        max_minimal_states=limits.states,
        max_steps=limits.steps,
        max_members=MAX_MEMBERS,
        max_depth=MAX_COMBINED_DEPTH,
        steps=budget.steps,
        members=budget.members,
    )


def _refuse(call: CExpression, budget: Budget) -> None:
    """Raise the error of the limit that was passed, if one was."""
    match call.outcome:
        case outcome if outcome == _STEPS:
            budget.spend(0)
        case outcome if outcome == _NFA:
            budget.check_nfa(call.reached, call.reached_transitions)
        case outcome if outcome == _STATES:
            budget.check_states(call.reached)
        case outcome if outcome == _MINIMAL_STATES:
            budget.check_minimal_states(call.reached)
        case outcome if outcome == _MEMBERS:
            budget.add_members(0)
        case outcome if outcome == _DEPTH:
            raise too_deep()
        case outcome if outcome == _MEMORY:
            raise MemoryError("there is no memory left for the automaton of the constraint")


class _Code:
    """An expression as words of 64 bits, each part once, by identity; parts are named by numbers."""

    def __init__(self, expression: Expression) -> None:
        self.words, self.start = array("q"), array("q")
        # They may be nested deeper than Python's stack holds. Numbers are their places in the list.
        self._parts: list[Expression] = [expression]
        self._numbers: dict[int, int] = {id(expression): 0}
        for part in self._parts:
            self.start.append(len(self.words))
            self.words.extend(self._written(part))

    def _numbered(self, parts: Iterable[Expression]) -> list[int]:
        """The numbers of parts; new ones are written after all that are known."""
        known, all_parts = self._numbers, self._parts
        found = []
        for part in parts:
            number = known.get(id(part))
            if number is None:
                number = known[id(part)] = len(all_parts)
                all_parts.append(part)
            found.append(number)
        return found

    def _written(self, part: Expression) -> Iterable[int]:
        match part:
            case Sequence(parts):
                return (_SEQUENCE, len(parts), *self._numbered(parts))
            case Literal(text):
                spelled = encoded(text)
                return (_LITERAL, len(spelled), *spelled)
            case AnyOf(options):
                return (_ANY_OF, len(options), *self._numbered(options))
            case Network(places, edges):
                inside = self._numbered([inner for _, inner, _ in edges])
                written = [
                    word
                    for (source, _, target), number in zip(edges, inside, strict=True)
                    for word in (source, number, target)
                ]
                return (_NETWORK, places, len(edges), *written)
            case Repeat(inner, low, high):
                most = _UNBOUNDED if high is None else min(max(high, 0), _COUNTLESS)
                return (_REPEAT, *self._numbered((inner,)), min(max(low, 0), _COUNTLESS), most)
            case Characters(ranges):
                return (_CHARACTERS, len(ranges), *chain.from_iterable(ranges))
            case AllOf(parts):
                check_parts(part)
                return (_ALL_OF, len(parts), *self._numbered(parts))
            case Without(inner, excluded):
                return (_WITHOUT, *self._numbered((inner, excluded)))
            case Marker():
                return (_MARKER, part.byte)
