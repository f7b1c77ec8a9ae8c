"""The chapter ``backups`` of a handover pack: the newest backup, the log behind it, and what restoring it showed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from bailiwick.assurance.books import Books
from bailiwick.assurance.probes.internal import backup_days
from bailiwick.assurance.shipped import INSTALLATION_ZONE
from bailiwick.handover.backups.service import SELECT
from bailiwick.handover.backups.spec import BACKUP_PLAN, PLAN, BackupPlanSpec
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.verdicts import Verdict

FRESH = timedelta(hours=24)
DRILLED = timedelta(days=30)
ESCROW_PROVEN = timedelta(days=90)
COVERED = timedelta(minutes=15)
BACKUP_DAYS = 7


# ---------------------------------------------------------------------- rules


def verdict_of_age(at: datetime | None, until: datetime, most: timedelta) -> Verdict:
    """PASS for what is at most ``most`` old at ``until``, STALE for what is older, NO_DATA without one."""
    if at is None:
        return Verdict.NO_DATA
    return Verdict.PASS if until - at <= most else Verdict.STALE


# ---------------------------------------------------------------------- service


class BackupChapter:
    """Builds it. ``place``: where backups go; None where none are made."""

    def __init__(self, place: str | None, books: Books) -> None:
        self._place = place
        self._books = books

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """What is so at the end of the window; backups are of the whole installation."""
        book = await self._books.current(tx, INSTALLATION_ZONE)
        plan = book.of(BACKUP_PLAN).get(PLAN) or BackupPlanSpec(owner="uptime")
        return [
            await self._backup(tx, since, until),
            await self._kept(tx, plan, since, until),
            await self._log(tx, since, until),
            await self._drill(tx, plan, "restore", since, until),
            await self._escrow(tx, since, until),
            await self._drill(tx, plan, "failover", since, until),
        ]

    async def _backup(self, tx: Transaction, since: datetime, until: datetime) -> Statement:
        row = await tx.one(
            f"{SELECT} WHERE state IN ('complete', 'expired') AND finished_at <= :until"
            " ORDER BY finished_at DESC LIMIT 1",
            until=until,
        )
        if row is None:
            return Statement(
                "newest-backup", "there is no backup", Verdict.NO_DATA, "job:backup", since, until,
                {"place": self._place or ""},
            )  # fmt: skip
        verdict = verdict_of_age(row["finished_at"], until, FRESH)
        figures: dict[str, object] = {
            **{name: row[name] for name in ("id", "place", "bytes", "manifest_sha256", "asked_by")},
            "finished_at": row["finished_at"].isoformat(),
            "age_s": round((until - row["finished_at"]).total_seconds()),
        }
        said = f"{row['id']} at {row['place']}, {row['bytes'] or 0:,} bytes, finished {row['finished_at']:%F %H:%M} UTC"
        return Statement("newest-backup", said, verdict, row["asked_by"] or "job:backup", since, until, figures)

    async def _kept(self, tx: Transaction, plan: BackupPlanSpec, since: datetime, until: datetime) -> Statement:
        """The handoff asks for seven daily ones: of a day on which many were made, one counts."""
        days = await backup_days(tx, until)
        count = await tx.value(
            "SELECT count(*) FROM backups WHERE finished_at <= :until AND (state = 'complete'"
            " OR state = 'expired' AND expired_at > :until)",
            until=until,
        )
        failed = await tx.value(
            "SELECT count(*) FROM backups WHERE state = 'failed' AND started_at > :since AND started_at <= :until",
            since=since,
            until=until,
        )
        keep = plan.keep
        if days is None:
            verdict, on = Verdict.NO_DATA, "the first was not made seven days before"
        else:
            verdict = Verdict.PASS if days >= BACKUP_DAYS else Verdict.FAIL
            on = f"{days} of the last seven days have one"
        said = f"{count} are kept, {on}, {failed} failed in the window"
        figures: dict[str, object] = {"kept": count, "days": days or 0, "failed": failed}
        figures |= {f"{tier}_days": getattr(keep, tier) for tier in ("daily", "weekly", "monthly")}
        return Statement("kept", said, verdict, "job:backup", since, until, figures)

    async def _log(self, tx: Transaction, since: datetime, until: datetime) -> Statement:
        row = await tx.one(
            "SELECT covered_until, segment, trouble FROM backup_log WHERE place = :place", place=self._place or ""
        )
        if row is None or row["covered_until"] is None:
            return Statement("log", "no log is stored", Verdict.NO_DATA, "loop:log for backups", since, until)
        age = until - row["covered_until"]
        said = f"everything committed by {row['covered_until']:%F %H:%M:%S} UTC is stored {row['trouble']}".strip()
        figures: dict[str, object] = {
            "covered_until": row["covered_until"].isoformat(),
            "behind_s": max(0, round(age.total_seconds())),
            "segment": row["segment"],
        }
        verdict = verdict_of_age(row["covered_until"], until, COVERED)
        return Statement("log", said, verdict, "loop:log for backups", since, until, figures)

    async def _escrow(self, tx: Transaction, since: datetime, until: datetime) -> Statement:
        """The newest restore drill that was given the escrow key; what was not tried is not known."""
        row = await tx.one(
            "SELECT id, finished_at, held_by, record, c ->> 'verdict' AS verdict, c ->> 'told' AS told"
            " FROM backup_drills, jsonb_array_elements(checks) AS c WHERE kind = 'restore' AND c ->> 'name' = 'escrow'"
            " AND c ->> 'verdict' IN ('PASS', 'FAIL') AND finished_at <= :until ORDER BY finished_at DESC LIMIT 1",
            until=until,
        )
        if row is None:
            told = "no restore drill was given the escrow key"
            return Statement("escrow", told, Verdict.NO_DATA, "drill:restore", since, until)
        verdict = Verdict(row["verdict"])
        if verdict.green:
            verdict = verdict_of_age(row["finished_at"], until, ESCROW_PROVEN)
        figures: dict[str, object] = {"drill": row["id"], "held_at": row["finished_at"].isoformat()}
        return Statement("escrow", row["told"], verdict, row["held_by"], since, until, figures, row["record"])

    async def _drill(
        self, tx: Transaction, plan: BackupPlanSpec, kind: str, since: datetime, until: datetime
    ) -> Statement:
        """The newest drill counts, also where an older one passed."""
        row = await tx.one(
            "SELECT id, verdict, finished_at, held_by, backup, rto_s, rpo_s, checks, record FROM backup_drills"
            " WHERE kind = :kind AND finished_at <= :until ORDER BY finished_at DESC LIMIT 1",
            kind=kind,
            until=until,
        )
        if row is None:
            return Statement(f"{kind}-drill", "none was held", Verdict.NO_DATA, f"drill:{kind}", since, until)
        verdict = Verdict(row["verdict"])
        if verdict.green:
            verdict = verdict_of_age(row["finished_at"], until, DRILLED)
        return Statement(
            f"{kind}-drill", _told(row), verdict, row["held_by"], since, until, _figures(row, plan),
            row["record"],
        )  # fmt: skip


def _said(check: dict[str, object]) -> str:
    held = check.get("verdict") or ("PASS" if check["holds"] else "FAIL")
    return f"{held}: {check['told']}"[:200]


def _told(row: Row) -> str:
    measured = [
        f"{name} {'not known' if row[f'{name.lower()}_s'] is None else format(row[f'{name.lower()}_s'], '.1f') + ' s'}"
        for name in ("RTO", "RPO")
    ]
    return f"{row['verdict']} at {row['finished_at']:%F %H:%M} UTC, {', '.join(measured)}"


def _figures(row: Row, plan: BackupPlanSpec) -> dict[str, object]:
    figures: dict[str, object] = {
        "drill": row["id"],
        "backup": row["backup"],
        "held_at": row["finished_at"].isoformat(),
        "rto_s": row["rto_s"],
        "rto_most_s": plan.rto.total_seconds(),
        "rpo_s": row["rpo_s"],
        "rpo_most_s": plan.rpo.total_seconds(),
    }
    return figures | {f"check {each['name']}": _said(each) for each in row["checks"][:40]}
