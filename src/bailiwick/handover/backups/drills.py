"""Drills: a backup is one when it was restored.

A restore drill does what a disaster would make somebody do, into a scratch directory, from the store and the keys
alone: restore to the end of the log, verify the ledger by the verifier that auditors use, compare rows, sign somebody
in. How long that takes is the measured RTO; what was not in the store yet when it began, the measured RPO. A drill
whose figures are not known has not passed.
"""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from psycopg import AsyncConnection, sql

from bailiwick import __version__
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.archive.store import ObjectStore
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.tree import MissingHashes, root_at, tree_size
from bailiwick.handover.backups.restoring import Keys, Restored, Restoring, Wanted
from bailiwick.handover.backups.service import shown
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import DATABASE, EmbeddedPostgres
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify.db import verify_database

CHECK = "backup.restore-drill"
_ESCROW = "escrow"

# tables whose rows say when they were last changed: what stood before the end of the log must have come back as it was
_COMPARED = (
    ("zones", "name", "created_at"),
    ("zone_keys", "zone || '/' || kid", "created_at"),
    ("users", "id", "updated_at"),
    ("applications", "id", "updated_at"),
    ("servers", "id", "updated_at"),
    ("credentials", "id", "rotated_at"),
    ("policy_versions", "zone || '/' || name || '/' || version", "created_at"),
)

SignIn = Callable[[Layout, str], Awaitable[str]]
"""Signs somebody in on a scratch installation, given its layout and database; says who, raises where it fails."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Targets:
    """What a drill is judged by, and who is told where it fails."""

    rto: timedelta
    rpo: timedelta
    owner: str
    severity: Severity
    runbook: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at. ``verdict`` is NO_DATA for what could not be looked at, which then does not hold
    and fails nothing."""

    name: str
    holds: bool
    told: str
    verdict: Verdict = Verdict.NO_DATA


@dataclass(slots=True)
class Drill:
    """One drill as it is kept."""

    id: str
    kind: str
    started_at: datetime
    held_by: str
    verdict: str = "ERROR"
    finished_at: datetime | None = None
    backup: str | None = None
    rto_s: float | None = None
    rpo_s: float | None = None
    checks: list[Checked] = field(default_factory=list)
    record: str = ""

    def note(self, name: str, holds: bool, told: str) -> None:
        """Keep what a look found."""
        self.checks.append(Checked(name, holds, told, Verdict.PASS if holds else Verdict.FAIL))

    def without(self, name: str, told: str) -> None:
        """Keep that there was nothing to look at."""
        self.checks.append(Checked(name, False, told))

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **{name: getattr(self, name) for name in ("id", "kind", "verdict", "held_by", "backup", "record")},
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "rto_s": round(self.rto_s, 3) if self.rto_s is not None else None,
            "rpo_s": round(self.rpo_s, 3) if self.rpo_s is not None else None,
            "checks": [asdict(each) for each in self.checks],
        }


def judge(drill: Drill, targets: Targets) -> str:
    """PASS where every check that could be made held, and both figures are known and below their targets."""
    drill.note(
        "rto",
        drill.rto_s is not None and drill.rto_s < targets.rto.total_seconds(),
        f"{_told(drill.rto_s)} of at most {targets.rto.total_seconds():.0f} s",
    )
    drill.note(
        "rpo",
        drill.rpo_s is not None and drill.rpo_s < targets.rpo.total_seconds(),
        f"{_told(drill.rpo_s)} of at most {targets.rpo.total_seconds():.0f} s",
    )
    return "FAIL" if any(each.verdict is Verdict.FAIL for each in drill.checks) else "PASS"


def _whole(seconds: float | None) -> int:
    return -1 if seconds is None else round(seconds)


def _told(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds:.1f} s"


class Drills:
    """Holds drills and keeps what they found. ``scratch``: where the restored installation stands meanwhile."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        kek: Path,
        sign_in: SignIn,
        scratch: Path,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        records: EvidenceRecords,
        alerts: Alerts,
    ) -> None:
        self._database = database
        self._store = store
        self._kek = kek
        self._sign_in = sign_in
        self._scratch = scratch
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._records = records
        self._alerts = alerts

    async def restore(self, context: Context, targets: Targets, by: str, *, escrow: str | None = None) -> Drill:
        """Drill a restore; what it found is kept whatever that is, also where it could not be held.

        ``escrow``: the private escrow key (64 hex digits). With it the backup is opened by what lies in escrow and by
        nothing else, as after the loss of the machine; without it that the escrow opens is NO_DATA.
        """
        drill = Drill(self._ids(), "restore", self._clock.now(), by)
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="drill-", dir=self._scratch))
        try:
            covered = await self._covered()
            drill.rpo_s = (drill.started_at - covered).total_seconds() if covered is not None else None
            await self._restore(drill, directory / "data", covered, escrow)
            drill.verdict = judge(drill, targets)
        except Exception as error:  # noqa: BLE001 - a drill that ends otherwise than by passing is told, not retried
            told = f"{error.reason}: {error.detail}" if isinstance(error, BailiwickError) else type(error).__name__
            log.warning("restore drill failed", error=told)
            drill.note("restore", False, told)
            if escrow is not None and not any(each.name == _ESCROW for each in drill.checks):
                drill.note(_ESCROW, False, f"nothing was restored by it: {told}")
            drill.verdict = "FAIL" if isinstance(error, BailiwickError) else "ERROR"
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        drill.finished_at = self._clock.now()
        await self.keep(context, drill, targets)
        return drill

    async def _covered(self) -> datetime | None:
        async with self._database.begin() as tx:
            found: datetime | None = await tx.value(
                "SELECT covered_until FROM backup_log WHERE place = :place", place=self._store.place
            )
        return found

    async def _restore(self, drill: Drill, target: Path, covered: datetime | None, escrow: str | None) -> None:
        began = time.monotonic()
        keys = Keys(kek=self._kek) if escrow is None else Keys(escrow=escrow)
        restored = await Restoring(self._store, target, keys, self._clock).run(Wanted(by=drill.held_by))
        if escrow is not None:
            told = f"{', '.join(restored.manifest.keks)} came out of the escrow and opened everything"
            drill.note(_ESCROW, True, told)
        elif restored.manifest.escrow is None:
            drill.without(_ESCROW, "the backup has no keys in escrow: set BAILIWICK_BACKUP_ESCROW_KEY")
        else:
            drill.without(_ESCROW, "the escrow key was not given: bailiwick drill restore --escrow-key FILE")
        drill.backup = restored.manifest.id
        drill.note("restore", True, f"{restored.segments} segments of the log, to {restored.ended}")
        layout = Layout(target)
        layout.create()
        postgres = EmbeddedPostgres(layout)
        try:
            await postgres.start()
            url = postgres.url(DATABASE)
            await self._verify(drill, restored, url)
            until = covered or datetime.fromisoformat(restored.manifest.started_at)
            await self._compare(drill, url, until)
            try:
                drill.note("sign-in", True, await self._sign_in(layout, url))
            except BailiwickError as error:
                drill.note("sign-in", False, f"{error.reason}: {error.detail}")
            drill.rto_s = time.monotonic() - began
        finally:
            await postgres.stop()
            layout.remove_foreign_run()

    async def _verify(self, drill: Drill, restored: Restored, url: str) -> None:
        """The ledger of each zone by the auditors' verifier, under the keys of the original, and against its tree."""
        copy = Database(url, pool_size=1)
        try:
            for state in restored.zones:
                async with self._database.begin() as tx:
                    keys = list((await ledger_keys(tx, state.zone)).values())
                report, _ = await asyncio.to_thread(verify_database, url, keys, zone=state.zone, archived=True)
                why = report.findings[0] if report.findings else ""
                holds = report.verdict in {"PASS", "SIMULATED"} or (report.verdict == "NO_DATA" and state.size == 0)
                drill.note(f"ledger {state.zone}", holds, f"{report.verdict}, {report.size} events {why}".strip())
                async with copy.begin() as tx:
                    size, root = (held := await tree_size(tx, state.zone)), await root_at(tx, state.zone, held)
                # the restore itself added nothing to the tree: its event waits in the outbox
                async with self._database.begin() as tx:
                    try:
                        same = await root_at(tx, state.zone, size) == root
                    except MissingHashes:
                        same = False
                drill.note(f"prefix {state.zone}", same, f"{size} events are the first of the original's")
        finally:
            await copy.close()

    async def _compare(self, drill: Drill, url: str, until: datetime) -> None:
        """What was last changed before ``until`` must be there as it is."""
        async with await AsyncConnection.connect(url, autocommit=True) as copy:
            for table, key, stamp in _COMPARED:
                query = f"SELECT {key} AS key, {stamp} AS stamp FROM bailiwick.{table}"  # noqa: S608 - ours
                async with self._database.begin() as tx:
                    original = {
                        row["key"]: row["stamp"]
                        for row in await tx.all(f"{query} WHERE {stamp} <= :until", until=until)
                    }
                cursor = await copy.execute(sql.SQL(query))
                there: Mapping[Any, Any] = dict(await cursor.fetchall())
                missing = [each for each, at in original.items() if there.get(each) != at]
                told = f"{len(original) - len(missing)} of {len(original)} rows came back as they were"
                drill.note(f"rows of {table}", not missing, told)

    async def keep(self, context: Context, drill: Drill, targets: Targets) -> None:
        """Keep a drill: a row, an evidence record, an event, a figure, an alert where it did not pass."""
        assert drill.finished_at is not None
        passed = drill.verdict == "PASS"
        output = json.dumps(drill.document(), indent=1).encode()
        async with self._database.begin() as tx:
            stored = await self._records.probe(
                tx,
                context,
                CHECK if drill.kind == "restore" else "backup.failover-drill",
                output,
                exit_code=0 if passed else 1,
                since=drill.started_at,
                until=drill.finished_at,
                producer=Producer(host=platform.node(), name=drill.held_by, program="bailiwick", version=__version__),
                inputs={"backup": drill.backup or "", "place": self._store.place},
            )
            drill.record = stored.id
            await tx.run(
                "INSERT INTO backup_drills (id, kind, verdict, started_at, finished_at, held_by, backup, rto_s, rpo_s,"
                " checks, record) VALUES (:id, :kind, :verdict, :started, :finished, :by, :backup, :rto, :rpo,"
                " cast(:checks AS jsonb), :record)",
                id=drill.id,
                kind=drill.kind,
                verdict=drill.verdict,
                started=drill.started_at,
                finished=drill.finished_at,
                by=drill.held_by,
                backup=drill.backup,
                rto=drill.rto_s,
                rpo=drill.rpo_s,
                checks=json.dumps([asdict(each) for each in drill.checks]),
                record=drill.record,
            )
            await self._recorder.record(
                tx,
                codes.BACKUP_DRILLED,
                "success" if passed else "failure",
                context,
                subject=Subject(id=drill.id, type="drill"),
                kind=drill.kind,
                verdict=drill.verdict,
                record=drill.record,
                backup=drill.backup or "",
                rto_s=_whole(drill.rto_s),
                rpo_s=_whole(drill.rpo_s),
            )
            if passed:
                await self._alerts.clear(tx, context, f"{drill.kind}-drill")
            else:
                wrong = next(each for each in drill.checks if each.verdict is Verdict.FAIL)
                await self._alerts.fire(
                    tx,
                    context,
                    Raised(
                        f"{drill.kind}-drill",
                        f"{drill.kind}-drill",
                        targets.severity,
                        f"The {drill.kind} drill did not pass: {wrong.name}, {wrong.told}"[:500],
                        targets.owner,
                        targets.runbook,
                    ),
                )


async def listed(database: Database, limit: int = 200) -> Sequence[dict[str, Any]]:
    """The drills that were held, newest first."""
    async with database.begin() as tx:
        rows = await tx.all(
            "SELECT id, kind, verdict, started_at, finished_at, held_by, backup, rto_s, rpo_s, checks, record"
            " FROM backup_drills ORDER BY id DESC LIMIT :limit",
            limit=limit,
        )
    return [shown(row) for row in rows]
