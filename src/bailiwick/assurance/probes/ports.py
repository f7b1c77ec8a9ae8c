"""A look at the ports of a host: those expected open are, no other is."""

from __future__ import annotations

import asyncio
import contextlib

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
    try:
        address = (await reached(means.reach, check.host.strip("[]"), numbers[0]))[0]
    except (Stop, Retry) as error:
        raise LookFailed(str(error)) from None
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
