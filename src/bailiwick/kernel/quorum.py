"""The two-person rule, once: somebody asks for one exact thing, others approve it, and it is done once.

A request is bound to the SHA-256 of what is to be done (action, zone and payload as canonical JSON): whoever approves
names that hash, and whoever does it must come with a payload that has it. Approvals count by person. The person who
asked never approves; somebody who asked without signing in (at the machine's own command line) could be any of them, so
one more person is needed. A request dies with its time. What is done is done in the transaction that marks it done.

*Person* is meant: two accounts that are one human being count as one (``People`` says which are), and so does, within a
window that a request may ask for, an account that one of the two made, raised or could have entered. Whoever approved
must still be who he was, with a role that allows it, when the thing is done; whoever asked must still be there.

Development mode changes nothing here. Where nobody else could approve, the request says so and stays open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import Permission, Role, allowed

State = Literal["open", "approved", "executed", "rejected", "withdrawn", "expired"]
Change = Literal["requested", "voted", "withdrawn", "executed"]
_MOST_PAYLOAD = 16_384


@dataclass(frozen=True, slots=True)
class Action:
    """Something that takes more than one person. ``needed``: approvals beside the person who asks; ``life``: how long
    a request may wait. Who approves must hold ``permission``. ``always(payload)``: it may be approved where approving
    is switched off, since it is how that is lifted."""

    name: str
    permission: Permission
    needed: int = 1
    life: timedelta = timedelta(hours=24)
    always: Callable[[Mapping[str, Any]], bool] = field(default=lambda payload: False, compare=False)

    def __post_init__(self) -> None:
        if self.needed < 1:
            raise ValueError("one person alone is not two")


@dataclass(frozen=True, slots=True)
class Terms:
    """What one request takes beyond its action; it can only be stricter.

    ``roles``: who approves has one of them (empty: any that holds the permission). ``other_role``: who approves has
    none of the roles of who asked. ``window``: how long after one account made, raised or could enter another the two
    count as one person. ``life``: how long the request may wait. ``concerns``: the account that it is done for, whose
    person does not approve it.
    """

    needed: int = 1
    life: timedelta | None = None
    roles: tuple[str, ...] = ()
    other_role: bool = False
    window: timedelta = timedelta(0)
    concerns: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Who an account is now. ``id`` outlives its name; ``owns``: the owner roles he has beside ``role``."""

    id: str
    role: str
    is_active: bool
    owns: frozenset[str] = frozenset()

    @property
    def roles(self) -> frozenset[str]:
        """Every role of his."""
        return self.owns | {self.role}


class People(Protocol):
    """What the two-person rule asks about accounts."""

    async def standing(self, tx: Transaction, zone: str, name: str) -> Standing | None:
        """The account by that name; None where there is none."""
        ...

    async def related(
        self, tx: Transaction, zone: str, name: str, others: Sequence[str], since: datetime | None
    ) -> Mapping[str, str]:
        """Which of ``others`` count as the same person as ``name``, each with the reason (``approval_same_person``,
        ``approval_related_account``); accounts that had to do with each other only where that was after ``since``."""
        ...


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said. ``account``: the id of his account then."""

    person: str
    approves: bool
    comment: str
    at: datetime
    account: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A request and what was said to it. ``candidates``: who else could approve it now."""

    id: str
    zone: str
    action: str
    payload: Mapping[str, Any]
    payload_sha256: str
    reason: str
    needed: int
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    state: State
    ended_at: datetime | None
    ended_by: str | None
    votes: tuple[Vote, ...]
    candidates: tuple[str, ...]
    roles: tuple[str, ...] = ()
    other_role: bool = False
    window_s: int = 0
    requester_id: str = ""
    requester_role: str = ""
    requester_owns: tuple[str, ...] = ()
    concerns: str = ""

    @property
    def other_than(self) -> frozenset[str]:
        """The roles that who approves must not have."""
        return frozenset({self.requester_role, *self.requester_owns}) if self.other_role else frozenset()

    @property
    def since(self) -> datetime | None:
        """From when on it counts that accounts had to do with each other; None where it does not."""
        return self.requested_at - timedelta(seconds=self.window_s) if self.window_s else None

    @property
    def approved_by(self) -> list[str]:
        """Who approved."""
        return [vote.person for vote in self.votes if vote.approves]

    @property
    def missing(self) -> int:
        """How many approvals it still needs."""
        return max(0, self.needed - sum(vote.approves for vote in self.votes))

    def document(self) -> dict[str, Any]:
        """The JSON form. ``blocked`` says that nobody is there who could complete it, and whom to invite."""
        answer: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "votes"}
        answer["payload"] = dict(self.payload)
        answer["candidates"] = list(self.candidates)
        answer["roles"] = list(self.roles)
        answer["requester_owns"] = list(self.requester_owns)
        answer["missing"] = self.missing
        answer["votes"] = [
            {
                "person": vote.person,
                "role": vote.role,
                "approves": vote.approves,
                "comment": vote.comment,
                "at": vote.at,
            }
            for vote in self.votes
        ]
        if self.state == "open" and len(self.candidates) < self.missing:
            answer["blocked"] = (
                f"{self.missing} more must approve and {len(self.candidates)} can:"
                f" invite somebody {'who is ' + ' or '.join(self.roles) if self.roles else 'whose role allows it'}."
            )
        return answer


Note = Callable[[Transaction, Change, Approval, Any], Awaitable[None]]
"""Records what happened to a request, in its transaction; the last argument is what the caller gave as context."""

Holders = Callable[[Transaction, str, Sequence[Role]], Awaitable[Sequence[str]]]
"""The active persons of a zone who have one of the roles."""


def payload_hash(action: str, zone: str, payload: Mapping[str, Any]) -> str:
    """What a request is bound to, in hexadecimal."""
    form = {"action": action, "payload": payload, "zone": zone}
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Quorum:
    """Keeps requests. Rooms register their actions in the composition root."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        note: Note,
        holders: Holders,
        actions: Sequence[Action],
        people: People | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._note = note
        self._holders = holders
        self._people = people
        self._actions: dict[str, Action] = {}
        for action in actions:
            self.register(action)

    def register(self, action: Action) -> None:
        """Let ``action`` be asked for; raises ValueError when another has its name."""
        if self._actions.setdefault(action.name, action) is not action:
            raise ValueError(f"two actions are called {action.name!r}")

    def action(self, name: str) -> Action:
        """The action by that name; raises :class:`LookupError`."""
        return self._actions[name]

    async def request(
        self,
        tx: Transaction,
        context: Any,
        zone: str,
        action: str,
        payload: Mapping[str, Any],
        *,
        by: str,
        reason: str,
        signed_in: bool = True,
        terms: Terms = Terms(),
    ) -> Approval:
        """Ask for ``payload`` to be done; the same thing asked for again is the request that stands.

        ``signed_in`` is False for who asks at the machine's own command line.
        """
        kind, now = self._actions[action], self._clock.now()
        needed = max(kind.needed, terms.needed)
        standing_of = await self._people.standing(tx, zone, by) if self._people and signed_in else None
        digest = payload_hash(action, zone, payload)
        encoded = json.dumps(payload, ensure_ascii=False, allow_nan=False)
        if len(encoded) > _MOST_PAYLOAD:
            raise ValueError("a payload to be approved must be small enough to be read")
        await tx.run("SELECT pg_advisory_xact_lock(CAST(:lock AS int), hashtext(:digest))", lock=_LOCK, digest=digest)
        standing = await tx.one(
            "SELECT id, expires_at FROM approvals WHERE zone = :zone AND action = :action"
            " AND payload_sha256 = :digest AND ended IS NULL FOR UPDATE",
            zone=zone,
            action=action,
            digest=digest,
        )
        if standing is not None and standing["expires_at"] > now:
            return await self._load(tx, zone, standing["id"])
        if standing is not None:
            await self._end(tx, standing["id"], "expired", by, now)
        identifier = self._ids()
        await tx.run(
            "INSERT INTO approvals (id, zone, action, payload, payload_sha256, reason, needed, requested_by,"
            " requested_at, expires_at, roles, other_role, window_s, requester_id, requester_role, requester_owns,"
            " concerns) VALUES (:id, :zone, :action, CAST(:payload AS jsonb), :digest, :reason, :needed, :by, :now,"
            " :expires_at, :roles, :other_role, :window_s, :requester_id, :requester_role, :requester_owns, :concerns)",
            id=identifier,
            zone=zone,
            action=action,
            payload=encoded,
            digest=digest,
            reason=reason,
            needed=needed if signed_in else needed + 1,
            by=by,
            now=now,
            expires_at=now + min(kind.life, terms.life or kind.life),
            roles=[*terms.roles],
            other_role=terms.other_role,
            window_s=int(terms.window.total_seconds()),
            requester_id=standing_of.id if standing_of else "",
            requester_role=standing_of.role if standing_of else "",
            requester_owns=sorted(standing_of.owns) if standing_of else [],
            concerns=terms.concerns,
        )
        approval = await self._load(tx, zone, identifier)
        await self._note(tx, "requested", approval, context)
        return approval

    async def vote(
        self,
        context: Any,
        zone: str,
        identifier: str,
        *,
        person: str,
        role: str,
        approves: bool,
        payload_sha256: str,
        comment: str = "",
    ) -> Approval:
        """Approve or reject a request; one rejection ends it. A person has one vote and may not take it back.

        Raises ``not_found``, ``permission_denied``, ``approval_own_request``, ``approval_changed`` when another hash is
        named than the request's, ``approval_ended``, ``conflict`` for a second vote.
        """
        async with self._database.begin() as tx:
            return await self.vote_in(
                tx,
                context,
                zone,
                identifier,
                person=person,
                role=role,
                approves=approves,
                payload_sha256=payload_sha256,
                comment=comment,
            )

    async def vote_in(
        self,
        tx: Transaction,
        context: Any,
        zone: str,
        identifier: str,
        *,
        person: str,
        role: str,
        approves: bool,
        payload_sha256: str,
        comment: str = "",
    ) -> Approval:
        """The same within the caller's transaction."""
        approval = await self._locked(tx, zone, identifier)
        permission = self._actions[approval.action].permission
        standing = await self._people.standing(tx, zone, person) if self._people else None
        roles = {role} | (standing.owns if standing else frozenset())
        if not any(allowed(each, permission) for each in roles):
            raise Denied(f"This needs the permission {permission}.", permission=str(permission))
        if person.casefold() == approval.requested_by.casefold():
            raise Denied(reason="approval_own_request")
        if payload_sha256 != approval.payload_sha256:
            raise Conflict("The hash is not that of this request.", reason="approval_changed")
        self._refuse_ended(approval)
        if any(vote.person.casefold() == person.casefold() for vote in approval.votes):
            raise Conflict("You have voted on this already.")
        if approves and not self._actions[approval.action].always(approval.payload):
            await require_on(tx, zone, Switch.APPROVE, Switch.READ_ONLY)
        if approves:
            await self._refuse_unfit(tx, approval, person, roles)
        now = self._clock.now()
        await tx.run(
            "INSERT INTO approval_votes (approval, person, approves, comment, at, account, role)"
            " VALUES (:id, :person, :approves, :comment, :now, :account, :role)",
            id=identifier,
            person=person,
            approves=approves,
            comment=comment,
            now=now,
            account=standing.id if standing else "",
            role=role if not approval.roles or role in approval.roles else min(roles & {*approval.roles}, default=role),
        )
        if not approves:
            await self._end(tx, identifier, "rejected", person, now)
        approval = await self._load(tx, zone, identifier)
        await self._note(tx, "voted", approval, context)
        return approval

    async def _refuse_unfit(self, tx: Transaction, approval: Approval, person: str, roles: Set[str]) -> None:
        """Refuse who is not the other person that the request asks for."""
        if not _fits(roles, approval.roles, frozenset()):
            raise Denied(f"This takes {' or '.join(approval.roles)}.", reason="approval_role")
        if not _fits(roles, (), approval.other_than):
            raise Denied("This takes somebody of another role than who asked.", reason="approval_role")
        if await self._concerned(tx, approval.zone, approval.concerns, [person]):
            raise Denied(reason="approval_concerned")
        if self._people is None:
            return
        # of two accounts of one person among those who approve, one counts
        approved = [vote.person for vote in approval.votes if vote.approves]
        for other in (approval.requested_by, *approved):
            why = await self._people.related(tx, approval.zone, other, [person], approval.since)
            if person in why:
                raise Denied(reason=why[person])

    async def candidates(self, tx: Transaction, zone: str, action: str, by: str, terms: Terms) -> Sequence[str]:
        """Who could approve ``action`` now, if ``by`` asked for it under ``terms``."""
        able = await self._able(tx, zone, self._actions[action])
        others = [name for name in able if name.casefold() != by.casefold()]
        standing = await self._people.standing(tx, zone, by) if self._people and terms.other_role else None
        since = self._clock.now() - terms.window if terms.window else None
        not_roles = standing.roles if standing else frozenset[str]()
        return await self._fit(tx, zone, by, others, terms.roles, not_roles, since, terms.concerns)

    async def withdraw(self, context: Any, zone: str, identifier: str, *, person: str, role: str) -> Approval:
        """Take a request back: who asked, or anybody who could approve it."""
        async with self._database.begin() as tx:
            approval = await self._locked(tx, zone, identifier)
            if person.casefold() != approval.requested_by.casefold() and not allowed(
                role, self._actions[approval.action].permission
            ):
                raise Denied()
            self._refuse_ended(approval)
            await self._end(tx, identifier, "withdrawn", person, self._clock.now())
            approval = await self._load(tx, zone, identifier)
            await self._note(tx, "withdrawn", approval, context)
        return approval

    async def end(self, tx: Transaction, context: Any, zone: str, identifier: str, by: str) -> None:
        """Close a request that can no longer be done, in the transaction that finds so."""
        approval = await self._locked(tx, zone, identifier)
        if approval.ended_at is None:
            await self._end(tx, identifier, "withdrawn", by, self._clock.now())
            await self._note(tx, "withdrawn", await self._load(tx, zone, identifier), context)

    async def execute(
        self,
        tx: Transaction,
        context: Any,
        zone: str,
        identifier: str,
        action: str,
        payload: Mapping[str, Any],
        by: str,
    ) -> Approval:
        """Mark a request done, in the transaction that does it: once, and only what was approved.

        Approvals count only of persons who could still give them. Raises ``approval_required`` when some are missing,
        ``approval_changed`` when ``payload`` is not what was approved, ``approval_ended``, ``not_found``.
        """
        approval = await self._locked(tx, zone, identifier)
        if approval.action != action:
            raise NotFound("There is no such approval.")
        self._refuse_ended(approval)
        if payload_hash(action, zone, payload) != approval.payload_sha256:
            raise Conflict(reason="approval_changed")
        await self._refuse_gone(tx, approval)
        counted = await self._counted(tx, approval)
        if counted < approval.needed:
            raise Conflict(reason="approval_required", approval=identifier, missing=approval.needed - counted)
        await self._end(tx, identifier, "executed", by, self._clock.now())
        approval = await self._load(tx, zone, identifier)
        await self._note(tx, "executed", approval, context)
        return approval

    async def _refuse_gone(self, tx: Transaction, approval: Approval) -> None:
        """Refuse what somebody asked for who has left, or whose role is another one since."""
        if self._people is None or not approval.requester_id:
            return
        standing = await self._people.standing(tx, approval.zone, approval.requested_by)
        if (
            standing is None
            or not standing.is_active
            or (standing.id, standing.role) != (approval.requester_id, approval.requester_role)
        ):
            raise Conflict(reason="approval_requester_gone")

    async def _counted(self, tx: Transaction, approval: Approval) -> int:
        """How many persons approved who could still do so, each counted once."""
        able = {name.casefold() for name in await self._able(tx, approval.zone, self._actions[approval.action])}
        able.discard(approval.requested_by.casefold())
        votes = [vote for vote in approval.votes if vote.approves and vote.person.casefold() in able]
        if self._people is None:
            return len({vote.person.casefold() for vote in votes})
        taken, counted = [approval.requested_by], 0
        for vote in votes:
            standing = await self._people.standing(tx, approval.zone, vote.person)
            if standing is None or standing.id != vote.account or not standing.is_active:
                continue
            if not _fits(standing.roles, approval.roles, approval.other_than):
                continue
            if await self._concerned(tx, approval.zone, approval.concerns, [vote.person]):
                continue
            if any([await self._people.related(tx, approval.zone, other, [vote.person], approval.since)
                    for other in taken]):  # fmt: skip
                continue
            taken.append(vote.person)
            counted += 1
        return counted

    async def ready(self, tx: Transaction, action: str) -> list[Approval]:
        """The requests of an action, of every zone, that are approved and not done, oldest first."""
        rows = await tx.all("SELECT id, zone FROM approvals WHERE action = :action AND ended IS NULL ORDER BY id",
                            action=action)  # fmt: skip
        found = [await self._load(tx, row["zone"], row["id"]) for row in rows]
        return [approval for approval in found if approval.state == "approved"]

    async def open(self, tx: Transaction, zone: str, action: str) -> list[Approval]:
        """The requests of an action in a zone that wait, or are approved and not done, oldest first."""
        rows = await tx.all(
            "SELECT id FROM approvals WHERE zone = :zone AND action = :action AND ended IS NULL"
            " AND expires_at > :now ORDER BY id",
            zone=zone,
            action=action,
            now=self._clock.now(),
        )
        return [await self._load(tx, zone, row["id"]) for row in rows]

    async def get(self, zone: str, identifier: str) -> Approval:
        """One request; raises ``not_found``."""
        async with self._database.begin() as tx:
            return await self._load(tx, zone, identifier)

    async def get_in(self, tx: Transaction, zone: str, identifier: str) -> Approval:
        """The same within the caller's transaction."""
        return await self._load(tx, zone, identifier)

    async def list(self, zone: str, before: str, limit: int) -> list[Approval]:
        """The requests of a zone with ids before ``before``, newest first."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT id FROM approvals WHERE zone = :zone AND id < :before ORDER BY id DESC LIMIT :limit",
                zone=zone,
                before=before,
                limit=limit,
            )
            return [await self._load(tx, zone, row["id"]) for row in rows]

    # --- inside

    async def _able(self, tx: Transaction, zone: str, action: Action) -> Sequence[str]:
        return await self._holders(tx, zone, [role for role in Role if allowed(role, action.permission)])

    async def _locked(self, tx: Transaction, zone: str, identifier: str) -> Approval:
        await tx.run("SELECT id FROM approvals WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier)
        return await self._load(tx, zone, identifier)

    async def _end(self, tx: Transaction, identifier: str, how: str, by: str, now: datetime) -> None:
        await tx.run(
            "UPDATE approvals SET ended = :how, ended_at = :now, ended_by = :by WHERE id = :id AND ended IS NULL",
            how=how,
            now=now,
            by=by,
            id=identifier,
        )

    def _refuse_ended(self, approval: Approval) -> None:
        if approval.state not in {"open", "approved"}:
            raise Conflict(f"The request is {approval.state}.", reason="approval_ended", state=approval.state)

    async def _load(self, tx: Transaction, zone: str, identifier: str) -> Approval:
        row = await tx.one("SELECT * FROM approvals WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such approval.")
        votes = await tx.all(
            "SELECT person, approves, comment, at, account, role FROM approval_votes"
            " WHERE approval = :id ORDER BY at, person",
            id=identifier,
        )
        said = {vote["person"].casefold() for vote in votes} | {row["requested_by"].casefold()}
        action = self._actions.get(row["action"])
        able = await self._able(tx, zone, action) if action is not None and row["ended"] is None else ()
        others = [name for name in able if name.casefold() not in said]
        approval = _approval(row, votes, (), self._clock.now())
        fit = await self._fit(
            tx, zone, approval.requested_by, others, approval.roles, approval.other_than, approval.since,
            approval.concerns,
        )  # fmt: skip
        return replace(approval, candidates=tuple(fit))

    async def _fit(
        self, tx: Transaction, zone: str, by: str, names: Sequence[str], roles: Sequence[str], not_roles: Set[str],
        since: datetime | None, concerns: str,
    ) -> Sequence[str]:  # fmt: skip
        """Who of ``names`` is another person than ``by`` and whom it concerns, with one of ``roles`` (empty: any) and
        none of ``not_roles``."""
        concerned = await self._concerned(tx, zone, concerns, names)
        names = [name for name in names if name not in concerned]
        if self._people is None or not names:
            return names
        same = await self._people.related(tx, zone, by, names, since)
        fit = []
        for name in names:
            standing = await self._people.standing(tx, zone, name)
            if name not in same and standing is not None and _fits(standing.roles, roles, not_roles):
                fit.append(name)
        return fit

    async def _concerned(self, tx: Transaction, zone: str, concerns: str, names: Sequence[str]) -> Set[str]:
        """Who of ``names`` is the person that it is done for."""
        found = {name for name in names if concerns and name.casefold() == concerns.casefold()}
        if concerns and self._people is not None:
            found |= (await self._people.related(tx, zone, concerns, names, None)).keys()
        return found


def _fits(has: Set[str], wanted: Sequence[str], not_roles: Set[str]) -> bool:
    """Whether one of somebody's roles is wanted (nothing: any), and none of them is of ``not_roles``."""
    return has.isdisjoint(not_roles) and (not wanted or not has.isdisjoint(wanted))


def _approval(row: Row, votes: Sequence[Row], candidates: Sequence[str], now: datetime) -> Approval:
    state: State
    if row["ended"] is not None:
        state = row["ended"]
    elif row["expires_at"] <= now:
        state = "expired"
    else:
        state = "approved" if sum(vote["approves"] for vote in votes) >= row["needed"] else "open"
    return Approval(
        row["id"],
        row["zone"],
        row["action"],
        row["payload"],
        row["payload_sha256"],
        row["reason"],
        row["needed"],
        row["requested_by"],
        row["requested_at"],
        row["expires_at"],
        state,
        row["ended_at"],
        row["ended_by"],
        tuple(
            Vote(vote["person"], vote["approves"], vote["comment"], vote["at"], vote["account"], vote["role"])
            for vote in votes
        ),
        tuple(candidates),
        tuple(row["roles"]),
        row["other_role"],
        row["window_s"],
        row["requester_id"],
        row["requester_role"],
        tuple(row["requester_owns"]),
        row["concerns"],
    )


_LOCK = 0x71756F72  # "quor"
