"""The instant at which a platform went live, or will: everything that counts from it counts from here.

It is recorded once by one person. To change it takes a second one, since a later instant puts every checkpoint off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum

CHANGE_GO_LIVE = Action("checkpoints.go-live", Permission.CHECKPOINTS_DECIDE, life=timedelta(hours=72))
FARTHEST = timedelta(days=732)


@dataclass(frozen=True, slots=True)
class GoLive:
    """The newest word about a platform. ``first_recorded_at``: when anything was first said of it."""

    platform: str
    version: int
    at: datetime
    reason: str
    recorded_by: str
    recorded_at: datetime
    first_recorded_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "platform": self.platform,
            "at": utc(self.at),
            "version": self.version,
            "reason": self.reason,
            "recorded_by": self.recorded_by,
            "recorded_at": utc(self.recorded_at),
        }


async def newest_go_lives(tx: Transaction, zone: str) -> dict[str, GoLive]:
    """The go-live instants of a zone's platforms, by name."""
    rows = await tx.all(
        "SELECT DISTINCT ON (platform) platform, version, at, reason, recorded_by, recorded_at,"
        " min(recorded_at) OVER (PARTITION BY platform) AS first_recorded_at"
        " FROM go_lives WHERE zone = :zone ORDER BY platform, version DESC",
        zone=zone,
    )
    return {row["platform"]: GoLive(**row) for row in rows}


class GoLives:
    """Keeps the instants."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, quorum: Quorum) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._quorum = quorum
        quorum.register(CHANGE_GO_LIVE)

    async def list(self, zone: str) -> list[GoLive]:
        """Those of a zone, by platform."""
        async with self._database.begin() as tx:
            return list((await newest_go_lives(tx, zone)).values())

    async def record(
        self, context: Context, platform: str, at: datetime, *, by: str, reason: str, signed_in: bool = True
    ) -> GoLive | Approval:
        """Record when ``platform`` went live; answers the approval that is waited for where the instant changes.

        Called again once that is approved, it records (the clock does so too). Raises :class:`InvalidRequest` for an
        instant more than two years away.
        """
        now, zone = self._clock.now(), context.zone
        if abs(at - now) > FARTHEST:
            raise InvalidRequest("Nothing went live, or will, more than two years from now.")
        at = at.astimezone(UTC)
        async with self._database.begin() as tx:
            current = await self._locked(tx, zone, platform)
            if current is not None and current.at == at:
                return current
            approval = ""
            if current is not None:
                held = await self._held(tx, context, current, at, by, reason, signed_in)
                if isinstance(held, Approval):
                    return held
                approval = held
            return await self._write(tx, context, platform, at, reason, by, approval)

    async def happened(self, tx: Transaction, context: Context, platform: str, at: datetime, *, reason: str) -> GoLive:
        """Note, in the caller's transaction, that ``platform`` went live at ``at``, which is not in the future.

        An instant that was recorded before and has come stays: it would take a second person to put it off. One that
        had still to come gives way, since nothing is put off by being earlier.
        """
        current = await self._locked(tx, context.zone, platform)
        if current is not None and current.at <= at:
            return current
        return await self._write(tx, context, platform, at, reason, context.actor.user, "")

    async def take_approved(self) -> int:
        """Record what was asked for and has been approved; how much."""
        count = 0
        async with self._database.begin() as tx:
            ready = await self._quorum.ready(tx, CHANGE_GO_LIVE.name)
        for approval in ready:
            async with self._database.begin() as tx:
                context = Context(approval.zone)
                payload = approval.payload
                current = await self._locked(tx, approval.zone, str(payload["platform"]))
                if current is None or current.version != payload["version"]:
                    continue  # another change came between; the approval dies with its time
                try:
                    await self._quorum.execute(
                        tx, context, approval.zone, approval.id, approval.action, payload, approval.requested_by
                    )
                except BailiwickError as error:
                    if error.reason not in {"approval_required", "approval_ended"}:
                        raise
                    continue
                await self._write(
                    tx, context, current.platform, datetime.fromisoformat(str(payload["at"])), approval.reason,
                    approval.requested_by, approval.id,
                )  # fmt: skip
                count += 1
        return count

    async def _locked(self, tx: Transaction, zone: str, platform: str) -> GoLive | None:
        await tx.run(
            "SELECT pg_advisory_xact_lock(hashtext('bailiwick.go-live'), hashtext(:which))", which=f"{zone}/{platform}"
        )
        return (await newest_go_lives(tx, zone)).get(platform)

    async def _held(
        self,
        tx: Transaction,
        context: Context,
        current: GoLive,
        at: datetime,
        by: str,
        reason: str,
        signed_in: bool,
    ) -> Approval | str:
        payload: Mapping[str, Any] = {
            "platform": current.platform,
            "version": current.version,
            "from": utc(current.at),
            "at": utc(at),
        }
        approval = await self._quorum.request(
            tx, context, context.zone, CHANGE_GO_LIVE.name, payload, by=by, reason=reason, signed_in=signed_in
        )
        if approval.state != "approved":
            return approval
        try:
            await self._quorum.execute(tx, context, context.zone, approval.id, CHANGE_GO_LIVE.name, payload, by)
        except BailiwickError as error:
            if error.reason != "approval_required":
                raise
            return approval
        return approval.id

    async def _write(
        self, tx: Transaction, context: Context, platform: str, at: datetime, reason: str, by: str, approval: str
    ) -> GoLive:
        await tx.run(
            "INSERT INTO go_lives (zone, platform, version, at, reason, approval, recorded_by, recorded_at)"
            " SELECT :zone, :platform, coalesce(max(version), 0) + 1, :at, :reason, :approval, :by, :now"
            " FROM go_lives WHERE zone = :zone AND platform = :platform",
            zone=context.zone,
            platform=platform,
            at=at,
            reason=reason,
            approval=approval,
            by=by,
            now=self._clock.now(),
        )
        made = (await newest_go_lives(tx, context.zone))[platform]
        await self._recorder.record(
            tx,
            codes.GO_LIVE_RECORDED,
            "success",
            context,
            subject=Subject(id=platform, type="platform"),
            instant=utc(at),
            version=made.version,
            approval=approval,
        )
        return made
