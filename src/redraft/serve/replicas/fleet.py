"""The seam between the front and what its replicas run on."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Message

from redraft.errors import RedraftError


@dataclass(frozen=True)
class Forwarded:
    """A client's HTTP request as a replica is given it, which answers it the same way each time."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    """The client's address."""
    body: bytes
    seed: int
    """The seed that the request's own are drawn from where it names none."""
    blocks: Sequence[bytes] = ()
    """The beginning of its prompt: see ``prefixes``."""
    avoid: Sequence[str] = ()
    """Replicas to be taken last: they were lost with this request."""


@dataclass(frozen=True)
class Part:
    """A part of a replica's answer."""

    replica: str
    message: Message | None
    """A message of ASGI; None in the first part, which says that the replica has taken the request."""
    begun: bool = False
    """Something of the answer is there that took work; until then its stream has its opening alone."""


@dataclass(frozen=True)
class Report:
    """The state of a replica."""

    replica: str
    running: int
    waiting: int
    models: Mapping[str, Mapping[str, int]]
    """The requests of each model that run and wait."""
    metrics: bytes
    """Its page of ``/metrics``."""


class ReplicaLostError(RedraftError):
    """A replica has ended, or cannot be reached, before its answer was whole."""

    def __init__(self, replica: str, why: str) -> None:
        """``replica``: empty where it was lost before it took the request."""
        super().__init__(f"replica {replica or '?'} was lost: {why}")
        self.replica = replica


class Fleet(Protocol):
    """The replicas."""

    def ask(self, request: Forwarded) -> AsyncGenerator[Part]:
        """Have one replica answer, and yield the parts of its answer; to close it early cancels the request.

        Raises ReplicaLostError where the replica ends first, BusyError where too many requests wait for one, and
        ShuttingDownError where there are no replicas and none will come.
        """
        ...

    async def reports(self) -> list[Report]:
        """Return the state of each replica that tells it in time."""
        ...


def of_scope(scope: Mapping[str, Any], body: bytes, seed: int, blocks: Sequence[bytes]) -> Forwarded:
    """Make the request of an ASGI scope."""
    client = scope.get("client")
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return Forwarded(
        scope["method"],
        scope["path"],
        bytes(scope.get("query_string", b"")),
        headers,
        None if client is None else (str(client[0]), int(client[1] or 0)),
        body,
        seed,
        blocks,
    )
