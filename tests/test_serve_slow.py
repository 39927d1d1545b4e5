"""The service for long: many models, many requests, many deaths."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_models import chains, small

import regard
from service_process import ENVIRONMENT, Service, asking

pytestmark = pytest.mark.slow
HISTORY = [100, 101, 102]


@pytest.fixture(scope="module")
def models():
    return [small(epochs=2, random_state=seed).fit(chains()) for seed in (0, 1)]


def memory(pids):
    """Bytes that belong to these processes alone."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1]) * 1024
    return total


def test_a_thousand_models_take_turns_and_no_answer_fails_or_mixes_them(models, tmp_path, record_property):
    path, new = tmp_path / "m.safetensors", tmp_path / "new"
    files = []
    for number, model in enumerate(models):
        model.save(tmp_path / f"{number}")
        files.append(tmp_path / f"{number}")
    shutil.copy(files[0], path)
    with Service(path, tmp_path, "--watch-seconds", "0", "--workers", "2") as service:
        with asking(service, {"history": HISTORY, "k": 5}) as one, asking(service, {"user_id": "u", "k": 5}) as two:
            service.ask("/v1/events", user_id="u", items=HISTORY)
            for number in range(1, 1001):
                shutil.copy(files[number % 2], new)
                os.replace(new, path)
                service.process.send_signal(signal.SIGHUP)
                service.wait(
                    lambda number=number: service.log.read_bytes().count(b'"event": "model"') >= 2 + 2 * number
                )
        versions = {line["version"] for line in service.events("model")}
        assert len(versions) == 2
        said: dict[tuple, set] = {}
        for stream in (one, two):
            for status, answer, _ in stream:
                assert status == 200
                of = (stream is two, answer.get("user_version"), answer["model_version"])
                said.setdefault(of, set()).add((tuple(answer["items"]), tuple(answer["scores"])))
        assert all(len(answers) == 1 for answers in said.values()), said  # a version says one thing
        assert len({answers.copy().pop() for (user, *_), answers in said.items() if not user}) == 2
        assert not service.events("model not taken")
        record_property("requests", len(one) + len(two))


def test_a_million_requests_leave_the_memory_as_it_was(models, tmp_path, record_property):
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not on the path")
    models[0].save(tmp_path / "m.safetensors")
    script = tmp_path / "requests.lua"
    script.write_text(
        """
        local n = 0
        function request()
          n = n + 1
          local user = "user " .. n % 20000
          if n % 10 == 0 then
            return wrk.format("POST", "/v1/events", {}, '{"user_id":"' .. user .. '","items":[' .. 100 + n % 12 .. ']}')
          elseif n % 2 == 0 then
            return wrk.format("POST", "/v1/recommend", {}, '{"user_id":"' .. user .. '"}')
          end
          return wrk.format("POST", "/v1/recommend", {}, '{"history":[' .. 100 + n % 12 .. ',101,999]}')
        end
        function done(summary) io.write("RESULT ", summary.requests, " ", summary.errors.status, "\\n") end
        """
    )
    sizes, requests, refused = [], 0, 0
    flags = ["--sessions", "5000", "--keep-events", "8", "--max-wait-ms", "1000"]
    with Service(tmp_path / "m.safetensors", tmp_path, *flags) as service:
        while requests < 1_300_000:
            command = ["wrk", "-t1", "-c8", "-d20", "-s", script, f"http://127.0.0.1:{service.port}"]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
            line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
            requests += int(line.split()[1])
            refused += int(line.split()[2])
            sizes.append((requests, memory(service.workers())))
        assert service.metric("regard_requests_total") >= 1_300_000
        assert len(service.events("worker started")) == 1
    first = next(size for n, size in sizes if n >= 300_000)  # caches are full, users have as many events as are kept
    record_property("requests", requests)
    record_property("megabytes", [round(size / 1e6, 2) for _, size in sizes])
    assert refused == 0
    assert sizes[-1][1] <= 1.01 * first, sizes


def test_no_accepted_event_is_lost_when_workers_and_service_are_killed(models, tmp_path, record_property):
    models[0].save(tmp_path / "m.safetensors")
    accepted = {user: [] for user in range(4)}
    rng, kills = random.Random(0), 0
    for _ in range(10):
        service = Service(tmp_path / "m.safetensors", tmp_path, "--workers", "2")
        stop = threading.Event()

        def write(user, service=service, stop=stop):
            while not stop.is_set():
                item = 100_000 * user + len(accepted[user])
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if service.post("/v1/events", {"user_id": f"{user}", "items": [item]})[0] == 200:
                        accepted[user].append(item)

        threads = [threading.Thread(target=write, args=(user,)) for user in accepted]
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(rng.uniform(0.1, 0.5))
            if workers := service.workers():
                os.kill(rng.choice(workers), signal.SIGKILL)
                kills += 1
        time.sleep(0.2)
        children = service.workers()
        service.process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        kills += 1
        stop.set()
        for thread in threads:
            thread.join()
        service.process.wait()
    with Service(tmp_path / "m.safetensors", tmp_path) as service:
        for user, items in accepted.items():
            kept = service.get(f"/v1/users/{user}")[1]["items"]
            assert set(items[-900:]) <= set(kept)
            assert sorted(kept) == kept
    record_property("accepted", sum(map(len, accepted.values())))
    record_property("kills", kills)


def test_ten_thousand_forks_from_threads_do_not_hang():
    """What a prefork server does: a process whose threads compute forks, and the child computes."""
    program = """
import os, sys, threading
import numpy as np
import regard
from regard import _core, ops

_core.set_num_threads(2)
rng = np.random.default_rng(0)
x, w = rng.standard_normal((300, 32), np.float32), rng.standard_normal((3000, 32), np.float32)
expected = ops.linear_forward(x, w)[0]
going = True

def compute():
    while going:
        assert np.array_equal(ops.linear_forward(x, w)[0], expected)

threads = [threading.Thread(target=compute) for _ in range(2)]
for thread in threads:
    thread.start()
for number in range(10_000):
    pid = os.fork()
    if pid == 0:
        small = ops.linear_forward(x[:20], w[:500])[0]
        os._exit(0 if np.array_equal(small, expected[:20, :500]) else 1)
    assert os.waitpid(pid, 0)[1] == 0
going = False
for thread in threads:
    thread.join()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=ENVIRONMENT, timeout=1200, check=False)
    assert done.returncode == 0


def test_requests_made_from_the_document_never_cause_a_fault(models, tmp_path, record_property):
    command = Path(sys.executable).with_name("schemathesis")
    if not command.exists():
        pytest.skip("schemathesis is not installed")
    data = chains()
    kinds = [["even", "low"] if i % 2 == 0 else ["odd"] for i in range(12)]
    features = regard.ItemFeatures(np.arange(100, 112), categories={"kind": kinds})
    small(epochs=1).fit(data.with_features(features)).save(tmp_path / "m.safetensors")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    with Service(tmp_path / "m.safetensors", tmp_path) as service:
        address = f"http://127.0.0.1:{service.port}/openapi.json"
        how = ["--max-examples", "500", "--seed", "1", "--checks", checks]
        done = subprocess.run(
            [command, "run", address, *how], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:]
        assert not service.events("fault")
        record_property("requests", int(service.metric("regard_requests_total")))


def test_bad_requests_side_by_side_do_not_harm_the_others(models, tmp_path, record_property):
    models[0].save(tmp_path / "m.safetensors")
    bad = [
        b"{",
        b"[" * 100_000,
        b'{"history":[1.5]}',
        b'{"history":["a"]}',
        b"\xff" * 100,
        b'{"k":0}',
        b"{}" + b" " * 900_000,
    ]
    with Service(tmp_path / "m.safetensors", tmp_path) as service:
        expected = service.ask(history=HISTORY)
        statuses, going = [], True

        def harm(start):
            number = start
            while going:
                number += 1
                statuses.append(service.post("/v1/recommend", bad[number % len(bad)])[0])

        threads = [threading.Thread(target=harm, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        with asking(service, {"history": HISTORY}) as answers:
            time.sleep(20)
        going = False
        for thread in threads:
            thread.join()
        assert set(statuses) <= {400, 503}
        good = [answer for status, answer, _ in answers if status == 200]
        assert len(good) > 0.5 * len(answers)
        assert all(answer == expected for answer in good)
        assert json.loads(service.log.read_text().splitlines()[-1])["event"] == "worker started"
        record_property("bad requests", len(statuses))
