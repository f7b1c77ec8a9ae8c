"""Every look against real servers, honest, broken, slow and lying: each ends in time, and none is green by accident."""

from __future__ import annotations

import asyncio
import dataclasses
import http.server
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from probe_servers import answer, authority, forwarding, name_server, prometheus, web

from bailiwick.app.assurance.probes import figures
from bailiwick.app.siem import reach_of
from bailiwick.assurance.probes.internal import internals
from bailiwick.assurance.probes.looks import look
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import LookFailed, Reading, failed, read
from bailiwick.assurance.probes.spec import Probe, limit_of
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.db import libpq_url
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House
from ports import free_port

PASS, FAIL, NO_DATA, ERROR = Verdict.PASS, Verdict.FAIL, Verdict.NO_DATA, Verdict.ERROR
DAYS = {"comparison": ">", "value": 30, "unit": "d"}
CA = authority()


@pytest.fixture
def means(house: House, tmp_path: Path, database_url: str) -> Means:
    """Loopback is allowed, the temporary folder may be read, this Python and true may be run."""
    house.names.known |= {"good.test": ["127.0.0.1"], "metadata.test": ["169.254.169.254"], "slow.test": None}
    near = house.settings.model_copy(update={"allow_upstream_networks": ("127.0.0.0/8",)})
    reach = reach_of(Resolver(house.database, house.clock, house.recorder, near, house.names))
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    logs = tmp_path / "logs"
    logs.mkdir()
    return Means(reach, SystemClock(), database_url, logs, (tmp_path,), (Path(sys.executable), Path("/nonexistent")))


async def looked(means: Means, check: dict[str, Any], *, timeout: str = "2s", window: str | None = None,
                 expect: dict[str, Any] | None = None) -> Reading:  # fmt: skip
    """The reading of one look, which must come soon after its time."""
    said = {"summary": "s", "owner": "uptime", "check": check, "timeout": timeout, "window": window, "expect": expect}
    spec = Probe.model_validate(said)
    asked = Asked("default", means.clock.now(), timedelta(hours=1) if window else None, float(timeout[:-1]))
    began = time.monotonic()
    try:
        reading = read(await look(spec.check, means, asked), limit_of(spec, {}))
    except LookFailed as error:
        reading = failed(str(error))
    assert time.monotonic() - began < asked.timeout_s + 8
    return reading


# ---------------------------------------------------------------------- http


async def site(target: str, writer: asyncio.StreamWriter) -> None:
    body = json.dumps({"status": "healthy", "services": [{"name": "database", "up": 1}], "nan": "NaN", "yes": True})
    match target.split("?")[0]:
        case "/ok":
            writer.write(answer(body.encode(), X_Frame_Options="DENY"))
        case "/hop":
            writer.write(answer(b"", "302 Found", Location="/ok"))
        case "/loop":
            writer.write(answer(b"", "302 Found", Location="/loop"))
        case "/away":
            writer.write(answer(b"", "302 Found", Location="http://169.254.169.254/latest"))
        case "/broken":
            writer.write(answer(b"no", "500 Internal Server Error"))
        case "/huge":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n")
            for _ in range(160):
                writer.write(b"x" * 65_536)
                await writer.drain()
        case "/endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        case "/cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        case "/garbage":
            writer.write(b"\x00\xff\x00\xff\r\n\r\n")
        case "/silent":
            await asyncio.sleep(30)
    await writer.drain()


@pytest.mark.parametrize(
    ("path", "more", "verdict", "told"),
    [
        ("/ok", {}, PASS, "200"),
        ("/ok", {"headers": {"X-Frame-Options": "DENY"}, "phrase": "healthy"}, PASS, "200"),
        ("/ok", {"headers": {"X-Frame-Options": "SAMEORIGIN"}}, FAIL, "another"),
        ("/ok", {"headers": {"X-Missing": "1"}}, FAIL, "not there"),
        ("/ok", {"phrase": "sick"}, FAIL, "phrase"),
        ("/ok", {"status": [204]}, FAIL, "200"),
        ("/ok", {"json_path": "$.status", "json_equals": "healthy"}, PASS, "200"),
        ("/ok", {"json_path": "$.status", "json_equals": "sick"}, FAIL, "healthy"),
        ("/ok", {"json_path": "$.services[0].up", "json_equals": True}, FAIL, "1"),
        ("/ok", {"json_path": "$.services[1].up"}, NO_DATA, "nothing at"),
        ("/broken", {}, FAIL, "500"),
        ("/hop", {}, FAIL, "302"),
        ("/hop", {"follow": 1}, PASS, "200"),
        ("/loop", {"follow": 5}, ERROR, "redirects"),
        ("/away", {"follow": 1}, ERROR, "not allowed"),
        ("/huge", {}, ERROR, "larger"),
        ("/endless", {}, ERROR, "within 1 s"),
        ("/silent", {}, ERROR, "within 1 s"),
        ("/cut", {}, ERROR, "Payload"),
        ("/garbage", {}, ERROR, "Bad"),
    ],
)
async def test_a_web_server_is_asked(
    means: Means, path: str, more: dict[str, Any], verdict: Verdict, told: str
) -> None:
    async with web(site) as port:
        check = {"type": "http", "url": f"http://good.test:{port}{path}", **more}
        reading = await looked(means, check, timeout="1s")
    assert (reading.verdict, told in reading.detail) == (verdict, True), reading


async def test_what_is_measured_is_held_against_the_limit(means: Means) -> None:
    async with web(site) as port:
        check = {"type": "http", "url": f"http://127.0.0.1:{port}/ok"}
        quick = await looked(means, {**check, "measure": "time"}, expect={"comparison": "<", "value": 2, "unit": "s"})
        slow = await looked(means, {**check, "measure": "time"}, expect={"comparison": "<", "value": 0, "unit": "ms"})
        one = {**check, "measure": "json", "json_path": "$.services[0].up"}
        number = await looked(means, one, expect={"comparison": "==", "value": 1})
        nan = await looked(means, {**one, "json_path": "$.nan"}, expect={"comparison": "==", "value": 1})
        text = await looked(means, {**one, "json_path": "$.status"}, expect={"comparison": "==", "value": 1})
    assert [each.verdict for each in (quick, slow, number, nan, text)] == [PASS, FAIL, PASS, NO_DATA, NO_DATA]
    assert quick.value is not None and 0 < quick.value < 2 and quick.unit == "s"
    assert quick.output.startswith(b"200\n")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://metadata.test/", "not allowed"),
        ("http://169.254.169.254/", "not allowed"),
        ("http://10.9.9.9/", "not allowed"),
        ("http://[::1]:1/", "not allowed"),
        ("http://unknown.test/", "no such name"),
        ("http://slow.test/", "does not answer"),
        ("http://127.0.0.1:1/", "Cannot connect"),
    ],
)
async def test_what_may_not_or_cannot_be_reached_is_an_error(means: Means, url: str, told: str) -> None:
    reading = await looked(means, {"type": "http", "url": url})
    assert (reading.verdict, told in reading.detail) == (ERROR, True), reading


async def test_certificates_are_checked(means: Means, tmp_path: Path) -> None:
    async with (
        web(site, CA.context(tmp_path, ["good.test"], 90)) as good,
        web(site, CA.context(tmp_path, ["other.test"], 90)) as other,
        web(site, CA.context(tmp_path, ["good.test"], -1)) as expired,
    ):
        asked = {"type": "http", "ca_file": str(tmp_path / "ca.pem")}
        found = [
            await looked(means, {**asked, "url": f"https://good.test:{port}/ok"}) for port in (good, other, expired)
        ]
        untrusted = await looked(means, {"type": "http", "url": f"https://good.test:{good}/ok"})
    assert [each.verdict for each in found] == [PASS, FAIL, FAIL]
    assert untrusted.verdict is FAIL and "not trusted" in untrusted.detail


# ---------------------------------------------------------------------- tls


async def test_the_life_of_a_certificate_is_measured(means: Means, tmp_path: Path) -> None:
    async with (
        web(site, CA.context(tmp_path, ["good.test", "*.pay.test"], 90)) as good,
        web(site, CA.context(tmp_path, ["good.test"], 10)) as soon,
        web(site, CA.context(tmp_path, ["good.test"], -1)) as expired,
    ):
        asked = {"type": "tls", "host": "good.test", "ca_file": str(tmp_path / "ca.pem")}
        well = await looked(means, {**asked, "port": good, "names": ["a.pay.test"]}, expect=DAYS)
        unnamed = await looked(means, {**asked, "port": good, "names": ["b.a.pay.test"]}, expect=DAYS)
        short, over, away = [
            await looked(means, {**asked, "port": port}, expect=DAYS) for port in (soon, expired, free_port())
        ]
    assert well.verdict is PASS and well.value == pytest.approx(90, abs=0.1)
    assert (short.verdict, short.value) == (FAIL, pytest.approx(10, abs=0.1))
    assert [each.verdict for each in (unnamed, over, away)] == [FAIL, FAIL, ERROR]
    assert "expired" in over.detail


async def test_a_server_of_an_old_version_fails(means: Means, tmp_path: Path) -> None:
    import ssl

    context = CA.context(tmp_path, ["good.test"], 90)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with web(site, context) as port:
        asked = {"type": "tls", "host": "good.test", "port": port, "ca_file": str(tmp_path / "ca.pem")}
        assert (await looked(means, asked, expect=DAYS)).verdict is PASS
        assert (await looked(means, {**asked, "min_version": "1.3"}, expect=DAYS)).verdict is FAIL


async def test_a_handshake_that_never_ends_is_an_error(means: Means) -> None:
    server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(30), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert (await looked(means, {"type": "tls", "host": "good.test", "port": port}, expect=DAYS)).verdict is ERROR
    server.close()


# ---------------------------------------------------------------------- sql


@pytest.mark.parametrize(
    ("query", "expect", "verdict", "told"),
    [
        ("SELECT true", None, PASS, "true"),
        ("SELECT 1 > 2", None, FAIL, "false"),
        ("SELECT count(*) FROM zones", {"comparison": ">=", "value": 1}, PASS, "answers"),
        ("SELECT 12.5::numeric", {"comparison": "<", "value": 10}, FAIL, "12.5"),
        ("SELECT 'NaN'::float8", {"comparison": "<", "value": 10}, NO_DATA, "nan"),
        ("SELECT NULL::int", {"comparison": "<", "value": 10}, NO_DATA, "null"),
        ("SELECT 1 WHERE false", {"comparison": "<", "value": 10}, NO_DATA, "no row"),
        ("SELECT 1 UNION SELECT 2", {"comparison": "<", "value": 10}, ERROR, "more than one"),
        ("SELECT 1, 2", {"comparison": "<", "value": 10}, ERROR, "more than one"),
        ("SELECT 'text'", None, ERROR, "neither"),
        ("SELECT nothing FROM nowhere", None, ERROR, "does not exist"),
        ("SELECT pg_sleep(60) IS NULL", None, ERROR, "statement timeout"),
        ("DELETE FROM zones", None, ERROR, "only reads"),
        ("WITH gone AS (DELETE FROM silent_jobs RETURNING 1) SELECT count(*) FROM gone", None, ERROR, "read-only"),
        ("SELECT true; DELETE FROM zones", None, ERROR, "multiple commands"),
        ("SELECT true; COMMIT; DELETE FROM zones", None, ERROR, "multiple commands"),
        ("SELECT pg_read_file('/etc/passwd') IS NULL", None, ERROR, "permission denied"),
    ],
)
async def test_our_own_database_is_asked(
    means: Means, query: str, expect: dict[str, Any] | None, verdict: Verdict, told: str
) -> None:
    reading = await looked(means, {"type": "sql", "query": query}, timeout="1s", expect=expect)
    assert (reading.verdict, told in reading.detail) == (verdict, True), reading


async def test_another_database_is_asked_by_an_address_that_was_checked(
    means: Means, house: House, database_url: str, tmp_path: Path
) -> None:
    from psycopg.conninfo import conninfo_to_dict

    ours = conninfo_to_dict(libpq_url(database_url))
    socket = f"{ours['host']}/.s.PGSQL.{ours.get('port', 5432)}"
    check = {"type": "sql", "query": "SELECT 7", "url_file": str(tmp_path / "url")}
    expect = {"comparison": "==", "value": 7}
    async with forwarding(socket) as port:
        (tmp_path / "url").write_text(f"postgresql://{ours['user']}@good.test:{port}/{ours['dbname']}\n")
        assert (await looked(means, check, expect=expect)).verdict is PASS
    for url in ("postgresql://postgres@metadata.test/x", f"postgresql:///x?host={ours['host']}", "no url",
                "postgresql://good.test/x?hostaddr=169.254.169.254", "postgresql://good.test,metadata.test/x"):  # fmt: skip
        (tmp_path / "url").write_text(url)
        assert (await looked(means, check, expect=expect)).verdict is ERROR, url


# ---------------------------------------------------------------------- prometheus


class _Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b"latency_seconds 0.08\nbroken_ratio NaN\nendless_ratio +Inf\n"
                         b'parts_up{part="a"} 1\nparts_up{part="b"} 0\n')  # fmt: skip

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def prometheus_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with prometheus(server.server_address[1]) as url:
        yield url
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("query", "more", "verdict", "value"),
    [
        ("latency_seconds", {"unit": "s"}, PASS, 80),
        ("latency_seconds * 2", {"unit": "s"}, FAIL, 160),
        ("scalar(latency_seconds)", {"unit": "s"}, PASS, 80),
        ("absent_metric", {}, NO_DATA, None),
        ("broken_ratio", {}, NO_DATA, None),
        ("endless_ratio", {}, NO_DATA, None),
        ("latency_seconds / 0", {}, NO_DATA, None),
        ("parts_up", {}, ERROR, None),
        ("parts_up", {"reduce": "min"}, PASS, 0),
        ("parts_up", {"reduce": "sum"}, PASS, 1),
        ("this is no query", {}, ERROR, None),
        ("latency_seconds[5m]", {}, ERROR, None),
    ],
)
async def test_a_real_prometheus_is_asked(
    means: Means, prometheus_url: str, query: str, more: dict[str, Any], verdict: Verdict, value: float | None
) -> None:
    check = {"type": "prometheus", "url": prometheus_url, "query": query, **more}
    reading = await looked(means, check, expect={"comparison": "<", "value": 100, "unit": "ms"})
    assert (reading.verdict, reading.value) == (verdict, value if value is None else pytest.approx(value)), reading


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"<html>", b'{"status":"success","data":{"resultType":"vector"}}',
                                  b'{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"x"]}]}}'])  # fmt: skip
async def test_what_is_no_prometheus_is_an_error(means: Means, body: bytes) -> None:
    async def lie(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(body))

    async with web(lie) as port:
        check = {"type": "prometheus", "url": f"http://127.0.0.1:{port}", "query": "up"}
        assert (await looked(means, check, expect={"comparison": "<", "value": 1})).verdict is ERROR


# ---------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("script", "more", "verdict", "told"),
    [
        ("print('fine')", {}, PASS, "exit 0"),
        ("raise SystemExit(1)", {}, FAIL, "exit 1"),
        ("raise SystemExit(7)", {}, FAIL, "exit 7"),
        ("raise SystemExit(3)", {}, NO_DATA, "exit 3"),
        ("import os; os.kill(os.getpid(), 9)", {}, ERROR, "signal 9"),
        ("import time; time.sleep(60)", {}, ERROR, "within 2 s"),
        ("print(' 42 ')", {"measure": "output"}, PASS, "42"),
        ("print('many')", {"measure": "output"}, NO_DATA, "no number"),
        ("print('nan')", {"measure": "output"}, NO_DATA, "nan"),
        ("print('x' * 5_000_000)", {}, PASS, "exit 0"),
    ],
)
async def test_a_program_is_run(means: Means, script: str, more: dict[str, Any], verdict: Verdict, told: str) -> None:
    expect = {"comparison": "<", "value": 100} if more else None
    check = {"type": "command", "argv": [sys.executable, "-c", script], **more}
    reading = await looked(means, check, expect=expect)
    assert (reading.verdict, told in reading.detail) == (verdict, True), reading
    assert len(reading.output) <= 1 << 20


async def test_a_program_has_an_environment_of_its_own_and_no_shell(
    means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAILIWICK_PLANTED", "Zq9planted")
    script = "import os, sys; print(sorted(os.environ), sys.argv[1:])"
    check = {"type": "command", "argv": [sys.executable, "-c", script, "$HOME; touch /tmp/x"]}
    output = (await looked(means, check)).output.decode()
    assert "BAILIWICK_PLANTED" not in output and "$HOME; touch /tmp/x" in output


async def test_when_time_is_up_everything_a_program_started_ends(means: Means, tmp_path: Path) -> None:
    script = f"""import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(600)"""
    reading = await looked(means, {"type": "command", "argv": [sys.executable, "-c", script]}, timeout="3s")
    assert reading.verdict is ERROR
    for pid in (tmp_path / "pids").read_text().split():
        deadline = time.monotonic() + 5
        while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline, "a program of the probe goes on"
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("program", ["/bin/sh", "python3", "/nonexistent"])
async def test_only_programs_that_the_settings_name_are_run(means: Means, program: str) -> None:
    assert (await looked(means, {"type": "command", "argv": [program]})).verdict is ERROR


# ---------------------------------------------------------------------- files

DAY = {"comparison": "<", "value": 24, "unit": "h"}


def aged(path: Path, hours: float, text: str = "dump") -> Path:
    path.write_text(text)
    moment = time.time() - hours * 3600
    os.utime(path, (moment, moment))
    return path


async def test_the_age_of_a_backup(means: Means, tmp_path: Path) -> None:
    aged(tmp_path / "db-1.dump", 30)
    old = await looked(means, {"type": "file_age", "path": str(tmp_path / "db-*.dump")}, expect=DAY)
    aged(tmp_path / "db-2.dump", 2)
    young = await looked(means, {"type": "file_age", "path": str(tmp_path / "db-*.dump")}, expect=DAY)
    one = await looked(means, {"type": "file_age", "path": str(tmp_path / "db-1.dump")}, expect=DAY)
    none = await looked(means, {"type": "file_age", "path": str(tmp_path / "no-*.dump")}, expect=DAY)
    aged(tmp_path / "e.dump", 1, "")
    aged(tmp_path / "f.dump", -5)
    empty, future = [
        await looked(means, {"type": "file_age", "path": str(tmp_path / name)}, expect=DAY)
        for name in ("e.dump", "f.dump")
    ]
    assert [each.verdict for each in (old, young, one, none, empty, future)] == [FAIL, PASS, FAIL, NO_DATA, FAIL, FAIL]
    assert (young.value, young.unit) == (pytest.approx(2, abs=0.1), "h")


async def test_only_files_that_the_settings_name_are_read(means: Means, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for path in ("/etc/passwd", str(tmp_path / "link"), f"{tmp_path}/../../etc/passwd"):
        assert (await looked(means, {"type": "file_age", "path": path}, expect=DAY)).verdict is ERROR, path
    check = {"type": "json_path", "path": "$.a", "file": "/etc/hostname", "equals": 1}
    assert (await looked(means, check)).verdict is ERROR


@pytest.mark.parametrize(
    ("text", "more", "verdict"),
    [
        ('{"a": true}', {}, PASS),
        ('{"a": false}', {}, FAIL),
        ('{"a": "on"}', {"equals": "on"}, PASS),
        ('{"a": 1}', {"equals": True}, FAIL),
        ('{"a": 1}', {}, NO_DATA),
        ("{}", {}, NO_DATA),
        ("[" * 100_000, {}, ERROR),
        ("no", {}, ERROR),
        ("x" * (2 << 20), {}, ERROR),
    ],
)
async def test_a_value_of_a_json_file(
    means: Means, tmp_path: Path, text: str, more: dict[str, Any], verdict: Verdict
) -> None:
    (tmp_path / "state.json").write_text(text)
    check = {"type": "json_path", "path": "$.a", "file": str(tmp_path / "state.json"), **more}
    assert (await looked(means, check)).verdict is verdict


async def test_a_value_of_json_at_an_address(means: Means) -> None:
    async with web(site) as port:
        check = {"type": "json_path", "path": "$.yes", "url": f"http://127.0.0.1:{port}/ok"}
        assert (await looked(means, check)).verdict is PASS
        assert (await looked(means, {**check, "url": f"http://127.0.0.1:{port}/broken"})).verdict is FAIL


async def test_a_phrase_is_counted_within_the_window(means: Means) -> None:
    now = means.clock.now()

    def line(minutes: float, text: str) -> str:
        return f'{{"ts": "{(now - timedelta(minutes=minutes)).isoformat()}", "event": "{text}"}}\n'

    lines = [line(90 - n / 1000, "ERROR old " + "x" * 60) for n in range(20_000)]  # more than one block
    lines += [line(50, "ERROR one"), "  a traceback with ERROR\n", line(40, "fine"), line(1, "ERROR two")]
    (means.logs / "work.log").write_text("".join(lines))
    check = {"type": "log_phrase", "phrase": "ERROR", "log": "work"}
    few = {"comparison": "<=", "value": 2, "unit": "count"}
    reading = await looked(means, check, window="1h", expect=few)
    assert (reading.verdict, reading.value) == (FAIL, 3)
    assert b"ERROR two" in reading.output and b"old" not in reading.output
    assert (await looked(means, {**check, "phrase": "panic"}, window="1h", expect=few)).verdict is PASS
    assert (await looked(means, {**check, "log": "none"}, window="1h", expect=few)).verdict is NO_DATA


# ---------------------------------------------------------------------- network


@pytest.mark.parametrize(
    ("name", "more", "verdict", "told"),
    [
        ("web.test", {}, PASS, "2 answers"),
        ("web.test", {"answers": ["192.0.2.1"]}, PASS, "2 answers"),
        ("web.test", {"answers": ["192.0.2.9"]}, FAIL, "192.0.2.9"),
        ("web.test", {"record": "TXT", "answers": ["hello"]}, PASS, "1 answers"),
        ("web.test", {"record": "CNAME", "answers": ["other.test."]}, PASS, "1 answers"),
        ("web.test", {"record": "AAAA"}, NO_DATA, "no such record"),
        ("nobody.test", {}, FAIL, "no such name"),
        ("broken.test", {}, ERROR, "code 2"),
        ("short.test", {}, PASS, "2 answers"),
        ("silent.test", {}, ERROR, "within 1 s"),
        ("forged.test", {}, ERROR, "within 1 s"),
        ("garbage.test", {}, ERROR, "within 1 s"),
    ],
)
async def test_a_name_server_is_asked(
    means: Means, name: str, more: dict[str, Any], verdict: Verdict, told: str
) -> None:
    async with name_server() as port:
        check = {"type": "dns", "name": name, "server": "127.0.0.1", "port": port, **more}
        reading = await looked(means, check, timeout="1s")
    assert (reading.verdict, told in reading.detail) == (verdict, True), reading


async def test_a_name_server_we_may_not_ask(means: Means) -> None:
    reading = await looked(means, {"type": "dns", "name": "web.test", "server": "169.254.169.254"})
    assert (reading.verdict, "not allowed" in reading.detail) == (ERROR, True)


async def test_only_the_ports_expected_are_open(means: Means) -> None:
    async with web(site) as one, web(site) as other:
        closed = free_port()
        scan = {"type": "port_scan", "host": "good.test", "ports": [str(port) for port in (one, other, closed)]}
        right = await looked(means, {**scan, "open": [one, other]})
        more = await looked(means, {**scan, "open": [one]})
        less = await looked(means, {**scan, "open": [one, other, closed]})
        barred = await looked(means, {**scan, "host": "metadata.test"})
    assert [each.verdict for each in (right, more, less, barred)] == [PASS, FAIL, FAIL, ERROR]
    assert more.value == less.value == 1
    assert f"{other} should not be open" in more.detail and f"{closed} should be open" in less.detail


# ---------------------------------------------------------------------- our own


@pytest.fixture
async def own(means: Means, house: House, tmp_path: Path) -> AsyncIterator[Means]:
    told = {"bailiwick_ledger_lag_seconds": [2.0], "bailiwick_ledger_dead_letters": [0.0, 1.0],
            "bailiwick_feed_fresh_timestamp_seconds": [time.time() - 5, 0.0], "bailiwick_disk_free_ratio": [0.5],
            "bailiwick_database_connections": [50.0], "bailiwick_database_connections_max": [100.0]}  # fmt: skip
    context = CA.context(tmp_path, ["us.test"], 20)
    assert context
    certificate = tmp_path / "us.test-20.pem"
    yield dataclasses.replace(
        means, internals=internals(house.database, house.clock, lambda: told, lambda: ["0004_x"], certificate)
    )


@pytest.mark.parametrize(
    ("what", "argument", "limit", "verdict"),
    [
        ("database", "", None, PASS),
        ("schema", "", None, FAIL),
        ("sequencer_lag", "", (60, "s"), PASS),
        ("dead_letters", "", (1, "count"), FAIL),
        ("feed_age", "", (30, "s"), PASS),
        ("disk_free", "", (60, "%"), PASS),
        ("database_connections", "", (40, "%"), FAIL),
        ("cpu_used", "", (80, "%"), NO_DATA),
        ("metric", "bailiwick_ledger_lag_seconds", (1, ""), FAIL),
        ("metric", "no_such_metric", (1, ""), NO_DATA),
        ("outbox_age", "", (60, "s"), PASS),
        ("siem_lag", "", (60, "s"), NO_DATA),
        ("job_age", "verify-newest-events", (60, "s"), NO_DATA),
        ("ledger_verified_age", "", (60, "s"), NO_DATA),
        ("ledger_intact", "", None, NO_DATA),
        ("archive_proven", "", None, NO_DATA),
        ("backup_age", "", (24, "h"), NO_DATA),
        ("signing_key_age", "", (90, "d"), NO_DATA),
        ("certificate", "", (30, "d"), PASS),
        ("no_such_thing", "", None, ERROR),
    ],
)
async def test_our_own(own: Means, what: str, argument: str, limit: tuple[float, str] | None, verdict: Verdict) -> None:
    expect = {"comparison": "<", "value": limit[0], "unit": limit[1]} if limit else None
    reading = await looked(own, {"type": "internal", "what": what, "argument": argument}, expect=expect)
    assert reading.verdict is verdict, reading


async def test_what_jobs_left_is_read(own: Means, house: House) -> None:
    async def left(job: str, state: str, detail: dict[str, Any]) -> None:
        async with house.database.begin() as tx:
            await tx.run(
                "INSERT INTO job_occurrences (job, due_at, state, finished_at, detail)"
                " VALUES (:job, :now, :state, :now, cast(:detail AS jsonb))",
                job=job, state=state, now=house.clock.now(), detail=json.dumps(detail),
            )  # fmt: skip
        house.clock.advance(30)

    await left("verify-newest-events", "succeeded", {"findings": 1})
    assert (await looked(own, {"type": "internal", "what": "ledger_intact"})).verdict is FAIL
    await left("verify-newest-events", "succeeded", {"findings": 0})
    assert (await looked(own, {"type": "internal", "what": "ledger_intact"})).verdict is PASS
    age = await looked(own, {"type": "internal", "what": "ledger_verified_age"}, expect=DAY)
    assert (age.verdict, age.value) == (PASS, pytest.approx(30 / 3600))
    await left("verify-archive", "succeeded", {"default": {"verdict": "PASS"}})
    assert (await looked(own, {"type": "internal", "what": "archive_proven"})).verdict is PASS
    await left("verify-archive", "succeeded", {"default": {"verdict": "PASS"}, "acme": {"verdict": "FAIL"}})
    assert (await looked(own, {"type": "internal", "what": "archive_proven"})).detail.endswith("acme")
    await left("verify-archive", "failed", {})
    assert (await looked(own, {"type": "internal", "what": "archive_proven"})).verdict is ERROR


def test_without_processes_there_are_no_figures(tmp_path: Path) -> None:
    assert figures(tmp_path) == figures(tmp_path / "none") == {}
