"""What the API refuses while a zone is read-only, frozen, or has provisioning switched off.

Refused here is what the path alone tells; what turns on more (an activation that returns to what has proven itself, an
account that is only disabled) is judged where it is done. Judged by the worker's memory, before anything is read.

Read-only refuses every change that is not named here, so a new route is refused until somebody decides otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from bailiwick.kernel.modes import Switch, refuse_thrown

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OURS = ("/api/v1/", "/scim/")


def _any(*patterns: str) -> Callable[[str, str], bool]:
    found = re.compile("|".join(f"(?:{each})" for each in patterns))
    return lambda method, path: found.fullmatch(f"{method} {path}") is not None


ALWAYS = _any(
    # signing in and out, and proving oneself
    r"\w+ /api/v1/auth/.*",
    # ending authority
    r"POST /api/v1/revocations",
    r"DELETE /api/v1/sessions(/[^/]+)?",
    r"DELETE /api/v1/api-keys/[^/]+",
    r"POST /api/v1/keys/rotate",
    r"POST /api/v1/secrets/rotations(/[^/]+/prove)?",
    r"POST /api/v1/policies/rollback",
    # taking traffic from a candidate
    r"POST /api/v1/canaries/[^/]+/withdraw",
    # what an incident is worked by, and how what was switched off is switched on again
    r"\w+ /api/v1/(incidents|runbooks)(/.*)?",
    # taking back what goes wrong, and saying no
    r"POST /api/v1/rollouts/[^/]+/(no-go|rollback|abandon|check)",
    r"POST /api/v1/rollouts/[^/]+/steps/[^/]+/confirm",
    r"\w+ /api/v1/alerts(/.*)?",
    r"\w+ /api/v1/overrides(/.*)?",
    r"POST /api/v1/approvals/[^/]+/(approve|reject|withdraw)",
    r"POST /api/v1/evidence/(packs|records)",
    r"POST /api/v1/tasks/[^/]+/(done|reassign)",
    # what only looks
    r"POST /api/v1/audit/verify",
    r"POST /api/v1/audit/archive/verify",
    r"POST /api/v1/policies/test",
    r"POST /api/v1/authz/evaluate",
    r"POST /api/v1/assurance/plan",
    r"POST /api/v1/slos/gate",
    r"POST /api/v1/secrets/check",
    r"POST /api/v1/identity-providers/[^/]+/test",
)
"""No mode refuses these here."""

DISABLING = _any(
    r"PATCH /api/v1/(users|applications|api-keys)/[^/]+",
    r"DELETE /api/v1/groups/[^/]+/members/[^/]+",
    r"(PATCH|PUT|DELETE) /scim/v2/Users/[^/]+",
)
"""May only end authority; where it is done, it is known whether it does."""

CHANGES = _any(
    r"\w+ /api/v1/(servers|credentials|policies|identity-providers|zones|siem|groups|applications)(/.*)?",
    r"\w+ /api/v1/assurance/.*",
    r"\w+ /api/v1/audit/archive/(lives|purge|holds/[^/]+/release)",
    r"(PUT|DELETE) /api/v1/notices/secrets/[^/]+",
    r"PUT /api/v1/checkpoints/go-live/[^/]+",
    r"\w+ /scim/v2/Groups(/.*)?",
    r"POST /api/v1/stuck/[^/]+/actions",
    r"POST /api/v1/canaries/loops",
)
"""Changes of how the zone is set up, and what destroys; a freeze stops these."""

PROVISIONS = _any(
    r"(POST|PUT|PATCH) /api/v1/(users|applications|groups)(/.*)?",
    r"POST /api/v1/api-keys",
    r"(POST|PUT|PATCH) /scim/.*",
    r"POST /api/v1/canaries/loops",
)
"""Makes accounts, or gives them more."""

NARROWING = _any(
    r"POST /api/v1/users/[^/]+/password-reset",
    r"POST /api/v1/applications/[^/]+/secret",
    r"DELETE /api/v1/(users|groups)/.*",
)
"""Replaces a secret or takes something away: neither provisioning nor, for secrets, a change a freeze stops."""


def switches_against(method: str, path: str) -> tuple[Switch, ...]:
    """The switches that, thrown, refuse this request by its path."""
    if method in _SAFE or not path.startswith(_OURS) or ALWAYS(method, path):
        return ()
    if DISABLING(method, path):
        return ()
    found = [Switch.READ_ONLY]
    if CHANGES(method, path) and not NARROWING(method, path):
        found.append(Switch.FREEZE)
    if PROVISIONS(method, path) and not NARROWING(method, path):
        found.append(Switch.PROVISION)
    return tuple(found)


class Switched:
    """Wraps the API's app; ``off(zone)`` answers the switches that are thrown in a zone."""

    def __init__(self, app: ASGIApp, off: Callable[[str], Collection[str]]) -> None:
        self._app = app
        self._off = off

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE:
            standing = self._off(scope["state"]["zone"])
            if standing:
                refuse_thrown(standing, *switches_against(scope["method"], scope["path"]))
        await self._app(scope, receive, send)
