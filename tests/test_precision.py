"""The cross-entropy in bfloat16: stated error bounds, the same care as float32; matrix tiles done by hand."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference

from regard import _core, ops

ROOT = Path(__file__).parents[1]
CPP = shutil.which("g++")
# Of lse (absolute) and of gradients (Frobenius, relative), where scores are of a few units and no item but the target
# takes more than about a tenth of a row's probability, as in a recommender; and in every case.
BOUNDS = {"highest": (1e-5, 2e-6), "high": (2e-5, 5e-4), "medium": (2e-2, 5e-3)}
WORST = {"highest": (1e-5, 1e-5), "high": (2e-5, 4e-3), "medium": (5e-2, 2e-2)}


def arrays(rng, n, n_items, dim, size=0.7):
    h, item_vectors = (rng.standard_normal((rows, dim)) * size / dim**0.25 for rows in (n, n_items))
    return h.astype(np.float32), item_vectors.astype(np.float32), rng.integers(0, n_items, n).astype(np.int32)


def assert_within(bounds, found, h, item_vectors, targets, weights=None):
    exact = [x.astype(np.float64) for x in (h, item_vectors)]
    w = None if weights is None else weights.astype(np.float64)
    loss, _ = reference.cross_entropy(*exact, targets, w)
    gradients = reference.cross_entropy_backward(*exact, targets, w)
    assert abs(found[0] - loss) <= bounds[0]
    for name, one, other in zip(("dh", "ditem_vectors"), found[1:], gradients, strict=True):
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert error <= bounds[1], f"{name}: {error:.1e}"


SHAPES = [(31, 255, 8), (63, 256, 50), (64, 257, 64), (130, 700, 100), (300, 3416, 64), (1, 300, 1)]
SMALL = [(1, 2, 3), (65, 31, 33), (7, 100, 1), (129, 513, 40)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", BOUNDS)
def test_errors_stay_within_the_stated_bounds(precision, shape, isa, rng):
    given = arrays(rng, *shape)
    assert_within(BOUNDS[precision], ops.cross_entropy_value_and_grad(*given, precision=precision), *given)


@pytest.mark.parametrize("shape", SHAPES + SMALL, ids=str)
@pytest.mark.parametrize("precision", WORST)
def test_peaked_rows_lose_no_more_than_the_rounding_of_one_number(precision, shape, isa, rng):
    given = arrays(rng, *shape, size=1.5)
    assert_within(WORST[precision], ops.cross_entropy_value_and_grad(*given, precision=precision), *given)


@pytest.mark.parametrize("precision", BOUNDS)
def test_one_item_leaves_nothing_to_learn(precision, isa, rng):
    loss, *gradients = ops.cross_entropy_value_and_grad(*arrays(rng, 3, 1, 4), precision=precision)
    assert abs(loss) < 1e-6
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("precision", BOUNDS)
def test_scores_that_rise_by_hundreds_along_the_catalogue_keep_their_digits(precision, isa, rng):
    h, item_vectors, targets = arrays(rng, 70, 1500, 8)
    h[:, 0], item_vectors[:, 0] = 16, np.repeat(np.arange(6), 250) * 5  # by 80 from tile to tile, exact in bfloat16
    found = ops.cross_entropy_value_and_grad(h, item_vectors, targets, precision=precision)
    assert_within((1e-4 if precision != "medium" else 5e-2, WORST[precision][1]), found, h, item_vectors, targets)


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_row_of_weight_zero_changes_no_bit_of_the_others(precision, isa, rng):
    h, item_vectors, targets = arrays(rng, 100, 600, 9)
    weights = rng.uniform(1, 3, 100).astype(np.float32)
    weights[::5] = 0
    clean = ops.cross_entropy_value_and_grad(h, item_vectors, targets, weights, precision=precision)
    assert_within(BOUNDS[precision], clean, h, item_vectors, targets, weights)
    h[::10], h[5::10] = np.nan, np.inf
    spoilt = ops.cross_entropy_value_and_grad(h, item_vectors, targets, weights, precision=precision)
    for one, other in zip(clean, spoilt, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_row_that_is_not_finite_gives_nan_and_leaves_the_others_alone(precision, isa, rng):
    h, item_vectors, targets = arrays(rng, 60, 600, 8)
    clean = ops.cross_entropy_value_and_grad(h, item_vectors, targets, precision=precision)[1]
    h[20, 3] = np.nan
    loss, dh, ditems = ops.cross_entropy_value_and_grad(h, item_vectors, targets, precision=precision)
    assert np.isnan(loss) and np.isnan(dh[20]).all() and np.isnan(ditems).all()
    others = np.arange(60) != 20
    np.testing.assert_array_equal(dh[others], clean[others])


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("n_items", [300, 20_000])
def test_the_bits_do_not_depend_on_the_number_of_threads(precision, n_items, threads, isa, rng):
    given = arrays(rng, 700, n_items, 5)
    found = ops.cross_entropy_value_and_grad(*given, precision=precision)
    _core.set_num_threads(1)  # the fixture puts the number back
    for one, other in zip(found, ops.cross_entropy_value_and_grad(*given, precision=precision), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_catalogue_too_large_for_a_block_is_computed_in_float32(precision, rng):
    given = arrays(rng, 5, 140_000, 3)
    assert_within(BOUNDS["highest"], ops.cross_entropy_value_and_grad(*given, precision=precision), *given)


# ---- matrix tiles by hand ----


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """The kernels of the tile level, compiled with tiles in plain C++."""
    if CPP is None or not (ROOT / "csrc").exists():
        pytest.skip("no g++, or no sources beside the tests")
    folder = tmp_path_factory.mktemp("tiles")
    source, shim = ROOT / "csrc", Path(__file__).parent / "tile_shim"
    flags = [
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-fopenmp-simd",
        "-Wno-psabi",
        "-fsanitize=undefined",
        "-fno-sanitize-recover",
    ]
    command = [CPP, *flags, f"-I{source}", f"-I{source / 'include'}", f"-I{shim}", "-o", "tiles.so"]
    subprocess.run([*command, str(shim / "cross_entropy.cpp")], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "tiles.so"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_matrix_tiles_stay_within_the_stated_bounds(by_hand, precision, shape, rng):
    h, item_vectors, targets = arrays(rng, *shape)
    n, n_items, dim = shape
    weights, loss, lse = np.full(n, 1 / n, np.float32), np.empty(n), np.empty(n)
    dh, ditems = np.zeros_like(h), np.zeros_like(item_vectors)
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (h, item_vectors, targets, weights)]
    results = [x.ctypes.data_as(ctypes.c_void_p) for x in (loss, lse, dh, ditems)]
    sizes = [ctypes.c_int64(size) for size in (n, n_items, dim)]
    by_hand.cross_entropy(int(precision == "high"), *pointers, *sizes, *results)
    assert_within(BOUNDS[precision], (loss.mean(), dh, ditems), h, item_vectors, targets)
    exact = reference.cross_entropy(h.astype(np.float64), item_vectors.astype(np.float64), targets)[1]
    np.testing.assert_allclose(lse, exact, rtol=0, atol=BOUNDS[precision][0])
