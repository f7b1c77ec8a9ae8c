"""How far an environment is in changing hands: planned, live, in hypercare, handed over.

It is live by a rollout that is done, or, where a platform is adopted that runs already, by a declaration of two people.
Hypercare begins then. The last step is the handover's, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.checkpoints.golive import GoLives
from bailiwick.assurance.environment_states import STAGES
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.handover.environments.spec import ENVIRONMENT, EnvironmentSpec
from bailiwick.handover.ports import Environment, Stage
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum

DECLARE = Action("environments.declare", Permission.CHECKPOINTS_DECIDE, life=timedelta(hours=72))
FARTHEST = timedelta(days=3660)
DIGEST_PATTERN = r"^(sha256:[0-9a-f]{64})?$"


@dataclass(frozen=True, slots=True)
class Life:
    """A release that went live in an environment. What is validated of it counts from ``counts_from``."""

    number: int
    digest: str
    rollout: str
    approval: str
    at: datetime
    counts_from: datetime
    by: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **{name: getattr(self, name) for name in ("number", "digest", "rollout", "approval", "by")},
            "at": utc(self.at),
            "counts_from": utc(self.counts_from),
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """An environment as it stands: what its document says, how far it is, and the releases that went live there."""

    name: str
    spec: EnvironmentSpec
    stage: Stage
    digest: str
    live_at: datetime | None
    hypercare_from: datetime | None
    pack: str
    lives: Sequence[Life]

    @property
    def life(self) -> Life | None:
        """The newest release that went live."""
        return self.lives[-1] if self.lives else None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            **self.spec.model_dump(mode="json"),
            "stage": self.stage,
            "digest": self.digest,
            "live_at": utc(self.live_at) if self.live_at else None,
            "hypercare_from": utc(self.hypercare_from) if self.hypercare_from else None,
            "pack": self.pack,
            "lives": [life.document() for life in self.lives],
        }


# ---------------------------------------------------------------------- store


async def read(tx: Transaction, books: Books, zone: str, name: str) -> Standing | None:
    """It as it stands; None where no document declares it."""
    spec = await books.read(tx, zone, ENVIRONMENT, name)
    return await _standing(tx, zone, name, spec) if spec is not None else None


async def read_all(tx: Transaction, books: Books, zone: str) -> list[Standing]:
    """Every environment of a zone, by name."""
    specs = await books.read_all(tx, zone, ENVIRONMENT)
    return [await _standing(tx, zone, name, spec) for name, spec in specs.items()]


async def _standing(tx: Transaction, zone: str, name: str, spec: EnvironmentSpec) -> Standing:
    row = await tx.one("SELECT * FROM environments WHERE zone = :zone AND name = :name", zone=zone, name=name)
    if row is None:
        return Standing(name, spec, "planned", "", None, None, "", ())
    rows = await tx.all(
        "SELECT number, digest, rollout, approval, at, counts_from, by FROM environment_lives"
        " WHERE zone = :zone AND environment = :name ORDER BY number",
        zone=zone,
        name=name,
    )
    return Standing(
        name, spec, row["stage"], row["digest"], row["live_at"], row["hypercare_from"], row["pack"],
        [Life(**each) for each in rows],
    )  # fmt: skip


async def moves(tx: Transaction, zone: str, name: str) -> list[dict[str, Any]]:
    """How it came to where it is, oldest first."""
    rows = await tx.all(
        "SELECT number, before, after, at, by, told FROM environment_moves"
        " WHERE zone = :zone AND environment = :name ORDER BY number",
        zone=zone,
        name=name,
    )
    return [dict(row) for row in rows]


# ---------------------------------------------------------------------- service


class EnvironmentStates:
    """Keeps the operating state of each environment."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        quorum: Quorum,
        go_lives: GoLives,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._quorum = quorum
        self._go_lives = go_lives
        quorum.register(DECLARE)

    async def get(self, tx: Transaction, zone: str, name: str) -> Environment | None:
        """It as other parts see it; None where nobody declared it."""
        found = await read(tx, self._books, zone, name)
        return Environment(name, found.stage, found.digest, found.live_at) if found is not None else None

    async def all(self, tx: Transaction, zone: str) -> list[Standing]:
        """Every environment of a zone, by name."""
        return await read_all(tx, self._books, zone)

    async def require(self, tx: Transaction, zone: str, name: str) -> Standing:
        """It as it stands. Raises ``not_found``."""
        found = await read(tx, self._books, zone, name)
        if found is None:
            raise NotFound(f"There is no environment {name} in force.")
        return found

    async def went_live(self, tx: Transaction, context: Context, name: str, digest: str, rollout: str) -> None:
        """A rollout of ``digest`` is done. Done twice for one rollout it is done once. Raises ``not_found``."""
        await self._lock(tx, context.zone, name)
        found = await self.require(tx, context.zone, name)
        if any(life.rollout == rollout for life in found.lives):
            return
        if not rollout:
            raise InvalidRequest("It is a rollout by which something goes live.")
        now = self._clock.now()
        by = context.actor.user or context.actor.application
        await self._live(tx, context, found, digest, now, f"rollout {rollout}", by=by, rollout=rollout)

    async def declare(
        self, context: Context, name: str, at: datetime, *, digest: str = "", by: str, reason: str,
        signed_in: bool = True,
    ) -> Standing | Approval:  # fmt: skip
        """Say that a platform that runs already is live in ``name`` since ``at``; answers the approval that is missing.

        Validation and hypercare count from when it is approved, since nobody watched before. Called again once it is
        approved, it is done (the clock does so too). Raises ``not_found``, ``illegal_transition``.
        """
        at = at.astimezone(UTC)
        if not timedelta(0) <= self._clock.now() - at <= FARTHEST:
            raise InvalidRequest("It went live in the past, and at most ten years ago.")
        async with self._database.begin() as tx:
            await self._lock(tx, context.zone, name)
            found = await self.require(tx, context.zone, name)
            STAGES.require(found.stage, "live")
            payload = {"environment": name, "platform": found.spec.platform, "digest": digest, "at": utc(at)}
            approval = await self._quorum.request(
                tx, context, context.zone, DECLARE.name, payload, by=by, reason=reason, signed_in=signed_in
            )
            if approval.state != "approved":
                return approval
            return await self._declared(tx, context, found, approval)

    async def approved(self) -> list[Approval]:
        """What was declared and has been approved, in all zones."""
        async with self._database.begin() as tx:
            return list(await self._quorum.ready(tx, DECLARE.name))

    async def take(self, approval: Approval) -> bool:
        """Do what was declared and approved; false where something came between, and it dies with its time."""
        async with self._database.begin() as tx:
            name = str(approval.payload["environment"])
            await self._lock(tx, approval.zone, name)
            found = await read(tx, self._books, approval.zone, name)
            if found is None or found.stage != "planned" or found.spec.platform != approval.payload["platform"]:
                return False
            return isinstance(await self._declared(tx, Context(approval.zone), found, approval), Standing)

    async def begin_hypercare(self, tx: Transaction, context: Context, name: str) -> bool:
        """Hypercare begins at going live; whether there was something to do."""
        await self._lock(tx, context.zone, name)
        found = await self.require(tx, context.zone, name)
        if found.stage != "live":
            return False
        await self._move(tx, context, found, "hypercare", "it went live")
        return True

    async def handed_over(self, tx: Transaction, context: Context, name: str, pack_hash: str) -> None:
        """The handover is accepted: the last step, by the pack whose SHA-256 is ``pack_hash``.

        Whoever calls has held its conditions. Raises ``not_found``, ``illegal_transition``.
        """
        if not pack_hash:
            raise InvalidRequest("It is a pack by which something is handed over.")
        await self._lock(tx, context.zone, name)
        found = await self.require(tx, context.zone, name)
        await self._move(tx, context, found, "bau_active", f"handed over by pack {pack_hash}", pack=pack_hash)

    async def _declared(
        self, tx: Transaction, context: Context, found: Standing, approval: Approval
    ) -> Standing | Approval:
        payload = approval.payload
        try:
            await self._quorum.execute(
                tx, context, context.zone, approval.id, DECLARE.name, payload, approval.requested_by
            )
        except BailiwickError as error:
            if error.reason not in {"approval_required", "approval_ended", "approval_requester_gone"}:
                raise
            return approval
        at = datetime.fromisoformat(str(payload["at"]))
        told = f"declared by {approval.requested_by}: {approval.reason}"[:500]
        by = approval.requested_by
        await self._live(tx, context, found, str(payload["digest"]), at, told, by=by, approval=approval.id)
        return await self.require(tx, context.zone, found.name)

    async def _live(
        self,
        tx: Transaction,
        context: Context,
        found: Standing,
        digest: str,
        at: datetime,
        told: str,
        *,
        by: str,
        rollout: str = "",
        approval: str = "",
    ) -> None:
        zone, now, number = context.zone, self._clock.now(), len(found.lives) + 1
        await tx.run(
            "INSERT INTO environments (zone, name, stage) VALUES (:zone, :name, 'planned') ON CONFLICT DO NOTHING",
            zone=zone,
            name=found.name,
        )
        await tx.run(
            "INSERT INTO environment_lives (zone, environment, number, digest, rollout, approval, at, counts_from, by)"
            " VALUES (:zone, :name, :number, :digest, :rollout, :approval, :at, :now, :by)",
            zone=zone, name=found.name, number=number, digest=digest, rollout=rollout, approval=approval, at=at,
            now=now, by=by,
        )  # fmt: skip
        await tx.run(
            "UPDATE environments SET digest = :digest, live_at = coalesce(live_at, :at),"
            " hypercare_from = coalesce(hypercare_from, :now), version = version + 1"
            " WHERE zone = :zone AND name = :name",
            zone=zone, name=found.name, digest=digest, at=at, now=now,
        )  # fmt: skip
        if found.stage == "planned":
            await self._move(tx, context, found, "live", told)
            if found.spec.purpose == "production":  # a rehearsal does not begin to count T+7
                await self._go_lives.happened(tx, context, found.spec.platform, at, reason=told[:200])
        await self._recorder.record(
            tx,
            codes.ENVIRONMENT_LIVE,
            "success",
            context,
            subject=Subject(id=found.name, type="environment"),
            digest=digest,
            rollout=rollout,
            approval=approval,
            instant=utc(at),
            counts_from=utc(now),
            life=number,
        )

    async def _move(
        self, tx: Transaction, context: Context, found: Standing, after: Stage, told: str, *, pack: str = ""
    ) -> None:
        STAGES.require(found.stage, after)
        await tx.run(
            "UPDATE environments SET stage = :after, pack = :pack, version = version + 1"
            " WHERE zone = :zone AND name = :name",
            zone=context.zone,
            name=found.name,
            after=after,
            pack=pack,
        )
        await tx.run(
            "INSERT INTO environment_moves (zone, environment, number, before, after, at, by, told)"
            " SELECT :zone, :name, count(*) + 1, :before, :after, :now, :by, :told FROM environment_moves"
            " WHERE zone = :zone AND environment = :name",
            zone=context.zone, name=found.name, before=found.stage, after=after, now=self._clock.now(),
            by=context.actor.user or "", told=told,
        )  # fmt: skip
        await self._recorder.record(
            tx,
            codes.ENVIRONMENT_MOVED,
            "success",
            context,
            subject=Subject(id=found.name, type="environment"),
            before=found.stage,
            after=after,
            told=told[:200],
        )

    async def _lock(self, tx: Transaction, zone: str, name: str) -> None:
        await tx.run(
            "SELECT pg_advisory_xact_lock(hashtext('bailiwick.environment'), hashtext(:key))", key=f"{zone}/{name}"
        )
