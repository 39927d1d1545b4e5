"""Files of `regard.nn` models: weights and a description in JSON, read without executing anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import model_file
from regard.nn.attention import AdditiveAttention, Attention
from regard.nn.attention_model import AttentionModel
from regard.nn.layer import FILE_SHAPES, Layer
from regard.nn.layers import Dense, Dropout, Embedding, LayerNormalization
from regard.nn.losses import LOSSES
from regard.nn.model import Model, Sequential
from regard.nn.multi_head import MultiHeadAttention
from regard.nn.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# What a file can bring to life, and nothing else.
_KNOWN: dict[str, type[Layer]] = {
    known.__name__: known
    for known in (
        AdditiveAttention,
        Attention,
        AttentionModel,
        Dense,
        Dropout,
        Embedding,
        LayerNormalization,
        MultiHeadAttention,
        Sequential,
    )
}


def _described(layer: Layer) -> dict[str, Any] | None:
    """A layer as JSON, or None where only its own code can make it again."""
    kind = type(layer)
    if _KNOWN.get(kind.__name__) is not kind:
        return None
    if isinstance(layer, Sequential):
        inner = [_described(one) for one in layer.layers]
        shape = None if layer.input_shape is None else list(layer.input_shape)
        described = {"class": kind.__name__, "name": layer.name, "input_shape": shape, "layers": inner}
        return None if None in inner else described
    config = layer.get_config()
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in config.values())
    return {"class": kind.__name__, "name": layer.name, "config": config} if plain else None


def _made(description: Any) -> Layer:
    kind = _KNOWN[description["class"]]
    if kind is Sequential:
        return Sequential([_made(one) for one in description["layers"]], name=description["name"])
    return kind(**description["config"], name=description["name"])


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """See `Model.save`."""
    if not model.built:
        raise ValueError(f"{model.name}: not built yet, so there are no weights: call it once, or fit it")
    weights = model.named_weights()
    settings: dict[str, Any] = {
        "class": type(model).__name__,
        "model": _described(model),
        "trainable": [name for name, _, trainable in model._walk("", True, set()) if trainable],
    }
    if model.optimizer is not None and model.loss is not None:
        settings["compile"] = {
            "optimizer": [model.optimizer.name, model.optimizer.get_config()],
            "loss": [model.loss.name, model.loss.get_config()],
            "metrics": model.metrics,
        }
    header = {"kind": model_file.NN, "settings": settings, "steps": []}
    model_file.write_tensors(path, header, {name: weight.data for name, weight in weights.items()})


def _read(path: str | os.PathLike[str], verify: bool) -> tuple[dict[str, Any], dict[str, Array]]:
    header, tensors = model_file.read_tensors(path, verify=verify)
    if header["kind"] != model_file.NN:
        raise ValueError(f"{os.fspath(path)}: a model of kind {header['kind']!r}: use regard.load")
    return header["settings"], tensors


def load_model(path: str | os.PathLike[str], *, verify: bool = False) -> Any:
    """Read a `Sequential` or an `AttentionModel` that ``save`` wrote. Nothing in the file is executed.

    Parameters
    ----------
    path : path
    verify : bool, default False
        Also compare the SHA-256 of every tensor with the header.

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is truncated or damaged; or it has the weights of a subclassed model or of layers of your own, which
        only their code can make: make the model, build it, and call ``model.load_weights(path)``.
    """
    name = os.fspath(path)
    settings, tensors = _read(path, verify)
    if settings.get("model") is None:
        raise ValueError(
            f"{name}: holds the weights of {settings.get('class')}, which only its own code can make again: "
            "make it, build it, then call load_weights on it with this path"
        )
    try:
        model = _built(settings["model"], tensors)
        _set_weights(model, tensors)
        trainable = set(settings["trainable"])
        for key, weight in model.named_weights().items():
            weight.trainable = key in trainable
        if "compile" in settings:
            _compile(model, settings["compile"])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{name}: the header is damaged ({error!r})") from None
    return model


def load_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """See `Model.load_weights`."""
    if not model.built:
        raise ValueError(f"{model.name}: not built yet: call it once on data, then load the weights")
    _, tensors = _read(path, False)
    try:
        _set_weights(model, tensors)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _set_weights(model: Model, tensors: dict[str, Array]) -> None:
    weights = model.named_weights()
    for name in weights.keys() ^ tensors.keys():
        raise ValueError(f"weight {name!r} is {'missing' if name in weights else 'not of this model'}")
    for name, weight in weights.items():
        found = tensors[name]
        if found.dtype != np.float32 or found.shape != weight.shape:
            raise ValueError(f"{name}: expected float32 {weight.shape}, got {found.dtype} {found.shape}")
    for name, weight in weights.items():
        weight.data[...] = tensors[name]


def _built(description: dict[str, Any], tensors: dict[str, Array]) -> Model:
    token = FILE_SHAPES.set(frozenset(tensor.shape for tensor in tensors.values()))
    try:
        model = _made(description)
        if not isinstance(model, Model):
            raise TypeError(f"{description['class']} is no model")
        if not model.built:
            model.build(_smallest(description["input_shape"], tensors))
    finally:
        FILE_SHAPES.reset(token)
    return model


def _smallest(shape: list[int], tensors: dict[str, Array]) -> tuple[int, ...]:
    """One entry of one place; features that no tensor has would only cost memory."""
    longest = max((n for tensor in tensors.values() for n in tensor.shape), default=1)
    return (*[1] * (len(shape) - 1), min(int(shape[-1]), longest))


def _compile(model: Model, how: dict[str, Any]) -> None:
    (optimizer, settings), (loss, options) = how["optimizer"], how["loss"]
    if loss in LOSSES and optimizer in OPTIMIZERS:  # a function as loss cannot be kept
        model.compile(OPTIMIZERS[optimizer](**settings), LOSSES[loss](**options), how["metrics"])
