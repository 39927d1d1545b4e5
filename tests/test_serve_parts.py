"""Parts of the service by themselves: the queue, its bound, the stores, mounting."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import time
import tracemalloc

import numpy as np
import pytest
from small_models import chains, small
from starlette.applications import Starlette
from starlette.routing import Mount

import regard
from regard.serve import Service, Settings, load, queue, stores
from regard.serve.problems import RequestError

# ---- queue -----------------------------------------------------------------------------------------------------------


def jobs(n, alike="a", together=lambda jobs: [f"together {job.past}" for job in jobs], deadline=None):
    def alone(i):
        if i == 3:
            raise ValueError("three")
        return f"alone {i}"

    end = time.monotonic() + 60 if deadline is None else deadline
    return [queue.Job(lambda i=i: alone(i), together, alike, i, end) for i in range(n)]


def answered(make):
    """Answers, or the errors, of jobs that come at once; and the sizes of the pieces."""

    async def run():
        sizes = []
        line = queue.Queue(batched=sizes.append)
        return await asyncio.gather(*map(line.answer, make()), return_exceptions=True), sizes

    answers, sizes = asyncio.run(run())
    return [repr(answer) if isinstance(answer, Exception) else answer for answer in answers], sizes


def test_jobs_that_are_alike_and_enough_are_answered_together():
    assert answered(lambda: jobs(10)) == ([f"together {i}" for i in range(10)], [10])
    answers, sizes = answered(lambda: jobs(3))
    assert (answers, sizes) == ([f"alone {i}" for i in range(3)], [1, 1, 1])
    assert answered(lambda: jobs(70))[1] == [32, 32, 1, 1, 1, 1, 1, 1]


def test_jobs_that_differ_are_answered_in_their_order():
    assert answered(lambda: jobs(8, "a") + jobs(2, None) + jobs(9, "b"))[1] == [8, 1, 1, 9]


def test_a_batch_that_fails_hurts_only_the_job_that_is_wrong():
    def fails(_):
        raise RuntimeError("all")

    answers, _ = answered(lambda: jobs(9, together=fails))
    assert answers == [f"alone {i}" if i != 3 else "ValueError('three')" for i in range(9)]


def test_a_job_beyond_its_deadline_is_refused_and_not_computed():
    answers, sizes = answered(lambda: jobs(2, deadline=time.monotonic() - 1) + jobs(1))
    assert "deadline" in answers[0] and "deadline" in answers[1]
    assert (answers[2], sizes) == ("alone 0", [1])


# ---- its bound -------------------------------------------------------------------------------------------------------


class Clock:
    """Time as a test tells it; a request takes a millisecond of the processor."""

    def __init__(self, monkeypatch):
        self.now = self.used = 100.0
        monkeypatch.setattr(load.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(load.time, "process_time", lambda: self.used)


def offer(bound, clock, per_second, seconds):
    """A service that takes 1 ms for each: how many were in flight at most, how many were answered and refused."""
    most = answered = refused = 0
    busy_until = clock.now
    for at in clock.now + np.arange(int(per_second * seconds)) / per_second:
        while bound.in_flight and busy_until <= at:
            bound.done()
            clock.used += 0.001
            answered += 1
            busy_until += 0.001
        clock.now = at
        if not bound.in_flight:
            busy_until = at + 0.001
        if not bound.admit():
            refused += 1
            clock.used += 0.0001
        most = max(most, bound.in_flight)
    return most, answered, refused


def test_nothing_is_refused_below_the_capacity(monkeypatch):
    clock = Clock(monkeypatch)
    assert offer(load.Load(0.005), clock, 900, 3)[2] == 0


def test_a_burst_may_wait_as_long_as_was_said(monkeypatch):
    clock = Clock(monkeypatch)
    bound = load.Load(0.005)
    offer(bound, clock, 500, 1)
    while bound.in_flight:
        bound.done()
    admitted = sum(bound.admit() for _ in range(100))
    assert 5 <= admitted <= 7


def test_under_too_much_load_little_waits_and_the_processor_is_busy(monkeypatch):
    clock = Clock(monkeypatch)
    bound = load.Load(0.02)
    offer(bound, clock, 500, 1)
    offer(bound, clock, 3_000, 0.1)  # is noticed
    most, answered, refused = offer(bound, clock, 3_000, 2)
    assert bound.tight
    assert most <= 6
    assert answered == pytest.approx(2_000, rel=0.02)
    assert refused == pytest.approx(4_000, rel=0.02)
    offer(bound, clock, 500, 0.1)
    assert not bound.tight
    assert offer(bound, clock, 500, 2)[2] == 0


def test_a_single_request_is_never_refused(monkeypatch):
    clock = Clock(monkeypatch)
    bound = load.Load(1e-9)
    for _ in range(50):
        clock.now, clock.used = clock.now + 0.1, clock.used + 0.1
        assert bound.admit()
        bound.done()


# ---- stores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis"])
def where(request, tmp_path):
    """The address of an empty store."""
    if request.param == "sqlite":
        return str(tmp_path / "events.sqlite")
    url = request.getfixturevalue("redis_url")
    subprocess.run(["redis-cli", "-s", url.removeprefix("unix://"), "flushall"], check=True, capture_output=True)
    return url


def with_store(where, work, keep=1000):
    async def run():
        store = stores.open_store(where, keep)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def test_a_store_gives_back_what_was_appended(where):
    async def work(store):
        assert (await store.events("u")) == stores.Kept(None, [], [], True)
        first, _ = await store.append("u", [1, "1"], [1.5, 2.25], None)
        await store.append("other", [9], [0.0], None)
        second, _ = await store.append("u", [3], [3.0], None)
        assert (await store.events("u")) == stores.Kept(second, [1, "1", 3], [1.5, 2.25, 3.0], True)
        assert (await store.events("u", first)) == stores.Kept(second, [3], [3.0], False)
        assert (await store.events("u", second)) == stores.Kept(second, [], [], False)
        return second

    second = with_store(where, work)

    async def later(store):
        return await store.events("u")

    assert with_store(where, later).version == second  # after the store was closed and opened again


def test_a_version_that_is_gone_gives_all_that_is_kept(where):
    async def work(store):
        version, _ = await store.append("u", [1, 2], [0.0, 0.0], None)
        await store.delete("u")
        assert (await store.events("u", version)) == stores.Kept(None, [], [], True)
        new, _ = await store.append("u", [3], [0.0], None)
        assert new != version
        assert (await store.events("u", version)) == stores.Kept(new, [3], [0.0], True)

    with_store(where, work)


def test_only_the_newest_events_are_kept(where):
    async def work(store):
        for start in range(0, 50, 5):
            await store.append("u", list(range(start, start + 5)), [0.0] * 5, None)
        return (await store.events("u")).items

    assert with_store(where, work, keep=12) == list(range(38, 50))


def test_a_key_counts_once_and_for_the_same_events(where):
    async def work(store):
        first = await store.append("u", [1], [0.0], "k")
        assert not first[1]
        assert await store.append("u", [1], [0.0], "k") == (first[0], True)
        with pytest.raises(RequestError) as refused:
            await store.append("u", [2], [0.0], "k")
        assert refused.value.status == 409
        assert not (await store.append("other", [1], [0.0], "k"))[1]
        return (await store.events("u")).items

    assert with_store(where, work) == [1]


def test_appends_at_the_same_time_are_all_kept_in_an_order(where):
    async def work(store):
        versions = await asyncio.gather(*(store.append("u", [i, i], [0.0, 0.0], None) for i in range(200)))
        assert len({version for version, _ in versions}) == 200
        return (await store.events("u")).items

    items = with_store(where, work)
    assert sorted(items) == sorted([*range(200), *range(200)])
    assert items[::2] == items[1::2]


def test_deleting_a_user_does_not_stop_the_others(tmp_path):
    path = str(tmp_path / "events.sqlite")

    async def work(store):
        await store.append("u", [1], [0.0], None)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        deleting = asyncio.create_task(store.delete("u"))
        for _ in range(5):  # the loop goes on while the file is held
            await asyncio.sleep(0.01)
        assert not deleting.done()
        assert (await store.events("u")).items == [1]
        other.execute("COMMIT")
        other.close()
        await deleting
        assert (await store.events("u")).items == []

    with_store(path, work)


def test_a_store_that_cannot_be_used_says_so(tmp_path):
    broken = tmp_path / "events.sqlite"
    broken.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    addresses = [str(broken), str(tmp_path / "no" / "folder.sqlite")]
    if shutil.which("redis-server"):
        addresses.append(f"unix://{tmp_path}/nothing")
    for where in addresses:
        for ask in (
            lambda s: s.append("u", [1], [0.0], None),
            lambda s: s.events("u"),
            lambda s: s.delete("u"),
            lambda s: s.check(),
        ):
            with pytest.raises(RequestError) as refused:
                with_store(where, ask)
            assert refused.value.status == 503
            assert str(tmp_path) not in refused.value.message


def test_a_full_disk_refuses_events_and_loses_none(tmp_path):
    """A limit on the size of the file stands for the disk."""

    async def work(store):
        await store.append("u", [1], [0.0], None)
        limit = store._connect().execute("PRAGMA page_count").fetchone()[0]
        connect = store._connect

        def limited():
            connection = connect()
            connection.execute(f"PRAGMA max_page_count = {limit}")
            return connection

        await store.close()
        store._connect = limited
        kept = 1
        with pytest.raises(RequestError):
            for _ in range(10_000):
                await store.append("u", [2] * 10, [0.0] * 10, None)
                kept += 10
        store._connect = connect
        await store.append("u", [3], [0.0], None)
        items = (await store.events("u")).items
        assert items == ([1] + [2] * (kept - 1) + [3])[-1000:]

    with_store(str(tmp_path / "events.sqlite"), work)


# ---- mounting --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    small(epochs=1).fit(chains()).save(path)
    return path


def asked(app, method, path, request=None):
    """Status and answer of an ASGI application that no server runs."""
    body = b"" if request is None else json.dumps(request).encode()
    sent = []

    async def run():
        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "headers": [],
        }
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"}}
        await app(scope, receive, send)

    asyncio.run(run())
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_the_service_can_be_mounted_in_another_application(path, tmp_path):
    service = Service(path, Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    app = Starlette(routes=[Mount("/here", service)])
    status, answer = asked(app, "POST", "/here/v1/recommend", {"history": [100, 101], "k": 3})
    assert status == 200
    assert answer["items"] == regard.load(path).recommend([100, 101], 3).items[0].tolist()
    assert asked(app, "GET", "/here/nothing")[0] == 404
    among_tenants = Starlette(routes=[Mount("/{tenant}/rec", service)])
    assert asked(among_tenants, "GET", "/one/rec/v1/users/u")[1]["user_id"] == "u"
    assert asked(among_tenants, "GET", "/one/rec/healthz")[0] == 200


def test_a_body_in_one_message_is_held_to_the_limit(path, tmp_path):
    service = Service(path, Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0, max_body=1000))
    assert asked(service, "POST", "/v1/recommend", {"history": [100] * 20, "k": 3})[0] == 200
    status, answer = asked(service, "POST", "/v1/recommend", {"history": [100] * 2000, "k": 3})
    assert (status, answer["error"]) == (413, "too_large")


def test_the_number_in_flight_is_shown(path, tmp_path):
    service = Service(path, Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    waiting = lambda: service.metrics.registry.get_sample_value("regard_queue_length")  # noqa: E731
    assert service.load.admit() and service.load.admit()
    assert waiting() == 2
    service.load.done()
    assert waiting() == 1


def test_long_texts_cost_no_more_than_they_are_long(tmp_path):
    data = chains()
    rows = data.sequences
    words = regard.Interactions(data.user_ids[rows.row_of], [f"item {i}" for i in data.item_ids[rows.values]])
    model = small(epochs=1).fit(words)
    model.save(tmp_path / "m")
    service = Service(tmp_path / "m", Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    history, others = ["item 101"], ["x" * 1000, *["a"] * 50_000]
    tracemalloc.start()
    try:
        status, answer = asked(service, "POST", "/v1/recommend", {"history": history, "k": 3, "deny": others})
        assert status == 200 and answer["items"] == model.recommend(history, 3).items[0].tolist()
        assert model.recommend([history, others], 3).n_unknown.tolist() == [0, 50_001]
        assert tracemalloc.get_traced_memory()[1] < 30e6  # 200 MB if each had the room of the longest
    finally:
        tracemalloc.stop()
    status, answer = asked(service, "POST", "/v1/recommend", {"history": ["x" * 2000]})
    assert status == 400 and "1024" in answer["message"]
    status, answer = asked(service, "POST", "/v1/events", {"user_id": "u", "items": ["y" * 1000, "item 101"]})
    assert (status, answer["n_unknown"]) == (200, 1)


def test_an_id_that_ends_in_nul_is_another_id(tmp_path):
    data = chains()
    rows = data.sequences
    words = regard.Interactions(data.user_ids[rows.row_of], [f"item {i}" for i in data.item_ids[rows.values]])
    small(epochs=1).fit(words).save(tmp_path / "m")
    service = Service(tmp_path / "m", Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    for more in ({}, {"deny": ["item 103"]}, {"boosts": {"item 103\0": 100}}):
        status, answer = asked(service, "POST", "/v1/recommend", {"history": ["item 101\0"], "k": 3, **more})
        assert (status, answer["n_unknown"]) == (200, 1)


def test_a_boosted_id_is_written_in_one_way(path, tmp_path):
    service = Service(path, Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    for word in ("0103", "1_03", " 103", "+103", "١٠٣", "x"):
        status, answer = asked(service, "POST", "/v1/recommend", {"history": [100], "boosts": {word: 1}})
        assert status == 400 and "boosts: expected whole numbers" in answer["message"]


def test_what_is_computed_beside_the_loop_keeps_its_deadline_too(path, tmp_path):
    service = Service(path, Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    with pytest.raises(RequestError, match="the deadline passed") as refused:
        asyncio.run(service._slowly(lambda: 1, time.monotonic() - 1))
    assert refused.value.status == 503
    assert asyncio.run(service._slowly(lambda: 1, time.monotonic() + 60)) == 1


def test_a_fault_shows_no_more_than_that_it_is_one(path, tmp_path, monkeypatch):
    service = Service(path, Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    monkeypatch.setattr(service.live.current, "model", None)
    status, answer = asked(service, "POST", "/v1/recommend", {"history": [100], "k": 3})
    assert (status, answer) == (500, {"error": "internal", "message": "a fault of the service"})


def test_a_model_with_a_time_bias_is_asked_with_times(tmp_path):
    data = chains()
    users, items = data.sequences.row_of, data.item_ids[data.sequences.values]
    timed = regard.Interactions(users, items, np.arange(len(items)) * 3_600)
    model = small(epochs=2, time_bias=True).fit(timed)
    model.save(tmp_path / "m.safetensors")
    service = Service(tmp_path / "m.safetensors", Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    history, times, moment = [100, 101, 102], [0, 50_000, 60_000], 90_000
    expected = model.recommend(regard.TimedHistories.from_lists([history], times=[times], asked_at=moment), 5)
    request = {"history": history, "times": times, "asked_at": moment, "k": 5}
    status, answer = asked(service, "POST", "/v1/recommend", request)
    assert (status, answer["items"]) == (200, expected.items[0].tolist())
    np.testing.assert_allclose(answer["scores"], expected.scores[0], rtol=1e-6)

    for item, time_ in zip(history, times, strict=True):
        asked(service, "POST", "/v1/events", {"user_id": "u", "items": [item], "times": [time_]})
        asked(service, "POST", "/v1/recommend", {"user_id": "u"})
    asked(service, "POST", "/v1/events", {"user_id": "all", "items": history, "times": times})
    for user in ("u", "all"):
        status, answer = asked(service, "POST", "/v1/recommend", {"user_id": user, "asked_at": moment, "k": 5})
        assert (status, answer["items"]) == (200, expected.items[0].tolist())
        np.testing.assert_allclose(answer["scores"], expected.scores[0], rtol=1e-5)
        assert asked(service, "POST", "/v1/recommend", {"user_id": user, "explain": True})[0] == 400
    assert asked(service, "POST", "/v1/recommend", {"history": history})[0] == 400


def test_ids_of_text_are_served_as_they_are(tmp_path):
    data = chains()
    words = np.array([f"item {i}" for i in range(12)])[data.sequences.values]
    model = small(epochs=1).fit(regard.Interactions(data.sequences.row_of, words))
    model.save(tmp_path / "m.safetensors")
    service = Service(tmp_path / "m.safetensors", Settings(store=str(tmp_path / "e.sqlite"), watch_seconds=0))
    history = ["item 3", "nothing", "item 4"]
    status, answer = asked(service, "POST", "/v1/recommend", {"history": history, "k": 4, "boosts": {"item 7": 99}})
    assert (status, answer["items"][0], answer["n_unknown"]) == (200, "item 7", 1)
    status, answer = asked(service, "POST", "/v1/recommend", {"history": history, "k": 4})
    assert answer["items"] == model.recommend(history, 4).items[0].tolist()
    assert asked(service, "POST", "/v1/recommend", {"history": [3]})[0] == 400
