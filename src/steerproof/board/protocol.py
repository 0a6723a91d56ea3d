"""HTTP as the board speaks it: a request must come in time, and every answer has our headers.

The server itself waits for ever for the rest of a request that was begun, and answers what is not
HTTP without asking the application. Both are put right here, in its own protocol.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from steerproof.board.security import HEADERS

REQUEST_SECONDS = 15.0
"""A request that is not whole after this long is dropped, and so is a silent new connection."""


class PatientProtocol(H11Protocol):
    """One connection, with a clock that runs while the other side owes the rest of a request."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The first request is owed from now on."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some of a request came."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is owed any more."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where a request is begun and not whole; stop it where one is whole."""
        owed = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not owed or self.transport.is_closing():
            self._stop()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(REQUEST_SECONDS, self._drop)

    def _stop(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _drop(self) -> None:
        self._overdue = None
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, with the headers of every other answer."""
        self._stop()
        headers = {"content-type": "text/plain; charset=utf-8", "connection": "close"}
        every = [(k.encode(), v.encode()) for k, v in {**headers, **HEADERS}.items()]
        for event in (
            h11.Response(status_code=400, headers=every, reason=b"Bad Request"),
            h11.Data(data=msg.encode("ascii")),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
