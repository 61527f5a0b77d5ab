"""Tools that a model may call, apart from how a family writes a call."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redraft.constrain.constraint import Constraint
from redraft.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    schema: str
    """JSON schema of its arguments, as JSON text; an object."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RequestError(f"tool name {self.name!r} must be 1 to 64 letters, digits, '_', '-' or '.'")


@dataclass(frozen=True)
class ToolCall:
    """A call that the model makes."""

    name: str
    arguments: str
    """The arguments as JSON text; an object."""


@dataclass(frozen=True)
class CallPart:
    """The next part of a call that comes in parts; nothing of it has to be taken back."""

    call: int
    """The call's number in the answer, from 0."""
    name: str | None
    """The name comes with the first part; None with the others."""
    arguments: str
    """All parts' arguments one after the other are the call's."""
    last: bool = False
    """The call is complete with it."""


class CallReader(Protocol):
    """Takes an answer's tokens apart into what is said and what is called, canvas by canvas."""

    def add(self, tokens: Sequence[int]) -> tuple[list[int], list[CallPart]]:
        """Return the tokens that are not part of a call, and what the others add to calls."""
        ...


class ToolSyntax(Protocol):
    """A family's way to write tool calls."""

    @property
    def markers(self) -> tuple[str, ...]:
        """The special tokens of a call, in the order in which ``constraint`` numbers them."""
        ...

    def constraint(
        self, tools: Sequence[Tool], *, min_calls: int, max_calls: int | None, content: Constraint | None
    ) -> Constraint:
        """Answers that make ``min_calls`` calls or more (0 or 1) and at most ``max_calls``; each call is valid.

        With ``min_calls`` 0, text may stand before the calls, or in their place a text under ``content``, where given.
        """
        ...

    def reader(
        self,
        markers: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        settled: Callable[[Sequence[int]], int] = len,
    ) -> CallReader:
        """Reads calls back from an answer. ``markers`` are the markers' token ids; ``settled`` says how many of the
        first tokens have a text that none which follow can change."""
        ...
