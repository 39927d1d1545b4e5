"""The service as processes: one that watches, and workers that answer on one socket.

Workers are forked before anything runs that does not survive it (threads, an event loop, a store), share what is loaded
until then, and map the model file by themselves, so that all have one copy. A worker that dies is replaced; a worker
whose parent is gone finishes what it accepted and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from regard import _core

from .problems import RequestError
from .protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .live_model import Loaded
    from .service import Service
    from .settings import Process, Settings

log = logging.getLogger("regard.serve")

_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
_TOO_SOON = 1.0  # seconds: a worker that did not live as long is replaced only after as many


class _Server(uvicorn.Server):
    """Knows of SIGHUP, of its parent, and says when it begins to stop."""

    def __init__(self, config: uvicorn.Config, service: Service, parent: int) -> None:
        super().__init__(config)
        self._service, self._parent = service, parent
        self._reload: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._new_model)
        loop.add_reader(self._parent, self._orphaned)
        await super().startup(sockets)
        log.info("worker started", extra={"fields": {"pid": os.getpid()}})

    def _new_model(self) -> None:
        self._reload = asyncio.get_running_loop().create_task(self._service.live.reload())

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._parent)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping()
        await super().shutdown(sockets)
        log.info("worker stopped", extra={"fields": {"pid": os.getpid()}})


def run(model: str, settings: Settings, process: Process) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP loads the model file again.

    Parameters
    ----------
    model : path of a saved model
    settings, process : limits, processes

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    OSError, ValueError
        The address is taken; the model or the store cannot be used.
    """
    listener = _listen(process)
    folder = tempfile.mkdtemp(prefix="regard-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when the service is imported, which is done only now
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        _core.set_num_threads(process.threads)
        first = _check(model, settings)
        host, port = listener.getsockname()[:2]
        log.info("listening", extra={"fields": {"host": host, "port": port, "workers": process.workers}})
        return _Pool(lambda parent: _work(model, first, settings, process, listener, parent, before), process).watch()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)


def _listen(process: Process) -> socket.socket:
    family = socket.AF_INET6 if ":" in process.host else socket.AF_INET
    try:
        listener = socket.create_server((process.host, process.port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"host, port: cannot listen on {process.host}:{process.port} ({error.strerror})") from None
    listener.setblocking(False)
    return listener


def _check(model: str, settings: Settings) -> Loaded:
    """What would fail in every worker fails here, once, and with its message. Whole digests are compared. What is
    imported here the workers share; what is loaded serves in a worker that finds a bad file when it is born."""
    from . import service  # noqa: F401, PLC0415
    from .live_model import Loaded  # noqa: PLC0415
    from .stores import open_store  # noqa: PLC0415

    loaded = Loaded(Path(model), verify=True, n_sessions=settings.sessions)

    async def store() -> None:
        opened = open_store(settings.store, settings.keep_events)
        await opened.check()
        await opened.close()

    try:
        asyncio.run(store())
    except RequestError as error:
        raise ValueError(f"store: {error}") from None
    return loaded


class _Pool:
    """The process that watches."""

    def __init__(self, work: Callable[[int], None], process: Process) -> None:
        self._work, self._process = work, process
        self._here, self._there = os.pipe()  # its other end is closed when this process is gone
        self._born: dict[int, float] = {}  # by worker

    def watch(self) -> int:
        gc.collect()
        gc.freeze()  # what is loaded by now stays shared with the workers
        for _ in range(self._process.workers):
            self._start()
        while True:
            received = signal.sigwait(_WATCHED)
            if received == signal.SIGCHLD:
                self._replace()
            else:
                if received != signal.SIGHUP:
                    return self._stop()
                self._tell(signal.SIGHUP)

    def _start(self) -> None:
        pid = os.fork()
        if pid:
            self._born[pid] = time.monotonic()
            return
        code = 1
        try:
            os.close(self._there)
            gc.enable()
            self._work(self._here)
            code = 0
        except Exception:
            log.exception("fault", extra={"fields": {"pid": os.getpid()}})
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)  # nothing of the parent's is run in the child

    def _replace(self) -> None:
        for pid in self._gone():
            lived = time.monotonic() - self._born.pop(pid)
            log.error("worker died", extra={"fields": {"pid": pid, "lived_seconds": round(lived, 1)}})
            time.sleep(max(0.0, _TOO_SOON - lived))
            self._start()

    def _gone(self) -> list[int]:
        from .metrics import forget  # noqa: PLC0415

        pids = []
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                forget(pid)
                if pid in self._born:
                    pids.append(pid)
        return pids

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _stop(self) -> int:
        self._tell(signal.SIGTERM)
        end = time.monotonic() + self._process.stop_seconds + 5
        while self._born:
            for pid in self._gone():
                del self._born[pid]
            if self._born and signal.sigtimedwait({signal.SIGCHLD}, max(0.0, end - time.monotonic())) is None:
                self._tell(signal.SIGKILL)
                end = time.monotonic() + 5
        log.info("stopped")
        return 0


def _work(
    model: str,
    first: Loaded,
    settings: Settings,
    process: Process,
    listener: socket.socket,
    parent: int,
    mask: set[Any],
) -> None:
    """A worker, from its birth to its end."""
    from .service import Service  # noqa: PLC0415

    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    service = Service(model, settings, fallback=first)
    Protocol.request_seconds, Protocol.service = process.request_seconds, service
    config = uvicorn.Config(
        service,
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(process.stop_seconds),
    )
    _Server(config, service, parent).run(sockets=[listener])
