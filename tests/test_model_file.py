"""The model file: what is saved answers with the same bits, and what is damaged is refused."""

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import chains, small

import regard


@pytest.fixture(scope="module")
def fitted():
    return small().fit(chains(), validation=None)


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
    header["__metadata__"]["sha256"] = hashlib.sha256(header["__metadata__"]["regard"].encode()).hexdigest()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.here: no such file"):
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


def test_every_flipped_byte_gives_a_clear_error_or_an_equal_model(tmp_path):
    model = small(dim=2, epochs=1, ffn_dim=2).fit(chains(n_users=10, n_items=5), validation=None)
    path = tmp_path / "m.safetensors"
    model.save(path)
    whole = path.read_bytes()
    expected = model.recommend([[101, 102]], k=3)
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            loaded = regard.load(path, verify=True)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        got = loaded.recommend([[101, 102]], k=3)
        np.testing.assert_array_equal(got.items, expected.items)
        np.testing.assert_array_equal(got.scores, expected.scores)
        assert repr(loaded) == repr(model)
    assert refused > 0.9 * len(whole)  # what is left: blanks that pad the header, the order of its entries


def test_flipped_bytes_that_are_not_verified_never_crash(tmp_path):
    model = small(dim=2, epochs=1, ffn_dim=2).fit(chains(n_users=10, n_items=5), validation=None)
    path = tmp_path / "m.safetensors"
    model.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            loaded = regard.load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert loaded.recommend([[101, 102]], k=3).items.shape == (1, 3)
