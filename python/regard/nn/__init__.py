"""A small Keras-like way to write models on regard's kernels.

The names, defaults, results and gradients are those of Keras 3; what differs is said where it does. Layers work on
padded batches as there; inside, masks become ragged batches for `regard.ops`.

>>> import numpy as np
>>> from regard import nn
>>> model = nn.Sequential([nn.Dense(8, activation="relu"), nn.Dense(1)])
>>> model.compile(optimizer="adam", loss="mse")
>>> x = np.linspace(0, 1, 40).reshape(20, 2)
>>> history = model.fit(x, x.sum(axis=1), epochs=3, verbose=0)
>>> model.predict(x).shape
(20, 1)
"""

from regard.nn.attention import AdditiveAttention, Attention
from regard.nn.attention_model import AttentionModel
from regard.nn.file import load_model
from regard.nn.functions import (
    add,
    concatenate,
    divide,
    exp,
    gather,
    gelu,
    log,
    matmul,
    mean,
    multiply,
    relu,
    reshape,
    sigmoid,
    silu,
    softmax,
    sqrt,
    square,
    subtract,
    sum,
    tanh,
    transpose,
)
from regard.nn.layer import Layer
from regard.nn.layers import Dense, Dropout, Embedding, LayerNormalization
from regard.nn.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Loss,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from regard.nn.model import History, Input, Model, Sequential
from regard.nn.multi_head import MultiHeadAttention
from regard.nn.optimizers import SGD, Adam, AdamW, Optimizer
from regard.nn.seeds import set_random_seed
from regard.nn.tape import Parameter, Tape, Tensor, record

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdditiveAttention",
    "Attention",
    "AttentionModel",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Dense",
    "Dropout",
    "Embedding",
    "History",
    "Input",
    "Layer",
    "LayerNormalization",
    "Loss",
    "MeanSquaredError",
    "Model",
    "MultiHeadAttention",
    "Optimizer",
    "Parameter",
    "Sequential",
    "SparseCategoricalCrossentropy",
    "Tape",
    "Tensor",
    "add",
    "concatenate",
    "divide",
    "exp",
    "gather",
    "gelu",
    "load_model",
    "log",
    "matmul",
    "mean",
    "multiply",
    "record",
    "relu",
    "reshape",
    "set_random_seed",
    "sigmoid",
    "silu",
    "softmax",
    "sqrt",
    "square",
    "subtract",
    "sum",
    "tanh",
    "transpose",
]
