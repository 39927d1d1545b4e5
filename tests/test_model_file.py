"""The model file: what is saved answers with the same bits, and what is damaged is refused."""

import copy
import hashlib
import json
import mmap
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import chains, small

import regard
from regard import model_file, tensor_file


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


def root(array):
    """What holds the memory of an array."""
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def test_a_loaded_model_is_the_mapped_file(fitted, tmp_path):
    fitted.save(tmp_path / "m")
    loaded = regard.load(tmp_path / "m")
    for array in (*loaded.params_.values(), loaded.item_ids_, loaded.popularity_):
        assert isinstance(root(array), mmap.mmap)


def test_what_is_written_to_a_loaded_model_stays_in_the_process(fitted, tmp_path):
    fitted.save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    for array in regard.load(tmp_path / "m").params_.values():
        np.add(array, 1, out=array)
    assert (tmp_path / "m").read_bytes() == before


def test_a_loaded_model_can_do_all_that_a_fitted_one_can(fitted, tmp_path):
    path = tmp_path / "m"
    fitted.save(path)
    answers = []
    for one in (copy.deepcopy(fitted), regard.load(path), pickle.loads(pickle.dumps(regard.load(path)))):
        one.add_items([500], like=[[101, 102]]).retire_items([103]).fit_more(chains(seed=1), epochs=1)
        one.save(path)  # over the file that is mapped
        answers.append((one.recommend([[101, 102], [500]], k=5), regard.load(path).recommend([[101, 102], [500]], k=5)))
    for pair in answers:
        for answer in pair:
            np.testing.assert_array_equal(answer.items, answers[0][0].items)
            np.testing.assert_array_equal(answer.scores, answers[0][0].scores)


ANONYMOUS = """
import re, sys, regard
def anonymous():
    return int(re.search(r"Anonymous: +([0-9]+) kB", open("/proc/self/smaps_rollup").read())[1]) // 1024
regard.load(sys.argv[1]).recommend([101, 102])  # modules, buffers
before = anonymous()
model = regard.load(sys.argv[2])
model.recommend([101, 102]), model.session([101, 102]).recommend()
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_process_with_a_large_model_needs_no_memory_of_its_own_for_the_items(fitted, tmp_path):
    fitted.save(tmp_path / "small")
    params = copy.copy(fitted.params_)
    n, large = 400_000, copy.copy(fitted)
    params["items.weight"] = np.random.default_rng(0).standard_normal((n, 16), np.float32)
    large.params_, large.item_ids_, large.popularity_ = params, np.arange(n), np.ones(n, np.int64)
    large.save(tmp_path / "large")  # 25 MB of vectors, 6 of 8-bit copies, 3 of ids
    command = [sys.executable, "-c", ANONYMOUS, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3


def test_a_tensor_that_fills_cache_lines_begins_with_one(tmp_path):
    rng = np.random.default_rng(0)
    types = ("float32", "float64", "int32", "int64", "uint8")
    tensors = {f"{kind}.{n}": rng.integers(0, 99, n).astype(kind) for kind in types for n in (0, 1, 3, 64, 100, 128)}
    tensor_file.write(tmp_path / "t", tensors, {"a": "b"})
    metadata, found = tensor_file.read(tmp_path / "t")
    assert metadata == {"a": "b"} and found.keys() == tensors.keys() == load_file(tmp_path / "t").keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype and found[name].flags.aligned
        if tensor.nbytes and tensor.nbytes % 64 == 0:
            assert found[name].ctypes.data % 64 == 0


def test_a_tensor_at_an_odd_place_is_copied_and_of_another_type_refused(tmp_path):
    save_file({"b": np.arange(9, dtype=np.float32), "a": np.arange(3, dtype=np.uint8)}, tmp_path / "f")
    raw = (tmp_path / "f").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    (tmp_path / "odd").write_bytes(struct.pack("<Q", size + 1) + raw[8 : 8 + size] + b" " + raw[8 + size :])
    found = tensor_file.read(tmp_path / "odd")[1]
    assert found["b"].flags.aligned and found["b"].tolist() == list(range(9)) and found["a"].tolist() == [0, 1, 2]
    save_file({"half": np.zeros(3, np.float16)}, tmp_path / "half")
    with pytest.raises(ValueError, match="expected arrays of float32, float64, int32, int64, uint8, got F16"):
        tensor_file.read(tmp_path / "half")


@pytest.mark.parametrize("name", ["items.weight", "norm.weight"])
def test_a_value_that_is_not_finite_is_refused_in_item_vectors_by_verify_and_elsewhere_at_once(fitted, tmp_path, name):
    broken = copy.copy(fitted)
    broken.params_ = fitted.params_ | {name: fitted.params_[name].copy()}
    broken.params_[name].flat[3] = np.nan
    broken.save(tmp_path / "m")
    for verify in (True,) if name == "items.weight" else (True, False):
        with pytest.raises(ValueError, match=f"tensor '{name}' has values that are not finite"):
            regard.load(tmp_path / "m", verify=verify)


@pytest.mark.parametrize("texts", [["a", "bc", ""], ["é", "日本", "plain"], [""], ["a\0b", "long " * 30]])
def test_texts_are_decoded_as_they_were(texts):
    packed = model_file._pack_strings("t", np.array(texts))
    found = model_file.Texts("t", packed["t.bytes"], packed["t.offsets"]).decoded()
    assert found.dtype.kind == "U" and found.tolist() == texts


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


def nested(depth):
    members = []
    for _ in range(depth):
        members = [{"kind": "blend", "settings": {}, "steps": [], "members": members}]
    return members


def test_a_header_that_is_too_deep_is_refused(fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"]["regard"] = (
        header["__metadata__"]["regard"][:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    )
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    with pytest.raises(ValueError, match="the header is damaged"):
        regard.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format_version="2.0"), "a newer regard is needed"),
        (lambda h: h.update(format_version=3), "the header is damaged"),
        (lambda h: h.update(kind="os.system"), "unknown kind of model 'os.system'"),
        (lambda h: h["settings"].update(dim=32), "expected shape"),
        (lambda h: h["settings"].update(dim=2**20, n_heads=2**12, attention_init="identity"), "expected shape"),
        (lambda h: h["settings"].update(n_blocks=10**12), "n_blocks: expected at most 1000, got 1000000000000"),
        (lambda h: h["settings"].update(evil=1), "the header is damaged"),
        (lambda h: h["settings"].pop("dim") and h["settings"].update(dim="wide"), "damaged"),
        (lambda h: h.update(steps=[]), "does not belong to the settings"),
        (lambda h: h.pop("settings"), "the header is damaged"),
        (lambda h: h.update(members=nested(100)), "members: expected a list, at most 16 deep"),
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
