"""Splunk's HTTP Event Collector: batches, gzip, and the indexers' acknowledgement.

An answer of 200 says only that the events looked valid. With acknowledgement each request is answered an ``ackId``,
asked for on the same channel until the events are indexed. The ids of a channel rise from 0 for as long as one indexer
lives: a number that does not rise means that the indexer was restarted or that another one answers, and then an old
number could be confirmed by somebody else's events. So the channel is given up and everything on it sent again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from bailiwick.evidence.siem.destination import Batch, Item, Refused, Retry, Stop, enveloped, epoch
from bailiwick.evidence.siem.options import Certificates, Timeout, Token, Url, Word, host_and_port
from bailiwick.evidence.siem.outgoing import Answer, Means, Outgoing, judge
from bailiwick.kernel.fields import Body, Line

# What the collector's codes mean beyond their HTTP status, which is 400 or 403 for most of them.
_CREDENTIAL = frozenset({1, 2, 3, 4, 16, 21, 22})
_ITSELF = frozenset({7, 10, 11, 14})  # an index, a channel or a setting of the token
_BUSY = frozenset({8, 9, 18, 19, 20, 23, 24, 25, 26})


class SplunkOptions(Body):
    """How the collector is reached and what events are filed under."""

    url: Url = Field(examples=["https://splunk.example.com:8088"])
    index: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_][a-z0-9_-]{0,79}$")] = "sark_audit"
    sourcetype: Word = "sark:audit:event"
    source: Word = "sark"
    host: Line = ""
    acknowledge: bool = Field(True, description="Wait until the events are indexed; the token must have it enabled")
    ack_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    ack_poll_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    gzip: bool = True
    timeout_s: Timeout = 30.0
    ca: Certificates = ""

    @property
    def leads_to(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.url)

    @property
    def base(self) -> str:
        """The URL without the collector's path, however much of it was given."""
        return self.url.removesuffix("/event").removesuffix("/services/collector")


class SplunkSecrets(Body):
    """The collector's token."""

    token: Token


class Splunk:
    """One sink's connection to a collector."""

    max_bytes = 4 << 20
    max_events = 10_000

    def __init__(self, options: SplunkOptions, secrets: SplunkSecrets, means: Means) -> None:
        self._options = options
        self._base = options.base
        self._clock, self._ids = means.clock, means.ids
        self._host = options.host or means.host
        self._token = secrets.token.get_secret_value()
        self._http = Outgoing(means.reach, timeout_s=options.timeout_s, ca=options.ca)
        self.window = 16 if options.acknowledge else 1
        self._channel = _Channel(self._ids())

    async def send(self, batch: Batch) -> Awaitable[None] | None:
        """See :class:`~bailiwick.evidence.siem.destination.Destination`."""
        if self._channel.failed is not None:
            self._channel = _Channel(self._ids())
        channel = self._channel
        body = b"\n".join(self._line(item) for item in batch.items)
        answer = await self._http.post(
            f"{self._base}/services/collector/event", body, self._headers(channel), compress=self._options.gzip
        )
        told = _told(answer)
        self._judge(answer, told)
        if not self._options.acknowledge:
            return None
        ack = told.get("ackId")
        if not isinstance(ack, int) or isinstance(ack, bool):
            raise Stop("the collector acknowledges nothing: enable indexer acknowledgement or set acknowledge to false")
        return self._acknowledged(channel, channel.expect(ack))

    async def close(self) -> None:
        """Let go of connections."""
        self._channel.fail("closed")
        await self._http.close()

    async def _acknowledged(self, channel: _Channel, waiting: asyncio.Future[None]) -> None:
        """Wait for one acknowledgement; whoever waits first asks for all that are waited for."""
        deadline = self._clock.monotonic() + self._options.ack_timeout_s
        try:
            while not waiting.done():
                if self._clock.monotonic() > deadline:
                    channel.fail("the events were not indexed in time")
                elif channel.asking.locked():
                    await asyncio.wait([waiting], timeout=self._options.ack_poll_s)
                else:
                    async with channel.asking:
                        await self._ask(channel)
                    if not waiting.done():
                        await asyncio.wait([waiting], timeout=self._options.ack_poll_s)
            waiting.result()
        except asyncio.CancelledError:
            channel.fail("given up")
            raise

    async def _ask(self, channel: _Channel) -> None:
        wanted = sorted(channel.waiting)
        body = json.dumps({"acks": wanted}).encode()
        try:
            answer = await self._http.post(
                f"{self._base}/services/collector/ack?channel={channel.id}", body, self._headers(channel)
            )
            told = _told(answer)
            self._judge(answer, told)
        except Retry:
            return  # asked again until the deadline
        except Refused as refused:
            channel.fail(f"the channel is not known any more: {refused}")
            return
        acks = told.get("acks")
        if isinstance(acks, dict):
            channel.settle(number for number in wanted if acks.get(str(number)) is True)

    def _headers(self, channel: _Channel) -> dict[str, str]:
        headers = {"Authorization": f"Splunk {self._token}", "Content-Type": "application/json"}
        if self._options.acknowledge:
            headers["X-Splunk-Request-Channel"] = channel.id
        return headers

    def _line(self, item: Item) -> bytes:
        envelope = {
            "time": epoch(item.at),
            "host": self._host,
            "source": self._options.source,
            "sourcetype": self._options.sourcetype,
            "index": self._options.index,
            # indexed, so that `dedup event_id` and a search for gaps in seq cost nothing
            "fields": {"event_id": item.id, "zone": item.zone, "seq": item.seq, "code": item.code},
        }
        return enveloped(envelope, "event", item.body)

    def _judge(self, answer: Answer, told: dict[str, Any]) -> None:
        code = told.get("code")
        if 200 <= answer.status < 300:
            return
        text = f"{answer.status} {told.get('text') or answer.told()} (code {code})"
        if code in _CREDENTIAL:
            raise Stop(f"the token is not accepted: {text}")
        if code in _ITSELF:
            raise Stop(f"the collector is set up otherwise: {text}")
        if code in _BUSY and answer.status < 500:
            raise Retry(text)
        try:
            judge(answer, self._clock.now())
        except Refused:
            number = told.get("invalid-event-number")
            raise Refused(text, number if isinstance(number, int) else None) from None


class _Channel:
    """A channel and the acknowledgements waited for on it, by number."""

    def __init__(self, identifier: str) -> None:
        self.id = identifier
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.asking = asyncio.Lock()
        self.failed: str | None = None
        self._highest = -1

    def expect(self, number: int) -> asyncio.Future[None]:
        """What to wait for until ``number`` is acknowledged; raises :class:`Retry` when it does not rise."""
        if number <= self._highest:
            self.fail("the numbers of acknowledgements do not rise: the indexer was restarted, or several answer")
            raise Retry(str(self.failed))
        self._highest = number
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        return future

    def settle(self, numbers: Any) -> None:
        """These were acknowledged."""
        for number in numbers:
            future = self.waiting.pop(number)
            if not future.done():
                future.set_result(None)

    def fail(self, why: str) -> None:
        """Nothing on this channel counts any more."""
        self.failed = self.failed or why
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(Retry(why))
                future.exception()  # it may be that nobody waits for it any more
        self.waiting.clear()


def _told(answer: Answer) -> dict[str, Any]:
    try:
        told = json.loads(answer.body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
