"""The chapters about finished rooms, and the conditions: by what is in the database, and by what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stage import Stage, room_of

from bailiwick.app.assurance import KINDS
from bailiwick.app.foundations import kek_file
from bailiwick.assurance.ports import Granted
from bailiwick.assurance.rhythm.ceremonies import Ceremony, in_force
from bailiwick.assurance.shipped import shipped
from bailiwick.handover.handovers.conditions import RHYTHM, STATEMENT, Facts, unmet
from bailiwick.handover.handovers.document import Shown, overall
from bailiwick.handover.handovers.service import cadence_of, upcoming
from bailiwick.handover.ports import OpenIncident, Point, Standing, Statement
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify import handover as offline
from people_fixtures import House

OURS = (
    "ownership", "versions", "secrets", "storage", "network", "observability", "runbooks", "access", "compliance",
    "waivers", "service-levels", "cadence",
)  # fmt: skip


class Room:
    def __init__(self, people: House, directory: Path) -> None:
        self.people = people
        self.house = room_of(people, directory).house

    async def open(self) -> Room:
        layout = self.house.base.layout
        layout.secrets.mkdir()
        kek_file(self.house.base.settings, layout).ensure()
        await self.house.books.ship(Stage(self.people, KINDS).context("bailiwick"), shipped("default"))
        return self

    async def told(self, chapter: str) -> dict[str, Statement]:
        now = self.people.clock.now()
        async with self.people.database.begin() as tx:
            said: Sequence[Statement] = await self.house.chapters[chapter](
                tx, "default", "production", now - timedelta(days=30), now
            )
        return {each.name: each for each in said}

    async def verdicts(self, chapter: str) -> dict[str, Verdict]:
        return {name: each.verdict for name, each in (await self.told(chapter)).items()}

    async def run(self, sql: str, **values: Any) -> None:
        async with self.people.owner.begin() as tx:
            await tx.run("SET LOCAL search_path = bailiwick")
            await tx.run(sql, now=self.people.clock.now(), **values)


@pytest.fixture
async def room(house: House, tmp_path: Path) -> Room:
    return await Room(house, tmp_path).open()


async def test_an_empty_installation_has_every_chapter_and_little_that_is_green(room: Room) -> None:
    green = {}
    for chapter in OURS:
        told = await room.told(chapter)
        assert told, chapter
        assert all(each.told and each.producer and each.until >= each.since for each in told.values())
        green[chapter] = {name for name, each in told.items() if each.verdict.green}
    assert not green["ownership"] and not green["runbooks"]
    storage = await room.verdicts("storage")
    assert storage["ledger-whole"] is Verdict.NO_DATA
    assert "redis-snapshot" not in storage  # nothing is said of what is not there
    assert "streams-cut" not in await room.told("network")


async def test_ownership_follows_people(room: Room) -> None:
    for name, role in (("olga", "ops_owner"), ("sam", "security_owner"), ("finn", "finance_owner"),
                       ("pia", "product_owner")):  # fmt: skip
        await room.people.user(name, role)
    told = await room.told("ownership")
    assert {name for name, each in told.items() if each.verdict.green} >= {"service-owner", "security-owner", "planes"}
    assert told["service-owner"].figures["person"] == "olga"
    await room.run("UPDATE users SET is_active = false WHERE username = 'sam'")
    assert (await room.verdicts("ownership"))["security-owner"] is Verdict.FAIL


async def test_access_wants_two_administrators_with_factors(room: Room) -> None:
    await room.people.user("ada")
    assert (await room.verdicts("access"))["roles"] is Verdict.FAIL
    await room.people.user("bob")
    access = await room.verdicts("access")
    assert access["roles"] is Verdict.PASS and access["administrators"] is Verdict.FAIL
    await room.run(
        "INSERT INTO factors (id, zone, username, kind, name, created_at, confirmed_at)"
        " SELECT username, 'default', username, 'totp', 'app', :now, :now FROM users"
    )
    assert (await room.verdicts("access"))["administrators"] is Verdict.PASS


async def test_a_runbook_counts_for_ninety_days(room: Room) -> None:
    name = next(iter(await room.told("runbooks")))
    assert (await room.verdicts("runbooks"))[name] is Verdict.NO_DATA
    await room.run(
        "INSERT INTO runbook_runs (id, zone, runbook, version, dry, started_by, started_at, steps, ended_at, outcome)"
        " VALUES ('r', 'default', :name, 1, true, 'olga', :now, '[]', :now, 'done')",
        name=name,
    )
    assert (await room.verdicts("runbooks"))[name] is Verdict.PASS
    room.people.clock.advance(91 * 86400)
    assert (await room.verdicts("runbooks"))[name] is Verdict.STALE


async def test_streams_that_nothing_cuts_are_listed_by_name(room: Room) -> None:
    await room.people.server("feeds")
    operations = (
        '{"operations": [{"method": "GET", "path": "/events", "scope": "a:b", "long_lived": true},'
        ' {"method": "GET", "path": "/export", "scope": "a:b", "long_lived": false}]}'
    )
    await room.run("UPDATE servers SET binding = cast(:b AS jsonb) WHERE :now IS NOT NULL", b=operations)
    told = await room.told("network")
    assert told["streams-cut"].figures["rows"] == [{"server": "feeds", "method": "GET", "path": "/events"}]
    assert told["streams-not-cut"].figures["rows"] == [{"server": "feeds", "method": "GET", "path": "/export"}]
    assert "feeds GET /export" in told["streams-not-cut"].told


async def test_secrets_are_told_without_their_values(room: Room) -> None:
    await room.run(
        "INSERT INTO zone_keys (kid, zone, purpose, algorithm, public_jwk, private_sealed, created_at, changed_at)"
        " VALUES ('k9', 'default', 'session', 'ES256', '{}', 'sealed-thing', :now, :now)"
    )
    inventory = (await room.told("secrets"))["inventory"]
    rows: Any = inventory.figures["rows"]
    key = next(row for row in rows if row["name"] == "signing-key/session")
    assert key["rotate_by"] - key["last_rotated"] == timedelta(days=90)
    assert "sealed-thing" not in str(rows)
    room.people.clock.advance(91 * 86400)
    assert (await room.verdicts("secrets"))["inventory"] is Verdict.FAIL


async def test_evidence_that_does_not_flow_and_waivers_past_their_end_are_red(room: Room) -> None:
    assert (await room.verdicts("storage"))["evidence-flow"] is Verdict.PASS
    await room.run(
        "INSERT INTO ledger.dead_letters (source, segment, position, zone, reason, size, frame, at)"
        " VALUES ('w0', 1, 1, 'default', 'bad', 1, 'x', :now)"
    )
    assert (await room.verdicts("storage"))["evidence-flow"] is Verdict.FAIL
    await room.run("DELETE FROM ledger.dead_letters WHERE :now IS NOT NULL")
    assert (await room.verdicts("waivers"))["register"] is Verdict.PASS
    await room.run(
        "INSERT INTO waivers (id, zone, control, scope, reason, risk, compensating, owner, plan, requested_by, signed_in,"
        " tier, valid_from, valid_until, state, created_at, changed_at) VALUES ('w', 'default', 'c', 's', 'r', 'LOW', '',"
        " 'o', 'p', 'x', true, 1, CAST(:now AS timestamptz) - interval '2 days', CAST(:now AS timestamptz) - interval"
        " '1 day', 'approved', :now, :now)"
    )
    assert (await room.verdicts("waivers"))["register"] is Verdict.FAIL


async def test_what_never_happened_is_no_data(room: Room) -> None:
    assert (await room.verdicts("network"))["upstreams"] is Verdict.NO_DATA  # no server
    await room.people.server("feeds")
    assert (await room.verdicts("network"))["upstreams"] is Verdict.PASS
    await room.run(
        "INSERT INTO siem_sinks (id, zone, name, kind, options, sealed, format, filter, redact, batch_size, linger_s,"
        " all_zones, enabled, created_at, updated_at) VALUES ('s', 'default', 'soc', 'webhook', '{}', '', 'native',"
        " '{}', '[]', 1, 1, false, true, :now, :now)"
    )
    assert (await room.verdicts("compliance"))["sink-soc"] is Verdict.NO_DATA  # nothing was delivered
    now = room.people.clock.now()
    async with room.people.database.begin() as tx:  # a zone whose book is empty
        (told,) = await room.house.chapters["runbooks"](tx, "elsewhere", "production", now - timedelta(days=30), now)
    assert (told.name, told.verdict) == ("runbooks", Verdict.NO_DATA)


async def test_rotations_that_nothing_proved_are_no_data(room: Room) -> None:
    assert (await room.verdicts("secrets"))["rotations"] is Verdict.PASS
    for number, (verdict, hours, told) in enumerate(
        [("PASS", 0, Verdict.PASS), ("NOT_DUE", 1, Verdict.PASS), ("NO_DATA", 0, Verdict.NO_DATA),
         ("FAIL", 0, Verdict.FAIL)]
    ):  # fmt: skip
        await room.run(
            "INSERT INTO secret_rotations (id, zone, kind, name, old, new, rotated_by, rotated_at, overlap_until,"
            " verdict) VALUES (:id, 'default', 'setting', 'x', 'a', 'b', 'olga', :now, CAST(:now AS timestamptz)"
            " + CAST(:hours AS int) * interval '1 hour', :verdict)",
            id=f"r{number}", verdict=verdict, hours=hours,
        )  # fmt: skip
        assert (await room.verdicts("secrets"))["rotations"] is told, verdict
    await room.run("DELETE FROM secret_rotations WHERE verdict IN ('NO_DATA', 'FAIL') AND :now IS NOT NULL")
    assert (await room.verdicts("secrets"))["rotations"] is Verdict.PASS
    room.people.clock.advance(7200)  # past the overlap, and nobody looked
    assert (await room.verdicts("secrets"))["rotations"] is Verdict.NO_DATA


async def test_the_shipped_rhythm_is_what_the_statement_asks_for(room: Room) -> None:
    async with room.people.database.begin() as tx:
        book = await room.house.books.current(tx, "default")
    assert all(upcoming(book, room.people.clock.now())[cadence] is not None for cadence in RHYTHM)
    cadences = ("daily", "weekly", "monthly")
    told = await room.told("cadence")  # the days are set, and none of them came yet
    assert all(each.verdict is Verdict.PASS and "for the first time to come" in each.told for each in told.values())
    room.people.clock.advance(40 * 86400)
    assert await room.verdicts("cadence") == dict.fromkeys(cadences, Verdict.NO_DATA)  # nor when it should have been
    for name, each in in_force(book).items():
        if cadence_of(each) in cadences:
            await room.run(
                "INSERT INTO rhythm_occurrences (id, zone, ceremony, starts_at, ends_at, made_by, state, created_at,"
                " moved_at) VALUES (:name, 'default', :name, :now, :now, '1', :state, :now, :now)",
                name=name, state="held" if each.attended else "done",
            )  # fmt: skip
    assert await room.verdicts("cadence") == dict.fromkeys(cadences, Verdict.PASS)
    room.people.clock.advance(60)
    await room.run(
        "INSERT INTO rhythm_occurrences (id, zone, ceremony, starts_at, ends_at, made_by, state, created_at, moved_at)"
        " VALUES ('o', 'default', 'daily-health', :now, :now, '1', 'missed', :now, :now)"
    )
    assert (await room.verdicts("cadence"))["daily"] is Verdict.FAIL


def test_cadences_are_read_off_ceremonies() -> None:
    def of(**when: Any) -> str:
        return cadence_of(Ceremony(title="x", owner="uptime", roles=["ops_owner"], **when))

    weekly = {"weekday": "monday", "at": "10:00"}
    assert [of(every=weekly), of(every={**weekly, "weeks": 2})] == ["weekly", "bi-weekly"]
    assert [of(cron=each) for each in ("0 8 * * *", "0 8 * * mon", "0 8 1 * *", "0 8 * * tue#2", "0 8 1 1,4 *")] == [
        "daily", "weekly", "monthly", "monthly", "quarterly",
    ]  # fmt: skip


async def test_each_condition_of_the_statement_is_one(room: Room) -> None:
    now = room.people.clock.now()
    good = Standing(Verdict.PASS, now)
    facts = Facts(
        "hypercare", good, good, [OpenIncident("I1", Severity.P2, "small", now)], {"uptime": "olga"},
        dict.fromkeys(RHYTHM, now), frozenset({7, 14, 30}),
    )  # fmt: skip
    assert unmet(facts) == []
    for change, told in (
        ({"stage": "live"}, "the environment is live, not in hypercare"),
        ({"stage": None}, "nobody declared the environment"),
        ({"hypercare": None}, "hypercare is not known"),
        ({"hypercare": Standing(Verdict.NOT_DUE, now)}, "hypercare is NOT_DUE"),
        ({"readiness": Standing(Verdict.PASS, now, blockers=[Point("a", Verdict.FAIL)])}, "readiness is PASS: a"),
        ({"incidents": [OpenIncident("I2", Severity.P1, "big", now)]}, "incident I2 (P1) is open: big"),
        ({"accountable": {}}, "no activity has an owner"),
        ({"accountable": {"uptime": ""}}, "nobody answers for uptime"),
        ({"next": {**dict.fromkeys(RHYTHM, now), "bi-weekly": None}}, "no bi-weekly review is to be held"),
        ({"checkpoints": frozenset({7, 30})}, "there is no checkpoint T+14"),
        ({"untracked": ["growth"]}, "risk growth has no owner or day"),
        ({"lapsed": ["tls for a"]}, "waiver tls for a is past its end"),
        ({"unheeded": ["storage/drill is FAIL"]}, "statement storage/drill is FAIL is neither PASS nor waived"),
    ):
        assert unmet(replace(facts, **change)) == [told]  # type: ignore[arg-type]


def test_a_pack_is_as_bad_as_what_is_worst_and_not_waived() -> None:
    now = Standing(Verdict.PASS, datetime(2026, 1, 1, tzinfo=UTC))

    granted = Granted("w", "handover-statement", "production/c/s", now.at, "")

    def shown(verdict: Verdict, waiver: Granted | None = None) -> Shown:
        return Shown("c", Statement("s", "t", verdict, "p", now.at, now.at), waiver)

    assert overall([], now) is Verdict.NO_DATA
    assert overall([shown(Verdict.PASS), shown(Verdict.STALE)], now) is Verdict.STALE
    assert overall([shown(Verdict.PASS), shown(Verdict.STALE, granted)], now) is Verdict.PASS
    assert overall([shown(Verdict.PASS)], Standing(Verdict.NO_DATA, now.at)) is Verdict.NO_DATA
    blocked = Standing(Verdict.PASS, now.at, blockers=[Point("x", Verdict.PASS)])
    assert overall([shown(Verdict.PASS)], blocked) is Verdict.FAIL


def test_the_verifier_knows_the_same_statement_and_teams() -> None:
    from bailiwick.handover.handovers.document import FORMAT
    from bailiwick.handover.handovers.plan import TEAMS

    assert (offline.STATEMENT, offline.TEAMS, offline.FORMAT) == (STATEMENT, TEAMS, FORMAT)
