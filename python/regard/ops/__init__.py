"""Kernels on NumPy arrays: every ``x_forward`` beside its ``x_backward``.

Arrays are float32, C-contiguous and never converted: a wrong type, shape or order raises ``TypeError`` or
``ValueError`` that names the argument, what was expected and what came. Batches are ragged: the rows of all sequences
one after another, plus offsets. Backward functions *add* into the gradients given as ``d...=`` arguments; without them
they make new ones. ``workspace=`` takes result arrays from a :class:`regard.workspace.Workspace` instead of new memory.

Results do not depend on the number of threads. Arrays on a CUDA device go in the place of NumPy's, and a function then
computes there: see `regard.cuda`.
"""

from regard.ops.arguments import Activation, Align, Dropout, Precision, SampledLoss
from regard.ops.attention import attention_backward, attention_forward, attention_weights
from regard.ops.catalogue import (
    cross_entropy_backward,
    cross_entropy_forward,
    cross_entropy_value_and_grad,
    pointer_loss_value_and_grad,
    quantize_items,
    rank_counts,
    sampled_loss_value_and_grad,
    topk,
)
from regard.ops.layers import (
    activation_backward,
    activation_forward,
    dropout,
    embedding_backward,
    embedding_bag_backward,
    embedding_bag_forward,
    embedding_forward,
    gate_backward,
    gate_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
    linear_maps_backward,
    linear_maps_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from regard.ops.optimizer import adagrad, adam, sgd, sum_squares
from regard.ops.pair_scores import (
    ActivationUnit,
    Normalize,
    activation_unit_backward,
    activation_unit_forward,
    additive_scores_backward,
    additive_scores_forward,
    weighted_sum_backward,
    weighted_sum_forward,
)
from regard.workspace import NEW, Workspace

__all__ = [
    "NEW",
    "Activation",
    "ActivationUnit",
    "Align",
    "Dropout",
    "Normalize",
    "Precision",
    "SampledLoss",
    "Workspace",
    "activation_backward",
    "activation_forward",
    "activation_unit_backward",
    "activation_unit_forward",
    "adagrad",
    "adam",
    "additive_scores_backward",
    "additive_scores_forward",
    "attention_backward",
    "attention_forward",
    "attention_weights",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "cross_entropy_value_and_grad",
    "dropout",
    "embedding_backward",
    "embedding_bag_backward",
    "embedding_bag_forward",
    "embedding_forward",
    "gate_backward",
    "gate_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
    "linear_maps_backward",
    "linear_maps_forward",
    "pointer_loss_value_and_grad",
    "quantize_items",
    "rank_counts",
    "rms_norm_backward",
    "rms_norm_forward",
    "sampled_loss_value_and_grad",
    "sgd",
    "sum_squares",
    "topk",
    "weighted_sum_backward",
    "weighted_sum_forward",
]
