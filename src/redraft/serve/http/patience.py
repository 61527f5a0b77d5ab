"""Connections: how long the head of a request may take, and that what is sent is read in turn.

What is half sent must not hold a connection, and what many send at once must not be read in one go.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from redraft.serve.http.entry import Entry
from redraft.serve.http.presence import asked_on, owner_of

# Bytes that are kept of a connection whose turn it is not yet.
_KEPT = 1 << 16


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP whose bytes are read in turn, and whose connections are closed where the head of a request is not there in
    time. Of one that has closed before its turn nothing is read."""

    entry: Entry
    head_seconds = 10.0
    """From the opening of a connection, or the first byte of its next request, to the end of the request's head."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._arrived = list[bytes]()
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        # Who waits for its turn is not idle.
        self._unset_keepalive_if_required()
        self._arrived.append(data)
        if sum(map(len, self._arrived)) > _KEPT:
            self.transport.pause_reading()
        if len(self._arrived) == 1:
            owner = asked_on(self.scope)
            if owner is None:
                self.entry.greet(owner_of({"client": self.client}, with_keys=False), self._read, self._waits)
            else:
                self.entry.call(owner, self._read, self._waits)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._arrived.clear()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        """Return whether there is something to read; not once the connection has closed."""
        return bool(self._arrived)

    def _read(self) -> None:
        data = b"".join(self._arrived)
        self._arrived.clear()
        if not self.flow.read_paused:
            self.transport.resume_reading()
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """Begin to wait for a head, or stop when it is there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if self._arrived:
            # It may be here.
            self._watch()
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def patient(head_seconds: float, entry: Entry) -> type[PatientProtocol]:
    """Return the protocol that waits so long for the head of a request, and reads when ``entry`` says."""
    return type("PatientProtocol", (PatientProtocol,), {"head_seconds": head_seconds, "entry": entry})
