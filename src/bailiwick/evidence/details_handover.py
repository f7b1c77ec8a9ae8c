"""What the events of the handover room say in ``details``; see ``details.py``."""

from __future__ import annotations

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.detail_fields import DetailField
from bailiwick.evidence.detail_fields import always as _always
from bailiwick.evidence.detail_fields import sometimes as _sometimes

_PLACE = _always("place", "str", "where backups lie")
_NAMED = (
    _always("incident", "str", "the incident as people call it"),
    _always("severity", "str", "its severity then"),
)
_INCIDENT = (*_NAMED, _always("told", "str", "the line of the timeline; empty of a security incident"))
_RUN = (
    _always("runbook", "str", "name of the runbook"),
    _always("incident", "str", "id of the incident; empty of a dry run"),
    _always("dry", "bool", "whether nothing is done"),
)
_SWITCH = (
    _always("reason", "str", "why, as said"),
    _always("override", "str", "id of the override by which it was done"),
)
_HANDOVER = (
    _always("environment", "str", "environment that changes hands"),
    _always("sha256", "str", "SHA-256 of the pack"),
)
_TEAM = _always("team", "str", "`engineering`, `operations`, `security` or `management`")

HANDOVER: dict[EventType, tuple[DetailField, ...]] = {
    # --- 80xx handover: backups, restores, drills
    codes.BACKUP_TAKEN: (
        _PLACE,
        _sometimes("bytes", "int", "what its objects take there"),
        _sometimes("manifest", "str", "SHA-256 of its manifest"),
        _sometimes("start", "str", "where its stretch of the write-ahead log begins"),
        _sometimes("stop", "str", "where that ends"),
        _sometimes("timeline", "int", "timeline of the log"),
    ),
    codes.BACKUP_EXPIRED: (_PLACE, _always("tier", "str", "`daily`, `weekly` or `monthly`")),
    codes.BACKUP_ASKED: (_PLACE, _always("job", "str", "job that is due now")),
    codes.BACKUP_VERIFIED: (_PLACE, _always("objects", "int", "how many objects were read")),
    codes.BACKUP_RESTORED: (
        _PLACE,
        _always("to", "str", "moment it was restored to; `latest` is as far as the log goes"),
        _always("at", "str", "where the write-ahead log ended that was replayed"),
        _always("size", "int", "events of the zone's ledger that are there"),
        _always("published", "int", "events under the newest published head that is known"),
        _always("lost", "bool", "whether events are known to be missing"),
    ),
    codes.BACKUP_DRILLED: (
        _always("kind", "str", "`restore` or `failover`"),
        _always("verdict", "str", "`PASS`, `FAIL` or `ERROR`"),
        _always("backup", "str", "backup that was restored; empty where none was"),
        _always("rto_s", "int", "seconds that the recovery took, -1 where that is not known"),
        _always("rpo_s", "int", "seconds of work that a loss then would have cost, -1 where that is not known"),
        _always("record", "str", "evidence record of what was found"),
    ),
    codes.ESCROW_KEY_MADE: (),
    codes.BACKUP_READ: (_always("what", "str", "what was read"), _always("returned", "int", "how many")),
    # --- 82xx handover: incidents, containment, kill switches
    codes.INCIDENT_OPENED: _INCIDENT,
    codes.INCIDENT_ACKNOWLEDGED: _INCIDENT,
    codes.INCIDENT_CHANGED: _INCIDENT,
    codes.INCIDENT_TOLD: _INCIDENT,
    codes.INCIDENT_UPDATE_OVERDUE: (
        *_NAMED,
        _always("missed", "int", "how many updates were missed by now"),
    ),
    codes.INCIDENT_CONTAINED: _INCIDENT,
    codes.INCIDENT_PRESERVING: _INCIDENT,
    codes.INCIDENT_PRESERVED: _INCIDENT,
    codes.INCIDENT_JUDGED: (*_INCIDENT, _always("verdict", "str", "what the five conditions amount to")),
    codes.INCIDENT_RECOVERED: _INCIDENT,
    codes.INCIDENT_REVIEWED: _INCIDENT,
    codes.INCIDENT_CLOSED: _INCIDENT,
    codes.RUNBOOK_STARTED: _RUN,
    codes.RUNBOOK_STEP_DONE: (
        *_RUN,
        _always("step", "str", "the step's phase and name"),
        _always("verdict", "str", "what was found, or PASS for what was attested"),
    ),
    codes.RUNBOOK_ENDED: (*_RUN, _always("outcome", "str", "`done` or `abandoned`")),
    codes.INCIDENT_DRILL_STARTED: (_always("trigger", "str", "what was injected"),),
    codes.INCIDENT_DRILL_ENDED: (
        _always("trigger", "str", "what was injected"),
        _always("outcome", "str", "`passed`, `late` or `missed`"),
        _always("opened_s", "int", "seconds until the incident opened; -1: it never did"),
        _always("contained_s", "int", "seconds until it was contained; -1: it never was"),
    ),
    codes.SWITCH_THROWN: _SWITCH,
    codes.SWITCH_LIFTED: _SWITCH,
    # --- 87xx handover: packs, sign-off, acceptance
    codes.HANDOVER_BUILT: (
        *_HANDOVER,
        _always("verdict", "str", "what its statements amount to"),
        _always("statements", "int", "how many there are"),
    ),
    codes.HANDOVER_SIGNED: (
        *_HANDOVER,
        _TEAM,
        _always("how", "str", "`webauthn` or `step-up`"),
        _always("assertion", "str", "SHA-256 of the assertion; empty of a step-up"),
    ),
    codes.HANDOVER_REFUSED: (*_HANDOVER, _TEAM, _always("reason", "str", "why, as said")),
    codes.HANDOVER_ACCEPTED: (
        *_HANDOVER,
        _always("revision", "int", "revision of the book that it brought"),
        _always("transfer", "str", "SHA-256 of what changed hands"),
    ),
    codes.HANDOVER_STATED: (*_HANDOVER, _always("statement", "str", "SHA-256 of the statement")),
    codes.HANDOVER_READ: (_always("what", "str", "what was read"), _always("returned", "int", "how many")),
    codes.HANDOVER_ESCALATED: (
        _always("environment", "str", "environment it tells of"),
        _always("degraded", "int", "how many guarantees are degraded"),
    ),
}
