"""The live streams of this machine, asked of the guard that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

from bailiwick.handover.incidents.streams import LiveStream
from bailiwick.kernel.paths import Layout

TIMEOUT_S = 2.0


class Streams:
    """Asks the guard. Each machine has its own; streams of other machines are not known here."""

    def __init__(self, layout: Layout) -> None:
        self._socket = layout.slot("guard").api

    async def __call__(self, zone: str) -> Sequence[LiveStream] | None:
        """Those of a zone, None where the guard does not answer."""
        try:
            connector = aiohttp.UnixConnector(str(self._socket))
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.get("http://guard/streams") as answer,
            ):
                if answer.status != 200:
                    return None
                found = [LiveStream(**each) for each in await answer.json()]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError):
            return None
        return sorted((each for each in found if each.zone == zone), key=lambda each: (each.server, each.request))
