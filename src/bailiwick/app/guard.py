"""The guard: holds one stream per live long-lived request and has Envoy cut it when its authority ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter

from bailiwick.app import health
from bailiwick.app.foundations import lay
from bailiwick.app.running import Background
from bailiwick.app.servers import serve_until
from bailiwick.app.sidecar import sidecar
from bailiwick.app.worker_state import WorkerState
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Recorder, Subject, encode
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.spool import Spool
from bailiwick.gateway.authority_ref import AuthorityRef
from bailiwick.gateway.guard import CutReason, EndedAuthority, Guard, GuardServer
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.feed import Change
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings

log = structlog.get_logger(__name__)


async def run(settings: Settings, layout: Layout) -> int:
    """Run until SIGTERM; the exit code."""
    base = lay(settings, layout, "guard")
    background = Background()
    background.heed_signals()
    state = WorkerState(base, with_policy=False)
    await state.load()
    spool = Spool(layout.spool, "guard", base.ids(), segment_bytes=settings.spool_segment_mb << 20)
    await spool.start()
    guard = Guard(
        is_live=lambda ref: is_live(state, ref),
        is_closed=lambda ref: is_closed(state, ref),
        now=base.clock.time,
        monotonic=base.clock.monotonic,
        stale_after_s=settings.freshness_limit_s,
        on_cut=cut_recorder(state, base.recorder, spool),
    )
    sockets = layout.slot("guard")
    server = GuardServer(guard, sockets.directory / "guard.sock")
    pulse = _Pulse(state)
    await server.start()
    try:
        background.start("feed", state.reader.run())
        background.start("guard", guard.run(pulse.changes()))
        background.start("metrics", base.metrics.run())
        checks = health.Health(
            base.clock,
            ready={"revocation feed": lambda: None if guard.fresh else "nothing heard yet"},
            facts=lambda: {"streams": guard.counts().live, "cut": sum(guard.counts().cut.values())},
        )
        await serve_until([sidecar(checks, sockets, streams_route(guard, state))], background.stopping)
    finally:
        await server.stop()
        await background.cancel()
        await spool.close()
        await base.database.close()
    return 1 if background.failed else 0


def streams_route(guard: Guard, state: WorkerState) -> APIRouter:
    """Which streams live, for workers of the API on this machine: the socket is our own user's."""
    router = APIRouter()

    @router.get("/streams")
    async def streams() -> list[dict[str, Any]]:
        return [_told(state, ref, request_id) for ref, request_id in guard.held()]

    return router


def _told(state: WorkerState, ref: AuthorityRef, request_id: str) -> dict[str, Any]:
    zone = state.store.current.zones.get(ref.zone)
    application = zone.applications.get(ref.client) if zone is not None else None
    return {
        "zone": ref.zone,
        "server": ref.server,
        "application": application.name if application is not None else ref.client,
        "client": ref.client,
        "user": ref.subject,
        "session": ref.session,
        "mandate": ref.jti,
        "kid": ref.kid,
        "request": request_id,
        "expires_at": ref.expires_at,
    }


def is_live(state: WorkerState, ref: AuthorityRef) -> bool:
    """Whether everything a stream stands on still stands, by this process's memory."""
    zone = state.store.current.zones.get(ref.zone)
    if zone is None or zone.archived or state.stale() is not None or ref.kid not in zone.keys:
        return False
    application = zone.applications.get(ref.client)
    if application is None or not application.is_active:
        return False
    if ref.subject:
        user = zone.users.get(ref.subject)
        if user is None or not user.is_active:
            return False
    return not state.store.revoked.covers(
        ref.zone, jti=ref.jti, client=ref.client, user=ref.subject, session=ref.session, rev=ref.revision
    )


def is_closed(state: WorkerState, ref: AuthorityRef) -> bool:
    """Whether an operator closed the gateway of the zone, or the way to the server."""
    zone = state.store.current.zones.get(ref.zone)
    if zone is None:
        return True
    server = zone.servers.get(ref.server)
    return zone.closed or (server is not None and server.closed)


def cut_recorder(
    state: WorkerState, recorder: Recorder, spool: Spool
) -> Callable[[AuthorityRef, str, CutReason], None]:
    """What notes each cut in the evidence. Nothing waits for it: a cut must not depend on a disk."""

    def unrecorded(failure: Exception | None) -> None:
        if failure is not None:
            log.error("a cut stream is not in the evidence", error=str(failure))

    def record(ref: AuthorityRef, request_id: str, reason: CutReason) -> None:
        zone = state.store.current.zones.get(ref.zone)
        application = zone.applications.get(ref.client) if zone is not None else None
        actor = Actor(
            application=application.name if application is not None else ref.client,
            mandate=ref.jti,
            session=ref.session,
            user=ref.subject,
        )
        context = Context(ref.zone, actor, request_id=request_id if _is_uuid(request_id) else "")
        subject = Subject(id=ref.jti, type="mandate")
        event = recorder.make(codes.STREAM_CUT, "success", context, subject=subject, cause=reason)
        try:
            spool.append_then([(Kind.EVENT, ref.zone, encode(event))], unrecorded)
        except BailiwickError as unavailable:
            unrecorded(unavailable)

    return record


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


class _Pulse:
    """A sign of life for the guard whenever the feed was read, at once when it brought something."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._changed = asyncio.Event()
        state.on_changes.append(self._note)

    def _note(self, changes: Sequence[Change]) -> None:
        self._changed.set()

    async def changes(self) -> AsyncIterator[Sequence[EndedAuthority]]:
        """Empty items: what ended is looked up in the snapshot, stream by stream."""
        while True:
            if self._state.stale() is None:
                yield ()
            try:
                async with asyncio.timeout(0.5):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()


__all__ = ["cut_recorder", "is_closed", "is_live", "run"]
