"""Where users' events are kept, so that they survive the service and are the same for all its workers.

A store gives each state of a user a *version*. What was computed for one version is used for that version alone, so
workers that share a store answer alike. A version is never given twice, not even after a user was deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .problems import RequestError

if TYPE_CHECKING:
    from .messages import ItemId

__all__ = ["Kept", "RedisStore", "SQLiteStore", "Store", "open_store"]

KEYS_SECONDS = 86_400  # for which an idempotency key is remembered
_TOGETHER = 1_024  # appends that share a commit at most


@dataclass(slots=True)
class Kept:
    """Events of a user, oldest first: all that are kept, or those after a version that was asked for."""

    version: str | None
    items: list[ItemId]
    times: list[float]
    whole: bool


class Store(Protocol):
    """What the service needs of a store."""

    async def append(self, user: str, items: list[ItemId], times: list[float], key: str | None) -> tuple[str, bool]:
        """Keep events for good; the new version, and whether the key had been used, and nothing was appended.

        Raises
        ------
        RequestError
            409: the key was used for other events; 503: the store cannot be reached or is full.
        """
        ...

    async def events(self, user: str, after: str | None = None) -> Kept:
        """The events after a version where that is still a part of the state, else all that are kept."""
        ...

    async def delete(self, user: str) -> None:
        """Forget a user."""
        ...

    async def check(self) -> None:
        """RequestError if the store cannot be used."""
        ...

    async def close(self) -> None:
        """Finish what was begun."""
        ...


def open_store(where: str, keep: int) -> Store:
    """A store by its address: ``redis://…``, or the path of an SQLite file.

    Parameters
    ----------
    where : str
    keep : how many of a user's newest events are kept
    """
    return (
        RedisStore(where, keep) if where.startswith(("redis://", "rediss://", "unix://")) else SQLiteStore(where, keep)
    )


def _unavailable(error: Exception) -> RequestError:
    return RequestError(503, "store_unavailable", f"the store cannot be used ({type(error).__name__})")


def _reused() -> RequestError:
    return RequestError(409, "key_reused", "idempotency_key: it was used for other events")


def _digest(items: list[ItemId]) -> str:
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


# ---- SQLite ---------------------------------------------------------------------------------------------------------

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item NOT NULL,
                                   time REAL NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_user ON events (user, id);
CREATE TABLE IF NOT EXISTS keys (user TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, version INTEGER NOT NULL,
                                 at REAL NOT NULL, PRIMARY KEY (user, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (at);
"""


@dataclass(slots=True)
class _Append:
    user: str
    items: list[ItemId]
    times: list[float]
    key: str | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[tuple[str, bool]]


class SQLiteStore:
    """One file, for all workers of a machine: write-ahead log, synchronous, appends that meet share a commit.

    The version is the number of the user's last event; numbers of all users rise and are never used twice.
    """

    def __init__(self, path: str, keep: int) -> None:
        self._path, self._keep = path, keep
        self._reader: sqlite3.Connection | None = None
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=10)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)
        return connection

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        """From the connection of the event loop's thread: a reader never waits for a writer."""
        try:
            if self._reader is None:
                self._reader = self._connect()
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    async def events(self, user: str, after: str | None = None) -> Kept:
        columns = "SELECT id, item, time FROM events WHERE user = ?"
        rows = []
        if after is not None:
            rows = self._read(f"{columns} AND id >= ? ORDER BY id", (user, int(after)))
        whole = after is None or not rows or rows[0][0] != int(after)
        if whole:
            rows = self._read(f"{columns} ORDER BY id DESC LIMIT ?", (user, self._keep))[::-1]
        version = str(rows[-1][0]) if rows else None
        new = rows if whole else rows[1:]
        return Kept(version, [row[1] for row in new], [row[2] for row in new], whole)

    async def append(self, user: str, items: list[ItemId], times: list[float], key: str | None) -> tuple[str, bool]:
        loop = asyncio.get_running_loop()
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="store", daemon=True)
            self._writer.start()
        job = _Append(user, items, times, key, loop, loop.create_future())
        self._queue.put(job)
        return await job.future

    async def delete(self, user: str) -> None:
        await asyncio.to_thread(self._delete, user)  # it may wait for another worker

    def _delete(self, user: str) -> None:
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM events WHERE user = ?", (user,))
                connection.execute("DELETE FROM keys WHERE user = ?", (user,))
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    async def check(self) -> None:
        self._read("SELECT 1", ())

    async def close(self) -> None:
        if self._writer is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
            self._writer = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _write(self) -> None:
        """The thread that appends: everything that waits goes into one commit."""
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            jobs = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < _TOGETHER:
                    jobs.append(self._queue.get_nowait())
            going = None not in jobs
            work = [job for job in jobs if job is not None]
            if not work:
                break
            try:
                connection = connection or self._connect()
                results = self._commit(connection, work)
            except Exception as error:  # whatever it is: appends after it are tried again
                if connection is not None:
                    connection.close()
                    connection = None
                results = [_unavailable(error)] * len(work)
            for job, result in zip(work, results, strict=True):
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    job.loop.call_soon_threadsafe(_settle, job.future, result)
        if connection is not None:
            connection.close()

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Append]) -> list[tuple[str, bool] | RequestError]:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM keys WHERE at < ?", (time.time() - KEYS_SECONDS,))
        results = [self._append(connection, job) for job in jobs]
        connection.execute("COMMIT")
        return results

    def _append(self, connection: sqlite3.Connection, job: _Append) -> tuple[str, bool] | RequestError:
        digest = _digest(job.items)
        if job.key is not None:
            known = "SELECT digest, version FROM keys WHERE user = ? AND key = ?"
            for then, version in connection.execute(known, (job.user, job.key)):
                return (str(version), True) if then == digest else _reused()
        last = 0
        for item, moment in zip(job.items, job.times, strict=True):
            sql = "INSERT INTO events (user, item, time) VALUES (?, ?, ?)"
            last = connection.execute(sql, (job.user, item, moment)).lastrowid or last
        oldest = "SELECT id FROM events WHERE user = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
        connection.execute(f"DELETE FROM events WHERE user = ? AND id <= ({oldest})", (job.user, job.user, self._keep))
        if job.key is not None:
            sql = "INSERT INTO keys (user, key, digest, version, at) VALUES (?, ?, ?, ?, ?)"
            connection.execute(sql, (job.user, job.key, digest, last, time.time()))
        return str(last), False


def _settle(future: asyncio.Future[tuple[str, bool]], result: tuple[str, bool] | RequestError) -> None:
    if future.done():  # its request was given up
        return
    if isinstance(result, RequestError):
        future.set_exception(result)
    else:
        future.set_result(result)


# ---- Redis ----------------------------------------------------------------------------------------------------------

# KEYS: the user's stream, the idempotency key. ARGV: kept events, seconds of the key, digest, then item, time, item, …
_APPEND = """
if KEYS[2] then
  local known = redis.call('HMGET', KEYS[2], 'digest', 'version')
  if known[1] then
    return {known[2], known[1] == ARGV[3] and 1 or 2}
  end
end
redis.call('PERSIST', KEYS[1])
local version
for i = 4, #ARGV, 2 do
  version = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'i', ARGV[i], 't', ARGV[i + 1])
end
if KEYS[2] then
  redis.call('HSET', KEYS[2], 'digest', ARGV[3], 'version', version)
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return {version, 0}
"""

# An empty stream remembers its last id for a minute, in which the clock passes it.
_DELETE = "redis.call('XTRIM', KEYS[1], 'MAXLEN', 0); redis.call('EXPIRE', KEYS[1], 60)"


class RedisStore:
    """A stream for each user, for workers on several machines. How safe an event is on disk is Redis's setting
    (``appendfsync always`` is as safe as the SQLite store).

    The version is the id of the last entry, which holds the time of its making. Idempotency keys of a deleted user stay
    for their day and hold nothing but a digest.
    """

    def __init__(self, url: str, keep: int) -> None:
        try:
            import redis.asyncio  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ModuleNotFoundError("a Redis store needs redis: pip install 'regard[redis]'") from None
        self._errors = (redis.exceptions.RedisError, OSError, asyncio.TimeoutError)
        # Requests beyond the connections wait for one instead of failing.
        limits: dict[str, Any] = {"max_connections": 32, "timeout": 5, "socket_timeout": 5, "socket_connect_timeout": 5}
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, **limits)
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        self._append, self._delete = map(self._redis.register_script, (_APPEND, _DELETE))
        self._keep = keep

    @staticmethod
    def _stream(user: str) -> str:
        return f"regard:events:{{{user}}}"  # braces: stream and key of a user live on one node of a cluster

    async def events(self, user: str, after: str | None = None) -> Kept:
        try:
            rows = []
            if after is not None:
                rows = await self._redis.xrange(self._stream(user), min=after)
            whole = after is None or not rows or rows[0][0].decode() != after
            if whole:
                rows = (await self._redis.xrevrange(self._stream(user), count=self._keep))[::-1]
        except self._errors as error:
            raise _unavailable(error) from None
        version = rows[-1][0].decode() if rows else None
        new = rows if whole else rows[1:]
        return Kept(version, [json.loads(row[b"i"]) for _, row in new], [float(row[b"t"]) for _, row in new], whole)

    async def append(self, user: str, items: list[ItemId], times: list[float], key: str | None) -> tuple[str, bool]:
        keys = [self._stream(user)] + ([] if key is None else [f"regard:key:{{{user}}}:{key}"])
        events = [part for item, at in zip(items, times, strict=True) for part in (json.dumps(item), repr(at))]
        try:
            version, known = await self._append(keys=keys, args=[self._keep, KEYS_SECONDS, _digest(items), *events])
        except self._errors as error:
            raise _unavailable(error) from None
        if known == 2:
            raise _reused()
        return version.decode(), known == 1

    async def delete(self, user: str) -> None:
        try:
            await self._delete(keys=[self._stream(user)])
        except self._errors as error:
            raise _unavailable(error) from None

    async def check(self) -> None:
        try:
            await self._redis.ping()
        except self._errors as error:
            raise _unavailable(error) from None

    async def close(self) -> None:
        await self._redis.aclose()
