"""What the events of the assurance room say in ``details``; see ``details.py``."""

from __future__ import annotations

from collections.abc import Mapping

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.detail_fields import DetailField
from bailiwick.evidence.detail_fields import always as _always

_STAND_IN = (
    _always("rota", "str", "name of the rota"),
    _always("level", "str", "level on call: `primary`, `secondary` and others"),
    _always("username", "str", "who stands in"),
    _always("begins", "str", "from when on"),
    _always("ends", "str", "until when"),
    _always("reason", "str", "why, as told"),
)
_TASK = (
    _always("source", "str", "what opened it"),
    _always("owner", "str", "who it is for: an activity, a role or a person"),
    _always("severity", "str", "`P0` to `P3`"),
)
_ALERT = (
    _always("key", "str", "what makes two alerts the same one"),
    _always("rule", "str", "what noticed it"),
    _always("severity", "str", "`P0` to `P3`"),
    _always("source", "str", "`part`, `rule`, `alertmanager` or `manual`"),
)
_DRILL = (
    _always("fault", "str", "what was broken on purpose"),
    _always("target", "str", "in what"),
    _always("rule", "str", "rule whose alert had to come"),
)
_WAIVER = (
    _always("control", "str", "control that it waives"),
    _always("scope", "str", "what for"),
    _always("risk", "str", "`LOW`, `MEDIUM`, `HIGH` or `CRITICAL`"),
    _always("until", "str", "when it ends"),
)
_UNUSED = (
    _always("kind", "str", "`account` or `api-key`"),
    _always("owner", "str", "whose it is"),
    _always("idle_days", "int", "for how many days it was not used"),
)
_OVERRIDE = (
    _always("operation", "str", "what it does"),
    _always("target", "str", "to what"),
    _always("target_version", "str", "version of the target that it was asked for"),
    _always("payload", "str", "SHA-256 of exactly what is done"),
    _always("ticket", "str", "ticket that it was asked for by"),
    _always("risk", "str", "`LOW`, `MEDIUM`, `HIGH` or `CRITICAL`"),
    _always("environment", "str", "where"),
)

ASSURANCE: Mapping[EventType, tuple[DetailField, ...]] = {
    # --- 70xx assurance: the book, probes and their runs
    codes.ASSURANCE_DOCUMENT_CHANGED: (
        _always("how", "str", "`added`, `changed` or `removed`"),
        _always("revision", "int", "revision of the book from then on"),
        _always("plan", "str", "SHA-256 of the plan it was part of"),
    ),
    codes.ASSURANCE_SHIPPED: (
        _always("documents", "int", "how many documents were put in force"),
        _always("plan", "str", "SHA-256 of the plan"),
    ),
    codes.PROBE_ASKED: (),
    codes.PROBE_TURNED: (
        _always("before", "str", "verdict of the run before, empty for the first"),
        _always("verdict", "str", "verdict now"),
        _always("detail", "str", "what was found, in a few words"),
        _always("record", "str", "id of the evidence record of the run"),
    ),
    codes.JOB_SILENT: (
        _always("since", "str", "instant at which the job should have run"),
        _always("why", "str", "what became of that occurrence"),
    ),
    codes.JOB_HEARD: (),
    # --- 71xx assurance: owners, on-call, tasks
    codes.OWNERS_CHECKED: (
        _always("verdict", "str", "`PASS`, `FAIL` or `NO_DATA`"),
        _always("checked", "int", "how many things somebody has to answer for"),
        _always("failed", "int", "how many findings there are"),
    ),
    codes.OWNER_CHANGED: (
        _always("before", "str", "who answered until then; empty for nobody"),
        _always("after", "str", "who answers from then on; empty for nobody"),
        _always("why", "str", "why nobody does, or only a deputy"),
    ),
    codes.ONCALL_OVERRIDDEN: _STAND_IN,
    codes.ONCALL_OVERRIDE_WITHDRAWN: _STAND_IN,
    codes.TASK_OPENED: (*_TASK, _always("due", "str", "when it is due")),
    codes.TASK_OVERDUE: (*_TASK, _always("misses", "int", "how often it has been overdue by now")),
    codes.TASK_REASSIGNED: (*_TASK, _always("before", "str", "who it was for until then")),
    codes.TASK_ENDED: (
        *_TASK,
        _always("state", "str", "`done` by a person, `closed` by what opened it"),
        _always("outcome", "str", "what came of it"),
    ),
    # --- 72xx assurance: alerts, notices, escalation
    codes.ALERT_PENDING: _ALERT,
    codes.ALERT_FIRED: _ALERT,
    codes.ALERT_ACKNOWLEDGED: _ALERT,
    codes.ALERT_RESOLVED: _ALERT,
    codes.ALERT_CLOSED: (
        _always("key", "str", "what makes two alerts the same one"),
        _always("closed_as", "str", "`true`, `false` or `duplicate`"),
    ),
    codes.ALERT_ESCALATED: (
        _always("level", "str", "who was called: `primary`, `secondary`, `lead`, `manager` or `management`"),
        _always("person", "str", "user name of who was called, empty where nobody was there"),
    ),
    codes.ALERT_SILENCED: (
        _always("matchers", "list[str]", "conditions on labels, all of which an alert meets"),
        _always("ends_at", "str", "when the silence ends"),
    ),
    codes.ALERT_SILENCE_ENDED: (),
    codes.ALERT_HAPPENING: (
        _always("kind", "str", "`test`, `drill` or `incident`"),
        _always("alert", "str", "id of the alert that told of it, empty without one"),
    ),
    codes.ALERT_RAISED: _ALERT,
    codes.ALERT_DRILL_STARTED: _DRILL,
    codes.ALERT_DRILL_ENDED: _DRILL,
    codes.NOTICE_DELIVERED: (
        _always("channel", "str", "name of the channel"),
        _always("attempts", "int", "how many attempts it took"),
        _always("latency_ms", "int", "milliseconds from the notice to its receipt"),
    ),
    codes.NOTICE_DEAD: (
        _always("channel", "str", "name of the channel, empty where the notice was for nobody"),
        _always("told", "str", "why nothing more is tried"),
    ),
    codes.NOTICE_RETRIED: (_always("deliveries", "int", "how many deliveries are tried again"),),
    codes.CHANNEL_TESTED: (_always("notice", "str", "beginning of the key of the notice that was sent"),),
    codes.CHANNEL_SECRET_SET: (),
    codes.CHANNEL_SECRET_REMOVED: (),
    # --- 73xx assurance: rhythm, checkpoints, registers
    codes.RHYTHM_MOVED: (
        _always("ceremony", "str", "name of the ceremony"),
        _always("starts_at", "str", "when the occurrence begins"),
        _always("state", "str", "state from then on: `scheduled`, `held`, `overdue` and others"),
    ),
    codes.RHYTHM_PACK_BUILT: (
        _always("ceremony", "str", "name of the ceremony"),
        _always("cut_off", "str", "the instant that nothing later than is in the pack"),
        _always("sha256", "str", "digest of the pack's canonical JSON"),
        _always("verdict", "str", "worst verdict of its figures"),
    ),
    codes.RHYTHM_MINUTES_WRITTEN: (
        _always("ceremony", "str", "name of the ceremony"),
        _always("version", "int", "version of the minutes"),
        _always("sha256", "str", "digest of their canonical JSON"),
        _always("attendees", "list[str]", "who was there"),
    ),
    codes.RHYTHM_SIGNED: (
        _always("ceremony", "str", "name of the ceremony"),
        _always("minutes", "str", "digest of the minutes"),
        _always("pack", "str", "digest of the pack"),
    ),
    codes.RHYTHM_ACTION_CHANGED: (
        _always("ceremony", "str", "name of the ceremony that it came of"),
        _always("state", "str", "`open` or `done`"),
        _always("owner", "str", "who has to do it"),
        _always("due", "str", "the day by which"),
        _always("severity", "str", "how urgent it is"),
        _always("misses", "int", "at how many packs it was overdue"),
        _always("record", "str", "evidence record that shows it is done, or empty"),
    ),
    codes.GO_LIVE_RECORDED: (
        _always("instant", "str", "when the platform went live, or will"),
        _always("version", "int", "how often it was said"),
        _always("approval", "str", "approval of the second person, empty for the first"),
    ),
    codes.CHECKPOINT_EVALUATED: (
        _always("platform", "str", "name of the platform"),
        _always("version", "int", "version of the result"),
        _always("verdict", "str", "what was found"),
        _always("instant", "str", "the instant that was judged"),
        _always("record", "str", "id of the evidence record"),
    ),
    codes.CHECKPOINT_PLAN_CHANGED: (
        _always("checkpoint", "str", "name of the checkpoint"),
        _always("waiver", "str", "id of the waiver that it closes"),
        _always("state", "str", "`proposed`, `approved` or `revoked`"),
        _always("approval", "str", "approval of the second person"),
    ),
    codes.REGISTER_CHANGED: (
        _always("register", "str", "`risks`, `roadmap` or `documents`"),
        _always("state", "str", "state from then on"),
        _always("version", "int", "how often it changed"),
        _always("record", "str", "evidence record that shows it, or empty"),
    ),
    # --- 74xx assurance: waivers, secrets
    codes.WAIVER_DRAFTED: _WAIVER,
    codes.WAIVER_SUBMITTED: _WAIVER,
    codes.WAIVER_APPROVED: _WAIVER,
    codes.WAIVER_REJECTED: _WAIVER,
    codes.WAIVER_CLOSED: (*_WAIVER, _always("evidence", "str", "id of the evidence record that it was remedied")),
    codes.WAIVER_EXPIRED: _WAIVER,
    codes.WAIVER_REVOKED: (*_WAIVER, _always("why", "str", "why, as its revoker said")),
    codes.WAIVER_RENEWED: (*_WAIVER, _always("renewal", "str", "id of the waiver that renews it")),
    codes.WAIVER_USED: (
        _always("gate", "str", "what let something pass because of it"),
        _always("control", "str", "control that it waives"),
    ),
    codes.SECRET_ROTATED: (
        _always("kind", "str", "what kind of secret it is"),
        _always("old", "str", "fingerprint or id of the old one"),
        _always("new", "str", "fingerprint or id of the new one"),
        _always("verdict", "str", "PASS where the old one was presented and refused"),
        _always("record", "str", "id of the evidence record of that; empty while the two overlap"),
    ),
    codes.SECRETS_CHECKED: (
        _always("verdict", "str", "verdict of the gate"),
        _always("found", "int", "how many secrets there are"),
        _always("failing", "list[str]", "names of those that fail it"),
        _always("waivers", "list[str]", "ids of the waivers that let others pass"),
    ),
    codes.SECRETS_SCANNED: (
        _always("read", "int", "how many files were read"),
        _always("findings", "int", "how many secrets were found in them"),
    ),
    codes.UNUSED_DISABLED: _UNUSED,
    codes.UNUSED_RESTORED: _UNUSED,
    codes.UNUSED_KEPT: _UNUSED,
    codes.UNUSED_REFUSED: _UNUSED,
    # --- 75xx assurance: overrides
    codes.OVERRIDE_REQUESTED: _OVERRIDE,
    codes.OVERRIDE_VOTED: _OVERRIDE,
    codes.OVERRIDE_DONE: (
        *_OVERRIDE,
        _always("approved_by", "list[str]", "who approved it"),
    ),
    codes.OVERRIDE_FAILED: (*_OVERRIDE, _always("why", "str", "why it was not done")),
    codes.OVERRIDE_STALE: (*_OVERRIDE, _always("now", "str", "version of the target that was found")),
    codes.OVERRIDE_ENDED: (*_OVERRIDE, _always("why", "str", "`rejected`, `withdrawn` or `expired`")),
    codes.OVERRIDE_REFUSED: (_always("operation", "str", "operation that was tried"),),
    codes.OVERRIDE_SENT: (*_OVERRIDE, _always("attempt", "int", "how often it was sent")),
    codes.BREAK_GLASS_USED: (
        *_OVERRIDE,
        _always("review_due", "str", "until when somebody else must confirm it"),
    ),
    codes.BREAK_GLASS_REVIEWED: (*_OVERRIDE, _always("verdict", "str", "`confirmed` or `disputed`")),
    codes.BREAK_GLASS_UNDONE: (
        *_OVERRIDE,
        _always("why", "str", "`disputed` or `unreviewed`"),
        _always("undone", "bool", "false where there is no way back"),
    ),
    codes.OVERRIDE_SAMPLED: (
        _always("month", "str", "month whose overrides were drawn from"),
        _always("of", "int", "how many there were"),
        _always("sample", "list[str]", "ids that were drawn"),
    ),
    codes.GATEWAY_CLOSED: (_always("reason", "str", "why, as said"),),
    codes.GATEWAY_OPENED: (_always("reason", "str", "why, as said"),),
    # --- 76xx assurance: reconciliation, stuck work
    codes.RECONCILIATION_RUN: (
        _always("run", "str", "id of the run"),
        _always("mode", "str", "`delta`, `full`, `manual` or `verify`"),
        _always("period", "str", "the period that was compared"),
        _always("verdict", "str", "what came of it"),
        _always("report", "str", "SHA-256 of the report, empty where none could be made"),
        _always("new", "int", "findings that were not known"),
        _always("open", "int", "findings of this run that nobody settled"),
    ),
    codes.FINDING_MOVED: (
        _always("rule", "str", "what found it"),
        _always("period", "str", "the period it is a finding of"),
        _always("before", "str", "state before"),
        _always("after", "str", "state from then on"),
        _always("why", "str", "the change, the waiver, or what a run saw"),
    ),
    codes.ENTITLEMENT_POSTED: (
        _always("resource", "str", "what is given or taken"),
        _always("granted", "bool", "whether it is given"),
        _always("posting", "str", "id of the posting"),
        _always("cause", "str", "what it goes back to"),
    ),
    codes.STUCK_RUN: (
        _always("run", "str", "id of the run"),
        _always("verdict", "str", "what came of it"),
        _always("approaching", "int", "items past 80 % of their limit"),
        _always("stuck", "int", "items past their limit"),
        _always("critical", "int", "items past twice their limit, or in a state that nobody declared"),
    ),
    codes.STUCK_ACTED: (
        _always("machine", "str", "the state machine"),
        _always("action", "str", "`recheck`, `requeue` or `dead-letter`"),
        _always("state", "str", "the state it was in"),
        _always("result", "str", "what came of it"),
    ),
    # --- 77xx assurance: service levels, capacity, key figures
    codes.REPORT_PRODUCED: (
        _always("kind", "str", "kind of the report"),
        _always("since", "str", "beginning of its window"),
        _always("until", "str", "end of its window"),
        _always("sha256", "str", "digest of what it says"),
        _always("verdict", "str", "the worst verdict in it"),
    ),
    codes.REPORT_SIGNED: (
        _always("kind", "str", "kind of the report"),
        _always("sha256", "str", "digest of what was signed"),
        _always("produced_by", "str", "who made it, who is not the one that signs"),
    ),
    codes.SLO_GATE_ANSWERED: (
        _always("action", "str", "what was to be done"),
        _always("change_class", "str", "class of the change"),
        _always("verdict", "str", "verdict on the service's error budgets"),
        _always("exception", "str", "why it passes although the verdict is not green; empty otherwise"),
        _always("waiver", "str", "id of the waiver it passes by"),
        _always("because", "list[str]", "what is not as it should be"),
    ),
    codes.SLO_RECOUNTED: (
        _always("levels", "int", "how many service levels were counted again"),
        _always("entries", "int", "how many minutes turned out to be different"),
    ),
    codes.SUPPORT_CASE_OPENED: (
        _always("kind", "str", "`critical-fix` or `l3`"),
        _always("due", "str", "when it is due"),
    ),
    codes.SUPPORT_CASE_DONE: (
        _always("kind", "str", "`critical-fix` or `l3`"),
        _always("in_time", "bool", "whether it was done by the time it was due"),
    ),
    codes.KPI_BUILT: (
        _always("since", "str", "beginning of the period"),
        _always("until", "str", "end of the period"),
        _always("figures", "int", "how many figures were built"),
        _always("changed", "int", "how many of them differ from what was built before"),
    ),
}
