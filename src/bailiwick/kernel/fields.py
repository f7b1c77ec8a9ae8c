"""The field types that request bodies and paths share, bounded so that nothing unstorable passes.

PostgreSQL cannot hold U+0000 in text, and control characters in a name or a description only serve to deceive a
reader of logs and lists, so they are refused here.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.http import decode_cursor

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
# people's names may be addresses: many directories know no others
USER_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$"
SCOPE_PATTERN = r"^[a-z][a-z0-9_.:-]{0,99}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
EMAIL_PATTERN = (
    r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
)
_PRINTABLE = r"^[^\x00-\x1f\x7f\x80-\x9f\u2028\u2029]*$"
_MULTILINE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=100), Field(examples=["web-server-01"])]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN, max_length=100)]
UserName = Annotated[str, StringConstraints(pattern=USER_NAME_PATTERN, max_length=100), Field(examples=["jane.doe"])]
UserNamePath = Annotated[str, Path(pattern=USER_NAME_PATTERN, max_length=100)]
IdPath = Annotated[str, Path(pattern=UUID_PATTERN)]
Scope = Annotated[str, StringConstraints(pattern=SCOPE_PATTERN, max_length=100), Field(examples=["payments:read"])]
Email = Annotated[
    str, StringConstraints(pattern=EMAIL_PATTERN, max_length=254), Field(examples=["jane.doe@example.com"])
]
Line = Annotated[str, StringConstraints(pattern=_PRINTABLE, max_length=200), Field(examples=["A line of text"])]
Text = Annotated[str, StringConstraints(pattern=_MULTILINE, max_length=2000), Field(examples=["Some text"])]


class Body(BaseModel):
    """A request body: unknown members are refused, so nothing can be assigned that a route does not name.

    Input is kept out of error texts, since bodies carry passwords.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def after_name(cursor: str | None) -> str:
    """The name a page starts after; empty for the first page. Raises ``invalid_request`` for a foreign cursor."""
    if cursor is None:
        return ""
    (name,) = decode_cursor(cursor, (str,))
    return _matching(NAME_PATTERN, name)


def after_user_name(cursor: str | None) -> str:
    """The same for the name of a person."""
    if cursor is None:
        return ""
    (name,) = decode_cursor(cursor, (str,))
    return _matching(USER_NAME_PATTERN, name)


def after_id(cursor: str | None) -> str:
    """The id a page, newest first, starts after; sorts above every id for the first page."""
    if cursor is None:
        return "g"
    (identifier,) = decode_cursor(cursor, (str,))
    return _matching(UUID_PATTERN, identifier)


def matches(pattern: str, value: str) -> bool:
    """Whether all of ``value`` has the form of one of these patterns."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), value) is not None


def _matching(pattern: str, value: str) -> str:
    if not matches(pattern, value):
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return value
