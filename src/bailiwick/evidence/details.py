"""What each event code says in ``details``: one table of names, types and meanings.

The hot path builds its details by hand and nothing checks them there; the tests hold every call site and every event
they see against this table, so that it stays true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.detail_fields import DetailField, Type
from bailiwick.evidence.detail_fields import always as _always
from bailiwick.evidence.detail_fields import sometimes as _sometimes
from bailiwick.evidence.details_assurance import ASSURANCE
from bailiwick.evidence.details_handover import HANDOVER
from bailiwick.evidence.events import Event

_AGREED = (
    _sometimes("approval", "str", "id of the approval, empty where it took one person"),
    _sometimes("approved_by", "list[str]", "who approved it"),
)
_CHANGED = _always("changed", "list[str]", "members that changed, by name")
_ROLE = _always("role", "str", "role of the account afterwards")
_METHOD = _always("method", "str", "by what: `local`, `ldap`, `oidc`, `saml`, `passkey` and others")
_AMR = _always("amr", "list[str]", "by what the person proved himself (RFC 8176)")
_FACTOR = _always("factor", "str", "id of the factor")
_FACTOR_KIND = _always("kind", "str", "kind of the factor: `totp` or `webauthn`")
_API_KEY = (_always("username", "str", "whose key it is"), _always("key_name", "str", "what he calls it"))
_RELEASE = _always("version", "str", "version of the program")
_SESSIONS_ENDED = _always("sessions_ended", "int", "how many sessions ended with it")
_SIGNED_IN = _always("username", "str", "whose session it was")
_APPLICATION = (
    _always("client_id", "str", "OAuth client id of the application"),
    _always("role", "str", "role of the application afterwards"),
)
_PRESENTS = (_always("presents", "str", "kind of the credential: `bearer`, `basic` or `api_key`"),)
_IDP = (
    _always("kind", "str", "kind of the provider: `ldap`, `oidc` or `saml`"),
    _always("enabled", "bool", "whether people may sign in by it"),
)
_SET_MEMBERS = _always("members", "list[str]", "policies of the set, each with its version")
_SHA256 = _always("sha256", "str", "digest of the uploaded policy and its data")
_VERSION = _always("version", "int", "version of the policy")
_KEY = _always("purpose", "str", "what the key signs: `mandate`, `session` or `ledger`")
_INPUT = "digest of the decision's input, which is kept apart, sealed"
_GATEWAY = (
    ("method", "HTTP method"),
    ("path", "path without the query, at most 512 characters"),
    ("operation", "operation it was matched with: method and path template"),
    ("scope", "scope the operation needs"),
    ("input", _INPUT),
)
_GROUP = (
    _always("kind", "str", "`group` or `team`"),
    _always("role", "str", "role that it gives its members; empty for none"),
)
_MEMBERS = (
    _always("members", "list[str]", "user names, at most 50 to an event"),
    _always("source", "str", "who says so: `api`, `scim` or a provider"),
)
_GRANT = _always("grant", "str", "OAuth grant type")
_VERDICT = (
    _always("verdict", "str", "`PASS`, `FAIL` or `NO_DATA`"),
    _always("checked", "int", "how many events were checked"),
    _always("findings", "int", "how many positions are wrong"),
)
_QUERY_NAME = _always("query_name", "str", "what its owner calls it")
_SEALED_EVENTS = _always("events", "int", "how many events")
_HOLD = _always("reason", "str", "why the evidence is held, in the words of who holds it")
_WITNESS = (
    _always("size", "int", "events under the head"),
    _always("why", "str", "what the witness says against it; empty when nothing"),
)
_PACK_REQUESTS = _always("requests", "int", "how many requests were named")
_PACK_INPUTS = _always("inputs", "bool", "whether the inputs of decisions are in it")
_SENDS = _always("sends", "str", "to what kind of destination the sink sends")
_BEHIND = _always("behind", "int", "how many events it had not taken yet")
_APPROVAL = (
    _always("action", "str", "what is to be done"),
    _always("payload", "str", "SHA-256 of what exactly"),
    _always("requested_by", "str", "who asked"),
    _always("missing", "int", "how many approvals are still missing"),
    _always("state", "str", "state of the request afterwards"),
)

DETAILS: Mapping[EventType, tuple[DetailField, ...]] = {
    codes.AUTH_LOGIN_SUCCESS: (_METHOD, _AMR),
    codes.AUTH_LOGIN_FAILURE: (
        _METHOD,
        _sometimes("provider", "str", "identity provider that was asked"),
        _sometimes("cause", "str", "what the provider says against it, which the caller is not told"),
    ),
    codes.AUTH_LOGOUT: (_SIGNED_IN,),
    codes.AUTH_PASSWORD_CHANGED: (_SESSIONS_ENDED,),
    codes.AUTH_SESSION_ENDED: (_SIGNED_IN,),
    codes.AUTH_ACCOUNT_LOCKED: (
        _always("failures", "int", "failed sign-ins that led to it"),
        _always("minutes", "int", "how long the account is locked"),
    ),
    codes.AUTH_INVITATION_ACCEPTED: (),
    codes.AUTH_SESSION_REFRESHED: (),
    codes.AUTH_REFRESH_REUSED: (_SIGNED_IN,),
    codes.AUTH_FACTOR_OFFERED: (_FACTOR_KIND,),
    codes.AUTH_FACTOR_ENROLLED: (_FACTOR, _FACTOR_KIND),
    codes.AUTH_FACTOR_REMOVED: (_FACTOR, _FACTOR_KIND),
    codes.AUTH_FACTOR_CLONED: (
        _FACTOR,
        _FACTOR_KIND,
        _always("known", "int", "signature count of its last use"),
        _always("shown", "int", "signature count it came with, which should have been greater"),
    ),
    codes.AUTH_RECOVERY_CODES_RENEWED: (),
    codes.AUTH_RECOVERY_CODE_USED: (_always("left", "int", "how many are left"),),
    codes.AUTH_STEPPED_UP: (_AMR,),
    codes.API_KEY_CREATED: (
        *_API_KEY,
        _always("permissions", "list[str]", "what the key may do, if its owner still may"),
    ),
    codes.API_KEY_ROTATED: (*_API_KEY, _always("replaces", "str", "id of the key it comes after")),
    codes.API_KEY_ENDED: _API_KEY,
    codes.API_KEY_CHANGED: (
        *_API_KEY,
        _CHANGED,
        _always("permissions", "list[str]", "what the key may do afterwards, if its owner still may"),
        _always("active", "bool", "whether the key is taken afterwards"),
        _always("widened", "bool", "whether it got more than it had"),
    ),
    codes.USER_CREATED: (
        _ROLE,
        _sometimes("cause", "str", "`bootstrap`, `sign-in`, `scim`, or the provider that vouched for him"),
    ),
    codes.USER_CHANGED: (_ROLE, _CHANGED, _sometimes("cause", "str", "`sign-in` where an identity provider says so")),
    codes.USER_DISABLED: (
        _ROLE,
        _CHANGED,
        _sometimes("cause", "str", "`disabled here before` of an account made anew for somebody who was"),
    ),
    codes.USER_ENABLED: (_ROLE, _CHANGED, *_AGREED),
    codes.USER_MFA_RESET: (_SESSIONS_ENDED, _always("factors_removed", "int", "how many factors were forgotten")),
    codes.USER_PASSWORD_RESET: (_SESSIONS_ENDED,),
    codes.USER_UNLOCKED: (_always("failures", "int", "failed sign-ins that were forgotten"),),
    codes.USER_DELETED: (_ROLE, _SESSIONS_ENDED),
    codes.USER_LINKED: (
        _always("provider", "str", "which provider vouches for the person from now on"),
        _always("by", "str", "by what the account was found to be his: `external id` or `name`"),
    ),
    codes.GROUP_CREATED: _GROUP,
    codes.GROUP_CHANGED: (*_GROUP, _CHANGED),
    codes.GROUP_DELETED: _GROUP,
    codes.GROUP_MEMBERS_ADDED: _MEMBERS,
    codes.GROUP_MEMBERS_REMOVED: _MEMBERS,
    codes.ACCESS_REVIEWED: (
        _always("verdict", "str", "`keep` or `remove`"),
        _always("due", "str", "when it must be looked at again"),
    ),
    codes.APPLICATION_CREATED: _APPLICATION,
    codes.APPLICATION_CHANGED: (*_APPLICATION, _CHANGED),
    codes.APPLICATION_SECRET_ROTATED: _APPLICATION,
    codes.APPLICATION_DISABLED: (*_APPLICATION, _CHANGED),
    codes.APPLICATION_ENABLED: (*_APPLICATION, _CHANGED),
    codes.ZONE_CREATED: (),
    codes.ZONE_CHANGED: (),
    codes.ZONE_ARCHIVED: (),
    codes.SERVER_CREATED: (),
    codes.SERVER_CHANGED: (
        _sometimes("changed", "list[str]", "members that a person changed, by name"),
        _sometimes("cause", "str", "`resolution` where the upstream's name resolved differently"),
        _sometimes("routing", "str", "with a cause: `routable`, or the reason why it is not"),
    ),
    codes.SERVER_DELETED: (),
    codes.CREDENTIAL_CREATED: _PRESENTS,
    codes.CREDENTIAL_ROTATED: _PRESENTS,
    codes.CREDENTIAL_DELETED: _PRESENTS,
    codes.IDP_CREATED: _IDP,
    codes.IDP_CHANGED: (*_IDP, _CHANGED),
    codes.IDP_DELETED: _IDP,
    codes.IDP_TESTED: (*_IDP, _always("verdict", "str", "`PASS` or `FAIL`")),
    codes.POLICY_ADMITTED: (
        _VERSION,
        _SHA256,
        _sometimes("dialect", "str", "Rego dialect of an upload: `v0` or `v1`"),
    ),
    codes.POLICY_REFUSED: (_SHA256, _always("findings", "list[str]", "first findings: file, line, reason")),
    codes.POLICY_ACTIVATED: (
        _always("change", "str", "`activate`, `deactivate` or `initial`"),
        _SET_MEMBERS,
        _sometimes("previous", "str", "hash of the set before, empty if there was none"),
        *_AGREED,
    ),
    codes.POLICY_ROLLED_BACK: (
        _always("change", "str", "`rollback`"),
        _SET_MEMBERS,
        _always("previous", "str", "hash of the set it was rolled back from"),
        _always("approval", "str", "id of the approval, empty where it took one person"),
        _always("approved_by", "list[str]", "who approved it"),
    ),
    codes.POLICY_TESTED: (_VERSION, _SHA256),
    codes.POLICY_NEWLY_ALLOWED: (
        _always("comparison", "str", "whether old and new set could be compared: `complete`, `truncated` or `failed`"),
        _always("pairs", "int", "how many principals may newly do something"),
        _always("first", "list[str]", "first of them: principal, action, server"),
    ),
    codes.POLICY_CACHE_FLUSHED: (),
    codes.POLICY_KNOWN_GOOD: (),
    codes.POLICY_SUSPECT: (_always("why", "str", "reason code of the fault, or `rolled back`"),),
    codes.DECISION_EVALUATED: (
        _always("input", "str", _INPUT),
        _sometimes("action", "str", "action asked about, in the short form of the question"),
        _sometimes("resource", "str", "resource asked about, in the short form of the question"),
        _sometimes("fault", "str", "reason code where the policy could not decide"),
    ),
    codes.MANDATE_ISSUED: (
        _GRANT,
        _always("scope", "str", "scopes granted, separated by spaces"),
        _always("kid", "str", "id of the key that signed it"),
        _always("expires_at", "int", "when it expires, in seconds since 1970"),
    ),
    codes.MANDATE_REFUSED: (_GRANT, _always("scope", "str", "scopes asked for, separated by spaces")),
    codes.AUTHORITY_REVOKED: (_always("reason", "str", "why, in the words of whoever revoked it"),),
    codes.WORKER_FENCED: (_always("behind_by", "int", "how many revisions of the feed it was behind"),),
    codes.KEY_CREATED: (_KEY,),
    codes.KEY_ROTATED: (
        _KEY,
        _always("replaced_by", "str", "id of the new key"),
        _always("reason", "str", "why, in the words of whoever rotated it"),
    ),
    codes.KEY_REVOKED: (
        _KEY,
        _always("replaced_by", "str", "id of the new key"),
        _always("reason", "str", "why, in the words of whoever rotated it"),
    ),
    codes.KEY_RETIRED: (_KEY,),
    codes.KEK_ROTATED: (
        _always("kek", "str", "id of the new key-encryption key"),
        _always("rewrapped", "int", "how many values were wrapped anew"),
    ),
    codes.GATEWAY_ALLOWED: (
        *(_always(name, "str", meaning) for name, meaning in _GATEWAY),
        _sometimes("credential", "str", "name of the upstream credential presented"),
    ),
    codes.GATEWAY_DENIED: tuple(
        _sometimes(name, "str", f"{meaning}, if it came to that") for name, meaning in _GATEWAY
    ),
    codes.STREAM_CUT: (_always("cause", "str", "`revoked`, `closed`, `expired`, `feed_stale` or `guard_stopped`"),),
    codes.AUDIT_READ: (
        _always("query", "str", "filters of the search"),
        _always("returned", "int", "how many entries were shown"),
        _sometimes("what", "str", "what a command on the machine read"),
        _sometimes("follow", "bool", "whether the command went on with what came later"),
    ),
    codes.AUDIT_EXPORTED: (
        _sometimes("events", "int", "how many events the export holds, where it is known before it is read"),
        _sometimes("sha256", "str", "digest of the file, where it was one"),
        _sometimes("files", "int", "how many files were written"),
        _sometimes("query", "str", "filters of the search, where it was one"),
        _sometimes("format", "str", "`csv`, `jsonl` or `parquet`"),
        _sometimes("reach", "int", "how far the ledger went when the search was exported"),
    ),
    codes.AUDIT_QUERY_SAVED: (_QUERY_NAME, _always("shared", "bool", "whether others may run it")),
    codes.AUDIT_QUERY_DELETED: (_QUERY_NAME,),
    codes.ARCHIVE_SEALED: (
        _always("manifest", "str", "SHA-256 of the signed manifest"),
        _always("version", "int", "1, or more where events came late to a window that was sealed"),
        _SEALED_EVENTS,
        _always("objects", "int", "how many objects were stored"),
        _always("bytes", "int", "their size"),
    ),
    codes.ARCHIVE_HOT_DROPPED: (_SEALED_EVENTS,),
    codes.ARCHIVE_RESTORED: (_SEALED_EVENTS,),
    codes.ARCHIVE_PURGED: (
        _always("approved_by", "list[str]", "who approved it beside the one who asked"),
        _always("reason", "str", "why, in the words of the one who asked"),
        _always("first", "int", "first position whose events ended; -1 for none"),
        _always("last", "int", "last such position; -1 for none"),
        _always("before", "str", "evidence recorded before this instant ended"),
        _always("windows", "int", "how many windows ended"),
        _always("first_window", "str", "the oldest of them"),
        _always("last_window", "str", "the newest of them"),
        _SEALED_EVENTS,
        _always("manifests_sha256", "str", "digest over the digests of their manifests"),
    ),
    codes.ARCHIVE_HOLD_PLACED: (
        _HOLD,
        _always("since", "str", "evidence recorded from then on is held; empty for all before"),
        _always("until", "str", "evidence recorded before then is held; empty for all after"),
    ),
    codes.ARCHIVE_HOLD_RELEASED: (_HOLD, _always("approved_by", "list[str]", "who approved it")),
    codes.ARCHIVE_LIVES_CHANGED: (
        _always("seal_days", "int", "age at which evidence is sealed"),
        _always("hot_days", "int", "age until which rows stay in the database"),
        _always("local_days", "int", "age until which sealed evidence stays on the machine"),
        _always("archive_days", "int", "age at which evidence may end"),
    ),
    codes.ARCHIVE_VERIFIED: (
        _always("verdict", "str", "`PASS`, `FAIL` or `NO_DATA`"),
        _SEALED_EVENTS,
        _always("findings", "int", "how many things are wrong"),
    ),
    codes.ARCHIVE_ASKED: (_always("job", "str", "job that was made due"),),
    codes.WITNESS_REFUSED: _WITNESS,
    codes.WITNESS_RECOVERED: _WITNESS,
    codes.LEDGER_CONTINUED: (
        _always("log", "str", "origin that the log goes on under"),
        _always("kept", "int", "how many events were kept"),
        _always("known", "int", "how many events the last known head of the log before covers"),
        _always("ground", "str", "why events were lost, in the words of who asked"),
        _always("approval", "str", "id of the approval"),
        _always("requested_by", "str", "who asked"),
        _always("approved_by", "list[str]", "who approved it"),
        _always("statement", "str", "what was agreed to, as canonical JSON, with the last known head"),
    ),
    codes.EVIDENCE_RECORDED: (
        _always("record", "str", "id of the record: the SHA-256 of what it says"),
        _always("kind", "str", "`probe` or `attestation`"),
        _always("output", "str", "SHA-256 of the output"),
        _always("verdict", "str", "what the record says, where it says a verdict"),
        _always("redactions", "int", "how many secrets were taken out of the output"),
        _always("new", "bool", "false when the same was recorded before"),
    ),
    codes.EVIDENCE_PACK_REQUESTED: (
        _PACK_REQUESTS,
        _always("windows", "int", "how many windows of time"),
        _PACK_INPUTS,
    ),
    codes.EVIDENCE_PACK_BUILT: (
        _always("sha256", "str", "digest of the file"),
        _always("manifest", "str", "digest of its manifest"),
        _always("size", "int", "bytes of the file"),
        _always("files", "int", "how many files it holds"),
        _always("events", "int", "how many events it holds"),
        _PACK_REQUESTS,
        _always("windows", "list[str]", "windows of time it covers"),
        _PACK_INPUTS,
    ),
    codes.EVIDENCE_PACK_FAILED: (_always("why", "str", "what hindered it"),),
    codes.SIEM_SINK_CREATED: (_SENDS, _always("start", "str", "from where on it sends")),
    codes.SIEM_SINK_CHANGED: (_SENDS, _CHANGED),
    codes.SIEM_SINK_DELETED: (_SENDS, _BEHIND),
    codes.SIEM_DRAINED: (_BEHIND,),
    codes.SIEM_REPLAYED: (
        _always("events", "int", "how many events are sent again"),
        _always("start", "str", "from where on"),
    ),
    codes.SIEM_DEAD_LETTERS_RETRIED: (_always("letters", "int", "how many are sent once more"),),
    codes.SIEM_STOPPED: (_always("why", "str", "what somebody must mend"),),
    codes.SIEM_RESUMED: (),
    codes.AUDIT_VERIFIED: _VERDICT,
    codes.EVIDENCE_LOSS_ACKNOWLEDGED: (_always("lost", "list[str]", "what was lost, at most 50 entries"),),
    codes.EVIDENCE_REPLAYED: (
        _always("dead_letter", "int", "number of the dead letter"),
        _always("event", "str", "id of the event it held"),
    ),
    codes.INSTALLATION_BOOTSTRAPPED: (),
    codes.WORKERS_CHANGED: (_always("workers", "list[str]", "workers there are now"),),
    codes.INSTALLATION_STARTED: (_RELEASE,),
    codes.INSTALLATION_STOPPED: (_RELEASE,),
    codes.PART_RESTARTED: (),
    codes.SCHEMA_UPGRADED: (
        _always("before", "str", "revision of the schema before, empty if there was none"),
        _always("after", "str", "revision of the schema now"),
    ),
    codes.READER_ADDED: (),
    codes.CLOCK_ADVANCED: (_always("by_s", "int", "seconds by which simulated time is moved on in one step"),),
    codes.APPROVAL_REQUESTED: _APPROVAL,
    codes.APPROVAL_VOTED: _APPROVAL,
    codes.APPROVAL_WITHDRAWN: _APPROVAL,
    codes.APPROVAL_EXECUTED: _APPROVAL,
    codes.ACCESS_REFUSED: (
        _always("route", "str", "path of the refused request"),
        _sometimes("method", "str", "HTTP method of the refused request"),
        _sometimes("permission", "str", "permission that the caller does not hold"),
    ),
    **ASSURANCE,
    **HANDOVER,
}


def violations(event: Event) -> list[str]:
    """How an event's details differ from their schema, in words; empty when they do not."""
    kind = codes.EVENT_TYPES.get(event.code)
    if kind is None or kind not in DETAILS:
        return [f"{event.code} has no schema"]
    fields = {field.name: field for field in DETAILS[kind]}
    told = [f"{event.code} says nothing of {name}" for name in _missing(fields.values(), event.details)]
    for name, value in event.details.items():
        if name not in fields:
            told.append(f"{event.code} does not declare {name}")
        elif not _is(value, fields[name].type):
            told.append(f"{event.code} declares {name} as {fields[name].type}, not {value!r}")
    return told


def _missing(fields: Iterable[DetailField], details: Mapping[str, object]) -> list[str]:
    return [field.name for field in fields if field.required and field.name not in details]


def _is(value: object, type: Type) -> bool:
    if type == "list[str]":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if type == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if type == "str" else bool)
