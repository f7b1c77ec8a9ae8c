"""Tables in a pack: only columns that were listed, so that a new one is left out until somebody has looked at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bailiwick.evidence.pack import Outcome, Pack, Section

DEFAULT_ZONE = "default"


@dataclass(frozen=True, slots=True)
class ControlTable:
    """A table of the schema ``bailiwick``: the columns that packs show, those they withhold, and the order of rows.

    ``zoned``: the column that holds the zone, '' where the table is of the whole installation, which packs of the
    default zone alone show. ``at``: the column whose
    time must lie within the pack's window, '' to take all rows.
    """

    name: str
    shown: tuple[str, ...]
    order: tuple[str, ...]
    withheld: tuple[str, ...] = ()
    zoned: str = "zone"
    at: str = ""


def control_section(tables: Sequence[ControlTable]) -> Section:
    """The folder ``control/``: the tables as they stood in the pack's transaction, one JSON line a row."""

    async def write(pack: Pack) -> Outcome:
        rows = 0
        columns = {}
        # what tells of the whole installation is no other zone's business
        shown = [table for table in tables if table.zoned or pack.zone == DEFAULT_ZONE]
        for table in sorted(shown, key=lambda each: each.name):
            columns[table.name] = {"shown": table.shown, "withheld": table.withheld}
            conditions: list[str] = []
            values: dict[str, object] = {}
            if table.zoned:
                conditions.append(f"{table.zoned} = %(zone)s")
                values["zone"] = pack.zone
            if table.at:
                conditions.append(f"{table.at} >= %(since)s AND {table.at} <= %(until)s")
                values |= {"since": pack.window.since, "until": pack.window.until}
            sql = f"SELECT {', '.join(table.shown)} FROM bailiwick.{table.name}"  # noqa: S608 - names are our own
            sql += f" WHERE {' AND '.join(conditions)}" if conditions else ""
            found = pack.rows(f"{sql} ORDER BY {', '.join(table.order)}", values)
            rows += await pack.put_rows(f"{table.name}.jsonl", found, windowed=bool(table.at))
        await pack.put_json("columns.json", columns)
        snapshot = await _snapshot(pack)
        await pack.put_json("snapshot.json", snapshot)
        backup = snapshot["base_backup"]
        told = f"the newest base backup is {backup['id']}" if backup else "there is no base backup"
        return Outcome(note=f"{rows:,} rows of {len(shown)} tables; {told}")

    return Section("control", "The control tables in one consistent snapshot; secrets are not in it", "database", write)


async def _snapshot(pack: Pack) -> dict[str, Any]:
    """Which instant of the database this is, for holding it against a backup or its write-ahead log."""
    row = await pack.tx.one(
        "SELECT pg_current_snapshot()::text AS snapshot, current_setting('server_version') AS server,"
        " CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn()::text END AS lsn,"
        " transaction_timestamp() AS began_at"
    )
    assert row is not None
    backup = await pack.tx.one(
        "SELECT id, manifest_sha256, start_lsn, stop_lsn, timeline FROM bailiwick.backups WHERE state = 'complete'"
        " ORDER BY finished_at DESC LIMIT 1"
    )
    return {
        **row,
        "isolation": "repeatable read, read only",
        "base_backup": dict(backup) if backup is not None else None,
    }
