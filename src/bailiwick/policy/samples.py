"""Inputs on which every policy is tried before it is admitted: usual, odd, and made to the policy's own measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from bailiwick.policy.rego_compiled import demanded_inputs
from bailiwick.policy.rego_syntax import ParsedModule, Path

MAX_MADE_TO_MEASURE = 48

SEED_FORM: Mapping[str, Any] = {
    "user": {"id": "user-1", "role": "viewer", "roles": ["viewer"]},
    "action": "read",
    "resource": "server-1",
}
"""The input as the first seed's policy reads it."""

FULL_FORM: Mapping[str, Any] = {
    **SEED_FORM,
    "zone": "default",
    "subject": {"type": "user", "id": "user-1", "roles": ["viewer"]},
    "client": {"id": "client-1", "name": "agent", "role": "viewer", "grants": {"server-1": ["payments:read"]}},
    "server": {"name": "server-1", "tags": {"team": "payments"}, "roles": ["viewer"]},
    "operation": {"method": "GET", "path": "/v1/pay/7", "template": "/v1/pay/{id}", "scope": "payments:read"},
    "scope": ["payments:read"],
    "stage": "request",
}
"""The input as the gateway and the token endpoint send it."""


def standard_samples(input_paths: Sequence[Path], modules: Sequence[ParsedModule]) -> Iterator[dict[str, Any]]:
    """Samples for a set that reads ``input_paths``."""
    yield {}
    yield dict(SEED_FORM)
    for stage in ("mint", "request", "evaluate"):
        yield {**FULL_FORM, "stage": stage}
    paths = [path for path in input_paths if path] or [
        *(("user", key) for key in ("id", "role", "roles")),
        *((key,) for key in FULL_FORM if key != "user"),
    ]
    for value in _odd_values():
        document: dict[str, Any] = {}
        for path in paths:
            put(document, path, value)
        yield document
        # and one level up, where an object is expected
        yield {path[0]: value for path in paths}
    for demands in islice(demanded_inputs(modules), MAX_MADE_TO_MEASURE):
        for base in (SEED_FORM, FULL_FORM):
            document = _copy(base)
            for path, value in demands.items():
                put(document, path, value)
            yield document


def _odd_values() -> Iterator[Any]:
    yield None
    yield True
    yield False
    yield -1
    yield 1.5
    yield 2**53
    yield ""
    yield "admin"
    yield "\u0000\U0001f512" + "x" * 4_000
    yield []
    yield {}
    yield [None, 1, "admin", ["admin"], {"admin": True}]
    yield [f"value-{index}" for index in range(200)]
    yield {f"key-{index}": {"value": index} for index in range(200)}
    deep: Any = "bottom"
    for _ in range(60):
        deep = {"deeper": [deep]}
    yield deep


def put(document: dict[str, Any], path: Path, value: Any) -> None:
    """Sets a path, making objects on the way."""
    for step in path[:-1]:
        below = document.get(step)
        if not isinstance(below, dict):
            below = document[step] = {}
        document = below
    document[path[-1]] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
