"""The small attention model that tutorials show, made so that it runs and learns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.nn import functions
from regard.nn.attention import Attention
from regard.nn.layers import Dense
from regard.nn.model import Model
from regard.nn.tape import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

HIDDEN = 64


class AttentionModel(Model):
    """Attention over the events of a history: ``h_i = sum_j a_ij x_j``, then a linear layer.

    ``a_ij = softmax_j(u_i·u_j / sqrt(64))`` with ``u = relu(W2 relu(W1 x))``: two dense layers of 64 give queries and
    keys, the events' own features are the values.

    Parameters
    ----------
    input_dim : int
        Features of an event.
    output_dim : int
        Columns of the output, and so of the target.
    activation : str or function, default None
        Of the last layer; see `Dense`. None is linear.

    Notes
    -----
    x is one history, (n events, input_dim), and the output then (n, output_dim); or a batch of histories of one
    length, (n histories, n events, input_dim). Features should be of the size of 1: scores grow with their square.

    Examples
    --------
    >>> x = np.arange(1, 10).reshape(3, 3) / 10
    >>> model = AttentionModel(input_dim=3, output_dim=3)
    >>> model.compile(optimizer="adam", loss="mse")
    >>> history = model.fit(x, x, epochs=10, verbose=0)
    >>> model.predict(x).shape
    (3, 3)
    """

    def __init__(self, input_dim: int, output_dim: int, *, activation: Any = None, name: str | None = None) -> None:
        super().__init__(name=name)
        for what, number in (("input_dim", input_dim), ("output_dim", output_dim)):
            if not isinstance(number, int | np.integer) or number < 1:
                raise ValueError(f"{what}: expected a whole number from 1, got {number!r}")
        self.input_dim, self.output_dim, self.activation = int(input_dim), int(output_dim), activation
        self.hidden_1 = Dense(HIDDEN, activation="relu")
        self.hidden_2 = Dense(HIDDEN, activation="relu")
        self.attention = Attention()
        self.output = Dense(output_dim, activation=activation)
        self.build((None, 1, self.input_dim))

    def call(self, x: Any, return_attention_scores: bool = False) -> Any:
        """(n, events, input_dim) or (events, input_dim) -> the same with output_dim."""
        x = functions.floats(x)
        if x.ndim == 2:
            result = self(functions.reshape(x, (1, *x.shape)), return_attention_scores=return_attention_scores)
            return tuple(one[0] for one in result) if return_attention_scores else result[0]
        hidden = self.hidden_2(self.hidden_1(x))
        query = hidden * (1 / math.sqrt(HIDDEN))
        if return_attention_scores:
            h, weights = self.attention([query, x, hidden], return_attention_scores=True)
            return self.output(h), weights
        return self.output(self.attention([query, x, hidden]))

    def attention_weights(self, x: Any) -> Array:
        """The weights ``a_ij``: row i says how much of each event j is in ``h_i``.

        Parameters
        ----------
        x : (n, input_dim) or (batch, n, input_dim)

        Returns
        -------
        (n, n) or (batch, n, n) float32
            Rows sum to 1.
        """
        events, single = self._histories("x", x)
        weights = self(events, return_attention_scores=True)[1].numpy()
        return np.asarray(weights[0] if single else weights)

    def predict(self, x: Any, *, batch_size: int = 32, verbose: int | str = "auto") -> Any:
        """Output for one history (n, output_dim), or for a batch of them."""
        y = super().predict(x, batch_size=batch_size, verbose=verbose)
        return y[0] if self._histories("x", x)[1] else y

    def _histories(self, name: str, x: Any) -> tuple[Array, bool]:
        events = np.asarray(x.data if isinstance(x, Tensor) else x)
        if events.ndim not in (2, 3) or events.dtype.kind not in "fiub":
            expected = f"(n, {self.input_dim}) or (batch, n, {self.input_dim})"
            raise ValueError(f"{name}: expected numbers {expected}, got shape {events.shape} of {events.dtype}")
        if events.shape[-1] != self.input_dim:
            raise ValueError(f"{name}: expected {self.input_dim} features (input_dim), got {events.shape[-1]}")
        return (events[None], True) if events.ndim == 2 else (events, False)

    def _inputs(self, x: Any) -> Array:
        return self._histories("x", x)[0]

    def _pair(self, x: Any, y: Any) -> tuple[Array, Array]:
        events, single = self._histories("x", x)
        target = self._targets(y)
        if single:
            target = target[None]
        if self.output_dim == 1 and target.shape == events.shape[:2]:
            target = target[..., None]
        if target.ndim == 3 and target.shape[-1] != self.output_dim and self.loss_wants_columns:
            raise ValueError(
                f"y: expected {self.output_dim} columns (output_dim={self.output_dim}), got {target.shape[-1]}: "
                f"make the model with output_dim={target.shape[-1]}, or choose the columns to predict"
            )
        return super()._pair(events, target)

    @property
    def loss_wants_columns(self) -> bool:
        """Whether the target has the columns of the output: not for classes as numbers."""
        return self.loss is None or self.loss.name != "sparse_categorical_crossentropy"

    def get_config(self) -> dict[str, Any]:
        """Arguments that make this model again."""
        return {"input_dim": self.input_dim, "output_dim": self.output_dim, "activation": self.activation}
