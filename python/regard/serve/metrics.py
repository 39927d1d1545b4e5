"""What the service counts, for Prometheus. With several workers the numbers of all are added."""

from __future__ import annotations

import os
from typing import Any

import prometheus_client as prometheus
from prometheus_client import multiprocess

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where the workers of a service keep their numbers, set before this is imported
_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        kept: dict[str, Any] = {"registry": registry}
        self.requests = prometheus.Counter("regard_requests", "Requests", ["endpoint", "status"], **kept)
        self.seconds = prometheus.Histogram(
            "regard_request_seconds", "From the request to its answer", ["endpoint"], buckets=_SECONDS, **kept
        )
        self.rejected = prometheus.Counter("regard_rejected", "Requests refused with 503", ["reason"], **kept)
        self.waiting = prometheus.Gauge(
            "regard_queue_length", "Requests that wait for the model", multiprocess_mode="livesum", **kept
        )
        self.batch = prometheus.Histogram(
            "regard_batch_size", "Requests answered together", buckets=(1, 2, 4, 8, 16, 32, 64), **kept
        )
        self.unknown = prometheus.Counter("regard_unknown_items", "Items of requests that the model lacks", **kept)
        self.events = prometheus.Counter("regard_events", "Events appended to users", **kept)
        self.model = prometheus.Gauge(
            "regard_model_info", "1 for the version that serves", ["version"], multiprocess_mode="livemax", **kept
        )
        self.loaded_at = prometheus.Gauge(
            "regard_model_loaded_timestamp_seconds", "When it was loaded", multiprocess_mode="livemin", **kept
        )
        self.failures = prometheus.Counter("regard_model_load_failures", "Files that were not taken", **kept)
        self.swaps = prometheus.Counter("regard_model_loads", "Versions that began to serve", **kept)

    def page(self) -> bytes:
        """In the text format."""
        if FOLDER not in os.environ:
            return prometheus.generate_latest(self.registry)
        whole = prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(whole)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(whole)


def forget(pid: int) -> None:
    """A worker is gone: its gauges no longer count."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
