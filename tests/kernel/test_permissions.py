"""The four planes of ownership: what each owner may, and above all what he may not."""

from __future__ import annotations

import pytest

from bailiwick.kernel.permissions import GRANTS, OWNER_ROLES, Permission, Role, allowed, gives_more, granted, matrix

OPS, SECURITY, FINANCE, PRODUCT = OWNER_ROLES
# permission → the owners who hold it, and no other owner does
PLANES: dict[Permission, set[Role]] = {
    Permission.WAIVERS_REQUEST: {OPS, SECURITY, FINANCE, PRODUCT},
    Permission.WAIVERS_APPROVE: {SECURITY},
    Permission.WAIVERS_CLOSE: {SECURITY},
    Permission.SECRETS_WRITE: {SECURITY},
    Permission.KEYS_ROTATE: {SECURITY},
    Permission.AUDIT_READ: {SECURITY},
    Permission.REVOKE: {OPS, SECURITY},
    Permission.OVERRIDES_REQUEST: {OPS, SECURITY, FINANCE, PRODUCT},
    Permission.OVERRIDES_APPROVE: {SECURITY, FINANCE},
    Permission.OVERRIDES_BREAK_GLASS: {OPS, SECURITY},
    Permission.RECONCILIATION_WORK: {OPS, FINANCE},
    Permission.STUCK_WORK: {OPS, FINANCE},
    Permission.PROBES_RUN: {OPS, SECURITY},
    Permission.ALERTS_WORK: {OPS, SECURITY, FINANCE},
    Permission.ALERTS_RECEIVE: {OPS},
    Permission.ONCALL_WRITE: {OPS},
    Permission.CHECKPOINTS_DECIDE: {OPS, SECURITY},
    Permission.OPERATE: {OPS},
    Permission.ARCHIVE_OPERATE: {OPS},
    Permission.SERVERS_WRITE: {OPS},
    Permission.RHYTHM_WORK: {OPS, SECURITY, FINANCE, PRODUCT},
    Permission.REPORTS_SIGN: {OPS, SECURITY, FINANCE, PRODUCT},
    Permission.ASSURANCE_READ: {OPS, SECURITY, FINANCE, PRODUCT},
    Permission.ASSURANCE_CONFIGURE: set(),
    Permission.USERS_WRITE: set(),
    Permission.POLICIES_WRITE: set(),
    Permission.ARCHIVE_PURGE: set(),
    Permission.PROVIDERS_WRITE: set(),
    Permission.SIEM_WRITE: set(),
}


@pytest.mark.parametrize("permission", PLANES)
def test_each_plane_is_its_owners(permission: Permission) -> None:
    assert {role for role in OWNER_ROLES if allowed(role, permission)} == PLANES[permission]
    assert allowed(Role.ADMIN, permission)
    assert not allowed(Role.VIEWER, permission)


def test_nobody_who_owns_a_plane_asks_and_says_yes_alone() -> None:
    """No plane holds both ends of what ends evidence, and none may change who is who."""
    for role in OWNER_ROLES:
        assert GRANTS[role] < GRANTS[Role.ADMIN]
        assert GRANTS[role] > GRANTS[Role.VIEWER]
        assert not {Permission.USERS_WRITE, Permission.SCIM_WRITE, Permission.ZONES_WRITE} & GRANTS[role]


def test_what_gives_more_is_told_by_permissions_and_not_by_rank() -> None:
    assert gives_more(OPS, SECURITY) and gives_more(SECURITY, OPS)
    assert gives_more("operator", "auditor") and gives_more("auditor", "operator")
    assert gives_more("none", "viewer") and not gives_more("admin", FINANCE)
    assert not gives_more(OPS, "operator") and not gives_more(SECURITY, "auditor")
    assert not gives_more("viewer", "no such role") and granted("no such role") == frozenset()


def test_the_matrix_has_a_column_for_each() -> None:
    head, _, *rows = matrix().splitlines()
    assert head.count("|") == len(Role) + 3 and "security_owner" in head
    assert len(rows) == len(Permission)
