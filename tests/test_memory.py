"""Memory in the steady state: no page faults, no buffer that grows with the square of a length."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import small

from regard import train
from regard.ragged import Ragged
from regard.workspace import Workspace

PER_CALL = 20  # page faults that Python itself may cause; without kept memory they are hundreds


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
def test_a_training_step_causes_no_page_faults(loss, rng):
    """Batches of 64 windows of 30 to 100 events; without kept memory each step has 4,700."""
    lengths = rng.integers(30, 101, 64 * 40)
    sequences = Ragged.from_lengths(rng.integers(0, 500, lengths.sum()).astype(np.int32), lengths)
    model = small(dim=64, max_len=100, batch_size=64, loss=loss, n_negatives=64)
    names = train.Settings.__dataclass_fields__
    settings = train.Settings(**{name: value for name, value in model.get_params().items() if name in names})
    run = train.Training(model.steps(), model.initial_parameters(500), sequences, settings, np.ones(500, np.int64))
    run.begin_epoch()
    for _ in range(8):
        run.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        run.step()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 30 < PER_CALL


# What follows runs in a process of its own: in this one, freed arrays may have taught the C library to keep memory.


def in_a_fresh_process(code):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(found.stdout)


def test_recommending_causes_no_page_faults():
    """64 histories of 50 events; without kept memory 1,800 a call."""
    code = """
import resource
import numpy as np
import regard

rng = np.random.default_rng(0)
model = regard.SelfAttentionRecommender(dim=64, max_len=50, epochs=1)
items = rng.integers(0, 30, (200, 10))
model.fit(regard.Interactions(np.repeat(np.arange(200), 10), items.ravel()), validation=None)
histories = items[rng.integers(0, 200, (64, 5))].reshape(64, 50).tolist()
for _ in range(8):
    model.recommend(histories, k=5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    model.recommend(histories, k=5)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""
    assert in_a_fresh_process(code) < PER_CALL


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_long_history_needs_no_quadratic_buffer():
    """In kB: its own results and the tiles of one thread. The scores of 4,096 events are 67 MB."""
    long = """
import re
import numpy as np
from regard import ops, set_num_threads

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

set_num_threads(1)
n = 4096
q, k, v, dout = (np.ones((n, 1, 16), np.float32) for _ in range(4))
cu, bias = np.array([0, n]), np.zeros((1, n), np.float32)
before = peak()
out, lse = ops.attention_forward(q, k, v, cu, cu, causal=True, bias=bias)
ops.attention_backward(dout, q, k, v, out, lse, cu, cu, causal=True, bias=bias)
print(peak() - before)
"""
    assert 0 < in_a_fresh_process(long) < 10_000


def test_a_workspace_keeps_its_memory_and_grows_to_what_was_wanted():
    ws = Workspace()
    for _ in range(2):
        ws.reset()
        arrays = [ws.empty((1000, 700)), ws.empty((3,), np.int64), ws.zeros((50, 2))]
    assert len({id(array.base) for array in arrays}) == 1  # one block
    addresses = [array.ctypes.data for array in arrays]
    assert all(address % 64 == 0 for address in addresses) and addresses == sorted(addresses)
    assert addresses[0] % (2 << 20) == 0  # huge pages begin there
    for i, array in enumerate(arrays):
        array.fill(i)
    assert [array.reshape(-1)[-1] for array in arrays] == [0, 1, 2]
    ws.reset()
    assert ws.empty((1000, 700)).ctypes.data == addresses[0]
