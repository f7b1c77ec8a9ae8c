"""Single-source documents: each is there, was read by somebody within its time, and says what he read.

Which they are, is the register of reviewed documents. An installed package does not carry them, so what an installation
can see of them is the folder it is told of; without one nothing is seen, and nothing unseen is green.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.assurance.registers import REVIEWED, Item, Registers, items
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.handover.environments.measuring import producer_of
from bailiwick.handover.ports import Statement
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

OLDEST = timedelta(days=90)
MOST_BYTES = 16 << 20
RUNBOOK = "docs/how-to/registers.md#a-document-is-not-green"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a document: its hash, or why there is none. ``looked``: whether there was anywhere to look."""

    looked: bool
    sha256: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A document and how it stands."""

    item: Item
    verdict: Verdict
    told: str
    sha256: str
    reviewed_sha256: str

    @property
    def reviewed_at(self) -> datetime | None:
        """When somebody read it last."""
        return self.item.changed_at if self.item.state == REVIEWED else None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        spec, at = self.item.spec, self.reviewed_at
        return {
            "name": self.item.name,
            "title": spec["item"],
            "path": spec["path"],
            "owner": spec["owner"],
            "audience": spec.get("audience", ""),
            "counterpart": spec.get("counterpart", ""),
            "reviewed_at": utc(at) if at else None,
            "reviewed_by": self.item.changed_by,
            "due": self.item.due.isoformat() if self.item.due else None,
            "sha256": self.sha256,
            "reviewed_sha256": self.reviewed_sha256,
            "verdict": str(self.verdict),
            "told": self.told,
            "record": self.item.record,
        }


# ---------------------------------------------------------------------- rules


def judge(item: Item, seen: Seen, reviewed_sha256: str, now: datetime) -> tuple[Verdict, str]:
    """How a document stands: missing, never read in its time, or older than its time (90 days at most) is FAIL; read in
    other words than it has now is STALE."""
    if not seen.looked:
        return Verdict.NO_DATA, seen.why
    if not seen.sha256:
        return Verdict.FAIL, seen.why
    life = min(OLDEST, timedelta(days=int(item.spec.get("every_days", 30))))
    if item.state != REVIEWED or item.changed_at is None:
        if now > item.since + life:
            return Verdict.FAIL, f"nobody has reviewed it since {item.since:%Y-%m-%d}"
        return Verdict.NO_DATA, "nobody has reviewed it yet"
    if now > item.changed_at + life:
        return Verdict.FAIL, f"reviewed on {item.changed_at:%Y-%m-%d}, longer ago than {life.days} days"
    if not reviewed_sha256:
        return Verdict.STALE, "its review does not say of which text it was"
    if reviewed_sha256 != seen.sha256:
        return Verdict.STALE, f"it has changed since it was reviewed on {item.changed_at:%Y-%m-%d}"
    return Verdict.PASS, f"reviewed on {item.changed_at:%Y-%m-%d} by {item.changed_by}"


def look(folder: Path | None, path: str) -> Seen:
    """What is at ``path`` in the folder of documents; links out of it are not followed."""
    if folder is None:
        return Seen(False, why="no folder of documents is set here (BAILIWICK_DOCUMENTS_DIR)")
    if "://" in path:
        return Seen(False, why="it is elsewhere, where nobody looks from here")
    try:
        root = folder.resolve(strict=True)
        real = (root / path).resolve()
        if root not in real.parents:
            return Seen(True, why="its path leads out of the folder of documents")
        with real.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError):
        return Seen(True, why=f"there is no {path}")
    if len(content) > MOST_BYTES:
        return Seen(True, why=f"{path} is larger than {MOST_BYTES} bytes")
    if not content.strip():
        return Seen(True, why=f"{path} is empty")
    return Seen(True, hashlib.sha256(content).hexdigest())


def own_folder(package: Path) -> Path | None:
    """The source tree that ``package`` (the directory of the program) stands in; None where it was installed."""
    tree = package.parent.parent
    if package.parent.name == "src" and (tree / "pyproject.toml").is_file() and (tree / "docs" / "index.md").is_file():
        return tree
    return None


# ---------------------------------------------------------------------- service


class Documents:
    """Looks at the documents and notes who read them. ``folder``: where their paths are looked up."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        records: EvidenceRecords,
        registers: Registers,
        alerts: Alerts,
        folder: Path | None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._records = records
        self._registers = registers
        self._alerts = alerts
        self.folder = folder

    async def standing(self, tx: Transaction, zone: str) -> list[Checked]:
        """Every document as it stands now, by name."""
        found = await items(tx, zone, "documents", self._clock.now())
        return [await self._checked(tx, zone, each) for each in found]

    async def check(self, context: Context) -> list[Checked]:
        """The same, written down, with an alert while one has failed or changed."""
        async with self._database.begin() as tx:
            found = await self.standing(tx, context.zone)
            now = self._clock.now()
            for each in found:
                await tx.run(
                    "INSERT INTO document_looks (zone, document, at, verdict, sha256, told)"
                    " VALUES (:zone, :name, :now, :verdict, :sha256, :told) ON CONFLICT DO NOTHING",
                    zone=context.zone, name=each.item.name, now=now, verdict=str(each.verdict), sha256=each.sha256,
                    told=each.told,
                )  # fmt: skip
            red = [each for each in found if each.verdict in (Verdict.FAIL, Verdict.STALE)]
            await self._tell(tx, context, red)
            await self._recorder.record(
                tx,
                codes.DOCUMENTS_CHECKED,
                "failure" if red else "success",
                context,
                subject=Subject(id=context.zone, type="documents"),
                checked=len(found),
                red=sum(not each.verdict.green for each in found),
            )
        return found

    async def review(self, context: Context, name: str, statement: str, *, by: str) -> Checked:
        """Note that ``by`` read a document as it is now. Raises ``not_found``, and ``evidence_needed`` where the
        document cannot be seen from here: nobody has read what is not there."""
        item = await self._registers.get(context.zone, "documents", name)
        seen = await asyncio.to_thread(look, self.folder, str(item.spec["path"]))
        if not seen.sha256:
            raise BailiwickError(f"The document cannot be reviewed: {seen.why}.", reason="evidence_needed")
        now = self._clock.now()
        async with self._database.begin() as tx:
            record = await self._records.attest(
                tx,
                context,
                f"document.{name.lower()}",
                statement,
                producer=producer_of(by, "bailiwick documents"),
                since=now,
                until=now,
                inputs={"path": str(item.spec["path"]), "sha256": seen.sha256},
            )
        await self._registers.move(context, "documents", name, REVIEWED, by=by, record=record.id, note=statement[:200])
        async with self._database.begin() as tx:
            for each in await self.standing(tx, context.zone):
                if each.item.name == name:
                    return each
        raise NotFound(f"The register of documents has no item {name}.")

    async def keep(self) -> dict[str, int]:
        """Look at the documents of every zone."""
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")]
        found = [each for zone in zones for each in await self.check(Context(zone))]
        return {"documents": len(found), "red": sum(not each.verdict.green for each in found)}

    async def _checked(self, tx: Transaction, zone: str, item: Item) -> Checked:
        seen = await asyncio.to_thread(look, self.folder, str(item.spec["path"]))
        reviewed = ""
        if item.record:
            try:
                told = (await self._records.get(tx, zone, item.record)).record.inputs.get("sha256", "")
                reviewed = told if isinstance(told, str) else ""
            except NotFound:
                reviewed = ""
        verdict, why = judge(item, seen, reviewed, self._clock.now())
        return Checked(item, verdict, why, seen.sha256, reviewed)

    async def _tell(self, tx: Transaction, context: Context, red: Sequence[Checked]) -> None:
        key = "documents/reviewed"
        if not red:
            await self._alerts.clear(tx, context, key)
            return
        names = ", ".join(each.item.name for each in red[:10])
        await self._alerts.fire(
            tx,
            context,
            Raised(
                key=key,
                rule="DocumentsNotReviewed",
                severity=Severity.P3,
                summary=f"{len(red)} documents are missing, old or changed since they were reviewed: {names}"[:500],
                owner="ownership",
                runbook=RUNBOOK,
                labels={"documents": str(len(red))},
            ),
        )


class DocumentsChapter:
    """The single-source documents, one statement each."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        found = await self._documents.standing(tx, zone)
        whole = worst(each.verdict for each in found)
        told = f"{sum(each.verdict.green for each in found)} of {len(found)} are there and were reviewed in time"
        statements = [Statement("documents", told, whole, "documents:check", since, until, {"documents": len(found)})]
        for each in found:
            said = each.document()
            figures = {name: said[name] or "-" for name in ("path", "owner", "audience", "reviewed_at", "sha256")}
            record = f"sha256:{each.item.record}" if each.item.record else ""
            statements.append(
                Statement(
                    each.item.name, each.told, each.verdict, each.item.changed_by or "documents:check", since, until,
                    figures, record,
                )
            )  # fmt: skip
        return statements
