"""Sign-off and acceptance: four teams, distinct persons, none of them a producer; then all changes hands at once.

What is signed is the SHA-256 of the pack. Acceptance is one transaction: the conditions are judged on what is so in it,
the book is changed as the pack said it would be, the environment becomes BAU active and the statement is made, or
nothing of all that is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.book import Book, canonical, check
from bailiwick.assurance.books import Books, Plan, plan
from bailiwick.assurance.checkpoints.rules import CHECKPOINT
from bailiwick.assurance.handover_states import HANDOVER
from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.ports import Owners, Waivers
from bailiwick.assurance.registers import ENDS, items
from bailiwick.assurance.rhythm.ceremonies import Ceremony, in_force, occurrences
from bailiwick.assurance.signers import produced
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.handover.handovers import transfers
from bailiwick.handover.handovers.conditions import CHECKPOINT_DAYS, RHYTHM, STATEMENT, Facts, unmet
from bailiwick.handover.handovers.plan import PLAN, TEAMS, HandoverPlan, Team, speaks
from bailiwick.handover.handovers.records import Handover, State, find
from bailiwick.handover.handovers.signing import Keys, assertion_digest
from bailiwick.handover.ports import Environments, OpenIncidents, Readiness
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, Denied
from bailiwick.kernel.http import Caller
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import OWNER_ROLES
from bailiwick.kernel.quorum import People

FACTOR_WITHIN = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Around:
    """What sign-off and acceptance ask of others, and what they change."""

    books: Books
    owners: Owners
    readiness: Readiness
    incidents: OpenIncidents
    environments: Environments
    waivers: Waivers


@dataclass(frozen=True, slots=True)
class Chance:
    """Whether somebody can sign for a team now: ``reason`` is why not, empty if he can. ``keys``: how many of his keys
    the pack names; without one he signs by step-up."""

    reason: str
    keys: int = 0


class Handovers:
    """Has packs signed, refused and accepted."""

    def __init__(
        self, database: Database, clock: Clock, recorder: Recorder, people: People, keys: Keys, around: Around
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._people = people
        self._keys = keys
        self._around = around

    # ------------------------------------------------------------------ sign-off

    async def options(self, caller: Caller, identifier: str, team: Team) -> dict[str, Any]:
        """What the caller's keys are asked, to sign for ``team``. Raises as :meth:`sign` does."""
        async with self._database.begin() as tx:
            found = await find(tx, caller.zone, identifier)
            known = await self._may_sign(tx, found, caller, team)
            return await self._keys.options(tx, caller.zone, caller.name, found.sha256, known)

    async def sign(
        self,
        context: Context,
        caller: Caller,
        identifier: str,
        team: Team,
        *,
        sha256: str,
        credential: Mapping[str, Any] | None = None,
    ) -> Handover:
        """Sign ``sha256`` for ``team``: by what a key answered, or else by the second factor used just now.

        Raises ``handover_changed`` for another hash, ``handover_over``, ``handover_stale``, ``handover_not_green``,
        ``handover_team``, ``handover_own_work``, ``handover_same_person``, ``handover_signed_already``,
        ``handover_factor_needed``, and what :class:`Keys` does.
        """
        async with self._database.begin() as tx:
            found = await find(tx, caller.zone, identifier, lock=True)
            self._require_same(found, sha256)
            await require_on(tx, caller.zone, Switch.READ_ONLY)
            known = await self._may_sign(tx, found, caller, team)
            assertion = None
            if credential is not None:
                assertion = await self._keys.assertion(tx, caller.zone, caller.name, sha256, known, credential)
            else:
                self._require_factor(caller)
            standing = await self._people.standing(tx, caller.zone, caller.name)
            assert standing is not None  # who calls is there
            event = await self._recorder.record(
                tx,
                codes.HANDOVER_SIGNED,
                "success",
                context,
                subject=Subject(id=found.id, type="handover"),
                environment=found.environment,
                sha256=sha256,
                team=team,
                how="webauthn" if assertion is not None else "step-up",
                assertion=assertion_digest(assertion),
            )
            await tx.run(
                "INSERT INTO handover_signatures (handover, team, person, account, how, sha256, assertion, at, event)"
                " VALUES (:id, :team, :person, :account, :how, :sha256, cast(:assertion AS jsonb), :now, :event)",
                id=found.id,
                team=team,
                person=caller.name,
                account=standing.id,
                how="webauthn" if assertion is not None else "step-up",
                sha256=sha256,
                assertion=canonical(assertion).decode() if assertion is not None else None,
                now=self._clock.now(),
                event=event.id,
            )
            after = await find(tx, caller.zone, identifier)
            if not after.missing:
                await self._move(tx, after, "signed", caller.name)
            return await find(tx, caller.zone, identifier)

    async def refuse(self, context: Context, caller: Caller, identifier: str, team: Team, reason: str) -> Handover:
        """Say no for ``team``, also where it signed before: the pack is over, and why stands in the ledger."""
        async with self._database.begin() as tx:
            found = await find(tx, caller.zone, identifier, lock=True)
            await require_on(tx, caller.zone, Switch.READ_ONLY)
            document = self._ongoing(found)
            self._require_team(document["teams"][team], caller)
            event = await self._recorder.record(
                tx,
                codes.HANDOVER_REFUSED,
                "success",
                context,
                subject=Subject(id=found.id, type="handover"),
                environment=found.environment,
                sha256=found.sha256,
                team=team,
                reason=reason,
            )
            await tx.run(
                "INSERT INTO handover_refusals (handover, team, person, reason, at, event)"
                " VALUES (:id, :team, :person, :reason, :now, :event)",
                id=found.id,
                team=team,
                person=caller.name,
                reason=reason,
                now=self._clock.now(),
                event=event.id,
            )
            await self._move(tx, found, "refused", caller.name)
            return await find(tx, caller.zone, identifier)

    async def chances(self, tx: Transaction, found: Handover, caller: Caller) -> dict[Team, Chance]:
        """For each team that ``caller`` speaks for, whether he can sign ``found`` for it now."""
        told: dict[Team, Chance] = {}
        for team in TEAMS:
            if not speaks(found.document["teams"][team], caller.name, caller.roles):
                continue
            try:
                known = await self._may_sign(tx, found, caller, team)
            except (Conflict, Denied) as refused:
                told[team] = Chance(refused.reason)
            else:
                told[team] = Chance("", await self._keys.usable(tx, caller.zone, caller.name, known))
        return told

    async def _may_sign(self, tx: Transaction, found: Handover, caller: Caller, team: Team) -> list[str]:
        """Refuse who cannot sign for ``team`` now; the keys of his that the pack names."""
        document = self._ongoing(found)
        self._require_fresh(found)
        if bad := unheeded(document, await self._ended(tx, caller.zone, document)):
            raise Conflict(reason="handover_not_green", statements=bad[:50])
        asked = document["teams"][team]
        self._require_team(asked, caller)
        if any(each.team == team for each in found.signatures):
            raise Conflict(reason="handover_signed_already")
        if await produced(self._people, tx, caller.zone, caller.name, document["producers"]):
            raise Denied(reason="handover_own_work")
        others = [each.person for each in found.signatures]
        if others and await produced(self._people, tx, caller.zone, caller.name, others):
            raise Denied(reason="handover_same_person")
        return [key["key"] for key in asked["keys"] if key["person"] == caller.name]

    # ------------------------------------------------------------------ acceptance

    async def accept(self, context: Context, caller: Caller, identifier: str, *, sha256: str) -> Handover:
        """Take over, now: the book is changed as the pack says, the environment is BAU active, the statement is made.

        Raises ``handover_unsigned``, ``handover_unmet``, ``handover_book_moved``, ``handover_own_work``, and the first
        few of :meth:`sign`.
        """
        zone = caller.zone
        async with self._database.begin() as tx:
            found = await find(tx, zone, identifier, lock=True)
            self._require_same(found, sha256)
            document = self._ongoing(found)
            self._require_fresh(found)
            await require_on(tx, zone, Switch.FREEZE, Switch.READ_ONLY)
            self._require_factor(caller)
            if not speaks(document["receives"], caller.name, caller.roles):
                raise Denied(reason="handover_team")
            if await produced(self._people, tx, zone, caller.name, [found.built_by]):
                raise Denied(reason="handover_own_work")
            await self._require_signed(tx, found)
            await self._around.books.lock(tx, zone)
            facts = await self.facts(tx, found)
            if conditions := unmet(facts):
                raise Conflict(reason="handover_unmet", conditions=conditions[:100])
            await self._note_waivers(tx, context, facts, found.environment)
            changed = await self._transfer(tx, context, found, caller.name)
            await self._around.environments.handed_over(tx, context, found.environment, found.sha256)
            await self._conclude(tx, context, found, caller.name, changed)
            return await find(tx, zone, identifier)

    async def facts(self, tx: Transaction, found: Handover) -> Facts:
        """What the handover statement stands on, as it is now."""
        zone, name, now, around = found.zone, found.environment, self._clock.now(), self._around
        book = await around.books.current(tx, zone)
        environment = await around.environments.get(tx, zone, name)
        accountable = {each: await around.owners.accountable(tx, zone, each, now) for each in book.of(ACTIVITY)}
        planes = {str(role): await around.owners.holders(tx, zone, str(role), now) for role in OWNER_ROLES}
        risks = [each for each in await items(tx, zone, "risks", now) if each.state not in ENDS]
        lapsed = await tx.all(
            "SELECT id, control, scope FROM waivers WHERE zone = :zone AND state = 'approved' AND valid_until <= :now"
            " AND settled_at IS NULL ORDER BY id",
            zone=zone,
            now=now,
        )
        return Facts(
            environment.stage if environment else None,
            await around.environments.hypercare(tx, zone, name) if environment else None,
            await around.readiness.standing(tx, zone, name),
            await around.incidents.open(tx, zone),
            {each: person.username if person else "" for each, person in accountable.items()}
            | {each: held[0].username if held else "" for each, held in planes.items()},
            upcoming(book, now),
            frozenset(each.after_days for each in book.of(CHECKPOINT).values()),
            [each.name for each in risks if each.due is None or not each.spec.get("owner")],
            [f"{row['control']} for {row['scope']}" for row in lapsed],
            unheeded(found.document, await self._ended(tx, zone, found.document)),
        )

    async def _note_waivers(self, tx: Transaction, context: Context, facts: Facts, environment: str) -> None:
        """Note what acceptance passes by; those of statements were noted when the pack was built."""
        for gate, standing in (("hypercare", facts.hypercare), ("readiness", facts.readiness)):
            for waiver in standing.waivers if standing is not None else ():
                await self._around.waivers.used(tx, context, waiver, f"handover/{environment}/{gate}")

    async def _ended(self, tx: Transaction, zone: str, document: Mapping[str, Any]) -> set[str]:
        """The waivers of a pack that were revoked, closed or ran out since, and no other came in their place."""
        now, waivers = self._clock.now(), self._around.waivers
        return {
            each["waiver"]
            for each in document["waivers"]
            if await waivers.covering(tx, zone, each["control"], each["scope"], now) is None
        }

    async def _require_signed(self, tx: Transaction, found: Handover) -> None:
        """Each signature counts only while who gave it is still the same active person, who speaks for the team."""
        gone, teams = [], found.document["teams"]
        for each in found.signatures:
            standing = await self._people.standing(tx, found.zone, each.person)
            if standing is None or standing.id != each.account or not standing.is_active:
                may = False
            else:
                may = speaks(teams[each.team], each.person, standing.roles)
            gone += [] if may else [each.team]
        if missing := [*found.missing, *gone]:
            raise Conflict(reason="handover_unsigned", teams=missing)

    async def _transfer(self, tx: Transaction, context: Context, found: Handover, by: str) -> Plan:
        """Change the book as every change of it is made: planned, and applied as it was planned and signed."""
        books, zone, document = self._around.books, found.zone, found.document
        book = await books.current(tx, zone)
        said = book.of(PLAN).get(found.plan)
        if said is None or book.documents[PLAN.name, found.plan].version != document["plan_version"]:
            raise Conflict(reason="handover_book_moved", documents=[f"{PLAN.name}/{found.plan}"])
        wanted = self._wanted(book, said)
        planned = plan(book, check(zone, wanted, books.kinds), books.kinds)
        told = [each.document() for each in planned.differences]
        if bad := transfers.moved(document["transfer"]["differences"], told):
            raise Conflict(reason="handover_book_moved", documents=bad[:50])
        transfers.require_one(planned)
        applied = await books.apply_in(tx, context, wanted, sha256=planned.sha256, by=by)
        assert isinstance(applied, Plan)  # what takes no second person waits for nobody
        return applied

    def _wanted(self, book: Book, said: HandoverPlan) -> Sequence[Any]:
        try:
            return transfers.wanted(book, said)
        except KeyError as error:
            raise Conflict(reason="handover_book_moved", documents=[str(error)]) from None

    async def _conclude(self, tx: Transaction, context: Context, found: Handover, by: str, changed: Plan) -> None:
        now = self._clock.now()
        revision = changed.revision + (1 if changed.differences else 0)
        subject = Subject(id=found.id, type="handover")
        event = await self._recorder.record(
            tx,
            codes.HANDOVER_ACCEPTED,
            "success",
            context,
            subject=subject,
            environment=found.environment,
            sha256=found.sha256,
            revision=revision,
            transfer=found.document["transfer"]["sha256"],
        )
        statement = {
            "text": STATEMENT,
            "environment": found.environment,
            "handover": found.id,
            "sha256": found.sha256,
            "accepted_by": by,
            "at": rfc3339(now),
        }
        stated = await self._recorder.record(
            tx,
            codes.HANDOVER_STATED,
            "success",
            context,
            subject=subject,
            environment=found.environment,
            sha256=found.sha256,
            statement=hashlib.sha256(canonical(statement)).hexdigest(),
        )
        await tx.run(
            "INSERT INTO handover_acceptances (handover, person, at, event, revision, statement, statement_event)"
            " VALUES (:id, :person, :now, :event, :revision, cast(:statement AS jsonb), :stated)",
            id=found.id,
            person=by,
            now=now,
            event=event.id,
            revision=revision,
            statement=canonical(statement).decode(),
            stated=stated.id,
        )
        await self._move(tx, found, "accepted", by)

    # ------------------------------------------------------------------ what is asked before

    def _ongoing(self, found: Handover) -> dict[str, Any]:
        if not HANDOVER.moves[found.state]:
            raise Conflict(reason="handover_over", state=found.state)
        return found.document

    def _require_fresh(self, found: Handover) -> None:
        if self._clock.now() >= found.good_until:
            raise Conflict(reason="handover_stale", good_until=found.good_until.isoformat())

    def _require_same(self, found: Handover, sha256: str) -> None:
        if sha256 != found.sha256:
            raise Conflict(reason="handover_changed", sha256=found.sha256)

    def _require_team(self, asked: Mapping[str, Any], caller: Caller) -> None:
        if not speaks(asked, caller.name, caller.roles):
            raise Denied(reason="handover_team")

    def _require_factor(self, caller: Caller) -> None:
        """Refuse who did not use a second factor just now; a password alone signs nothing."""
        age = self._clock.time() - caller.auth_time
        if "mfa" not in caller.amr or not -60 <= age <= FACTOR_WITHIN.total_seconds():
            raise Denied(reason="handover_factor_needed")

    async def _move(self, tx: Transaction, found: Handover, state: State, by: str) -> None:
        HANDOVER.require(found.state, state)
        ended = not HANDOVER.moves[state]
        await tx.run(
            "UPDATE handovers SET state = :state, ended_at = :ended, ended_by = :by WHERE id = :id",
            state=state,
            ended=self._clock.now() if ended else None,
            by=by if ended else "",
            id=found.id,
        )


def unheeded(document: Mapping[str, Any], ended: Collection[str] = ()) -> list[str]:
    """The statements of a pack that are neither PASS nor waived, and readiness where it does not pass.

    ``ended``: the waivers that it names and that are none any more.
    """
    found = [
        f"{chapter['name']}/{each['name']} is {each['verdict']}"
        for chapter in document["chapters"]
        for each in chapter["statements"]
        if each["verdict"] != "PASS" and (not each["waiver"] or each["waiver"] in ended)
    ]
    if not document["readiness"]["passes"]:
        found.append(f"readiness is {document['readiness']['verdict']}")
    return found or ([] if document["chapters"] else ["it says nothing"])


def upcoming(book: Book, now: datetime) -> dict[str, datetime | None]:
    """When an attended ceremony of each cadence is held next; None for never."""
    found: dict[str, datetime | None] = dict.fromkeys(RHYTHM)
    for ceremony in in_force(book).values():
        cadence = cadence_of(ceremony)
        if not ceremony.attended or cadence not in found:
            continue
        starts = occurrences(ceremony, now, now + timedelta(days=62))
        if starts and (found[cadence] is None or starts[0] < found[cadence]):  # type: ignore[operator]
            found[cadence] = starts[0]
    return found


def cadence_of(ceremony: Ceremony) -> str:
    """``daily``, ``weekly``, ``bi-weekly``, ``monthly``, ``quarterly`` or ``once``."""
    if ceremony.every is not None:
        return {1: "weekly", 2: "bi-weekly"}.get(ceremony.every.weeks, "monthly")
    if ceremony.cron is None:
        return "once"
    _, _, day, month, weekday = ceremony.cron.split()
    if month != "*":
        return "quarterly"
    if day != "*" or "#" in weekday:
        return "monthly"
    return "daily" if weekday == "*" else "weekly"


__all__ = ["CHECKPOINT_DAYS", "TEAMS", "Around", "Chance", "Handovers", "cadence_of", "unheeded", "upcoming"]
