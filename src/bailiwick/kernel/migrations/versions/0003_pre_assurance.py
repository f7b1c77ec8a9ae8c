"""Assurance: the operating model and what comes of it. Each part keeps its tables in a file of its own."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003_pre_assurance"
down_revision = "0002_pre_evidence"
branch_labels = None
depends_on = None

GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA bailiwick TO bailiwick_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA bailiwick TO bailiwick_app;
"""
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
KEPT: tuple[str, ...] = (
    "waivers",
    "overrides",
    "gateway_closures",
    "alert_evaluations",
    "stuck_runs",
    "gateway_counts",
)
SCRIPTS = Path(__file__).parent.parent / "assurance"


def upgrade() -> None:
    op.execute("SET ROLE bailiwick_owner")
    op.execute("SET search_path = bailiwick")
    for script in sorted(SCRIPTS.glob("*.sql")):
        # as it stands: the text of a script is not one statement with parameters
        op.get_bind().exec_driver_sql(script.read_text(encoding="utf-8").replace("%", "%%"))
    op.execute("RESET ROLE")
    op.execute("RESET search_path")
    op.execute(GRANTS)
    for table in APPEND_ONLY:
        op.execute(f"REVOKE UPDATE, DELETE ON bailiwick.{table} FROM bailiwick_app")
    for table in KEPT:
        op.execute(f"REVOKE DELETE ON bailiwick.{table} FROM bailiwick_app")
