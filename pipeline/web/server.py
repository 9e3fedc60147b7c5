"""The HTTP server: uvicorn with time limits for the parts of a request."""

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Within which the headers of a request must arrive, counted from the connection or from their first byte."""
BODY_SECONDS = 60.0
"""Within which a body must arrive, counted from the headers. `uploads.TIMEOUT` answers an image before; this closes
connections whose body nothing reads."""
SEND_SECONDS = 30.0
"""Within which a client must make room for more of a response."""


def make_config(app: Any) -> uvicorn.Config:
    """The configuration of a server for `app`, whichever optional parts of uvicorn are installed."""
    return uvicorn.Config(
        app,
        http=TimedConnection,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )


class TimedConnection(H11Protocol):
    """A connection that is closed when headers or a body take too long to arrive, or when the client does not read the
    response, which uvicorn does not limit."""

    _timer: asyncio.TimerHandle | None = None
    _state: Any = None
    """The state of the client when the timer was set."""
    _sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # writing pauses while the system does not take all bytes
        self._limit_time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._timer, self._sending):
            if timer:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._sending = self.loop.call_later(SEND_SECONDS, self.transport.abort)  # `close` would wait for the client

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending:
            self._sending.cancel()

    def _limit_time(self) -> None:
        """Start a timer when the client begins to send headers or a body, cancel it when these are complete."""
        state = self.conn.their_state
        if state is self._state:
            return
        if self._timer:
            self._timer.cancel()
        self._state = state
        seconds = {h11.IDLE: HEADER_SECONDS, h11.SEND_BODY: BODY_SECONDS}.get(state)
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self.transport.close)
