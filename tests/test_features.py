"""Item features: what users give, what a model makes of it, and that it helps."""

import gzip
import re

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from small_models import chains, returning, small

import regard
from regard import ItemFeatures
from regard.cli import main
from regard.data import Interactions
from regard.features import EncodedFeatures
from regard.splits import leave_one_out
from regard.train import Training

IDS = np.array([3, 5, 9])


# ---- what users give ----


def test_features_become_entries_of_a_vocabulary_and_a_dense_array():
    features = ItemFeatures(
        IDS,
        categories={"kind": [["tea", "green"], "cup", None], "maker": [7, 7.0, "8"]},
        numbers={"price": [1.0, None, 3.0]},
        vectors={"text": [[3.0, 4.0], [0.0, 0.0], [0.0, 5.0]]},
    )
    encoded = EncodedFeatures.fit(features, IDS)
    assert encoded.how["categories"] == {"kind": ["cup", "green", "tea"], "maker": ["7", "8"]}
    assert encoded.how["numbers"] == {"price": [2.0, 1.0]}
    assert encoded.entries.tolist() == [[2, 1, 3], [0, 3], [4]]
    np.testing.assert_allclose(encoded.weights, [0.5**0.5, 0.5**0.5, 1, 1, 1, 1], rtol=1e-6)
    scale = (50 / 3) ** -0.5
    np.testing.assert_allclose(encoded.dense, [[-1, 3 * scale, 4 * scale], [0, 0, 0], [1, 0, 5 * scale]], rtol=1e-6)


def test_items_are_found_by_id_whatever_their_order_and_unknown_ones_have_nothing():
    mixed = ItemFeatures([9, 3, 5], categories={"kind": ["c", "a", "b"]})
    encoded = EncodedFeatures.fit(mixed, np.array([3, 4, 9]))
    assert encoded.how["categories"]["kind"] == ["a", "c"]  # 5 is not in the catalogue
    assert encoded.entries.tolist() == [[0], [], [1]]
    later = EncodedFeatures.encode(
        encoded.how, ItemFeatures([1, 2], categories={"kind": ["c", "new"]}), np.array([1, 2])
    )
    assert later.entries.tolist() == [[1], []]


def test_a_far_number_is_taken_as_five_deviations():
    values = np.zeros(1000)
    values[0] = 1e9
    encoded = EncodedFeatures.fit(ItemFeatures(np.arange(1000), numbers={"x": values}), np.arange(1000))
    assert encoded.dense.max() == 5.0


def test_frames_of_every_library_and_files_give_what_lists_give(tmp_path):
    columns = {
        "item_id": [3, 5, 9],
        "kind": ["tea", "cup", None],
        "price": [1.0, None, 3.0],
        "text": [[3.0], [0.0], [1.0]],
    }
    expected = ItemFeatures(
        columns["item_id"],
        categories={"kind": columns["kind"]},
        numbers={"price": columns["price"]},
        vectors={"text": columns["text"]},
    )
    for library in (pandas.DataFrame, polars.DataFrame, pyarrow.table):
        found = ItemFeatures.from_frame(library(columns), categories=["kind"], numbers=["price"], vectors=["text"])
        assert found.categories == expected.categories and found.item_ids.tolist() == [3, 5, 9]
        np.testing.assert_array_equal(found.numbers["price"], expected.numbers["price"])
        np.testing.assert_array_equal(found.vectors["text"], expected.vectors["text"])
    with pytest.raises(ValueError, match="features: the data frame has no column 'colour'"):
        ItemFeatures.from_frame(pandas.DataFrame(columns), categories=["colour"])
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress(b"movieId,title,genres,year\n3,A,x|y,1990\n5,B,,\n9,C,y,1992\n"))
    found = ItemFeatures.from_file(path)
    assert found.item_ids.tolist() == [3, 5, 9] and found.categories == {"genres": [["x", "y"], [], ["y"]]}
    np.testing.assert_array_equal(found.numbers["year"], [1990, np.nan, 1992])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        ItemFeatures.from_file(path)


@pytest.mark.parametrize(
    "kind, values, error, message",
    [
        ("categories", [1.5, "a", "b"], TypeError, "expected text, integers or lists"),
        ("categories", "abc", TypeError, "expected a value or a list for each item"),
        ("categories", ["a"], ValueError, "expected 3 values (as item_ids), got 1"),
        ("numbers", ["a", "b", "c"], TypeError, "expected a number for each item, got"),
        ("numbers", [1, 2, np.inf], ValueError, "expected finite numbers or NaN"),
        ("vectors", [1, 2, 3], ValueError, "expected an (n, d) array, got shape (3,)"),
        ("vectors", [[1], [2], [np.nan]], ValueError, "expected finite numbers"),
        ("vectors", [[1], [2, 3], [4]], TypeError, "expected an (n, d) array"),
    ],
)
def test_wrong_features_are_refused_by_name(kind, values, error, message):
    with pytest.raises(error, match=re.escape(f"{kind}['x']: {message}")):
        ItemFeatures(IDS, **{kind: {"x": values}})


def test_wrong_names_and_ids_are_refused():
    with pytest.raises(ValueError, match="features: expected every name once, got x, x"):
        ItemFeatures(IDS, categories={"x": IDS}, numbers={"x": IDS})
    with pytest.raises(ValueError, match="features: expected at least one of"):
        ItemFeatures(IDS)
    with pytest.raises(ValueError, match="item_ids: expected every id once"):
        ItemFeatures([1, 1], numbers={"x": [1, 2]})
    with pytest.raises(TypeError, match=r"features.item_ids: expected int64 item ids, got str"):
        chains().with_features(ItemFeatures(["a"], numbers={"x": [1]}))
    with pytest.raises(TypeError, match="features: expected ItemFeatures or None, got dict"):
        chains().with_features({"x": [1]})


# ---- what a model makes of them ----


def colours(n_items=12):
    """Items of a ring with their colour: even ones are red."""
    rng = np.random.default_rng(0)
    ids = np.arange(n_items) + 100
    return ItemFeatures(
        ids,
        categories={"colour": [["blue", "dark"] if i % 2 else "red" for i in range(n_items)]},
        numbers={"place": np.arange(n_items)},
        vectors={"picture": rng.standard_normal((n_items, 3))},
    )


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
@pytest.mark.parametrize("output_table", ["tied", "separate"])
@pytest.mark.parametrize(
    "how", [{}, {"normalize_items": True}, {"pointer": True}, {"pointer": True, "normalize_items": True}], ids=str
)
def test_gradients_of_the_item_vectors_are_those_of_differences(loss, output_table, how, rng):
    data = returning().with_features(colours())
    how = how | {"output_table": output_table}
    model = small(loss=loss, n_negatives=9, dropout=0.0, activation="gelu", precision="highest", **how)
    model._set_catalogue(data)
    model.features_ = EncodedFeatures.fit(data.features, data.item_ids)
    params = model.initial_parameters(data.n_items)
    for weight in params.values():
        np.add(weight, rng.standard_normal(weight.shape) * 0.1, out=weight, casting="same_kind")
    run = Training(model.steps(), params, data.sequences, model._settings(), data.popularity(), model.features_)
    examples = np.arange(12)

    def value():
        run.begin_epoch()
        run.ws.reset()
        for gradient in run.grads.values():
            gradient.fill(0)
        return run._gradients(examples, 1)

    grads = {name: gradient.copy() for name, gradient in value()[2].items()}
    tables = {"items"} | ({"output"} if output_table == "separate" else set())
    parts = ("categories", "map", *(["weight"] if loss == "softmax" else []))  # sampled: its rows alone
    names = [f"{table}.{part}" for table in sorted(tables) for part in parts]
    for name in names + (["pointer.weight"] if model.pointer else []):
        gradient = grads[name]
        for place in [(0, 0), (1, 2), (2, 1)]:
            before, sides = params[name][place], []
            for step in (3e-3, -3e-3):
                params[name][place] = before + step
                sides.append(value()[0])
            params[name][place] = before
            np.testing.assert_allclose(
                (sides[0] - sides[1]) / 6e-3, gradient[place], rtol=5e-3, atol=2e-4, err_msg=name
            )


def test_a_fitted_model_holds_the_sum_and_can_take_it_apart():
    data = chains().with_features(colours())
    model = small(epochs=3).fit(data, validation=None)
    own, features = model._unfolded(), model.features_
    matrix = np.zeros((12, 3))
    np.add.at(matrix, (features.entries.row_of, features.entries.values), features.weights)
    expected = own["items.weight"] + matrix @ own["items.categories"] + features.dense @ own["items.map"].T
    np.testing.assert_allclose(model.params_["items.weight"], expected, atol=1e-5)


def test_without_features_nothing_changes():
    plain, told = (
        small(epochs=2).fit(chains()),
        small(epochs=2, item_features=False).fit(chains().with_features(colours())),
    )
    assert plain.params_.keys() == told.params_.keys() and plain.features_ is told.features_ is None
    for name, weight in plain.params_.items():
        np.testing.assert_array_equal(weight, told.params_[name])


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_the_same_bits_for_any_number_of_threads_and_after_an_interruption(loss, tmp_path):
    data = chains().with_features(colours())
    found, before = [], regard.num_threads()
    for threads in (1, 2, 3):
        regard.set_num_threads(threads)
        found.append(small(epochs=2, loss=loss, n_negatives=5).fit(data).params_)
    regard.set_num_threads(before)
    path = tmp_path / "run"

    def stop(entry):
        raise KeyboardInterrupt

    small(epochs=2, loss=loss, n_negatives=5).fit(data, callbacks=[stop], checkpoint=path, checkpoint_seconds=0)
    found.append(small(epochs=2, loss=loss, n_negatives=5).fit(data, checkpoint=path).params_)
    with pytest.raises(ValueError, match="checkpoint"):
        small(epochs=2, loss=loss, n_negatives=5).fit(chains(), checkpoint=path)
    for params in found[1:]:
        for name, weight in params.items():
            np.testing.assert_array_equal(weight, found[0][name])


def test_the_file_keeps_features_and_refuses_damaged_ones(tmp_path):
    model = small(epochs=2).fit(chains().with_features(colours()), validation=None)
    path = tmp_path / "m.safetensors"
    model.save(path)
    loaded = regard.load(path, verify=True)
    assert loaded.features_.how == model.features_.how and loaded.features_.entries == model.features_.entries
    np.testing.assert_array_equal(loaded.scores([[101, 102]]), model.scores([[101, 102]]))
    loaded.fit_more(chains(seed=3), epochs=1)
    more = small(epochs=2).fit(chains().with_features(colours()), validation=None).fit_more(chains(seed=3), epochs=1)
    np.testing.assert_array_equal(loaded.params_["items.weight"], more.params_["items.weight"])
    model.features_.entries.values[0] = 99
    model.save(path)
    with pytest.raises(ValueError, match="the item features are damaged"):
        regard.load(path)


def test_items_come_and_go_with_their_features():
    model = small(epochs=30).fit(chains().with_features(colours()), validation=None)
    before = model.params_["items.weight"].copy()
    new = ItemFeatures([7], categories={"colour": ["red"]}, numbers={"place": [4]}, vectors={"picture": [[0, 0, 0]]})
    model.add_items([7, 8], features=new)
    added, old = model.params_["items.weight"][:2], before
    what_it_adds = model.features_.take([0]).vectors(np.zeros((1, 16), np.float32), model.params_, "items.weight")[0]
    np.testing.assert_allclose(np.linalg.norm(added[0]), 0.85 * np.linalg.norm(old, axis=1).mean(), rtol=1e-5)
    assert added[0] @ what_it_adds > 0.999 * np.linalg.norm(added[0]) * np.linalg.norm(what_it_adds)
    np.testing.assert_allclose(added[1], old.mean(axis=0), atol=1e-5)  # 8 has no features
    assert model.features_.entries.tolist()[:2] == [[model.features_.how["categories"]["colour"].index("red")], []]
    with pytest.raises(ValueError, match=r"features: expected categories \['colour'\], as the model has, got \[\]"):
        model.add_items([9], features=ItemFeatures([9], numbers={"place": [1]}))
    model.retire_items([7, 8])
    np.testing.assert_array_equal(model.params_["items.weight"], before)
    assert len(model.features_) == 12


def test_the_command_line_takes_a_file_of_features(tmp_path, capsys):
    data = chains()
    lines = [f"{u},{i}" for u, row in zip(data.user_ids, data.sequences, strict=True) for i in data.item_ids[row]]
    (tmp_path / "d.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text("item_id,colour\n" + "".join(f"{i},{'rb'[i % 2]}\n" for i in range(100, 112)))
    arguments = ["train", str(tmp_path / "d.csv"), "--features", str(tmp_path / "items.csv"), "--dim", "8"]
    path = tmp_path / "m.safetensors"
    assert main([*arguments, "--epochs", "1", "--out", str(path)]) == 0
    assert regard.load(path).features_.how["categories"] == {"colour": ["b", "r"]}
    assert main([*arguments, "--epochs", "1", "--item-features", "false", "--out", str(path)]) == 0
    assert regard.load(path).features_ is None
    (tmp_path / "items.csv").write_text("name,colour\n100,r\n")
    assert main([*arguments, "--out", str(path)]) == 2
    assert "no item_id among name, colour" in capsys.readouterr().err


# ---- that they help ----


def by_colour(rng, n_users, items_of_colour, n_colours=4, length=8):
    """Users walk through colours in order and take any item of the next colour."""
    colour = (rng.integers(0, n_colours, n_users)[:, None] + np.arange(length)) % n_colours
    items = colour + n_colours * rng.integers(0, items_of_colour, colour.shape)
    return np.repeat(np.arange(n_users), length), items.ravel()


def test_features_say_of_rare_and_of_new_items_what_their_events_cannot(rng):
    """400 items with 3 events each: ids alone learn little, the colour decides. A new item is placed by its colour."""
    users, items = by_colour(rng, 150, 100)
    features = ItemFeatures(np.arange(404), categories={"colour": np.arange(404) % 4})
    data = Interactions(users, items)
    split = leave_one_out(data)
    settings = {"epochs": 12, "batch_size": 32, "dropout": 0.1}
    found = {}
    for name, train in (("ids", split.train), ("features", split.train.with_features(features))):
        model = small(**settings).fit(train, validation=None)
        found[name] = regard.evaluate(model, split.test, k=100)["hr@100"]
    assert found["features"] > 0.9
    assert found["ids"] < 0.7
    model.add_items([400, 401, 402, 403], features=features)
    scores = model.scores([[0, 1, 2]])[0]  # next: colour 3
    new = scores[np.searchsorted(model.item_ids_, [400, 401, 402, 403])]
    assert new.argmax() == 3
