"""A saved model as an HTTP service (extra ``serve``).

    regard serve model.safetensors

or inside another ASGI application:

    app.mount("/recommendations", regard.serve.Service("model.safetensors"))

Requests and answers are in ``messages``, addresses in ``service``; ``stores`` keeps users' events, ``queue`` decides
what is answered when, ``live_model`` replaces the model, ``workers`` runs processes.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from .settings import Process, Settings

for _needed in ("msgspec", "starlette", "prometheus_client"):
    if find_spec(_needed) is None:
        raise ModuleNotFoundError(f"the service needs {_needed}: pip install 'regard[serve]'")

__all__ = ["Process", "Service", "Settings"]


def __getattr__(name: str) -> Any:
    if name == "Service":
        from .service import Service  # noqa: PLC0415

        return Service
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
