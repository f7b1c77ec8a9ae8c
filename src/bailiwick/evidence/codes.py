"""The table of event codes. A code never changes its meaning and is never used again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EventType:
    """A stable code and its readable name; ``mutation`` says that it tells of a change of state.

    An event with ``decision`` is the record of one: its id is the id of the decision.
    """

    code: str
    name: str
    mutation: bool = True
    decision: bool = False


# 10xx sign-in and sessions
AUTH_LOGIN_SUCCESS = EventType("BW1001", "auth.login.success")
AUTH_LOGIN_FAILURE = EventType("BW1002", "auth.login.failure", mutation=False)
AUTH_LOGOUT = EventType("BW1003", "auth.logout")
AUTH_PASSWORD_CHANGED = EventType("BW1004", "auth.password.changed")
AUTH_SESSION_ENDED = EventType("BW1005", "auth.session.ended")
AUTH_ACCOUNT_LOCKED = EventType("BW1006", "auth.account.locked")
AUTH_INVITATION_ACCEPTED = EventType("BW1007", "auth.invitation.accepted")
AUTH_SESSION_REFRESHED = EventType("BW1008", "auth.session.refreshed")
AUTH_REFRESH_REUSED = EventType("BW1009", "auth.refresh.reused")
AUTH_FACTOR_ENROLLED = EventType("BW1010", "auth.factor.enrolled")
AUTH_FACTOR_REMOVED = EventType("BW1011", "auth.factor.removed")
AUTH_RECOVERY_CODES_RENEWED = EventType("BW1012", "auth.recovery-codes.renewed")
AUTH_RECOVERY_CODE_USED = EventType("BW1013", "auth.recovery-code.used")
AUTH_STEPPED_UP = EventType("BW1014", "auth.stepped-up")
AUTH_FACTOR_OFFERED = EventType("BW1015", "auth.factor.offered")
AUTH_FACTOR_CLONED = EventType("BW1016", "auth.factor.cloned")
API_KEY_CREATED = EventType("BW1021", "api-key.created")
API_KEY_ROTATED = EventType("BW1022", "api-key.rotated")
API_KEY_ENDED = EventType("BW1023", "api-key.ended")
API_KEY_CHANGED = EventType("BW1024", "api-key.changed")

# 11xx users
USER_CREATED = EventType("BW1101", "user.created")
USER_CHANGED = EventType("BW1102", "user.changed")
USER_DISABLED = EventType("BW1103", "user.disabled")
USER_ENABLED = EventType("BW1104", "user.enabled")
USER_MFA_RESET = EventType("BW1105", "user.mfa.reset")
USER_PASSWORD_RESET = EventType("BW1108", "user.password.reset")
USER_UNLOCKED = EventType("BW1109", "user.unlocked")
USER_DELETED = EventType("BW1106", "user.deleted")
USER_LINKED = EventType("BW1107", "user.linked")
GROUP_CREATED = EventType("BW1121", "group.created")
GROUP_CHANGED = EventType("BW1122", "group.changed")
GROUP_DELETED = EventType("BW1123", "group.deleted")
GROUP_MEMBERS_ADDED = EventType("BW1124", "group.members.added")
GROUP_MEMBERS_REMOVED = EventType("BW1125", "group.members.removed")
ACCESS_REVIEWED = EventType("BW1131", "access.reviewed")

# 12xx applications
APPLICATION_CREATED = EventType("BW1201", "application.created")
APPLICATION_CHANGED = EventType("BW1202", "application.changed")
APPLICATION_SECRET_ROTATED = EventType("BW1203", "application.secret.rotated")
APPLICATION_DISABLED = EventType("BW1204", "application.disabled")
APPLICATION_ENABLED = EventType("BW1205", "application.enabled")

# 13xx inventory
ZONE_CREATED = EventType("BW1301", "zone.created")
ZONE_CHANGED = EventType("BW1302", "zone.changed")
ZONE_ARCHIVED = EventType("BW1303", "zone.archived")
SERVER_CREATED = EventType("BW1311", "server.created")
SERVER_CHANGED = EventType("BW1312", "server.changed")
SERVER_DELETED = EventType("BW1313", "server.deleted")
CREDENTIAL_CREATED = EventType("BW1321", "credential.created")
CREDENTIAL_ROTATED = EventType("BW1322", "credential.rotated")
CREDENTIAL_DELETED = EventType("BW1323", "credential.deleted")

# 14xx identity providers
IDP_CREATED = EventType("BW1401", "idp.created")
IDP_CHANGED = EventType("BW1402", "idp.changed")
IDP_DELETED = EventType("BW1403", "idp.deleted")
IDP_TESTED = EventType("BW1404", "idp.tested", mutation=False)

# 20xx policy
POLICY_ADMITTED = EventType("BW2001", "policy.admitted")
POLICY_REFUSED = EventType("BW2002", "policy.refused", mutation=False)
POLICY_ACTIVATED = EventType("BW2003", "policy.activated")
POLICY_ROLLED_BACK = EventType("BW2004", "policy.rolled-back")
POLICY_TESTED = EventType("BW2005", "policy.tested", mutation=False)
POLICY_NEWLY_ALLOWED = EventType("BW2006", "policy.newly-allowed", mutation=False)
POLICY_CACHE_FLUSHED = EventType("BW2007", "policy.cache.flushed")
POLICY_KNOWN_GOOD = EventType("BW2008", "policy.known-good")
POLICY_SUSPECT = EventType("BW2009", "policy.suspect")
DECISION_EVALUATED = EventType("BW2101", "decision.evaluated", mutation=False, decision=True)

# 30xx authority
MANDATE_ISSUED = EventType("BW3001", "mandate.issued")
MANDATE_REFUSED = EventType("BW3002", "mandate.refused", mutation=False)
AUTHORITY_REVOKED = EventType("BW3003", "authority.revoked")
WORKER_FENCED = EventType("BW3004", "worker.fenced")
KEY_CREATED = EventType("BW3011", "key.created")
KEY_ROTATED = EventType("BW3012", "key.rotated")
KEY_REVOKED = EventType("BW3013", "key.revoked")
KEY_RETIRED = EventType("BW3014", "key.retired")
KEK_ROTATED = EventType("BW3021", "kek.rotated")

# 40xx gateway
GATEWAY_ALLOWED = EventType("BW4001", "gateway.request.allowed", mutation=False, decision=True)
GATEWAY_DENIED = EventType("BW4002", "gateway.request.denied", mutation=False, decision=True)
STREAM_CUT = EventType("BW4003", "gateway.stream.cut", mutation=False)

# 50xx evidence about the evidence
AUDIT_READ = EventType("BW5001", "audit.read", mutation=False)
AUDIT_EXPORTED = EventType("BW5002", "audit.exported", mutation=False)
AUDIT_VERIFIED = EventType("BW5003", "audit.verified", mutation=False)
WITNESS_REFUSED = EventType("BW5041", "ledger.witness.refused", mutation=False)
WITNESS_RECOVERED = EventType("BW5042", "ledger.witness.recovered", mutation=False)
LEDGER_CONTINUED = EventType("BW5043", "ledger.continued")
AUDIT_QUERY_SAVED = EventType("BW5006", "audit.query.saved")
AUDIT_QUERY_DELETED = EventType("BW5007", "audit.query.deleted")
ARCHIVE_SEALED = EventType("BW5021", "archive.sealed")
ARCHIVE_HOT_DROPPED = EventType("BW5022", "archive.partition.dropped")
ARCHIVE_RESTORED = EventType("BW5023", "archive.restored")
ARCHIVE_PURGED = EventType("BW5024", "archive.purged")
ARCHIVE_HOLD_PLACED = EventType("BW5025", "archive.hold.placed")
ARCHIVE_HOLD_RELEASED = EventType("BW5026", "archive.hold.released")
ARCHIVE_LIVES_CHANGED = EventType("BW5027", "archive.lives.changed")
ARCHIVE_VERIFIED = EventType("BW5028", "archive.verified", mutation=False)
ARCHIVE_ASKED = EventType("BW5029", "archive.work.asked")
EVIDENCE_REPLAYED = EventType("BW5012", "evidence.replayed")
EVIDENCE_LOSS_ACKNOWLEDGED = EventType("BW5011", "evidence.loss.acknowledged")
EVIDENCE_RECORDED = EventType("BW5071", "evidence.recorded")
EVIDENCE_PACK_REQUESTED = EventType("BW5081", "evidence.pack.requested")
EVIDENCE_PACK_BUILT = EventType("BW5082", "evidence.pack.built")
EVIDENCE_PACK_FAILED = EventType("BW5083", "evidence.pack.failed")

# 52xx evidence on its way to a SIEM
SIEM_SINK_CREATED = EventType("BW5201", "siem.sink.created")
SIEM_SINK_CHANGED = EventType("BW5202", "siem.sink.changed")
SIEM_SINK_DELETED = EventType("BW5203", "siem.sink.deleted")
SIEM_DRAINED = EventType("BW5204", "siem.drained")
SIEM_REPLAYED = EventType("BW5205", "siem.replayed")
SIEM_DEAD_LETTERS_RETRIED = EventType("BW5206", "siem.dead-letters.retried")
SIEM_STOPPED = EventType("BW5211", "siem.stopped", mutation=False)
SIEM_RESUMED = EventType("BW5212", "siem.resumed", mutation=False)

# 60xx operation
INSTALLATION_BOOTSTRAPPED = EventType("BW6001", "installation.bootstrapped")
WORKERS_CHANGED = EventType("BW6002", "workers.changed")
INSTALLATION_STARTED = EventType("BW6003", "installation.started")
INSTALLATION_STOPPED = EventType("BW6004", "installation.stopped")
PART_RESTARTED = EventType("BW6005", "part.restarted")
SCHEMA_UPGRADED = EventType("BW6006", "schema.upgraded")
READER_ADDED = EventType("BW6007", "database.reader.added")
CLOCK_ADVANCED = EventType("BW6008", "clock.advanced")
APPROVAL_REQUESTED = EventType("BW6021", "approval.requested")
APPROVAL_VOTED = EventType("BW6022", "approval.voted")
APPROVAL_WITHDRAWN = EventType("BW6023", "approval.withdrawn")
APPROVAL_EXECUTED = EventType("BW6024", "approval.executed")
ACCESS_REFUSED = EventType("BW6101", "access.refused", mutation=False)

# 70xx assurance: the book, probes and their runs
ASSURANCE_DOCUMENT_CHANGED = EventType("BW7001", "assurance.document.changed")
ASSURANCE_SHIPPED = EventType("BW7002", "assurance.shipped")
PROBE_ASKED = EventType("BW7011", "probe.asked")
PROBE_TURNED = EventType("BW7012", "probe.turned", mutation=False)
JOB_SILENT = EventType("BW7013", "job.silent", mutation=False)
JOB_HEARD = EventType("BW7014", "job.heard", mutation=False)

# 71xx assurance: owners, on-call, tasks
OWNERS_CHECKED = EventType("BW7101", "owners.checked", mutation=False)
OWNER_CHANGED = EventType("BW7102", "owner.changed")
ONCALL_OVERRIDDEN = EventType("BW7111", "oncall.overridden")
ONCALL_OVERRIDE_WITHDRAWN = EventType("BW7112", "oncall.override.withdrawn")
TASK_OPENED = EventType("BW7121", "task.opened")
TASK_OVERDUE = EventType("BW7122", "task.overdue")
TASK_REASSIGNED = EventType("BW7123", "task.reassigned")
TASK_ENDED = EventType("BW7124", "task.ended")

# 72xx assurance: alerts, notices, escalation
ALERT_PENDING = EventType("BW7201", "alert.pending")
ALERT_FIRED = EventType("BW7202", "alert.fired")
ALERT_ACKNOWLEDGED = EventType("BW7203", "alert.acknowledged")
ALERT_RESOLVED = EventType("BW7204", "alert.resolved")
ALERT_CLOSED = EventType("BW7205", "alert.closed")
ALERT_ESCALATED = EventType("BW7206", "alert.escalated")
ALERT_SILENCED = EventType("BW7207", "alert.silenced")
ALERT_SILENCE_ENDED = EventType("BW7208", "alert.silence.ended")
ALERT_HAPPENING = EventType("BW7209", "alert.happening.noted")
ALERT_RAISED = EventType("BW7210", "alert.raised")
ALERT_DRILL_STARTED = EventType("BW7211", "alert.drill.started")
ALERT_DRILL_ENDED = EventType("BW7212", "alert.drill.ended")
NOTICE_DELIVERED = EventType("BW7221", "notice.delivered")
NOTICE_DEAD = EventType("BW7222", "notice.dead")
NOTICE_RETRIED = EventType("BW7223", "notice.retried")
CHANNEL_TESTED = EventType("BW7231", "channel.tested")
CHANNEL_SECRET_SET = EventType("BW7232", "channel.secret.set")
CHANNEL_SECRET_REMOVED = EventType("BW7233", "channel.secret.removed")

# 73xx assurance: rhythm, checkpoints, registers
RHYTHM_MOVED = EventType("BW7301", "rhythm.occurrence.moved")
RHYTHM_PACK_BUILT = EventType("BW7302", "rhythm.pack.built")
RHYTHM_MINUTES_WRITTEN = EventType("BW7303", "rhythm.minutes.written")
RHYTHM_SIGNED = EventType("BW7304", "rhythm.minutes.signed")
RHYTHM_ACTION_CHANGED = EventType("BW7305", "rhythm.action.changed")
GO_LIVE_RECORDED = EventType("BW7311", "go-live.recorded")
CHECKPOINT_EVALUATED = EventType("BW7312", "checkpoint.evaluated")
CHECKPOINT_PLAN_CHANGED = EventType("BW7313", "checkpoint.plan.changed")
REGISTER_CHANGED = EventType("BW7321", "register.item.changed")

# 74xx assurance: waivers, secrets
WAIVER_DRAFTED = EventType("BW7401", "waiver.drafted")
WAIVER_SUBMITTED = EventType("BW7402", "waiver.submitted")
WAIVER_APPROVED = EventType("BW7403", "waiver.approved")
WAIVER_REJECTED = EventType("BW7404", "waiver.rejected")
WAIVER_CLOSED = EventType("BW7405", "waiver.closed")
WAIVER_EXPIRED = EventType("BW7406", "waiver.expired")
WAIVER_REVOKED = EventType("BW7407", "waiver.revoked")
WAIVER_RENEWED = EventType("BW7408", "waiver.renewed")
WAIVER_USED = EventType("BW7409", "waiver.used", mutation=False)
SECRET_ROTATED = EventType("BW7431", "secret.rotated")
SECRETS_CHECKED = EventType("BW7432", "secrets.checked", mutation=False)
SECRETS_SCANNED = EventType("BW7433", "secrets.scanned", mutation=False)
UNUSED_DISABLED = EventType("BW7441", "unused.disabled")
UNUSED_RESTORED = EventType("BW7442", "unused.restored")
UNUSED_KEPT = EventType("BW7443", "unused.kept")
UNUSED_REFUSED = EventType("BW7444", "unused.refused", mutation=False)

# 75xx assurance: overrides
OVERRIDE_REQUESTED = EventType("BW7501", "override.requested")
OVERRIDE_VOTED = EventType("BW7502", "override.voted")
OVERRIDE_DONE = EventType("BW7503", "override.done")
OVERRIDE_FAILED = EventType("BW7504", "override.failed")
OVERRIDE_STALE = EventType("BW7505", "override.stale")
OVERRIDE_ENDED = EventType("BW7506", "override.ended")
OVERRIDE_REFUSED = EventType("BW7507", "override.refused", mutation=False)
OVERRIDE_SENT = EventType("BW7508", "override.sent")
BREAK_GLASS_USED = EventType("BW7511", "break-glass.used")
BREAK_GLASS_REVIEWED = EventType("BW7512", "break-glass.reviewed")
BREAK_GLASS_UNDONE = EventType("BW7513", "break-glass.undone")
OVERRIDE_SAMPLED = EventType("BW7514", "override.sampled")
GATEWAY_CLOSED = EventType("BW7521", "gateway.closed")
GATEWAY_OPENED = EventType("BW7522", "gateway.opened")

# 76xx assurance: reconciliation, stuck work
RECONCILIATION_RUN = EventType("BW7601", "reconciliation.run")
FINDING_MOVED = EventType("BW7602", "finding.moved")
ENTITLEMENT_POSTED = EventType("BW7603", "entitlement.posted")
STUCK_RUN = EventType("BW7611", "stuck.run")
STUCK_ACTED = EventType("BW7612", "stuck.acted")

# 77xx assurance: service levels, capacity, key figures
REPORT_PRODUCED = EventType("BW7701", "report.produced")
REPORT_SIGNED = EventType("BW7702", "report.signed")
SLO_GATE_ANSWERED = EventType("BW7703", "slo.gate-answered", mutation=False)
SLO_RECOUNTED = EventType("BW7704", "slo.recounted")
SUPPORT_CASE_OPENED = EventType("BW7705", "support.case.opened")
SUPPORT_CASE_DONE = EventType("BW7706", "support.case.done")
KPI_BUILT = EventType("BW7707", "kpi.built")

# 80xx handover: backups, restores, drills
BACKUP_TAKEN = EventType("BW8001", "backup.taken")
BACKUP_EXPIRED = EventType("BW8002", "backup.expired")
BACKUP_ASKED = EventType("BW8003", "backup.asked")
BACKUP_VERIFIED = EventType("BW8004", "backup.verified", mutation=False)
BACKUP_RESTORED = EventType("BW8005", "backup.restored")
BACKUP_DRILLED = EventType("BW8006", "backup.drilled", mutation=False)
BACKUP_READ = EventType("BW8007", "backup.read", mutation=False)
ESCROW_KEY_MADE = EventType("BW8008", "backup.escrow-key-made")

# 82xx handover: incidents, containment, kill switches
INCIDENT_OPENED = EventType("BW8201", "incident.opened")
INCIDENT_ACKNOWLEDGED = EventType("BW8202", "incident.acknowledged")
INCIDENT_CHANGED = EventType("BW8203", "incident.changed")
INCIDENT_TOLD = EventType("BW8204", "incident.told")
INCIDENT_UPDATE_OVERDUE = EventType("BW8205", "incident.update.overdue")
INCIDENT_CONTAINED = EventType("BW8206", "incident.contained")
INCIDENT_PRESERVING = EventType("BW8207", "incident.preserving")
INCIDENT_PRESERVED = EventType("BW8208", "incident.preserved")
INCIDENT_JUDGED = EventType("BW8209", "incident.judged")
INCIDENT_RECOVERED = EventType("BW8210", "incident.recovered")
INCIDENT_REVIEWED = EventType("BW8211", "incident.reviewed")
INCIDENT_CLOSED = EventType("BW8212", "incident.closed")
RUNBOOK_STARTED = EventType("BW8221", "runbook.started")
RUNBOOK_STEP_DONE = EventType("BW8222", "runbook.step.done")
RUNBOOK_ENDED = EventType("BW8223", "runbook.ended")
INCIDENT_DRILL_STARTED = EventType("BW8231", "incident.drill.started")
INCIDENT_DRILL_ENDED = EventType("BW8232", "incident.drill.ended")
SWITCH_THROWN = EventType("BW8251", "switch.thrown")
SWITCH_LIFTED = EventType("BW8252", "switch.lifted")
# --- 84xx handover: rollouts
ROLLOUT_PLANNED = EventType("BW8401", "rollout.planned")
ROLLOUT_SIGNED = EventType("BW8402", "rollout.signed")
ROLLOUT_ANSWERED = EventType("BW8403", "rollout.answered")
ROLLOUT_STARTED = EventType("BW8404", "rollout.started")
ROLLOUT_STEP_BEGUN = EventType("BW8405", "rollout.step.begun")
ROLLOUT_STEP_ENDED = EventType("BW8406", "rollout.step.ended")
ROLLOUT_GATE_PASSED = EventType("BW8407", "rollout.gate.passed")
ROLLOUT_TRIGGERED = EventType("BW8408", "rollout.triggered")
ROLLOUT_DECIDED = EventType("BW8409", "rollout.decided")
ROLLOUT_MOVED = EventType("BW8410", "rollout.moved")
ROLLOUT_ENDED = EventType("BW8411", "rollout.ended")

# 86xx handover: environments, validation, hypercare, announcements, documents
ENVIRONMENT_LIVE = EventType("BW8601", "environment.live")
ENVIRONMENT_MOVED = EventType("BW8602", "environment.moved")
VALIDATION_ASKED = EventType("BW8603", "validation.asked")
VALIDATION_REPORTED = EventType("BW8604", "validation.reported")
HYPERCARE_SLOT_FILLED = EventType("BW8605", "hypercare.slot.filled")
HYPERCARE_EXTENDED = EventType("BW8606", "hypercare.extended")
ANNOUNCEMENT_SENT = EventType("BW8611", "announcement.sent")
DOCUMENTS_CHECKED = EventType("BW8612", "documents.checked", mutation=False)
# 85xx handover: canaries
CANARY_STARTED = EventType("BW8501", "canary.started")
CANARY_WEIGHED = EventType("BW8502", "canary.weighed")
CANARY_JUDGED = EventType("BW8503", "canary.judged", mutation=False)
CANARY_PROMOTED = EventType("BW8504", "canary.promoted")
CANARY_WITHDRAWN = EventType("BW8505", "canary.withdrawn")
CANARY_ENDED = EventType("BW8506", "canary.ended")
CANARY_READ = EventType("BW8507", "canary.read", mutation=False)
CANARY_LOOP_RUN = EventType("BW8511", "canary.loop.run", mutation=False)
# 83xx handover: readiness
READINESS_ASKED = EventType("BW8301", "readiness.asked")
READINESS_RUN = EventType("BW8302", "readiness.run", mutation=False)
READINESS_ATTESTED = EventType("BW8303", "readiness.attested")
READINESS_REVIEWED = EventType("BW8304", "readiness.reviewed")
READINESS_READ = EventType("BW8305", "readiness.read", mutation=False)
READINESS_MARKED = EventType("BW8306", "readiness.marked", mutation=False)
READINESS_ATTACHED = EventType("BW8307", "readiness.attached")
# 87xx handover: packs, sign-off, acceptance
HANDOVER_BUILT = EventType("BW8701", "handover.built")
HANDOVER_SIGNED = EventType("BW8702", "handover.signed")
HANDOVER_REFUSED = EventType("BW8703", "handover.refused")
HANDOVER_ACCEPTED = EventType("BW8704", "handover.accepted")
HANDOVER_STATED = EventType("BW8705", "handover.stated")
HANDOVER_READ = EventType("BW8706", "handover.read", mutation=False)
HANDOVER_ESCALATED = EventType("BW8707", "handover.escalated", mutation=False)

EVENT_TYPES: dict[str, EventType] = {
    value.code: value for value in list(globals().values()) if isinstance(value, EventType)
}
# codes of the events that are decisions
DECISIONS = tuple(kind.code for kind in EVENT_TYPES.values() if kind.decision)
