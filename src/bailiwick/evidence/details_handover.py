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
_RELEASE = _always("digest", "str", "digest of the release that is tried")
_CANARY = (_RELEASE, _always("told", "str", "what happened, in a line"))
_VERDICT = _always("verdict", "str", "what was found")
_WHY = _always("reason", "str", "why it is no PASS; empty of one")
_ITEM = _always("item", "str", "the item, as `checklist/item`")
_ROLLOUT = (
    _always("rollout", "str", "the rollout as people call it"),
    _always("environment", "str", "where it goes"),
    _always("digest", "str", "the release, `sha256:` and 64 hex digits"),
)
_ATTEMPT = (
    *_ROLLOUT,
    _always("step", "str", "the step"),
    _always("way", "str", "`forward`, `back` or `closing`"),
    _always("attempt", "int", "number of the attempt within the rollout"),
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
    # --- 86xx handover: environments, validation, hypercare, announcements, documents
    codes.ENVIRONMENT_LIVE: (
        _always("digest", "str", "release that went live; empty where it is not known"),
        _always("rollout", "str", "rollout that brought it; empty: two people declared it"),
        _always("approval", "str", "approval of the declaration; empty: a rollout brought it"),
        _always("instant", "str", "when it went live"),
        _always("counts_from", "str", "from when validation and hypercare count"),
        _always("life", "int", "how many releases went live there by then"),
    ),
    codes.ENVIRONMENT_MOVED: (
        _always("before", "str", "stage it was in"),
        _always("after", "str", "stage it is in"),
        _always("told", "str", "why"),
    ),
    codes.VALIDATION_ASKED: (_always("suite", "str", "suite that is to be measured"),),
    codes.VALIDATION_REPORTED: (
        _always("suite", "str", "suite that was measured"),
        _always("life", "int", "which release that went live it is of"),
        _always("attempt", "int", "how often it was measured by then"),
        _always("verdict", "str", "what its checks amount to"),
        _always("sha256", "str", "hash of the report"),
        _always("record", "str", "evidence record of the report"),
    ),
    codes.HYPERCARE_SLOT_FILLED: (
        _always("slot", "str", "instant of the slot"),
        _always("attempt", "int", "how often it was measured by then"),
        _always("verdict", "str", "what its checks amount to"),
        _always("record", "str", "evidence record of what was found"),
    ),
    codes.HYPERCARE_EXTENDED: (
        _always("incident", "str", "incident that makes it last longer"),
        _always("severity", "str", "its severity"),
        _always("until", "str", "how long it lasts now at least"),
    ),
    codes.ANNOUNCEMENT_SENT: (
        _always("template", "str", "template it was made of"),
        _always("recipients", "int", "how many it was sent to"),
    ),
    codes.DOCUMENTS_CHECKED: (
        _always("checked", "int", "how many documents were looked at"),
        _always("red", "int", "how many of them are not as they should be"),
    ),
    # --- 85xx handover: canaries
    codes.CANARY_STARTED: _CANARY,
    codes.CANARY_WEIGHED: (*_CANARY, _always("percent", "int", "percentage that the candidate gets from now on")),
    codes.CANARY_JUDGED: (*_CANARY, _VERDICT, _WHY),
    codes.CANARY_PROMOTED: (*_CANARY, _VERDICT),
    codes.CANARY_WITHDRAWN: (*_CANARY, _VERDICT, _WHY, _always("passed", "bool", "whether it had passed before")),
    codes.CANARY_ENDED: _CANARY,
    codes.CANARY_READ: (_always("what", "str", "what was read"), _always("returned", "int", "how many")),
    codes.CANARY_LOOP_RUN: (
        *_CANARY,
        _VERDICT,
        _WHY,
        _always("steps", "int", "steps that came out as expected"),
        _always("record", "str", "evidence record of what was expected and what came"),
    ),
    # --- 83xx handover: readiness
    codes.READINESS_ASKED: (),
    codes.READINESS_RUN: (
        _always("run", "str", "id of the run"),
        _always("verdict", "str", "what all items amount to"),
        _always("percent", "int", "green items of a hundred that the profile asks for"),
        _always("open_must", "int", "must-items that neither are green nor waived"),
        _always("record", "str", "evidence record of the whole run"),
    ),
    codes.READINESS_ATTESTED: (
        _ITEM,
        _always("attestation", "str", "id of the attestation"),
        _always("attachment_sha256", "str", "hash of the document that goes with it; empty without one"),
        _always("record", "str", "evidence record of the statement"),
    ),
    codes.READINESS_REVIEWED: (
        _ITEM,
        _always("attestation", "str", "id of the attestation"),
        _always("outcome", "str", "`accepted` or `refused`"),
        _always("author", "str", "who stated it"),
        _always("record", "str", "evidence record of the review"),
    ),
    codes.READINESS_READ: (_always("what", "str", "what was read"),),
    codes.READINESS_MARKED: (_always("marker", "str", "what a look at the SIEM's way then waits for"),),
    codes.READINESS_ATTACHED: (
        _always("media_type", "str", "what it is, as whoever handed it in says"),
        _always("bytes", "int", "how long it is"),
    ),
    # --- 84xx handover: rollouts
    codes.ROLLOUT_PLANNED: (*_ROLLOUT, _always("plan", "str", "the plan"), _always("sha256", "str", "its SHA-256")),
    codes.ROLLOUT_SIGNED: (
        *_ROLLOUT,
        _always("says", "str", "`GO` or `NO-GO`"),
        _always("role", "str", "the role it was signed in"),
        _always("why", "str", "why, as said"),
        _always("about", "str", "SHA-256 of what was signed"),
    ),
    codes.ROLLOUT_ANSWERED: (
        *_ROLLOUT,
        _always("answer", "str", "`GO` or `NO-GO`"),
        _always("sha256", "str", "SHA-256 of the answer as it is kept"),
        _always("failing", "list[str]", "the lines that do not pass"),
    ),
    codes.ROLLOUT_STARTED: (*_ROLLOUT, _always("answer", "str", "SHA-256 of the GO by which it starts")),
    codes.ROLLOUT_STEP_BEGUN: _ATTEMPT,
    codes.ROLLOUT_STEP_ENDED: (
        *_ATTEMPT,
        _always("state", "str", "`passed`, `failed`, or `lost` when nobody knows"),
        _always("told", "str", "what was found"),
        _always("record", "str", "the evidence record; empty where there is none"),
        _always("by", "str", "the person that confirmed it; empty where a program did"),
    ),
    codes.ROLLOUT_GATE_PASSED: (*_ROLLOUT, _always("gate", "str", "the decision point")),
    codes.ROLLOUT_TRIGGERED: (
        *_ROLLOUT,
        _always("gate", "str", "the decision point"),
        _always("fired", "list[str]", "what fired"),
        _always("due", "str", "when it is rolled back without a decision"),
    ),
    codes.ROLLOUT_DECIDED: (
        *_ROLLOUT,
        _always("gate", "str", "the decision point"),
        _always("decision", "str", "`continue`, `retry`, `roll-back`, or `no decision` in time"),
        _always("why", "str", "why, as said"),
    ),
    codes.ROLLOUT_MOVED: (
        *_ROLLOUT,
        _always("before", "str", "state before"),
        _always("state", "str", "state now"),
        _always("told", "str", "why"),
    ),
    codes.ROLLOUT_ENDED: (
        *_ROLLOUT,
        _always("state", "str", "`done`, `rolled_back`, `abandoned` or `no_go`"),
        _always("told", "str", "why"),
        _always("rollback_s", "int", "seconds that taking back took; -1 where nothing was"),
    ),
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
