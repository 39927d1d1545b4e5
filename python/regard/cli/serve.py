"""``regard serve``: a saved model as an HTTP service."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from regard.cli.settings import descriptions
from regard.serve import Process, Settings
from regard.serve.workers import run


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, address, processes, limits."""
    parser.add_argument("model", metavar="MODEL", help="file of a saved model; SIGHUP, or another file, loads it anew")
    for of in (Process, Settings):
        texts = descriptions(inspect.getdoc(of) or "")
        for field in fields(of):
            if field.name == "api_key":  # not for the list of processes
                continue
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=type(field.default),
                default=field.default,
                metavar=type(field.default).__name__.upper(),
                help=f"{texts[field.name]} Default: {field.default}",
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
    given = vars(arguments) | {"api_key": key}
    settings = Settings(**{field.name: given[field.name] for field in fields(Settings)})
    process = Process(**{field.name: given[field.name] for field in fields(Process)})
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
