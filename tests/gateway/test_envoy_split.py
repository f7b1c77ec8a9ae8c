"""A server's requests divided between the arms of a canary: by weight, changed under traffic, counted, taken back."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from envoy_rig import Rig, wait_for
from raw_http import Raw

from bailiwick.gateway.envoy import Arm, Route, Split
from bailiwick.gateway.envoy.clusters import upstream_clusters
from bailiwick.gateway.envoy.files import at_zero
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
