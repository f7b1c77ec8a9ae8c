"""One typed error hierarchy. Each refusal carries a stable reason code that callers may rely on.

Mapped once to RFC 9457 problem+json (``kernel/problems.py``); OAuth endpoints map the same errors to
``error``/``error_description``. ``docs/reference/reason-codes.md`` prints :data:`REASONS`; a test keeps it complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason code: the HTTP status it is answered with, and what it means to the reader."""

    status: int
    meaning: str


REASONS: dict[str, Reason] = {
    # --- asking wrongly
    "invalid_request": Reason(400, "The request is malformed or a field is missing or of the wrong type."),
    "password_breached": Reason(400, "The password is known from a breach; choose another."),
    "payload_too_large": Reason(413, "The body is larger than this endpoint accepts."),
    "unsupported_media_type": Reason(415, "The content type is not one this endpoint reads."),
    "not_found": Reason(404, "There is nothing by that name, or you may not see it."),
    "method_not_allowed": Reason(405, "The resource exists but does not take this method."),
    "already_exists": Reason(409, "Something by that name exists already."),
    "conflict": Reason(409, "The state of the resource does not allow this."),
    "in_use": Reason(409, "Something else still refers to this; it must be changed first."),
    "evidence_archived": Reason(409, "The evidence is in the archive alone; it must be restored for this."),
    "version_mismatch": Reason(412, "If-Match names another version: read again, then change."),
    "unsupported_grant_type": Reason(400, "The token endpoint does not know this grant type."),
    "query_too_expensive": Reason(422, "The search would take longer than one may; narrow it, by time above all."),
    "idempotency_conflict": Reason(422, "The Idempotency-Key was used with a different request."),
    "approval_required": Reason(409, "Another person must approve this first; the approval is named."),
    "approval_own_request": Reason(403, "Nobody approves what he asked for himself."),
    "own_access": Reason(403, "Nobody reviews his own access, by whatever account."),
    "approval_same_person": Reason(403, "The account is the same person's as one that asked or approved already."),
    "approval_related_account": Reason(
        403, "One of the two accounts made, raised or could enter the other a short while ago; they count as one."
    ),
    "approval_concerned": Reason(403, "Nobody approves what is done for his own account."),
    "approval_role": Reason(403, "This takes the approval of somebody with another role."),
    "approval_requester_gone": Reason(
        409, "Who asked for it is no longer active, or has another role since; somebody must ask again."
    ),
    "approval_ended": Reason(409, "The approval was executed, rejected or withdrawn, or its time has run out."),
    "user_disabled_here": Reason(
        403,
        "The account was disabled here, not by the provider: two persons enable it, by PATCH of the user.",
    ),
    "approval_changed": Reason(409, "What would be done now is not what was approved; ask again."),
    "legal_hold": Reason(409, "A legal hold keeps this evidence."),
    "archive_unproven": Reason(409, "The archive does not prove that it holds this evidence, so nothing is removed."),
    "rate_limited": Reason(429, "Too many requests; Retry-After says when to come back."),
    "illegal_transition": Reason(409, "The thing is in a state from which it cannot get where you want it."),
    "plan_changed": Reason(409, "What is in force, or wanted, is not what the plan was made of; plan again."),
    "bad_book": Reason(422, "The documents of the operating model contradict their schemas or each other."),
    # --- assurance: the book, probes and their runs
    # --- assurance: owners, on-call, tasks
    "nobody_answers": Reason(422, "The owner named is a placeholder, unknown, or leads to no active person."),
    # --- assurance: alerts, notices, escalation
    "alert_incomplete": Reason(422, "The alert lacks a label or annotation that every alert has to have."),
    "silence_too_long": Reason(422, "A silence ends within seven days."),
    "drill_refused": Reason(409, "The drill would prove nothing, or its target must not be broken."),
    # --- assurance: rhythm, checkpoints, registers
    "window_not_over": Reason(409, "What is asked for has not ended yet; nothing is reported of the future."),
    "quorum_missing": Reason(409, "Somebody in each required role must have been there; `missing` names the roles."),
    "signer_produced": Reason(403, "Who signs is not who produced what is signed."),
    "action_incomplete": Reason(422, "An action item has an owner who is an active person and a day that is not past."),
    "evidence_needed": Reason(422, "This takes the id of an evidence record of here that holds and is new enough."),
    # --- assurance: waivers, secrets
    "waiver_incomplete": Reason(422, "A waiver names all it is about, and its end; `missing` lists what it lacks."),
    "waiver_too_long": Reason(422, "The waiver would last longer than its risk allows; `most_days` says how long."),
    "control_not_waivable": Reason(422, "Nobody may waive this control, or no document says that one may."),
    "waiver_renewals_exhausted": Reason(409, "The waiver was renewed as often as one may be."),
    "waiver_inactive": Reason(409, "The waiver does not hold now."),
    "secret_value_refused": Reason(422, "This is a secret itself; the inventory takes references and names only."),
    # --- assurance: overrides
    "override_no_rule": Reason(422, "No rule allows this operation to be overridden in this environment."),
    "override_no_checker": Reason(422, "Nobody is there who could check this; `invite` says whom to invite."),
    "override_not_signed_in": Reason(403, "This is for a signed-in person: no key, application or delegate."),
    "override_stale": Reason(409, "What it was asked for has changed since; look again and ask again."),
    "override_done": Reason(409, "The override was done already, or has ended without being done."),
    "gateway_closed": Reason(503, "The gateway of the zone was closed by an operator; nothing is let through."),
    "server_closed": Reason(503, "An operator closed the way to this server; nothing is let through to it."),
    "override_required": Reason(409, "Nobody does this alone: ask for an override, which another person agrees to."),
    # --- assurance: reconciliation, stuck work
    "change_required": Reason(422, "A finding is resolved by a change, whose id must be named."),
    "waiver_not_covering": Reason(409, "The waiver does not cover this now; only an active one that does, accepts it."),
    "not_idempotent": Reason(
        409, "This is not declared safe to do twice; it takes two persons: ask for it as an override."
    ),
    "attempts_left": Reason(409, "It goes to the dead letters only after as many attempts as the machine declares."),
    # --- assurance: service levels, capacity, key figures
    "window_open": Reason(409, "The window of the report is not over yet."),
    "own_report": Reason(403, "Whoever produced a report does not sign it."),
    "report_changed": Reason(409, "What you would sign is not what the report says; read it again."),
    # --- handover: backups, restores, drills
    "backup_unconfigured": Reason(409, "No place for backups is set, so none are made."),
    "backup_running": Reason(409, "A backup is being made; there is one at a time."),
    "backup_failed": Reason(503, "The backup could not be made whole, so there is none."),
    "backup_damaged": Reason(409, "The backup is not what its manifest says; another one must be used."),
    "backup_key_wrong": Reason(409, "The key does not open what is sealed in the backup."),
    "backup_log_missing": Reason(409, "The write-ahead log that the moment needs is not there without a gap."),
    "restore_refused": Reason(409, "It is restored only into a directory that is empty and in nobody's use."),
    "restore_failed": Reason(503, "The restore did not come to its end; nothing was put in place."),
    "restore_behind_head": Reason(
        409, "What would be restored lacks events that a published head covers; to lose them must be asked for."
    ),
    # --- evidence: going on after a loss
    "ledger_not_behind": Reason(409, "The ledger lacks nothing that a head known here covers: it goes on as it is."),
    "ledger_rewritten": Reason(
        409, "The ledger is other than what was published. That is tampering, and is not continued by anybody."
    ),
    "ledger_known_more": Reason(409, "A witness has seen more events than the newest head known here covers."),
    # --- handover: incidents, containment, kill switches
    "switched_off": Reason(503, "An operator switched this off in the zone; `switch` names what."),
    "changes_frozen": Reason(503, "Changes of the zone are frozen by an operator, and nothing is destroyed."),
    "read_only": Reason(503, "The zone is read-only: nothing but revoking, incidents and health changes anything."),
    "switch_takes_two": Reason(403, "What widens takes two persons, also in an emergency."),
    "incident_closed": Reason(409, "The incident is closed; what comes now is another one."),
    "preserve_first": Reason(409, "The evidence of the incident is not preserved yet; that comes before recovery."),
    "recovery_unproven": Reason(409, "Not every condition of recovery is measured PASS; `conditions` says which."),
    "severity_held": Reason(409, "The severity stands until its exit condition is met; `because` says which."),
    "actions_unverified": Reason(409, "Actions of the review are not verified yet; `actions` names them."),
    "review_missing": Reason(409, "The incident is reviewed before it is closed."),
    # --- handover: readiness
    "no_readiness": Reason(404, "The book says nothing of such an environment, or of such an item of it."),
    "not_attested": Reason(409, "A probe or other items show this one; nobody's word does."),
    "attachment_missing": Reason(
        422, "The document that this attestation rests on is handed in first, and goes with it by its hash."
    ),
    "attachment_hash": Reason(422, "The document is not the one that its hash names."),
    "attachment_altered": Reason(409, "What is kept is not the document that its hash names any more."),
    "attachments_waiting": Reason(409, "Many of your documents belong to no attestation yet; attest with them first."),
    "no_attachment": Reason(404, "No document of that hash is kept here."),
    "attestation_role": Reason(
        403,
        "An item is attested by whoever holds the owner role it names, or acts in his place today; `role` says which.",
    ),
    "own_attestation": Reason(403, "Whoever stated something does not review it, nor does another account of his."),
    "already_reviewed": Reason(409, "Somebody has reviewed it; state it anew."),
    "person_needed": Reason(403, "This takes a person with an account that is active, and no key of a program."),
    "runbook_order": Reason(409, "The step before is not done; runbooks go contain, preserve, diagnose, recover on."),
    "not_a_sandbox": Reason(422, "Drills are held in a zone that a DrillZone document of its book calls a sandbox."),
    # --- handover: environments, validation, hypercare, announcements
    "environment_not_live": Reason(409, "Nothing went live in the environment yet, so nothing of it is measured."),
    "announcement_incomplete": Reason(422, "The template names values that were not given; `missing` lists them."),
    # --- handover: canaries
    "canary_open": Reason(409, "A canary of this server goes on, or its candidate has the traffic; end that first."),
    "canary_failed": Reason(
        409, "Within a day this release failed its canary, or a look at it showed nothing good: another one is tried."
    ),
    "canary_other": Reason(409, "The canary that goes on at this server is of another release."),
    "canary_in_doubt": Reason(409, "The last look at the candidate showed nothing good: it waits for more, or goes."),
    "canary_upstream": Reason(409, "The candidate is the server's own upstream by now: give it another one."),
    "loop_elsewhere": Reason(
        409, "The loop is walked here: it tells of the active policy set, or of what `BAILIWICK_RELEASE` says."
    ),
    "canary_unproven": Reason(
        403, "The candidate was not shown to be fit for so much traffic; nobody waives that. `most_percent` says what."
    ),
    "canary_impossible": Reason(422, "These upstreams cannot be held against each other under this server."),
    # --- handover: rollouts
    "rollout_no_go": Reason(409, "The Go/No-Go is NO-GO; `lines` says by what."),
    "rollout_expired": Reason(409, "The GO, or what it stands on, is older than a day: ask and sign again."),
    "rollout_going": Reason(409, "Another rollout changes the environment; there is one at a time."),
    "rollout_same_person": Reason(403, "This takes another person than who planned, signed or confirmed before."),
    "rollout_role": Reason(403, "This takes somebody of another role; `role` names it."),
    "rollout_not_waiting": Reason(409, "The rollout does not wait for that."),
    "rollout_decision_late": Reason(409, "The time for the decision is over: it is rolled back."),
    "rollout_canary": Reason(409, "The canary is not PASS, and nobody can decide to go on against it."),
    "program_not_allowed": Reason(409, "The operator of the machine does not allow this program to be run."),
    # --- handover: packs, sign-off, acceptance
    "handover_over": Reason(409, "The pack was refused, accepted, or another one came in its place; build again."),
    "handover_stale": Reason(409, "The pack is too old to be signed or accepted; build it again."),
    "handover_changed": Reason(409, "What you would sign or accept is not what the pack says now; read it again."),
    "handover_not_green": Reason(409, "Not every statement of the pack is PASS or waived; `statements` names them."),
    "handover_evidence_missing": Reason(409, "A statement names an evidence record that is not there; `records` says."),
    "handover_team": Reason(403, "The plan does not say that you speak for this team."),
    "handover_own_work": Reason(403, "Whoever produced the pack or its evidence does not sign it."),
    "handover_same_person": Reason(403, "Each team signs by another person."),
    "handover_factor_needed": Reason(403, "To sign takes a second factor used just now."),
    "handover_key_unknown": Reason(409, "The key is not among those that the pack names; step up, or build again."),
    "handover_signed_already": Reason(409, "The team has signed this pack."),
    "handover_unsigned": Reason(409, "Not every team has signed; `teams` names those that have not."),
    "handover_unmet": Reason(409, "Conditions of the handover do not hold; `conditions` names them."),
    "handover_takes_two": Reason(
        409, "What changes hands takes two persons; have it approved first. `documents` says."
    ),
    "handover_book_moved": Reason(409, "What changes hands was changed since the pack was built; build it again."),
    # --- who are you
    "authentication_required": Reason(401, "No credential was presented."),
    "invalid_token": Reason(401, "The token is malformed, forged, of the wrong type or for somebody else."),
    "token_expired": Reason(401, "The token is past its expiry."),
    "token_revoked": Reason(401, "The token, or something its authority stands on, was revoked."),
    "key_revoked": Reason(401, "The key that signed the token was revoked in an emergency."),
    "unknown_key": Reason(401, "The token names a signing key this zone does not have."),
    "wrong_audience": Reason(401, "The token was issued for another server."),
    "wrong_zone": Reason(401, "The token was issued by another zone."),
    "invalid_credentials": Reason(401, "The user name or password is wrong."),
    "mfa_required": Reason(
        401, "The first factor held; send the second, one of `methods`, under /api/v1/auth/mfa with the `mfa_token`."
    ),
    "mfa_enrolment_required": Reason(
        401, "The account needs a second factor and has none; enrol one under /api/v1/auth/mfa with the `mfa_token`."
    ),
    "invalid_code": Reason(401, "The code is wrong, too old, or was used already."),
    "invalid_passkey": Reason(
        401, "The passkey's answer does not hold: another or an old challenge, another site, an unknown key."
    ),
    "passkey_cloned": Reason(401, "Two copies of this passkey seem to be in use; it was put out of use."),
    "passkeys_unavailable": Reason(
        409, "Browsers make passkeys for host names only, and this installation's address is an IP address."
    ),
    "refresh_reused": Reason(401, "The refresh token was used before, so somebody has a copy; the session is over."),
    "insufficient_user_authentication": Reason(
        401, "This needs a second factor, or a fresh one: POST /api/v1/auth/step-up (RFC 9470)."
    ),
    "invalid_client": Reason(401, "The application is unknown, disabled or its secret is wrong."),
    "csrf_refused": Reason(
        403, "A change by a session cookie comes from a page of ours and carries the session's X-CSRF-Token."
    ),
    "account_conflict": Reason(
        409, "You are known, but your name in the directory, or its id of you, is not one we take."
    ),
    "unknown_realm": Reason(400, "No directory by that name takes sign-ins here."),
    "password_expired": Reason(401, "The password is right and has expired; change it where it is kept."),
    "account_disabled": Reason(401, "The account is disabled."),
    "not_provisioned": Reason(
        403, "The provider vouches for somebody who has no account here, and it may not have accounts made."
    ),
    "account_not_linked": Reason(
        403, "An account by that name or address is there and not linked to the provider; an administrator links it."
    ),
    "sign_in_not_begun": Reason(
        401, "The answer belongs to no sign-in that this browser began, or it came twice or too late; begin again."
    ),
    "provider_refused": Reason(401, "The identity provider did not let the person in, or he stopped."),
    "provider_answer_invalid": Reason(
        401, "What the identity provider answered does not hold; the record of the sign-in says what."
    ),
    "account_locked": Reason(429, "Too many failed attempts; the account is locked for a while."),
    "session_needed": Reason(403, "This is for a signed-in person; an API key cannot do it."),
    "session_ended": Reason(401, "The session was signed out, ended by an administrator, or ran out."),
    # --- may you
    "permission_denied": Reason(403, "Your role does not hold the permission this needs."),
    "password_change_required": Reason(403, "The one-time password must be changed before anything else works."),
    "policy_denied": Reason(403, "The active policy does not allow this."),
    "policy_error": Reason(403, "The active policy could not be evaluated, so the answer is no."),
    "policy_refused": Reason(422, "The policy was not admitted; `findings` say where and why."),
    "unknown_user": Reason(403, "The decision was asked for a user this zone does not have, so the answer is no."),
    "no_active_policy": Reason(403, "The zone has no active policy, so nothing is allowed."),
    "insufficient_scope": Reason(403, "The mandate does not carry the scope this operation needs."),
    "operation_not_listed": Reason(403, "The server's binding lists no operation for this method and path."),
    "application_disabled": Reason(401, "The application the mandate was issued to is disabled."),
    "grant_exceeded": Reason(403, "The application was not granted that scope on that server."),
    "zone_archived": Reason(403, "The zone is archived; nothing is issued or let through."),
    # --- what you reach
    "unknown_server": Reason(404, "No server by that name, host or path is registered."),
    "unknown_granted_server": Reason(400, "The grants name a server that is not registered; register it first."),
    "conflicting_server": Reason(400, "Host, path and X-Bailiwick-Server name different servers."),
    "ambiguous_request": Reason(400, "A header that must stand once stands twice, or framing is contradictory."),
    "forbidden_path": Reason(400, "The path has traversal, encoded slashes or other characters that hide its target."),
    "forbidden_method": Reason(405, "The method is not carried by the gateway."),
    "forbidden_header": Reason(400, "A header reserved to the gateway was sent by the caller."),
    "headers_too_large": Reason(431, "The headers are larger than the gateway carries."),
    "path_too_long": Reason(414, "The path is longer than the gateway carries."),
    "no_binding": Reason(503, "The server has no upstream bound to it yet."),
    "credential_missing": Reason(503, "The server needs an upstream credential and none is stored."),
    "route_pending": Reason(503, "The gateway is taking up the server's latest binding; try again in a second."),
    "upstream_unresolved": Reason(503, "The upstream's host name does not resolve."),
    "upstream_forbidden": Reason(422, "The address is link-local, metadata, or private and not allowed."),
    "upstream_unavailable": Reason(502, "The upstream could not be reached."),
    "upstream_timeout": Reason(504, "The upstream did not answer in time."),
    # --- evidence packs
    "no_incident_register": Reason(
        409, "This installation keeps no register of incidents yet: name the requests and windows instead."
    ),
    "pack_not_built": Reason(409, "The evidence pack is not built yet, or building it failed."),
    "pack_elsewhere": Reason(409, "The evidence pack is kept on another machine of this installation."),
    # --- why a policy is refused, or fails at run time: the `findings` of `policy_refused`, the `fault` of a decision
    "policy_syntax_error": Reason(422, "The policy is not valid Rego, in v0 or in v1."),
    "policy_too_deep": Reason(422, "Literals, brackets or expressions nest deeper than can be parsed in bounded time."),
    "policy_too_large": Reason(422, "The files or the data are larger than a policy set may be."),
    "policy_forbidden_builtin": Reason(
        422, "The policy calls a function that has side effects or differs from run to run."
    ),
    "policy_unknown_builtin": Reason(422, "The policy calls a function that the engine does not have."),
    "policy_unbounded": Reason(
        422, "The policy can be made to use memory or time without bound by what a request carries."
    ),
    "policy_recursion": Reason(422, "A rule or function depends on itself."),
    "policy_data_conflict": Reason(
        422, "The data has a value where a rule or package stands; one would hide the other."
    ),
    "policy_reserved_package": Reason(422, "The package name is reserved."),
    "policy_empty": Reason(422, "The policy has no rule."),
    "policy_result_type": Reason(
        422, "`allow` must be true, false or undefined; `deny` a boolean or a collection of strings."
    ),
    "policy_unsupported": Reason(
        422, "The engine would get this construct wrong; the message says how to write it instead."
    ),
    "policy_conflict": Reason(422, "Two rules give one name, function or key different values."),
    "policy_runtime_error": Reason(422, "Evaluating the policy raised an error."),
    "policy_instruction_limit": Reason(422, "Evaluating the policy took more instructions than a decision may."),
    "policy_test_failed": Reason(422, "A test of the policy does not hold."),
    "policy_timeout": Reason(422, "The policy did not finish within the time an admission may take."),
    "policy_out_of_memory": Reason(422, "The policy needed more memory than an admission may use."),
    "policy_set_altered": Reason(422, "A stored policy set is no longer what its content address says."),
    "policy_engine_crashed": Reason(422, "The policy crashed the engine."),
    # --- what we cannot do now
    "evidence_unavailable": Reason(503, "The decision could not be recorded, so it was not made."),
    "evidence_lost": Reason(503, "Evidence of this machine was lost; nothing is decided until an operator looked."),
    "revocation_stale": Reason(503, "This worker has not heard about revocations for too long to be sure."),
    "check_unavailable": Reason(503, "No worker could check the request."),
    "guard_unavailable": Reason(503, "The part that ends long-lived requests in time is away, so none is begun."),
    "archive_unavailable": Reason(503, "The store of the archive does not answer or refuses."),
    "directory_unavailable": Reason(503, "The directory does not answer in time, or not as a directory does."),
    "provider_unavailable": Reason(
        503, "The identity provider does not answer, or not in time; other ways to sign in are not touched by that."
    ),
    "database_unavailable": Reason(503, "The database does not answer."),
    "search_busy": Reason(
        503, "As many searches, exports or tails run as may at once; Retry-After says when to try again."
    ),
    "not_ready": Reason(503, "The part is starting or a part it needs is down."),
    "internal_error": Reason(500, "A fault on our side; the request id finds it in the log."),
}


class BailiwickError(Exception):
    """A refusal with a reason code of :data:`REASONS`.

    ``detail`` is one sentence for the caller and never carries a secret; ``extra`` are members added to the
    problem document (JSON values); ``headers`` are added to the answer.
    """

    default_reason = "internal_error"

    def __init__(
        self,
        detail: str = "",
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        self.reason = reason or self.default_reason
        if self.reason not in REASONS:
            raise LookupError(f"reason code {self.reason!r} is not registered")
        self.detail = detail or REASONS[self.reason].meaning
        self.headers = dict(headers or {})
        self.extra = extra
        super().__init__(f"{self.reason}: {self.detail}")

    @property
    def status(self) -> int:
        """The HTTP status of the reason."""
        return REASONS[self.reason].status


class InvalidRequest(BailiwickError):
    """What was asked cannot be understood or is out of bounds."""

    default_reason = "invalid_request"


class NotFound(BailiwickError):
    """There is nothing by that name."""

    default_reason = "not_found"


class Conflict(BailiwickError):
    """The state does not allow the change."""

    default_reason = "conflict"


class Unauthenticated(BailiwickError):
    """The caller is not known."""

    default_reason = "authentication_required"


class Denied(BailiwickError):
    """The caller is known and may not."""

    default_reason = "permission_denied"


class Unavailable(BailiwickError):
    """A part we need is away, so the answer is no for now."""

    default_reason = "not_ready"
