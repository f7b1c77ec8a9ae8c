"""A faithful HTTP Event Collector: tokens, channels, acknowledgement, the codes it answers, and its bad days."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from http_server import HttpServer

TOKEN = "11111111-2222-3333-4444-555555555555"
_TEXTS = {
    0: (200, "Success"),
    1: (403, "Token disabled"),
    2: (401, "Token is required"),
    3: (401, "Invalid authorization"),
    4: (403, "Invalid token"),
    5: (400, "No data"),
    6: (400, "Invalid data format"),
    7: (400, "Incorrect index"),
    9: (503, "Server is busy"),
    10: (400, "Data channel is missing"),
    11: (400, "Invalid data channel"),
    12: (400, "Event field is required"),
    13: (400, "Event field cannot be blank"),
    14: (400, "ACK is disabled"),
    15: (400, "Error in handling indexed fields"),
    27: (413, "Request entity too large"),
}


@dataclass
class Channel:
    """What one channel was answered. ``ready`` are numbers whose events are indexed and that nobody asked for yet."""

    next_ack: int = 0
    pending: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)


class HecServer(HttpServer):
    """``indexed``: envelopes that can be searched for, in order. ``index_at_once`` False keeps accepted ones pending
    until :meth:`index`; :meth:`crash` loses those, as an indexer that dies does."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledges = True
        self.disabled = False
        self.indexes = {"sark_audit"}
        self.index_at_once = True
        self.most_bytes = 8 << 20
        self.poison: set[str] = set()
        self.refuses_everything = False
        self.indexed: list[dict[str, Any]] = []
        self.channels: dict[str, Channel] = {}
        self.ack_queries = 0
        self.requests: list[int] = []
        self.accepted = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/services/collector/event", self.faulty(self.event)),
            web.post("/services/collector/ack", self.faulty(self.ack)),
        ]

    @property
    def ids(self) -> list[str]:
        return [each["event"]["id"] for each in self.indexed]

    def index(self) -> None:
        for channel in self.channels.values():
            for number in sorted(channel.pending):
                self.indexed += channel.pending.pop(number)
                channel.ready.add(number)

    def crash(self) -> None:
        self.channels.clear()

    async def event(self, request: web.Request) -> web.Response:
        if (code := self._credential(request)) is not None:
            return self._answer(code)
        channel = request.headers.get("X-Splunk-Request-Channel")
        if self.acknowledges and channel is None:
            return self._answer(10)
        body = await request.read()  # inflated by the server when it was compressed
        self.requests.append(len(body))
        if len(body) > self.most_bytes:
            return self._answer(27)
        if not body.strip():
            return self._answer(5)
        taken: list[dict[str, Any]] = []
        text, at, decoder = body.decode(), 0, json.JSONDecoder()
        while at < len(text):
            try:
                envelope, at = decoder.raw_decode(text, at)
            except ValueError:
                return self._partly(taken, 6, channel)
            at += len(text[at:]) - len(text[at:].lstrip())
            if (code := self._wrong(envelope)) is not None:
                return self._partly(taken, code, channel)
            taken.append(envelope)
        if not self.acknowledges:
            self.indexed += taken
            return self._answer(0)
        number = self._take(str(channel), taken)
        self.accepted.set()
        return self._answer(0, ackId=number)

    async def ack(self, request: web.Request) -> web.Response:
        self.ack_queries += 1
        if (code := self._credential(request)) is not None:
            return self._answer(code)
        if not self.acknowledges:
            return self._answer(14)
        name = request.query.get("channel") or request.headers.get("X-Splunk-Request-Channel")
        if name is None:
            return self._answer(10)
        channel = self.channels.get(name)
        asked = (await request.json())["acks"]
        answer = {}
        for number in asked:
            answer[str(number)] = channel is not None and number in channel.ready
            if channel is not None:
                channel.ready.discard(number)  # told once, then forgotten
        return web.json_response({"acks": answer})

    def _take(self, name: str, envelopes: list[dict[str, Any]]) -> int:
        channel = self.channels.setdefault(name, Channel())
        number = channel.next_ack
        channel.next_ack += 1
        channel.pending[number] = envelopes
        if self.index_at_once:
            self.index()
        return number

    def _partly(self, taken: list[dict[str, Any]], code: int, channel: str | None) -> web.Response:
        """What stands before the bad event is indexed all the same."""
        self.indexed += taken
        return self._answer(code, **{"invalid-event-number": len(taken)})

    def _credential(self, request: web.Request) -> int | None:
        header = request.headers.get("Authorization")
        if header is None:
            return 2
        scheme, _, token = header.partition(" ")
        if scheme != "Splunk":
            return 3
        if token != TOKEN:
            return 4
        return 1 if self.disabled else None

    def _wrong(self, envelope: Any) -> int | None:
        if not isinstance(envelope, dict):
            return 6
        if "event" not in envelope:
            return 12
        if envelope["event"] in ("", None):
            return 13
        if envelope.get("index") not in self.indexes:
            return 7
        if any(isinstance(value, dict) for value in envelope.get("fields", {}).values()):
            return 15
        if self.refuses_everything or envelope["event"]["id"] in self.poison:
            return 6
        return None

    @staticmethod
    def _answer(code: int, **more: Any) -> web.Response:
        status, text = _TEXTS[code]
        return web.json_response({"text": text, "code": code, **more}, status=status)
