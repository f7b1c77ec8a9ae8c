"""Delivery: finds out to whom a notice goes, sends it, and keeps the receipt.

Any number of processes may run this. A delivery is claimed with a lease; the attempt is written down before anything
is sent, so one that a process died in is known for what it is: nobody knows whether it arrived. It is sent again under
the same id, by which PagerDuty opens one incident and a mail reader sees one message. Those of one incident go out in
their order. What fails is tried again with exponential back-off and jitter, as late as the other side asks; after a
number of failures the channel's fallback is told too, and in the end the notice is dead and an alert says so.

A channel that we ship and that nobody ever set up has lost nothing: what is for it is marked ``not_set_up`` and goes to
its fallback, and no alert calls anybody for that.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.notices.channels import (
    CHANNEL,
    ChannelSecrets,
    ChannelSpec,
    channel_for_people,
    lacking,
    never_set_up,
)
from bailiwick.assurance.notices.notices import DELIVERIES, KEPT, Delivery, Kept
from bailiwick.assurance.notices.senders import Message, Sender, sender_of
from bailiwick.assurance.ports import Alerts, Owners, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.siem.destination import Refused, Retry, Stop
from bailiwick.evidence.siem.outgoing import Reach
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.redaction import redact_text
from bailiwick.kernel.severity import Severity

log = structlog.get_logger(__name__)

AT_ONCE = 8
LEASE_S = 180.0
BASE_S, CAP_S, LONGEST_S = 2.0, 300.0, 3600.0
OWNER = "alerting"
"""The activity whose accountable person answers for what cannot be delivered."""

MakeSender = Callable[[ChannelSpec, str | None], Sender]
Observe = Callable[[str, str, float], None]
"""Told of every attempt: way, outcome, seconds from the notice to the receipt (of delivered ones)."""


def wait_after(failures: int, asked_s: float | None, random: float) -> timedelta:
    """How long to wait after the ``failures``-th failure in a row: doubling from 2 s to 5 min, half of it by chance
    (``random``, 0 to 1), and never less than the other side asked for, of at most an hour."""
    backoff = min(CAP_S, BASE_S * 2 ** min(failures - 1, 20))
    return timedelta(seconds=max(backoff * (0.5 + random / 2), min(asked_s or 0.0, LONGEST_S)))


@dataclass(frozen=True, slots=True)
class _Claimed:
    delivery: Delivery
    kept: Kept
    spec: ChannelSpec | None
    secret: str | None
    trouble: str
    unset: str  # what a channel lacks that nobody ever set up
    forgiven: int
    holder: str
    thread: str

    @property
    def message(self) -> Message:
        kept = self.kept
        return Message(
            self.delivery.id,
            self.delivery.address,
            kept.subject,
            kept.body,
            kept.severity,
            kept.action,
            kept.dedup_key,
            kept.created_at,
            kept.facts.get("source", "bailiwick"),
            kept.facts,
            self.thread,
        )


class Deliveries:
    """Delivers the notices of all zones. ``random`` answers 0 to 1."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        secret: ChannelSecrets,
        owners: Owners,
        alerts: Alerts,
        reach: Reach,
        random: Callable[[], float],
        *,
        observe: Observe = lambda way, outcome, took: None,
        make: MakeSender | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._secrets = secret
        self._owners = owners
        self._alerts = alerts
        self._random = random
        self._observe = observe
        self._make: MakeSender = make or (lambda spec, value: sender_of(spec, value, reach, clock.now))
        self._lease_s = lease_s
        self._holder = f"{socket.gethostname()}:{os.getpid()}"

    async def run_once(self) -> int:
        """Spread what is new and try what is due; how many were tried."""
        while await self._spread_some():
            pass
        claimed = await self._claim()
        await asyncio.gather(*(self._try(each) for each in claimed))
        return len(claimed)

    # --- to whom

    async def _spread_some(self) -> int:
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"SELECT {KEPT} FROM notices WHERE spread_at IS NULL ORDER BY id LIMIT 50 FOR UPDATE SKIP LOCKED"  # noqa: S608
            )
            channels: dict[str, dict[str, ChannelSpec]] = {}
            for row in rows:
                kept = Kept(**row)
                if kept.zone not in channels:
                    channels[kept.zone] = (await self._books.current(tx, kept.zone)).of(CHANNEL)
                await self._spread(tx, kept, channels[kept.zone])
            await tx.run(
                "UPDATE notices SET spread_at = :now WHERE id = ANY (:ids)",
                now=self._clock.now(),
                ids=[row["id"] for row in rows],
            )
        return len(rows)

    async def _spread(self, tx: Transaction, kept: Kept, channels: Mapping[str, ChannelSpec]) -> None:
        found, trouble = await self._addresses(tx, kept, dict(channels))
        for channel, address in found:
            await self._insert(tx, kept, channel, address)
        if not found:
            await self._insert(tx, kept, "", "", dead=trouble)
            await self._nobody(tx, kept, trouble)

    async def _addresses(
        self, tx: Transaction, kept: Kept, channels: dict[str, ChannelSpec]
    ) -> tuple[list[tuple[str, str]], str]:
        """Channel and address of everybody a notice is for; where there is none, why."""
        what, _, name = kept.recipient.partition(":")
        if what == "channel":
            return _of_channel(name, channels)
        mails: list[str] = []
        if what == "person":
            mail = await tx.value(
                "SELECT email FROM users WHERE zone = :zone AND username = :name AND is_active",
                zone=kept.zone,
                name=name,
            )
            mails = [str(mail)] if mail else []
        elif what == "role":
            people = await self._owners.holders(tx, kept.zone, name, self._clock.now())
            mails = sorted({person.email for person in people if person.email})
        if not mails:
            return [], f"{kept.recipient} is nobody who can be reached"
        channel = channel_for_people(channels)
        if channel is None:
            return [], "there is no channel for messages to people"
        return [(channel, mail) for mail in mails], ""

    async def _insert(self, tx: Transaction, kept: Kept, channel: str, address: str, *, dead: str = "",
                      fallback_of: str | None = None) -> None:  # fmt: skip
        now = self._clock.now()
        await tx.run(
            "INSERT INTO notice_deliveries (id, notice, zone, channel, address, dedup_key, state, created_at, next_at,"
            " told, fallback_of) VALUES (:id, :notice, :zone, :channel, :address, :dedup_key, :state, :now, :now,"
            " :told, :fallback_of) ON CONFLICT (notice, channel, address) DO NOTHING",
            id=self._ids(),
            notice=kept.id,
            zone=kept.zone,
            channel=channel,
            address=address,
            dedup_key=kept.dedup_key,
            state="dead" if dead else "due",
            now=now,
            told=dead,
            fallback_of=fallback_of,
        )

    async def _nobody(self, tx: Transaction, kept: Kept, trouble: str) -> None:
        await self._recorder.record(
            tx,
            codes.NOTICE_DEAD,
            "failure",
            Context(kept.zone),
            subject=Subject(id=kept.id, type="notice"),
            channel="",
            told=trouble,
        )
        await self._alerts.fire(
            tx,
            Context(kept.zone),
            Raised(
                f"notices/nobody/{kept.recipient}",
                "notices/nobody",
                Severity.P2,
                f"A notice to {kept.recipient} reaches nobody: {trouble}",
                OWNER,
                "docs/how-to/alerts-and-channels.md",
                {"service": "notices"},
                {"description": "Somebody was to be told and was not. Set up who it is, or by what he is reached."},
            ),
        )

    # --- trying

    async def _claim(self) -> list[_Claimed]:
        holder = f"{self._holder}:{secrets.token_hex(4)}"
        async with self._database.begin() as tx:
            rows = await tx.all(_CLAIM, holder=holder, lease=self._lease_s, now=self._clock.now(), most=AT_ONCE)
            found = []
            for row in rows:
                values = dict(row)
                forgiven = values.pop("forgiven")
                delivery = Delivery(**values)
                await tx.run(
                    "INSERT INTO notice_attempts (delivery, number, at, outcome) VALUES (:id, :number, :now, 'begun')",
                    id=delivery.id,
                    number=delivery.attempts,
                    now=self._clock.now(),
                )
                kept = await tx.one(f"SELECT {KEPT} FROM notices WHERE id = :id", id=delivery.notice)  # noqa: S608
                assert kept is not None
                book = await self._books.current(tx, delivery.zone)
                spec = book.of(CHANNEL).get(delivery.channel)
                value, trouble = None, "" if spec is not None else f"there is no channel {delivery.channel} any more"
                if spec is not None and spec.secret_name is not None:
                    try:
                        value = await self._secrets.read(tx, delivery.zone, spec.secret_name)
                    except SealError as error:
                        trouble = f"the secret of the channel cannot be opened: {error}"
                unset = "" if trouble else await self._unset(tx, book, delivery.channel, value)
                thread = await self._thread_of(tx, delivery)
                found.append(_Claimed(delivery, Kept(**kept), spec, value, trouble, unset, forgiven, holder, thread))
        return found

    async def _unset(self, tx: Transaction, book: Book, channel: str, secret: str | None) -> str:
        """What a channel lacks that nobody ever set up; empty of every other."""
        spec, document = book.of(CHANNEL)[channel], book.documents[CHANNEL.name, channel]
        lacks = lacking(spec, secret is not None)
        if not lacks:
            return ""
        once = await self._secrets.worked_once(tx, book.zone, channel, spec.secret_name)
        return lacks if never_set_up(lacks, document.as_shipped, once) else ""

    async def _thread_of(self, tx: Transaction, delivery: Delivery) -> str:
        """What the other side called the first of a key that arrived there."""
        if not delivery.dedup_key:
            return ""
        found = await tx.value(
            "SELECT remote_id FROM notice_deliveries WHERE zone = :zone AND channel = :channel AND address = :address"
            " AND dedup_key = :key AND state = 'delivered' AND remote_id <> '' ORDER BY id LIMIT 1",
            zone=delivery.zone,
            channel=delivery.channel,
            address=delivery.address,
            key=delivery.dedup_key,
        )
        return str(found or "")

    async def _try(self, claimed: _Claimed) -> None:
        began = self._clock.monotonic()
        remote, failure = "", None
        try:
            remote = await self._send(claimed) if not claimed.unset else ""
        except (Retry, Refused, Stop) as error:
            failure = error
        except Exception as error:
            log.exception("delivery failed", channel=claimed.delivery.channel)
            failure = Retry(f"{type(error).__name__}")
        took_ms = round((self._clock.monotonic() - began) * 1000)
        try:
            async with self._database.begin() as tx:
                if claimed.unset:
                    await self._not_set_up(tx, claimed)
                elif failure is None:
                    await self._delivered(tx, claimed, remote, took_ms)
                else:
                    await self._failed(tx, claimed, failure, took_ms)
        except Unavailable:
            # its lease runs out; it is tried again under the same id
            log.warning("the receipt of a delivery could not be stored", delivery=claimed.delivery.id)

    async def _send(self, claimed: _Claimed) -> str:
        if claimed.spec is None or claimed.trouble:
            raise Stop(claimed.trouble)
        sender = self._make(claimed.spec, claimed.secret)
        try:
            async with asyncio.timeout(self._lease_s * 0.8):
                return await sender.send(claimed.message)
        except TimeoutError:
            raise Retry("no answer in time") from None
        finally:
            await sender.close()

    async def _delivered(self, tx: Transaction, claimed: _Claimed, remote: str, took_ms: int) -> None:
        now, delivery = self._clock.now(), claimed.delivery
        latency = max(0, round((now - claimed.kept.created_at).total_seconds() * 1000))
        stored = await tx.run(
            "UPDATE notice_deliveries SET state = 'delivered', delivered_at = :now, latency_ms = :latency,"
            " remote_id = :remote, told = '', holder = NULL, lease_until = NULL"
            " WHERE id = :id AND holder = :holder AND state = 'due'",
            now=now,
            latency=min(latency, 2**31 - 1),
            remote=remote,
            id=delivery.id,
            holder=claimed.holder,
        )
        await self._attempted(tx, claimed, "delivered", "", took_ms)
        if not stored:
            return
        await self._recorder.record(
            tx,
            codes.NOTICE_DELIVERED,
            "success",
            Context(delivery.zone),
            subject=Subject(id=delivery.notice, type="notice"),
            channel=delivery.channel,
            attempts=delivery.attempts,
            latency_ms=latency,
        )
        await self._alerts.clear(tx, Context(delivery.zone), _dead_key(delivery.channel))
        self._observe(claimed.spec.way if claimed.spec else "", "delivered", latency / 1000)

    async def _failed(self, tx: Transaction, claimed: _Claimed, failure: Exception, took_ms: int) -> None:
        now, delivery, spec = self._clock.now(), claimed.delivery, claimed.spec
        told = redact_text(str(failure))[:500]
        tries = delivery.attempts - claimed.forgiven
        hopeless = not isinstance(failure, Retry)
        dead = hopeless or spec is None or tries >= spec.give_up_after
        asked = failure.after_s if isinstance(failure, Retry) else None
        stored = await tx.run(
            "UPDATE notice_deliveries SET state = :state, next_at = :next_at, told = :told, holder = NULL,"
            " lease_until = NULL WHERE id = :id AND holder = :holder AND state = 'due'",
            state="dead" if dead else "due",
            next_at=now + wait_after(tries, asked, self._random()),
            told=told,
            id=delivery.id,
            holder=claimed.holder,
        )
        await self._attempted(tx, claimed, "refused" if hopeless else "retry", told, took_ms)
        if not stored:
            return
        self._observe(spec.way if spec else "", "dead" if dead else "retried", 0.0)
        if spec is not None and spec.fallback is not None and (dead or tries >= spec.fallback_after):
            await self._fall_back(tx, claimed, spec.fallback)
        if dead:
            await self._died(tx, claimed, told)

    async def _not_set_up(self, tx: Transaction, claimed: _Claimed) -> None:
        delivery, told = claimed.delivery, f"the channel is not set up: {claimed.unset}"
        stored = await tx.run(
            "UPDATE notice_deliveries SET state = 'not_set_up', told = :told, holder = NULL, lease_until = NULL"
            " WHERE id = :id AND holder = :holder AND state = 'due'",
            told=told,
            id=delivery.id,
            holder=claimed.holder,
        )
        await self._attempted(tx, claimed, "not_set_up", told, 0)
        if not stored or claimed.spec is None:
            return
        self._observe(claimed.spec.way, "not_set_up", 0.0)
        if claimed.spec.fallback is not None:
            await self._fall_back(tx, claimed, claimed.spec.fallback)

    async def _fall_back(self, tx: Transaction, claimed: _Claimed, fallback: str) -> None:
        channels = (await self._books.current(tx, claimed.delivery.zone)).of(CHANNEL)
        for channel, address in _of_channel(fallback, channels)[0]:
            await self._insert(tx, claimed.kept, channel, address, fallback_of=claimed.delivery.id)

    async def _died(self, tx: Transaction, claimed: _Claimed, told: str) -> None:
        delivery = claimed.delivery
        await self._recorder.record(
            tx,
            codes.NOTICE_DEAD,
            "failure",
            Context(delivery.zone),
            subject=Subject(id=delivery.notice, type="notice"),
            channel=delivery.channel,
            told=told,
        )
        await self._alerts.fire(
            tx,
            Context(delivery.zone),
            Raised(
                _dead_key(delivery.channel),
                "notices/dead",
                Severity.P1,
                f"Notices by the channel {delivery.channel} do not arrive: {told}",
                OWNER,
                "docs/how-to/alerts-and-channels.md",
                {"service": "notices", "channel": delivery.channel},
                {"description": "Nothing more is tried. Mend the channel, then `bailiwick notices retry`."},
            ),
        )

    async def _attempted(self, tx: Transaction, claimed: _Claimed, outcome: str, told: str, took_ms: int) -> None:
        await tx.run(
            "UPDATE notice_attempts SET outcome = :outcome, told = :told, took_ms = :took"
            " WHERE delivery = :id AND number = :number",
            outcome=outcome,
            told=told,
            took=took_ms,
            id=claimed.delivery.id,
            number=claimed.delivery.attempts,
        )


def _of_channel(name: str, channels: Mapping[str, Any]) -> tuple[list[tuple[str, str]], str]:
    spec: ChannelSpec | None = channels.get(name)
    if spec is None:
        return [], f"there is no channel {name}"
    if spec.email is not None and (spec.email.to or spec.email.host):
        return [(name, address) for address in spec.email.to], f"the channel {name} names nobody"
    return [(name, "")], ""


def _dead_key(channel: str) -> str:
    return f"notices/dead/{channel}"


_CLAIM = f"""
UPDATE notice_deliveries
SET holder = :holder, attempts = attempts + 1, lease_until = clock_timestamp() + make_interval(secs => :lease)
WHERE id IN (
  SELECT d.id FROM notice_deliveries d
  WHERE d.state = 'due' AND d.next_at <= :now AND (d.lease_until IS NULL OR d.lease_until < clock_timestamp())
    AND (d.dedup_key = '' OR NOT EXISTS (
      SELECT FROM notice_deliveries before
      WHERE before.zone = d.zone AND before.channel = d.channel AND before.dedup_key = d.dedup_key
        AND before.address = d.address AND before.state = 'due' AND before.id < d.id))
  ORDER BY d.next_at, d.id LIMIT :most FOR UPDATE SKIP LOCKED)
RETURNING {DELIVERIES}, forgiven
"""  # noqa: S608
