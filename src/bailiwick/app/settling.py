"""Waiting until every worker knows, for parts that are built without the services of a worker."""

from __future__ import annotations

from datetime import timedelta

from bailiwick.app.fencing import Fence
from bailiwick.app.foundations import Foundations
from bailiwick.authority.revocation import Revocations


def settler(base: Foundations) -> Revocations:
    """Revocations that poll no memory of their own."""
    settings = base.settings
    return Revocations(
        base.database,
        base.clock,
        base.recorder,
        longest_mandate=timedelta(seconds=settings.mandate_ttl_s),
        longest_session=timedelta(seconds=settings.session_ttl_s),
        freshness_limit_s=settings.freshness_limit_s,
        fence_after_s=settings.fence_after_s,
        fence=Fence(base.layout.control_socket),
    )
