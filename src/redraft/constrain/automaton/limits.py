"""Limits on the building of automata, and the budget that counts what one build has taken of them.

Limits count work, never seconds: what is refused on a busy machine is refused on an idle one, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from redraft.errors import ConstraintError

# Before it is minimised, an automaton may be so many times its limit.
_BEFORE_MINIMISING = 2
# An NFA may have so many transitions for each state that it may have.
_TRANSITIONS_A_STATE = 4
MAX_MEMBERS = 5_000_000
"""NFA states, 8 bytes each, in all the sets of them that are deterministic states: bounds the memory."""

_SIMPLER = "make the counts (as in {0,1000} or maxLength) or the depth smaller, or leave out alternatives"


class TooLargeError(ConstraintError):
    """A constraint takes more work or memory than a limit allows."""


@dataclass(frozen=True)
class Limits:
    """Limits of one byte automaton. They hold while the work goes on, so that no expression can hang it."""

    states: int = 64_000
    """States of the finished automaton; before it is minimised, twice as many."""
    nfa_states: int = 160_000
    """States of the expression with its repeats written out; transitions between them may be four times as many."""
    steps: int = 50_000_000
    """Transitions followed, sets of states put together and states compared, from the expression to the automaton."""

    def __post_init__(self) -> None:
        _check_positive(vars(self))

    @property
    def states_at_work(self) -> int:
        """States that an automaton may have before it is minimised."""
        return self.states * _BEFORE_MINIMISING

    @property
    def nfa_transitions(self) -> int:
        """Transitions between the states of the expression with its repeats written out."""
        return self.nfa_states * _TRANSITIONS_A_STATE


@dataclass(frozen=True)
class TokenLimits:
    """Limits of one token automaton."""

    functions: int = 50_000
    """Ways in which the prefixes of tokens act on the states."""
    edges: int = 1_600_000
    nbytes: int = 2**29
    """Memory of the work, roughly."""
    steps: int = 5_000_000_000
    """States looked up while these ways are composed byte by byte; a processor does some hundred million a second."""

    def __post_init__(self) -> None:
        _check_positive(vars(self))


def _check_positive(limits: Mapping[str, int]) -> None:
    for name, value in limits.items():
        if not value > 0:
            raise ValueError(f"limit {name}={value} must be above 0")


DEFAULT_LIMITS = Limits()
DEFAULT_TOKEN_LIMITS = TokenLimits()


class Budget:
    """The limits of one build, and the work that it has spent of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.steps = 0
        """Steps spent so far."""
        self.members = 0
        """NFA states in all the sets so far."""

    def renewed(self) -> "Budget":
        """The budget with its memory free again, for another try; its steps stay spent."""
        self.members = 0
        return self

    def spend(self, steps: int) -> None:
        """Count steps that were done, or are about to be."""
        self.steps += steps
        if self.steps > self.limits.steps:
            raise TooLargeError(f"the constraint takes more than {self.limits.steps} steps to build; {_SIMPLER}")

    def check_nfa(self, states: int, transitions: int) -> None:
        limit = self.limits.nfa_states
        if states > limit or transitions > self.limits.nfa_transitions:
            raise TooLargeError(
                f"the constraint is too large: with its repeats written out it has more than {limit} places or "
                f"{self.limits.nfa_transitions} transitions between them; {_SIMPLER}"
            )

    def check_states(self, states: int) -> None:
        """Check the states of an automaton that is not minimal yet."""
        limit = self.limits.states_at_work
        if states > limit:
            raise TooLargeError(
                f"the constraint needs more than {limit} states before it is minimised, where "
                f"{self.limits.states} may be left; {_SIMPLER}"
            )

    def check_minimal_states(self, states: int) -> None:
        if states > self.limits.states:
            raise TooLargeError(f"the constraint needs {states} states and may have {self.limits.states}; {_SIMPLER}")

    def add_members(self, count: int) -> None:
        self.members += count
        if self.members > MAX_MEMBERS:
            raise TooLargeError(
                "a text can stand at too many places of the constraint at once; make fewer parts in a row optional, "
                "and let no count apply to parts that match the same text in several ways, as in (a|aa){0,1000}"
            )
