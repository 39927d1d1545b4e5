"""What was built, what this machine has, and what is in use: the first thing to read when something is odd."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from regard import _core, datasets

# package: the extra of regard that brings it, or None for one that is used if it is there
OPTIONAL = {
    "polars": "files",
    "narwhals": "frames",
    "pooch": "download",
    "matplotlib": "plots",
    "implicit": "compare",
    "optuna": "tune",
    "starlette": "serve",
    "msgspec": "serve",
    "uvicorn": "serve",
    "uvloop": "serve",
    "httptools": "serve",
    "prometheus-client": "serve",
    "redis": "redis",
    "pandas": None,
    "pyarrow": None,
}


def processor() -> str:
    """The name of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def machine() -> str:
    """Processor, threads and instruction set in one line, for results that are kept."""
    return f"{processor()}, {_core.num_threads()} threads, {_core.isa()}"


def report() -> dict[str, Any]:
    """Facts about this installation, ready for JSON.

    Returns
    -------
    dict
        ``regard``, ``compiler``, ``python``, ``numpy``, ``safetensors`` (versions), ``machine``, ``location``;
        ``instruction_sets``: ``built``, ``available`` (lists, worst first), ``in_use``, ``why``;
        ``threads``: ``count``, ``why``; ``extras``: package → version or None; ``environment``: the REGARD_*
        variables that are set; ``data``: ``folder``, ``found`` and ``missing`` data sets; ``problems``: list of str,
        empty if all is well.
    """
    problems: list[str] = []
    environment = {name: value for name, value in sorted(os.environ.items()) if name.startswith("REGARD_")}
    folder = environment.get("REGARD_DATA") or None
    if folder is not None and not Path(folder).is_dir():
        problems.append(f"REGARD_DATA: no folder {folder}")
    found = [name for name in datasets.names() if is_here(name)]
    return {
        "regard": _core.version(),
        "compiler": _core.compiler(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "safetensors": _installed("safetensors"),
        "machine": f"{platform.system()} {platform.machine()}",
        "location": str(Path(__file__).parent),
        "instruction_sets": {
            "built": _core.isa_built(),
            "available": _core.isa_available(),
            "in_use": _core.isa(),
            "why": "REGARD_ISA" if environment.get("REGARD_ISA") else "the best that this machine has",
        },
        "threads": {"count": _core.num_threads(), "why": _core.num_threads_reason()},
        "extras": {package: _installed(package) for package in OPTIONAL},
        "environment": environment,
        "data": {
            "folder": folder,
            "found": found,
            "missing": [name for name in datasets.names() if name not in found],
        },
        "problems": problems,
    }


def is_here(name: str) -> bool:
    """Whether a data set can be loaded: it is drawn, or its files are in the folder of REGARD_DATA."""
    folder = os.environ.get("REGARD_DATA") or None
    return all(folder is not None and (Path(folder) / file).is_file() for file in datasets.card(name).files)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
