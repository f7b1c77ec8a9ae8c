"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable


def _table(name: str, order: str, columns: str, zoned: str = "zone") -> ControlTable:
    """``zoned`` is empty for rows that belong to rows of another table, or to the whole installation."""
    return ControlTable(name, tuple(columns.split()), tuple(order.split()), zoned=zoned)


_HANDOVERS = (
    *("id", "zone", "plan", "environment", "since", "until", "good_until", "verdict", "sha256"),
    *("built_by", "built_at", "event", "state", "ended_at", "ended_by"),
)

TABLES: tuple[ControlTable, ...] = (
    # --- backups
    _table(
        "backups",
        "id",
        "id state place started_at finished_at asked_by bytes start_lsn stop_lsn timeline manifest_sha256 heads error "
        "expired_at",
        "",
    ),
    _table("backup_log", "place", "place covered_until segment stored_at trouble", ""),
    _table("backup_restores", "id", "id backup place to_moment ended_lsn restored_at restored_by heads", ""),
    _table(
        "backup_drills", "id", "id kind verdict started_at finished_at held_by backup rto_s rpo_s checks record", ""
    ),
    # --- handovers
    _table("handover_acceptances", "handover", "handover person at event revision statement statement_event", ""),
    _table("handover_refusals", "handover", "handover team person reason at event", ""),
    _table("handover_signatures", "handover team", "handover team person account how sha256 assertion at event", ""),
    ControlTable("handovers", _HANDOVERS, ("id",), withheld=("document",)),
    _table(
        "incident_actions",
        "incident number",
        "incident number title owner due state done_by verified_by record changed_at",
        "",
    ),
    _table("incident_alerts", "incident alert", "incident alert linked_at", ""),
    _table(
        "incident_drills",
        "id",
        "id zone trigger started_by injected_at until incident opened_at acknowledged_at contained_at ended_at outcome",
    ),
    _table("incident_entries", "incident number", "incident number at noted_at what by told ref", ""),
    _table("incident_judgements", "incident number", "incident number at by verdict conditions", ""),
    _table(
        "incidents",
        "id",
        "id zone number key trigger title severity class state drill public runbook exits began_at opened_at opened_by "
        "commander scribe alert acknowledged_at contained_at pack preserved_at recovered_at recovered_by review_due "
        "reviewed_at review closed_at closed_by update_due updates_missed version",
    ),
    _table(
        "runbook_runs",
        "id",
        "id zone runbook version incident dry started_by started_at steps ended_at outcome",
    ),
    _table("runbook_steps", "run number", "run number verdict at by told record", ""),
    _table(
        "switches",
        "id",
        "id zone name reason thrown_by thrown_at thrown_as lifted_at lifted_by",
    ),
)
