"""The OpenAPI document of the service, made of its endpoints and messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

import regard

from . import messages

if TYPE_CHECKING:
    from .endpoint import Endpoint

_PROBLEMS = {
    "400": "The request is wrong; the message says what",
    "401": "The key is missing or wrong",
    "408": "The request did not come whole in time",
    "409": "The idempotency key was used for other events",
    "413": "The body is too large",
    "500": "A fault of the service",
    "503": "Overloaded, or the store cannot be used; Retry-After says when to come again",
}


def document(endpoints: Iterable[Endpoint], *, protected: bool) -> dict[str, Any]:
    """As of OpenAPI 3.1.

    Parameters
    ----------
    endpoints : all of the service
    protected : whether a key is asked for
    """
    endpoints = list(endpoints)
    types = {kind for end in endpoints for kind in (end.takes, end.gives) if kind is not None} | {messages.Problem}
    references, components = msgspec.json.schema_components(
        ordered := sorted(types, key=lambda kind: kind.__name__), ref_template="#/components/schemas/{name}"
    )
    schema = dict(zip(ordered, references, strict=True))
    paths: dict[str, Any] = {}
    for end in endpoints:
        paths.setdefault(end.path, {})[end.method.lower()] = _operation(end, schema, protected)
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "regard", "version": regard.__version__, "description": "Recommendations of a saved model."},
        "paths": paths,
        "components": {"schemas": components},
    }
    if protected:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return whole


def _operation(end: Endpoint, schema: dict[type, Any], protected: bool) -> dict[str, Any]:
    problem = {"application/json": {"schema": schema[messages.Problem]}}
    statuses = {"401"} if protected and end.protected else set()
    if end.takes is not None:
        statuses |= {"400", "408", "413", "500", "503"}
    if end.path == "/v1/events":
        statuses |= {"409"}
    if "{" in end.path or end.path == "/readyz":
        statuses |= {"500", "503"}
    if end.gives is not None:
        content: dict[str, Any] = {"application/json": {"schema": schema[end.gives]}}
    elif end.path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": {"type": "object"}}}
    operation: dict[str, Any] = {
        "summary": end.summary,
        "responses": {
            "200": {"description": end.summary, "content": content},
            **{status: {"description": _PROBLEMS[status], "content": problem} for status in sorted(statuses)},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", end.path)
    ]
    if end.takes is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema[end.takes]}},
        }
        parameters.append(
            {"name": "X-Deadline-Ms", "in": "header", "schema": {"type": "integer", "minimum": 1, "maximum": 999999999}}
        )
    if parameters:
        operation["parameters"] = parameters
    if protected and end.protected:
        operation["security"] = [{"key": []}]
    return operation
