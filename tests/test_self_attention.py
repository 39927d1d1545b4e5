"""The attention recommender: training and answering. What its numbers should be, test_against_torch.py says."""

import signal

import numpy as np
import pytest
from small_models import chains, returning, small

import regard
from regard.recommender import POPULAR, SHORT


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
        ({"loss": "hinge"}, "loss: expected one of softmax, sampled_softmax, bce, gbce, got 'hinge'"),
        ({"epochs": -1}, "epochs: expected at least 1, got -1"),
        ({"learning_rate": 0.0}, "learning_rate: expected above 0, got 0.0"),
        ({"loss": "bce", "n_negatives": 0}, "n_negatives: expected at least 1, got 0"),
        ({"negatives": "hard"}, "negatives: expected one of uniform, popularity, got 'hard'"),
        ({"optimizer": "lion"}, "optimizer: expected one of adam, adagrad, sgd, got 'lion'"),
        ({"gbce_t": 1.5}, "gbce_t: expected from 0 to 1, got 1.5"),
        ({"label_smoothing": 1.0}, "label_smoothing: expected from 0 to below 1, got 1.0"),
        ({"label_smoothing": 0.1, "loss": "bce"}, "loss: expected 'softmax' with label_smoothing, got 'bce'"),
        ({"mask_seen": True, "loss": "gbce"}, "loss: expected 'softmax' with mask_seen, got 'gbce'"),
        ({"mask_seen": True, "pointer": True}, "mask_seen: expected False with a pointer"),
        ({"max_norm": -1.0}, "max_norm: expected above 0, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay: expected at least 0, got nan"),
        ({"random_state": -1}, "random_state: expected at least 0, got -1"),
        ({"warmup_steps": -1}, "warmup_steps: expected at least 0, got -1"),
        ({"residual": "skip"}, "residual: expected one of add, gate, got 'skip'"),
        ({"attention_init": "zero"}, "attention_init: expected one of normal, identity, got 'zero'"),
        ({"schedule": "step"}, "schedule: expected one of constant, linear, cosine, got 'step'"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(chains())


@pytest.mark.parametrize("pointer", [False, True])
def test_with_label_smoothing_a_model_that_knows_what_is_next_leaves_its_part_to_the_others(pointer):
    found = []
    for share in (0.0, 0.4):
        model = small(epochs=30, dropout=0.0, label_smoothing=share, pointer=pointer).fit(chains(), validation=None)
        scores = model.scores([[101, 102, 103]])[0].astype(np.float64)
        found.append(np.exp(scores.max()) / np.exp(scores).sum())
    assert found[0] > 0.9
    np.testing.assert_allclose(found[1], 0.6 + 0.4 / model.item_ids_.size, atol=0.1)


@pytest.mark.parametrize(("windows", "max_len"), [("random", 12), ("last", 12), ("last", 3)])
def test_with_seen_items_masked_the_loss_is_that_of_a_softmax_over_the_others_and_the_target(windows, max_len):
    """Over the others than those of the whole history, of which the model reads the last ``max_len`` events."""
    data = returning()
    losses = []
    for mask in (False, True):
        how = {"mask_seen": mask, "epochs": 1, "batch_size": 60, "learning_rate": 1e-12, "dropout": 0.0}
        model = small(windows=windows, max_len=max_len, **how).fit(data, validation=None)
        losses.append(model.history_[0]["loss"])
    expected, n_items = [], model.item_ids_.size
    for row in data.sequences:
        begin = max(0, len(row) - max_len - 1)
        for end in range(begin + 1, len(row)):
            scores = model.scores([model.item_ids_[row[begin:end]].tolist()])[0].astype(np.float64)
            counts = np.isin(np.arange(n_items), row[:end], invert=True)
            counts[row[end]] = True
            expected.append([np.log(np.exp(scores[kept]).sum()) - scores[row[end]] for kept in (slice(None), counts)])
    np.testing.assert_allclose(losses, np.mean(expected, axis=0), rtol=1e-5)


def test_what_is_masked_cannot_be_judged_as_an_answer():
    with pytest.raises(ValueError, match="exclude_seen: expected True with mask_seen=True, got False"):
        small(mask_seen=True).fit(chains(), exclude_seen=False)


def test_a_model_whose_seen_items_are_masked_answers_likewise():
    model = small(mask_seen=True).fit(chains(), validation=None)
    assert model.recommend([[101, 102, 103], [110, 111, 100]], k=1).items[:, 0].tolist() == [104, 101]


def test_data_without_a_pair_of_events_is_refused():
    with pytest.raises(ValueError, match="at least one user with two events"):
        small().fit(regard.Interactions([1, 2], [5, 6]))


def test_a_diverging_run_is_reported():
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="smaller learning_rate"):
        small(learning_rate=1e30, max_norm=None).fit(chains(), validation=None)
