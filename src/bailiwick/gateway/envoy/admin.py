"""Envoy's admin interface, over its unix socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

Bin = tuple[float, float, int]
"""A histogram's bin: where it begins, how wide it is, and how much it counted."""

_MERGED_WITHIN_S = 0.05


class EnvoyAdmin:
    """Reads what Envoy is doing. Every call raises `OSError` when Envoy does not answer."""

    def __init__(self, socket: Path, *, timeout_s: float = 2.0) -> None:
        self._socket = socket
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def ready(self) -> bool:
        """Whether Envoy is up with all its configuration; False as well when it is not running."""
        try:
            status, _ = await self._get("/ready")
        except OSError:
            return False
        return status == 200

    async def figures(self, *prefixes: str) -> dict[str, Any]:
        """Counters, gauges (int) and texts (str) whose names start with one of `prefixes`."""
        pattern = "|".join(prefix.replace(".", r"\.") for prefix in prefixes)
        status, body = await self._get(f"/stats?format=json&filter={quote(f'^({pattern})', safe='')}")
        if status != 200:
            raise OSError(f"Envoy's admin answered {status}")
        entries = json.loads(body)["stats"]
        return {entry["name"]: entry.get("value") for entry in entries if "name" in entry}

    async def histograms(self, *prefixes: str) -> dict[str, list[Bin]]:
        """Histograms whose names start with one of `prefixes`, counted since Envoy started.

        Envoy merges what its threads hold when it is asked, after it has answered; so it is asked twice.
        """
        pattern = quote("^(" + "|".join(prefix.replace(".", r"\.") for prefix in prefixes) + ")", safe="")
        path = f"/stats?format=json&histogram_buckets=detailed&type=Histograms&filter={pattern}"
        await self._get(path)
        await asyncio.sleep(_MERGED_WITHIN_S)
        status, body = await self._get(path)
        if status != 200:
            raise OSError(f"Envoy's admin answered {status}")
        found: dict[str, list[Bin]] = {}
        for entry in json.loads(body)["stats"]:
            for told in entry.get("histograms", {}).get("details", ()):
                found[told["name"]] = [(each["lower_bound"], each["width"], each["count"]) for each in told["totals"]]
        return found

    async def clusters(self) -> dict[str, Any]:
        """The clusters and hosts as Envoy sees them (`/clusters?format=json`)."""
        status, body = await self._get("/clusters?format=json")
        if status != 200:
            raise OSError(f"Envoy's admin answered {status}")
        parsed: dict[str, Any] = json.loads(body)
        return parsed

    async def drain(self) -> None:
        """Take no new connections and have callers close theirs; what is in flight goes on.

        Draining "gracefully" would go on accepting for the drain time, so the listeners are closed at once.
        """
        for path in ("/healthcheck/fail", "/drain_listeners"):
            await self._ask("POST", path)

    async def active_requests(self) -> int:
        """Requests in flight on both listeners."""
        figures = await self.figures("http.gateway.downstream_rq_active", "http.api.downstream_rq_active")
        return sum(int(value or 0) for value in figures.values())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, path: str) -> tuple[int, bytes]:
        return await self._ask("GET", path)

    async def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        if self._session is None or self._session.closed:
            connector = aiohttp.UnixConnector(str(self._socket))
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        try:
            # The path goes out as it stands: aiohttp would decode and re-encode the filter.
            async with self._session.request(method, URL(f"http://envoy{path}", encoded=True)) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"Envoy's admin does not answer: {type(error).__name__}") from None
