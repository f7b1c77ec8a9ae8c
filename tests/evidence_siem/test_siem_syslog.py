"""Syslog over TLS to a real rsyslog."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rsyslog import Authority, Rsyslog
from siem_world import SiemWorld, once_each

from bailiwick.evidence.siem import syslog


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=["ossl", "gtls"])
async def rsyslog(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> AsyncIterator[Rsyslog]:
    home = tmp_path / "rsyslog"
    home.mkdir()
    server = Rsyslog(home, authority, request.param)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def options(server: Rsyslog, authority: Authority, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.port, "ca": authority.pem, "timeout_s": 5, **more}


async def test_every_event_arrives_parsed_and_in_order(siem: SiemWorld, rsyslog: Rsyslog, authority: Authority) -> None:
    ids = await siem.world.filled(250, user='jan "e] \\ ü')
    await siem.sink("syslog", options(rsyslog, authority), {}, batch_size=100)
    siem.run()
    await siem.until(lambda: siem.cursor() == 250)
    await siem.until(lambda: len(rsyslog.lines) == 250)
    assert rsyslog.ids == ids
    priority, _, host, program, message_id, _, _ = line = rsyslog.lines[0]
    assert (priority, host, program, message_id) == ("110", "work-1", "bailiwick", "BW4001")
    assert rsyslog.data(line) == {
        "id": ids[0], "zone": "default", "seq": "0", "name": "gateway.request.allowed", "outcome": "allow",
    }  # fmt: skip
    assert 'jan \\"e] \\\\ ü' in line[6]


async def test_a_receiver_that_is_killed_and_comes_back_misses_nothing(
    siem: SiemWorld, rsyslog: Rsyslog, authority: Authority
) -> None:
    await siem.world.filled(30)
    await siem.sink("syslog", options(rsyslog, authority), {}, batch_size=10)
    siem.run()
    await siem.until(lambda: siem.cursor() == 30)
    await siem.until(lambda: len(rsyslog.lines) == 30)
    await rsyslog.stop(kill=True)
    await siem.world.filled(30)
    delivery_failed = siem.metrics.siem_failed.labels("default/out")
    await siem.until(lambda: delivery_failed._value.get() > 0)
    assert not siem.level()
    await rsyslog.start()
    await siem.until(siem.level)
    ledgered = siem.world.ledgered()
    await siem.until(lambda: len(rsyslog.lines) >= len(ledgered))
    assert once_each(rsyslog.ids) == ledgered


async def test_a_certificate_nobody_vouches_for_stops_the_sink(
    siem: SiemWorld, rsyslog: Rsyslog, authority: Authority, tmp_path: Path
) -> None:
    await siem.world.filled(3)
    stranger = Authority(tmp_path)
    await siem.sink("syslog", options(rsyslog, authority, ca=stranger.pem), {})
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert "not trusted" in str(delivery.trouble())
    assert siem.cursor() == 0 and rsyslog.lines == []


async def test_a_name_the_certificate_does_not_hold_stops_the_sink(
    siem: SiemWorld, rsyslog: Rsyslog, authority: Authority
) -> None:
    await siem.world.filled(3)
    await siem.sink("syslog", options(rsyslog, authority, server_name="other.example.com"), {})
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert siem.cursor() == 0 and rsyslog.lines == []


@pytest.mark.parametrize("driver", ["ossl", "gtls"])
async def test_who_has_no_certificate_where_one_is_asked_for_has_delivered_nothing(
    siem: SiemWorld, tmp_path: Path, authority: Authority, driver: str
) -> None:
    home = tmp_path / "asking"
    home.mkdir()
    server = Rsyslog(home, authority, driver, clients=True)
    await server.start()
    try:
        ids = await siem.world.filled(5)
        # with TLS 1.3 the handshake is over for us before we are turned away
        await siem.sink("syslog", options(server, authority), {}, name="without")
        failed = siem.metrics.siem_failed.labels("default/without")
        siem.run()
        await siem.until(lambda: failed._value.get() > 2)
        assert siem.cursor(sink="without") == 0 and server.lines == []
        certificate, key = authority.issue("bailiwick.example.com")
        await siem.sink("syslog", options(server, authority, certificate=certificate), {"key": key})
        await siem.until(lambda: siem.cursor() >= 5)
        await siem.until(lambda: len(server.lines) >= 5)
        assert server.ids[:5] == ids and siem.cursor(sink="without") == 0
    finally:
        await server.stop()


async def test_a_receiver_that_ends_before_we_do_has_read_nothing(
    siem: SiemWorld, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends its side at once and reads nothing, while its kernel goes on acknowledging our bytes."""
    certificate, key = authority.issue("siem.example.com")
    (tmp_path / "both.pem").write_text(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    kept: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                secured = context.wrap_socket(connection, server_side=True)
                secured.shutdown(socket.SHUT_WR)
                kept.append(secured)

    acknowledged = syslog._all_acknowledged

    def later(connection: socket.socket, timeout_s: float) -> None:
        time.sleep(0.1)  # until his end has come to us
        acknowledged(connection, timeout_s)

    monkeypatch.setattr(syslog, "_all_acknowledged", later)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        await siem.world.filled(3)
        where = {"host": "127.0.0.1", "port": listener.getsockname()[1], "ca": authority.pem, "timeout_s": 2}
        await siem.sink("syslog", where, {})
        siem.run()
        failed = siem.metrics.siem_failed.labels("default/out")
        await siem.until(lambda: failed._value.get() > 3)
        assert siem.cursor() == 0
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        await asyncio.to_thread(thread.join, 5)
        for each in kept:
            each.close()
