"""The service beside the model that it serves: what it answers, what it refuses, and what it survives."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import quote

import numpy as np
import pytest
from small_models import chains, small

import regard
from service_process import ENVIRONMENT, asking
from service_process import Service as ServiceProcess

HISTORY = [100, 101, 102]


class Service(ServiceProcess):
    """One that waits as long as this machine needs, however busy: refusing in time is the matter of other tests."""

    def __init__(self, model, folder, *flags):
        super().__init__(model, folder, "--max-wait-ms", 60_000, "--deadline-ms", 60_000, *flags)


def trained(seed=0):
    data = chains()
    kinds = [["even", "low"] if i % 2 == 0 else ["odd"] for i in range(12)]
    features = regard.ItemFeatures(np.arange(100, 112), categories={"kind": kinds})
    return small(epochs=3, random_state=seed).fit(data.with_features(features))


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def service(path, tmp_path_factory):
    with Service(path, tmp_path_factory.mktemp("service")) as running:
        yield running


def assert_equal(answer, expected, row=0):
    there = expected.scores[row] > -np.inf
    assert answer["items"] == expected.items[row][there].tolist()
    scores = expected.scores[row][there]
    rounding = 4 * np.spacing(np.abs(scores).max(initial=0))  # a session adds in another order; a score may be near 0
    np.testing.assert_allclose(answer["scores"], scores, rtol=1e-6, atol=rounding)
    assert answer["n_unknown"] == expected.n_unknown[row]


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"k": 3},
        {"k": 20},
        {"deny": [103, 104, 999]},
        {"allow": [100, 105, 106, 999]},
        {"allow": []},
        {"exclude_seen": False},
        {"allow": [105, 106, 107], "deny": [106], "k": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("history", [HISTORY, [], [999, 105], list(range(100, 112)) * 3], ids=str)
def test_an_answer_is_that_of_the_model(service, model, history, limits):
    names = {"allow": "allow_items", "deny": "deny_items"}
    expected = model.recommend(history, **{"k": 10} | {names.get(name, name): value for name, value in limits.items()})
    answer = service.ask(history=history, **limits)
    assert_equal(answer, expected)
    flags = expected.flags[0]
    assert answer["flags"] == [
        name
        for name, flag in (("popular", regard.recommender.POPULAR), ("short", regard.recommender.SHORT))
        if flags & flag
    ]
    assert answer["model_version"] == service.get("/v1/model")[1]["version"]


def test_many_histories_are_answered_each_as_one(service, model):
    histories = [[100], [], [999], HISTORY, [105, 106]]
    answers = service.ask("/v1/recommend/batch", histories=histories, k=4)["results"]
    expected = model.recommend(histories, 4)
    for row, answer in enumerate(answers):
        assert_equal(answer, expected, row)
    assert service.ask("/v1/recommend/batch", histories=[])["results"] == []


def test_similar_items_are_those_of_the_model(service, model):
    assert_equal(service.ask("/v1/similar", item=105, k=3), model.similar_items(105, 3))


def test_candidates_come_in_the_order_of_their_scores(service, model):
    candidates = [111, 103, 100, 999, 103]
    answer = service.ask("/v1/rank", history=HISTORY, candidates=candidates)
    scores = dict(zip(model.item_ids_.tolist(), model.scores(HISTORY)[0].tolist(), strict=True))
    assert answer["items"] == sorted([111, 103, 100], key=lambda item: -scores[item])
    np.testing.assert_allclose(answer["scores"], [scores[item] for item in answer["items"]], rtol=1e-5)
    assert answer["flags"] == ["unknown"]


@pytest.mark.parametrize("caps", [{}, {"kind": 0}, {"kind": 1}, {"kind": 2}, {"kind": 6}], ids=str)
@pytest.mark.parametrize("boosts", [{}, {"110": 100.0, "104": -50.0, "999": 3.0}, {"100": 40.0}], ids=str)
@pytest.mark.parametrize("k", [1, 3, 12])
def test_caps_and_boosts_are_those_of_ranking_everything(service, model, caps, boosts, k):
    scores = dict(zip(model.item_ids_.tolist(), model.scores(HISTORY)[0].tolist(), strict=True))
    for item, add in boosts.items():
        if int(item) in scores:
            scores[int(item)] += add
    expected, counts = [], {"even": 0, "odd": 0, "low": 0}
    for item in sorted(set(scores) - set(HISTORY), key=lambda item: -scores[item]):
        values = ["even", "low"] if item % 2 == 0 else ["odd"]
        if len(expected) < k and all(counts[value] < caps.get("kind", 99) for value in values):
            expected.append(item)
            for value in values:
                counts[value] += 1
    answer = service.ask(history=HISTORY, k=k, caps=caps, boosts=boosts)
    assert answer["items"] == expected
    np.testing.assert_allclose(answer["scores"], [scores[item] for item in expected], rtol=1e-4, atol=1e-5)
    assert answer["flags"] == (["short"] if len(expected) < k else [])


def test_an_explanation_names_the_events_that_change_the_score_most(service, model):
    answer = service.ask(history=HISTORY, k=2, explain=True)
    for item, causes in zip(answer["items"], answer["causes"], strict=True):
        reasons = model.explain(HISTORY, item)
        largest = np.argsort(-np.abs(reasons.effect), kind="stable")[:3]
        assert [cause["item"] for cause in causes] == reasons.item_ids[largest].tolist()
        np.testing.assert_allclose([cause["effect"] for cause in causes], reasons.effect[largest], rtol=1e-4, atol=1e-6)


# ---- users -----------------------------------------------------------------------------------------------------------


def test_a_user_is_answered_for_all_events_that_came(service, model):
    """One by one and several at once, over a slide of the window, with unknown items between."""
    events, rng, version = [], np.random.default_rng(3), 0
    for _ in range(12):
        new = rng.integers(99, 113, rng.integers(1, 4)).tolist()
        state = service.ask("/v1/events", user_id="walker", items=new)
        events += new
        assert int(state["version"]) > version
        version = int(state["version"])
        assert state["n_unknown"] == sum(not 100 <= item < 112 for item in new)
        answer = service.ask(user_id="walker", k=4, exclude_seen=False)
        known = [item for item in events if 100 <= item < 112]
        if len(known) <= model.max_len:
            assert_equal({**answer, "n_unknown": 0}, model.recommend(known, 4, exclude_seen=False))
        assert answer["user_version"] == state["version"]
        assert not set(service.ask(user_id="walker", k=12)["items"]) & set(events)  # older ones than the window too
    assert service.get("/v1/users/walker")[1]["items"] == events


def test_a_user_who_is_forgotten_begins_anew(service, model):
    service.ask("/v1/events", user_id="leaver", items=HISTORY, idempotency_key="a")
    service.ask(user_id="leaver")
    assert service.request("DELETE", "/v1/users/leaver")[0] == 200
    assert service.get("/v1/users/leaver")[1] == {"user_id": "leaver", "version": None, "items": [], "times": []}
    assert service.ask(user_id="leaver")["flags"] == ["popular"]
    service.ask("/v1/events", user_id="leaver", items=[105], idempotency_key="a")
    assert_equal(service.ask(user_id="leaver", k=3), model.recommend([105], 3))


@pytest.mark.parametrize("user", ["a/b", "/", "ü 50% + ?#"])
def test_any_user_id_can_be_looked_at_and_forgotten(service, user):
    service.ask("/v1/events", user_id=user, items=HISTORY)
    address = f"/v1/users/{quote(user, safe='')}"
    assert service.get(address)[1]["items"] == HISTORY
    assert service.request("DELETE", address)[0] == 200
    assert service.ask(user_id=user)["flags"] == ["popular"]


def test_an_idempotency_key_counts_once(service):
    request = {"user_id": "twice", "items": [100], "idempotency_key": "k"}
    first, again = service.ask("/v1/events", **request), service.ask("/v1/events", **request)
    assert (first["repeated"], again["repeated"]) == (False, True)
    assert first["version"] == again["version"]
    assert service.get("/v1/users/twice")[1]["items"] == [100]
    status, answer = service.post("/v1/events", {**request, "items": [101]})
    assert (status, answer["error"]) == (409, "key_reused")


def test_times_of_events_are_kept(service):
    service.ask("/v1/events", user_id="timed", items=[100, 101], times=[10.5, 20])
    assert service.get("/v1/users/timed")[1]["times"] == [10.5, 20]


# ---- refusals --------------------------------------------------------------------------------------------------------

BAD = {
    "not JSON": ("/v1/recommend", b"{nope", "malformed"),
    "nothing": ("/v1/recommend", b"", "truncated"),
    "an array": ("/v1/recommend", b"[]", "object"),
    "neither": ("/v1/recommend", {}, "exactly one"),
    "both": ("/v1/recommend", {"history": [100], "user_id": "u"}, "exactly one"),
    "unknown field": ("/v1/recommend", {"history": [100], "n": 3}, "`n`"),
    "k 0": ("/v1/recommend", {"history": [100], "k": 0}, "$.k"),
    "k too large": ("/v1/recommend", {"history": [100], "k": 1001}, "at most 1000"),
    "k a float": ("/v1/recommend", {"history": [100], "k": 1.5}, "$.k"),
    "ids of text": ("/v1/recommend", {"history": ["100"]}, "whole numbers"),
    "mixed ids": ("/v1/recommend", {"history": [100, "a"]}, "whole numbers"),
    "a fraction": ("/v1/recommend", {"history": [1.5]}, "$.history"),
    "null": ("/v1/recommend", {"history": [None]}, "$.history"),
    "NaN": ("/v1/recommend", b'{"history":[NaN]}', "invalid"),
    "beyond int64": ("/v1/recommend", {"history": [2**63]}, "int64"),
    "huge number": ("/v1/recommend", b'{"history":[1' + b"0" * 5000 + b"]}", ""),
    "deny of text": ("/v1/recommend", {"history": [100], "deny": ["a"]}, "deny"),
    "unknown category": ("/v1/recommend", {"history": [100], "caps": {"brand": 1}}, "kind"),
    "negative cap": ("/v1/recommend", {"history": [100], "caps": {"kind": -1}}, "caps"),
    "boost of text": ("/v1/recommend", {"history": [100], "boosts": {"a": 1}}, "boosts"),
    "infinite boost": ("/v1/recommend", b'{"history":[100],"boosts":{"100":1e999}}', ""),
    "deep": ("/v1/recommend", b'{"history":' + b"[" * 100_000, "$.history"),
    "deep in an unknown field": ("/v1/recommend", b'{"x":' + b"[" * 100_000, ""),
    "not UTF-8": ("/v1/recommend", b'{"user_id":"\xff"}', ""),
    "half a surrogate": ("/v1/recommend", b'{"user_id":"\\ud800"}', ""),
    "an endless user": ("/v1/recommend", {"user_id": "u" * 257}, "user_id"),
    "times of a user": ("/v1/recommend", {"user_id": "u", "times": [1]}, "times"),
    "too few times": ("/v1/recommend", {"history": [100, 101], "times": [1]}, "times"),
    "asked in another age": ("/v1/recommend", {"history": [100], "asked_at": 1e300}, "asked_at"),
    "no events": ("/v1/events", {"user_id": "u", "items": []}, "items"),
    "too many events": ("/v1/events", {"user_id": "u", "items": [100] * 1001}, "items"),
    "events of text": ("/v1/events", {"user_id": "u", "items": ["a"]}, "items"),
    "times in another age": ("/v1/events", {"user_id": "u", "items": [100], "times": [1e300]}, "times"),
    "no user": ("/v1/events", {"user_id": "", "items": [100]}, "user_id"),
    "unknown item": ("/v1/similar", {"item": 999}, "999"),
    "item of text": ("/v1/similar", {"item": "a"}, "item"),
    "no candidates": ("/v1/rank", {"history": [100], "candidates": []}, "candidates"),
    "too many histories": ("/v1/recommend/batch", {"histories": [[]] * 1025}, "1024"),
    "history of text": ("/v1/recommend/batch", {"histories": [[100], ["a"]]}, "histories[1]"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_is_wrong(service, case):
    path, request, part = BAD[case]
    status, answer = service.post(path, request)
    assert status == 400, answer
    assert answer["error"] == "bad_request"
    assert part in answer["message"]
    assert "/" not in answer["message"].replace("https://", "")


def test_addresses_methods_and_deadlines_that_are_wrong_get_their_status(service):
    assert service.post("/v1/nothing", {})[0] == 404
    assert service.request("PUT", "/v1/recommend")[0] == 405
    status, answer, _ = service.request("POST", "/v1/recommend", '{"history":[]}', {"X-Deadline-Ms": "soon"})
    assert (status, answer["error"]) == (400, "bad_request")


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(service):
    whole = b'{"history":[' + b"100," * 300_000 + b"100]}"
    parts = [whole[i : i + 65_536] for i in range(0, len(whole), 65_536)]  # sent without its length
    for body in (whole, parts):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            status, answer, _ = service.request("POST", "/v1/recommend", body)
            assert (status, answer["error"]) == (413, "too_large")
    assert service.ask(history=HISTORY)["items"]


def test_the_newest_part_of_a_long_history_counts(service, model):
    history = [100] * 9_990 + list(range(100, 110)) * 20
    assert_equal(service.ask(history=history, exclude_seen=False), model.recommend(history, exclude_seen=False))


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nX: " + b"a" * 70_000]
)
def test_noise_is_refused_and_the_connection_closed(service, noise):
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(noise)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100).split()[1] in (b"400", b"431")
            while connection.recv(4096):
                pass
    assert service.ask(history=HISTORY)["items"]


def test_a_slow_request_is_given_up(path, tmp_path):
    with Service(path, tmp_path, "--request-seconds", "0.3") as service:
        head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n"
        for slow in (b"", b"POST /v1/reco", head, head + b'{"history"'):
            with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
                connection.sendall(slow)
                assert connection.recv(100).split()[1] == b"408"
        assert service.ask(history=HISTORY)["items"]


def test_requests_that_come_in_time_one_into_the_other_are_all_answered(path, tmp_path):
    body = json.dumps({"history": HISTORY}).encode()
    request = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    with (
        Service(path, tmp_path, "--request-seconds", "0.6") as service,
        socket.create_connection(("127.0.0.1", service.port), 10) as connection,
    ):
        connection.sendall(request[:30])
        for _ in range(16):  # 0.8 seconds, none of which ends between two requests
            time.sleep(0.05)
            connection.sendall(request[30:] + request[:30])
        connection.sendall(request[30:])
        found = b""
        while found.count(b"HTTP/1.1 200") < 17:
            part = connection.recv(65_536)
            assert part and b" 408 " not in part
            found += part


@pytest.mark.parametrize("pause", [0, 0.1])
def test_an_offer_to_speak_another_protocol_is_no_offer(service, pause):
    """As Java's HTTP client makes it with the first request of a connection."""
    body = json.dumps({"history": HISTORY}).encode()
    head = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\n"
    head = head % len(body) + b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        for _ in range(2):
            connection.sendall(head)
            time.sleep(pause)
            connection.sendall(body)
            found = b""
            while b"model_version" not in found:
                part = connection.recv(65_536)
                assert part, found
                found += part
            assert found.startswith(b"HTTP/1.1 200")


def test_a_key_is_asked_for_where_one_is_set(path, tmp_path):
    (tmp_path / "key").write_text("secret\n")
    with Service(path, tmp_path, "--api-key-file", tmp_path / "key") as service:
        request = {"history": HISTORY}
        for wrong in ({}, {"Authorization": "secret"}, {"Authorization": "Bearer secre"}):
            assert service.post("/v1/recommend", request, **wrong)[0] == 401
        assert service.get("/v1/model")[0] == 401
        for right in ("Bearer secret", "bearer secret"):
            assert service.post("/v1/recommend", request, Authorization=right)[0] == 200
        assert service.get("/healthz")[0] == 200


# ---- looking in ------------------------------------------------------------------------------------------------------


def test_metrics_count_what_happened(service):
    before = {name: service.metric(name) for name in ("regard_requests_total", "regard_unknown_items_total")}
    service.ask(history=[999, 998, 100])
    service.post("/v1/recommend", {"k": 1})
    assert service.metric("regard_requests_total") - before["regard_requests_total"] >= 2
    assert service.metric("regard_unknown_items_total") - before["regard_unknown_items_total"] == 2
    version = service.get("/v1/model")[1]["version"]
    page = service.get("/metrics")[1]
    assert f'regard_model_info{{version="{version}"}} 1.0' in page
    assert 'regard_request_seconds_bucket{endpoint="/v1/recommend",le="0.0001"}' in page


def test_the_document_describes_every_address(service):
    document = service.get("/openapi.json")[1]
    assert document["openapi"].startswith("3.1")
    for path in ("/v1/recommend", "/v1/events", "/v1/similar", "/v1/rank"):
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert schema.rsplit("/", 1)[1] in document["components"]["schemas"]
        assert {"200", "400", "503"} <= set(operation["responses"])


def test_the_log_is_json_and_says_what_serves(service):
    assert service.events("model")[0]["n_items"] == 12
    for line in service.log.read_text().splitlines():
        assert {"time", "level", "event"} <= set(json.loads(line))


# ---- other models, other processes -----------------------------------------------------------------------------------


def replaced(path, model):
    """As `save` does: another file of the same name."""
    model.save(path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def test_another_model_takes_over_and_a_bad_file_does_not(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    with Service(path, tmp_path, "--watch-seconds", "0.05", "--workers", "2") as service:
        first = service.get("/v1/model")[1]["version"]
        other = trained(seed=5)
        with asking(service, {"history": HISTORY, "k": 3}) as answers:
            replaced(path, other)
            service.wait(lambda: answers and answers[-1][1]["model_version"] != first)
        second = answers[-1][1]["model_version"]
        expected = {
            first: model.recommend(HISTORY, 3).items[0].tolist(),
            second: other.recommend(HISTORY, 3).items[0].tolist(),
        }
        for status, answer, _ in answers:
            assert status == 200
            assert answer["items"] == expected[answer["model_version"]]
        service.wait(lambda: len(service.events("model")) == 4)

        bad = tmp_path / "bad"
        bad.write_bytes(path.read_bytes()[:-100])
        os.replace(bad, path)
        service.wait(lambda: service.metric("regard_model_load_failures_total") >= 2)
        assert service.ask(history=HISTORY, k=3)["model_version"] == second

        os.kill(service.workers()[0], signal.SIGKILL)  # a worker that is born now serves what was there at the start
        service.wait(lambda: len(service.events("worker started")) == 3)
        assert {service.ask(history=HISTORY)["model_version"] for _ in range(20)} <= {first, second}
        replaced(path, model)
        service.process.send_signal(signal.SIGHUP)
        service.wait(lambda: {service.get("/v1/model")[1]["version"] for _ in range(20)} == {first})


def test_no_accepted_event_is_lost_when_a_worker_is_killed(path, tmp_path):
    with Service(path, tmp_path, "--workers", "2") as service:
        accepted = []
        for number in range(60):
            if number in (20, 40):
                for pid in service.workers():
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                status, _ = service.post("/v1/events", {"user_id": "u", "items": [number]})
                if status == 200:
                    accepted.append(number)
        service.wait(lambda: len(service.workers()) == 2)
        kept = service.get("/v1/users/u")[1]["items"]
        assert len(accepted) >= 50
        assert [item for item in kept if item in set(accepted)] == accepted


def test_workers_end_when_their_parent_is_killed(path, tmp_path):
    service = Service(path, tmp_path, "--workers", "2")
    workers = service.workers()
    service.process.kill()
    service.process.wait()
    service.wait(lambda: not any(os.path.exists(f"/proc/{pid}") and _lives(pid) for pid in workers))


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_was_accepted_is_answered_before_the_end(path, tmp_path):
    with Service(path, tmp_path) as service:
        body = json.dumps({"histories": [HISTORY * 30] * 1000}).encode()
        with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
            head = b"POST /v1/recommend/batch HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
            time.sleep(0.1)
            service.process.send_signal(signal.SIGTERM)
            answer = b""
            while part := connection.recv(1 << 20):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert len(json.loads(answer.split(b"\r\n\r\n", 1)[1])["results"]) == 1000
        assert service.process.wait(20) == 0


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_several_workers_answer_alike(path, tmp_path, store, request):
    """Whoever takes the events, whoever is asked: the next answer knows them."""
    where = tmp_path / "events" if store == "sqlite" else request.getfixturevalue("redis_url")
    with Service(path, tmp_path, "--workers", "3", "--store", where) as service:
        failures = []

        def walk(user):
            events = []
            for item in (100, 101, 102, 103, 104):
                events.append(item)
                version = service.ask("/v1/events", user_id=user, items=[item])["version"]
                for _ in range(4):
                    answer = service.ask(user_id=user, k=12)
                    if set(answer["items"]) != set(range(100, 112)) - set(events) or answer["user_version"] != version:
                        failures.append((user, events, answer))

        threads = [threading.Thread(target=walk, args=(f"user {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--max-k", "0"], "max_k"),
        (["--workers", "0"], "workers"),
        (["--stop-seconds", "inf"], "stop_seconds"),
        (["--keep-events", str(2**63 - 1)], "keep_events"),
        (["--port", "70000"], "port"),
        (["--store", "/nowhere/at/all/events.sqlite"], "store"),
        (["--host", "203.0.113.7"], "cannot listen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_service_that_cannot_run_says_why(path, tmp_path, flags, part):
    assert part in refusal(tmp_path, path, *flags)


def test_a_file_that_is_no_model_is_told_of(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nothing")
    assert "m.safetensors" in refusal(tmp_path, "m.safetensors")


def refusal(folder, *arguments):
    """What the command says before it ends, in one line."""
    command = [sys.executable, "-m", "regard", "serve", *map(str, arguments)]
    if "--port" not in arguments:
        command += ["--port", "0"]
    ended = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr
