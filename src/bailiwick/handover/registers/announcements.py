"""Announcements: what a template of the book says goes to its list, and who got it can be read afterwards.

They are delivered as all notices are; a receipt is a delivery of the notice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.notices.notices import Outbox, one_line, plain_body
from bailiwick.assurance.ports import Notice, Notices
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.handover.ports import Statement
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

MOST_VALUE = 2000

Recipient = Annotated[
    str, StringConstraints(pattern=r"^(person|role|channel):[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$", max_length=110)
]

_PLACE = re.compile(r"\$\{([a-z][a-z0-9_]{0,40})\}")


class AnnouncementTemplate(Body):
    """What is announced: ``${name}`` in ``subject`` and ``body`` stands for a value that whoever announces gives.

    ``to``: the list, as ``person:…``, ``role:…``, ``channel:…``.
    """

    title: Annotated[Line, Field(min_length=1)]
    subject: Annotated[Line, Field(min_length=1)]
    body: Annotated[Text, Field(min_length=1)]
    to: Annotated[list[Recipient], Field(min_length=1, max_length=50)]
    severity: Severity = Severity.P3

    @model_validator(mode="after")
    def _once(self) -> AnnouncementTemplate:
        if len(set(self.to)) != len(self.to):
            raise ValueError("somebody is on the list twice")
        return self

    @property
    def asks(self) -> tuple[str, ...]:
        """The values it names, in their order."""
        return tuple(dict.fromkeys(_PLACE.findall(f"{self.subject}\n{self.body}")))


ANNOUNCEMENT_TEMPLATE = Kind("AnnouncementTemplate", AnnouncementTemplate)


@dataclass(frozen=True, slots=True)
class Announcement:
    """One that was sent, with the notice to each on its list and what became of it."""

    id: str
    template: str
    subject: str
    body: str
    sent_by: str
    sent_at: datetime
    receipts: Sequence[Mapping[str, Any]] = ()

    @property
    def verdict(self) -> Verdict:
        """PASS once every delivery to everybody arrived; FAIL where one never will; NO_DATA while nothing is known."""
        return worst(Verdict(each["verdict"]) for each in self.receipts)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **{name: getattr(self, name) for name in ("id", "template", "subject", "body", "sent_by")},
            "sent_at": utc(self.sent_at),
            "verdict": str(self.verdict),
            "receipts": [dict(each) for each in self.receipts],
        }


# ---------------------------------------------------------------------- rules


def written(text: str, values: Mapping[str, str]) -> str:
    """``text`` with the values in place of their names; all of them are there."""
    return _PLACE.sub(lambda found: values[found[1]], text)


def received(deliveries: Sequence[Mapping[str, Any]]) -> Verdict:
    """What the deliveries of one notice amount to. A dead one counts as arrived where its stand-in did."""
    if not deliveries:
        return Verdict.NO_DATA
    stood_in = {each["fallback_of"] for each in deliveries if each["state"] == "delivered" and each["fallback_of"]}
    states = {
        "delivered" if each["id"] in stood_in else each["state"] for each in deliveries if not each["fallback_of"]
    }
    if states == {"delivered"}:
        return Verdict.PASS
    return Verdict.FAIL if "dead" in states else Verdict.NO_DATA


# ---------------------------------------------------------------------- service


class Announcements:
    """Sends announcements and tells who got them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        notices: Notices,
        receipts: Outbox,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._notices = notices
        self._receipts = receipts

    async def announce(self, tx: Transaction, context: Context, template: str, values: Mapping[str, str]) -> str:
        """Send what a template says to its list; the announcement's id.

        Raises ``not_found`` without such a template, ``announcement_incomplete`` where it asks for more.
        """
        found = await self._template(tx, context.zone, template)
        missing = [name for name in found.asks if not values.get(name, "").strip()]
        if missing:
            raise BailiwickError(reason="announcement_incomplete", missing=missing)
        given = {name: values[name][:MOST_VALUE] for name in found.asks}
        subject, body = one_line(written(found.subject, given)), plain_body(written(found.body, given))
        identifier = self._ids()
        await tx.run(
            "INSERT INTO announcements (id, zone, template, subject, body, sent_by, sent_at)"
            " VALUES (:id, :zone, :template, :subject, :body, :by, :now)",
            id=identifier, zone=context.zone, template=template, subject=subject, body=body,
            by=context.actor.user or context.actor.application or "system", now=self._clock.now(),
        )  # fmt: skip
        for number, recipient in enumerate(found.to, 1):
            notice = await self._notices.send(
                tx,
                context.zone,
                Notice(recipient, f"announcement/{identifier}/{number}", subject, body, found.severity),
            )
            await tx.run(
                "INSERT INTO announcement_notices (announcement, number, recipient, notice)"
                " VALUES (:id, :number, :recipient, :notice)",
                id=identifier, number=number, recipient=recipient, notice=notice,
            )  # fmt: skip
        await self._recorder.record(
            tx,
            codes.ANNOUNCEMENT_SENT,
            "success",
            context,
            subject=Subject(id=identifier, type="announcement"),
            template=template,
            recipients=len(found.to),
        )
        return identifier

    async def send(self, context: Context, template: str, values: Mapping[str, str]) -> Announcement:
        """The same in a transaction of its own."""
        async with self._database.begin() as tx:
            identifier = await self.announce(tx, context, template, values)
            return await self.get(tx, context.zone, identifier)

    async def preview(self, tx: Transaction, zone: str, template: str, values: Mapping[str, str]) -> dict[str, Any]:
        """What would be sent to whom, with the names of values that are missing in their places."""
        found = await self._template(tx, zone, template)
        given = {name: values.get(name) or f"${{{name}}}" for name in found.asks}
        return {
            "template": template,
            "subject": written(found.subject, given),
            "body": written(found.body, given),
            "to": found.to,
            "missing": [name for name in found.asks if not values.get(name)],
        }

    async def templates(self, tx: Transaction, zone: str) -> dict[str, AnnouncementTemplate]:
        """Those in force, by name."""
        return await self._books.read_all(tx, zone, ANNOUNCEMENT_TEMPLATE)

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Announcement:
        """One with its receipts. Raises ``not_found``."""
        row = await tx.one(f"{_SELECT} WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no announcement by that id.")
        return Announcement(**row, receipts=await self._of(tx, zone, identifier))

    async def list(
        self, tx: Transaction, zone: str, *, since: datetime | None = None, limit: int = 100
    ) -> list[Announcement]:
        """The newest, with their receipts."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND (CAST(:since AS timestamptz) IS NULL OR sent_at >= :since)"
            " ORDER BY id DESC LIMIT :limit",
            zone=zone,
            since=since,
            limit=limit,
        )
        return [Announcement(**row, receipts=await self._of(tx, zone, row["id"])) for row in rows]

    async def _of(self, tx: Transaction, zone: str, identifier: str) -> Sequence[Mapping[str, Any]]:
        rows = await tx.all(
            "SELECT recipient, notice FROM announcement_notices WHERE announcement = :id ORDER BY number", id=identifier
        )
        found = []
        for row in rows:
            try:
                deliveries = (await self._receipts.get(tx, zone, row["notice"]))["deliveries"]
            except NotFound:
                deliveries = []
            shown = [
                {name: each[name] for name in ("channel", "address", "state", "attempts", "delivered_at", "told")}
                for each in deliveries
            ]
            found.append({"to": row["recipient"], "notice": row["notice"], "verdict": str(received(deliveries)),
                          "deliveries": shown})  # fmt: skip
        return found

    async def _template(self, tx: Transaction, zone: str, name: str) -> AnnouncementTemplate:
        found = await self._books.read(tx, zone, ANNOUNCEMENT_TEMPLATE, name)
        if found is None:
            raise NotFound(f"There is no announcement template {name} in force.")
        return found


class AnnouncementsChapter:
    """What was announced in the window, and whether it arrived."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        found = [each for each in await self._announcements.list(tx, zone, since=since) if each.sent_at <= until]
        return [
            Statement(
                f"{each.template}/{each.id}", each.subject, each.verdict, each.sent_by, since, until,
                {
                    "sent_at": utc(each.sent_at),
                    **{receipt["to"]: receipt["verdict"] for receipt in each.receipts},
                },
            )
            for each in found
        ]  # fmt: skip


_SELECT = "SELECT id, template, subject, body, sent_by, sent_at FROM announcements"
