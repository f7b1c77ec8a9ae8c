"""Notices: messages left in the transaction that gives cause to them, and the receipts of their deliveries.

A notice is one row; finding out to whom it goes makes one delivery an address, and each delivery is its own receipt:
attempts, when, how long, what the other side called it, or why not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from bailiwick.assurance.ports import Notice
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine

Action = Literal["tell", "trigger", "acknowledge", "resolve"]

DELIVERY = Machine(
    "delivery",
    {"due": ["delivered", "dead", "not_set_up"], "delivered": [], "dead": ["due"], "not_set_up": ["due"]},
)

_MOST_SUBJECT, _MOST_BODY = 300, 20_000


@dataclass(frozen=True, slots=True)
class Marks:
    """What a pager makes of a notice: ``dedup_key`` names the incident; ``facts`` stand beside it."""

    action: Action = "tell"
    dedup_key: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """A notice as it is stored."""

    id: str
    zone: str
    key: str
    recipient: str
    subject: str
    body: str
    severity: str
    action: Action
    dedup_key: str
    facts: Mapping[str, str]
    created_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("zone", "facts")}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The receipt of one notice at one address."""

    id: str
    notice: str
    zone: str
    channel: str
    address: str
    dedup_key: str
    state: str
    attempts: int
    created_at: datetime
    next_at: datetime
    fallback_of: str | None
    delivered_at: datetime | None
    latency_ms: int | None
    remote_id: str
    told: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("zone", "notice", "dedup_key")}


KEPT = ", ".join(Kept.__slots__)
DELIVERIES = ", ".join(Delivery.__slots__)


def one_line(text: str) -> str:
    """``text`` as a subject: a header cannot be made to hold a second one."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:_MOST_SUBJECT]


def plain_body(text: str) -> str:
    """``text`` as PostgreSQL and mail take it."""
    kept = "".join(each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)
    return kept.encode("utf-8", "replace").decode()[:_MOST_BODY]


class Outbox:
    """The ``Notices`` port, and what is asked about notices."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def send(self, tx: Transaction, zone: str, notice: Notice) -> str:
        """Leave it; its id. The same key is sent once."""
        return await self.post(tx, zone, notice, Marks(dedup_key=notice.thread, facts=notice.facts))

    async def post(self, tx: Transaction, zone: str, notice: Notice, marks: Marks) -> str:
        """The same, with what a pager makes of it."""
        identifier = await tx.value(
            "INSERT INTO notices (id, zone, key, recipient, subject, body, severity, action, dedup_key, facts,"
            " created_at) VALUES (:id, :zone, :key, :recipient, :subject, :body, :severity, :action, :dedup_key,"
            " cast(:facts AS jsonb), :now) ON CONFLICT (zone, key) DO NOTHING RETURNING id",
            id=self._ids(),
            zone=zone,
            key=notice.key,
            recipient=notice.to,
            subject=one_line(notice.subject),
            body=plain_body(notice.body),
            severity=str(notice.severity),
            action=marks.action,
            dedup_key=marks.dedup_key,
            facts=json.dumps(dict(marks.facts)),
            now=self._clock.now(),
        )
        if identifier is None:
            identifier = await tx.value(
                "SELECT id FROM notices WHERE zone = :zone AND key = :key", zone=zone, key=notice.key
            )
        return str(identifier)

    # --- reading

    async def listed(
        self, tx: Transaction, zone: str, *, state: str = "", before: str = "g", limit: int = 100
    ) -> list[dict[str, Any]]:
        """Notices newest first, with their receipts; of one state (``waiting``: not spread yet)."""
        rows = await tx.all(
            f"SELECT {KEPT} FROM notices n WHERE zone = :zone AND id < :before AND (:state = ''"  # noqa: S608
            " OR (:state = 'waiting' AND spread_at IS NULL)"
            " OR EXISTS (SELECT FROM notice_deliveries d WHERE d.notice = n.id AND d.state = :state))"
            " ORDER BY id DESC LIMIT :limit",
            zone=zone,
            before=before,
            state=state,
            limit=limit,
        )
        receipts = await self._receipts(tx, [row["id"] for row in rows])
        return [{**Kept(**row).document(), "deliveries": receipts.get(row["id"], [])} for row in rows]

    async def get(self, tx: Transaction, zone: str, identifier: str) -> dict[str, Any]:
        """One notice with its receipts and every attempt. Raises :class:`NotFound`."""
        row = await tx.one(f"SELECT {KEPT} FROM notices WHERE zone = :zone AND id = :id", zone=zone, id=identifier)  # noqa: S608
        if row is None:
            raise NotFound("There is no notice by that id.")
        receipts = (await self._receipts(tx, [identifier])).get(identifier, [])
        for receipt in receipts:
            attempts = await tx.all(
                "SELECT number, at, took_ms, outcome, told FROM notice_attempts WHERE delivery = :id ORDER BY number",
                id=receipt["id"],
            )
            receipt["tries"] = [dict(attempt) for attempt in attempts]
        return {**Kept(**row).document(), "deliveries": receipts}

    async def retry(self, context: Context, identifier: str) -> int:
        """Try a notice's deliveries that are dead, or were by a channel that was not set up, again; how many.

        Raises :class:`NotFound`, ``illegal_transition``.
        """
        async with self._database.begin() as tx:
            await self.get(tx, context.zone, identifier)
            rows = await tx.all(
                f"SELECT {DELIVERIES} FROM notice_deliveries WHERE notice = :id AND state <> 'delivered' FOR UPDATE",  # noqa: S608
                id=identifier,
            )
            dead = [row for row in rows if row["state"] != "due" and row["channel"]]
            if not dead:
                # raises: what is delivered, or still due, is not tried again
                DELIVERY.require("delivered" if not rows else "due", "due")
            now = self._clock.now()
            for row in dead:
                await tx.run(
                    "UPDATE notice_deliveries SET state = 'due', forgiven = attempts, next_at = :now, told = '',"
                    " lease_until = NULL WHERE id = :id",
                    now=now,
                    id=row["id"],
                )
            await self._recorder.record(
                tx,
                codes.NOTICE_RETRIED,
                "success",
                context,
                subject=Subject(id=identifier, type="notice"),
                deliveries=len(dead),
            )
        return len(dead)

    async def _receipts(self, tx: Transaction, notices: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        rows: Sequence[Row] = await tx.all(
            f"SELECT {DELIVERIES} FROM notice_deliveries WHERE notice = ANY (:ids) ORDER BY id",  # noqa: S608
            ids=list(notices),
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(row["notice"], []).append(Delivery(**row).document())
        return found
