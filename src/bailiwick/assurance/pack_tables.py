"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable


def _table(name: str, order: str, shown: str, *, withheld: str = "", zoned: str = "zone") -> ControlTable:
    """A table with its columns as words. ``zoned`` is empty for rows that belong to rows of another table."""
    return ControlTable(name, tuple(shown.split()), tuple(order.split()), tuple(withheld.split()), zoned)


TABLES: tuple[ControlTable, ...] = (
    _table(
        "alert_changes",
        "number",
        "number zone alert what at",
    ),
    _table(
        "alert_drills",
        "id",
        "id zone fault target rule state started_by injected_at until mended_at alert delivery fired_at "
        "delivered_at acknowledged_at",
    ),
    _table(
        "alert_entries",
        "alert number",
        "alert number at what by told",
        zoned="",
    ),
    _table(
        "alert_evaluations",
        "zone rule due_at",
        "zone rule due_at at verdict value threshold told",
    ),
    _table(
        "alert_groups",
        "zone channel group_key",
        "zone channel group_key told_at",
    ),
    _table(
        "alert_happenings",
        "id",
        "id zone kind reference began_at alert noted_at noted_by",
    ),
    _table(
        "alert_samples",
        "zone rule selector at",
        "zone rule selector at series",
    ),
    _table(
        "alert_silences",
        "id",
        "id zone matchers reason author begins_at ends_at ended_at ended_by",
    ),
    _table(
        "alert_storms",
        "zone channel since",
        "zone channel since alerts",
    ),
    _table(
        "alert_tellings",
        "alert channel what",
        "alert channel what zone route group_key due_at done_at notice",
    ),
    _table(
        "alerts",
        "id",
        "id zone key rule source state severity summary owner owner_person runbook labels annotations missing "
        "group_key began_at pending_until fired_at last_seen_at seen frozen_since flapping quiet_since "
        "acknowledged_at acknowledged_by resolved_at closed_at closed_by closed_as duplicate_of version",
    ),
    _table(
        "assurance_documents",
        "zone kind name version",
        "zone kind name version revision spec sha256 in_force applied_at applied_by",
    ),
    _table(
        "assurance_report_signatures",
        "report signed_by",
        "report signed_by signed_at sha256 event",
        zoned="",
    ),
    _table(
        "assurance_reports",
        "id",
        "id zone kind since until cutoff verdict coverage sha256 document produced_by produced_at",
    ),
    _table(
        "assurance_tasks",
        "id",
        "id zone source title owner severity due state misses missed_again_at told alerting opened_at "
        "ended_at ended_by outcome version",
    ),
    _table(
        "capacity_points",
        "zone resource definition at",
        "zone resource definition at value capacity error",
    ),
    _table(
        "channel_secrets",
        "zone name",
        "zone name set_at set_by version",
        withheld="sealed",
    ),
    _table("channel_secrets_removed", "zone name", "zone name removed_at removed_by"),
    _table(
        "checkpoint_plans",
        "id",
        "id zone checkpoint waiver plan owner due approval made_by made_at approved_at revoked_at revoked_by",
    ),
    _table(
        "checkpoint_results",
        "zone checkpoint version",
        "zone checkpoint version platform at due_at verdict findings definition record evaluated_by evaluated_at",
    ),
    _table(
        "entitlement_follow",
        "zone",
        "zone next_seq",
    ),
    _table(
        "entitlement_legs",
        "id",
        "id posting zone subject resource leg amount cause at by",
    ),
    _table(
        "escalation_steps",
        "alert number",
        "alert number zone level due_at state done_at person notice",
    ),
    _table(
        "gateway_closures",
        "id",
        "id zone server closed_by closed_at reason opened_at opened_by",
    ),
    _table(
        "gateway_counts",
        "zone hour outcome run",
        "zone hour outcome run verdicts",
    ),
    _table(
        "go_lives",
        "zone platform version",
        "zone platform version at reason approval recorded_by recorded_at",
    ),
    _table(
        "kpi_values",
        "zone kpi definition since until version",
        "zone kpi definition since until version value verdict inputs note built_at",
    ),
    _table(
        "notice_attempts",
        "delivery number",
        "delivery number at took_ms outcome told",
        zoned="",
    ),
    _table(
        "notice_deliveries",
        "id",
        "id notice zone channel address state attempts forgiven created_at next_at fallback_of delivered_at "
        "latency_ms remote_id told",
        withheld="dedup_key holder lease_until",
    ),
    _table(
        "notices",
        "id",
        "id zone key recipient subject body severity action facts created_at spread_at",
        withheld="dedup_key",
    ),
    _table(
        "oncall_overrides",
        "id",
        "id number zone rota level username begins_at ends_at reason made_by made_at withdrawn_by withdrawn_at",
    ),
    _table(
        "override_samples",
        "zone month override",
        "zone month override",
    ),
    _table(
        "overrides",
        "id",
        "id zone approval break_glass operation arguments environment target target_version amount "
        "payload_sha256 reason ticket risk rule rule_version requested_by requested_at state executed_by "
        "executed_at result why attempts review_due reviewed_by reviewed_at undo",
    ),
    _table(
        "owners_answering",
        "zone activity",
        "zone activity username since",
    ),
    _table(
        "probe_runs",
        "id",
        "id zone probe due_at asked_by started_at finished_at expires_at verdict value threshold comparison "
        "unit window_s detail record",
    ),
    _table(
        "reconciliation_findings",
        "id",
        "id zone reconciliation type fingerprint period side key detail severity action state first_run "
        "last_run found_at seen_at alerted acknowledged_by acknowledged_at resolved_by resolved_at change_id "
        "verified_at reopened waiver accepted_by snoozed_until note version",
    ),
    _table(
        "reconciliation_moves",
        "id",
        "id finding state at by why",
        zoned="",
    ),
    _table(
        "reconciliation_runs",
        "id",
        "id zone reconciliation mode period since until started_at finished_at verdict error coverage totals "
        "new_findings open_findings storm report markdown sha256",
    ),
    _table(
        "register_versions",
        "zone register item version",
        "zone register item version state record note changed_by changed_at",
    ),
    _table(
        "rhythm_action_versions",
        "action version",
        "action version state owner due severity misses record changed_by changed_at",
        zoned="",
    ),
    _table(
        "rhythm_actions",
        "id",
        "id zone occurrence ceremony title created_at created_by",
    ),
    _table(
        "rhythm_minutes",
        "occurrence version",
        "occurrence version body sha256 written_by written_at",
        zoned="",
    ),
    _table(
        "rhythm_occurrences",
        "id",
        "id zone ceremony starts_at ends_at made_by state noticed cut_off held_at created_at moved_at",
    ),
    _table(
        "rhythm_packs",
        "occurrence",
        "occurrence body sha256 verdict built_at built_by",
        zoned="",
    ),
    _table(
        "rhythm_runs",
        "occurrence name",
        "occurrence name query since until verdict told figures record ran_at",
        zoned="",
    ),
    _table(
        "rhythm_signatures",
        "occurrence",
        "occurrence minutes minutes_sha256 pack_sha256 signed_by signed_at",
        zoned="",
    ),
    _table(
        "secret_rotations",
        "id",
        "id zone kind name old new rotated_by rotated_at overlap_until verdict proved_at record",
    ),
    _table(
        "secrets_seen",
        "zone name fingerprint",
        "zone name fingerprint first_seen_at",
    ),
    _table(
        "silent_jobs",
        "job",
        "job since noticed_at why",
        zoned="",
    ),
    _table(
        "sli_buckets",
        "number",
        "number zone slo definition minute good total counted_at",
    ),
    _table(
        "sli_snapshots",
        "zone slo definition minute",
        "zone slo definition minute good total",
    ),
    _table(
        "slo_states",
        "zone slo",
        "zone slo definition counted_until error failing_since",
    ),
    _table(
        "stuck_actions",
        "id",
        "id zone machine item state action by at outcome",
    ),
    _table(
        "stuck_heartbeats",
        "zone machine worker",
        "zone machine worker at",
    ),
    _table(
        "stuck_runs",
        "id",
        "id zone machine started_at finished_at verdict error counts oldest_s",
    ),
    _table(
        "stuck_transitions",
        "zone machine item",
        "zone machine item state entered_at seen_at owner band attempts gone_at",
    ),
    _table(
        "support_cases",
        "id",
        "id zone class title opened_by opened_at due_at done_at done_by",
    ),
    _table(
        "unused_reviews",
        "id",
        "id zone kind name owner idle_days listed_at disable_at state decided_by decided_at note",
    ),
    _table(
        "waivers",
        "id",
        "id zone control scope reason risk compensating owner plan requested_by signed_in tier valid_from "
        "valid_until renewals renews renewed_by approval state evidence decided_by decided_at "
        "expired_noted_at settled_at event version created_at changed_at",
    ),
)
