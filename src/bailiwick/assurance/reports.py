"""The register of reports: made of stored figures for a window that is over, never changed, signed by somebody else.

A report is a document of JSON values; its digest is of exactly that and says nothing of when or by whom it was made,
so that the same window made again gives the same digest. Who produced and who signed it stands beside it, and in the
ledger.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.assurance.book import canonical
from bailiwick.assurance.report import html, markdown
from bailiwick.assurance.report.model import Format, Report, moment
from bailiwick.assurance.signers import produced
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.quorum import People
from bailiwick.kernel.verdicts import Verdict

SIGNED_BY_MACHINE = "bailiwick"
"""Who produces what is made by the clock."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Somebody put his name to a report."""

    signed_by: str
    signed_at: datetime
    sha256: str
    event: str


@dataclass(frozen=True, slots=True)
class Made:
    """A report in the register."""

    id: str
    kind: str
    since: datetime
    until: datetime
    cutoff: int
    verdict: Verdict
    coverage: float | None
    sha256: str
    data: Mapping[str, Any]
    produced_by: str
    produced_at: datetime
    signatures: tuple[Signature, ...]

    def document(self, *, whole: bool = False) -> dict[str, Any]:
        """The JSON form; with ``whole`` what it says too."""
        told = {name: getattr(self, name) for name in self.__slots__ if name not in ("data", "signatures", "cutoff")}
        told["signatures"] = [{name: getattr(each, name) for name in each.__slots__} for each in self.signatures]
        return told | ({"data": dict(self.data)} if whole else {})


Build = Callable[[Transaction, str, datetime, datetime, int | None, int | None], Awaitable[dict[str, Any]]]
"""What a report of (zone, since, until) says; with a cut-off and a revision of the book: as it was known by those. It
holds ``verdict``, ``cutoff``, ``revision`` and, where that has a meaning, ``coverage``, beside what is its own."""


@dataclass(frozen=True, slots=True)
class ReportKind:
    """A kind of report. ``show`` makes the document for people out of what it says."""

    name: str
    build: Build
    show: Callable[[Mapping[str, Any]], Report]


class ReportRegister:
    """Keeps the reports of all zones."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        kinds: Sequence[ReportKind],
        people: People,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._people = people
        self.kinds = {kind.name: kind for kind in kinds}

    async def produce(self, context: Context, kind: str, since: datetime, until: datetime, *, by: str) -> Made:
        """Make the report of a window, or answer the one that was made of it.

        Raises ``window_open`` (409) for a window that is not over; :class:`InvalidRequest`.
        """
        if kind not in self.kinds:
            raise InvalidRequest(f"There is no kind of report {kind!r}; there are {', '.join(sorted(self.kinds))}.")
        if since >= until:
            raise InvalidRequest("The window ends before it begins.")
        if until > self._clock.now():
            raise Conflict(f"The window is over at {moment(until)} UTC.", reason="window_open", until=until.isoformat())
        zone = context.zone
        async with self._database.begin() as tx:
            await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.reports'), hashtext(:zone))", zone=zone)
            standing = await tx.value(
                "SELECT id FROM assurance_reports WHERE zone = :zone AND kind = :kind AND since = :since"
                " AND until = :until ORDER BY id LIMIT 1",
                zone=zone,
                kind=kind,
                since=since,
                until=until,
            )
            if standing is not None:
                return await self.get(tx, zone, standing)
            data = await self.kinds[kind].build(tx, zone, since, until, None, None)
            text, identifier = canonical(data), self._ids()
            digest = hashlib.sha256(text).hexdigest()
            await tx.run(
                "INSERT INTO assurance_reports (id, zone, kind, since, until, cutoff, verdict, coverage, sha256,"
                " document, produced_by, produced_at) VALUES (:id, :zone, :kind, :since, :until, :cutoff, :verdict,"
                " :coverage, :sha256, :document, :by, :now)",
                id=identifier,
                zone=zone,
                kind=kind,
                since=since,
                until=until,
                cutoff=data["cutoff"],
                verdict=data["verdict"],
                coverage=data.get("coverage"),
                sha256=digest,
                document=text.decode(),
                by=by,
                now=self._clock.now(),
            )
            await self._recorder.record(
                tx,
                codes.REPORT_PRODUCED,
                "success",
                context,
                subject=Subject(id=identifier, type="report"),
                kind=kind,
                since=since.isoformat(),
                until=until.isoformat(),
                sha256=digest,
                verdict=str(data["verdict"]),
            )
            return await self.get(tx, zone, identifier)

    async def again(self, tx: Transaction, zone: str, made: Made) -> str:
        """The digest of the same report made again now, of what was known when it was made."""
        data = await self.kinds[made.kind].build(
            tx, zone, made.since, made.until, made.cutoff, int(made.data["revision"])
        )
        return hashlib.sha256(canonical(data)).hexdigest()

    async def sign(self, context: Context, identifier: str, *, by: str, sha256: str) -> Made:
        """Put a name to a report, by the digest the signer read.

        Raises ``own_report`` (403) for who produced it, by whatever account; ``report_changed`` (409) for another
        digest or a report that does not come out the same again.
        """
        zone = context.zone
        async with self._database.begin() as tx:
            made = await self.get(tx, zone, identifier)
            if await produced(self._people, tx, zone, by, [made.produced_by]):
                raise Denied(reason="own_report")
            if sha256 != made.sha256 or await self.again(tx, zone, made) != made.sha256:
                raise Conflict(reason="report_changed", sha256=made.sha256)
            if any(each.signed_by == by for each in made.signatures):
                return made
            event = await self._recorder.record(
                tx,
                codes.REPORT_SIGNED,
                "success",
                context,
                subject=Subject(id=identifier, type="report"),
                kind=made.kind,
                sha256=made.sha256,
                produced_by=made.produced_by,
            )
            await tx.run(
                "INSERT INTO assurance_report_signatures (report, signed_by, signed_at, sha256, event)"
                " VALUES (:report, :by, :now, :sha256, :event) ON CONFLICT DO NOTHING",
                report=identifier,
                by=by,
                now=self._clock.now(),
                sha256=made.sha256,
                event=event.id,
            )
            return await self.get(tx, zone, identifier)

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Made:
        """One report; raises :class:`NotFound`."""
        row = await tx.one(f"{_SELECT} AND r.id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no report by that id.")
        return _made(row)

    async def list(
        self, tx: Transaction, zone: str, *, kind: str = "", before: str = "g", limit: int = 100
    ) -> Sequence[Made]:
        """Reports newest first, of one kind or of all, after the one with id ``before``."""
        rows = await tx.all(
            f"{_SELECT} AND (:kind = '' OR r.kind = :kind) AND r.id < :before ORDER BY r.id DESC LIMIT :limit",
            zone=zone,
            kind=kind,
            before=before,
            limit=limit,
        )
        return [_made(row) for row in rows]

    def show(self, made: Made) -> Report:
        """The report for people, with who made and signed it."""
        shown = self.kinds[made.kind].show(made.data)
        signed = ", ".join(f"{each.signed_by} on {moment(each.signed_at)} UTC" for each in made.signatures)
        facts = [
            ("Window", f"{moment(made.since)} to {moment(made.until)} UTC"),
            ("Produced", f"by {made.produced_by} on {moment(made.produced_at)} UTC"),
            ("Signed", f"by {signed}" if signed else "by nobody yet"),
            ("SHA-256", made.sha256),
            *shown.facts,
        ]
        return Report(shown.title, facts, shown.verdict, shown.blocks)

    def write(self, made: Made, form: Format) -> bytes:
        """The report as a file."""
        shown = self.show(made)
        if form == "pdf":
            from bailiwick.assurance.report import pdf  # its fonts are 20 MB in every process that never writes one

            return pdf.write(shown, made.produced_at)
        return (markdown.write(shown) if form == "md" else html.write(shown)).encode()


_SELECT = """
SELECT r.*, coalesce((SELECT jsonb_agg(jsonb_build_array(s.signed_by, s.signed_at, s.sha256, s.event)
                                       ORDER BY s.signed_at, s.signed_by)
                      FROM assurance_report_signatures s WHERE s.report = r.id), '[]') AS signatures
FROM assurance_reports r WHERE r.zone = :zone
"""


def _made(row: Row) -> Made:
    return Made(
        row["id"],
        row["kind"],
        row["since"],
        row["until"],
        row["cutoff"],
        Verdict(row["verdict"]),
        row["coverage"],
        row["sha256"],
        json.loads(row["document"]),
        row["produced_by"],
        row["produced_at"],
        tuple(Signature(by, datetime.fromisoformat(at), digest, event) for by, at, digest, event in row["signatures"]),
    )
