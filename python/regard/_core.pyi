"""Types of the compiled module. Arrays are checked at run time: type, shape, C order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Dropout = tuple[float, int, int, int]  # p, seed, step, site

class ServingModel:
    def __init__(self, header: str, tensors: dict[str, NDArray[Any]]) -> None: ...
    def encode(
        self,
        items: NDArray[np.int32],
        offsets: NDArray[np.int64],
        times: NDArray[np.int64] | None,
        asked_at: NDArray[np.int64] | None,
        h: NDArray[np.float32],
    ) -> None: ...
    def gains(
        self,
        items: NDArray[np.int32],
        offsets: NDArray[np.int64],
        times: NDArray[np.int64] | None,
        asked_at: NDArray[np.int64] | None,
        h: NDArray[np.float32],
        found: NDArray[np.int32],
        gains: NDArray[np.float32],
        counts: NDArray[np.int64],
    ) -> None: ...
    def recommend(
        self,
        items: NDArray[np.int32],
        offsets: NDArray[np.int64],
        times: NDArray[np.int64] | None,
        asked_at: NDArray[np.int64] | None,
        k: int,
        allow_offsets: NDArray[np.int64] | None,
        allow: NDArray[np.int32] | None,
        deny_offsets: NDArray[np.int64] | None,
        deny: NDArray[np.int32] | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
    def recommend_one(
        self, history: object, k: int, exclude_seen: bool
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]] | None: ...

class ServingSession:
    def __init__(self, model: ServingModel) -> None: ...
    def append_ids(self, ids: object, times: NDArray[np.int64] | None) -> int | None: ...
    def append_items(self, items: NDArray[np.int32], times: NDArray[np.int64] | None) -> None: ...
    def recommend(
        self,
        k: int,
        exclude_seen: bool,
        allow: NDArray[np.int32] | None,
        deny: NDArray[np.int32] | None,
        n_unknown: int,
        asked_at: int | None,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]: ...
    def window(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]: ...
    def bytes(self) -> int: ...

def abi_version() -> int: ...
def activation_backward(
    activation: int, dy: NDArray[np.float32], x: NDArray[np.float32], dx: NDArray[np.float32]
) -> None: ...
def activation_forward(activation: int, x: NDArray[np.float32], y: NDArray[np.float32]) -> None: ...
def activation_unit_backward(
    dz: NDArray[np.float32],
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    q_part: NDArray[np.float32],
    k_part: NDArray[np.float32],
    product: NDArray[np.float32],
    weight2: NDArray[np.float32],
    bias2: NDArray[np.float32],
    weight3: NDArray[np.float32],
    bias3: NDArray[np.float32],
    activation: int,
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    dq: NDArray[np.float32],
    dk: NDArray[np.float32],
    dq_part: NDArray[np.float32],
    dk_part: NDArray[np.float32],
    dproduct: NDArray[np.float32],
    dweight2: NDArray[np.float32],
    dbias2: NDArray[np.float32],
    dweight3: NDArray[np.float32],
) -> None: ...
def activation_unit_forward(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    q_part: NDArray[np.float32],
    k_part: NDArray[np.float32],
    product: NDArray[np.float32],
    weight2: NDArray[np.float32],
    bias2: NDArray[np.float32],
    weight3: NDArray[np.float32],
    bias3: NDArray[np.float32],
    activation: int,
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    z: NDArray[np.float32],
) -> None: ...
def adagrad(
    weight: NDArray[np.float32],
    grad: NDArray[np.float32],
    squares: NDArray[np.float32],
    learning_rate: float,
    eps: float,
    weight_decay: float,
    grad_scale: float,
    rows: NDArray[np.int32] | None,
) -> None: ...
def adam(
    weight: NDArray[np.float32],
    grad: NDArray[np.float32],
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: float,
    rows: NDArray[np.int32] | None,
) -> None: ...
def additive_scores_backward(
    dz: NDArray[np.float32],
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    dq: NDArray[np.float32],
    dk: NDArray[np.float32],
    dv: NDArray[np.float32],
) -> None: ...
def additive_scores_forward(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    z: NDArray[np.float32],
) -> None: ...
def attention_backward(
    dout: NDArray[np.float32],
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    out: NDArray[np.float32],
    lse: NDArray[np.float64],
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    softmax_scale: float | None,
    causal: bool,
    align_start: bool,
    bias: NDArray[np.float32] | None,
    dropout: _Dropout | None,
    time_bias: NDArray[np.float32] | None,
    times_q: NDArray[np.int64] | None,
    times_k: NDArray[np.int64] | None,
    dq: NDArray[np.float32] | None,
    dk: NDArray[np.float32] | None,
    dv: NDArray[np.float32] | None,
    dbias: NDArray[np.float32] | None,
    dtime_bias: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
def attention_forward(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    softmax_scale: float | None,
    causal: bool,
    align_start: bool,
    bias: NDArray[np.float32] | None,
    dropout: _Dropout | None,
    time_bias: NDArray[np.float32] | None,
    times_q: NDArray[np.int64] | None,
    times_k: NDArray[np.int64] | None,
    weights: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    lse: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]: ...
def compiler() -> str: ...
def cross_entropy_backward(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    targets: NDArray[np.int32],
    lse: NDArray[np.float64],
    row_weights: NDArray[np.float32] | None,
    dloss: float,
    dh: NDArray[np.float32],
    ditem_vectors: NDArray[np.float32],
) -> None: ...
def cross_entropy_forward(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    targets: NDArray[np.int32],
    row_weights: NDArray[np.float32] | None,
    lse: NDArray[np.float64],
) -> float: ...
def cross_entropy_value_and_grad(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    targets: NDArray[np.int32],
    row_weights: NDArray[np.float32] | None,
    precision: int,
    dh: NDArray[np.float32],
    ditem_vectors: NDArray[np.float32],
    seen_offsets: NDArray[np.int64] | None,
    seen: NDArray[np.int32] | None,
    cu_seqlens: NDArray[np.int64] | None,
) -> float: ...
def dropout(x: NDArray[np.float32], dropout: _Dropout, y: NDArray[np.float32]) -> None: ...
def embedding_backward(
    dy: NDArray[np.float32], ids: NDArray[np.int32], scale: float, dtable: NDArray[np.float32]
) -> None: ...
def embedding_bag_backward(
    dy: NDArray[np.float32],
    ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    cu_seqlens: NDArray[np.int64],
    dtable: NDArray[np.float32],
) -> None: ...
def embedding_bag_forward(
    table: NDArray[np.float32],
    ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    cu_seqlens: NDArray[np.int64],
    y: NDArray[np.float32],
) -> None: ...
def embedding_forward(
    table: NDArray[np.float32], ids: NDArray[np.int32], scale: float, y: NDArray[np.float32]
) -> None: ...
def gate_backward(
    activation: int,
    dy: NDArray[np.float32],
    gate: NDArray[np.float32],
    value: NDArray[np.float32],
    dgate: NDArray[np.float32],
    dvalue: NDArray[np.float32],
) -> None: ...
def gate_forward(
    activation: int, gate: NDArray[np.float32], value: NDArray[np.float32], y: NDArray[np.float32]
) -> None: ...
def isa() -> str: ...
def isa_available() -> list[str]: ...
def isa_built() -> list[str]: ...
def layer_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    mean: NDArray[np.float32],
    rstd: NDArray[np.float32],
    dx: NDArray[np.float32],
    dweight: NDArray[np.float32],
    dbias: NDArray[np.float32],
) -> None: ...
def layer_norm_forward(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    eps: float,
    y: NDArray[np.float32],
    mean: NDArray[np.float32],
    rstd: NDArray[np.float32],
) -> None: ...
def linear_backward(
    dy: Sequence[NDArray[np.float32]],
    x: NDArray[np.float32],
    weight: Sequence[NDArray[np.float32]],
    activation: int,
    dropout: _Dropout | None,
    saved: Sequence[NDArray[np.float32] | None],
    dx: NDArray[np.float32] | None,
    add_to_dx: bool,
    dweight: Sequence[NDArray[np.float32] | None],
    dbias: Sequence[NDArray[np.float32] | None],
) -> None: ...
def linear_forward(
    x: NDArray[np.float32],
    weight: Sequence[NDArray[np.float32]],
    bias: Sequence[NDArray[np.float32] | None],
    activation: int,
    dropout: _Dropout | None,
    residual: NDArray[np.float32] | None,
    saved: Sequence[NDArray[np.float32] | None],
    y: Sequence[NDArray[np.float32]],
) -> None: ...
def num_threads() -> int: ...
def num_threads_reason() -> str: ...
def pointer_loss_value_and_grad(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    targets: NDArray[np.int32],
    items: NDArray[np.int32],
    by_age: NDArray[np.float32],
    cu_seqlens: NDArray[np.int64],
    precision: int,
    negatives: NDArray[np.int32] | None,
    log_expected: NDArray[np.float32] | None,
    dh: NDArray[np.float32],
    ditem_vectors: NDArray[np.float32],
    dby_age: NDArray[np.float32],
) -> float: ...
def quantize_items(item_vectors: NDArray[np.float32], quantized: NDArray[np.uint8]) -> None: ...
def quantized_shape(n_items: int, dim: int) -> tuple[int, int]: ...
def rank_counts(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    target_offsets: NDArray[np.int64],
    targets: NDArray[np.int32],
    deny_offsets: NDArray[np.int64] | None,
    deny: NDArray[np.int32] | None,
    above: NDArray[np.int64],
    equal: NDArray[np.int64],
    gain_offsets: NDArray[np.int64] | None = None,
    gaining: NDArray[np.int32] | None = None,
    gains: NDArray[np.float32] | None = None,
) -> None: ...
def rms_norm_backward(
    dy: NDArray[np.float32],
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    rstd: NDArray[np.float32],
    dx: NDArray[np.float32],
    dweight: NDArray[np.float32],
) -> None: ...
def rms_norm_forward(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    eps: float,
    y: NDArray[np.float32],
    rstd: NDArray[np.float32],
) -> None: ...
def sampled_loss_value_and_grad(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    targets: NDArray[np.int32],
    negatives: NDArray[np.int32],
    binary: bool,
    log_expected: NDArray[np.float32] | None,
    beta: float,
    dh: NDArray[np.float32],
    ditem_vectors: NDArray[np.float32],
) -> float: ...
def set_isa(name: str) -> None: ...
def set_num_threads(n: int) -> None: ...
def sgd(
    weight: NDArray[np.float32],
    grad: NDArray[np.float32],
    buffer: NDArray[np.float32] | None,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    grad_scale: float,
    rows: NDArray[np.int32] | None,
) -> None: ...
def sum_squares(x: NDArray[np.float32]) -> float: ...
def topk(
    h: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    k: int,
    allow_offsets: NDArray[np.int64] | None,
    allow: NDArray[np.int32] | None,
    deny_offsets: NDArray[np.int64] | None,
    deny: NDArray[np.int32] | None,
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    quantized: NDArray[np.uint8] | None,
) -> None: ...
def version() -> str: ...
def weighted_sum_backward(
    dout: NDArray[np.float32],
    z: NDArray[np.float32],
    v: NDArray[np.float32],
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    softmax: bool,
    dz: NDArray[np.float32],
    dv: NDArray[np.float32],
) -> None: ...
def weighted_sum_forward(
    z: NDArray[np.float32],
    v: NDArray[np.float32],
    cu_seqlens_q: NDArray[np.int64],
    cu_seqlens_k: NDArray[np.int64],
    softmax: bool,
    out: NDArray[np.float32],
) -> None: ...
