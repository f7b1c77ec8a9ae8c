"""The two-person rule, against a real database."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.permissions import Permission, Role
from bailiwick.kernel.quorum import Action, Approval, Change, Quorum, payload_hash
from databases import fresh

DESTROY = Action("test.destroy", Permission.ARCHIVE_PURGE, life=timedelta(hours=2))
THREE = Action("test.three", Permission.ARCHIVE_PURGE, needed=2)


@pytest.fixture(scope="module")
def quorum_url() -> Iterator[str]:
    with fresh("quorum") as url:
        with psycopg.connect(url, autocommit=True) as made:
            made.execute("INSERT INTO bailiwick.zones (name, created_at) VALUES ('default', now()), ('b', now())")
        yield url


class Hall:
    """A quorum, who is there, and what was noted."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=4)
        self.clock = FakeClock()
        self.people = {"jane": "admin", "olga": "admin", "ivan": "admin", "paul": "operator"}
        self.noted: list[tuple[Change, str]] = []
        self.quorum = Quorum(self.database, self.clock, Ids(), self._note, self._holders, [DESTROY, THREE])

    async def _note(self, tx: Transaction, change: Change, approval: Approval, context: Any) -> None:
        self.noted.append((change, approval.state))

    async def _holders(self, tx: Transaction, zone: str, roles: Sequence[Role]) -> list[str]:
        return sorted(name for name, role in self.people.items() if role in {str(each) for each in roles})

    async def ask(
        self, payload: dict[str, Any], by: str = "jane", action: Action = DESTROY, *, signed_in: bool = True
    ) -> Approval:
        async with self.database.begin() as tx:
            return await self.quorum.request(
                tx, None, "default", action.name, payload, by=by, reason="why", signed_in=signed_in
            )

    async def vote(self, approval: Approval, person: str, approves: bool = True, **more: Any) -> Approval:
        more.setdefault("payload_sha256", approval.payload_sha256)
        role = self.people.get(person.lower(), "viewer")
        return await self.quorum.vote(
            None, more.pop("zone", "default"), approval.id, person=person, role=role, approves=approves, **more
        )

    async def execute(self, approval: Approval, payload: dict[str, Any], zone: str = "default") -> Approval:
        async with self.database.begin() as tx:
            return await self.quorum.execute(tx, None, zone, approval.id, approval.action, payload, "job")


@pytest.fixture
async def hall(quorum_url: str) -> AsyncIterator[Hall]:
    made = Hall(quorum_url)
    try:
        yield made
    finally:
        await made.database.close()


def payload() -> dict[str, Any]:
    return {"what": secrets.token_hex(8), "count": 7}


async def refused(reason: str, call: Any) -> None:
    with pytest.raises(BailiwickError) as error:
        await call
    assert error.value.reason == reason, error.value


async def test_one_asks_another_approves_and_it_is_done_once(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted)
    assert (approval.state, approval.missing, approval.candidates) == ("open", 1, ("ivan", "olga"))
    assert (await hall.ask(wanted, by="ivan")).id == approval.id, "the same thing is asked for once"
    await refused("approval_required", hall.execute(approval, wanted))
    approved = await hall.vote(approval, "olga")
    assert (approved.state, approved.missing) == ("approved", 0)
    async with hall.database.begin() as tx:
        assert approval.id in [each.id for each in await hall.quorum.ready(tx, DESTROY.name)]
    assert (await hall.execute(approval, wanted)).state == "executed"
    await refused("approval_ended", hall.execute(approval, wanted))
    await refused("approval_ended", hall.vote(approval, "ivan"))
    assert hall.noted == [("requested", "open"), ("voted", "approved"), ("executed", "executed")]


@pytest.mark.parametrize("person", ["jane", "JANE", "Jane"])
async def test_nobody_approves_his_own_request(hall: Hall, person: str) -> None:
    approval = await hall.ask(payload())
    await refused("approval_own_request", hall.vote(approval, person))


async def test_who_may_not_do_it_may_not_approve_it(hall: Hall) -> None:
    approval = await hall.ask(payload())
    await refused("permission_denied", hall.vote(approval, "paul"))
    await refused("permission_denied", hall.vote(approval, "stranger"))
    await refused("not_found", hall.vote(approval, "olga", zone="b"))


async def test_what_is_done_is_what_was_approved(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted)
    await refused("approval_changed", hall.vote(approval, "olga", payload_sha256="0" * 64))
    await hall.vote(approval, "olga")
    for other in ({**wanted, "count": 8}, {**wanted, "more": True}, {}):
        await refused("approval_changed", hall.execute(approval, other))
    assert (await hall.execute(approval, dict(reversed(wanted.items())))).state == "executed"


async def test_a_person_has_one_vote(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted, action=THREE)
    await hall.vote(approval, "olga")
    await refused("conflict", hall.vote(approval, "olga"))
    await refused("conflict", hall.vote(approval, "Olga"))
    await refused("approval_required", hall.execute(approval, wanted))
    await hall.vote(approval, "ivan")
    assert (await hall.execute(approval, wanted)).state == "executed"


async def test_one_rejection_ends_it(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted, action=THREE)
    await hall.vote(approval, "olga")
    assert (await hall.vote(approval, "ivan", approves=False)).state == "rejected"
    await refused("approval_ended", hall.execute(approval, wanted))
    assert (await hall.ask(wanted)).id != approval.id, "it may be asked for again"


async def test_a_request_dies_with_its_time(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted)
    await hall.vote(approval, "olga")
    hall.clock.advance(2 * 3600)
    assert (await hall.quorum.get("default", approval.id)).state == "expired"
    await refused("approval_ended", hall.execute(approval, wanted))
    again = await hall.ask(wanted)
    assert again.id != approval.id and not again.votes


async def test_an_approval_of_somebody_who_left_does_not_count(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted)
    await hall.vote(approval, "olga")
    hall.people["olga"] = "viewer"
    await refused("approval_required", hall.execute(approval, wanted))
    await hall.vote(approval, "ivan")
    assert (await hall.execute(approval, wanted)).state == "executed"


async def test_who_asks_at_the_machine_needs_two_signed_in(hall: Hall) -> None:
    wanted = payload()
    approval = await hall.ask(wanted, by="os:root", signed_in=False)
    assert (await hall.vote(approval, "jane")).state == "open"
    await refused("approval_required", hall.execute(approval, wanted))
    await hall.vote(approval, "olga")
    assert (await hall.execute(approval, wanted)).state == "executed"


async def test_with_nobody_else_there_it_is_blocked_and_says_so(hall: Hall) -> None:
    hall.people = {"jane": "admin", "paul": "operator"}
    told = (await hall.ask(payload())).document()
    assert "invite somebody" in told["blocked"]


async def test_a_request_is_withdrawn_by_who_asked(hall: Hall) -> None:
    approval = await hall.ask(payload())
    withdraw = hall.quorum.withdraw
    await refused("permission_denied", withdraw(None, "default", approval.id, person="paul", role="operator"))
    assert (await withdraw(None, "default", approval.id, person="jane", role="viewer")).state == "withdrawn"
    await refused("approval_ended", withdraw(None, "default", approval.id, person="jane", role="admin"))


async def test_two_at_once_execute_once(hall: Hall) -> None:
    import asyncio

    wanted = payload()
    approval = await hall.ask(wanted)
    await hall.vote(approval, "olga")
    done = await asyncio.gather(*(hall.execute(approval, wanted) for _ in range(3)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Approval", "Conflict", "Conflict"]


def test_the_hash_is_of_action_zone_and_payload() -> None:
    one = payload_hash("a", "z", {"x": 1, "y": "é"})
    assert one == payload_hash("a", "z", {"y": "é", "x": 1})
    assert len({one, payload_hash("b", "z", {"x": 1, "y": "é"}), payload_hash("a", "y", {"x": 1, "y": "é"})}) == 3
    with pytest.raises(ValueError):
        payload_hash("a", "z", {"x": float("nan")})


async def test_rooms_register_their_own_actions_each_once(hall: Hall) -> None:
    hall.quorum.register(Action("test.other", Permission.ARCHIVE_PURGE))
    assert (await hall.ask(payload(), action=Action("test.other", Permission.ARCHIVE_PURGE))).action == "test.other"
    with pytest.raises(ValueError):
        hall.quorum.register(Action("test.other", Permission.KEYS_ROTATE))


def test_an_action_cannot_be_one_persons() -> None:
    with pytest.raises(ValueError):
        Action("x", Permission.ARCHIVE_PURGE, needed=0)
