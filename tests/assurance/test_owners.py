"""Owners: the RACI resolves to one living person, or the check says where it does not; leaving leaves tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from stage import Stage

import bailiwick.assurance
from bailiwick.app.assurance.owners import KINDS, Desk, OwnersWork, desk
from bailiwick.assurance.book import BadBook, Kind, read_text
from bailiwick.assurance.oncall.api import routes as oncall_routes
from bailiwick.assurance.owners.api import routes
from bailiwick.assurance.owners.check import Checked
from bailiwick.assurance.owners.parties import is_placeholder, party, reaches_nobody
from bailiwick.assurance.owners.service import Installation
from bailiwick.assurance.ports import Owned
from bailiwick.assurance.tasks import TaskWatch
from bailiwick.assurance.tasks_api import routes as task_routes
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.fields import Body
from bailiwick.kernel.permissions import OWNER_ROLES
from people_fixtures import House

SHIPPED = Path(bailiwick.assurance.__file__).parent / "shipped" / "owners.yaml"


class Gauge(Body):
    """A kind of another part, which says ``owner`` at its top and deeper."""

    owner: str = ""
    parts: list[dict[str, str]] = Field(default_factory=list)


GAUGE = Kind("Gauge", Gauge)


class Kept:
    """What another part keeps beside the book."""

    def __init__(self) -> None:
        self.things: list[Owned] = []

    async def owned(self, tx: Transaction, zone: str) -> list[Owned]:
        return self.things


class Played(Stage):
    """A stage with this part on it."""

    def __init__(self, house: House) -> None:
        super().__init__(house, [*KINDS, GAUGE])
        self.kept = Kept()
        self.desk: Desk = desk(
            self.database, self.clock, self.ids, self.recorder, self.books, [Installation(), self.kept]
        )
        watch = TaskWatch(self.clock, self.desk.tasks, self.desk.ownership, self.heard, self.heard)
        self.work = OwnersWork(
            self.database, self.clock, self.desk, watch, self.records, self.heard, self.heard, self.recorder
        )
        self.serve(
            routes(self.database, self.clock, self.desk.ownership),
            oncall_routes(self.database, self.clock, self.desk.oncall),
            task_routes(self.database, self.desk.tasks),
        )

    async def watch(self) -> dict[str, int]:
        found: dict[str, int] = (await self.work.watch(self.clock.now()))["default"]
        return found

    async def check(self) -> Checked:
        async with self.database.begin() as tx:
            return await self.desk.ownership.check(tx, self.context(), self.clock.now())

    async def problems(self) -> dict[str, str]:
        """What the check finds, by thing and place."""
        return {f"{each.thing} {each.place}": each.problem for each in (await self.check()).findings}

    async def answers(self, owner: str) -> str | None:
        async with self.database.begin() as tx:
            person = await self.desk.ownership.accountable(tx, "default", owner, self.clock.now())
        return person.username if person is not None else None

    async def staffed(self) -> None:
        """Everybody whom the shipped book needs."""
        for role in (*OWNER_ROLES, "operator", "auditor", "admin"):
            await self.people.user(f"{role}1".replace("_", "-"), role)

    async def sources(self) -> list[str]:
        async with self.database.begin() as tx:
            return await self.desk.tasks.sources(tx, "default", "")

    async def disable(self, username: str, active: bool = False) -> None:
        if active:  # which takes two persons, and is not what is tried here
            async with self.database.begin() as tx:
                await tx.run("UPDATE users SET is_active = true WHERE username = :name", name=username)
            return
        await self.people.users.change(self.context(), username, {"is_active": False})


@pytest.fixture
async def stage(house: House) -> Played:
    return Played(house)


def activity(name: str, accountable: str = "person:jane", **more: Any) -> str:
    return document("Activity", name, {"accountable": accountable, "covers": ["*/*"], **more})


def document(kind: str, name: str, spec: dict[str, Any]) -> str:
    return f"apiVersion: bailiwick/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {json.dumps(spec)}\n---\n"


def rota(*people: str, **more: Any) -> str:
    levels = {"primary": {"people": list(people)}}
    return document("Rota", "default", {"owner": "a", "start": "2026-01-05", "levels": levels, **more})


# ---------------------------------------------------------------------- how owners are named


@pytest.mark.parametrize(
    "text",
    ["", " ", "TBD", "tbd", "[Name]", "<owner>", "{{owner}}", "N/A", "n/a", "na", "someone@", "someone@corp.net", "?",
     "???", "-", "TODO", "person:TBD", "role:", "person:[Name]", "nobody", "Jane Doe", "to be determined", "…"],
)  # fmt: skip
def test_what_is_no_name_is_known(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text", ["jane", "person:jane", "role:ops_owner", "uptime", "jane@corp.net", "nadia", "none-sleep"]
)
def test_what_is_a_name_is_none(text: str) -> None:
    assert not is_placeholder(text)


@pytest.mark.parametrize(
    ("text", "nobody"),
    [("ops@corp.net", False), ("+49 30 901820", False), ("https://acme.net/support", False), ("#ops", False),
     ("ops@example.com", True), ("someone@", True), ("someone@corp.net", True), ("+00 000 0000", True), ("", True),
     ("https://example.org/page", True), ("TBD", True), ("mailto:[address]", True), ("https://support.invalid", True),
     ("tel:TBD", True), ("x@acme.test", True)],
)  # fmt: skip
def test_a_way_that_reaches_nobody_is_known(text: str, nobody: bool) -> None:
    assert reaches_nobody(text) is nobody


def test_a_word_alone_is_a_role_or_else_an_activity() -> None:
    assert str(party("ops_owner")) == "role:ops_owner"
    assert str(party("uptime")) == "activity:uptime"
    assert str(party("rota:default")) == "rota:default/primary"


# ---------------------------------------------------------------------- who answers


async def test_a_deputy_acts_on_his_days_and_when_there_is_nobody_else(stage: Played) -> None:
    for name in ("jane", "joe", "kim"):
        await stage.people.user(name)
    await stage.apply(
        activity("a", deputies=[{"person": "joe", "from": "2026-01-05", "until": "2026-01-06"}, {"person": "kim"}])
    )
    assert await stage.answers("a") == "joe"
    stage.clock.advance(2 * 86400)
    assert await stage.answers("a") == "jane"
    await stage.disable("jane")
    assert await stage.answers("a") == "kim"
    assert "jane is not active; kim stands in" in (await stage.problems())["Activity/a spec.accountable"]
    await stage.disable("kim")
    assert await stage.answers("a") is None
    assert await stage.answers("person:joe") == "joe"
    assert await stage.answers("no-such") is None


async def test_an_owner_role_is_held_by_group_too_and_the_longest_here_answers(stage: Played) -> None:
    await stage.apply(activity("a", "role:ops_owner"))
    assert await stage.answers("a") is None
    await stage.people.user("zoe", "ops_owner")
    await stage.people.user("ada", "viewer")
    await stage.people.groups.create(stage.context(), "finance", role="finance_owner", members=["zoe", "ada"])
    assert await stage.answers("a") == await stage.answers("ops_owner") == "zoe"
    # an administrator by his permissions, and still the owner of the two planes his groups give him
    await stage.people.user("boss")
    await stage.people.groups.create(stage.context(), "admins", role="admin", members=["zoe"])
    assert await stage.people.value("SELECT role FROM users WHERE username = 'zoe'") == "admin"
    assert await stage.answers("a") == await stage.answers("role:finance_owner") == "zoe"
    await stage.disable("zoe")
    assert (await stage.answers("a"), await stage.answers("finance_owner")) == (None, "ada")
    async with stage.database.begin() as tx:
        planes = await stage.desk.ownership.planes(tx, "default")
        held = await stage.desk.ownership.holders(tx, "default", "finance_owner", stage.clock.now())
    assert {role: [each.username for each in found] for role, found in planes.items()} == {
        "ops_owner": [], "security_owner": [], "finance_owner": ["ada"], "product_owner": []
    }  # fmt: skip
    assert [each.email for each in held] == ["ada@example.com"]


async def test_an_activity_holds_within_its_days(stage: Played) -> None:
    await stage.people.user("jane")
    await stage.apply(activity("a", **{"from": "2026-01-06", "until": "2026-01-06"}))
    for expected in (None, "jane", None):
        assert await stage.answers("a") == expected
        stage.clock.advance(86400)
    with pytest.raises(BadBook):
        await stage.books.plan(
            "default", read_text(activity("a", **{"from": "2026-01-06", "until": "2026-01-05"}), "a")
        )


# ---------------------------------------------------------------------- the check


async def test_the_shipped_book_is_sound_once_every_plane_is_held(stage: Played) -> None:
    documents = read_text(SHIPPED.read_text(), "owners.yaml")
    assert await stage.books.ship(stage.context("bailiwick"), documents)
    before = await stage.check()
    assert before.verdict == "FAIL" and any("nobody holds finance_owner" in each.problem for each in before.findings)
    await stage.staffed()
    checked = await stage.check()
    assert (checked.findings, checked.verdict) == ([], "PASS")
    assert checked.things >= 20
    await stage.disable("finance-owner1")
    after = await stage.check()
    assert {each.thing for each in after.findings} >= {"Activity/reconciliation", "Activity/stuck-jobs"}
    await stage.disable("finance-owner1", active=True)
    assert (await stage.check()).verdict == "PASS"
    events = [event for event in await stage.people.events() if event.code == "BW7101"]
    assert [event.details["verdict"] for event in events] == ["FAIL", "PASS", "FAIL", "PASS"]


async def test_whatever_says_owner_is_found_in_every_kind_and_beside_the_book(stage: Played) -> None:
    await stage.people.user("jane")
    sound = activity("a") + rota("jane")
    await stage.apply(sound + document("Gauge", "g", {"owner": "a", "parts": [{"owner": "person:jane"}]}))
    assert await stage.problems() == {}
    bad = {"owner": "TBD", "parts": [{"owner": "person:jane"}, {"owner": "person:joe"}]}
    await stage.apply(sound + document("Gauge", "g", bad) + document("Gauge", "h", {}))
    stage.kept.things = [Owned("waiver/w1", "no-such"), Owned("waiver/w2")]
    assert await stage.problems() == {
        "Gauge/g spec.owner": "a placeholder",
        "Gauge/g spec.parts.1.owner": "there is nobody called 'joe'",
        "Gauge/h spec.owner": "a placeholder",
        "waiver/w1 owner": "there is no activity 'no-such'",
    }


async def test_a_job_that_no_activity_covers_is_found(stage: Played) -> None:
    await stage.people.user("jane")
    await stage.people.user("joe")
    async with stage.database.begin() as tx:
        for job in ("archive:seal", "slo:weekly@default", "slo:weekly@elsewhere"):
            await tx.run(
                "INSERT INTO job_occurrences (job, due_at) VALUES (:job, :now)", job=job, now=stage.clock.now()
            )
    covers = ["Rota/*", "job/archive:*"]
    await stage.apply(activity("a", covers=covers) + rota("jane"))
    assert await stage.problems() == {"job/slo:weekly@default owner": "names no owner, and no activity covers it"}
    # the longest pattern holds
    narrow = activity("b", "person:joe", covers=["job/slo:*"])
    await stage.apply(activity("a", covers=["*/*"]) + narrow + rota("jane"))
    assert await stage.problems() == {}
    await stage.disable("joe")
    assert set(await stage.problems()) == {"Activity/b spec.accountable", "job/slo:weekly@default owner"}


@pytest.mark.parametrize(
    ("spec", "place", "problem"),
    [
        ({"accountable": "[Name]"}, "spec.accountable", "a placeholder"),
        ({"accountable": ""}, "spec.accountable", "a placeholder"),
        ({"accountable": "rota:default"}, "spec.accountable", "not one person or role"),
        ({"accountable": "person:nobody-here"}, "spec.accountable", "there is nobody called 'nobody-here'"),
        ({"accountable": "role:security_owner"}, "spec.accountable", "nobody holds security_owner"),
        ({"responsible": ["rota:other"]}, "spec.responsible.0", "there is no rota 'other'"),
        ({"responsible": ["rota:default/lead"]}, "spec.responsible.0", "the rota has no level 'lead'"),
        ({"consulted": ["contact:dba"]}, "spec.consulted.0", "there is no contact 'dba'"),
        ({"informed": ["N/A"]}, "spec.informed.0", "a placeholder"),
        ({"deputies": [{"person": "gone"}]}, "spec.deputies.0", "gone is not active"),
        ({"from": "2027-01-01"}, "spec.accountable", "not in force today"),
    ],
)
async def test_an_activity_that_leads_to_nobody_is_found(
    stage: Played, spec: dict[str, Any], place: str, problem: str
) -> None:
    await stage.people.user("jane")
    await stage.people.user("gone", is_active=False)
    await stage.apply(activity("a") + activity("b", **{"covers": [], **spec}) + rota("jane"))
    assert await stage.problems() == {f"Activity/b {place}": problem}


async def test_two_accountable_are_refused(stage: Played) -> None:
    wrong = document("Activity", "a", {"accountable": ["person:jane", "person:joe"]})
    with pytest.raises(BadBook) as refused:
        await stage.books.plan("default", read_text(wrong, "a.yaml"))
    assert "spec.accountable" in refused.value.problems[0]


async def test_a_contact_that_reaches_nobody_is_found(stage: Played) -> None:
    await stage.people.user("jane")
    good = {
        "kind": "vendor",
        "name": "Acme",
        "reach": ["ops@acme.net"],
        "hours": "24x7",
        "contract": "C-7",
        "owner": "a",
    }
    sound = activity("a", consulted=["contact:acme"]) + rota("jane")
    await stage.apply(sound + document("Contact", "acme", good))
    assert await stage.problems() == {}
    for wrong, place in (
        ({"name": "[Vendor]"}, "spec.name"),
        ({"reach": []}, "spec.reach"),
        ({"reach": ["ops@acme.net", "TBD"]}, "spec.reach.1"),
        ({"reach": ["someone@"]}, "spec.reach.0"),
        ({"hours": "N/A"}, "spec.hours"),
        ({"contract": ""}, "spec.contract"),
        ({"owner": ""}, "spec.owner"),
    ):
        await stage.apply(sound + document("Contact", "acme", good | wrong))
        assert set(await stage.problems()) == {f"Contact/acme {place}"}, wrong


async def test_a_rota_with_a_gap_or_somebody_gone_is_found(stage: Played) -> None:
    await stage.people.user("jane")
    await stage.people.user("joe", is_active=False)
    for spec, place, problem in (
        ({"start": "2026-01-20"}, "spec.levels.primary", "nobody is on call: not begun"),
        ({"until": "2026-02-01"}, "spec.levels.primary", "nobody is on call: ended"),
        ({"levels": {"primary": {"people": ["jane", "joe"]}}}, "spec.levels.primary.people.1", "joe is not active"),
        ({"levels": {"primary": {"people": ["jane", "ann"]}}}, "spec.levels.primary.people.1", "ann is nobody here"),
        ({"levels": {"primary": {"people": ["TBD", "jane"]}}}, "spec.levels.primary.people.0", "a placeholder"),
        ({"levels": {"primary": {"people": ["jane"]}, "lead": {"role": "ops_owner"}}}, "spec.levels.lead.role",
         "nobody holds ops_owner"),
    ):  # fmt: skip
        await stage.apply(activity("a") + rota("jane", **spec))
        found = await stage.problems()
        assert found[f"Rota/default {place}"] == problem
    gap = {"from": "2026-01-10T00:00:00Z", "until": "2026-01-12T00:00:00Z", "reason": "closed"}
    await stage.apply(activity("a") + rota("jane", gaps=[gap]))
    assert await stage.problems() == {}
    await stage.apply(activity("a"))
    assert await stage.problems() == {"oncall ": "there is no rota: nobody is on call"}
    with pytest.raises(BadBook):
        await stage.books.plan("default", read_text(rota("jane", time_zone="Europe/Atlantis"), "a.yaml"))


async def test_an_empty_book_proves_nothing(stage: Played) -> None:
    assert (await stage.check()).verdict == "NO_DATA"


# ---------------------------------------------------------------------- leaving


async def test_leaving_opens_tasks_for_everything_and_coming_back_closes_them(stage: Played) -> None:
    for name in ("jane", "joe"):
        await stage.people.user(name)
    await stage.people.user("finn", "finance_owner")
    await stage.apply(
        activity("a", "person:joe", deputies=[{"person": "jane"}])
        + activity("b", covers=[])
        + activity("money", "role:finance_owner", covers=[])
        + rota("joe", "jane")
        + document("Gauge", "g", {"owner": "person:jane"})
    )
    await stage.watch()
    assert await stage.sources() == []
    await stage.disable("jane")
    await stage.disable("finn")
    assert (await stage.watch())["opened"] == 5
    assert await stage.sources() == [
        "owners/leaving/jane/Activity/a/deputy",
        "owners/leaving/jane/Activity/b/accountable",
        "owners/leaving/jane/Gauge/g/owner",
        "owners/leaving/jane/Rota/default/on call (primary)",
        "owners/vacant/role:finance_owner//",
    ]
    assert (await stage.watch())["opened"] == 0
    # somebody says that it is done while it is not: it is opened again
    async with stage.database.begin() as tx:
        first = (await stage.desk.tasks.list(tx, "default"))[0]
        await stage.desk.tasks.done(tx, stage.context(), first.id, "did it", by="root")
    assert (await stage.watch())["opened"] == 1
    await stage.disable("jane", active=True)
    assert (await stage.watch())["closed"] == 4
    assert await stage.sources() == ["owners/vacant/role:finance_owner//"]
    await stage.people.users.change(stage.context(), "joe", {"role": "finance_owner"})
    assert (await stage.watch())["closed"] == 1
    assert await stage.sources() == []
    ended = [event for event in await stage.people.events() if event.code == "BW7124"]
    assert [event.details["state"] for event in ended].count("closed") == 5


async def test_whoever_answers_from_now_on_is_told_and_takes_over_from_who_left(stage: Played) -> None:
    await stage.apply(activity("a", "role:ops_owner") + activity("b", "role:ops_owner", covers=[]) + rota("root"))
    await stage.people.user("root")
    await stage.watch()
    assert [notice.to for notice in stage.heard.notices if notice.key.startswith("owners/")] == []
    await stage.people.user("zoe", "ops_owner")
    await stage.people.user("ada", "ops_owner")
    await stage.watch()
    await stage.watch()
    told = [notice for notice in stage.heard.notices if notice.key.startswith("owners/")]
    assert [(notice.to, notice.subject) for notice in told] == [("person:zoe", "You answer for a and 1 more")]
    await stage.disable("zoe")
    await stage.watch()
    told = [notice for notice in stage.heard.notices if notice.key.startswith("owners/")]
    assert told[-1].to == "person:ada" and "  b\n" in told[-1].body
    assert await stage.sources() == ["handover/zoe/a", "handover/zoe/b"]
    async with stage.database.begin() as tx:
        first = (await stage.desk.tasks.list(tx, "default"))[-1]
        await stage.desk.tasks.done(tx, stage.context(), first.id, "taken over", by="ada")
    await stage.watch()
    assert len(await stage.sources()) == 1  # what was taken over is not asked for again
    await stage.disable("zoe", active=True)
    await stage.watch()
    assert await stage.sources() == []
    events = [event for event in await stage.people.events() if event.name == "owner.changed"]
    assert [(event.details["before"], event.details["after"]) for event in events if event.subject.id == "a"] == [
        ("", "zoe"), ("zoe", "ada"), ("ada", "zoe"),
    ]  # fmt: skip
    await stage.apply(activity("a", "role:ops_owner") + rota("root"))
    await stage.watch()
    assert await stage.people.value("SELECT count(*) FROM owners_answering") == 1


async def test_somebody_deleted_has_left_too(stage: Played) -> None:
    for name in ("jane", "joe"):
        await stage.people.user(name)
    await stage.apply(activity("a") + rota("joe"))
    await stage.people.users.delete(stage.context(), "jane")
    await stage.watch()
    assert await stage.sources() == ["owners/leaving/jane/Activity/a/accountable"]


async def test_the_hourly_check_leaves_a_record_and_an_alert_until_it_is_right(stage: Played) -> None:
    await stage.people.user("jane")
    await stage.apply(activity("a", "person:joe") + rota("jane"))
    found = (await stage.work.check(stage.clock.now()))["default"]
    assert found["verdict"] == "FAIL"
    assert "owners/check" in stage.heard.open_alerts and stage.heard.open_alerts["owners/check"].owner == "ownership"
    async with stage.database.begin() as tx:
        record = await stage.records.get(tx, "default", found["record"])
        assert record.record.verdict(stage.clock.now()) == "FAIL"
        assert b"there is nobody called 'joe'" in await stage.records.output(tx, record)
    await stage.apply(activity("a") + rota("jane"))
    assert (await stage.work.check(stage.clock.now()))["default"]["verdict"] == "PASS"
    assert stage.heard.open_alerts == {}


# ---------------------------------------------------------------------- by the API


async def test_the_api_lists_shows_and_checks(stage: Played) -> None:
    token = await stage.people.signed_in("root")
    await stage.apply(activity("a", "person:root") + rota("root"))
    listed = (await stage.call("GET", "/api/v1/owners", token=token)).json()
    assert listed["items"][0]["answers_now"]["username"] == "root"
    assert set(listed["planes"]) == {str(role) for role in OWNER_ROLES}
    shown = await stage.call("GET", "/api/v1/owners/a", token=token)
    assert (shown.status, shown.json()["accountable"], shown.json()["from"]) == (200, "person:root", None)
    assert (await stage.call("GET", "/api/v1/owners/b", token=token)).status == 404
    checked = (await stage.call("GET", "/api/v1/owners/check", token=token)).json()
    assert (checked["verdict"], checked["failed"]) == ("PASS", 0)
    viewer = await stage.people.signed_in("vera", "viewer")
    for path in ("owners", "owners/check", "oncall", "tasks"):
        assert (await stage.call("GET", f"/api/v1/{path}", token=viewer)).status == 403
