"""A server's requests divided between the arms of a canary: by weight, changed under traffic, counted, taken back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from envoy_rig import Rig, wait_for
from raw_http import Raw

from bailiwick.gateway.envoy import Arm, EnvoyFiles, EnvoyRejected, Route, Split, files
from bailiwick.gateway.envoy.clusters import upstream_clusters
from bailiwick.gateway.envoy.files import at_zero, taken_back
from bailiwick.gateway.lease import HELD_S, DeadMan, Lease

HEAD = "Host: gateway\r\nAuthorization: Bearer t\r\n"


@pytest.fixture(scope="module")
def rig():
    with Rig() as rig:
        yield rig


def split_route(rig: Rig, stable: int, baseline: int, candidate: int, *, lasting: bool = False, canary: str = "c1"):
    arms = tuple(
        Arm(name, rig.to_echo(authority=f"{name}.example"), weight)
        for name, weight in (("stable", stable), ("baseline", baseline), ("candidate", candidate))
    )
    split = Split(canary, arms, lasting)
    return Route("split", (), rig.to_echo(authority="stable.example"), "/", "authorization", split=split)


def asked(rig: Rig, times: int) -> Counter[str]:
    """Which arm answered, by the name it was called by."""
    found: Counter[str] = Counter()
    with Raw(rig.port) as kept:
        for _ in range(times):
            answer = kept.send(f"GET /s/split/x HTTP/1.1\r\n{HEAD}\r\n").answer()
            assert answer.status == 200
            headers = dict(answer.json()["headers"])
            assert headers["authorization"] == "Bearer UPSTREAM-SECRET", "every arm gets the server's credential"
            found[headers["host"].removesuffix(".example")] += 1
    return found


def test_requests_go_by_weight_and_are_counted_by_arm(rig):
    rig.apply(*rig.default_routes(), split_route(rig, 40, 30, 30))
    before = _counted(rig, "upstream_rq_completed")
    found = asked(rig, 300)
    assert set(found) == {"stable", "baseline", "candidate"}
    assert all(45 <= found[arm] <= 180 for arm in found), found
    after = _counted(rig, "upstream_rq_completed")
    assert {arm: after[arm] - before[arm] for arm in after} == dict(found)
    told = rig.loop.run(rig.files.admin.histograms("cluster.canary.c1."))
    times = told["cluster.canary.c1.candidate.upstream_rq_time"]
    assert sum(count for _, _, count in times) == after["candidate"]


def _counted(rig: Rig, name: str) -> dict[str, int]:
    figures = rig.loop.run(rig.files.admin.figures("cluster.canary.c1."))
    return {arm: figures[f"cluster.canary.c1.{arm}.{name}"] for arm in ("stable", "baseline", "candidate")}


def test_a_change_of_weights_changes_no_cluster_fails_no_request_and_holds_at_once(rig):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 50, 50))
    clusters = _of_arms(rig)
    failed, done, stop = [], Counter(), threading.Event()

    def ask_on() -> None:
        with Raw(rig.port) as kept:
            while not stop.is_set():
                answer = kept.send(f"GET /s/split/x HTTP/1.1\r\n{HEAD}\r\n").answer()
                if answer.status != 200:
                    failed.append(answer.status)
                done["requests"] += 1

    callers = [threading.Thread(target=ask_on) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        took = []
        for turn in range(20):
            share = (turn * 7) % 51
            took.append(rig.apply(*rig.default_routes(), split_route(rig, 100 - 2 * share, share, share)).seconds)
        rig.apply(*rig.default_routes(), split_route(rig, 100, 0, 0))
        time.sleep(0.05)  # what was routed before is answered
        before = _counted(rig, "upstream_rq_total")["candidate"]
        time.sleep(0.3)
        assert _counted(rig, "upstream_rq_total")["candidate"] == before
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert not failed
    assert done["requests"] > 50
    assert max(took) < 5.0
    assert _of_arms(rig) == clusters


def _of_arms(rig: Rig) -> list[dict]:
    told = json.loads((rig.dir / "run" / "envoy" / "cds" / "cds.json").read_bytes())["resources"]
    return [cluster for cluster in told if cluster["name"].startswith("split@")]


def test_a_request_in_flight_at_the_candidate_is_answered_though_it_is_withdrawn(rig):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100))
    with Raw(rig.port) as live:
        live.send(f"GET /s/split/sse HTTP/1.1\r\n{HEAD}\r\n")
        live.until(b"tick")
        rig.apply(*rig.default_routes(), split_route(rig, 100, 0, 0))
        assert set(asked(rig, 5)) == {"stable"}
        live.buffer = b""
        live.until(b"tick")


def test_the_end_of_a_canary_leaves_the_plain_route_and_no_cluster_of_its_arms(rig):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 50, 50))
    plain = Route("split", (), rig.to_echo(authority="stable.example"), "/", "authorization")
    rig.apply(*rig.default_routes(), plain)
    assert set(asked(rig, 10)) == {"stable"}

    def gone() -> bool:
        names = {cluster["name"] for cluster in rig.loop.run(rig.files.admin.clusters())["cluster_statuses"]}
        return not any("candidate" in name for name in names)

    wait_for(gone, 20)


def test_the_table_laid_ready_takes_traffic_back_and_spares_what_passed(rig):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100))
    assert set(asked(rig, 5)) == {"candidate"}
    assert rig.files.fall_back()
    wait_for(lambda: set(asked(rig, 5)) == {"stable"})
    assert not rig.files.fall_back(), "it is in force already"
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100, lasting=True))
    assert not rig.files.fall_back(), "nobody has to watch what passed"
    assert set(asked(rig, 5)) == {"candidate"}


def test_whoever_finds_the_lease_run_out_takes_traffic_back(rig, tmp_path):
    now = [1000.0]
    lease = Lease(tmp_path / "envoy" / "canary-lease", now=lambda: now[0])
    dead_man = DeadMan(rig.files, lease)
    lease.renew(HELD_S)
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100))
    assert not dead_man.look()
    now[0] += HELD_S
    assert dead_man.look()
    wait_for(lambda: set(asked(rig, 5)) == {"stable"})


@pytest.mark.parametrize("written", ["", "soon", "nan", "inf", "999.0", "1000.0", f"{1000 + HELD_S + 1}", None])
def test_a_lease_that_says_nothing_of_now_does_not_hold(tmp_path: Path, written: str | None) -> None:
    path = tmp_path / "lease"
    if written is not None:
        path.write_text(written)
    assert not Lease(path, now=lambda: 1000.0).holds()


def test_a_lease_holds_until_its_time_and_is_renewed(tmp_path: Path) -> None:
    now = [1000.0]
    lease = Lease(tmp_path / "lease", now=lambda: now[0])
    lease.renew(2.0)
    assert lease.holds()
    now[0] = 1001.9
    assert lease.holds()
    now[0] = 1002.0
    assert not lease.holds()
    lease.renew(5.0)
    assert lease.holds()


def test_a_split_is_whole_and_its_safe_form_needs_the_same_clusters(rig):
    route = split_route(rig, 40, 30, 30)
    (safe,) = at_zero([route])
    assert [arm.weight for arm in safe.split.arms] == [100, 0, 0]
    assert upstream_clusters([safe]) == upstream_clusters([route])
    with pytest.raises(ValueError, match="come to 100"):
        split_route(rig, 40, 30, 31)
    with pytest.raises(ValueError, match="percentage"):
        split_route(rig, 140, -20, -20)
    with pytest.raises(ValueError, match="canary's id"):
        split_route(rig, 40, 30, 30, canary="a.b")
    with pytest.raises(ValueError, match="has an upstream"):
        Route("none", split=route.split)


def _bad(rig: Rig) -> Route:
    """A server of which Envoy refuses the cluster, and with it whatever it is asked to route beside it."""
    return Route("bad", (), rig.to_echo(tls=True, sni="up.example", ca_file=rig.dir / "no such ca.pem"))


def _plain(rig: Rig) -> Route:
    return Route("split", (), rig.to_echo(authority="stable.example"), "/", "authorization")


@pytest.mark.parametrize("lasting", [False, True])
def test_what_is_wrong_with_another_server_keeps_no_candidate_its_traffic(rig, lasting: bool):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100, lasting=lasting, canary=f"w{lasting}".lower()))
    assert set(asked(rig, 5)) == {"candidate"}
    for _ in range(2):
        with pytest.raises(EnvoyRejected):
            rig.apply(*rig.default_routes(), _plain(rig), _bad(rig))
        assert set(asked(rig, 5)) == {"stable"}
    rig.apply(*rig.default_routes(), _plain(rig))
    assert set(asked(rig, 5)) == {"stable"}


def test_of_two_candidates_only_the_one_is_taken_back(rig):
    def of(server: str, candidate: int) -> Route:
        return dataclasses.replace(split_route(rig, 100 - candidate, 0, candidate, canary=server), server=server)

    first = taken_back([of("one", 50), of("two", 50)], [of("one", 50), dataclasses.replace(of("two", 0), split=None)])
    assert [route.split.candidate for route in first] == [50, 0]
    assert upstream_clusters(first) == upstream_clusters([of("one", 50), of("two", 50)])
    (other,) = taken_back(
        [of("one", 50)], [dataclasses.replace(split_route(rig, 0, 0, 100, canary="c9"), server="one")]
    )
    assert other.split.candidate == 0, "of another canary"


def _another(rig: Rig) -> EnvoyFiles:
    """Files of another process for the same Envoy: it knows nothing of what is in force."""
    return EnvoyFiles(rig.config, monotonic=time.monotonic, retire_after_s=1.0)


def test_whoever_follows_a_killed_process_and_cannot_go_on_takes_traffic_back(rig):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100, canary="k1"))
    other = _another(rig)
    try:
        with pytest.raises(EnvoyRejected):
            rig.loop.run(other.apply([*rig.default_routes(), _plain(rig), _bad(rig)]))
        wait_for(lambda: set(asked(rig, 5)) == {"stable"})
    finally:
        rig.loop.run(other.close())


async def _without_retirement(rig) -> None:
    """Leave the clusters of earlier tests: to take them away is a write that belongs to none of this one's steps."""
    if rig.files._retiring is not None:
        rig.files._retiring.cancel()
        await asyncio.gather(rig.files._retiring, return_exceptions=True)
    rig.files._unused = {}


def test_until_it_is_needless_what_takes_traffic_back_is_there(rig, monkeypatch: pytest.MonkeyPatch):
    """Killed between any two of the files, the routes in force have their way back, by clusters that are there."""
    fallback, clusters, routes = (
        rig.dir / "run" / "envoy" / name for name in ("fallback.json", "cds/cds.json", "rds/rds.json")
    )
    rig.apply(*rig.default_routes(), _plain(rig))
    rig.loop.run(_without_retirement(rig))
    seen = []
    written = files._write_bytes

    def note(path: Path, content: bytes) -> None:
        written(path, content)
        seen.append((path.name, fallback.exists()))

    monkeypatch.setattr(files, "_write_bytes", note)
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100, canary="k2"))
    assert seen[0] == (clusters.name, False)
    assert [each for each in seen if each[0] != clusters.name] == [(fallback.name, True), (routes.name, True)]
    seen.clear()
    rig.apply(*rig.default_routes(), _plain(rig))
    assert seen[0] == (routes.name, True), "what is taken from a candidate comes first"
    assert [each for each in seen if each[0] != clusters.name] == 2 * [(routes.name, True)]
    assert not fallback.exists()


def test_a_table_that_is_refused_leaves_the_way_back_of_the_one_in_force(rig, monkeypatch: pytest.MonkeyPatch):
    rig.apply(*rig.default_routes(), split_route(rig, 0, 0, 100, canary="k3"))
    fallback = rig.dir / "run" / "envoy" / "fallback.json"
    before = fallback.read_bytes()
    put = rig.files._put

    async def refuse(path: Path, source: str, answer):
        if source == files.RDS:
            raise EnvoyRejected("refused")
        return await put(path, source, answer)

    monkeypatch.setattr(rig.files, "_put", refuse)
    with pytest.raises(EnvoyRejected):
        rig.apply(*rig.default_routes(), Route("more", (), rig.to_echo()), split_route(rig, 50, 0, 50, canary="k3"))
    assert fallback.read_bytes() == before
    assert rig.files.fall_back()
    wait_for(lambda: set(asked(rig, 5)) == {"stable"})
