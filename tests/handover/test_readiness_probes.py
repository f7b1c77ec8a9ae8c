"""Every probe of the shipped checklists: green where all is well, and not where what it watches is broken."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from readiness_breaks import BREAKS
from readiness_world import PROBED, Break, Servers, World, world_of

from bailiwick.handover.readiness.checks import kind_of
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

pytestmark = pytest.mark.timeout(180)

ELSEWHERE = {"pre-deployment/replica", "pre-deployment/pooling", "bailiwick/database-answers"}
"""Those whose two states are two databases; see the tests below."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers(Path(tempfile.mkdtemp(prefix="bw-ready-")))
    try:
        yield servers.start()
    finally:
        servers.stop()


@pytest.fixture
async def world(house: House, servers: Servers, tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world_of(house, servers, tmp_path, database_url) as made:
        yield made


def test_every_shipped_probe_has_a_test_that_breaks_what_it_watches() -> None:
    assert set(PROBED) == set(BREAKS)
    assert len(PROBED) >= 120


def _kind(key: str) -> str:
    probe = PROBED[key].item.probe
    assert probe is not None
    return kind_of(probe.check).partition("/")[0]


@pytest.mark.parametrize("kind", sorted({_kind(key) for key in PROBED}))
async def test_an_item_is_green_where_all_is_well_and_not_where_it_is_broken(world: World, kind: str) -> None:
    wrong: list[str] = []
    for key in sorted(PROBED):
        if _kind(key) == kind and key not in ELSEWHERE:
            wrong += await _problems(world, key, BREAKS[key])
    assert not wrong, "\n".join(wrong)


async def _problems(world: World, key: str, each: Break) -> list[str]:
    """What is not as it should be of an item's three states: well, broken, mended."""
    wrong: list[str] = []
    well = await world.look(key)
    if well.verdict is not Verdict.PASS:
        wrong.append(f"{key} where all is well: {well.verdict} {well.detail}")
    if each.do is not None:
        each.do(world)
    await world.sql(*each.sql[0])
    found = await world.look(key)
    if found.verdict is not each.verdict or each.told not in found.detail:
        wrong.append(f"{key} broken: {found.verdict} {found.detail!r}, and it should be {each.verdict} {each.told!r}")
    world.heal()
    await world.sql(*each.sql[1])
    again = await world.look(key)
    if again.verdict is not Verdict.PASS:
        wrong.append(f"{key} mended: {again.verdict} {again.detail}")
    return wrong
