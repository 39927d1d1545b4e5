"""One request of SASRec in PyTorch and onnxruntime, on one thread: history to the best items, seen ones among them.

*As written*: every block for every event, as SASRec is written everywhere. *Newest only*: the last block asks for the
newest event alone, which is all that an answer needs.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import regard

Answer = Callable[[], np.ndarray]
WRITTEN, NEWEST, EAGER = "onnxruntime, as written", "onnxruntime, newest only", "torch eager, newest only"


def module_of(model: Any, k: int, newest: bool) -> Any:
    """A torch module: items of one history (length,) to the k best items."""
    import torch  # noqa: PLC0415

    nn = torch.nn.functional
    w = {name: torch.from_numpy(weight) for name, weight in model.params_.items()}
    dim = model.dim
    columns = w["items.weight"].T.contiguous()  # onnxruntime is 10 to 40 times slower with items @ h

    def linear(x: Any, name: str) -> Any:
        return nn.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return nn.layer_norm(x, (dim,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    class Sasrec(torch.nn.Module):
        def forward(self, items: Any) -> Any:
            length = items.shape[0]
            x = nn.embedding(items, w["items.weight"]) * dim**0.5 + w["positions.weight"][:length]
            for i in range(model.n_blocks):
                b = f"blocks.{i}"
                last = newest and i + 1 == model.n_blocks
                y = norm(x, f"{b}.attention_norm")
                q = linear(y[-1:] if last else y, f"{b}.attention.query")
                key, value = (linear(y, f"{b}.attention.{part}") for part in ("key", "value"))
                x = x[-1:] if last else x
                y = nn.scaled_dot_product_attention(q[None], key[None], value[None], is_causal=not last)[0]
                x = x + linear(y, f"{b}.attention.out")
                x = x + linear(torch.relu(linear(norm(x, f"{b}.ffn_norm"), f"{b}.ffn.1")), f"{b}.ffn.2")
            return (norm(x[-1:], "norm") @ columns)[0].topk(k).indices

    return Sasrec().eval()


def export(model: Any, history: np.ndarray, k: int, newest: bool, path: Path) -> Path:
    """As an ONNX file, for histories of just this length."""
    import torch  # noqa: PLC0415

    file = path.with_suffix(".newest.onnx" if newest else ".onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = (torch.from_numpy(history.astype(np.int64)),)
        torch.onnx.export(module_of(model, k, newest), given, str(file), dynamo=False, opset_version=17)
    return file


def open_onnx(file: Path, history: np.ndarray) -> Answer:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name, items = session.get_inputs()[0].name, history.astype(np.int64)
    return lambda: session.run(None, {name: items})[0]  # type: ignore[no-any-return]


def open_regard(path: Path, history: np.ndarray, k: int) -> Answer:
    model, ids = regard.load(path), history.tolist()
    return lambda: model.recommend(ids, k=k).items[0]  # type: ignore[no-any-return]


@functools.cache
def here(*modules: str) -> bool:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"left out: {name} is not installed", flush=True)
    return not missing


def contenders(model: Any, history: np.ndarray, k: int, path: Path) -> dict[str, Answer]:
    """Those that are installed."""
    found: dict[str, Answer] = {}
    if here("torch"):
        import torch  # noqa: PLC0415

        torch.set_num_threads(1)
        module, items = module_of(model, k, newest=True), torch.from_numpy(history.astype(np.int64))

        def eager() -> np.ndarray:
            with torch.inference_mode():
                return module(items).numpy()  # type: ignore[no-any-return]

        found[EAGER] = eager
    if here("torch", "onnx", "onnxruntime"):
        found[WRITTEN] = open_onnx(export(model, history, k, False, path), history)
        found[NEWEST] = open_onnx(export(model, history, k, True, path), history)
    return found


# ---- workers ---------------------------------------------------------------------------------------------------------


def available(model: Any, history: np.ndarray, k: int, path: Path) -> list[str]:
    """Who can be a worker, its file written."""
    if not here("torch", "onnx", "onnxruntime"):
        return ["regard"]
    export(model, history, k, True, path)
    return ["regard", "onnxruntime"]


def opener(name: str, path: Path, history: np.ndarray, k: int) -> Callable[[], Answer]:
    """What opens the file, everything imported that it needs."""
    if name == "regard":
        importlib.import_module("regard.models.self_attention")
        importlib.import_module("safetensors")
        return lambda: open_regard(path, history, k)
    importlib.import_module("onnxruntime")
    return lambda: open_onnx(path.with_suffix(".newest.onnx"), history)
