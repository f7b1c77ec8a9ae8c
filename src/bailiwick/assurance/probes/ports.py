"""A look at the ports of a host: those expected open are, no other is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import PortScanCheck
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import reached

_AT_ONCE = 100
_EACH_S = 1.5


async def port_scan(check: PortScanCheck, means: Means, asked: Asked) -> Found:
    """Try to connect to each port; nothing is sent. A port that does not answer is closed."""
    numbers = check.numbers()
    address = await _address(check.host.strip("[]"), numbers, means)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(port: int) -> bool:
        async with slots:
            return await _is_open(address, port)

    try:
        async with asyncio.timeout(asked.timeout_s):
            answers = await asyncio.gather(*(one(port) for port in numbers))
    except TimeoutError:
        raise LookFailed(f"the scan did not end within {asked.timeout_s:g} s") from None
    open_ = [port for port, answered in zip(numbers, answers, strict=True) if answered]
    closed = sorted(set(check.open) - set(open_))
    extra = sorted(set(open_) - set(check.open))
    told = [
        f"{_listed(ports)} {what}"
        for ports, what in ((closed, "should be open"), (extra, "should not be open"))
        if ports
    ]
    return Found(
        float(len(closed) + len(extra)),
        Unit.COUNT,
        f"{len(open_)} of {len(numbers)} ports open",
        f"{check.host} {address}\ntried {len(numbers)}\nopen {' '.join(map(str, open_))}\n".encode(),
        wrong="; ".join(told),
        holds=True,
    )


async def _address(host: str, numbers: Sequence[int], means: Means) -> str:
    """Where all of them may be tried: an address may be lawful for one port of it alone (our own API's), so a second
    one is asked for too."""
    try:
        found = [await reached(means.reach, host, port) for port in numbers[:2]]
    except (Stop, Retry) as error:
        raise LookFailed(str(error)) from None
    both = [each for each in found[-1] if each in found[0]]
    if not both:
        raise LookFailed(f"{host} resolves to another address each time")
    return both[0]


async def _is_open(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_EACH_S):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _listed(ports: list[int]) -> str:
    told = ", ".join(map(str, ports[:10]))
    return f"{told} and {len(ports) - 10} more" if len(ports) > 10 else told
