"""From a check to the look that makes it."""

from __future__ import annotations

import asyncio

from bailiwick.assurance.probes.command import command
from bailiwick.assurance.probes.dns import dns
from bailiwick.assurance.probes.files import file_age, json_file, log_phrase
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.ports import port_scan
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import (
    Check,
    CommandCheck,
    DnsCheck,
    FileAgeCheck,
    HttpCheck,
    InternalCheck,
    JsonPathCheck,
    LogPhraseCheck,
    PortScanCheck,
    PrometheusCheck,
    SqlCheck,
    TlsCheck,
)
from bailiwick.assurance.probes.sql import sql
from bailiwick.assurance.probes.tls import tls
from bailiwick.assurance.probes.web import http, json_at, prometheus

_GRACE_S = 5.0


async def look(check: Check, means: Means, asked: Asked) -> Found:
    """Make the look. Whatever it runs into, it ends soon after its time. Raises :class:`LookFailed`."""
    try:
        # each look bounds itself and says by what it was held up; this is for one that fails to
        async with asyncio.timeout(asked.timeout_s + _GRACE_S):
            return await _dispatch(check, means, asked)
    except TimeoutError:
        raise LookFailed(f"the look did not end within {asked.timeout_s + _GRACE_S:g} s") from None


async def _dispatch(check: Check, means: Means, asked: Asked) -> Found:
    match check:
        case HttpCheck():
            return await http(check, means, asked)
        case TlsCheck():
            return await tls(check, means, asked)
        case SqlCheck():
            return await sql(check, means, asked)
        case PrometheusCheck():
            return await prometheus(check, means, asked)
        case CommandCheck():
            return await command(check, means, asked)
        case FileAgeCheck():
            return await file_age(check, means, asked)
        case DnsCheck():
            return await dns(check, means, asked)
        case PortScanCheck():
            return await port_scan(check, means, asked)
        case LogPhraseCheck():
            return await log_phrase(check, means, asked)
        case JsonPathCheck():
            return await (json_file if check.file is not None else json_at)(check, means, asked)
        case InternalCheck():
            internal = means.internals.get(check.what)
            if internal is None:
                raise LookFailed(
                    f"nothing of ours is called {check.what}; there are {', '.join(sorted(means.internals))}"
                )
            return await internal(asked, check.argument)
