"""What the parts of the room know of each other: every port is filled, every name that is asked for is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stage import Stage, room_of

from bailiwick.app.assurance import KINDS, facts
from bailiwick.app.assurance.facts import AlarmDrills, CapacityTrends, ProbeVerdicts, ServiceLevels, WaiversInForce
from bailiwick.app.house import PORTS, House, Later
from bailiwick.assurance.capacity import CAPACITY
from bailiwick.assurance.ports import Automated
from bailiwick.assurance.rhythm.automatic import run_part
from bailiwick.assurance.rhythm.ceremonies import CEREMONY
from bailiwick.assurance.shipped import shipped
from bailiwick.assurance.slo.openslo import SLO
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House as People

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOT_YET: frozenset[str] = frozenset()
"""Names that shipped ceremonies ask for and nobody answers yet; they are shown as NO_DATA."""


@pytest.fixture
def room(house: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("bailiwick.app.assurance.secrets.kek_file", lambda *given: _Kek(house))
    return room_of(house, tmp_path).house


@pytest.fixture
def now(house: People) -> datetime:
    return house.clock.now()


@pytest.fixture
async def rows(house: People) -> Callable[..., Any]:
    async def insert(table: str, **values: Any) -> None:
        names = {name: json.dumps(each) if isinstance(each, dict) else each for name, each in values.items()}
        places = ", ".join(
            f"cast(:{name} AS jsonb)" if isinstance(values[name], dict) else f":{name}" for name in names
        )
        async with house.database.begin() as tx:
            await tx.run(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", **names)

    return insert


# ---------------------------------------------------------------------- the room


def test_no_port_of_the_room_is_left_unfilled(room: House) -> None:
    for port in PORTS:
        assert not isinstance(getattr(room, port), Later), port


async def test_a_port_that_nobody_fills_stops_the_room(
    house: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bailiwick.app.assurance.install", lambda house: None)
    with pytest.raises(ValueError, match="no part is the verdicts"):
        room_of(house, tmp_path)


def test_every_name_that_shipped_ceremonies_ask_for_is_answered(room: House) -> None:
    asked = {
        name
        for document in shipped("default")
        if document.kind == CEREMONY.name
        for name in CEREMONY.read(document.spec).automatic
    }
    assert len(asked) > 15
    assert asked - set(room.automatic) == NOT_YET


async def test_every_part_answers_in_an_empty_zone_and_is_not_green_without_data(house: People, room: House) -> None:
    now = house.clock.now()
    found = {name: await run_part(house.database, room.automatic, name, "default", now - DAY, now)
             for name in facts.automatic(room)}  # fmt: skip
    assert {name for name, each in found.items() if each.verdict is Verdict.ERROR} == set()
    green = {name for name, each in found.items() if each.verdict is Verdict.PASS}
    # of these none is what should be there
    assert green <= {"waivers.open", "alerts.recent", "incidents.recent", "overrides.figures", "capacity.trends",
                     "secrets.due"}  # fmt: skip


# ---------------------------------------------------------------------- ports


def run_of_probe(probe: str, at: datetime, verdict: str = "PASS", value: float | None = 1.0) -> dict[str, Any]:
    return {
        "id": f"{probe}-{at:%d%H%M}", "zone": "default", "probe": probe, "due_at": at, "asked_by": "", "started_at": at,
        "finished_at": at, "expires_at": at + HOUR, "verdict": verdict, "value": value, "comparison": "<", "unit": "s",
        "detail": "", "record": "r",
    }  # fmt: skip


async def test_the_newest_run_counts_and_one_past_its_life_is_stale(house: People, rows: Any, now: datetime) -> None:
    await rows("probe_runs", **run_of_probe("p", now - 2 * HOUR, "FAIL", 9.0))
    await rows("probe_runs", **run_of_probe("p", now - HOUR / 2))
    async with house.database.begin() as tx:
        newest = [
            await ProbeVerdicts().newest(tx, "default", "p", at)
            for at in (now, now - HOUR * 3 / 2, now + HOUR, now - DAY)
        ]
    assert [(each.verdict, each.value) if each else None for each in newest] == [
        ("PASS", 1.0), ("FAIL", 9.0), ("STALE", 1.0), None,
    ]  # fmt: skip


def waiver(name: str, risk: str, now: datetime, **values: Any) -> dict[str, Any]:
    return {
        "id": name, "zone": "default", "control": "c", "scope": name, "reason": "r", "risk": risk, "compensating": "c",
        "owner": "uptime", "plan": "p", "requested_by": "root", "signed_in": True, "tier": 1, "valid_from": now - DAY,
        "valid_until": now + DAY, "state": "approved", "created_at": now - DAY, "changed_at": now - DAY, **values,
    }  # fmt: skip


async def test_waivers_in_force_at_a_moment(house: People, room: House, rows: Any, now: datetime) -> None:
    await rows("waivers", **waiver("a", "HIGH", now))
    await rows("waivers", **waiver("b", "MEDIUM", now, valid_until=now))
    await rows("waivers", **waiver("c", "LOW", now, state="closed", decided_at=now - DAY, changed_at=now - HOUR))
    await rows("waivers", **waiver("d", "LOW", now, state="rejected", decided_at=now - DAY))
    async with house.database.begin() as tx:
        held = [each.id for each in await WaiversInForce().open_at(tx, "default", now)]
        before = [(each.id, each.risk) for each in await WaiversInForce().open_at(tx, "default", now - 2 * HOUR)]
    assert held == ["a"]
    assert before == [("a", "HIGH"), ("b", "MED"), ("c", "LOW")]
    found = await run_part(house.database, room.automatic, "waivers.open", "default", now - DAY, now)
    assert (found.verdict, found.figures["open"], found.figures["high"]) == (Verdict.FAIL, 1, 1)


async def test_a_drill_is_shown_with_what_had_come_of_it(house: People, rows: Any, now: datetime) -> None:
    await rows(
        "alerts", id="al", zone="default", key="k", rule="r", source="rule", state="firing", severity="P1", summary="s",
        owner="uptime", owner_person="", runbook="", labels={}, annotations={}, missing=[], group_key="",
        began_at=now - HOUR, fired_at=now - HOUR, last_seen_at=now,
    )  # fmt: skip
    await rows(
        "alert_drills", id="dr", zone="default", fault="stop-job", target="j", rule="r", state="delivered", alert="al",
        started_by="root", injected_at=now - 2 * HOUR, until=now, fired_at=now - HOUR, delivery="d", delivered_at=now,
    )  # fmt: skip
    drills = AlarmDrills()
    async with house.database.begin() as tx:
        (whole,) = await drills.drills(tx, "default", now - DAY, now)
        (early,) = await drills.drills(tx, "default", now - DAY, now - HOUR / 2)
        none = await drills.drills(tx, "default", now - 2 * HOUR, now)
    assert (whole.fired_at, whole.delivered_at, whole.acknowledged_at) == (now - HOUR, now, None)
    assert (early.fired_at, early.delivered_at) == (now - HOUR, None)
    assert list(none) == []


async def test_levels_and_capacities_count_what_was_measured(
    house: People, room: House, rows: Any, now: datetime
) -> None:
    stage = Stage(house, KINDS)
    assert await stage.books.ship(stage.context("bailiwick"), shipped("default"))
    name = next(each.name for each in shipped("default") if each.kind == SLO.name)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    await rows("slo_states", zone="default", slo=name, definition="d", counted_until=now)
    async with house.database.begin() as tx:
        for day, minutes in ((2, facts.FULL_DAY), (1, facts.FULL_DAY - 1)):
            await tx.run(
                "INSERT INTO sli_buckets (zone, slo, definition, minute, good, total, counted_at)"
                " SELECT 'default', :slo, 'd', cast(:day AS timestamptz) + make_interval(mins => n), 1, 1, :day"
                " FROM generate_series(0, cast(:most AS int) - 1) AS n",
                slo=name, day=midnight - day * DAY, most=minutes,
            )  # fmt: skip
        book = await stage.books.current(tx, "default")
        resource, spec = next(iter(book.of(CAPACITY).items()))
        for at in (now - 15 * DAY, now - 8 * DAY, now - 8 * DAY + HOUR):
            await tx.run(
                "INSERT INTO capacity_points (zone, resource, definition, at, value)"
                " VALUES ('default', :resource, :definition, :at, 1)",
                resource=resource, definition=spec.definition, at=at,
            )  # fmt: skip
        levels = {each.slo if hasattr(each, "slo") else each.name: each
                  for each in await ServiceLevels(stage.books).measured(tx, "default", now - 7 * DAY, now)}  # fmt: skip
        trends = await CapacityTrends(stage.books).trends(tx, "default", now - 28 * DAY, now)
    assert {each.valid_days for each in levels.values()} == {0, 1} and levels[name].valid_days == 1
    assert sorted({each.weekly_points for each in trends}) == [0, 2]


# ---------------------------------------------------------------------- automatic parts


async def shown(house: People, room: House, name: str, now: datetime) -> Automated:
    return await run_part(house.database, room.automatic, name, "default", now - DAY, now)


@pytest.mark.parametrize(
    ("name", "probe"), [("backups.age", "backup-age"), ("revocation.freshness", "revocation-freshness")]
)
async def test_a_part_that_is_a_probe_shows_its_newest_run(
    house: People, room: House, rows: Any, now: datetime, name: str, probe: str
) -> None:
    assert probe in {each.name for each in shipped("default") if each.kind == "Probe"}
    assert (await shown(house, room, name, now)).verdict is Verdict.NO_DATA
    await rows("probe_runs", **run_of_probe(probe, now - HOUR / 2, value=0.25))
    found = await shown(house, room, name, now)
    assert (found.verdict, found.figures["value"]) == (Verdict.PASS, "0.25")
    assert (await shown(house, room, name, now + DAY)).verdict is Verdict.STALE


async def test_secrets_past_their_date_are_due(house: People, room: House, now: datetime) -> None:
    await Stage(house, KINDS).apply(
        "apiVersion: bailiwick/v1\nkind: Secret\nmetadata: {name: pay-key}\nspec: {owner: uptime,"
        f" class: live, reference: 'env:NOTHING_HERE', rotate_by: '{(now + HOUR).isoformat()}'}}\n"
    )
    before, after = await shown(house, room, "secrets.due", now), await shown(house, room, "secrets.due", now + DAY)
    assert (before.figures["past"], before.figures["rotate_due"]) == (0, 1)
    assert (after.verdict, after.figures["past"]) == (Verdict.FAIL, 1)


class _Kek:
    """The file of the key, as far as the inventory reads it."""

    def __init__(self, house: People) -> None:
        self._house, self.path = house, Path("/nowhere")

    def load(self) -> Any:
        return self._house.sealer


@pytest.mark.parametrize(
    ("name", "table", "wrong", "right"),
    [
        ("kpi.figures", "kpi_values", "FAIL", "PASS"),
        ("reconciliation.state", "reconciliation_runs", "FAIL", "PASS"),
        ("stuck.state", "stuck_runs", "FAIL", "PASS"),
        ("probes.readiness", "probe_runs", "FAIL", "PASS"),
    ],
)
async def test_a_part_that_counts_goes_by_the_newest(
    house: People, room: House, rows: Any, now: datetime, name: str, table: str, wrong: str, right: str
) -> None:
    def row(number: int, verdict: str) -> dict[str, Any]:
        at = now - HOUR / 2 + timedelta(minutes=number)
        run = {"id": str(number), "zone": "default", "verdict": verdict, "started_at": at, "finished_at": at}
        return {
            "kpi_values": {"zone": "default", "kpi": "k", "definition": "d", "since": now - DAY, "until": now,
                           "version": number, "verdict": verdict, "inputs": {}, "built_at": at},
            "reconciliation_runs": {**run, "reconciliation": "r", "mode": "full", "period": "p", "since": at, "until": at},
            "stuck_runs": {**run, "machine": "m"},
            "probe_runs": run_of_probe("p", at, verdict),
        }[table]  # fmt: skip

    assert (await shown(house, room, name, now)).verdict is Verdict.NO_DATA
    await rows(table, **row(1, wrong))
    assert (await shown(house, room, name, now)).verdict is Verdict.FAIL
    await rows(table, **row(2, right))
    assert (await shown(house, room, name, now)).verdict is Verdict.PASS
