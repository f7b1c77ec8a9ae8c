"""Routes change under running traffic: soon, and without a connection noticing."""

from __future__ import annotations

import dataclasses
import json
import stat
import time

import pytest
from envoy_rig import Rig, wait_for
from raw_http import Raw, ask

from bailiwick.gateway.envoy import EnvoyFiles, EnvoyRejected, GatewayConfig, Listener, Route, Upstream
from ports import free_port

HEAD = "Host: gateway\r\nAuthorization: Bearer t\r\n"


@pytest.fixture
def rig():
    with Rig() as rig:
        yield rig


def test_a_server_is_routed_when_apply_returns_and_nobody_is_disconnected(rig):
    base = rig.default_routes()
    with Raw(rig.port) as kept, Raw(rig.port) as live:
        kept.send(f"GET /s/echo/x HTTP/1.1\r\n{HEAD}\r\n")
        assert kept.answer().status == 200
        live.send(f"GET /s/echo/sse HTTP/1.1\r\n{HEAD}\r\n")
        live.until(b"tick")

        took = []
        for n in range(10):
            base = (*base, Route(f"new-{n}", (), rig.to_echo(), f"/v{n}"))
            applied = rig.apply(*base)
            took.append(applied.seconds)
            assert applied.changed
            assert f"new-{n}" in applied.servers
            kept.send(f"GET /s/new-{n}/x HTTP/1.1\r\n{HEAD}\r\n")
            assert kept.answer().json()["target"] == f"/v{n}/x"

        live.buffer = b""
        live.until(b"tick")
    assert max(took) < 5.0
    assert not rig.apply(*base).changed


def test_a_changed_upstream_takes_over_while_streams_on_the_old_one_live_on(rig):
    base = rig.default_routes()[1:]
    before = Route("echo", (), rig.to_echo(), "/old", "authorization", binding="1")
    rig.apply(before, *base)
    with Raw(rig.port) as live, Raw(rig.port) as kept:
        live.send(f"GET /s/echo/sse HTTP/1.1\r\n{HEAD}\r\n")
        live.until(b"tick")

        after = dataclasses.replace(
            before,
            upstream=rig.to_echo(authority="new.example"),
            path_prefix="/new",
            credential_header="x-api-key",
            binding="2",
        )
        rig.apply(after, *base)
        told = kept.send(f"GET /s/echo/x HTTP/1.1\r\n{HEAD}\r\n").answer().json()
        headers = dict(told["headers"])
        assert told["target"] == "/new/x"
        assert headers["host"] == "new.example"
        assert "authorization" not in headers and headers["x-api-key"]
        assert rig.last_check().get("x-bailiwick-binding") == "2"

        clusters = rig.dir / "run" / "envoy" / "cds" / "cds.json"
        wait_for(lambda: clusters.read_text().count('"name": "echo@') == 1)
        time.sleep(0.1)
        live.buffer = b""
        live.until(b"tick")


def test_a_removed_server_is_unknown_at_once_and_its_requests_in_flight_are_answered(rig):
    base = rig.default_routes()
    with Raw(rig.port) as slow:
        slow.send("GET /s/echo/x HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer slow\r\n\r\n")
        wait_for(lambda: rig.check.seen and rig.last_check().get("authorization") == "Bearer slow")
        rig.apply(*base[1:])
        assert rig.ask("/s/echo/x").json()["reason"] == "unknown_server"
        assert slow.answer().status == 200


def test_unused_clusters_go_even_when_apply_is_called_all_the_time(rig):
    base = rig.default_routes()
    rig.apply(*base[1:])

    def gone() -> bool:
        rig.apply(*base[1:])
        names = {cluster["name"] for cluster in rig.loop.run(rig.files.admin.clusters())["cluster_statuses"]}
        return not any(name.startswith("echo@") for name in names)

    wait_for(gone)


def test_all_servers_may_go_and_come_back(rig):
    base = rig.default_routes()
    rig.apply()
    assert rig.ask("/s/echo/x").status == 404
    assert rig.ask("/").status == 404
    rig.apply(*base)
    assert rig.ask("/s/echo/x").status == 200


def test_a_thousand_servers_cost_a_request_nothing_and_a_change_little(rig):
    many = [
        Route(f"server-{n}", (f"h{n}.example",), rig.to_echo(), credential_header="authorization") for n in range(1000)
    ]
    rig.apply(*many)
    assert (
        rig.ask("/s/server-0/x").status
        == rig.ask("/s/server-999/x").status
        == rig.ask("/x", host="h500.example").status
        == 200
    )

    assert rig.apply(*many, Route("one-more", (), rig.to_echo())).seconds < 5.0


def test_two_routes_that_claim_one_name_are_refused_before_anything_changes(rig):
    echo = rig.to_echo()
    for twice in ((Route("a", ("h.example",), echo), Route("b", ("h.example",), echo)), (Route("a"), Route("a"))):
        with pytest.raises(ValueError, match="claimed by both"):
            rig.apply(*twice)
    assert rig.ask("/s/echo/x").status == 200


def test_what_envoy_refuses_leaves_the_former_routes_in_force_and_on_disk(rig):
    missing = rig.to_echo(tls=True, sni="up.example", ca_file=rig.dir / "no such ca.pem")
    with pytest.raises(EnvoyRejected):
        rig.apply(*rig.default_routes(), Route("bad", (), missing))

    assert rig.ask("/s/echo/x").status == 200
    rig.process.kill()
    rig.process.wait()
    rig.start_envoy()
    assert rig.ask("/s/echo/x").status == 200
    assert rig.apply(*rig.default_routes(), Route("good", (), rig.to_echo())).changed
    assert rig.ask("/s/good/x").status == 200


def test_an_envoy_that_was_away_comes_back_with_what_was_written(rig):
    rig.process.kill()
    rig.process.wait()
    routes = (Route("later", (), rig.to_echo(), "/later"),)
    with pytest.raises(OSError, match="does not answer"):
        rig.apply(*routes)
    rig.files.write_routes(routes)

    supervisor = EnvoyFiles(rig.config, monotonic=time.monotonic)
    supervisor.write(rig.config.workers)
    rig.start_envoy()
    assert rig.ask("/s/later/x").json()["target"] == "/later/x"
    assert not rig.apply(*routes).changed


def test_a_second_writer_leaves_the_routes_alone(rig):
    supervisor = EnvoyFiles(dataclasses.replace(rig.config, routes=(), workers=()), monotonic=time.monotonic)
    supervisor.write(rig.config.workers)
    assert rig.ask("/s/echo/x").status == 200
    rig.apply(*rig.default_routes(), Route("more", (), rig.to_echo()))
    assert rig.ask("/s/more/x").status == 200


def test_nothing_of_envoy_is_open_to_others(rig):
    files = [path for path in (rig.run / "envoy").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    directories = [path for path in (rig.run / "envoy").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in [rig.run, *directories]} == {0o700}
    assert stat.S_IMODE(rig.config.admin_socket.stat().st_mode) == 0o600
    assert json.loads((rig.run / "envoy" / "bootstrap.json").read_text())["admin"]["address"].keys() == {"pipe"}


def refuses(port: int) -> bool:
    try:
        ask(port)
    except ConnectionError:
        return True
    return False


def test_draining_ends_new_connections_and_not_those_in_flight(rig):
    with Raw(rig.port) as kept:
        kept.send(f"GET /s/echo/hang HTTP/1.1\r\n{HEAD}\r\n")
        wait_for(lambda: rig.loop.run(rig.files.admin.active_requests()) == 1)
        rig.loop.run(rig.files.admin.drain())
        for port in (rig.port, rig.api_port):
            wait_for(lambda port=port: refuses(port))
        assert rig.loop.run(rig.files.admin.active_requests()) == 1
    wait_for(lambda: rig.loop.run(rig.files.admin.active_requests()) == 0)


def test_a_socket_path_too_long_to_bind_is_told_before_anything_is_written(tmp_path):
    run = tmp_path / ("long " * 20)
    listener = Listener("127.0.0.1", free_port())
    with pytest.raises(ValueError, match="107 at most"):
        GatewayConfig(run, listener, listener, (), run / "guard.sock", ())


def test_statistics_do_not_grow_with_the_inventory(rig):
    names = rig.loop.run(rig.files.admin.figures(""))
    assert not [name for name in names if "echo@" in name]
    assert [name for name in names if name.startswith("cluster.check.")]
    assert Upstream((("127.0.0.1", 1),)).host == "127.0.0.1:1"
