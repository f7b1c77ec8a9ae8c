"""What the answers of every room's routes have in common beside their versions: pages and secrets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request, Response

from bailiwick.kernel.http import check_if_match, encode_cursor


def version_guard(request: Request) -> Callable[[int], None]:
    """The request's If-Match, to be asked where the row is locked."""
    return partial(check_if_match, request)


def page(items: list[dict[str, Any]], following: str | None) -> dict[str, Any]:
    """One page of a list; ``following`` is the name or id the next page starts after."""
    return {"items": items, "next": encode_cursor(following) if following is not None else None}


def never_store(response: Response) -> None:
    """Mark an answer that holds a secret."""
    response.headers["Cache-Control"] = "no-store"
