"""Metrics: by hand, against an independent package, and where rankings go wrong."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import chains

from regard.baselines import Popularity
from regard.metrics import evaluate, user_metrics
from regard.ragged import Ragged
from regard.ranking import expected_ranks
from regard.recommender import Recommender
from regard.splits import Holdout, leave_one_out

LETTERS = np.array(list("abcdefghij"))


def holdout(histories, targets, item_ids=LETTERS):
    rows = [Ragged.from_lists(lists, np.int32) for lists in (histories, targets)]
    return Holdout(item_ids, np.arange(len(histories)), *rows)


class Scorer:
    """An object with nothing but scores."""

    def __init__(self, table):
        self.table, self.n_done = np.asarray(table, np.float32), 0

    def scores(self, histories):
        self.n_done += len(histories)
        return self.table[self.n_done - len(histories) : self.n_done]


class Hooked(Recommender):
    """A recommender with the same scores."""

    def __init__(self, table, item_ids=LETTERS, popularity=None):
        self.item_ids_, self.titles_ = item_ids, None
        self.popularity_ = np.ones(len(item_ids), np.int64) if popularity is None else popularity
        self.scorer = Scorer(table)

    def _scores(self, histories):
        self.scorer.n_done = 0
        return self.scorer.scores(histories).copy()


class Lister:
    """An object with nothing but lists."""

    def __init__(self, items):
        self.items = np.asarray(items)

    def recommend(self, histories, k, exclude_seen):
        return self.items[: len(histories), :k]


DESCENDING = -np.arange(10.0)


def test_one_target_by_hand():
    report = evaluate(Scorer([DESCENDING, DESCENDING]), holdout([[0], [9]], [[3], [9]]), k=(2, 3))
    assert report.per_user("hr@3").tolist() == [1, 0]  # a is seen, so d is third; j is seen, so a miss
    assert report["hr@2"] == 0 and report["hr@3"] == report["recall@3"] == 0.5
    assert report["precision@3"] == pytest.approx(1 / 6)
    assert report["ndcg@3"] == pytest.approx(0.5 / math.log2(4))
    assert report["mrr@3"] == report["map@3"] == report["mrr"] == pytest.approx(1 / 6)
    assert report["coverage@3"] == 0.4  # b c d, a b c
    assert (report.n_users, report.n_targets, report.n_seen_targets, report.n_cold_targets) == (2, 2, 1, None)


def test_many_targets_by_hand():
    report = evaluate(Scorer([DESCENDING]), holdout([[]], [[1, 3, 9]]), k=4)  # ranks 2, 4, 10
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert report["hr@4"] == 1 and report["recall@4"] == pytest.approx(2 / 3) and report["precision@4"] == 0.5
    assert report["ndcg@4"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)
    assert report["map@4"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert report["mrr"] == 0.5


def test_a_repeated_target_counts_once():
    once = evaluate(Scorer([DESCENDING]), holdout([[]], [[1, 3]]))
    assert evaluate(Scorer([DESCENDING]), holdout([[]], [[3, 1, 3]])) == once


def test_seen_targets_are_misses_unless_seen_items_are_ranked():
    asked = holdout([[0, 1]], [[0]])
    assert evaluate(Scorer([DESCENDING]), asked, k=10)["hr@10"] == 0
    report = evaluate(Scorer([DESCENDING]), asked, k=1, exclude_seen=False)
    assert report["hr@1"] == 1 and report.n_seen_targets == 1 and not report.exclude_seen


@pytest.mark.parametrize("constant", [0.0, np.nan, -np.inf])
@pytest.mark.parametrize("kind", [Scorer, Hooked])
def test_a_constant_scorer_gains_nothing_from_the_order_of_the_ids(kind, constant):
    n_users, n_items = 50, 100
    ids = np.arange(n_items)
    asked = holdout([[99]] * n_users, [[0]] * n_users, ids)
    table = np.full((n_users, n_items), constant)
    model = kind(table) if kind is Scorer else Hooked(table, ids)
    report = evaluate(model, asked, k=10)
    assert report["hr@10"] == 0 and report["mrr"] == pytest.approx(1 / 50, rel=0.02)  # rank 50 of 99


def test_random_scores_come_out_at_chance():
    random = np.random.default_rng(3)
    asked = holdout([[]] * 4000, random.integers(50, size=(4000, 1)).tolist(), np.arange(50))
    report = evaluate(Scorer(random.random((4000, 50))), asked, k=10)
    assert report["hr@10"] == pytest.approx(10 / 50, abs=0.02)
    assert report["ndcg@10"] == pytest.approx(sum(1 / math.log2(1 + r) for r in range(1, 11)) / 50, abs=0.01)


def test_equal_scores_count_half():
    report = evaluate(Scorer([[5, 1, 1, 1, 0, 0, 0, 0, 0, 0]]), holdout([[]], [[3]]), k=(2, 3))
    assert report["mrr"] == pytest.approx(1 / 3) and report["hr@2"] == 0 and report["hr@3"] == 1  # places 2 to 4


def test_hooks_scores_and_lists_agree():
    random = np.random.default_rng(0)
    table = random.permuted(np.tile(np.arange(10.0), (30, 1)), axis=1)
    targets = [random.choice(10, size=random.integers(1, 4), replace=False).tolist() for _ in range(30)]
    asked = holdout([[0]] * 30, targets)
    hidden = table.copy()
    hidden[:, 0] = -np.inf
    by_scores = evaluate(Scorer(table), asked, k=(1, 5))
    by_hooks = evaluate(Hooked(table), asked, k=(1, 5))
    by_lists = evaluate(Lister(LETTERS[np.argsort(-hidden, axis=1)]), asked, k=(1, 5))
    for name, value in by_scores.items():
        assert by_hooks[name] == value
        assert name == "mrr" or by_lists[name] == value
    assert "mrr" not in by_lists


def test_the_batch_size_changes_nothing():
    random = np.random.default_rng(1)
    table, targets = random.random((50, 10)), random.integers(10, size=(50, 2)).tolist()
    whole = evaluate(Scorer(table), holdout([[1]] * 50, targets))
    assert evaluate(Scorer(table), holdout([[1]] * 50, targets), batch_size=7) == whole


def test_a_model_of_another_catalogue_is_asked_in_its_own_rows():
    own = np.array(["b", "d", "z"])
    model = Hooked([[1, 2, 3]], own, popularity=np.array([4, 0, 2]))
    report = evaluate(model, holdout([[0, 1]], [[3, 4]]), k=2)  # seen a b, targets d e; the model ranks z, then d
    assert report["hr@2"] == 1 and report["recall@2"] == 0.5 and report["mrr"] == 0.5
    assert report.n_cold_targets == 2  # d has no event, e is unknown


def test_cold_targets_are_counted_and_kept():
    popularity = np.array([3, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    report = evaluate(Hooked([DESCENDING] * 2, popularity=popularity), holdout([[0], [0]], [[1], [2]]), k=2)
    assert report.n_cold_targets == 1 and report.n_targets == 2 and report["hr@2"] == 1
    train = SimpleNamespace(item_ids=LETTERS, popularity=lambda: popularity)
    assert evaluate(Scorer([DESCENDING] * 2), holdout([[0], [0]], [[1], [2]]), train=train).n_cold_targets == 1


def test_a_history_without_known_events_is_ranked_by_popularity():
    popularity = np.arange(10)
    report = evaluate(Hooked([DESCENDING] * 2, popularity=popularity), holdout([[], [9]], [[9], [0]]), k=1)
    assert report["hr@1"] == 1


def test_popularity_bias_is_the_mean_percentile_of_the_recommended_items():
    popularity = np.array([9, 5, 5, 0, 0, 0, 0, 0, 0, 0])
    report = evaluate(Hooked([DESCENDING], popularity=popularity), holdout([[3]], [[4]]), k=(1, 3))
    assert report["popularity@1"] == 1
    assert report["popularity@3"] == pytest.approx((9 + 7.5 + 7.5) / 27)


def test_lists_are_not_asked_for_without_coverage():
    report = evaluate(Hooked([DESCENDING]), holdout([[3]], [[4]]), k=3, coverage=False)
    assert "ndcg@3" in report and not any(name.startswith(("coverage", "popularity")) for name in report)


def test_intervals_are_reproducible_and_hold_the_mean():
    random = np.random.default_rng(5)
    asked = holdout([[]] * 200, random.integers(10, size=(200, 1)).tolist())
    report = evaluate(Scorer(random.random((200, 10))), asked, k=5)
    low, high = report.interval("hr@5")
    assert low < report["hr@5"] < high and (low, high) == report.interval("hr@5", seed=0)
    spread = 2 * 1.96 * np.sqrt(report["hr@5"] * (1 - report["hr@5"]) / 200)
    assert high - low == pytest.approx(spread, rel=0.15)
    narrow = report.interval("hr@5", level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert report.interval("ndcg@5", seed=1) != report.interval("ndcg@5", seed=0)
    with pytest.raises(ValueError, match="level"):
        report.interval("hr@5", level=95)


def test_a_report_is_a_mapping_a_table_and_json():
    asked = holdout([[0]], [[3]])
    report = evaluate(Scorer([DESCENDING]), asked, k=(5, 10))
    assert list(report)[:2] == ["hr@5", "hr@10"] and len(report) == len(dict(report))
    assert report.fingerprint == asked.fingerprint()
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ndcg@10"] == report["ndcg@10"] and plain["n_users"] == 1 and plain["exclude_seen"] is True
    assert str(report).splitlines()[1].split() == ["hr", "1.0000", "1.0000"]
    with pytest.raises(KeyError, match="hr@7: not among the metrics hr@5"):
        report["hr@7"]
    with pytest.raises(KeyError, match="no value per user"):
        report.interval("coverage@5")


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(ValueError, match="k: expected"):
        evaluate(Scorer([DESCENDING]), holdout([[]], [[1]]), k=(0, 5))
    with pytest.raises(ValueError, match="no users"):
        evaluate(Scorer([DESCENDING]), holdout([], []))
    with pytest.raises(ValueError, match="user 1 has no target"):
        evaluate(Scorer([DESCENDING] * 2), holdout([[], []], [[1], []]))
    with pytest.raises(ValueError, match=r"scores: expected shape \(1, 10\), got \(1, 9\)"):
        evaluate(Scorer([DESCENDING[1:]]), holdout([[]], [[1]]))
    with pytest.raises(TypeError, match="scores or recommend, got int"):
        evaluate(3, holdout([[]], [[1]]))


def test_metrics_equal_those_of_trec_eval():
    trec = pytest.importorskip("pytrec_eval")
    random = np.random.default_rng(11)
    n_users, item_ids = 60, np.arange(40)
    table = random.permuted(np.tile(np.arange(40.0), (n_users, 1)), axis=1)
    targets = [random.choice(40, size=random.integers(1, 15), replace=False).tolist() for _ in range(n_users)]
    report = evaluate(Scorer(table), holdout([[]] * n_users, targets, item_ids), k=(1, 5, 10))

    relevant = {str(user): {str(item): 1 for item in row} for user, row in enumerate(targets)}
    run = {str(user): {str(item): float(row[item]) for item in item_ids} for user, row in enumerate(table)}
    names = {"success": "hr", "recall": "recall", "P": "precision", "ndcg_cut": "ndcg", "map_cut": "map"}
    asked = {f"{name}.1,5,10" for name in names} | {"recip_rank"}
    expected = trec.RelevanceEvaluator(relevant, asked).evaluate(run)
    for name, ours in names.items():
        for k in (1, 5, 10):
            theirs = [expected[str(user)][f"{name}_{k}"] for user in range(n_users)]
            np.testing.assert_allclose(report.per_user(f"{ours}@{k}"), theirs, atol=1e-12)
    theirs = [expected[str(user)]["recip_rank"] for user in range(n_users)]
    np.testing.assert_allclose(report.per_user("mrr"), theirs, atol=1e-12)


# ---- drawn negatives, to compare with papers that have them ---------------------------------------------------------


def test_ranks_among_drawn_items_are_those_of_all_items_where_all_are_drawn():
    """With nine of ten items drawn, of which two are taken: seen items excluded, so nothing changes."""
    table = np.random.default_rng(0).standard_normal((3, 10))
    asked = holdout([[0], [9, 1], [4]], [[3], [2], [5, 6]])
    for kind in (Scorer, Hooked):
        full = evaluate(kind(table), asked, k=3, coverage=False)
        drawn = evaluate(kind(table), asked, k=3, sampled_negatives=9)
        for name in ("hr@3", "ndcg@3", "mrr"):
            np.testing.assert_array_equal(drawn.per_user(name), full.per_user(name))
        assert drawn.sampled_negatives == 9 and full.sampled_negatives is None and "coverage@3" not in drawn


def test_a_target_meets_as_many_drawn_items_as_are_asked_for_and_never_a_seen_one():
    """The target is the worst of all, so its rank counts the items it meets; the seen ones are the worst but it."""
    scores = np.arange(1000.0)[None].repeat(2, axis=0)
    asked = holdout([range(1, 900), [1]], [[0], [0]], np.arange(1000))
    ranks = [1 / evaluate(Hooked(scores, np.arange(1000)), asked, sampled_negatives=n)["mrr"] for n in (1, 60)]
    assert ranks == pytest.approx([2, 61])
    best_of_seen = holdout([range(1, 900), [1]], [[900], [0]], np.arange(1000))
    report = evaluate(Hooked(scores, np.arange(1000)), best_of_seen, sampled_negatives=100)
    assert 1 / report.per_user("mrr")[0] == pytest.approx(100)  # of all 100 free items all but item 0 are better


def test_a_model_that_guesses_is_found_among_the_first_ten_of_101_in_a_tenth_of_the_cases():
    rng = np.random.default_rng(0)
    n = 3000
    asked = holdout([[0]] * n, [[int(t)] for t in rng.integers(1, 500, n)], np.arange(500))
    report = evaluate(Scorer(rng.standard_normal((n, 500))), asked, k=10, sampled_negatives=100)
    assert report["hr@10"] == pytest.approx(10 / 101, abs=0.02)


def test_the_drawn_items_depend_on_the_seed_and_not_on_the_batches():
    table = np.random.default_rng(0).standard_normal((40, 300))
    asked = holdout([[i] for i in range(40)], [[i + 50] for i in range(40)], np.arange(300))

    def ranks(**how):
        return evaluate(Scorer(table), asked, sampled_negatives=20, **how).per_user("mrr").tolist()

    assert ranks() == ranks(batch_size=7) != ranks(seed=1)


def test_drawn_negatives_are_told_in_the_report_and_not_compared_with_full_ranking():
    asked = holdout([[0], [1]], [[3], [4]])
    full, drawn = (evaluate(Scorer([DESCENDING] * 2), asked, sampled_negatives=n) for n in (None, 5))
    assert "targets among 5 drawn items" in repr(drawn) and "drawn" not in repr(full)
    assert drawn.to_dict()["sampled_negatives"] == 5
    with pytest.raises(ValueError, match="the same exclude_seen and sampled_negatives"):
        drawn.difference(full, "mrr")


@pytest.mark.parametrize(("model", "n"), [(Scorer([DESCENDING]), 0), (Lister([list("bcd")]), 5)])
def test_negatives_need_a_number_and_scores(model, n):
    with pytest.raises(ValueError, match="sampled_negatives: expected at least 1, and a model with scores, got"):
        evaluate(model, holdout([[0]], [[3]]), k=3, sampled_negatives=n)


def test_a_batch_of_no_users_is_refused_and_numbers_of_numpy_are_cut_offs():
    split = leave_one_out(chains())
    model = Popularity().fit(split.train)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size: expected at least 1, got {size}"):
            evaluate(model, split.test, batch_size=size)
    assert dict(evaluate(model, split.test, k=np.int64(10))) == dict(evaluate(model, split.test, k=10))


def test_equal_targets_of_a_user_do_not_all_stand_in_the_middle():
    """Three targets and nothing else share a score: places 1 to 3, of which two are among the first two."""
    targets = Ragged([0, 1, 2], [0, 3])
    found = user_metrics(np.array([2.0, 2.0, 2.0]), targets, [2])
    assert found["precision@2"][0] == 1 and found["recall@2"][0] == 2 / 3
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 3, (1, 8)).astype(np.float32)
        rows = rng.choice(8, rng.integers(1, 8), replace=False)
        targets = Ragged(np.sort(rows), [0, len(rows)])
        found = user_metrics(expected_ranks(scores, targets), targets, [1, 2, 5])
        assert all(0 <= values[0] <= 1 for values in found.values()), found
