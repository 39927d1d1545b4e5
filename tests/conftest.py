"""Fixtures for all tests: instruction sets, threads, the folder of data sets. Slow tests leave their results behind."""

import datetime
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import on_device
import pytest

from regard import _core, whole_file
from regard.doctor import machine


@pytest.fixture(params=_core.isa_available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set that this machine has; gives its name."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture(params=[1, 2, 3, 8])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test once with each number of threads."""
    before = _core.num_threads()
    _core.set_num_threads(request.param)
    yield request.param
    _core.set_num_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240611)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """REGARD_DATA, or ``shared/data`` beside the repository; the test is skipped where neither exists."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("REGARD_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no data sets: {folder} is not a folder (set REGARD_DATA)")
    return folder


@pytest.fixture(scope="session")
def cuda_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA kernels compiled for the CPU: the path of their library."""
    if on_device.CPP is None or not on_device.SOURCES.exists():
        pytest.skip("no g++, or no sources beside the tests")
    return on_device.compile_shim(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def in_shim(cuda_shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA device is the shim."""
    monkeypatch.setenv("REGARD_CUDA_LIBRARY", str(cuda_shim))
    on_device.set_order("forward")
    on_device.leave_out("")


@pytest.fixture(params=[*on_device.ORDERS, *on_device.devices()])
def place(request: pytest.FixtureRequest) -> None:
    """Where CUDA kernels run: in the shim with its threads in one of three orders, and on a device if there is one."""
    if request.param in on_device.ORDERS:
        request.getfixturevalue("in_shim")
        on_device.set_order(request.param)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of the tests' own."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the path")
    pytest.importorskip("redis")
    socket = tmp_path_factory.mktemp("redis") / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", socket.parent]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL) as server:
        while not socket.exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield f"unix://{socket}"
        server.terminate()


SLOW_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "slow.json"
_slow: dict[str, dict[str, object]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a slow test gives to `record_property` is kept, with how it ended."""
    if "slow" in report.keywords and report.when == "call":
        _slow[report.nodeid] = {
            "outcome": report.outcome,
            "seconds": round(report.duration, 1),
            **dict(report.user_properties),
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
        }


def pytest_sessionfinish() -> None:
    if _slow:
        known = json.loads(SLOW_RESULTS.read_text()) if SLOW_RESULTS.exists() else {}
        text = json.dumps(dict(sorted((known | _slow).items())), indent=1) + "\n"
        whole_file.write(SLOW_RESULTS, [text.encode()])
