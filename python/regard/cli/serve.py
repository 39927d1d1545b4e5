"""``regard serve``: a saved model as an HTTP service."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from regard.serve import Process, Settings
from regard.serve.workers import run

_HELP = {
    "host": "address to listen on",
    "port": "0: any that is free, which is logged",
    "workers": "processes that answer",
    "threads": "of each worker, for batches",
    "request_seconds": "in which a request must have come whole",
    "stop_seconds": "for accepted requests when the service stops",
    "store": "where users' events are kept: an SQLite file or redis://…",
    "max_body": "bytes of a request",
    "max_history": "events of a history that are looked at, the newest",
    "max_k": "items of an answer",
    "max_batch": "histories of a request",
    "max_wait_ms": "expected waiting time from which a request is refused",
    "deadline_ms": "after which an answer is no longer wanted",
    "max_slow": "batches, similar items and explanations that may wait",
    "sessions": "users whose computed state each worker keeps in memory",
    "keep_events": "of a user, the newest",
    "watch_seconds": "between two looks at the model file; 0: on SIGHUP only",
}


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, address, processes, limits."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model; SIGHUP, or another file, loads it anew")
    for field in (*fields(Process), *fields(Settings)):
        if field.name not in _HELP:
            continue
        kind = type(field.default)
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            flag,
            type=kind,
            default=field.default,
            metavar=kind.__name__.upper(),
            help=f"{_HELP[field.name]} (default: {field.default})",
        )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="the key that requests must bring; default: REGARD_API_KEY, else anybody may ask",
    )


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    _log_json()
    key = os.environ.get("REGARD_API_KEY")
    if arguments.api_key_file is not None:
        key = arguments.api_key_file.read_text(encoding="utf-8").strip()
    given = vars(arguments)
    settings = Settings(api_key=key, **{f.name: given[f.name] for f in fields(Settings) if f.name in _HELP})
    process = Process(**{f.name: given[f.name] for f in fields(Process)})
    return run(arguments.model, settings, process)


class _Lines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_json() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("regard.serve").setLevel(logging.INFO)
