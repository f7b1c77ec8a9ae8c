"""Handover: backups, incidents and what comes of them. Each part keeps its tables in a file of its own."""

from __future__ import annotations

from bailiwick.kernel.migrations.rooms import lay

revision = "0004_pre_handover"
down_revision = "0003_pre_assurance"
branch_labels = None
depends_on = None

# what has happened stays: the app may add to these tables and read them
APPEND_ONLY: tuple[str, ...] = (
    "backup_drills",
    "backup_restores",
    "handover_acceptances",
    "handover_refusals",
    "handover_signatures",
    "incident_alerts",
    "incident_entries",
    "incident_judgements",
    "runbook_steps",
)
# these change, and the app never removes any
KEPT: tuple[str, ...] = (
    "backup_log",
    "backups",
    "handovers",
    "incident_actions",
    "incident_drills",
    "incidents",
    "runbook_runs",
    "switches",
)


def upgrade() -> None:
    lay("handover", append_only=APPEND_ONLY, kept=KEPT)
