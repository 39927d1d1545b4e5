"""Models and sessions through the C interface: the answers of Python, and an error for what is wrong, no crash."""

import ctypes
import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from test_c_interface import INVALID, LIBRARY, OK, filled
from test_serving import untrained

import regard
from regard.ragged import Ragged

C = ctypes


class Histories(C.Structure):
    _fields_ = (
        ("struct_size", C.c_size_t),
        *((name, C.c_void_p) for name in ("items", "offsets")),
        ("n", C.c_int64),
        *((name, C.c_void_p) for name in ("times", "asked_at")),
    )


class Recommend(C.Structure):
    _fields_ = (
        ("struct_size", C.c_size_t),
        ("histories", C.POINTER(Histories)),
        ("k", C.c_int64),
        ("exclude_seen", C.c_int),
        *((name, C.c_void_p) for name in ("allow_offsets", "allow", "deny_offsets", "deny")),
        *((name, C.c_void_p) for name in ("items", "scores", "flags")),
    )


class Info(C.Structure):
    _fields_ = (
        ("struct_size", C.c_size_t),
        *((name, C.c_int64) for name in ("n_items", "dim", "max_len")),
        *((name, C.c_int) for name in ("text_ids", "timed")),
    )


@pytest.fixture(scope="module")
def lib():
    if not LIBRARY.exists():
        pytest.skip("libregard is not beside the package")
    lib = C.CDLL(str(LIBRARY))
    lib.regard_last_error.restype = C.c_char_p
    handle, p, i64 = C.c_void_p, C.c_void_p, C.c_int64
    for name, types in {
        "model_open": [C.c_char_p, p],
        "model_open_memory": [p, C.c_size_t, p],
        "model_close": [handle],
        "model_describe": [handle, C.POINTER(Info)],
        "model_items": [handle, p, i64, p],
        "model_items_of_texts": [handle, p, p, i64, p],
        "model_ids": [handle, p, i64, p],
        "model_text": [handle, C.c_int32, p, p],
        "encode": [handle, C.POINTER(Histories), p],
        "recommend": [handle, C.POINTER(Recommend)],
        "session_open": [handle, p],
        "session_close": [handle],
        "session_append": [handle, p, p, i64],
        "session_recommend": [handle, C.POINTER(Recommend)],
        "session_window": [handle, p, p, i64, p],
        "session_bytes": [handle, p],
    }.items():
        getattr(lib, f"regard_{name}").argtypes = types
    return lib


def saved(path, model):
    model.history_, model.best_epoch_ = [], 0
    model.save(path)
    return path


def opened(lib, path):
    model = C.c_void_p()
    assert lib.regard_model_open(str(path).encode(), C.byref(model)) == OK, lib.regard_last_error()
    return model


@pytest.fixture(scope="module")
def python_model():
    return untrained(np.random.default_rng(3), 1100)


@pytest.fixture(scope="module")
def path(python_model, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model") / "m", python_model)


@pytest.fixture
def model(lib, path):
    model = opened(lib, path)
    yield model
    assert lib.regard_model_close(model) == OK


ROWS = np.array([3, 5, -1, 7, 1099, 2], np.int32)
OFFSETS = np.array([0, 4, 4, 6])


def histories(**change):
    return filled(Histories, **({"items": ROWS, "offsets": OFFSETS, "n": 3} | change))


def arguments(k=4, n=3, **change):
    room = min(max(k, 1), 9)
    values = {
        "k": k,
        "exclude_seen": 1,
        "items": np.full((n, room), -7, np.int32),
        "scores": np.zeros((n, room), np.float32),
    }
    values |= {"flags": np.full(n, 9, np.uint8), "histories": C.pointer(histories())}
    return filled(Recommend, **(values | change))


def test_a_model_from_a_file_answers_as_in_python(lib, model, python_model):
    info = Info(struct_size=C.sizeof(Info))
    assert lib.regard_model_describe(model, info) == OK
    assert (info.n_items, info.dim, info.max_len, info.text_ids, info.timed) == (1100, 12, 8, 0, 0)
    lists = [[103, 105, 107], [], [1199, 102]]
    expected = python_model.recommend(lists, k=4)
    args = arguments()
    assert lib.regard_recommend(model, args) == OK
    ids = np.zeros((3, 4), np.int64)
    assert lib.regard_model_ids(model, args.items, 12, ids.ctypes.data) == OK
    np.testing.assert_array_equal(ids, expected.items)
    np.testing.assert_array_equal(args.arrays["scores"], expected.scores)
    np.testing.assert_array_equal(args.arrays["flags"], expected.flags)
    h = np.zeros((3, 12), np.float32)
    assert lib.regard_encode(model, histories(), h.ctypes.data) == OK
    np.testing.assert_array_equal(h, python_model.encode(lists))
    rows = np.zeros(3, np.int32)
    wanted = np.array([103, 99, 1199])
    assert lib.regard_model_items(model, wanted.ctypes.data, 3, rows.ctypes.data) == OK
    assert rows.tolist() == [3, -1, 1099]


def test_large_batches_and_lists_answer_as_in_python(lib, model, python_model, rng):
    lengths = rng.integers(0, 20, 130)
    rows = Ragged.from_lengths(rng.integers(0, 1100, lengths.sum()).astype(np.int32), lengths)
    ids = rows.with_values(rows.values.astype(np.int64) + 100)
    allow, deny = (Ragged.from_lengths(rng.integers(0, 1100, 130 * n).astype(np.int32), [n] * 130) for n in (30, 9))
    many = {"allow_items": allow, "deny_items": deny}
    many = {name: lists.with_values(lists.values.astype(np.int64) + 100) for name, lists in many.items()}
    given = histories(items=rows.values, offsets=rows.offsets, n=130)
    lists = {"allow_offsets": allow.offsets, "allow": allow.values, "deny_offsets": deny.offsets, "deny": deny.values}
    for how, more in (({}, {}), (many, lists)):
        expected = python_model.recommend(ids, k=7, **how)
        args = arguments(k=7, n=130, histories=C.pointer(given), **more)
        assert lib.regard_recommend(model, args) == OK
        got = args.arrays["items"]
        np.testing.assert_array_equal(np.where(got < 0, -1, got + 100), expected.items)
        np.testing.assert_array_equal(args.arrays["scores"], expected.scores)
        np.testing.assert_array_equal(args.arrays["flags"], expected.flags)


def test_text_ids_and_times(lib, tmp_path, rng):
    python_model = untrained(rng, time_bias=True)
    python_model.item_ids_ = np.array(sorted(f"é{i:02}" for i in range(40)))
    model = opened(lib, saved(tmp_path / "m", python_model))
    texts = "é05no suché39é".encode()
    offsets, rows = np.array([0, 4, 11, 15, 17]), np.zeros(4, np.int32)
    assert lib.regard_model_items_of_texts(model, texts, offsets.ctypes.data, 4, rows.ctypes.data) == OK
    assert rows.tolist() == [5, -1, 39, -1]
    text, size = C.c_char_p(), C.c_size_t()
    assert lib.regard_model_text(model, 39, C.byref(text), C.byref(size)) == OK
    assert C.string_at(text, size.value).decode() == "é39"
    assert lib.regard_model_text(model, -1, C.byref(text), C.byref(size)) == OK and size.value == 0
    times, asked_at = np.arange(6) * 1000, np.array([10**4, 10**5, 10**6])
    rows = np.where(ROWS > 39, 0, ROWS).astype(np.int32)
    h = np.zeros((3, 12), np.float32)
    given = histories(items=rows, times=times, asked_at=asked_at)
    assert lib.regard_encode(model, given, h.ctypes.data) == OK
    known = rows >= 0
    timed = regard.TimedHistories(rows[known], [0, 3, 3, 5], times[known], asked_at)
    np.testing.assert_array_equal(h, python_model._encode(timed))
    for wrong in ({"times": None}, {"asked_at": None}):
        given = histories(**({"items": rows, "times": times, "asked_at": asked_at} | wrong))
        assert lib.regard_encode(model, given, h.ctypes.data) == INVALID
        assert lib.regard_last_error().decode() == f"{next(iter(wrong))}: expected an array, got NULL"
    for function in (lib.regard_model_items, lib.regard_model_ids):
        assert function(model, times.ctypes.data, 0, times.ctypes.data) == INVALID
        assert b"expected one whose ids are numbers" in lib.regard_last_error()
    lib.regard_model_close(model)


def test_a_session_of_a_timed_model(lib, tmp_path, rng):
    python_model = untrained(rng, time_bias=True)
    model, session = opened(lib, saved(tmp_path / "m", python_model)), C.c_void_p()
    assert lib.regard_session_open(model, C.byref(session)) == OK
    rows, times = np.array([3, -1, 5, 7], np.int32), np.array([10, 20, 300, 4000])
    assert lib.regard_session_append(session, rows.ctypes.data, None, 4) == INVALID
    assert lib.regard_last_error() == b"times: expected an array, got NULL"
    assert lib.regard_session_append(session, rows.ctypes.data, times.ctypes.data, 4) == OK
    asked_at = np.array([50_000])
    args = arguments(n=1, histories=C.pointer(filled(Histories, asked_at=asked_at)))
    assert lib.regard_session_recommend(session, args) == OK
    expected = python_model.recommend(regard.TimedHistories([103, 105, 107], [0, 3], times[[0, 2, 3]], asked_at), k=4)
    np.testing.assert_array_equal(args.arrays["items"] + 100, expected.items)
    np.testing.assert_allclose(args.arrays["scores"], expected.scores, rtol=1e-5)
    wrong = [C.pointer(filled(Histories, **how)) for how in ({}, {"asked_at": asked_at, "struct_size": 8})]
    for given in (None, *wrong):
        assert lib.regard_session_recommend(session, arguments(n=1, histories=given)) == INVALID
    window, moments, n = np.zeros(3, np.int32), np.zeros(3, np.int64), C.c_int64()
    assert lib.regard_session_window(session, window.ctypes.data, moments.ctypes.data, 3, C.byref(n)) == OK
    assert window.tolist() == [3, 5, 7] and moments.tolist() == [10, 300, 4000]
    assert lib.regard_session_window(session, window.ctypes.data, None, 3, C.byref(n)) == OK
    assert lib.regard_session_close(session) == OK and lib.regard_model_close(model) == OK


def test_a_session_outlives_the_handle_of_its_model(lib, path, python_model):
    model, session = opened(lib, path), C.c_void_p()
    assert lib.regard_session_open(model, C.byref(session)) == OK
    assert lib.regard_model_close(model) == OK
    assert lib.regard_session_append(session, ROWS.ctypes.data, None, 6) == OK
    args = arguments(n=1, histories=None)
    assert lib.regard_session_recommend(session, args) == OK
    expected = python_model.recommend([[103, 105, 107, 1199, 102]], k=4)
    np.testing.assert_array_equal(args.arrays["items"] + 100, expected.items)
    window, n, size = np.zeros(8, np.int32), C.c_int64(), C.c_int64()
    assert lib.regard_session_window(session, None, None, 0, C.byref(n)) == OK and n.value == 5
    assert lib.regard_session_window(session, window.ctypes.data, None, 4, C.byref(n)) == INVALID
    assert lib.regard_session_window(session, window.ctypes.data, None, 8, C.byref(n)) == OK
    assert window[:5].tolist() == [3, 5, 7, 1099, 2]
    assert lib.regard_session_bytes(session, C.byref(size)) == OK and size.value > 0
    for wrong in (np.array([1100], np.int32), np.array([-2], np.int32)):
        assert lib.regard_session_append(session, wrong.ctypes.data, None, 1) == INVALID
    assert lib.regard_session_append(session, None, None, 1) == INVALID
    assert lib.regard_session_append(session, None, None, 0) == OK
    assert lib.regard_session_recommend(session, arguments(n=1)) == INVALID
    assert b"histories: expected NULL" in lib.regard_last_error()
    assert lib.regard_session_close(session) == OK
    for call in (
        lambda: lib.regard_session_close(session),
        lambda: lib.regard_session_append(session, ROWS.ctypes.data, None, 1),
        lambda: lib.regard_session_recommend(session, args),
        lambda: lib.regard_session_window(session, None, None, 0, C.byref(n)),
        lambda: lib.regard_session_bytes(session, C.byref(size)),
    ):
        assert call() == INVALID
        assert lib.regard_last_error() == b"session: expected one that is open, got another"


@pytest.mark.parametrize("handle", [None, 1, 2**40, "closed"])
def test_a_handle_that_is_not_open_is_an_error_everywhere(lib, path, handle):
    if handle == "closed":
        model = opened(lib, path)
        assert lib.regard_model_close(model) == OK
        handle = model.value
    a, out = ROWS.ctypes.data, C.c_void_p()
    for call in (
        lambda: lib.regard_model_close(handle),
        lambda: lib.regard_model_describe(handle, Info(struct_size=C.sizeof(Info))),
        lambda: lib.regard_model_items(handle, OFFSETS.ctypes.data, 1, a),
        lambda: lib.regard_model_items_of_texts(handle, a, np.array([0, 1]).ctypes.data, 1, a),
        lambda: lib.regard_model_ids(handle, a, 1, OFFSETS.ctypes.data),
        lambda: lib.regard_model_text(handle, 0, C.byref(out), C.byref(C.c_size_t())),
        lambda: lib.regard_encode(handle, histories(), a),
        lambda: lib.regard_recommend(handle, arguments()),
        lambda: lib.regard_session_open(handle, C.byref(out)),
    ):
        assert call() == INVALID
        assert lib.regard_last_error().decode().startswith("model: expected one that is open, got ")


FALLING = np.array([0, 4, 3, 6])
WRONG = [
    ({"struct_size": 0}, "struct_size: expected at least"),
    ({"struct_size": C.sizeof(Recommend) - 1}, "struct_size: expected at least"),
    ({"histories": None}, "histories: expected an array, got NULL"),
    ({"k": 0}, "k: expected at least 1, got 0"),
    ({"k": 2**31}, "k: expected below 2^31"),
    *(({name: None}, f"{name}: expected an array, got NULL") for name in ("items", "scores", "flags")),
    ({"allow_offsets": FALLING}, "allow_offsets: expected offsets that never fall"),
    ({"deny_offsets": OFFSETS}, "deny: expected an array, got NULL"),
    ({"deny_offsets": OFFSETS, "deny": ROWS + 1}, "deny: expected -1 or items from 0 to 1099, got 1100"),
    ({"allow_offsets": OFFSETS, "allow": ROWS - 1}, "allow: expected -1 or items from 0 to 1099, got -2"),
]
WRONG_HISTORIES = [
    ({"struct_size": 3}, "struct_size of histories: expected at least"),
    ({"n": -1}, "n: expected at least 0, got -1"),
    ({"offsets": None}, "offsets: expected an array, got NULL"),
    ({"offsets": FALLING}, "offsets: expected offsets that never fall"),
    ({"items": None}, "items: expected an array, got NULL"),
    ({"items": ROWS + 1}, "items: expected -1 or items from 0 to 1099, got 1100 at place 4"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [*WRONG, *(({"histories": change}, message) for change, message in WRONG_HISTORIES)],
    ids=[message for _, message in WRONG + WRONG_HISTORIES],
)
def test_a_wrong_argument_comes_back_as_status_and_message(lib, model, change, message):
    if isinstance(change.get("histories"), dict):
        change = {"histories": C.pointer(histories(**change["histories"]))}
    args = arguments(**change)
    assert lib.regard_recommend(model, args) == INVALID
    assert message in lib.regard_last_error().decode()
    if args.arrays["items"] is not None:
        assert (args.arrays["items"] == -7).all()


def test_null_instead_of_what_is_needed_is_an_error(lib, model):
    n = C.c_int64()
    for call, name in (
        (lambda: lib.regard_model_open(None, C.byref(n)), "path"),
        (lambda: lib.regard_model_open(b"x", None), "model"),
        (lambda: lib.regard_model_open_memory(None, 8, C.byref(n)), "data"),
        (lambda: lib.regard_model_open_memory(OFFSETS.ctypes.data, 8, None), "model"),
        (lambda: lib.regard_model_describe(model, None), "info"),
        (lambda: lib.regard_model_items(model, None, 1, ROWS.ctypes.data), "ids"),
        (lambda: lib.regard_model_items(model, OFFSETS.ctypes.data, 1, None), "items"),
        (lambda: lib.regard_model_ids(model, ROWS.ctypes.data, 1, None), "ids"),
        (lambda: lib.regard_encode(model, None, ROWS.ctypes.data), "histories"),
        (lambda: lib.regard_encode(model, histories(), None), "h"),
        (lambda: lib.regard_recommend(model, None), "args"),
        (lambda: lib.regard_session_open(model, None), "session"),
    ):
        assert call() == INVALID
        assert lib.regard_last_error().decode() == f"{name}: expected an array, got NULL"


def test_any_number_of_threads_may_use_and_close_one_model(lib, path):
    expected = arguments()
    first = opened(lib, path)
    assert lib.regard_recommend(first, expected) == OK
    wrong = []

    def answer():
        for _ in range(50):
            args = arguments()
            if lib.regard_recommend(first, args) == OK:  # it may be closed by then
                wrong.extend([] if (args.arrays["items"] == expected.arrays["items"]).all() else [args])
            mine = opened(lib, path)
            wrong.extend([] if lib.regard_recommend(mine, args) == OK else [args])
            lib.regard_model_close(mine)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    lib.regard_model_close(first)
    for thread in threads:
        thread.join()
    assert not wrong


# ---- files that are damaged or hostile -----------------------------------------------------------------------------


class Memory:
    """A file in memory, from a multiple of 8 on."""

    def __init__(self, raw):
        self.words = np.zeros(len(raw) // 8 + 1, np.int64)
        self.words.view(np.uint8)[: len(raw)] = np.frombuffer(raw, np.uint8)
        self.size = len(raw)


def opens(lib, raw):
    """Whether it opens; then it must answer, too."""
    memory, model = Memory(raw), C.c_void_p()
    if lib.regard_model_open_memory(memory.words.ctypes.data, memory.size, C.byref(model)) != OK:
        assert lib.regard_last_error()
        return False
    info = Info(struct_size=C.sizeof(Info))
    assert lib.regard_model_describe(model, info) == OK
    if not info.timed:
        given = histories(items=np.zeros(6, np.int32))
        assert lib.regard_recommend(model, arguments(histories=C.pointer(given))) == OK
        text, size = C.c_char_p(), C.c_size_t()
        for item in range(info.n_items if info.text_ids else 0):
            assert lib.regard_model_text(model, item, C.byref(text), C.byref(size)) == OK
            C.string_at(text, size.value)
    assert lib.regard_model_close(model) == OK
    return True


@pytest.fixture(scope="module", params=["numbers", "texts"])
def raw(request, tmp_path_factory):
    model = untrained(np.random.default_rng(4), n_items=1030 if request.param == "numbers" else 12, dim=4, n_heads=2)
    if request.param == "texts":
        model.item_ids_ = np.array(sorted(f"é{i:02}" for i in range(12)))
    return saved(tmp_path_factory.mktemp("raw") / "m", model).read_bytes()


def test_a_truncated_or_longer_file_is_refused(lib, raw):
    assert opens(lib, raw)
    for size in [*range(0, 40), *np.linspace(40, len(raw) - 1, 300).astype(int)]:
        assert not opens(lib, raw[:size])
    assert not opens(lib, raw + b"\0")


def test_damage_never_crashes(lib, raw, rng):
    """Flips in the header, where they change names, kinds, shapes and offsets; and in the data, where ids are."""
    header = 8 + struct.unpack("<Q", raw[:8])[0]
    opened_all = [0, 0]
    for end in (header, len(raw)):
        for _ in range(1500):
            damaged = bytearray(raw)
            for place in rng.integers(0, end, rng.integers(1, 4)):
                damaged[place] = (
                    rng.integers(0, 256) if rng.random() < 0.5 else ord(rng.choice(list('0123456789",:}{][-')))
                )
            opened_all[end != header] += opens(lib, bytes(damaged))
    assert opened_all[0] < 1500 and opened_all[1] > 0


def rewritten(raw, change, inner=True):
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    told = json.loads(header["__metadata__"]["regard"])
    change(told if inner else header)
    if inner:
        header["__metadata__"] = {"regard": json.dumps(told)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


def test_a_weight_of_many_steps_is_packed_once(lib, tmp_path, rng):
    """Else a small file could ask for thousands of times its size."""
    again = {"kind": "linear", "weight": "blocks.0.attention.out.weight", "bias": "norm.bias", "activation": None}
    raw = saved(tmp_path / "m", untrained(rng, n_items=12, dim=256)).read_bytes()
    memory, model = Memory(rewritten(raw, lambda h: h["steps"].__setitem__(slice(-1, -1), [again] * 400))), C.c_void_p()
    before = resident()
    assert lib.regard_model_open_memory(memory.words.ctypes.data, memory.size, C.byref(model)) == OK
    assert resident() - before < 20e6  # 100 MB with a copy for each step
    assert lib.regard_model_close(model) == OK


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_numbers_that_are_not_finite_are_refused(lib, raw):
    size = struct.unpack("<Q", raw[:8])[0]
    tensors = json.loads(raw[8 : 8 + size])
    for name in ("norm.bias", "blocks.0.attention.key.weight"):
        for value in (np.nan, np.inf):
            changed = bytearray(raw)
            at = 8 + size + tensors[name]["data_offsets"][0]
            changed[at : at + 4] = np.float32(value).tobytes()
            memory, model = Memory(bytes(changed)), C.c_void_p()
            assert lib.regard_model_open_memory(memory.words.ctypes.data, memory.size, C.byref(model)) == INVALID
            assert f"tensor '{name}' has values that are not finite" in lib.regard_last_error().decode()


@pytest.mark.parametrize(
    ("change", "message", "inner"),
    [
        (lambda h: h.update(format_version="2.0"), "a newer regard is needed", True),
        (lambda h: h.update(format_version="one"), "format_version", True),
        (lambda h: h.pop("steps"), "expected an entry 'steps'", True),
        (lambda h: h["settings"].update(max_len=0), "max_len: expected 1 to", True),
        (lambda h: h["settings"].update(max_len=2**62), "max_len: expected 1 to", True),
        (lambda h: h["steps"].pop(), "expected score at the end alone", True),
        (lambda h: h.update(kind="ease"), "a model of kind 'ease': expected 'self_attention'", True),
        (lambda h: h.pop("__metadata__"), "not a regard model", False),
        (lambda h: h["popularity"].update(shape=[2**62, 4]), "the shape of tensor 'popularity'", False),
        (lambda h: h["popularity"].update(shape=[-1, -12]), "the shape of tensor 'popularity'", False),
        (lambda h: h["popularity"].update(data_offsets=[0, 2**62]), "does not lie in the file", False),
        (lambda h: h["popularity"].update(data_offsets=[8, 0]), "does not lie in the file", False),
        (lambda h: h["popularity"].update(data_offsets=[0, 8, 16]), "expected two offsets", False),
        (lambda h: h["popularity"].update(dtype="BF16"), "unknown type", False),
        (lambda h: h["norm.weight"].update(data_offsets=h["norm.bias"]["data_offsets"]), "overlap", False),
        (lambda h: h.pop(next(name for name in h if name != "__metadata__")), "leave a gap", False),
    ],
)
def test_a_hostile_header_is_refused(lib, raw, change, message, inner):
    memory, model = Memory(rewritten(raw, change, inner)), C.c_void_p()
    assert lib.regard_model_open_memory(memory.words.ctypes.data, memory.size, C.byref(model)) == INVALID
    assert message in lib.regard_last_error().decode()


JSON = [
    "", "{", '{"a"}', '{"a":1,}', '{"a":1 "b":2}', "[1,]", "[1", "01", "1.", ".5", "+1", "1e", "tru", '"\\x"', '"\t"',
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u12g4"', '"abc', '{"a":1,"a":2}', "[" * 100 + "]" * 100, "1 2", "nan", "-",
    "1e999",
]  # fmt: skip


@pytest.mark.parametrize("text", JSON)
def test_what_is_not_json_is_refused(lib, text):
    raw = struct.pack("<Q", len(text.encode())) + text.encode()
    memory, model = Memory(raw), C.c_void_p()
    assert lib.regard_model_open_memory(memory.words.ctypes.data, memory.size, C.byref(model)) == INVALID
    assert lib.regard_last_error().startswith(b"JSON: expected ")


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xf0\x80\x80\x80"]
)
def test_what_is_not_utf8_is_refused(lib, bad):
    text = b'{"' + bad + b'":1}'
    memory, model = Memory(struct.pack("<Q", len(text)) + text), C.c_void_p()
    assert lib.regard_model_open_memory(memory.words.ctypes.data, memory.size, C.byref(model)) == INVALID
    assert b"UTF-8" in lib.regard_last_error()


def test_a_path_that_cannot_be_opened_is_named(lib, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    model = C.c_void_p()
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    for path in (tmp_path / "missing", tmp_path, tmp_path / "empty", tmp_path / "pipe"):
        assert lib.regard_model_open(str(path).encode(), C.byref(model)) == INVALID
        assert lib.regard_last_error().startswith(f"{path}: ".encode())
    words = np.zeros(4, np.int64)
    assert lib.regard_model_open_memory(words.ctypes.data + 1, 8, C.byref(model)) == INVALID
    assert b"a multiple of 8" in lib.regard_last_error()
