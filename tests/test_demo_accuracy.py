"""On data with a known best, the attention model must come near it and leave behind what sees less."""

import numpy as np
import pytest

from regard.baselines import EASE, ItemKNN, Popularity, SequentialRules, tune
from regard.cli.demo import EPOCHS, SETTINGS
from regard.datasets import synthetic
from regard.metrics import evaluate
from regard.models.self_attention import SelfAttentionRecommender
from regard.recommender import Recommender
from regard.splits import leave_one_out


class LastEventOnly(Recommender):
    """The best that can be said from the last event alone, estimated from a large sample of the true process."""

    def __init__(self, table):
        self.table = table

    def _scores(self, histories):
        return self.table[histories.values[histories.offsets[1:] - 1]]


@pytest.fixture(scope="module")
def demo():
    data = synthetic()
    split = leave_one_out(data)
    model = SelfAttentionRecommender(**SETTINGS, epochs=EPOCHS).fit(split.train, validation=split.validation)
    return data, split, model


def test_the_demo_model_reaches_85_percent_of_the_best_and_beats_all_else_by_20(demo):
    data, split, model = demo
    hit_rate = evaluate(model, split.test, k=10)["hr@10"]
    best = data.best_possible.hit_rate(10)
    assert hit_rate >= 0.85 * best

    last = LastEventOnly(np.asarray(data.process.last_event_scores(), np.float32))
    last._set_catalogue(split.train)
    rivals = [Popularity().fit(split.train), last, *(tune(kind, split) for kind in (SequentialRules, EASE, ItemKNN))]
    for rival in rivals:
        assert hit_rate >= 1.2 * evaluate(rival, split.test, k=10, coverage=False)["hr@10"], rival
    assert evaluate(last, split.test, k=10)["hr@10"] == pytest.approx(0.26, abs=0.03)


def test_a_planted_cause_has_the_largest_effect_in_90_percent_of_cases(demo, record_property):
    data, split, model = demo
    found = {"effect": [], "rollout": [], "newest": []}
    for user in np.flatnonzero(data.causes.lengths).tolist():
        history, causes = split.test.histories[user], data.causes[user]
        reasons = model.explain(data.item_ids[history], data.item_ids[split.test.targets[user][0]])
        found["effect"].append(reasons.effect.argmax() in causes)
        found["rollout"].append(reasons.rollout.argmax() in causes)
        found["newest"].append(len(history) - 1 in causes)
    effect, rollout, newest = (np.array(values) for values in found.values())
    for name, values in found.items():
        record_property(name, float(np.mean(values)))
    record_property("effect where the newest event is no cause", float(effect[~newest].mean()))
    assert len(effect) > 3000 and effect.mean() >= 0.9
    # The newest event is mostly a cause: naming it always would pass, so the rest counts on its own. Where attention
    # leads is no cause, and how often it is one by chance differs between instruction sets, whose models differ.
    assert effect[~newest].mean() >= max(0.7, 2 * rollout[~newest].mean())
