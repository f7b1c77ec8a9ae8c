"""What a change of an account gives and takes: judged by the account before and the row after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bailiwick.identity.enabling import HERE
from bailiwick.identity.standing import RANKS
from bailiwick.kernel.db import Row
from bailiwick.kernel.errors import Denied
from bailiwick.kernel.permissions import held

if TYPE_CHECKING:
    from bailiwick.identity.users import User

# who may not widen may not change these of somebody who is more than a viewer: they are ways into his account
WAYS_IN = frozenset(("email", "external_id", "mfa_enabled"))


def narrows(before: User, after: Row) -> bool:
    """Whether a change takes something away that open sessions must lose at once."""
    lost = after["role"] != before.role or not set(before.owns) <= set(after["owns"])
    return before.is_active and (not after["is_active"] or lost)


def above_viewer(role: str) -> bool:
    """Whether a role may more than look."""
    return RANKS.index(role) > RANKS.index("viewer")


def require_narrow(before: User, after: Row, changed: Sequence[str]) -> None:
    """Refuse what gives more than there was. To put out anybody is always narrow."""
    raised = not held(after["role"], after["owns"]) <= held(before.role, before.owns)
    opened = not WAYS_IN.isdisjoint(changed) or (after["is_active"] and not before.is_active)
    if raised or (opened and above_viewer(before.role)):
        raise may_not_widen()


def may_not_widen() -> Denied:
    """The refusal of what gives more than there was."""
    return Denied(
        "This gives somebody more than he had, which needs the permission users:write.", permission="users:write"
    )


def disabled_by(before: User, named: Mapping[str, Any], active: bool, by: str) -> str | None:
    """By whom the account is disabled after a change: who disables it here takes it out of the provider's hand."""
    if active:
        return None
    if before.is_active:
        return by
    return HERE if by == HERE and named.get("is_active") is False else before.disabled_by
