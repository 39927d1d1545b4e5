"""Models in the way that scikit-learn expects, without importing it; and as notebooks show them."""

import inspect
from itertools import product

import numpy as np
import pytest
from small_models import chains, small

import regard
from regard.baselines import EASE, ContentBased, ItemKNN, MatrixFactorization, Popularity, Repeats, SequentialRules

MODELS = [
    regard.SelfAttentionRecommender(dim=32, dropout=0.25, max_norm=None, loss="gbce", logq_correction=False),
    regard.SelfAttentionRecommender(),
    regard.TargetAttentionRecommender(scorer="dot", hidden=(8,)),
    Popularity(),
    SequentialRules(decay=0.7),
    EASE(regularization=10.0),
    ItemKNN(),
    Repeats(),
    ContentBased(decay=0.5),
    MatrixFactorization(factors=8),
    regard.Blend(weights=(1.0, 2.0)),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
class TestProtocol:
    def test_repr_can_be_pasted(self, model):
        namespace = {cls.__name__: cls for cls in (type(model), Popularity)}
        again = eval(repr(model), namespace)
        assert again.get_params() == model.get_params() and repr(again) == repr(model)

    def test_repr_leaves_out_what_is_the_default(self, model):
        defaults = {name: p.default for name, p in inspect.signature(type(model)).parameters.items()}
        for name, value in model.get_params().items():
            shown = f"({name}=" in repr(model) or f" {name}=" in repr(model)
            assert shown == (value != defaults[name])

    def test_the_constructor_keeps_the_very_objects_that_it_is_given(self, model):
        """What scikit-learn's clone checks: no work in the constructor."""
        params = {name: object() for name in model.get_params()}
        made = type(model)(**params)
        assert all(getattr(made, name) is value for name, value in params.items())
        assert not any(name.endswith("_") for name in vars(made))

    def test_unknown_parameters_are_refused(self, model):
        with pytest.raises(ValueError, match="depth: not a parameter of"):
            model.set_params(depth=3)

    def test_scikit_learn_can_clone_it(self, model):
        clone = pytest.importorskip("sklearn.base").clone
        cloned = clone(model)
        assert cloned is not model and cloned.get_params() == model.get_params()
        assert not hasattr(clone(type(model)(**model.get_params()).set_params()), "item_ids_")


def test_a_search_over_parameters_finds_the_better_model():
    split = regard.splits.leave_one_out(chains())
    grid = product([0.0, 0.3], [1e-6, 1e-2])
    scores = {}
    for dropout, rate in grid:
        model = small(epochs=25).set_params(dropout=dropout, learning_rate=rate)
        scores[dropout, rate] = model.fit(split.train, validation=None).score(split.validation)
    assert max(scores, key=scores.get)[1] == 1e-2
    report = regard.evaluate(model, split.validation, k=10)
    assert scores[0.3, 1e-2] == report["ndcg@10"]


def test_scalars_of_numpy_from_a_grid_are_plain_in_repr_file_and_checkpoint(tmp_path):
    grid = {"dim": np.int64(8), "dropout": np.float64(0.1), "learning_rate": np.float32(0.5), "max_norm": np.inf}
    model = small(epochs=1).set_params(**grid)
    again = eval(repr(model), {"SelfAttentionRecommender": regard.SelfAttentionRecommender})
    assert again.get_params() == model.get_params() and "np." not in repr(model)
    model.fit(chains(), checkpoint=tmp_path / "run").save(tmp_path / "m")
    assert regard.load(tmp_path / "m").get_params() == model.get_params()


@pytest.mark.parametrize(
    "grid",
    [{"n_heads": np.int64(2)}, {"n_blocks": np.int64(1)}, {"dropout": np.float32(0.25)}, {"ffn_dim": np.int32(8)}],
)
def test_scalars_of_numpy_train_answer_and_are_kept(grid, tmp_path):
    plain = {name: value.item() for name, value in grid.items()}
    one, other = (small(epochs=1, **how).fit(chains(), checkpoint=tmp_path / "run") for how in (grid, plain))
    one.save(tmp_path / "m")
    for model in (one, regard.load(tmp_path / "m")):
        np.testing.assert_array_equal(model.scores([[101, 102]]), other.scores([[101, 102]]))


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: small(loss="bce"), ["loss", "bce", "not yet"]),
        (lambda: small(epochs=2).fit(chains()), ["items", "12", "best epoch", "validation NDCG@10"]),
        (lambda: Popularity().fit(chains()), ["Popularity", "items", "12"]),
        (chains, ["users", "60", "density"]),
        (lambda: regard.splits.leave_one_out(chains()), ["train", "validation", "test", "60"]),
        (lambda: small(epochs=1).fit(chains()).recommend([[101, 102]], k=3), ["Recommendations for 1"]),
        (lambda: regard.evaluate(Popularity().fit(chains()), regard.splits.leave_one_out(chains()).test), ["ndcg@10"]),
    ],
)
def test_notebooks_show_a_table(make, shown):
    page = make()._repr_html_()
    assert page.startswith("<table>") and page.endswith("</table>")
    for text in shown:
        assert text in page


def test_what_notebooks_show_is_escaped():
    data = regard.Interactions(np.repeat([1, 2], 3), ["<script>alert(1)</script>", "b&c", "d"] * 2)
    result = Popularity().fit(data).recommend([["d"]], k=2)
    page = result._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "b&amp;c" in page
    assert "<b>" not in small(loss="<b>")._repr_html_()
