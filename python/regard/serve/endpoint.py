"""One address of the service: bytes to a request, an answer to bytes, and every failure to its status."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from . import messages
from .problems import RequestError, bad, busy

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .service import Service

log = logging.getLogger("regard.serve")

ADMITTED = "regard.admitted"  # in the scope of a request that the server counted already
_JSON, _TEXT = (b"content-type", b"application/json"), (b"content-type", b"text/plain; version=0.0.4")
OVERLOADED = "more requests than this service can answer in time"
QUEUED = frozenset(("/v1/recommend", "/v1/rank"))  # what the model computes on the event loop


class Endpoint:
    """An ASGI application for one method and path.

    Parameters
    ----------
    service : whose limits hold
    method, path : as in the OpenAPI document
    takes : what is in the body; None: nothing is
    handler : with ``takes``: (request, deadline) -> answer; without: (**path parameters) -> answer
    gives : what the answer is; None: bytes as they are
    summary : one line
    """

    def __init__(
        self,
        service: Service,
        method: str,
        path: str,
        takes: type | None,
        handler: Callable[..., Awaitable[Any]],
        gives: type | None,
        summary: str,
    ) -> None:
        self.method, self.path, self.takes, self.gives, self.summary = method, path, takes, gives, summary
        self.protected = path.startswith("/v1/")
        self._service, self._handler = service, handler
        self._decode: Callable[[bytes], Any] | None = None if takes is None else msgspec.json.Decoder(takes).decode
        self._queued = path in QUEUED
        self._names = re.findall(r"{(\w+)}", path)
        self._seconds = service.metrics.seconds.labels(path)
        self._counts: dict[int, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        load, admitted = self._service.load, bool(scope.get(ADMITTED))
        headers: list[tuple[bytes, bytes]] = [_TEXT if self.path == "/metrics" else _JSON]
        try:
            if self._queued and not admitted and not (admitted := load.admit()):
                raise busy(OVERLOADED)
            payload = await self._answer(scope, receive)
            if payload is None:
                return  # the client is gone
            status = 200
        except RequestError as error:
            status, payload = error.status, messages.encode(messages.Problem(error.error, error.message))
            if status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            if status == 503:
                self._service.metrics.rejected.labels(error.error).inc()
                headers.append((b"retry-after", b"1"))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            status, payload = 400, messages.encode(messages.Problem("bad_request", str(error)))
        except Exception:
            log.exception("fault", extra={"fields": {"endpoint": self.path}})
            status, payload = 500, messages.encode(messages.Problem("internal", "a fault of the service"))
        finally:
            if admitted:
                load.done()
        headers.append((b"content-length", b"%d" % len(payload)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})
        self._seconds.observe(time.perf_counter() - start)
        count = self._counts.get(status)
        if count is None:
            count = self._counts[status] = self._service.metrics.requests.labels(self.path, str(status))
        count.inc()

    async def _answer(self, scope: Scope, receive: Receive) -> bytes | None:
        """The bytes of the answer; None when the client left."""
        self._service.start()
        headers = dict(scope["headers"])
        self._authorize(headers)
        if self._decode is None:
            found = scope.get("path_params", {})  # those of an application around it among them
            answer = await self._handler(**{name: found[name] for name in self._names})
        else:
            body = await self._body(headers, receive)
            if body is None:
                return None
            answer = await self._handler(self._decode(body), self._deadline(headers))
        return answer if self.gives is None else messages.encode(answer)

    def _authorize(self, headers: dict[bytes, bytes]) -> None:
        key = self._service.key
        if key is None or not self.protected:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key):
            raise RequestError(401, "unauthorized", "Authorization: expected Bearer and the key of this service")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None when the client left."""
        most = self._service.settings.max_body
        too_large = RequestError(413, "too_large", f"the body: expected at most {most} bytes")
        if int(headers.get(b"content-length", b"0")) > most:
            raise too_large
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise too_large
        return None if message["type"] == "http.disconnect" else body

    def _deadline(self, headers: dict[bytes, bytes]) -> float:
        """When the answer is no longer wanted, on the monotonic clock."""
        most = self._service.settings.deadline_ms
        asked = headers.get(b"x-deadline-ms")
        if asked is not None:
            if not asked.isdigit() or len(asked) > 9 or int(asked) < 1:
                raise bad("X-Deadline-Ms: expected milliseconds, a whole number from 1")
            most = min(most, int(asked))
        return time.monotonic() + most / 1e3
