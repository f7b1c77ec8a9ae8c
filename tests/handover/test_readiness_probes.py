"""Every probe of the shipped checklists: green where all is well, and not where what it watches is broken."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_servers import secret
from readiness_breaks import BREAKS
from readiness_world import PROBED, Break, Servers, World, world_of

from bailiwick.assurance.probes.internal import internals
from bailiwick.assurance.probes.means import Internal, Means
from bailiwick.assurance.probes.reading import Reading
from bailiwick.handover.readiness.checks import kind_of
from bailiwick.handover.readiness.documents import Area, Item, ItemProbe, Placed
from bailiwick.handover.readiness.means.ours import ours
from bailiwick.handover.readiness.measuring import measure, measure_all
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.db import Database, libpq_url
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.paths import Layout
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


# ---------------------------------------------------------------------- those whose two states are two databases


async def test_a_database_that_does_not_answer_is_seen(world: World) -> None:
    key = "bailiwick/database-answers"
    assert (await world.look(key)).verdict is Verdict.PASS
    away = Database("postgresql://127.0.0.1:1/nothing", pool_size=1)
    world.means = replace(world.means, internals=internals(away, world.clock, dict, list, None))
    found = await world.look(key)
    await away.close()
    assert (found.verdict, BREAKS[key].told in found.detail) == (Verdict.FAIL, True), found.detail


async def test_too_few_connections_are_seen(world: World) -> None:
    probe = PROBED["pre-deployment/pooling"].item.probe
    assert probe is not None and probe.expect is not None and probe.expect.value == 200
    few = await world.look("pre-deployment/pooling")
    assert few.verdict is Verdict.FAIL and few.value is not None and few.value < 200
    asked = probe.model_copy(update={"expect": probe.expect.model_copy(update={"value": few.value})})
    assert (await measure(asked, {}, {}, world.means, "default", world.clock.now())).verdict is Verdict.PASS


# ---------------------------------------------------------------------- what the servers may do


async def test_a_cluster_that_does_not_let_us_in_or_lies_is_an_error(world: World) -> None:
    for change, told in (
        (lambda: setattr(world.surroundings, "token", "another"), "not let in"),
        (lambda: world.values.update(kubernetes_url=f"{world.base}/site"), "not what a Kubernetes"),
        (lambda: world.values.update(kubernetes_token_file="/etc/hostname"), "not among the files"),
        (lambda: world.values.update(kubernetes_url="http://127.0.0.1:1"), "Cannot connect"),
        (lambda: world.surroundings.cluster.update({"/api/v1/nodes": [{"metadata": {"name": "n"}}]}), "not what"),
    ):
        change()
        found = await world.look("pre-deployment/nodes")
        assert (found.verdict, told in found.detail) == (Verdict.ERROR, True), found.detail
        world.heal()
    # a kind that nobody defined there is none that is as it should be
    del world.surroundings.cluster["/apis/monitoring.coreos.com/v1/namespaces/production/servicemonitors"]
    assert (await world.look("pre-deployment/service-monitor")).verdict is Verdict.FAIL


async def test_no_value_of_a_secret_is_in_what_is_found(world: World) -> None:
    planted = "Zq9-planted-Zq9-planted-Zq9-planted-Zq9"
    world.surroundings.cluster["/api/v1/namespaces/production/secrets"][3] = secret("jwt-secret", secret_key=planted)
    (world.files / "redis").write_text(f"redis://:{planted}@127.0.0.1:{world.servers.redis}/0")
    for key in ("pre-deployment/secrets", "pre-deployment/redis-password", "pre-deployment/redis-auth"):
        found = await world.look(key)
        assert planted not in found.detail and planted.encode() not in found.output, key


async def test_what_the_environment_does_not_say_is_no_data(world: World) -> None:
    world.values = {}
    for key in PROBED:
        if "${" in str(PROBED[key].item.probe):
            found = await world.look(key)
            assert not found.verdict.green, key
    assert "kubernetes_url" in (await world.look("pre-deployment/nodes")).detail


async def test_all_are_looked_at_at_once_each_within_its_own_time(world: World) -> None:
    """As many as there are, and none answers: what is over its time is red, and keeps no other from being looked at."""
    silent = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
    asked = {"type": "http", "url": url}
    hanging = [_line(f"hanging-{n}", ItemProbe(check=asked, timeout="2s")) for n in range(120)]
    one = _line("quick", ItemProbe(check={"type": "internal", "what": "database"}))
    began = time.monotonic()
    found = await measure_all([*hanging, one], {}, {}, world.means, world.clock, "default")
    assert time.monotonic() - began < 30  # one after the other they would take four minutes
    silent.close()
    assert found.pop("small/quick").reading.verdict is Verdict.PASS
    assert len(found) == 120 and {each.reading.verdict for each in found.values()} == {Verdict.ERROR}
    assert {each.reading.detail for each in found.values()} == {"no answer within 2 s"}


def _line(key: str, probe: ItemProbe) -> Placed:
    item = Item(key=key, title=key, probe=probe)
    return Placed("small", Area(key="a", title="a", role="ops_owner", items=[item]), item)


async def test_a_replica_that_replays_is_seen_and_its_end_too(house: House, tmp_path: Path) -> None:
    """Two servers of our own: one follows the other by PostgreSQL's streaming replication, and then is stopped."""
    probe = PROBED["pre-deployment/replica"].item.probe
    assert probe is not None
    layouts = [Layout(Path(tempfile.mkdtemp(prefix=f"bw-{name}-", dir="/tmp"))) for name in ("one", "two")]
    for layout in layouts:
        layout.create()
    primary, standby = (EmbeddedPostgres(layout) for layout in layouts)
    try:
        await primary.start()
        looks = _ours(house, primary.url("postgres"))
        means = Means(_nowhere, SystemClock(), "", tmp_path, internals=looks)

        async def look() -> Reading:
            return await measure(probe, {}, {}, means, "default", SystemClock().now())

        assert (alone := await look()).verdict is Verdict.FAIL and BREAKS["pre-deployment/replica"].told in alone.detail
        source = libpq_url(primary.url("postgres"))
        argv = [primary.tool("pg_basebackup"), "-d", source, "-D", standby.cluster, "-R", "-X", "stream", "-c", "fast"]
        await asyncio.to_thread(subprocess.run, [str(each) for each in argv], check=True, capture_output=True)
        standby.take_over(standby.cluster)
        await standby.start()
        async with asyncio.timeout(30):
            while (followed := await look()).verdict is not Verdict.PASS:
                await asyncio.sleep(0.1)
        assert followed.value == 1
        await standby.stop()
        assert (await look()).verdict is Verdict.FAIL
    finally:
        await standby.stop()
        await primary.stop()
        for layout in layouts:
            shutil.rmtree(layout.data_dir, ignore_errors=True)


def _ours(house: House, url: str) -> dict[str, Internal]:
    nobody: Any = None
    return ours(house.database, url, house.ids, house.recorder, nobody, nobody, nobody, nobody, nobody, {})


async def _nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is reached")
