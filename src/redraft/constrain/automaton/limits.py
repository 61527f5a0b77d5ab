"""What building one automaton may take, and the account of what it took so far."""

import time
from dataclasses import dataclass

from redraft.errors import ConstraintError

# Before it is minimised, an automaton may be so many times its limit.
_BEFORE_MINIMISING = 4
# An NFA may have so many transitions for each state that it may have.
_TRANSITIONS_A_STATE = 4
# NFA states, 8 bytes each, in all the sets of them that are deterministic states: bounds the memory.
_MEMBERS = 5_000_000

_SIMPLER = "make the counts (as in {0,1000} or maxLength) or the depth smaller, leave out alternatives,"


@dataclass(frozen=True)
class Limits:
    """What building one automaton may take. They hold while the work goes on, so that no expression can hang it."""

    states: int = 20_000
    """Of the finished automaton; before it is minimised, four times as many."""
    nfa_states: int = 100_000
    """Of the expression with its repeats written out; there may be four times as many transitions between them."""
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limit {name}={value} must be above 0")


DEFAULT_LIMITS = Limits()


class Work:
    """The limits of one build, and what it has taken of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._members = 0

    def check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise ConstraintError(
                f"the constraint took more than {self.limits.seconds} s to build; {_SIMPLER} or raise Limits.seconds"
            )

    def check_nfa(self, states: int, transitions: int) -> None:
        limit = self.limits.nfa_states
        if states > limit or transitions > limit * _TRANSITIONS_A_STATE:
            raise ConstraintError(
                f"the constraint is too large: with its repeats written out it has more than {limit} places or "
                f"{limit * _TRANSITIONS_A_STATE} transitions between them; {_SIMPLER} or raise Limits.nfa_states"
            )

    def check_states(self, states: int) -> None:
        """Of an automaton that is not minimal yet."""
        limit = self.limits.states * _BEFORE_MINIMISING
        if states > limit:
            raise ConstraintError(
                f"the constraint needs more than {limit} states before it is minimised, where "
                f"{self.limits.states} may be left; {_SIMPLER} or raise Limits.states"
            )

    def check_minimal_states(self, states: int) -> None:
        if states > self.limits.states:
            raise ConstraintError(
                f"the constraint needs {states} states and may have {self.limits.states}; {_SIMPLER} or raise "
                "Limits.states"
            )

    def add_members(self, count: int) -> None:
        self._members += count
        if self._members > _MEMBERS:
            raise ConstraintError(
                "a text can stand at too many places of the constraint at once; make fewer parts in a row optional, "
                "and let no count apply to parts that match the same text in several ways, as in (a|aa){0,1000}"
            )
