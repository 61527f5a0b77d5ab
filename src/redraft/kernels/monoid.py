"""Tokens by what they do to the states of a byte automaton, in compiled code, on any processor.

``constrain.automaton.monoid`` says what is computed. It imports no torch, as ``kernels.automata``.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import TokenLimits
from redraft.constrain.automaton.monoid import (
    BYTES_A_MOVE,
    Moves,
    Walked,
    too_many_bytes,
    too_many_functions,
    too_many_moves,
    too_many_steps,
    walk_reference,
)
from redraft.constrain.automaton.vocabulary import PrefixTree
from redraft.kernels.interface import ENTRIES, CWalk
from redraft.kernels.library import native

# What a walk came to, in the order of native/monoid.h.
_WALKED, _STEPS, _FUNCTIONS, _BYTES, _MOVES, _MEMORY = range(6)


def walk(automaton: ByteAutomaton, tree: PrefixTree, silent: NDArray[np.bool_], limits: TokenLimits) -> Walked:
    """See ``constrain.automaton.monoid.walk_reference``, which is the reference: the same arrays and errors."""
    if native() is None:
        return walk_reference(automaton, tree, silent, limits)
    token_class = np.empty(len(silent), dtype=np.int32)
    distance, reached = (np.empty(automaton.states, dtype=np.int32) for _ in range(2))
    # Compiled code reads all of these as they are.
    transitions = np.ascontiguousarray(automaton.transitions, dtype=np.int32)
    accepting = np.ascontiguousarray(automaton.accepting, dtype=np.bool_)
    held = tree.parent, tree.byte, tree.level_start, tree.token_node, silent
    parent, byte, level_start, token_node, unspoken = (array.ctypes.data for array in held)
    call = CWalk(
        transitions=transitions.ctypes.data,
        accepting=accepting.ctypes.data,
        states=automaton.states,
        start=automaton.start,
        parent=parent,
        byte=byte,
        level_start=level_start,
        levels=len(tree.level_start) - 1,
        token_node=token_node,
        silent=unspoken,
        tokens=len(silent),
        max_functions=limits.functions,
        max_bytes=limits.nbytes,
        max_steps=limits.steps,
        bytes_a_move=BYTES_A_MOVE,
        token_class=token_class.ctypes.data,
        distance=distance.ctypes.data,
        reached=reached.ctypes.data,
    )
    _entry("redraft_walk")(ctypes.byref(call))
    _refuse(call, automaton.states, limits)
    number, source, target = (np.empty(call.moves, dtype=np.int32) for _ in range(3))
    _entry("redraft_take_moves")(call.walked, number.ctypes.data, source.ctypes.data, target.ctypes.data)
    return Walked(token_class, Moves(call.classes, number, source, target), distance, reached)


@cache
def _entry(name: str) -> Callable[..., None]:
    library = native()
    assert library is not None, "entries are only looked up where there is a library"
    return library.function(name, None, *ENTRIES[name])


def _refuse(call: CWalk, states: int, limits: TokenLimits) -> None:
    """Raise the error of the limit that was passed, if one was."""
    match call.outcome:
        case outcome if outcome == _STEPS:
            raise too_many_steps(states, limits)
        case outcome if outcome == _FUNCTIONS:
            raise too_many_functions(states, limits)
        case outcome if outcome == _BYTES:
            raise too_many_bytes(states, limits)
        case outcome if outcome == _MOVES:
            raise too_many_moves(call.moves, limits)
        case outcome if outcome == _MEMORY:
            raise MemoryError("there is no memory left for the tokens of the constraint")
