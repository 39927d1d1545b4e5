"""What can be set: limits of the service, and how its processes run."""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST = 86_400  # seconds
_MOST = 2**31 - 1  # of what is counted: what the store and clocks can take


@dataclass(frozen=True)
class Settings:
    """Limits of the service; each is a flag of ``regard serve``.

    Parameters
    ----------
    store : str
        Where users' events are kept: an SQLite file, which is made when it is needed, or redis://…
    api_key : str, optional
        What ``Authorization: Bearer …`` must say; without it anybody may ask.
    max_body : int
        Bytes of a request.
    max_history : int
        Events of a history that are looked at, the newest.
    max_k : int
        Items of an answer.
    max_batch : int
        Histories of a request.
    max_wait_ms : float
        Expected waiting time from which a request is refused.
    deadline_ms : float
        After which an answer is no longer wanted; a request may ask for less with X-Deadline-Ms.
    max_slow : int
        Batches, similar items and explanations that may wait.
    sessions : int
        Users whose computed state each worker keeps in memory.
    keep_events : int
        Events that are kept of a user, the newest.
    watch_seconds : float
        Between two looks at the model file; 0: on SIGHUP only.
    """

    store: str = "regard.sqlite"
    api_key: str | None = None
    max_body: int = 1_000_000
    max_history: int = 10_000
    max_k: int = 1_000
    max_batch: int = 1_024
    max_wait_ms: float = 5.0
    deadline_ms: float = 1_000.0
    max_slow: int = 16
    sessions: int = 10_000
    keep_events: int = 1_000
    watch_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_body", "max_history", "max_k", "max_batch", "max_slow", "sessions", "keep_events"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise ValueError(f"{name}: expected 1 to {_MOST:,}, got {getattr(self, name)}")
        for name in ("max_wait_ms", "deadline_ms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected above 0, got {getattr(self, name)}")
        if not self.watch_seconds >= 0:
            raise ValueError(f"watch_seconds: expected at least 0, got {self.watch_seconds}")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("api_key: expected a word, got nothing")


@dataclass(frozen=True)
class Process:
    """How the processes run; each is a flag of ``regard serve``.

    Parameters
    ----------
    host : str
        Address to listen on.
    port : int
        0: any that is free, which is logged.
    workers : int
        Processes that answer.
    threads : int
        Of each worker, for batches.
    request_seconds : float
        In which a request must have come whole.
    stop_seconds : float
        For accepted requests when the service stops.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int = 1
    request_seconds: float = 10.0
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.port < 65_536:
            raise ValueError(f"port: expected 0 to 65535, got {self.port}")
        for name in ("request_seconds", "stop_seconds"):
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ValueError(f"{name}: expected above 0, up to {_LONGEST:,}, got {getattr(self, name)}")
