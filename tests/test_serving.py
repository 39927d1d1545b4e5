"""The encoder in C++ against the list of steps in Python, and the answers for one history against those for a batch."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard import _core, layers
from regard.layers import Run
from regard.models import self_attention
from regard.ragged import Ragged
from regard.timed import TimedHistories

OPTIONS = {name: choices for name, choices in self_attention.CHOICES.items() if name != "precision"}
OPTIONS |= {"time_bias": (False, True), "n_heads": (1, 2)}
COMBINATIONS = [dict(zip(OPTIONS, chosen, strict=True)) for chosen in itertools.product(*OPTIONS.values())]
N_ITEMS = 40
LENGTHS = (3, 0, 8, 30, 1, 0, 5, 13)  # empty ones, and some longer than max_len = 8


def label(settings):
    return "-".join(map(str, settings.values()))


def untrained(rng, n_items=N_ITEMS, **settings):
    """A model whose every parameter is drawn, biases and tables too."""
    model = small(**{"dim": 12, "ffn_dim": 20, "n_blocks": 2, **settings})
    model.params_ = {
        name: weight + 0.3 * rng.standard_normal(weight.shape).astype(np.float32)
        for name, weight in model.initial_parameters(n_items).items()
    }
    model.item_ids_, model.popularity_ = np.arange(n_items) + 100, rng.integers(0, 9, n_items)
    model.titles_ = None
    return model


def batch(rng, lengths=LENGTHS, n_items=N_ITEMS):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, offsets[-1]).astype(np.int32)
    times = np.sort(rng.integers(0, 10**6, offsets[-1]))
    return TimedHistories(items, offsets, times, 10**6 + np.arange(len(lengths)))


def by_steps(model, histories):
    """What the list of steps in Python makes of histories that are not empty, 0 for the others."""
    h = np.zeros((len(histories), model.dim), np.float32)
    full = np.flatnonzero(histories.lengths)
    windows = histories.take(full).tail(model.max_len)
    h[full] = layers.forward(model.steps(), model._run(windows))[0][windows.offsets[1:] - 1]
    return h


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("settings", COMBINATIONS, ids=label)
def test_every_option_of_a_model_is_encoded_as_by_its_steps(settings, rng):
    model, histories = untrained(rng, **settings), batch(rng)
    expected = by_steps(model, histories)
    assert np.abs(expected).max() > 0.1
    assert_close(model._encode(histories), expected)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("settings", COMBINATIONS[::37], ids=label)
def test_every_instruction_set_and_number_of_threads_encodes_alike(settings, n_threads, isa, rng):
    model = untrained(rng, **{"dim": 64, "ffn_dim": 24, "max_len": 50, **settings})
    histories = batch(rng, rng.integers(0, 70, 150))
    before = regard.num_threads()
    try:
        regard.set_num_threads(n_threads)
        together = model._encode(histories)
    finally:
        regard.set_num_threads(before)
    assert_close(together, by_steps(model, histories))
    for i in (0, 7, 149):  # a bit depends on nothing else in the batch
        np.testing.assert_array_equal(model._encode(histories[i : i + 1])[0], together[i])


def made_of(steps, rng, width=8, n_items=10, **shapes):
    """(encoder in C++, parameters) of any list of steps between embed and score."""
    steps = [{"kind": "embed", "table": "items", "scale": 1.5}, *steps, {"kind": "score", "table": "items"}]
    shapes = {"items": (n_items, width)} | shapes
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    ids = {"ids.items": np.arange(n_items), "popularity": np.arange(n_items)}
    return _core.ServingModel(header(steps), params | ids), steps, params


def header(steps, max_len=5):
    return json.dumps({"steps": steps, "settings": {"max_len": max_len}})


ATTENTION = {"kind": "attention", "heads": 2, "dropout": 0.0, "newest": True, "query": "q", "key": "k", "value": "v"}
SQUARES = {f"{name}.weight": (8, 8) for name in "qkv"} | {f"{name}.bias": (8,) for name in "qkv"}


def test_every_kind_of_step_is_known_and_steps_need_not_stand_as_the_models_have_them(rng):
    """Saves in saves, a save that no norm follows, an add that no linear map precedes, maps that widen."""
    save, add = {"kind": "save"}, {"kind": "add"}
    linear = {"kind": "linear", "weight": "up", "bias": "up.bias", "activation": "sigmoid"}
    back = {"kind": "linear", "weight": "down", "bias": "down.bias", "activation": None}
    norm = {"kind": "norm", "weight": "norm", "bias": "norm.bias", "eps": 1e-3}
    rms = {"kind": "rms_norm", "weight": "rms", "eps": 1e-6}
    gate_add = {"kind": "gate_add", "weight": "gate", "bias": "gate.bias"}
    gated = {"kind": "gated", "gate": "a", "value": "b", "activation": "gelu"}
    drop, position = {"kind": "dropout", "p": 0.5}, {"kind": "position", "weight": "positions"}
    gap = {"kind": "gap", "weight": "gaps"}
    steps = [position, gap, save, save, save, norm, linear, drop, back, drop, add, add, rms, save, norm]
    steps += [ATTENTION, gate_add, save, gated, back, add, add, norm]
    shapes = {"up": (20, 8), "up.bias": (20,), "down": (8, 20), "down.bias": (8,), "norm": (8,), "norm.bias": (8,)}
    shapes |= {"rms": (8,), "gate": (8, 8), "gate.bias": (8,), "positions": (5, 8), "gaps": (20, 8)} | SQUARES
    shapes |= {f"{name}.weight": (20, 8) for name in "ab"} | {f"{name}.bias": (20,) for name in "ab"}
    model, steps, params = made_of(steps, rng, **shapes)
    assert {step["kind"] for step in steps} == set(layers.KINDS)
    histories = batch(rng, (3, 5, 1), 10)
    run = Run(histories.values, histories.offsets, params, times=histories.times, next_times=histories.next_times)
    expected, _ = layers.forward(steps, run)
    h = np.empty((3, 8), np.float32)
    model.encode(histories.values, histories.offsets, histories.times, histories.asked_at, h)
    assert_close(h, expected[histories.offsets[1:] - 1])


def test_gaps_are_told_apart_by_doublings_up_to_the_largest(rng):
    """Each gap alone, at the ends of doublings, backwards, and beyond what 64 bits hold."""
    gaps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 86_399, 2**30, 2**31 - 2, 2**31, 2**62]
    times = np.array([*[0] * len(gaps), 50, -(2**63)])
    asked_at = np.array([*gaps, 20, 2**63 - 1])
    histories = TimedHistories(np.zeros(len(times), np.int32), np.arange(len(times) + 1), times, asked_at)
    model, steps, params = made_of([{"kind": "gap", "weight": "gaps"}, ATTENTION], rng, gaps=(32, 8), **SQUARES)
    h = np.empty((len(times), 8), np.float32)
    model.encode(histories.values, histories.offsets, histories.times, histories.asked_at, h)
    run = Run(histories.values, histories.offsets, params, times=times, next_times=asked_at)
    assert run.gaps(32)[:-1].tolist() == [*(np.log2(np.float32(min(1 + gap, 2**31))).astype(int) for gap in gaps), 0]
    assert_close(h[:-1], layers.forward(steps, run)[0][:-1])
    np.testing.assert_array_equal(h[-1], h[-3])  # the gap of all 64 bits is in the last bucket


WRONG = [
    ([], "step 1: expected an attention with newest before it"),
    ([ATTENTION | {"newest": False}], "step 2: expected an attention with newest before it"),
    ([ATTENTION, ATTENTION], "step 2: expected newest in the last attention alone"),
    ([ATTENTION | {"heads": 3}], "heads: expected a divisor of the width"),
    ([ATTENTION | {"heads": 0}], "heads: expected a divisor of the width"),
    ([ATTENTION | {"heads": 2.5}], "heads: expected a whole number"),
    ([ATTENTION | {"newest": 1}], "newest: expected true or false"),
    ([ATTENTION | {"query": "p"}], "tensor 'p.weight' is missing"),
    ([ATTENTION | {"query": None}], "query: expected a text"),
    ([ATTENTION, {"kind": "add"}], "step 2: expected a save before it"),
    ([{"kind": "save"}, ATTENTION, {"kind": "linear", "weight": "w", "bias": "c", "activation": None}, {"kind": "add"}],
     "what was saved has another width"),
    ([{"kind": "save"}] * 17, "expected fewer saves"),
    ([{"kind": "lstm"}], "kind 'lstm' is not known"),
    ([{}], "expected an entry 'kind'"),
    ([{"kind": "embed", "table": "items", "scale": 1.0}], "expected embed first and nowhere else"),
    ([{"kind": "position", "weight": "short"}], "expected a row for each of max_len places"),
    ([{"kind": "gap", "weight": "many"}], "gap: expected 1 to 32 buckets"),
    ([ATTENTION, {"kind": "gap", "weight": "few"}], "expected no gap after the last attention"),
    ([{"kind": "rms_norm", "weight": "w", "eps": 1e-6}], "tensor 'w': expected shape (8), got (4, 8)"),
    ([{"kind": "rms_norm", "weight": "q.bias", "eps": float("nan")}], "eps: expected a finite number"),
    ([{"kind": "linear", "weight": "w", "bias": "c", "activation": "tanh"}], "activation 'tanh' is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_list_that_does_not_fit_is_refused_with_the_step(steps, message, rng):
    with pytest.raises(ValueError) as raised:
        made_of(steps, rng, w=(4, 8), c=(4,), short=(4, 8), many=(33, 8), few=(9, 8), **SQUARES)
    assert message in str(raised.value)


@pytest.mark.parametrize("kind", ["numbers", "texts"])
@pytest.mark.parametrize("n_items", [12, 1500])  # the latter with 8-bit copies
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_one_history_is_answered_as_in_a_batch(kind, n_items, exclude_seen, rng):
    model = untrained(rng, n_items)
    if kind == "texts":
        model.item_ids_ = np.array(sorted(f"é{i:x}" for i in range(n_items)))
    unknown = -5 if kind == "numbers" else "no such"
    for length, k in itertools.product((1, 3, 8, 30), (1, 5, 20)):
        history = [*model.item_ids_[rng.integers(0, n_items, length)].tolist(), unknown]
        forms = [history] if kind == "texts" else [history, np.array(history)]
        batched = model.recommend([history, history[:1]], k=k, exclude_seen=exclude_seen)
        for form in forms:
            assert model._recommend_one(form, k, exclude_seen) is not None
            alone = model.recommend(form, k=k, exclude_seen=exclude_seen)
            assert alone.user_ids is None
            for one, many in zip(alone, batched, strict=True):
                assert one.dtype == many.dtype
                np.testing.assert_array_equal(one[0], many[0])


@pytest.mark.parametrize(
    "history",
    [[], [1, 2], [[101], [102]], [101, True], [101, 2**70], [101.0], (101, 102), "101", None, np.array([[101, 102]]),
     np.array([101, 102], np.int32), np.array([101, 102, 103])[::2], np.array([101.0]), Ragged([101], [0, 1])],
)  # fmt: skip
def test_anything_but_a_plain_history_with_a_known_event_is_left_to_the_general_way(history, rng):
    assert untrained(rng)._recommend_one(history, 3, True) is None


def test_the_answer_follows_parameters_that_are_replaced(rng):
    model = untrained(rng)
    before = model.recommend([101, 102], k=3)
    table = model.params_["items.weight"]
    model.params_["items.weight"] = -table
    after = model.recommend([101, 102], k=3)
    assert (after.items != before.items).any()
    np.testing.assert_array_equal(after.items, model.recommend([[101, 102]], k=3).items)
    model.retire_items(before.items[0])
    assert not set(model.recommend([101, 102], k=3).items[0]) & set(before.items[0])


def test_a_model_that_has_answered_can_be_copied_and_pickled():
    model = small(epochs=1).fit(chains(), validation=None)
    expected = model.recommend([101, 102], k=3)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.recommend([101, 102], k=3).items, expected.items)


def test_a_file_with_and_without_8_bit_copies_answers_alike(tmp_path, rng):
    model = untrained(rng, 1500)
    model.history_, model.best_epoch_ = [], 0
    model.save(tmp_path / "with")
    header, tensors = regard.model_file.read_tensors(tmp_path / "with")
    assert tensors.pop("items.quantized").dtype == np.uint8
    del header["sha256"]
    regard.model_file.write_tensors(tmp_path / "without", header, tensors)
    answers = [regard.load(tmp_path / name).recommend([101, 102, 700], k=20) for name in ("with", "without")]
    for a, b in zip(*answers, strict=True):
        np.testing.assert_array_equal(a, b)
    tensors["items.quantized"] = np.zeros((3, 3), np.uint8)
    regard.model_file.write_tensors(tmp_path / "wrong", header, tensors)
    with pytest.raises(ValueError, match=r"items.quantized: expected shape \(6, .*\), got \(3, 3\)"):
        regard.load(tmp_path / "wrong")
