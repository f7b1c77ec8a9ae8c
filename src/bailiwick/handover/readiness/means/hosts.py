"""Looks at several servers, or names, at once: all must be right, and the worst is told."""

from __future__ import annotations

import asyncio

from bailiwick.assurance.probes.dns import dns
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import DnsCheck, TlsCheck
from bailiwick.assurance.probes.tls import tls
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.readiness.checks import DnsNamesCheck, TlsHostsCheck


async def tls_hosts(check: TlsHostsCheck, means: Means, asked: Asked) -> Found:
    """A handshake with each; answers the days until the first of their certificates ends."""
    ones = [
        TlsCheck(
            type="tls", host=host, port=check.port, names=[host], min_version=check.min_version, ca_file=check.ca_file
        )
        for host in check.hosts
    ]
    found = await asyncio.gather(*(tls(one, means, asked) for one in ones))
    wrong = [f"{host}: {each.wrong}" for host, each in zip(check.hosts, found, strict=True) if each.wrong]
    days = [each.value for each in found if each.value is not None]
    output = b"\n".join(each.output for each in found)
    if not wrong and (len(days) < len(found) or min(days) <= check.days):
        least = f"{min(days):.1f}" if days else "no"
        wrong.append(f"a certificate has {least} days left, and should have more than {check.days}")
    told = f"{len(found)} servers speak TLS {check.min_version} or newer"
    if days:
        told += f", {min(days):.0f} days left"
    return Found(min(days) if days else None, Unit.DAYS, told, output, wrong="; ".join(wrong)[:500], holds=not wrong)


async def dns_names(check: DnsNamesCheck, means: Means, asked: Asked) -> Found:
    """Each name must have an address."""
    ones = [DnsCheck(type="dns", name=name, server=check.server, port=check.port) for name in check.names]
    answers = await asyncio.gather(*(dns(one, means, asked) for one in ones), return_exceptions=True)
    lacking = []
    for name, answer in zip(check.names, answers, strict=True):
        if isinstance(answer, LookFailed):
            raise LookFailed(f"{name}: {answer}")
        if isinstance(answer, BaseException):
            raise answer
        if answer.wrong or answer.absent or answer.holds is False or not answer.value:
            lacking.append(name)
    found = [each for each in answers if isinstance(each, Found)]
    return Found(
        float(len(check.names) - len(lacking)),
        Unit.COUNT,
        f"{len(check.names)} names have addresses",
        b"\n".join(each.output for each in found),
        wrong=f"no address: {', '.join(lacking)}"[:500] if lacking else "",
        holds=not lacking,
    )
