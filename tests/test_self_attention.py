"""The attention recommender: training, answering, saving. What its numbers should be, test_against_torch.py says."""

import json
import signal
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

import regard
from regard import ops
from regard.optim import Adam, learning_rate_factor
from regard.recommender import POPULAR, SHORT


def chains(n_users=60, n_items=12, seed=0):
    """Users who walk up a ring of items: the next item is certain."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(0, n_items, n_users), rng.integers(5, 9, n_users)
    users = np.repeat(np.arange(n_users), lengths)
    items = np.concatenate([(s + np.arange(n)) % n_items for s, n in zip(starts, lengths, strict=True)])
    return regard.Interactions(users, items + 100)


def small(**settings):
    return regard.SelfAttentionRecommender(
        **{"dim": 16, "n_blocks": 1, "max_len": 8, "epochs": 30, "batch_size": 16, "learning_rate": 1e-2, **settings}
    )


@pytest.fixture(scope="module")
def fitted():
    return small().fit(chains(), validation=None)


def test_it_learns_a_certain_succession(fitted):
    items, scores, flags, unknown = fitted.recommend([[101, 102, 103], [110, 111, 100]], k=3)
    assert items[:, 0].tolist() == [104, 101]
    assert (np.diff(scores, axis=1) <= 0).all()
    assert flags.tolist() == [0, 0] and unknown.tolist() == [0, 0]


def test_one_flat_history_is_a_batch_of_one(fitted):
    assert fitted.recommend([101, 102], k=2).items.shape == (1, 2)


def test_unknown_items_are_skipped_and_counted(fitted):
    known = fitted.recommend([101, 102, 103], k=4)
    mixed = fitted.recommend([101, 5, 102, 7, 103], k=4)
    np.testing.assert_array_equal(known.items, mixed.items)
    np.testing.assert_array_equal(known.scores, mixed.scores)
    assert mixed.n_unknown.tolist() == [2]


def test_a_history_without_known_events_gets_popular_items_and_says_so(fitted):
    result = fitted.recommend([[], [1, 2]], k=3)
    assert (result.flags & POPULAR).all()
    assert result.n_unknown.tolist() == [0, 2]


def test_fewer_allowed_items_than_k_are_padded(fitted):
    result = fitted.recommend([[101, 102]], k=5, allow_items=[103, 104, 101], deny_items=[104])
    assert result.items.tolist() == [[103, -1, -1, -1, -1]]
    assert result.scores[0, 1:].tolist() == [-np.inf] * 4
    assert result.flags.tolist() == [SHORT]


def test_only_the_newest_max_len_events_count(fitted):
    tail = [101, 102, 103, 104, 105, 106, 107, 108]
    a, b = fitted.encode([[109, 110, *tail]]), fitted.encode([tail])
    np.testing.assert_array_equal(a, b)


def test_batching_does_not_change_a_bit_of_the_answer(fitted):
    histories = [[101, 102], [105], [110, 111, 100, 101, 102]]
    together = fitted.recommend(histories, k=4)
    for row, history in enumerate(histories):
        alone = fitted.recommend(history, k=4)
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


def test_scores_agree_with_recommend(fitted):
    history = [[101, 102, 103]]
    scores = fitted.scores(history)[0]
    result = fitted.recommend(history, k=12, exclude_seen=False)
    np.testing.assert_array_equal(result.scores[0], np.sort(scores)[::-1])


def test_similar_items_leave_out_the_item_itself(fitted):
    result = fitted.similar_items([104, 105], k=11)
    assert 104 not in result.items[0] and 105 not in result.items[1]


@pytest.mark.parametrize("settings", [{}, {"positions": "relative", "n_heads": 2, "activation": "gelu"}])
def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(settings):
    data, before, models = chains(), regard.num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            regard.set_num_threads(threads)
            models.append(small(epochs=2, batch_size=64, dropout=0.3, **settings).fit(data, validation=None))
    finally:
        regard.set_num_threads(before)
    for other in models[1:]:
        for name, weight in models[0].params_.items():
            np.testing.assert_array_equal(weight, other.params_[name], err_msg=name)


def test_another_seed_gives_another_model():
    a, b = (small(epochs=1, random_state=seed).fit(chains(), validation=None) for seed in (0, 1))
    assert (a.params_["items.weight"] != b.params_["items.weight"]).any()


def test_training_stops_early_and_keeps_the_best_epoch():
    split = regard.splits.leave_one_out(chains())
    model = small(epochs=60, patience=3).fit(split.train, validation=split.validation)
    metrics = [entry["metric"] for entry in model.history_]
    assert model.best_epoch_ == 1 + int(np.argmax(metrics))
    assert len(metrics) == model.best_epoch_ + 3 or len(metrics) == 60
    again = regard.evaluate(model, split.validation, k=(10,))["ndcg@10"]
    assert again == max(metrics)


def test_a_callback_can_stop_the_training():
    seen = []
    model = small().fit(chains(), validation=None, callbacks=[lambda entry: seen.append(entry) or entry["epoch"] == 2])
    assert len(seen) == len(model.history_) == 2
    assert {"epoch", "loss", "metric", "events_per_second", "seconds"} <= seen[0].keys()


@pytest.fixture
def listening_to_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_ctrl_c_ends_cleanly_with_the_best_weights_so_far():
    def interrupt(entry):
        if entry["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    split = regard.splits.leave_one_out(chains())
    model = small().fit(split.train, validation=split.validation, callbacks=[interrupt])
    assert model.interrupted_ and len(model.history_) == 2
    assert model.recommend([101, 102], k=1).items.shape == (1, 1)


def test_progress_is_shown_when_asked_for_and_silent_otherwise(capsys):
    small(epochs=1).fit(chains(), validation=None)
    assert capsys.readouterr().err == ""
    small(epochs=1).fit(chains(), progress=True)
    shown = capsys.readouterr().err
    assert "loss" in shown and "events/s" in shown and "left" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim: expected at least 1, got 0"),
        ({"n_heads": 3}, "n_heads: expected a divisor of dim=16"),
        ({"dropout": 1.0}, "dropout: expected a rate from 0 to below 1, got 1.0"),
        ({"positions": "rotary"}, "positions: expected one of absolute, relative, none, got 'rotary'"),
        ({"loss": "hinge"}, "loss: expected one of softmax, got 'hinge'"),
        ({"epochs": -1}, "epochs: expected at least 1, got -1"),
        ({"learning_rate": 0.0}, "learning_rate: expected above 0, got 0.0"),
        ({"schedule": "step"}, "schedule: expected one of constant, linear, cosine, got 'step'"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(chains())


def test_data_without_a_pair_of_events_is_refused():
    with pytest.raises(ValueError, match="at least one user with two events"):
        small().fit(regard.Interactions([1, 2], [5, 6]))


def test_a_diverging_run_is_reported():
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="smaller learning_rate"):
        small(learning_rate=1e30, max_norm=None).fit(chains(), validation=None)


# ---- file ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_answers_with_the_same_bits(fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    loaded = regard.load(path, verify=True)
    a, b = (model.recommend([[101, 102], []], k=5) for model in (fitted, loaded))
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)
    assert loaded.get_params() == fitted.get_params()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


def test_text_ids_and_titles_survive_the_file(tmp_path):
    users = np.repeat([1, 2, 3], 4)
    data = regard.Interactions(users, ["é", 'q"', "日本", "b"] * 3)
    data.titles = np.array([f"the {name}" for name in data.item_ids.tolist()])
    model = small(epochs=1).fit(data, validation=None)
    model.save(tmp_path / "m")
    loaded = regard.load(tmp_path / "m")
    assert loaded.item_ids_.tolist() == data.item_ids.tolist()
    assert loaded.titles_.tolist() == data.titles.tolist()


def test_a_failed_save_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fitted.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def rewrite(path, change):
    """The file with its JSON header changed."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    inner = json.loads(header["__metadata__"]["regard"])
    change(inner)
    header["__metadata__"]["regard"] = json.dumps(inner)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.here: no such model file"):
        regard.load(tmp_path / "nothing.here")


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(fitted, tmp_path, keep):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or damaged"):
        regard.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format_version="2.0"), "a newer regard is needed"),
        (lambda h: h.update(format_version=3), "the header is damaged"),
        (lambda h: h.update(kind="os.system"), "unknown kind of model 'os.system'"),
        (lambda h: h["settings"].update(dim=32), "expected shape"),
        (lambda h: h["settings"].update(evil=1), "the header is damaged"),
        (lambda h: h["settings"].pop("dim") and h["settings"].update(dim="wide"), "damaged"),
        (lambda h: h.update(steps=[]), "does not belong to the settings"),
        (lambda h: h.pop("settings"), "the header is damaged"),
    ],
)
def test_a_changed_header_is_refused(fitted, tmp_path, change, message):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        regard.load(path)


def test_changed_bytes_are_found_by_verify(fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    raw = bytearray(path.read_bytes())
    raw[-200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"does not have the digest|damaged"):
        regard.load(path, verify=True)


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path):
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "w")
    with pytest.raises(ValueError, match="not a regard model"):
        regard.load(tmp_path / "w")


# ---- optimiser loop -------------------------------------------------------------------------------------------------


def test_schedules_rise_and_fall_as_documented():
    def factor(step, schedule):
        return learning_rate_factor(step, 110, schedule=schedule, warmup_steps=10)

    for schedule in ("constant", "linear", "cosine"):
        assert factor(1, schedule) == 0.1 and factor(10, schedule) == 1.0
    assert factor(110, "constant") == 1.0
    assert factor(60, "linear") == factor(60, "cosine") == 0.5
    assert factor(110, "linear") == factor(110, "cosine") == 0.0


def test_gradients_are_clipped_to_the_given_norm():
    params = {"w": np.zeros((1, 2), np.float32)}
    clipped, plain = (Adam({"w": params["w"].copy()}, max_norm=m) for m in (5.0, None))
    grads = {"w": np.array([[30.0, 40.0]], np.float32)}
    assert clipped.step(grads) == plain.step(grads) == 50.0
    np.testing.assert_allclose(clipped.moments["w"][0], plain.moments["w"][0] / 10, rtol=1e-6)


def test_weight_decay_leaves_vectors_alone():
    params = {"matrix": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    optimizer = Adam(params, learning_rate=0.1, weight_decay=0.5)
    optimizer.step({name: np.zeros_like(weight) for name, weight in params.items()})
    np.testing.assert_allclose(params["matrix"], 0.95, rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], 1.0)


def test_sum_squares_is_what_clipping_uses():
    x = np.arange(10, dtype=np.float32)
    assert ops.sum_squares(x) == 285.0
