"""The one permission table. Routes and commands name a Permission; roles hold permissions; nothing else decides.

``docs/reference/permissions.md`` prints the matrix; a test keeps it equal to this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Role(StrEnum):
    """What a person may be here; an application is one of the four that own nothing."""

    ADMIN = "admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    VIEWER = "viewer"
    # who answers for a plane of the operating model
    OPS_OWNER = "ops_owner"
    SECURITY_OWNER = "security_owner"
    FINANCE_OWNER = "finance_owner"
    PRODUCT_OWNER = "product_owner"


OWNER_ROLES = (Role.OPS_OWNER, Role.SECURITY_OWNER, Role.FINANCE_OWNER, Role.PRODUCT_OWNER)
"""The four planes of ownership: operations, security, finance and reconciliation, product."""


class Permission(StrEnum):
    """What a route may require."""

    SELF = "self"  # one's own session, password and decisions: every signed-in person
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    PROVIDERS_READ = "providers:read"  # identity providers, without their secrets
    PROVIDERS_WRITE = "providers:write"  # decides who may come in as whom, so an administrator's
    SCIM_WRITE = "scim:write"  # people and groups by SCIM; to raise anybody's role takes users:write beside it
    SERVERS_READ = "servers:read"
    SERVERS_WRITE = "servers:write"
    CREDENTIALS_READ = "credentials:read"  # names and ages; values are never readable
    CREDENTIALS_WRITE = "credentials:write"
    APPLICATIONS_READ = "applications:read"
    APPLICATIONS_WRITE = "applications:write"
    APPLICATIONS_SECRETS = "applications:secrets"  # replace an application's secret, and be told the new one
    POLICIES_READ = "policies:read"
    POLICIES_WRITE = "policies:write"
    POLICIES_ROLLBACK = "policies:rollback"  # to the last-known-good set: narrowing, so one person's to do
    POLICIES_TEST = "policies:test"
    DECISIONS_READ = "decisions:read"
    EVALUATE_OTHERS = "decisions:evaluate-others"
    AUDIT_READ = "audit:read"
    EVIDENCE_READ = "evidence:read"  # records of probes and attestations
    EVIDENCE_RECORD = "evidence:record"
    EVIDENCE_PACK = "evidence:pack"  # have evidence packs built, and take them away
    SIEM_READ = "siem:read"
    SIEM_OPERATE = "siem:operate"  # drain, replay, send dead letters again: to where evidence goes already
    SIEM_WRITE = "siem:write"  # decides where all evidence goes, so an administrator's
    ARCHIVE_HOLD = "archive:hold"  # keep evidence past its life, and let it go again
    ARCHIVE_OPERATE = "archive:operate"  # seal, prove and restore, change lives
    ARCHIVE_PURGE = "archive:purge"  # ask for, and approve, the end of evidence: two persons
    APPROVALS_READ = "approvals:read"
    APPROVALS_VOTE = "approvals:vote"  # beside the permission that the action itself needs
    REVOKE = "authority:revoke"
    REVOCATIONS_READ = "authority:read"
    KEYS_ROTATE = "keys:rotate"
    ZONES_READ = "zones:read"
    ZONES_WRITE = "zones:write"
    ZONES_ARCHIVE = "zones:archive"  # end a zone for good
    METRICS_READ = "metrics:read"
    OPERATE = "operations:run"  # flush caches, change workers
    ASSURANCE_READ = "assurance:read"  # every register of the operating model
    ASSURANCE_CONFIGURE = "assurance:configure"  # change the operating model itself
    PROBES_RUN = "probes:run"
    ONCALL_WRITE = "oncall:write"  # stand in, swap shifts
    ALERTS_WORK = "alerts:work"  # raise, acknowledge, silence, close, drill
    ALERTS_RECEIVE = "alerts:receive"  # hand in what another alert manager fires
    RHYTHM_WORK = "rhythm:work"  # minutes, action items, the registers of risks and of the roadmap
    CHECKPOINTS_DECIDE = "checkpoints:decide"  # the go-live instant, plans, signing of reports
    WAIVERS_REQUEST = "waivers:request"
    WAIVERS_APPROVE = "waivers:approve"
    WAIVERS_CLOSE = "waivers:close"
    SECRETS_WRITE = "secrets:write"  # the inventory of references; values are nowhere in it
    OVERRIDES_REQUEST = "overrides:request"
    OVERRIDES_APPROVE = "overrides:approve"
    OVERRIDES_BREAK_GLASS = "overrides:break-glass"
    RECONCILIATION_WORK = "reconciliation:work"
    STUCK_WORK = "stuck:work"
    REPORTS_SIGN = "reports:sign"
    HANDOVER_WORK = "handover:work"  # environments, validation, known issues, documents, announcements
    CANARY_WORK = "canary:work"  # start, promote as far as was proven, withdraw
    READINESS_ATTEST = "readiness:attest"  # state what no probe can see, and review what others state
    # rollouts
    ROLLOUTS_WORK = "rollouts:work"  # plan, start, do the steps that are a person's
    ROLLOUTS_DECIDE = "rollouts:decide"  # sign GO or NO-GO, go on, roll back
    HANDOVER_BUILD = "handover:build"  # have packs built of what is to change hands
    HANDOVER_SIGN = "handover:sign"  # for the team that a plan says one speaks for
    HANDOVER_ACCEPT = "handover:accept"  # for the team that receives


_VIEWER = {Permission.SELF, Permission.SERVERS_READ, Permission.ZONES_READ, Permission.POLICIES_READ}
_AUDITOR = _VIEWER | {
    Permission.USERS_READ,
    Permission.PROVIDERS_READ,
    Permission.CREDENTIALS_READ,
    Permission.APPLICATIONS_READ,
    Permission.DECISIONS_READ,
    Permission.EVALUATE_OTHERS,
    Permission.AUDIT_READ,
    Permission.EVIDENCE_READ,
    Permission.EVIDENCE_PACK,
    Permission.SIEM_READ,
    Permission.ARCHIVE_HOLD,
    Permission.APPROVALS_READ,
    Permission.APPROVALS_VOTE,
    Permission.REVOCATIONS_READ,
    Permission.METRICS_READ,
    Permission.ASSURANCE_READ,
    Permission.RHYTHM_WORK,
}
_OPERATOR = _VIEWER | {
    Permission.USERS_READ,
    Permission.PROVIDERS_READ,
    Permission.SERVERS_WRITE,
    Permission.CREDENTIALS_READ,
    Permission.CREDENTIALS_WRITE,
    Permission.APPLICATIONS_READ,
    Permission.APPLICATIONS_WRITE,
    Permission.APPLICATIONS_SECRETS,
    Permission.POLICIES_ROLLBACK,
    Permission.POLICIES_TEST,
    Permission.DECISIONS_READ,
    Permission.EVALUATE_OTHERS,
    Permission.EVIDENCE_READ,
    Permission.EVIDENCE_RECORD,
    Permission.SIEM_READ,
    Permission.SIEM_OPERATE,
    Permission.ARCHIVE_OPERATE,
    Permission.REVOKE,
    Permission.APPROVALS_READ,
    Permission.APPROVALS_VOTE,
    Permission.REVOCATIONS_READ,
    Permission.METRICS_READ,
    Permission.OPERATE,
    Permission.ASSURANCE_READ,
    Permission.PROBES_RUN,
    Permission.ONCALL_WRITE,
    Permission.ALERTS_WORK,
    Permission.ALERTS_RECEIVE,
    Permission.RHYTHM_WORK,
    Permission.WAIVERS_REQUEST,
    Permission.OVERRIDES_REQUEST,
    Permission.RECONCILIATION_WORK,
    Permission.STUCK_WORK,
    Permission.HANDOVER_WORK,
    Permission.CANARY_WORK,
    Permission.READINESS_ATTEST,
    Permission.ROLLOUTS_WORK,
    Permission.HANDOVER_SIGN,
}

# what whoever owns a plane needs of all of them: to see the registers, to ask, to say yes to others, to sign
_OWNER = _VIEWER | {
    Permission.USERS_READ,
    Permission.DECISIONS_READ,
    Permission.EVIDENCE_READ,
    Permission.EVIDENCE_RECORD,
    Permission.APPROVALS_READ,
    Permission.APPROVALS_VOTE,
    Permission.METRICS_READ,
    Permission.ASSURANCE_READ,
    Permission.RHYTHM_WORK,
    Permission.WAIVERS_REQUEST,
    Permission.OVERRIDES_REQUEST,
    Permission.REPORTS_SIGN,
    Permission.READINESS_ATTEST,
    Permission.ROLLOUTS_DECIDE,
    Permission.HANDOVER_SIGN,
}
_OPS_OWNER = (_OPERATOR | _OWNER) | {
    Permission.CHECKPOINTS_DECIDE,
    Permission.OVERRIDES_BREAK_GLASS,
    Permission.HANDOVER_BUILD,
    Permission.HANDOVER_ACCEPT,
}
_SECURITY_OWNER = (_AUDITOR | _OWNER) | {
    Permission.POLICIES_ROLLBACK,
    Permission.POLICIES_TEST,
    Permission.REVOKE,
    Permission.KEYS_ROTATE,
    Permission.PROBES_RUN,
    Permission.ALERTS_WORK,
    Permission.CHECKPOINTS_DECIDE,
    Permission.WAIVERS_APPROVE,
    Permission.WAIVERS_CLOSE,
    Permission.SECRETS_WRITE,
    Permission.OVERRIDES_APPROVE,
    Permission.OVERRIDES_BREAK_GLASS,
}
_FINANCE_OWNER = _OWNER | {
    Permission.RECONCILIATION_WORK,
    Permission.STUCK_WORK,
    Permission.ALERTS_WORK,
    Permission.OVERRIDES_APPROVE,
}
_PRODUCT_OWNER = _OWNER

GRANTS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset(_VIEWER),
    Role.AUDITOR: frozenset(_AUDITOR),
    Role.OPERATOR: frozenset(_OPERATOR),
    Role.OPS_OWNER: frozenset(_OPS_OWNER),
    Role.SECURITY_OWNER: frozenset(_SECURITY_OWNER),
    Role.FINANCE_OWNER: frozenset(_FINANCE_OWNER),
    Role.PRODUCT_OWNER: frozenset(_PRODUCT_OWNER),
    Role.ADMIN: frozenset(Permission),
}

STEP_UP: frozenset[Permission] = frozenset(
    {
        Permission.USERS_WRITE,
        Permission.APPLICATIONS_SECRETS,
        Permission.KEYS_ROTATE,
        Permission.ZONES_ARCHIVE,
        Permission.SIEM_WRITE,
        Permission.ARCHIVE_PURGE,
        Permission.APPROVALS_VOTE,
        Permission.ASSURANCE_CONFIGURE,
        Permission.WAIVERS_APPROVE,
        Permission.OVERRIDES_APPROVE,
        Permission.OVERRIDES_BREAK_GLASS,
        Permission.REPORTS_SIGN,
        Permission.ROLLOUTS_DECIDE,
        Permission.HANDOVER_SIGN,
        Permission.HANDOVER_ACCEPT,
    }
)
"""What a stolen session or key must not be enough for: only a person who proved himself just now, by his second factor
if he has or needs one (RFC 9470). ``require`` of ``kernel/http.py`` enforces it wherever one of these is named."""


def granted(role: str) -> frozenset[Permission]:
    """What ``role`` may; an unknown role may nothing."""
    try:
        return GRANTS[Role(role)]
    except ValueError:
        return frozenset()


def allowed(role: str, permission: Permission) -> bool:
    """Whether ``role`` holds ``permission``; an unknown role holds nothing."""
    return permission in granted(role)


def held(role: str, owns: Iterable[str] = ()) -> frozenset[Permission]:
    """What somebody of ``role`` may who owns planes beside it, each by its owner role."""
    return granted(role).union(*(granted(each) for each in owns))


def gives_more(before: str, after: str) -> bool:
    """Whether ``after`` may anything that ``before`` may not."""
    return not granted(after) <= granted(before)


def matrix() -> str:
    """The table as Markdown, one row per permission."""
    lines = ["| permission | " + " | ".join(Role) + " | step-up |", "|---" * (len(Role) + 2) + "|"]
    for permission in Permission:
        cells = " | ".join("yes" if permission in GRANTS[role] else "–" for role in Role)
        lines.append(f"| `{permission}` | {cells} | {'yes' if permission in STEP_UP else '–'} |")
    return "\n".join(lines) + "\n"
