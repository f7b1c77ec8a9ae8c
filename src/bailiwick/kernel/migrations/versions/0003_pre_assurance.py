"""Assurance: the operating model and what comes of it. Each part keeps its tables in a file of its own."""

from __future__ import annotations

from bailiwick.kernel.migrations.rooms import lay

revision = "0003_pre_assurance"
down_revision = "0002_pre_evidence"
branch_labels = None
depends_on = None

# what has happened stays: the app may add to these tables and read them
APPEND_ONLY: tuple[str, ...] = (
    "alert_entries",
    "assurance_report_signatures",
    "assurance_reports",
    "capacity_points",
    "checkpoint_results",
    "go_lives",
    "kpi_values",
    "override_receipts",
    "override_samples",
    "probe_runs",
    "register_versions",
    "rhythm_action_versions",
    "rhythm_actions",
    "rhythm_minutes",
    "rhythm_packs",
    "rhythm_runs",
    "rhythm_signatures",
    "sli_buckets",
    "waiver_uses",
)
# these change, and the app never removes any: some are kept for ever, the runs as long as 90_retention.sql says
KEPT: tuple[str, ...] = ("waivers", "overrides", "gateway_closures", "alert_evaluations", "stuck_runs")


def upgrade() -> None:
    lay("assurance", append_only=APPEND_ONLY, kept=KEPT)
