"""A look by a query that answers one number or one boolean.

The transaction is read-only, the statement has a time limit and is one statement (the extended protocol takes no two);
our own database is asked as the application's role, or as one that sees nothing but the
views.
"""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import SqlCheck
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import reached
from bailiwick.kernel.db import APP_ROLE, libpq_url

_AS = {
    "app": (APP_ROLE, "bailiwick"),
    "readonly": ("bailiwick_readonly", "public"),
    "audit_readonly": ("bailiwick_audit_readonly", "public"),
}
_READS = re.compile(r"\s*(select|with|values|table|show)\b", re.IGNORECASE)


async def sql(check: SqlCheck, means: Means, asked: Asked) -> Found:
    """Ask, and answer the one value."""
    if not _READS.match(check.query):
        raise LookFailed("the query is none that only reads")
    address = await _external(check, means) if check.url_file else {"conninfo": libpq_url(means.own_database)}
    try:
        async with asyncio.timeout(asked.timeout_s):
            own = check.role if check.url_file is None else ""
            rows = await _ask(address, check.query, asked.timeout_s, own=own)
    except TimeoutError:
        raise LookFailed(f"no answer within {asked.timeout_s:g} s") from None
    except psycopg.Error as error:
        told = error.diag.message_primary or type(error).__name__
        raise LookFailed(f"the query failed: {told}") from None
    if not rows:
        return Found(absent="the query answers no row", unit=check.unit)
    if len(rows) > 1 or len(rows[0]) != 1:
        raise LookFailed("the query answers more than one value")
    value = rows[0][0]
    output = f"{check.query}\n\n{value}\n".encode()
    if value is None:
        return Found(absent="the query answers null", unit=check.unit, output=output)
    if isinstance(value, bool):
        return Found(float(value), check.unit, f"answers {str(value).lower()}", output, holds=value)
    if isinstance(value, (int, float, Decimal)):
        return Found(float(value), check.unit, f"answers {float(value):g}", output)
    raise LookFailed("the query answers neither a number nor a boolean")


async def _ask(address: dict[str, Any], query: str, timeout_s: float, *, own: str) -> list[tuple[Any, ...]]:
    conninfo = address.pop("conninfo", "")
    limit = max(1, int(timeout_s))
    async with await psycopg.AsyncConnection.connect(
        conninfo, connect_timeout=max(2, limit), autocommit=True, prepare_threshold=None, **address
    ) as connection:
        await connection.set_read_only(True)
        async with connection.transaction():
            if own:
                role, path = _AS[own]
                await connection.execute(f"SET LOCAL ROLE {role}".encode())
                await connection.execute(f"SET LOCAL search_path = {path}".encode())
            # a little before ours, so that it is the server that ends the statement
            await connection.execute(f"SET LOCAL statement_timeout = {int(timeout_s * 800)}")
            # the extended protocol (binary results ask for it) runs one statement and refuses two
            cursor = await connection.execute(query.encode(), binary=True)
            return await cursor.fetchmany(2) if cursor.description else []


async def _external(check: SqlCheck, means: Means) -> dict[str, Any]:
    assert check.url_file is not None
    try:
        told = conninfo_to_dict(means.readable(check.url_file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError, psycopg.ProgrammingError):
        raise LookFailed(f"{check.url_file} holds no database URL") from None
    host, port = str(told.get("host") or ""), str(told.get("port") or "5432")
    if not host or host.startswith("/") or "," in host or not port.isdigit() or "hostaddr" in told:
        raise LookFailed("a database is reached by one host name or address")
    try:
        told["hostaddr"] = (await reached(means.reach, host, int(port)))[0]
    except (Stop, Retry) as error:
        raise LookFailed(str(error)) from None
    return dict(told)
