"""HTML forms as browsers and providers send them: small, each field once."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fastapi import Request

from bailiwick.kernel.errors import BailiwickError, InvalidRequest

_MEDIA_TYPE = "application/x-www-form-urlencoded"


async def fields_of(request: Request, *, most_bytes: int, longest: Mapping[str, int] | None = None) -> dict[str, str]:
    """The fields of a form; ``longest`` bounds the values of single ones, in characters.

    Raises ``InvalidRequest`` for what is no form, a field that stands twice and a value that is too long, and
    ``payload_too_large`` for more than ``most_bytes``.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != _MEDIA_TYPE:
        raise InvalidRequest(f"Send {_MEDIA_TYPE}.")
    body = await request.body()
    if len(body) > most_bytes:
        raise BailiwickError(f"The form is at most {most_bytes} bytes.", reason="payload_too_large")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise InvalidRequest("The form cannot be read.") from None
    form: dict[str, str] = {}
    for name, value in pairs:
        if name in form or "\x00" in value or len(value) > (longest or {}).get(name, most_bytes):
            raise InvalidRequest("A field stands twice, or its value is too long.")
        form[name] = value
    return form
