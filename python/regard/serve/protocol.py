"""HTTP as uvicorn speaks it, with limits on what comes before the application."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from . import messages
from .endpoint import ADMITTED, OVERLOADED, QUEUED

if TYPE_CHECKING:
    from .service import Service

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_MAX_HEAD = 65_536  # bytes of a request before its body
_QUEUED = frozenset(path.encode() for path in QUEUED)
_BODY = messages.encode(messages.Problem("overloaded", OVERLOADED))
_OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def _without_upgrade(data: bytes) -> bytes:
    """Nothing is spoken but HTTP/1.1, so an offer of more is no offer (RFC 9110, 7.8); the parser would end there."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest


class Protocol(HttpToolsProtocol):
    """With a limit on the time that a request may take to come, and on its head; under overload it refuses requests
    before anything is made for them, so that refusing leaves time to answer the others."""

    request_seconds: float
    service: Service

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begun, self._head = True, 0  # a connection that says nothing is a slow request
        self._awaits_head, self._refused = True, False  # of the request that is coming in
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(_without_upgrade(data) if self._awaits_head else data)
        if not self._begun:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()
        if self._head > _MAX_HEAD and not self.transport.is_closing():
            self._answer_and_close(431, "too_large", f"the head: expected at most {_MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        if self._timer is not None:  # of the request before, or of the connection
            self._stop_timer()
            self._start_timer()

    def on_headers_complete(self) -> None:
        self._head, self._awaits_head = 0, False
        alone = self.cycle is None or self.cycle.response_complete
        if self.url in _QUEUED and alone and self.parser.get_method() == b"POST":
            self._refused = not self.service.load.admit()
            if self._refused:
                return
            self.scope[ADMITTED] = True  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._begun, self._head, self._awaits_head = False, 0, True
        if not self._refused:
            super().on_message_complete()
            return
        self._refused = False
        self.transport.write(_OVERLOADED)
        self.service.count_refused(self.url.decode())
        if not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        self._answer_and_close(400, "bad_request", msg)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.request_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._answer_and_close(408, "too_slow", f"the request: expected within {self.request_seconds:g} seconds")

    def _answer_and_close(self, status: int, error: str, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = messages.encode(messages.Problem(error, message))
            head = f"HTTP/1.1 {status} {error}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()
