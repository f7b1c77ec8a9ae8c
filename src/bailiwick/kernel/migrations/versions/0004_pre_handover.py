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
    "canary_judgements",
    "canary_points",
    "canary_results",
    "handover_acceptances",
    "handover_refusals",
    "handover_signatures",
    "incident_alerts",
    "incident_entries",
    "incident_judgements",
    "readiness_attachments",
    "readiness_attestations",
    "readiness_results",
    "readiness_reviews",
    "readiness_runs",
    "runbook_steps",
    # environments and registers
    "announcement_notices",
    "announcements",
    "document_looks",
    "environment_lives",
    "environment_moves",
    "hypercare_incidents",
    "hypercare_slots",
    "validation_reports",
    # rollouts
    "rollout_answers",
    "rollout_decisions",
    "rollout_signatures",
)
# these change, and the app never removes any
KEPT: tuple[str, ...] = (
    "backup_log",
    "backups",
    "canaries",
    "handovers",
    "incident_actions",
    "incident_drills",
    "incidents",
    "runbook_runs",
    "switches",
    "environments",
    # rollouts
    "rollout_attempts",
    "rollouts",
)


def upgrade() -> None:
    lay("handover", append_only=APPEND_ONLY, kept=KEPT)
