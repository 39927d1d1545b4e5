"""The service: requests in, answers out, over any ASGI server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from . import answers, messages, openapi
from .endpoint import Endpoint
from .live_model import LiveModel, Loaded
from .load import Load
from .metrics import Metrics
from .problems import bad, busy, late
from .queue import Job, Queue
from .settings import Settings
from .stores import Store, open_store

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("regard.serve")

_BATCH_PAYS = 50_000  # items from which the catalogue is better read once for several requests
_T = TypeVar("_T")
_LATEST = 1e15  # Unix seconds


class Service:
    """An ASGI application that answers with a saved model.

    Parameters
    ----------
    model : path of a saved model
    settings : Settings, optional
    fallback : what serves where the file cannot be used; see `LiveModel`

    Notes
    -----
    It can be mounted in another application. It begins to watch the model file with the first request, or when it is
    told that the server starts.
    """

    def __init__(
        self, model: str | os.PathLike[str], settings: Settings | None = None, *, fallback: Loaded | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.metrics = Metrics()
        self._version: str | None = None  # that the metrics show
        self.live = LiveModel(
            model,
            n_sessions=self.settings.sessions,
            changed=self._model_changed,
            failed=self._model_failed,
            fallback=fallback,
        )
        self.store: Store = open_store(self.settings.store, self.settings.keep_events)
        self.load = Load(self.settings.max_wait_ms / 1e3, changed=self.metrics.waiting.set)
        self._queue = Queue(batched=self.metrics.batch.observe)
        self._beside = ThreadPoolExecutor(1, "beside")
        self._n_beside = 0
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False
        self.key = None if self.settings.api_key is None else self.settings.api_key.encode()
        endpoints = self._endpoints()
        self.document = messages.encode(openapi.document(endpoints, protected=self.key is not None))
        self._app = Starlette(
            routes=[
                Route(end.path.replace("{user_id}", "{user_id:path}"), end, methods=[end.method]) for end in endpoints
            ],
            lifespan=self._lifespan,
            exception_handlers={404: _not_found, 405: _not_allowed},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    # ---- life -------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self.start()
        try:
            yield
        finally:
            await self.stop()

    def start(self) -> None:
        """Begin to watch the model file; once."""
        if self._watcher is None and self.settings.watch_seconds:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Finish what was accepted; see `stopping` for the time before."""
        self.stopping()
        if self._watcher is not None:
            self._watcher.cancel()
        self._beside.shutdown()
        await self.store.close()

    def count_refused(self, path: str) -> None:
        """A request was refused before it came to the application."""
        self.metrics.rejected.labels("overloaded").inc()
        self.metrics.requests.labels(path, "503").inc()

    def stopping(self) -> None:
        """Say that no new requests should come."""
        self._stopping = True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            await self.live.look()

    def _model_changed(self, loaded: Loaded) -> None:
        if self._version is not None:
            self.metrics.model.labels(self._version).set(0)
        self._version = loaded.version
        self.metrics.model.labels(loaded.version).set(1)
        self.metrics.loaded_at.set(loaded.card.loaded_at)
        self.metrics.swaps.inc()
        log.info("model", extra={"fields": msgspec.to_builtins(loaded.card)})

    def _model_failed(self, reason: str) -> None:
        self.metrics.failures.inc()
        log.error("model not taken", extra={"fields": {"reason": reason}})

    # ---- requests -----------------------------------------------------------------------------------------------

    def _endpoints(self) -> list[Endpoint]:
        m = messages
        of: list[tuple[str, str, Any, Any, Any, str]] = [
            ("POST", "/v1/recommend", m.Recommend, self.recommend, m.Answer, "The k best items after a history"),
            ("POST", "/v1/recommend/batch", m.RecommendBatch, self.batch, m.Answers, "The same for many histories"),
            ("POST", "/v1/rank", m.Rank, self.rank, m.Answer, "Candidates in the order of their scores"),
            ("POST", "/v1/similar", m.Similar, self.similar, m.Answer, "Items that go with an item"),
            ("POST", "/v1/events", m.Events, self.append, m.Appended, "Append events to a user's history"),
            ("GET", "/v1/users/{user_id}", None, self.user, m.State, "What is kept of a user"),
            ("DELETE", "/v1/users/{user_id}", None, self.forget, m.State, "Forget a user"),
            ("GET", "/v1/model", None, self.model, m.ModelCard, "The model that serves"),
            ("GET", "/healthz", None, self.health, m.Condition, "Whether the process lives"),
            ("GET", "/readyz", None, self.ready, m.Condition, "Whether requests should come"),
            ("GET", "/metrics", None, self.page, None, "Counters in the text format of Prometheus"),
            ("GET", "/openapi.json", None, self.describe, None, "This document"),
        ]
        return [Endpoint(self, *parts) for parts in of]

    async def recommend(self, request: messages.Recommend, deadline: float) -> messages.Answer:
        loaded = self.live.current
        self._check_k(request.k)
        past = await self._past(loaded, request)
        if request.explain:
            past.session = None  # which belongs to the loop
            return await self._slowly(lambda: answers.recommend(loaded, past, request), deadline)
        rules = request.caps or request.boosts or request.allow is not None or request.deny is not None
        plain = past.session is None and not rules
        pays = plain and not loaded.times and loaded.card.n_items >= _BATCH_PAYS
        alike = (loaded.version, request.k, request.exclude_seen) if pays else None

        def together(jobs: list[Job]) -> list[messages.Answer]:
            return answers.together(loaded, [job.past for job in jobs], request)

        return await self._quickly(lambda: answers.recommend(loaded, past, request), deadline, past, alike, together)

    async def batch(self, request: messages.RecommendBatch, deadline: float) -> messages.Answers:
        loaded = self.live.current
        self._check_k(request.k)
        if len(request.histories) > self.settings.max_batch:
            raise bad(f"histories: expected at most {self.settings.max_batch}, got {len(request.histories)}")
        request.histories = [history[-self.settings.max_history :] for history in request.histories]
        answers.check(loaded, request)
        return messages.Answers(await self._slowly(lambda: answers.batch(loaded, request), deadline))

    async def rank(self, request: messages.Rank, deadline: float) -> messages.Answer:
        loaded = self.live.current
        if len(request.candidates) > self.settings.max_history:
            raise bad(f"candidates: expected at most {self.settings.max_history}, got {len(request.candidates)}")
        past = await self._past(loaded, request)
        return await self._quickly(lambda: answers.rank(loaded, past, request), deadline, past)

    async def similar(self, request: messages.Similar, deadline: float) -> messages.Answer:
        loaded = self.live.current
        self._check_k(request.k)
        return await self._slowly(lambda: answers.similar(loaded, request), deadline)

    async def append(self, request: messages.Events, deadline: float) -> messages.Appended:
        loaded = self.live.current
        loaded.check_ids("items", request.items)
        if len(request.items) > self.settings.keep_events:
            raise bad(f"items: expected at most {self.settings.keep_events}, got {len(request.items)}")
        times = _times(request.times, request.items) or [time.time()] * len(request.items)
        user, key = request.user_id, request.idempotency_key
        n_unknown = loaded.n_unknown(request.items)
        version, repeated = await self.store.append(user, request.items, times, key)
        self.metrics.unknown.inc(n_unknown)
        if not repeated:
            self.metrics.events.inc(len(request.items))
        return messages.Appended(user, version, repeated, n_unknown)

    async def user(self, user_id: str) -> messages.State:
        kept = await self.store.events(user_id)
        return messages.State(user_id, kept.version, kept.items, kept.times)

    async def forget(self, user_id: str) -> messages.State:
        await self.store.delete(user_id)
        return messages.State(user_id, None, [], [])

    async def model(self) -> messages.ModelCard:
        return self.live.current.card

    async def health(self) -> messages.Condition:
        return messages.Condition("ok")

    async def ready(self) -> messages.Condition:
        if self._stopping:
            raise busy("the service stops")
        await self.store.check()
        return messages.Condition("ok")

    async def page(self) -> bytes:
        return self.metrics.page()

    async def describe(self) -> bytes:
        return self.document

    # ---- how ----------------------------------------------------------------------------------------------------

    def _check_k(self, k: int) -> None:
        if k > self.settings.max_k:
            raise bad(f"k: expected at most {self.settings.max_k}, got {k}")

    async def _past(self, loaded: Loaded, request: messages.Recommend | messages.Rank) -> answers.Past:
        """The history of a request or of a user, checked."""
        if (request.history is None) == (request.user_id is None):
            raise bad("history, user_id: expected exactly one of them")
        answers.check(loaded, request)
        if request.asked_at is not None and not abs(request.asked_at) <= _LATEST:
            raise bad(f"asked_at: expected Unix seconds up to {_LATEST:.0e}")
        if request.history is None:
            return await self._past_of(loaded, request)
        history, times = request.history, _times(request.times, request.history)
        if loaded.times and times is None:
            raise bad("times: this model needs the time of every event")
        if len(history) > self.settings.max_history:
            history, times = history[-self.settings.max_history :], times and times[-self.settings.max_history :]
        return answers.Past(history, times, request.asked_at)

    async def _past_of(self, loaded: Loaded, request: messages.Recommend | messages.Rank) -> answers.Past:
        """The state of a user. A session answers for the version that it was made of alone, so it is brought to the
        one that the store has."""
        if request.times is not None:
            raise bad("times: expected with a history; those of a user are kept")
        assert request.user_id is not None
        user, sessions = request.user_id, loaded.sessions
        if sessions is None:
            kept = await self.store.events(user)
            return answers.Past(*loaded.of_type(kept.items, kept.times), request.asked_at, kept.version)
        while True:
            session = sessions.get(user)
            version = None if session is None else session.tag.version
            kept = await self.store.events(user, version)
            if session is sessions.get(user) and (session is None or session.tag.version == version):
                break  # else another request of this user brought it further meanwhile
        new, times = loaded.of_type(kept.items, kept.times)
        if session is None or kept.whole:
            session = sessions.begin(user)
            session.tag = answers.Tag(None, [])
        if new:
            session.append(new, times)
        session.tag = answers.Tag(kept.version, (session.tag.items + new)[-self.settings.keep_events :])
        return answers.Past(session.tag.items, None, request.asked_at, kept.version, session)

    async def _quickly(
        self,
        alone: Callable[[], messages.Answer],
        deadline: float,
        past: answers.Past,
        alike: Hashable = None,
        together: Callable[[list[Job]], list[messages.Answer]] | None = None,
    ) -> messages.Answer:
        answer = await self._queue.answer(Job(alone, together, alike, past, deadline))
        if answer.n_unknown:
            self.metrics.unknown.inc(answer.n_unknown)
        return answer

    async def _slowly(self, work: Callable[[], _T], deadline: float) -> _T:
        """Computed beside the loop, which goes on answering; one after another."""

        def in_time() -> _T:
            if time.monotonic() > deadline:
                raise late()
            return work()

        if self._n_beside >= self.settings.max_slow:
            raise busy("more requests of this kind than this service can answer in time")
        self._n_beside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._beside, in_time)
        finally:
            self._n_beside -= 1


def _times(times: list[float] | None, items: list[messages.ItemId]) -> list[float] | None:
    """Times that fit the events."""
    if times is not None and len(times) != len(items):
        raise bad(f"times: expected {len(items)}, one for each event, got {len(times)}")
    if times is not None and not all(abs(moment) <= _LATEST for moment in times):
        raise bad(f"times: expected Unix seconds up to {_LATEST:.0e}")
    return times


async def _not_found(request: Request, error: Exception) -> Response:
    return _problem(404, "not_found", "no such address; /openapi.json lists those that there are")


async def _not_allowed(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None)
    return _problem(405, "method_not_allowed", f"{request.method} is not what this address takes", headers)


def _problem(status: int, error: str, message: str, headers: Any = None) -> Response:
    body = messages.encode(messages.Problem(error, message))
    return Response(body, status, headers, media_type="application/json")
