"""The bias by time of attention: `reference.py` against itself, then the kernel against `reference.py`."""

import functools

import numpy as np
import pytest
import reference
from test_attention import batch, every_mask

from regard import ops

DAY = 86_400


def timed(rng, n_q, n_k, heads, dim, n_buckets=80):
    """Arrays of a batch, and the options of the time bias: a query has the time of the event after it."""
    *arrays, cu_q, cu_k = batch(rng, n_q, n_k, heads, dim)
    times_q, times_k = np.zeros(cu_q[-1], np.int64), np.zeros(cu_k[-1], np.int64)
    for s in range(len(n_q)):
        gaps = (2.0 ** rng.uniform(-2, 14, n_k[s] + 1)).astype(np.int64)  # nothing to hours
        times = 1_500_000_000 + np.cumsum(gaps)
        times_k[cu_k[s] : cu_k[s + 1]] = times[:-1]
        times_q[cu_q[s] : cu_q[s + 1]] = times[np.clip(np.arange(n_q[s]) + n_k[s] - n_q[s] + 1, 0, n_k[s])]
    table = rng.standard_normal((heads, n_buckets)).astype(np.float32)
    return [*arrays, cu_q, cu_k], {"time_bias": table, "times_q": times_q, "times_k": times_k}


NAMES = ["out", "lse", "dq", "dk", "dv", "dtime_bias"]


def kernel(q, k, v, dout, cu_q, cu_k, **options):
    out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, **options)
    dtime_bias = np.zeros_like(options["time_bias"])
    gradients = ops.attention_backward(dout, q, k, v, out, lse, cu_q, cu_k, **options, dtime_bias=dtime_bias)
    return [out, lse, *gradients[:3], dtime_bias]


def by_reference(dtype, q, k, v, dout, cu_q, cu_k, *, causal=False, causal_align="end", **rest):
    q, k, v, dout = (x.astype(dtype) for x in (q, k, v, dout))
    rest |= {"scale": q.shape[2] ** -0.5, "causal": causal, "align": causal_align}
    rest |= {name: rest[name].astype(dtype) for name in ("bias", "time_bias") if name in rest}
    out, lse, _ = reference.ragged_attention(q, k, v, cu_q, cu_k, **rest)
    dq, dk, dv, _, dtime_bias = reference.ragged_attention_backward(dout, q, k, v, cu_q, cu_k, **rest)
    return [out, lse, dq, dk, dv, dtime_bias]


def check(*draws):
    """By the typical error: a pair in a wrong bucket is a thousand times above it. A draw is arrays and options."""

    def three_ways(arrays, options):
        exact, naive = (by_reference(dtype, *arrays, **options) for dtype in (np.float64, np.float32))
        return kernel(*arrays, **options), exact, naive

    reference.assert_typical_error_within_rule([three_ways(*draw) for draw in draws], NAMES)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        *((-5, 0), (0, 0), (1, 4), (2, 6), (3, 8), (4, 9), (5, 10), (6, 11), (7, 12), (8, 12), (9, 13)),
        *((DAY, 65), (7 * DAY, 76), (2**24 - 1, 96), (2**31 - 2, 124), (2**40, 124)),
    ],
)
def test_buckets_of_the_reference_are_quarters_of_a_doubling(seconds, bucket):
    assert reference.time_bucket(np.array([seconds]), np.array([0]), 128) == bucket
    assert reference.time_bucket(np.array([seconds]), np.array([0]), 7) == min(bucket, 6)


@every_mask
def test_the_reference_gradient_is_that_of_central_differences(mask, rng):
    (q, k, v, dout, cu_q, cu_k), options = timed(rng, [3, 2, 0], [2, 4, 1], 2, 3)
    q, k, v, dout = (x.astype(np.float64) for x in (q, k, v, dout))
    table = options.pop("time_bias").astype(np.float64)
    options |= {"scale": 0.7, "causal": bool(mask), "align": mask.get("causal_align", "end")}

    def loss(x):
        return (reference.ragged_attention(q, k, v, cu_q, cu_k, time_bias=x, **options)[0] * dout).sum()

    found = reference.ragged_attention_backward(dout, q, k, v, cu_q, cu_k, time_bias=table, **options)[4]
    assert np.count_nonzero(found) > 3
    np.testing.assert_allclose(found, reference.central_differences(loss, table), rtol=0, atol=1e-8)


@every_mask
@pytest.mark.parametrize("extra", ["nothing", "distances", "dropout"])
@pytest.mark.parametrize("dim", [5, 64])
def test_time_bias_and_its_gradient_follow_the_formula(mask, extra, dim, isa, rng):
    lengths = [0, 1, 2, 13, 49, 60, 61, 130, 260]
    arrays, options = timed(rng, lengths, lengths, 2, dim)
    if extra == "distances":
        options["bias"] = rng.standard_normal((2, 7)).astype(np.float32)
    if extra == "dropout":
        options["dropout"] = ops.Dropout(0.3, 1, 2, 3)
    check((arrays, options | mask))


@every_mask
def test_queries_and_keys_of_different_numbers_follow_the_formula(mask, isa, rng):
    arrays, options = timed(rng, [0, 3, 5, 1, 20], [4, 0, 9, 1100, 17], 1, 8)
    check((arrays, options | mask))


@pytest.mark.parametrize("n_buckets", [2, 17, 128])
def test_the_last_bucket_takes_all_that_is_later(n_buckets, isa, rng):
    draws = [timed(rng, [50], [50], 1, 8, n_buckets) for _ in range(8)]
    check(*((arrays, options | {"causal": True}) for arrays, options in draws))


def test_spans_beyond_68_years_count_as_68_years(isa, rng):
    arrays, options = timed(rng, [4], [4], 1, 8, 128)
    options["times_k"] = np.array([-(2**62), 0, 5, 2**62])
    options["times_q"] = np.array([-(2**62), -(2**62) + 9, -(2**62) + 2**31 - 2, 2**62])
    weights = ops.attention_weights(arrays[0], arrays[1], *arrays[4:], **options)
    options["times_k"] = np.array([0, 2**31 - 1, 2**31 - 1, 2**31 - 1])
    options["times_q"] = np.array([0, 9, 2**31 - 2, 2**31 - 1])
    expected = reference.ragged_attention(*arrays[:3], *arrays[4:], scale=8**-0.5, **options)[2]
    np.testing.assert_allclose(weights[0], expected[0], rtol=1e-5)


def test_a_second_counts_after_years(isa, rng):
    """32-bit floats would lose it: 10 years are 3e8 seconds."""
    arrays, options = timed(rng, [2], [3], 1, 4)
    options |= {"times_k": 1_500_000_000 + np.array([0, 315_360_000, 315_360_001])}
    options |= {"times_q": 1_500_000_000 + np.array([315_360_002, 315_360_001])}
    check((arrays, options))


def test_weights_are_those_of_the_formula(isa, rng):
    arrays, options = timed(rng, [70, 0, 300], [70, 3, 300], 2, 8)
    found = ops.attention_weights(*arrays[:2], *arrays[4:], causal=True, **options)
    double = [x.astype(np.float64) for x in arrays[:3]]
    exact = reference.ragged_attention(*double, *arrays[4:], scale=8**-0.5, causal=True, **options)[2]
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_table_of_zeros_changes_no_bit(isa, rng):
    (q, k, v, dout, cu_q, cu_k), options = timed(rng, [0, 50, 7], [0, 50, 7], 2, 16)
    options["time_bias"] = np.zeros_like(options["time_bias"])
    *found, _ = kernel(q, k, v, dout, cu_q, cu_k, causal=True, **options)
    out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, causal=True)
    plain = [out, lse, *ops.attention_backward(dout, q, k, v, out, lse, cu_q, cu_k, causal=True)[:3]]
    for name, one, other in zip(NAMES, found, plain, strict=False):
        np.testing.assert_array_equal(one, other, err_msg=name)


@functools.cache
def answer_of_one_thread():
    arrays, options = timed(np.random.default_rng(1), [40] * 50, [40] * 50, 2, 8)
    return arrays, options, kernel(*arrays, causal=True, **options)


def test_the_number_of_threads_changes_no_bit(threads):
    arrays, options, _ = answer_of_one_thread()
    first, again = (kernel(*arrays, causal=True, **options) for _ in range(2))
    for name, one, other, expected in zip(NAMES, first, again, answer_of_one_thread()[2], strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
        np.testing.assert_array_equal(one, expected, err_msg=name)


def test_the_gradient_is_added_to_what_is_there(rng):
    (q, k, v, dout, cu_q, cu_k), options = timed(rng, [20], [20], 2, 8)
    *_, plain = kernel(q, k, v, dout, cu_q, cu_k, **options)
    out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, **options)
    sums = np.full_like(plain, 2)
    ops.attention_backward(dout, q, k, v, out, lse, cu_q, cu_k, **options, dtime_bias=sums)
    np.testing.assert_array_equal(sums, plain + 2)


WRONG = [
    ({"time_bias": np.zeros((3, 9), np.float32)}, ValueError, r"time_bias: expected shape \(2, 9\), got \(3, 9\)"),
    ({"time_bias": np.zeros((2, 9))}, TypeError, "time_bias: expected a float32 array"),
    ({"time_bias": np.zeros((2, 129), np.float32)}, ValueError, "time_bias: expected 1 to 128 buckets, got 129"),
    ({"time_bias": np.zeros((2, 0), np.float32)}, ValueError, "time_bias: expected 1 to 128 buckets, got 0"),
    ({"time_bias": None}, ValueError, "time_bias: expected an array beside times_q and times_k, got None"),
    ({"times_q": None}, TypeError, r"times_q: expected a int64 array \(5,\), got NoneType"),
    ({"times_q": np.zeros(6, np.int64)}, ValueError, r"times_q: expected shape \(5,\), got \(6,\)"),
    ({"times_k": np.zeros(6)}, TypeError, r"times_k: expected a int64 array \(6,\), got float64"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(change, error, message, rng):
    (q, k, v, dout, cu_q, cu_k), options = timed(rng, [2, 3], [2, 4], 2, 8, 9)
    out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, **options)
    with pytest.raises(error, match=message):
        ops.attention_forward(q, k, v, cu_q, cu_k, **(options | change))
    with pytest.raises(error, match=message):
        ops.attention_backward(dout, q, k, v, out, lse, cu_q, cu_k, **(options | change))


def test_the_array_of_the_gradient_is_checked(rng):
    (q, k, v, dout, cu_q, cu_k), options = timed(rng, [2], [2], 1, 8, 9)
    out, lse = ops.attention_forward(q, k, v, cu_q, cu_k, **options)
    wrong = np.zeros((1, 8), np.float32)
    with pytest.raises(ValueError, match=r"dtime_bias: expected shape \(1, 9\), got \(1, 8\)"):
        ops.attention_backward(dout, q, k, v, out, lse, cu_q, cu_k, **options, dtime_bias=wrong)
