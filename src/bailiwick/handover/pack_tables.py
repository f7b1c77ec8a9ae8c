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
        "incident_containments",
        "done_at override",
        "override incident action sha256 by done_at settled_at uncut",
        "",
    ),
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
    # --- readiness
    ControlTable(
        "readiness_attachments",
        ("zone", "sha256", "media_type", "bytes", "kept_at", "kept_by"),
        ("zone", "sha256"),
        withheld=("data",),  # in the folder readiness/, of those that the window asks for
    ),
    _table(
        "readiness_attestations",
        "id",
        "id zone environment item sha256 statement attachment attachment_sha256 author made_at expires_at record",
    ),
    _table(
        "readiness_results",
        "run item",
        "run zone environment item sha256 looked verdict value unit detail waiver took_ms at expires_at record",
    ),
    _table("readiness_reviews", "attestation", "attestation outcome reviewer note reviewed_at record", ""),
    _table(
        "readiness_runs",
        "id",
        "id zone environment profile revision asked_by started_at finished_at verdict score record",
    ),
    _table(
        "runbook_runs",
        "id",
        "id zone runbook version incident dry started_by started_at steps ended_at outcome",
    ),
    _table("runbook_steps", "run number", "run number verdict at by told record", ""),
    # --- rollouts
    _table("rollout_answers", "number", "sha256 number rollout at until go asked_by document", ""),
    _table(
        "rollout_attempts",
        "rollout number",
        "rollout number step way state begun_at acted_at since ended_at by told record verification approval",
        "",
    ),
    _table("rollout_decisions", "rollout number", "rollout number gate what by why at", ""),
    _table("rollout_signatures", "rollout round by says", "rollout round by role says why subject at", ""),
    _table(
        "rollouts",
        "id",
        "id zone number environment digest plan plan_version plan_sha256 spec variables planned_by planned_at state "
        "entered_at told blocked_on round preflights_after answer answer_until started_by began_at decision_due fired "
        "heeded rollback_why rollback_began_at rollback_ended_at ended_at outcome holder lease_until version",
    ),
    _table(
        "switches",
        "id",
        "id zone name reason thrown_by thrown_at thrown_as lifted_at lifted_by",
    ),
    # --- environments and registers
    _table(
        "environments",
        "zone name",
        "zone name stage digest live_at hypercare_from pack version",
    ),
    _table(
        "environment_lives",
        "zone environment number",
        "zone environment number digest rollout approval at counts_from by",
    ),
    _table("environment_moves", "zone environment number", "zone environment number before after at by told"),
    _table(
        "validation_reports",
        "id",
        "id zone environment life suite attempt verdict opened_at began_at ended_at asked_by body sha256 record",
    ),
    _table("validation_asks", "zone environment suite", "zone environment suite asked_by asked_at"),
    _table(
        "hypercare_slots",
        "zone environment at attempt",
        "zone environment at attempt verdict filled_at results record",
    ),
    _table(
        "hypercare_incidents",
        "zone environment incident",
        "zone environment incident severity opened_at seen_at",
    ),
    _table("announcements", "id", "id zone template subject body sent_by sent_at"),
    _table("announcement_notices", "announcement number", "announcement number recipient notice", ""),
    _table("document_looks", "zone document at", "zone document at verdict sha256 told"),
    # --- canaries
    _table(
        "canaries",
        "id",
        "id zone server digest plan spec stable_url baseline_url candidate_url baseline_addresses candidate_addresses "
        "baseline_percent candidate_percent state automatic step passed phase phase_at phased_at looked watched_at "
        "verdict reason told started_at started_by ended_at ended_by version",
    ),
    _table("canary_judgements", "canary number", "canary number at percent points verdict reason told metrics", ""),
    _table(
        "canary_points",
        "canary phase bucket arm machine",
        "canary phase bucket arm machine at requests errors refused histogram",
        "",
    ),
    _table(
        "canary_results",
        "id",
        "id zone digest kind canary verdict reason told steps began_at at by record shortened own",
    ),
)
