"""A run can be stopped at any moment and goes on with the same bits; a write that fails leaves the old file whole."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import chains, small

import regard
from regard import tensor_file

SETTINGS = {
    "softmax": {},
    "averaged": {"weight_averaging": True, "normalize_items": True, "label_smoothing": 0.1, "mask_seen": True},
    "sampled": {"loss": "sampled_softmax", "n_negatives": 6, "negatives": "popularity", "output_table": "separate"},
    "pointer": {"pointer": True, "loss": "sampled_softmax", "n_negatives": 6, "output_table": "separate"},
    "adagrad": {"optimizer": "adagrad", "loss": "gbce", "n_negatives": 6},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "windows": "last"},
}


def split():
    return regard.splits.leave_one_out(chains())


def fit(path=None, *, stop_after=None, **settings):
    """Fit with a save after every batch; `stop_after` saves the run dies as a killed one would."""
    saves = iter(range(10**9))
    original = tensor_file.write

    def write(*arguments):
        original(*arguments)
        if next(saves) + 1 == stop_after:
            raise Killed

    data = split()
    model = small(**{"epochs": 4, "dropout": 0.3, **settings})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_file, "write", write)
        return model.fit(data.train, validation=data.validation, checkpoint=path, checkpoint_seconds=0)


class Killed(BaseException):
    pass


def same(a, b):
    for name, weight in a.params_.items():
        np.testing.assert_array_equal(weight, b.params_[name], err_msg=name)
    kept = ("epoch", "loss", "metric")
    histories = [[[entry[key] for key in kept] for entry in model.history_] for model in (a, b)]
    assert histories[0] == histories[1]
    assert a.best_epoch_ == b.best_epoch_


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_that_dies_after_any_save_ends_with_the_bits_of_one_that_does_not(settings, tmp_path):
    whole = fit(**settings)
    n_saves = 4 * 4 + 1  # batches, and the end
    for stop in range(1, n_saves + 1):
        path = tmp_path / f"{stop}.ckpt"
        with pytest.raises(Killed):
            fit(path, stop_after=stop, **settings)
        same(fit(path, **settings), whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = fit(tmp_path / "run")
    saved = (tmp_path / "run").stat().st_mtime_ns
    again = fit(tmp_path / "run")
    same(first, again)
    assert [entry["seconds"] for entry in first.history_] == [entry["seconds"] for entry in again.history_]
    assert (tmp_path / "run").stat().st_mtime_ns == saved


def test_a_run_stopped_by_ctrl_c_goes_on(tmp_path):
    data = split()

    def interrupt(entry):
        if entry["epoch"] == 2:
            raise KeyboardInterrupt

    how = {"validation": data.validation, "checkpoint": tmp_path / "run", "checkpoint_seconds": 0}
    settings = {"epochs": 4, "dropout": 0.3}
    stopped = small(**settings).fit(data.train, **how, callbacks=[interrupt])
    assert stopped.interrupted_ and len(stopped.history_) == 2
    same(small(**settings).fit(data.train, **how), fit())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.5}, r"learning_rate is 0.5, there 0.01"),
        ({"epochs": 5}, r"epochs is 5, there 4"),
        ({"n_blocks": 2}, r"the model differs"),
    ],
)
def test_another_run_does_not_go_on_from_it(settings, message, tmp_path):
    fit(tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=f"is of another run: {message}"):
        fit(tmp_path / "run", **settings)
    assert (tmp_path / "run").read_bytes() == before


def test_other_data_do_not_go_on_from_it(tmp_path):
    fit(tmp_path / "run")
    with pytest.raises(ValueError, match="the data differ"):
        small(epochs=4, dropout=0.3).fit(chains(seed=5), checkpoint=tmp_path / "run")


def test_another_instruction_set_goes_on_with_a_warning(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        fit(tmp_path / "run", stop_after=3)
    monkeypatch.setattr("regard.checkpoint._machine", lambda: {"version": "9", "isa": "abacus"})
    with pytest.warns(UserWarning, match="abacus"):
        fit(tmp_path / "run")


def test_a_damaged_checkpoint_is_refused_and_stays(tmp_path):
    path = tmp_path / "run"
    fit(path)
    whole = path.read_bytes()
    for change in (whole[:100], whole[:-1], b"", whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:]):
        path.write_bytes(change)
        with pytest.raises(ValueError, match="damaged"):
            fit(path)
        assert path.read_bytes() == change
    small(epochs=1).fit(chains()).save(path)
    with pytest.raises(ValueError, match="not a checkpoint of regard"):
        fit(path)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"checkpoint": "nowhere/run"}, FileNotFoundError, "checkpoint: no folder nowhere"),
        ({"checkpoint": "run", "checkpoint_seconds": -1}, ValueError, "checkpoint_seconds: expected at least 0"),
        ({"checkpoint": "run", "checkpoint_seconds": float("nan")}, ValueError, "checkpoint_seconds: expected"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_training(how, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        small().fit(chains(), **how)


# ---- writing: whole or not at all ------------------------------------------------------------------------------------

CALLS = [("write", False), ("write", True), ("fsync", False), ("replace", False), ("open", False), ("close", False)]


def failing(monkeypatch, name, nth, *, half=False):
    """The nth call of os.`name` fails as on a full disk; `half`: a write that takes half and then fails."""
    original, count = getattr(os, name), iter(range(10**9))

    def call(*arguments, **options):
        number = next(count)
        if number == nth and half:
            return original(arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)])
        if number == nth + half:
            if name == "close":
                original(*arguments)
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    return count


@pytest.mark.parametrize(("name", "half"), CALLS)
def test_a_write_that_fails_at_any_call_leaves_a_whole_file(name, half, tmp_path):
    path, old, new = tmp_path / "file", {"a": np.arange(5)}, {"a": np.arange(9.0), "b": np.ones((2, 3), np.float32)}
    failures = 0
    for nth in range(20):
        tensor_file.write(path, old, {"which": "old"})
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, name, nth, half=half)
            try:
                tensor_file.write(path, new, {"which": "new"})
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failures += 1
            else:
                if not half:
                    break
                continue
        metadata, tensors = tensor_file.read(path)
        expected = {"old": old, "new": new}[metadata["which"]]
        assert tensors.keys() == expected.keys()
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, expected[key])
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert failures >= {"write": 3, "fsync": 2, "replace": 1, "open": 1, "close": 2}[name]


def test_a_file_has_the_rights_that_the_user_gives_to_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        tensor_file.write(tmp_path / "file", {"a": np.zeros(1)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_short_writes_are_completed(tmp_path, monkeypatch):
    original = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: original(handle, data[:7]))
    tensors = {"x": np.arange(100, dtype=np.int32), "y": np.linspace(0, 1, 11), "z": np.zeros((0, 3), np.float32)}
    tensor_file.write(tmp_path / "file", tensors, {})
    for name, tensor in load_file(tmp_path / "file").items():
        np.testing.assert_array_equal(tensor, tensors[name])
        assert tensor.dtype == tensors[name].dtype and tensor.shape == tensors[name].shape


def test_a_failed_checkpoint_stops_the_run_and_keeps_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with pytest.raises(Killed):
        fit(path, stop_after=5)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "fsync", 0)
        with pytest.raises(OSError, match="No space left"):
            fit(path)
    assert path.read_bytes() == before
    same(fit(path), fit())


# ---- killed for real -------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_checkpoint import digest, fit
print(digest(fit(sys.argv[1], epochs=60)))
"""


def digest(model):
    return hashlib.sha256(b"".join(model.params_[name].tobytes() for name in sorted(model.params_))).hexdigest()


def killed_and_resumed(path, kills, rng):
    """Digest of the run that was killed so often, or as often as it lasted; and how often that was."""
    command = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent)), str(path)]
    done = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if done < kills:
            deadline = time.monotonic() + 30
            before = path.stat().st_mtime_ns if path.exists() else 0
            while process.poll() is None and time.monotonic() < deadline:  # until it saves: imports take longest
                if path.exists() and path.stat().st_mtime_ns != before:
                    break
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                done += 1
                continue
        output, _ = process.communicate()
        assert process.returncode == 0
        return output.strip(), done


def test_a_run_that_is_killed_goes_on_with_the_same_bits(tmp_path):
    got, kills = killed_and_resumed(tmp_path / "run", 3, random.Random(0))
    assert kills == 3
    assert got == digest(fit(epochs=60))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_fifty_random_kills_do_not_change_a_bit(tmp_path, record_property):
    expected, total, runs, rng = digest(fit(epochs=60)), 0, 0, random.Random(1)
    while total < 50:
        got, kills = killed_and_resumed(tmp_path / f"run{runs}", 50 - total, rng)
        assert got == expected
        total, runs = total + kills, runs + 1
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")] == []
    record_property("kills", total)
    record_property("runs", runs)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"attention_init": "identity"}, "the model differs"),
        ({"ffn_dim": 32}, "the model differs"),
        ({"exclude_seen": False}, "exclude_seen is False, there True"),
    ],
)
def test_a_run_of_another_model_or_judged_otherwise_is_not_gone_on_with(other, told, tmp_path):
    data, how = split(), {"exclude_seen": other.pop("exclude_seen")} if "exclude_seen" in other else {}
    small(epochs=1).fit(data.train, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match=f"is of another run: {told}"):
        small(epochs=1, **other).fit(data.train, checkpoint=tmp_path / "run", **how)
