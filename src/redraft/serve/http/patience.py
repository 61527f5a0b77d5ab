"""Bounds how long a client may take to send the head of a request; what is half sent must not hold a connection."""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP whose connections are closed where the head of a request is not there in time."""

    head_seconds = 10.0
    """From the opening of a connection, or the first byte of its next request, to the end of the request's head."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Begin to wait for a head, or stop when it is there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def patient(head_seconds: float) -> type[PatientProtocol]:
    """Return the protocol that waits so long for the head of a request."""
    return type("PatientProtocol", (PatientProtocol,), {"head_seconds": head_seconds})
