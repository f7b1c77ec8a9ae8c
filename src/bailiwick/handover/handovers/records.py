"""The rows of handovers: packs, who signed, refused and accepted them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from bailiwick.handover.handovers.plan import TEAMS, Team
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.verdicts import Verdict

State = Literal["proposed", "signed", "refused", "superseded", "accepted"]
How = Literal["webauthn", "step-up"]


@dataclass(frozen=True, slots=True)
class Signed:
    """A team's signature. ``assertion``: what its key answered, None of a step-up. ``event``: its id in the ledger."""

    team: Team
    person: str
    account: str
    how: How
    sha256: str
    at: datetime
    event: str
    assertion: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A team said no."""

    team: Team
    person: str
    reason: str
    at: datetime
    event: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The receiving team took over. ``revision``: of the book that this brought."""

    person: str
    at: datetime
    event: str
    revision: int
    statement: Mapping[str, Any]
    statement_event: str


@dataclass(frozen=True, slots=True)
class Handover:
    """A pack, and how far it came."""

    id: str
    zone: str
    plan: str
    environment: str
    since: datetime
    until: datetime
    good_until: datetime
    verdict: Verdict
    sha256: str
    body: bytes
    built_by: str
    built_at: datetime
    event: str
    state: State
    ended_at: datetime | None
    ended_by: str
    signatures: tuple[Signed, ...] = ()
    refusal: Refusal | None = None
    acceptance: Acceptance | None = None

    @property
    def document(self) -> dict[str, Any]:
        """What it says. Raises ``handover_changed`` where the bytes are not those of its SHA-256."""
        if hashlib.sha256(self.body).hexdigest() != self.sha256:
            raise Conflict(reason="handover_changed", sha256=self.sha256)
        return cast("dict[str, Any]", json.loads(self.body))

    @property
    def missing(self) -> list[Team]:
        """The teams that have not signed what it says."""
        signed = {each.team for each in self.signatures if each.sha256 == self.sha256}
        return [team for team in TEAMS if team not in signed]

    def events(self) -> list[str]:
        """The ids of everything in the ledger that tells of it."""
        found = [self.event, *(each.event for each in self.signatures)]
        found += [self.refusal.event] if self.refusal else []
        return found + ([self.acceptance.event, self.acceptance.statement_event] if self.acceptance else [])

    def summary(self) -> dict[str, Any]:
        """The JSON form without what the pack says."""
        return {
            "id": self.id,
            "plan": self.plan,
            "environment": self.environment,
            "since": _utc(self.since),
            "until": _utc(self.until),
            "good_until": _utc(self.good_until),
            "verdict": str(self.verdict),
            "sha256": self.sha256,
            "built_by": self.built_by,
            "built_at": _utc(self.built_at),
            "missing": self.missing,
            **standing_json(self),
        }


def standing_json(handover: Handover) -> dict[str, Any]:
    """Who signed, refused and accepted, as answers and packs have it."""
    refusal, acceptance = handover.refusal, handover.acceptance
    return {
        "handover": handover.id,
        "sha256": handover.sha256,
        "event": handover.event,
        "state": handover.state,
        "signatures": [
            {
                "team": each.team,
                "person": each.person,
                "account": each.account,
                "how": each.how,
                "at": _utc(each.at),
                "event": each.event,
                "assertion": dict(each.assertion) if each.assertion else None,
            }
            for each in handover.signatures
        ],
        "refusal": {
            "team": refusal.team,
            "person": refusal.person,
            "reason": refusal.reason,
            "at": _utc(refusal.at),
            "event": refusal.event,
        }
        if refusal
        else None,
        "acceptance": {
            "person": acceptance.person,
            "at": _utc(acceptance.at),
            "event": acceptance.event,
            "revision": acceptance.revision,
        }
        if acceptance
        else None,
        "statement": dict(acceptance.statement) if acceptance else None,
        "statement_event": acceptance.statement_event if acceptance else "",
    }


async def find(tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Handover:
    """One handover by its id; raises :class:`NotFound`. ``lock``: nobody else moves it until the transaction ends."""
    if lock:
        await tx.run("SELECT id FROM handovers WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier)
    found = await _read(tx, zone, "h.id = :id", id=identifier)
    if not found:
        raise NotFound("There is no handover by that id.")
    return found[0]


async def newest(tx: Transaction, zone: str, environment: str) -> Handover | None:
    """The newest of an environment; None where there was never one."""
    found = await _read(tx, zone, "h.environment = :environment", limit=1, environment=environment)
    return found[0] if found else None


async def list_handovers(tx: Transaction, zone: str, before: str, limit: int) -> list[Handover]:
    """Those with ids before ``before``, newest first."""
    return await _read(tx, zone, "h.id < :before", limit=limit, before=before)


async def _read(tx: Transaction, zone: str, where: str, *, limit: int = 1, **values: Any) -> list[Handover]:
    rows = await tx.all(
        f"SELECT h.* FROM handovers h WHERE h.zone = :zone AND {where} ORDER BY h.id DESC LIMIT :limit",  # noqa: S608
        zone=zone,
        limit=limit,
        **values,
    )
    ids = [row["id"] for row in rows]
    signed = await tx.all("SELECT * FROM handover_signatures WHERE handover = ANY (:ids)", ids=ids)
    refused = await tx.all("SELECT * FROM handover_refusals WHERE handover = ANY (:ids)", ids=ids)
    accepted = await tx.all("SELECT * FROM handover_acceptances WHERE handover = ANY (:ids)", ids=ids)
    return [_handover(row, signed, refused, accepted) for row in rows]


def _handover(row: Row, signed: Sequence[Row], refused: Sequence[Row], accepted: Sequence[Row]) -> Handover:
    of = row["id"]
    refusals = [
        Refusal(each["team"], each["person"], each["reason"], each["at"], each["event"])
        for each in refused
        if each["handover"] == of
    ]
    acceptances = [
        Acceptance(
            each["person"], each["at"], each["event"], each["revision"], each["statement"], each["statement_event"]
        )
        for each in accepted
        if each["handover"] == of
    ]
    return Handover(
        of,
        row["zone"],
        row["plan"],
        row["environment"],
        row["since"],
        row["until"],
        row["good_until"],
        Verdict(row["verdict"]),
        row["sha256"],
        bytes(row["document"]),
        row["built_by"],
        row["built_at"],
        row["event"],
        row["state"],
        row["ended_at"],
        row["ended_by"],
        tuple(
            Signed(
                each["team"], each["person"], each["account"], each["how"], each["sha256"], each["at"], each["event"],
                each["assertion"],
            )
            for each in sorted(signed, key=lambda row: TEAMS.index(row["team"]))
            if each["handover"] == of
        ),
        next(iter(refusals), None),
        next(iter(acceptances), None),
    )  # fmt: skip


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
