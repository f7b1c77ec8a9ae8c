"""What Envoy counted becomes points of one bucket and one phase, and the lease is renewed while somebody judges."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from canary_ground import Ground

from bailiwick.gateway.lease import HELD_S, Lease
from bailiwick.handover.canary.records import Canary, points_of
from bailiwick.handover.canary.sampling import JOB, Sampler, Total, between, totals_of
from people_fixtures import House


class Admin:
    """An Envoy that counted what a test says."""

    def __init__(self) -> None:
        self.figures_: dict[str, Any] = {}
        self.bins: dict[str, list[tuple[float, float, int]]] = {}
        self.away = False

    def count(self, canary: str, arm: str, requests: int, errors: int = 0, refused: int = 0) -> None:
        at = f"cluster.canary.{canary}.{arm}"
        told = {"completed": requests, "5xx": errors, "401": refused // 2, "403": refused - refused // 2}
        self.figures_ |= {f"{at}.upstream_rq_{name}": count for name, count in told.items()}
        self.bins[f"{at}.upstream_rq_time"] = [(10.0, 1.0, requests - errors)]

    async def figures(self, *prefixes: str) -> dict[str, Any]:
        if self.away:
            raise OSError("Envoy's admin does not answer")
        return {name: value for name, value in self.figures_.items() if name.startswith(prefixes)}

    async def histograms(self, *prefixes: str) -> dict[str, list[tuple[float, float, int]]]:
        return {name: value for name, value in self.bins.items() if name.startswith(prefixes)}

    async def close(self) -> None: ...


class Sampled:
    def __init__(self, ground: Ground, directory: Path) -> None:
        self.ground, self.admin, self.seconds = ground, Admin(), 1000.0
        self.lease = Lease(directory / "lease", now=lambda: self.seconds)
        people = ground.people
        self.sampler = Sampler(
            people.database,
            people.clock,
            self.admin,
            self.lease,
            "here",
            seconds=lambda: self.seconds,  # type: ignore[arg-type]
        )

    async def points(self, canary: Canary) -> list[tuple[int, int, int, int]]:
        async with self.ground.people.database.begin() as tx:
            phase = (await self.ground.now(canary.id)).phase
            found = (await points_of(tx, canary.id, phase))["candidate"]
        return [(each.bucket, each.requests, each.errors, each.refused) for each in found]


@pytest.fixture
async def sampled(house: House, tmp_path: Path) -> Sampled:
    return Sampled(await Ground(house).open(), tmp_path)


async def test_what_was_counted_between_two_boundaries_is_a_point(sampled: Sampled) -> None:
    canary = await sampled.ground.start()
    sampled.admin.count(canary.id, "candidate", 1000)
    assert await sampled.sampler.turn() <= 1.0
    sampled.admin.count(canary.id, "candidate", 1010, errors=2, refused=3)
    sampled.seconds += 5
    await sampled.sampler.turn()
    assert await sampled.points(canary) == [], "the bucket is not over"
    sampled.seconds += 5.1
    await sampled.sampler.turn()
    assert await sampled.points(canary) == [(100, 10, 2, 3)]
    sampled.seconds += 20
    sampled.admin.count(canary.id, "candidate", 1100)
    await sampled.sampler.turn()
    assert len(await sampled.points(canary)) == 1, "two buckets at once are none"


async def test_a_point_is_of_one_phase(sampled: Sampled) -> None:
    canary = await sampled.ground.start(automatic=False)
    await sampled.ground.see(canary.id, 50)
    await sampled.ground.drive(canary.id)
    sampled.admin.count(canary.id, "candidate", 10)
    await sampled.sampler.turn()
    await sampled.ground.desk.promote(sampled.ground.stage.context("olga"), canary.id)
    sampled.seconds += 10
    sampled.admin.count(canary.id, "candidate", 20)
    await sampled.sampler.turn()
    assert await sampled.points(canary) == [], "half of it was counted under other weights"
    sampled.seconds += 10
    sampled.admin.count(canary.id, "candidate", 31)
    await sampled.sampler.turn()
    assert [each[1] for each in await sampled.points(canary)] == [11]


async def test_an_envoy_that_began_anew_spoils_one_bucket(sampled: Sampled) -> None:
    canary = await sampled.ground.start()
    for count in (500, 20, 45):
        sampled.admin.count(canary.id, "candidate", count)
        await sampled.sampler.turn()
        sampled.seconds += 10
    assert [each[1] for each in await sampled.points(canary)] == [25]


async def test_the_lease_holds_while_it_is_judged_and_no_longer(sampled: Sampled) -> None:
    await sampled.sampler.turn()
    assert not sampled.lease.holds(), "there is nothing to hold"
    canary = await sampled.ground.start()
    await sampled.sampler.turn()
    assert sampled.lease.holds()
    sampled.seconds += HELD_S + 1
    assert not sampled.lease.holds()
    await sampled.ground.sql("UPDATE canaries SET watched_at = clock_timestamp() - interval '1 hour'")
    await sampled.sampler.turn()
    assert not sampled.lease.holds(), "it lives, and nobody judges"
    await sampled.ground.drive(canary.id)
    assert (await sampled.ground.now(canary.id)).reason == "unwatched"


async def test_the_drive_is_asked_for_without_traffic_too(sampled: Sampled) -> None:
    await sampled.ground.start()
    for _ in range(3):
        await sampled.sampler.turn()
        sampled.seconds += 3.5
    due = await sampled.ground.people.value("SELECT count(*) FROM job_occurrences WHERE job = :job", job=JOB)
    assert due == 1, "the clock of the test stands, so the three are one occurrence"


async def test_what_passed_is_sampled_for_a_day_and_judged_when_it_fails(sampled: Sampled) -> None:
    ground = sampled.ground

    async def due() -> Any:
        return await ground.people.value("SELECT count(*) FROM job_occurrences WHERE job = :job", job=JOB)

    canary = await ground.start()
    for _ in range(3):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
    await ground.sql("UPDATE canaries SET watched_at = clock_timestamp() - interval '1 hour'")
    for count, errors in ((10, 0), (20, 0), (30, 3)):
        assert await due() == 0
        sampled.admin.count(canary.id, "candidate", count, errors=errors)
        await sampled.sampler.turn()
        sampled.seconds += 10
    assert [each[1:3] for each in await sampled.points(canary)] == [(10, 0), (10, 3)]
    assert await due() == 1 and not sampled.lease.holds(), "and it needs no lease"
    await ground.sql("UPDATE canaries SET phased_at = clock_timestamp() - interval '25 hours'")
    sampled.admin.count(canary.id, "candidate", 40)
    await sampled.sampler.turn()
    assert len(await sampled.points(canary)) == 2


async def test_an_envoy_that_is_away_is_told_of_and_tried_again(sampled: Sampled) -> None:
    await sampled.ground.start()
    sampled.admin.away = True
    with pytest.raises(OSError, match="does not answer"):
        await sampled.sampler.turn()
    sampled.admin.away = False
    await sampled.sampler.turn()


async def test_promoting_and_withdrawing_at_once_ends_withdrawn(sampled: Sampled) -> None:
    ground, context = sampled.ground, sampled.ground.stage.context("olga")
    canary = await ground.start(automatic=False)
    await ground.see(canary.id, 50)
    await ground.drive(canary.id)
    await asyncio.gather(
        ground.desk.promote(context, canary.id), ground.desk.withdraw(context, canary.id, "no"), return_exceptions=True
    )
    assert ((await ground.now(canary.id)).state, await ground.weights()) == ("withdrawn", None)


def test_totals_are_read_by_arm_and_less_is_no_difference() -> None:
    empty = totals_of("c", {}, {})
    assert empty == dict.fromkeys(("stable", "baseline", "candidate"), Total(0, 0, 0, {}))
    more = {**empty, "stable": Total(3, 1, 1, {(1.0, 0.1): 2})}
    assert [(each.arm, each.requests) for each in between(empty, more) or []] == [("stable", 3)]
    assert between(more, empty) is None
    assert between(empty, empty) == []
