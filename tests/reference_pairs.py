"""Plain formulas of `regard.ops.pair_scores`: the vector [q, k, q - k, q * k] is made, one sequence at a time.

Every function works in the type of its arrays, as in `reference.py`.
"""

from itertools import pairwise

import numpy as np
import reference


def blocks(cu_q, cu_k):
    """(rows of q, rows of k, place in z, shape of the block) of each sequence."""
    at = 0
    for (q0, q1), (k0, k1) in zip(pairwise(cu_q), pairwise(cu_k), strict=True):
        shape = (int(q1 - q0), int(k1 - k0))
        yield slice(q0, q1), slice(k0, k1), slice(at, at + shape[0] * shape[1]), shape
        at += shape[0] * shape[1]


def scores(function, q, k, parameters, cu_q, cu_k):
    """z of all sequences by `function(q, k, *parameters)`, which gives one block."""
    parts = [function(q[rows], k[keys], *parameters).ravel() for rows, keys, _, _ in blocks(cu_q, cu_k)]
    return np.concatenate([*parts, np.zeros(0, q.dtype)])


def scores_backward(function, dz, q, k, parameters, cu_q, cu_k):
    """[dq, dk, *gradients of the parameters] by `function(dz, q, k, *parameters)`, which gives them for one block."""
    dq, dk, sums = np.zeros_like(q), np.zeros_like(k), [np.zeros_like(x) for x in parameters]
    for rows, keys, place, shape in blocks(cu_q, cu_k):
        if shape[0] * shape[1]:
            dq[rows], dk[keys], *parts = function(dz[place].reshape(shape), q[rows], k[keys], *parameters)
            sums = [total + part for total, part in zip(sums, parts, strict=True)]
    return [dq, dk, *sums]


def additive(q, k, v):
    return np.tanh(q[:, None] + k[None]) @ v


def additive_backward(dz, q, k, v):
    """dq, dk, dv."""
    t = np.tanh(q[:, None] + k[None])
    g = dz[..., None] * v * (1 - t * t)
    return g.sum(axis=1), g.sum(axis=0), np.tensordot(dz, t, 2)


def unit_input(q, k):
    """(n_q * n_k, 4 dim)."""
    q, k = (x.reshape(-1, q.shape[1]) for x in np.broadcast_arrays(q[:, None], k[None]))
    return np.concatenate([q, k, q - k, q * k], axis=1)


def unit(kind):
    def forward(q, k, weight1, bias1, weight2, bias2, weight3, bias3):
        hidden = reference.linear(unit_input(q, k), weight1, bias1, kind)
        z = reference.linear(hidden, weight2, bias2, kind) @ weight3 + bias3
        return z.reshape(len(q), len(k))

    return forward


def unit_backward(kind):
    def backward(dz, q, k, weight1, bias1, weight2, bias2, weight3, bias3):
        """dq, dk and the gradients of the six parameters."""
        x, dz = unit_input(q, k), dz.ravel()
        hidden1 = reference.linear(x, weight1, bias1, kind)
        hidden2 = reference.linear(hidden1, weight2, bias2, kind)
        dhidden1, dweight2, dbias2 = reference.linear_backward(np.outer(dz, weight3), hidden1, weight2, bias2, kind)
        dx, dweight1, dbias1 = reference.linear_backward(dhidden1, x, weight1, bias1, kind)
        of_q, of_k, of_difference, of_product = np.split(dx.reshape(len(q), len(k), -1), 4, axis=2)
        dq = (of_q + of_difference + of_product * k[None]).sum(axis=1)
        dk = (of_k - of_difference + of_product * q[:, None]).sum(axis=0)
        dbias3 = dz.sum(keepdims=True)
        return dq, dk, dweight1, dbias1, dweight2, dbias2, dz @ hidden2, dbias3

    return backward


def weights(z, normalize):
    if normalize == "none":
        return z
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def weighted_sum(z, v, cu_q, cu_k, normalize):
    out = np.zeros((cu_q[-1], v.shape[1]), v.dtype)
    for rows, keys, place, shape in blocks(cu_q, cu_k):
        if shape[1]:
            out[rows] = weights(z[place].reshape(shape), normalize) @ v[keys]
    return out


def weighted_sum_backward(dout, z, v, cu_q, cu_k, normalize):
    """dz, dv."""
    dz, dv = np.zeros_like(z), np.zeros_like(v)
    for rows, keys, place, shape in blocks(cu_q, cu_k):
        if shape[1]:
            a, da = weights(z[place].reshape(shape), normalize), dout[rows] @ v[keys].T
            dv[keys] = a.T @ dout[rows]
            if normalize == "softmax":
                da = a * (da - (a * da).sum(axis=1, keepdims=True))
            dz[place] = da.ravel()
    return dz, dv
