"""The steps that models are made of, forward and backward.

A model is a flat list of steps, plain dictionaries that a model file carries as they are: ``{"kind": "linear",
"weight": "blocks.0.ffn.1.weight", ...}``. A kind is one function here, ``y, backward = kind(x, step, run)``: it
returns its result and the function that turns the gradient of the result into the gradient of ``x``, adding the
gradients of its parameters on the way. :func:`forward` runs a list.

======== ==================================================================================================
kind     what it does (x is (total, dim), all sequences one after another)
======== ==================================================================================================
embed    rows of ``table`` for the items, times ``scale``
position adds ``weight[p]``, p = place in the sequence counted from its start
gap      adds ``weight[b]``, b = whole doublings of 1 + the seconds from the event to what is foretold from there, at
         most the last row
norm     layer norm with ``weight``, ``bias``, ``eps``
rms_norm root mean square norm with ``weight``, ``eps``
linear   ``activation(x W' + b)``
gated    ``activation(x W' + b) * (x V' + c)``: two linear maps ``gate`` and ``value`` (``.weight``, ``.bias``)
attention causal self-attention: three linear maps ``query``, ``key``, ``value`` (``.weight``, ``.bias``), ``heads``,
         optional ``distance_bias`` and ``time_bias`` tables, ``dropout`` on the weights. ``newest`` says that
         rows do not meet any more: where answers are made, only the last row of each sequence goes on from there
dropout  with rate ``p``, in training
save     remembers x
add      adds the x that the last open ``save`` remembered
gate_add adds to it ``sigmoid(saved W' + b) * x``
score    the end: x is compared with the rows of ``table``, in training by the loss, in serving by the top-k. With a
         ``pointer`` (``.weight``, ``.bias``) items of the history gain by how many events ago they were there
======== ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import ops
from regard.workspace import NEW, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Parameters = dict[str, Array]
    Backward = Callable[[Array], Array]

Step = dict[str, Any]


@dataclass
class Run:
    """One pass over a batch.

    Attributes
    ----------
    items : (total,) int32
    cu_seqlens : (batch + 1,) int64
    params : the parameters by name
    grads : where their gradients are added, or None when not training
    seed, step : what dropout depends on, beside the place
    times, next_times : (total,) int64 seconds, for a time bias
        Of each event, and of what is foretold from there: the event after it, or the moment that is asked about.
    """

    items: NDArray[np.int32]
    cu_seqlens: NDArray[np.int64]
    params: Parameters
    grads: Parameters | None = None
    seed: int = 0
    step: int = 0
    ws: Workspace = NEW
    times: NDArray[np.int64] | None = None
    next_times: NDArray[np.int64] | None = None
    saved: list[Array] = field(default_factory=list)
    saved_grads: list[Array] = field(default_factory=list)

    @property
    def training(self) -> bool:
        return self.grads is not None

    def add_grad(self, name: str) -> Array:
        if self.grads is None:
            raise RuntimeError("backward: expected a pass in training, got one without gradients")
        return self.grads[name]

    def drop(self, p: float, step: Step) -> ops.Dropout | None:
        return ops.Dropout(p, self.seed, self.step, step["site"]) if self.training and p > 0 else None

    def places(self) -> NDArray[np.int32]:
        """Place of each row in its sequence, from 0."""
        starts = np.repeat(self.cu_seqlens[:-1], np.diff(self.cu_seqlens))
        return (np.arange(len(self.items)) - starts).astype(np.int32)

    def gaps(self, n_buckets: int) -> NDArray[np.int32]:
        """Whole doublings of 1 + the seconds from each event to what is foretold from there, below ``n_buckets``."""
        if self.times is None or self.next_times is None:
            raise ValueError("gap: expected the times of the events, got none")
        seconds = np.clip(self.next_times - self.times, 0, 2**31 - 1).astype(np.float32) + np.float32(1)
        doublings = (seconds.view(np.int32) - np.float32(1).view(np.int32)) >> 23
        buckets: NDArray[np.int32] = np.minimum(doublings, np.int32(n_buckets - 1))
        return buckets


def item_tables(steps: list[Step]) -> tuple[str, str]:
    """Names of the item table that is read, and of the one that is scored."""
    return steps[0]["table"], steps[-1]["table"]


def forward(steps: list[Step], run: Run, x: Array | None = None) -> tuple[Array, Backward]:
    """Run the list. ``backward(dy)`` goes through it from the end and adds to ``run.grads``.

    A list that does not begin with "embed" takes its ``x``, and ``backward`` gives the gradient of it.
    """
    x = np.empty((0, 0), np.float32) if x is None else x
    backwards: list[Backward] = []
    for step in joined(steps):
        x, backward = KINDS[step["kind"]](x, step, run)
        backwards.append(backward)

    def all_backward(dy: Array) -> Array:
        for step_backward in reversed(backwards):
            dy = step_backward(dy)
        return dy

    return x, all_backward


def joined(steps: list[Step]) -> list[Step]:
    """The list with its places as ``site``, on which dropout depends, and with neighbours joined that take one pass.

    A linear map does the ``dropout`` and, where it has no activation, the ``add`` after it; a norm after ``save`` adds
    to the gradient that was saved.
    """
    result: list[Step] = []
    for site, step in enumerate(steps):
        last: Step = result[-1] if result else {"kind": None}
        maps = last["kind"] == "linear" and not last.get("adds")
        if step["kind"] == "dropout" and maps and "drop" not in last:
            last["drop"] = step | {"site": site}
        elif step["kind"] == "add" and maps and last["activation"] is None:
            last["adds"] = True
        elif step["kind"] in ("norm", "rms_norm") and last["kind"] == "save":
            result[-1] = step | {"site": site, "saves": True}
        else:
            result.append(step | {"site": site})
    return result


def unit_rows(x: Array, ws: Workspace = NEW) -> tuple[Array, Callable[[Array, Array], object]]:
    """Rows of length 1, and ``backward(dy, dx)``, which adds to dx; a row of zeros stays one.

    It is the root mean square norm with all weights 1 / sqrt(dim).
    """
    weight = ws.empty(x.shape[1:])
    weight.fill(x.shape[1] ** -0.5)
    y, rstd = ops.rms_norm_forward(x, weight, eps=1e-12, workspace=ws)
    return y, lambda dy, dx: ops.rms_norm_backward(dy, x, weight, rstd, dx=dx, workspace=ws)


def embed(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    name, scale = step["table"], step["scale"]
    y = ops.embedding_forward(run.params[name], run.items, scale=scale, workspace=run.ws)

    def backward(dy: Array) -> Array:
        ops.embedding_backward(dy, run.items, run.add_grad(name), scale=scale)
        return dy

    return y, backward


def position(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    name, places = step["weight"], run.places()
    x += ops.embedding_forward(run.params[name], places, workspace=run.ws)

    def backward(dy: Array) -> Array:
        ops.embedding_backward(dy, places, run.add_grad(name))
        return dy

    return x, backward


def gap(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    name, buckets = step["weight"], run.gaps(len(run.params[step["weight"]]))
    x += ops.embedding_forward(run.params[name], buckets, workspace=run.ws)

    def backward(dy: Array) -> Array:
        ops.embedding_backward(dy, buckets, run.add_grad(name))
        return dy

    return x, backward


def norm(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    weight, bias = step["weight"], step["bias"]
    y, mean, rstd = ops.layer_norm_forward(x, run.params[weight], run.params[bias], eps=step["eps"], workspace=run.ws)
    if step.get("saves"):
        run.saved.append(x)

    def backward(dy: Array) -> Array:
        grads = {"dx": _saved_grad(step, run), "dweight": run.add_grad(weight), "dbias": run.add_grad(bias)}
        return ops.layer_norm_backward(dy, x, run.params[weight], mean, rstd, **grads, workspace=run.ws)[0]

    return y, backward


def rms_norm(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    name = step["weight"]
    weight = run.params[name]
    y, rstd = ops.rms_norm_forward(x, weight, eps=step["eps"], workspace=run.ws)
    if step.get("saves"):
        run.saved.append(x)

    def backward(dy: Array) -> Array:
        grads = {"dx": _saved_grad(step, run), "dweight": run.add_grad(name)}
        return ops.rms_norm_backward(dy, x, weight, rstd, **grads, workspace=run.ws)[0]

    return y, backward


def _saved_grad(step: Step, run: Run) -> Array | None:
    """The gradient of what a norm saved, to add to."""
    if not step.get("saves"):
        return None
    saved = run.saved_grads.pop()
    return saved.copy() if any(saved is other for other in run.saved_grads) else saved


def linear(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    weight, bias, activation = step["weight"], step["bias"], step["activation"]
    dropout = run.drop(step["drop"]["p"], step["drop"]) if "drop" in step else None
    residual = run.saved.pop() if step.get("adds") else None
    how: dict[str, Any] = {"activation": activation, "dropout": dropout, "workspace": run.ws}
    y, saved = ops.linear_forward(x, run.params[weight], run.params[bias], residual=residual, **how)

    def backward(dy: Array) -> Array:
        if residual is not None:
            run.saved_grads.append(dy)
        grads: dict[str, Any] = {"dweight": run.add_grad(weight), "dbias": run.add_grad(bias)}
        return ops.linear_backward(dy, x, run.params[weight], saved=saved, **grads, **how)[0]

    return y, backward


def _linear_maps(x: Array, names: list[str], run: Run) -> tuple[list[Array], Callable[[list[Array]], Array]]:
    """The same x through several linear maps; the backward function takes the gradient of each."""
    weights, biases = ([f"{name}.{part}" for name in names] for part in ("weight", "bias"))
    matrices = [run.params[name] for name in weights]
    results = ops.linear_maps_forward(x, matrices, [run.params[name] for name in biases], workspace=run.ws)

    def backward(gradients: list[Array]) -> Array:
        dweights, dbiases = ([run.add_grad(name) for name in names] for names in (weights, biases))
        return ops.linear_maps_backward(gradients, x, matrices, dweights=dweights, dbiases=dbiases, workspace=run.ws)

    return results, backward


def gated(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    activation = step["activation"]
    (gate, value), maps_backward = _linear_maps(x, [step["gate"], step["value"]], run)

    def backward(dy: Array) -> Array:
        return maps_backward(list(ops.gate_backward(dy, gate, value, activation=activation, workspace=run.ws)))

    return ops.gate_forward(gate, value, activation=activation, workspace=run.ws), backward


def heads(x: Array, step: Step, run: Run) -> tuple[list[Array], Callable[[list[Array]], Array]]:
    """Queries, keys, values of an attention step, each (rows, heads, head_dim)."""
    results, backward = _linear_maps(x, [step[part] for part in ("query", "key", "value")], run)
    return [y.reshape(len(y), step["heads"], -1) for y in results], backward


def attention(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    cu = run.cu_seqlens
    (q, k, v), maps_backward = heads(x, step, run)
    table, by_time = step.get("distance_bias"), step.get("time_bias")
    how: dict[str, Any] = {"causal": True, "dropout": run.drop(step["dropout"], step), "workspace": run.ws}
    how["bias"] = None if table is None else run.params[table]
    if by_time is not None:
        how |= {"time_bias": run.params[by_time], "times_q": run.next_times, "times_k": run.times}
    out, lse = ops.attention_forward(q, k, v, cu, cu, **how)

    def backward(dy: Array) -> Array:
        dbias = None if table is None else run.add_grad(table)
        dout = dy.reshape(out.shape)
        biases: dict[str, Any] = {"dbias": dbias, "dtime_bias": None if by_time is None else run.add_grad(by_time)}
        dq, dk, dv, _ = ops.attention_backward(dout, q, k, v, out, lse, cu, cu, **how, **biases)
        return maps_backward([gradient.reshape(len(x), -1) for gradient in (dq, dk, dv)])

    return out.reshape(len(out), -1), backward


def dropout(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    rate = run.drop(step["p"], step)
    if rate is None:
        return x, _same
    return ops.dropout(x, rate, workspace=run.ws), lambda dy: ops.dropout(dy, rate, workspace=run.ws)


def save(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    run.saved.append(x)

    def backward(dy: Array) -> Array:
        dy += run.saved_grads.pop()
        return dy

    return x, backward


def add(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    y = run.ws.empty(x.shape)
    np.add(x, run.saved.pop(), out=y)

    def backward(dy: Array) -> Array:
        run.saved_grads.append(dy)
        return dy

    return y, backward


def gate_add(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    """The output gate of Parisotto et al. 2019, arXiv:1910.06764, table 1."""
    saved = run.saved.pop()
    gate, linear_backward = linear(saved, step | {"activation": None}, run)
    y = ops.gate_forward(gate, x, activation="sigmoid", workspace=run.ws)
    y += saved

    def backward(dy: Array) -> Array:
        dgate, dx = ops.gate_backward(dy, gate, x, activation="sigmoid", workspace=run.ws)
        dsaved = linear_backward(dgate)
        dsaved += dy
        run.saved_grads.append(dsaved)
        return dx

    return y, backward


def score(x: Array, step: Step, run: Run) -> tuple[Array, Backward]:
    return x, _same


def _same(dy: Array) -> Array:
    return dy


KINDS: dict[str, Callable[[Array, Step, Run], tuple[Array, Backward]]] = {
    "embed": embed,
    "position": position,
    "gap": gap,
    "norm": norm,
    "rms_norm": rms_norm,
    "linear": linear,
    "gated": gated,
    "attention": attention,
    "dropout": dropout,
    "save": save,
    "add": add,
    "gate_add": gate_add,
    "score": score,
}
