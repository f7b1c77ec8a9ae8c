"""What each event code is in the languages of others: one table for OCSF and ECS.

A new code needs its line here, and its golden files (``python tests/evidence/golden_events.py --write``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bailiwick.evidence import codes, ecs, ocsf
from bailiwick.evidence.codes import EVENT_TYPES, EventType
from bailiwick.evidence.events import Event
from bailiwick.evidence.ocsf import (
    ACCOUNT_CHANGE,
    API_ACTIVITY,
    AUTHENTICATION,
    AUTHORIZE_SESSION,
    BY_METHOD,
    DETECTION_FINDING,
    ENTITY_MANAGEMENT,
    EventClass,
    Severity,
)

INFO, LOW, MEDIUM, HIGH, CRITICAL = Severity


@dataclass(frozen=True, slots=True)
class Mapped:
    """One code: its OCSF class and activity, its ECS categories and types, and how much it matters.

    ``failed`` is the severity where the outcome is none of success and allow.
    """

    ocsf: EventClass
    activity: str
    categories: tuple[str, ...]
    types: tuple[str, ...]
    severity: Severity = INFO
    failed: Severity = LOW
    kind: str = "event"


_AUTH = ("authentication",)
_SESSION = ("authentication", "session")
_IAM = ("iam",)
_CONFIGURATION = ("configuration",)
_API = ("api",)


def _entity(
    activity: str, type: str, severity: Severity = INFO, categories: tuple[str, ...] = _CONFIGURATION
) -> Mapped:
    return Mapped(ENTITY_MANAGEMENT, activity, categories, (type,), severity)


def _account(activity: str, type: str, severity: Severity = INFO) -> Mapped:
    return Mapped(ACCOUNT_CHANGE, activity, _IAM, ("user", type), severity, MEDIUM)


def _application(activity: str, type: str) -> Mapped:
    return Mapped(ENTITY_MANAGEMENT, activity, _IAM, ("admin", type))


def _call(activity: str, type: str, severity: Severity = INFO, failed: Severity = LOW) -> Mapped:
    return Mapped(API_ACTIVITY, activity, _API, (type,), severity, failed)


def _finding(activity: str, severity: Severity) -> Mapped:
    return Mapped(DETECTION_FINDING, activity, _CONFIGURATION, ("info",), severity, severity, kind="alert")


MAPPING: Mapping[EventType, Mapped] = {
    codes.AUTH_LOGIN_SUCCESS: Mapped(AUTHENTICATION, "Logon", _SESSION, ("start",)),
    codes.AUTH_LOGIN_FAILURE: Mapped(AUTHENTICATION, "Logon", _AUTH, ("start",)),
    codes.AUTH_LOGOUT: Mapped(AUTHENTICATION, "Logoff", _SESSION, ("end",)),
    codes.AUTH_PASSWORD_CHANGED: _account("Password Change", "change"),
    codes.AUTH_SESSION_ENDED: Mapped(AUTHENTICATION, "Logoff", _SESSION, ("end",)),
    codes.AUTH_ACCOUNT_LOCKED: _account("Lock", "change", MEDIUM),
    codes.AUTH_INVITATION_ACCEPTED: _account("Password Reset", "change"),
    codes.AUTH_SESSION_REFRESHED: Mapped(AUTHENTICATION, "Authentication Ticket", _SESSION, ("info",)),
    codes.AUTH_REFRESH_REUSED: Mapped(AUTHENTICATION, "Authentication Ticket", _SESSION, ("end",), HIGH, HIGH),
    codes.AUTH_FACTOR_OFFERED: _entity("Update", "change", categories=_IAM),
    codes.AUTH_FACTOR_ENROLLED: _account("MFA Factor Enable", "change"),
    codes.AUTH_FACTOR_REMOVED: _account("MFA Factor Disable", "change", LOW),
    codes.AUTH_FACTOR_CLONED: Mapped(ACCOUNT_CHANGE, "MFA Factor Disable", _IAM, ("user", "change"), HIGH, HIGH),
    codes.AUTH_RECOVERY_CODES_RENEWED: _entity("Update", "change", categories=_IAM),
    codes.AUTH_RECOVERY_CODE_USED: _entity("Update", "change", LOW, _IAM),
    codes.AUTH_STEPPED_UP: Mapped(AUTHENTICATION, "Logon", _SESSION, ("info",)),
    codes.API_KEY_CREATED: _entity("Create", "creation"),
    codes.API_KEY_ROTATED: _entity("Update", "change"),
    codes.API_KEY_ENDED: _entity("Delete", "deletion"),
    codes.API_KEY_CHANGED: _entity("Update", "change"),
    codes.USER_CREATED: _account("Create", "creation"),
    codes.USER_CHANGED: _account("Update", "change"),
    codes.USER_DISABLED: _account("Disable", "change"),
    codes.USER_ENABLED: _account("Enable", "change"),
    codes.USER_MFA_RESET: _account("MFA Factor Disable", "change", MEDIUM),
    codes.USER_PASSWORD_RESET: _account("Password Reset", "change", MEDIUM),
    codes.USER_UNLOCKED: _account("Unlock", "change", LOW),
    codes.USER_DELETED: _account("Delete", "deletion", MEDIUM),
    codes.USER_LINKED: _entity("Update", "change", LOW, _IAM),
    codes.GROUP_CREATED: _entity("Create", "creation", categories=_IAM),
    codes.GROUP_CHANGED: _entity("Update", "change", LOW, _IAM),
    codes.GROUP_DELETED: _entity("Delete", "deletion", LOW, _IAM),
    codes.GROUP_MEMBERS_ADDED: _entity("Update", "change", LOW, _IAM),
    codes.GROUP_MEMBERS_REMOVED: _entity("Update", "change", LOW, _IAM),
    codes.ACCESS_REVIEWED: _entity("Update", "change", LOW, _IAM),
    codes.APPLICATION_CREATED: _application("Create", "creation"),
    codes.APPLICATION_CHANGED: _application("Update", "change"),
    codes.APPLICATION_SECRET_ROTATED: _application("Update", "change"),
    codes.APPLICATION_DISABLED: _application("Disable", "change"),
    codes.APPLICATION_ENABLED: _application("Enable", "change"),
    codes.ZONE_CREATED: _entity("Create", "creation"),
    codes.ZONE_CHANGED: _entity("Update", "change"),
    codes.ZONE_ARCHIVED: _entity("Disable", "change", MEDIUM),
    codes.SERVER_CREATED: _entity("Create", "creation"),
    codes.SERVER_CHANGED: _entity("Update", "change"),
    codes.SERVER_DELETED: _entity("Delete", "deletion"),
    codes.CREDENTIAL_CREATED: _entity("Create", "creation"),
    codes.CREDENTIAL_ROTATED: _entity("Update", "change"),
    codes.CREDENTIAL_DELETED: _entity("Delete", "deletion"),
    codes.IDP_CREATED: _entity("Create", "creation", LOW, _IAM),
    codes.IDP_CHANGED: _entity("Update", "change", LOW, _IAM),
    codes.IDP_DELETED: _entity("Delete", "deletion", LOW, _IAM),
    codes.IDP_TESTED: _call("Read", "info"),
    codes.POLICY_ADMITTED: _entity("Create", "creation"),
    codes.POLICY_REFUSED: _entity("Create", "info"),
    codes.POLICY_ACTIVATED: _entity("Activate", "change", LOW),
    codes.POLICY_ROLLED_BACK: _entity("Activate", "change", MEDIUM),
    codes.POLICY_TESTED: _call("Read", "info", failed=INFO),
    codes.POLICY_NEWLY_ALLOWED: _finding("Create", MEDIUM),
    codes.POLICY_CACHE_FLUSHED: _entity("Update", "change"),
    codes.POLICY_KNOWN_GOOD: _entity("Update", "change"),
    codes.POLICY_SUSPECT: _finding("Create", HIGH),
    codes.DECISION_EVALUATED: _call("Evaluate", "access"),
    codes.MANDATE_ISSUED: Mapped(AUTHORIZE_SESSION, "Assign Privileges", ("session",), ("start",)),
    codes.MANDATE_REFUSED: Mapped(AUTHORIZE_SESSION, "Assign Privileges", ("session",), ("info",)),
    codes.AUTHORITY_REVOKED: _entity("Disable", "change", LOW, _IAM),
    codes.WORKER_FENCED: _entity("Suspend", "change", MEDIUM),
    codes.KEY_CREATED: _entity("Create", "creation"),
    codes.KEY_ROTATED: _entity("Update", "change"),
    codes.KEY_REVOKED: _entity("Disable", "change", HIGH),
    codes.KEY_RETIRED: _entity("Deactivate", "change"),
    codes.KEK_ROTATED: _entity("Update", "change", LOW),
    codes.GATEWAY_ALLOWED: _call(BY_METHOD, "access"),
    codes.GATEWAY_DENIED: _call(BY_METHOD, "access"),
    codes.STREAM_CUT: _call("Cut", "end", LOW),
    codes.AUDIT_READ: _call("Read", "access"),
    codes.AUDIT_EXPORTED: _call("Read", "access", LOW),
    codes.AUDIT_VERIFIED: _call("Read", "info", failed=CRITICAL),
    codes.AUDIT_QUERY_SAVED: _entity("Create", "creation"),
    codes.AUDIT_QUERY_DELETED: _entity("Delete", "deletion"),
    codes.ARCHIVE_SEALED: _entity("Create", "creation"),
    codes.ARCHIVE_HOT_DROPPED: _entity("Update", "change"),
    codes.ARCHIVE_RESTORED: _entity("Update", "change", LOW),
    codes.ARCHIVE_PURGED: _entity("Delete", "deletion", MEDIUM),
    codes.ARCHIVE_HOLD_PLACED: _entity("Create", "creation"),
    codes.ARCHIVE_HOLD_RELEASED: _entity("Delete", "deletion", LOW),
    codes.ARCHIVE_LIVES_CHANGED: _entity("Update", "change", LOW),
    codes.ARCHIVE_VERIFIED: _call("Read", "info", failed=CRITICAL),
    codes.ARCHIVE_ASKED: _call("Update", "change"),
    codes.WITNESS_REFUSED: _finding("Create", CRITICAL),
    codes.WITNESS_RECOVERED: _finding("Close", LOW),
    codes.LEDGER_CONTINUED: _finding("Close", HIGH),
    codes.EVIDENCE_RECORDED: _entity("Create", "creation"),
    codes.EVIDENCE_PACK_REQUESTED: _call("Create", "info"),
    codes.EVIDENCE_PACK_BUILT: _call("Read", "access", LOW),
    codes.EVIDENCE_PACK_FAILED: _call("Create", "info"),
    codes.SIEM_SINK_CREATED: _entity("Create", "creation", LOW),
    codes.SIEM_SINK_CHANGED: _entity("Update", "change", LOW),
    codes.SIEM_SINK_DELETED: _entity("Delete", "deletion", MEDIUM),
    codes.SIEM_DRAINED: _call("Update", "change"),
    codes.SIEM_REPLAYED: _call("Update", "change", LOW),
    codes.SIEM_DEAD_LETTERS_RETRIED: _call("Update", "change"),
    codes.SIEM_STOPPED: _finding("Create", HIGH),
    codes.SIEM_RESUMED: _finding("Close", LOW),
    codes.EVIDENCE_REPLAYED: _call("Update", "change", LOW),
    codes.EVIDENCE_LOSS_ACKNOWLEDGED: _finding("Close", HIGH),
    codes.INSTALLATION_BOOTSTRAPPED: _entity("Create", "creation"),
    codes.WORKERS_CHANGED: _entity("Update", "change"),
    codes.INSTALLATION_STARTED: _entity("Activate", "change"),
    codes.INSTALLATION_STOPPED: _entity("Deactivate", "change"),
    codes.PART_RESTARTED: _entity("Activate", "change"),
    codes.SCHEMA_UPGRADED: _entity("Update", "change", LOW),
    codes.READER_ADDED: _account("Create", "creation", LOW),
    codes.CLOCK_ADVANCED: _entity("Update", "change", LOW),
    codes.APPROVAL_REQUESTED: _entity("Create", "creation"),
    codes.APPROVAL_VOTED: _entity("Update", "change"),
    codes.APPROVAL_WITHDRAWN: _entity("Delete", "deletion"),
    codes.APPROVAL_EXECUTED: _entity("Update", "change", LOW),
    codes.ACCESS_REFUSED: _call("Other", "access"),
    # --- 70xx assurance: the book, probes and their runs
    codes.ASSURANCE_DOCUMENT_CHANGED: _entity("Update", "change", LOW),
    codes.ASSURANCE_SHIPPED: _entity("Create", "creation"),
    codes.PROBE_ASKED: _call("Create", "creation"),
    codes.PROBE_TURNED: _finding("Update", MEDIUM),
    codes.JOB_SILENT: _finding("Create", HIGH),
    codes.JOB_HEARD: _finding("Close", INFO),
    # --- 71xx assurance: owners, on-call, tasks
    codes.OWNERS_CHECKED: _call("Read", "access"),
    codes.OWNER_CHANGED: _entity("Update", "change", LOW),
    codes.ONCALL_OVERRIDDEN: _entity("Update", "change", LOW),
    codes.ONCALL_OVERRIDE_WITHDRAWN: _entity("Update", "change", LOW),
    codes.TASK_OPENED: _entity("Create", "creation"),
    codes.TASK_OVERDUE: _entity("Update", "change", MEDIUM),
    codes.TASK_REASSIGNED: _entity("Update", "change"),
    codes.TASK_ENDED: _entity("Update", "change"),
    # --- 72xx assurance: alerts, notices, escalation
    codes.ALERT_PENDING: _finding("Create", LOW),
    codes.ALERT_FIRED: _finding("Create", MEDIUM),
    codes.ALERT_ACKNOWLEDGED: _finding("Update", LOW),
    codes.ALERT_RESOLVED: _finding("Close", LOW),
    codes.ALERT_CLOSED: _finding("Close", LOW),
    codes.ALERT_ESCALATED: _finding("Update", MEDIUM),
    codes.ALERT_SILENCED: _entity("Create", "creation", LOW),
    codes.ALERT_SILENCE_ENDED: _entity("Delete", "deletion"),
    codes.ALERT_HAPPENING: _entity("Create", "creation"),
    codes.ALERT_RAISED: _finding("Create", MEDIUM),
    codes.ALERT_DRILL_STARTED: _entity("Create", "creation", LOW),
    codes.ALERT_DRILL_ENDED: _entity("Update", "change"),
    codes.NOTICE_DELIVERED: _call("Create", "info"),
    codes.NOTICE_DEAD: _finding("Create", MEDIUM),
    codes.NOTICE_RETRIED: _call("Update", "change"),
    codes.CHANNEL_TESTED: _call("Create", "info"),
    codes.CHANNEL_SECRET_SET: _entity("Update", "change", LOW),
    codes.CHANNEL_SECRET_REMOVED: _entity("Delete", "deletion", LOW),
    # --- 73xx assurance: rhythm, checkpoints, registers
    codes.RHYTHM_MOVED: _entity("Update", "change"),
    codes.RHYTHM_PACK_BUILT: _entity("Create", "creation"),
    codes.RHYTHM_MINUTES_WRITTEN: _entity("Update", "change"),
    codes.RHYTHM_SIGNED: _entity("Update", "change", LOW),
    codes.RHYTHM_ACTION_CHANGED: _entity("Update", "change"),
    codes.GO_LIVE_RECORDED: _entity("Update", "change", LOW),
    codes.CHECKPOINT_EVALUATED: _entity("Create", "creation", LOW),
    codes.CHECKPOINT_PLAN_CHANGED: _entity("Update", "change", LOW),
    codes.REGISTER_CHANGED: _entity("Update", "change"),
    # --- 74xx assurance: waivers, secrets
    codes.WAIVER_DRAFTED: _entity("Create", "creation"),
    codes.WAIVER_SUBMITTED: _entity("Update", "change"),
    codes.WAIVER_APPROVED: _entity("Update", "change", MEDIUM),
    codes.WAIVER_REJECTED: _entity("Update", "change"),
    codes.WAIVER_CLOSED: _entity("Update", "change"),
    codes.WAIVER_EXPIRED: _entity("Update", "change", MEDIUM),
    codes.WAIVER_REVOKED: _entity("Update", "change"),
    codes.WAIVER_RENEWED: _entity("Update", "change", MEDIUM),
    codes.WAIVER_USED: _call("Read", "access"),
    codes.SECRET_ROTATED: _entity("Update", "change"),
    codes.SECRETS_CHECKED: _call("Read", "access"),
    codes.SECRETS_SCANNED: _call("Read", "access"),
    codes.UNUSED_DISABLED: _account("Disable", "change"),
    codes.UNUSED_RESTORED: _account("Enable", "change"),
    codes.UNUSED_KEPT: _entity("Update", "change"),
    codes.UNUSED_REFUSED: _entity("Update", "change", MEDIUM),
    # --- 75xx assurance: overrides
    codes.OVERRIDE_REQUESTED: _entity("Create", "creation", LOW),
    codes.OVERRIDE_VOTED: _entity("Update", "change"),
    codes.OVERRIDE_DONE: _entity("Update", "change", MEDIUM),
    codes.OVERRIDE_FAILED: _entity("Update", "change", MEDIUM),
    codes.OVERRIDE_STALE: _entity("Update", "change", LOW),
    codes.OVERRIDE_ENDED: _entity("Update", "change"),
    codes.OVERRIDE_REFUSED: _call("Update", "access", MEDIUM),
    codes.OVERRIDE_SENT: _entity("Update", "change", MEDIUM),
    codes.BREAK_GLASS_USED: _entity("Update", "change", HIGH),
    codes.BREAK_GLASS_REVIEWED: _entity("Update", "change", LOW),
    codes.BREAK_GLASS_UNDONE: _entity("Update", "change", HIGH),
    codes.OVERRIDE_SAMPLED: _call("Read", "access"),
    codes.GATEWAY_CLOSED: _entity("Deactivate", "change", HIGH),
    codes.GATEWAY_OPENED: _entity("Activate", "change", MEDIUM),
    # --- 76xx assurance: reconciliation, stuck work
    codes.RECONCILIATION_RUN: _call("Read", "access", INFO, MEDIUM),
    codes.FINDING_MOVED: _finding("Update", LOW),
    codes.ENTITLEMENT_POSTED: _entity("Update", "change", LOW),
    codes.STUCK_RUN: _call("Read", "access", INFO, MEDIUM),
    codes.STUCK_ACTED: _entity("Update", "change", LOW),
    # --- 77xx assurance: service levels, capacity, key figures
    codes.REPORT_PRODUCED: _entity("Create", "creation"),
    codes.REPORT_SIGNED: _entity("Update", "change", LOW),
    codes.SLO_GATE_ANSWERED: _call("Read", "info", failed=MEDIUM),
    codes.SLO_RECOUNTED: _entity("Update", "change"),
    codes.SUPPORT_CASE_OPENED: _entity("Create", "creation"),
    codes.SUPPORT_CASE_DONE: _entity("Update", "change"),
    codes.KPI_BUILT: _entity("Create", "creation"),
    # --- 80xx handover: backups, restores, drills
    codes.BACKUP_TAKEN: _call("Create", "creation", INFO, HIGH),
    codes.BACKUP_EXPIRED: _entity("Delete", "deletion", LOW),
    codes.BACKUP_ASKED: _call("Create", "info"),
    codes.BACKUP_VERIFIED: _call("Read", "info", INFO, HIGH),
    codes.BACKUP_RESTORED: _entity("Update", "change", HIGH),
    codes.BACKUP_DRILLED: _call("Read", "info", INFO, HIGH),
    codes.BACKUP_READ: _call("Read", "access"),
    codes.ESCROW_KEY_MADE: _entity("Create", "creation", MEDIUM),
    # --- 82xx handover: incidents, containment, kill switches
    codes.INCIDENT_OPENED: _finding("Create", HIGH),
    codes.INCIDENT_ACKNOWLEDGED: _finding("Update", LOW),
    codes.INCIDENT_CHANGED: _finding("Update", LOW),
    codes.INCIDENT_TOLD: _finding("Update", LOW),
    codes.INCIDENT_UPDATE_OVERDUE: _finding("Update", MEDIUM),
    codes.INCIDENT_CONTAINED: _finding("Update", MEDIUM),
    codes.INCIDENT_PRESERVING: _finding("Update", LOW),
    codes.INCIDENT_PRESERVED: _finding("Update", LOW),
    codes.INCIDENT_JUDGED: _finding("Update", LOW),
    codes.INCIDENT_RECOVERED: _finding("Update", LOW),
    codes.INCIDENT_REVIEWED: _finding("Update", LOW),
    codes.INCIDENT_CLOSED: _finding("Close", LOW),
    codes.RUNBOOK_STARTED: _entity("Create", "creation"),
    codes.RUNBOOK_STEP_DONE: _entity("Update", "change"),
    codes.RUNBOOK_ENDED: _entity("Update", "change"),
    codes.INCIDENT_DRILL_STARTED: _entity("Create", "creation", LOW),
    codes.INCIDENT_DRILL_ENDED: _entity("Update", "change"),
    codes.SWITCH_THROWN: _entity("Deactivate", "change", HIGH),
    codes.SWITCH_LIFTED: _entity("Activate", "change", MEDIUM),
    # --- 86xx handover: environments, validation, hypercare, announcements, documents
    codes.ENVIRONMENT_LIVE: _entity("Activate", "change", LOW),
    codes.ENVIRONMENT_MOVED: _entity("Update", "change", LOW),
    codes.VALIDATION_ASKED: _call("Create", "info"),
    codes.VALIDATION_REPORTED: _call("Create", "creation", INFO, MEDIUM),
    codes.HYPERCARE_SLOT_FILLED: _call("Create", "creation", INFO, MEDIUM),
    codes.HYPERCARE_EXTENDED: _entity("Update", "change", MEDIUM),
    codes.ANNOUNCEMENT_SENT: _entity("Create", "creation"),
    codes.DOCUMENTS_CHECKED: _call("Read", "access", INFO, LOW),
    # --- 85xx handover: canaries
    codes.CANARY_STARTED: _entity("Create", "creation", LOW),
    codes.CANARY_WEIGHED: _entity("Update", "change", LOW),
    codes.CANARY_JUDGED: _call("Read", "info"),
    codes.CANARY_PROMOTED: _entity("Update", "change", LOW),
    codes.CANARY_WITHDRAWN: _entity("Update", "change", MEDIUM),
    codes.CANARY_ENDED: _entity("Update", "change", LOW),
    codes.CANARY_READ: _call("Read", "access"),
    codes.CANARY_LOOP_RUN: _call("Read", "info", failed=HIGH),
    # --- 83xx handover: readiness
    codes.READINESS_ASKED: _call("Create", "info"),
    codes.READINESS_RUN: _call("Read", "info", INFO, MEDIUM),
    codes.READINESS_ATTESTED: _entity("Create", "creation"),
    codes.READINESS_REVIEWED: _entity("Update", "change"),
    codes.READINESS_READ: _call("Read", "access"),
    codes.READINESS_MARKED: _call("Create", "info"),
    codes.READINESS_ATTACHED: _entity("Create", "creation"),
    # --- 84xx handover: rollouts
    codes.ROLLOUT_PLANNED: _entity("Create", "creation"),
    codes.ROLLOUT_SIGNED: _entity("Update", "change", LOW),
    codes.ROLLOUT_ANSWERED: _entity("Update", "change"),
    codes.ROLLOUT_STARTED: _entity("Update", "change", LOW),
    codes.ROLLOUT_STEP_BEGUN: _entity("Update", "change"),
    codes.ROLLOUT_STEP_ENDED: _entity("Update", "change"),
    codes.ROLLOUT_GATE_PASSED: _entity("Update", "change"),
    codes.ROLLOUT_TRIGGERED: _entity("Update", "change", MEDIUM),
    codes.ROLLOUT_DECIDED: _entity("Update", "change", LOW),
    codes.ROLLOUT_MOVED: _entity("Update", "change"),
    codes.ROLLOUT_ENDED: _entity("Update", "change", LOW),
    # --- 87xx handover: packs, sign-off, acceptance
    codes.HANDOVER_BUILT: _entity("Create", "creation"),
    codes.HANDOVER_SIGNED: _entity("Update", "change", LOW),
    codes.HANDOVER_REFUSED: _entity("Update", "change", MEDIUM),
    codes.HANDOVER_ACCEPTED: _entity("Update", "change", MEDIUM),
    codes.HANDOVER_STATED: _entity("Create", "creation", LOW),
    codes.HANDOVER_READ: _call("Read", "access"),
    codes.HANDOVER_ESCALATED: _call("Read", "access"),
}


def to_ocsf(event: Event) -> dict[str, Any]:
    """An event as OCSF 1.7.0; raises KeyError for a code this program does not know."""
    mapped = MAPPING[EVENT_TYPES[event.code]]
    return ocsf.build(event, mapped.ocsf, mapped.activity, _severity(event, mapped))


def to_ecs(event: Event) -> dict[str, Any]:
    """An event as ECS 8.17; raises KeyError for a code this program does not know."""
    mapped = MAPPING[EVENT_TYPES[event.code]]
    alarming = _severity(event, mapped) >= CRITICAL
    return ecs.build(event, mapped.categories, mapped.types, "alert" if alarming else mapped.kind)


def _severity(event: Event, mapped: Mapped) -> Severity:
    return mapped.severity if event.outcome in ("success", "allow") else mapped.failed
