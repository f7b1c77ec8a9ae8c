"""Reconciliations as they run: sources, periods, findings and their lives, reports, alerts, the entitlement ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import DBAPIError
from stage import Stage

from bailiwick.assurance import reconciliation
from bailiwick.assurance.book import BadBook, read_text
from bailiwick.assurance.reconciliation.api import finding_routes, reconciliation_routes
from bailiwick.assurance.reconciliation.entitlements import Entitlement, EntitlementLedger
from bailiwick.assurance.reconciliation.findings import Finding, Findings
from bailiwick.assurance.reconciliation.matching import TooMany, Unreachable, Window
from bailiwick.assurance.reconciliation.report import digest
from bailiwick.assurance.reconciliation.service import Reconciliations, Run
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION, RECONCILIATION, ConnectionSpec, SourceSpec
from bailiwick.inventory.credentials import Secret
from bailiwick.kernel.db import libpq_url
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest
from people_fixtures import House

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)

BOOK = """
apiVersion: bailiwick/v1
kind: Connection
metadata: {name: books}
spec: {kind: files, directory: %(directory)s/a}
---
apiVersion: bailiwick/v1
kind: Connection
metadata: {name: bank}
spec: {kind: files, directory: %(directory)s/b}
---
apiVersion: bailiwick/v1
kind: Reconciliation
metadata: {name: payouts}
spec:
  owner: payouts
  left: {connection: books, file: ledger.csv}
  right: {connection: bank, file: statement.csv}
  keys: [{left: id, right: ref}]
  fields: [{left: amount, right: value, kind: decimal}]
  weigh: amount
  storm: 3
  cap: 50
  table:
    - {type: mismatch, at_least: "100", severity: P0, action: escalate}
    - {type: mismatch, at_least: "1", severity: P1, action: manual-review}
    - {type: mismatch, severity: P3, action: auto-retry}
  %(more)s
"""
TIMED = "time: {left: at, right: at, late: 1h}"


@dataclass
class Desk:
    """A zone with two directories of files to compare."""

    stage: Stage
    directory: Path
    reconciliations: Reconciliations
    findings: Findings

    def write(self, left: dict[str, str], right: dict[str, str], at: str = "2026-11-20T12:00:00Z") -> None:
        for name, key, value, rows in (("a/ledger", "id", "amount", left), ("b/statement", "ref", "value", right)):
            path = self.directory / f"{name}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{key},{value},at\n" + "".join(f"{k},{v},{at}\n" for k, v in rows.items()))

    async def book(self, more: str = "") -> None:
        await self.stage.apply(BOOK % {"directory": self.directory, "more": more})

    async def run(self, **how: Any) -> Run:
        return await self.reconciliations.run(self.stage.context(), "payouts", **how)

    async def all(self, **which: Any) -> list[Finding]:
        return await self.findings.list("default", after="g", limit=500, **which)


async def reach(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def desk_of(house: House, directory: Path, scratch: Path) -> Desk:
    stage = Stage(house, [CONNECTION, RECONCILIATION])
    findings = Findings(stage.database, stage.clock, stage.ids, stage.recorder, stage.heard, stage.heard)
    sources = Sources(stage.database, lambda: house.sealer, reach)
    made = Reconciliations(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.records, stage.heard, findings, sources,
        scratch,
    )  # fmt: skip
    stage.serve(reconciliation_routes(made), finding_routes(findings))
    stage.clock.advance((NOW - stage.clock.now()).total_seconds())
    return Desk(stage, directory, made, findings)


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    made = desk_of(house, tmp_path / "files", tmp_path / "scratch")
    made.directory.mkdir()
    return made


async def test_a_run_that_finds_nothing_is_kept_with_its_report(desk: Desk, tmp_path: Path) -> None:
    await desk.book()
    desk.write({"1": "1.10", "2": "2"}, {"1": "1.1", "2": "2.00"})
    run = await desk.run()
    assert (run.verdict, run.totals["matched"], run.totals["unmatched"]) == ("PASS", 2, 0)
    _, report, text = await desk.reconciliations.report("default", "payouts")
    assert report["coverage"] == {"left": {"source": "books", "rows": 2}, "right": {"source": "bank", "rows": 2}}
    assert run.sha256 == digest(report) and "# Reconciliation payouts: PASS" in text
    events = [event for event in await desk.stage.people.events() if event.code == "BW7601"]
    assert [(event.details["verdict"], event.details["report"]) for event in events] == [("PASS", run.sha256)]
    async with desk.stage.database.begin() as tx:
        (record,) = await desk.stage.records.list(tx, "default", check="reconciliation/payouts")
        assert (await desk.stage.records.output(tx, record)).decode() == text
    again = await desk.run()
    assert again.sha256 == run.sha256, "the same window has another report"
    assert list((tmp_path / "scratch").iterdir()) == []
    assert desk.stage.heard.fired == []


async def test_findings_have_severity_and_action_by_the_table(desk: Desk) -> None:
    await desk.book("storm: 50".replace("storm: 50", ""))
    desk.write({"1": "200", "2": "5", "3": "0.02"}, {"1": "99", "2": "4", "3": "0.01"})
    run = await desk.run()
    assert (run.verdict, run.new_findings, run.open_findings, run.storm) == ("FAIL", 3, 3, False)
    found = {each.key[0]: (each.severity, each.action, each.detail["off"]) for each in await desk.all()}
    assert found == {
        "1": ("P0", "escalate", "101"),
        "2": ("P1", "manual-review", "1"),
        "3": ("P3", "auto-retry", "0.01"),
    }
    assert sorted(raised.severity for raised in desk.stage.heard.fired) == ["P0", "P1", "P3"]
    assert {raised.owner for raised in desk.stage.heard.fired} == {"payouts"}


async def test_what_was_told_is_not_told_again_and_a_later_green_erases_nothing(desk: Desk) -> None:
    await desk.book()
    desk.write({"1": "1"}, {"1": "2"})
    await desk.run()
    assert (await desk.run()).new_findings == 0
    assert len(desk.stage.heard.fired) == 1
    desk.stage.clock.advance(86_400)
    desk.write({"1": "2"}, {"1": "2"})
    assert (await desk.run()).verdict == "PASS"
    (found,) = await desk.all()
    assert (found.state, found.period) == ("open", "2026-11-21")
    desk.write({"1": "1"}, {"1": "2"})
    assert (await desk.run()).new_findings == 1
    assert [each.period for each in await desk.all()] == ["2026-11-22", "2026-11-21"]


async def test_more_new_findings_than_the_cap_are_one_alert(desk: Desk) -> None:
    await desk.book()
    desk.write({"0": "0"}, {str(n): "0" for n in range(5)})
    run = await desk.run()
    assert (run.storm, run.new_findings) == (True, 4)
    (alert,) = desk.stage.heard.fired
    assert alert.key == "recon/payouts/storm" and alert.severity == "P1"
    await desk.run()
    assert len(desk.stage.heard.fired) == 1
    assert "recon/payouts/storm" not in desk.stage.heard.open_alerts


async def test_more_rows_than_the_read_cap_are_an_error_and_findings_stay(desk: Desk) -> None:
    await desk.book()
    desk.write({"1": "1"}, {"1": "2"})
    await desk.run()
    (before,) = await desk.all()
    desk.write({str(n): "1" for n in range(51)}, {"1": "1"})
    run = await desk.run()
    assert run.verdict == "ERROR" and run.sha256 is None and "more than 50 rows" in (run.error or "")
    assert await desk.all() == [before]
    assert desk.stage.heard.open_alerts["recon/payouts/error"].severity == "P1"
    desk.write({"1": "1"}, {"1": "1"})
    assert (await desk.run()).verdict == "PASS"
    assert "recon/payouts/error" not in desk.stage.heard.open_alerts


@pytest.mark.parametrize("broken", ["gone", "float", "link", "binary"])
async def test_a_source_that_cannot_be_read_is_never_green(desk: Desk, broken: str) -> None:
    await desk.book()
    desk.write({"1": "1"}, {"1": "1"})
    path = desk.directory / "b/statement.csv"
    match broken:
        case "gone":
            path.unlink()
        case "float":
            path.write_text("ref,value,at\n1,1e0,\n")
        case "link":
            path.unlink()
            path.symlink_to("/etc/hostname")
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
    run = await desk.run()
    assert run.verdict == "ERROR" and run.coverage["right"]["verdict"] == "ERROR"
    assert (await desk.reconciliations.standing("default"))[0]["verdict"] == "ERROR"


async def test_nothing_on_both_sides_is_no_data(desk: Desk) -> None:
    await desk.book()
    desk.write({}, {})
    assert (await desk.run()).verdict == "NO_DATA"
    assert "recon/payouts/no-data" in desk.stage.heard.open_alerts


async def test_two_connections_to_one_place_are_not_independent(desk: Desk) -> None:
    text = (
        (BOOK % {"directory": desk.directory, "more": ""}).replace("/b}", "/a}").replace("statement.csv", "ledger.csv")
    )
    await desk.stage.apply(text)
    desk.write({"1": "1"}, {"1": "1"})
    run = await desk.run()
    assert run.verdict == "ERROR" and "not independent" in (run.error or "")


# --- the life of a finding


async def test_a_resolution_needs_a_change_and_is_confirmed_by_the_next_run(desk: Desk) -> None:
    await desk.book()
    desk.write({"1": "1", "2": "1"}, {"1": "2", "2": "2"})
    await desk.run()
    second, first = await desk.all()
    context = desk.stage.context()
    with pytest.raises(BailiwickError) as refused:
        await desk.findings.resolve(context, first.id, "root", "  ")
    assert (refused.value.reason, refused.value.status) == ("change_required", 422)
    await desk.findings.acknowledge(context, first.id, "root", "looking")
    for each in (first, second):
        await desk.findings.resolve(context, each.id, "root", "CHG-1")
    assert desk.stage.heard.open_alerts == {}
    desk.write({"1": "2", "2": "1"}, {"1": "2", "2": "2"})
    assert (await desk.run()).verdict == "FAIL"
    states = {each.key[0]: (each.state, each.verified_at is not None, each.reopened) for each in await desk.all()}
    assert states == {"1": ("resolved", True, 0), "2": ("open", False, 1)}
    assert len(desk.stage.heard.open_alerts) == 1
    _, moves = await desk.findings.get("default", first.id)
    assert [move["state"] for move in moves] == ["acknowledged", "resolved", "resolved"]
    events = [event for event in await desk.stage.people.events() if event.code == "BW7602"]
    told = [(event.details["before"], event.details["after"]) for event in events if event.subject.id == first.id]
    assert told == [("open", "acknowledged"), ("acknowledged", "resolved"), ("resolved", "resolved")]
    desk.write({"1": "1", "2": "1"}, {"1": "2", "2": "1"})  # what was confirmed is there again, within its period
    await desk.run()
    assert {each.key[0]: each.state for each in await desk.all()} == {"1": "open", "2": "open"}


async def test_a_period_with_instants_is_gone_over_again_for_its_resolutions(desk: Desk) -> None:
    await desk.book(TIMED)
    desk.write({"1": "1"}, {"1": "2"})
    due = NOW.replace(hour=2)
    await desk.reconciliations.on_schedule(desk.stage.context(), "payouts", "delta", due)
    (found,) = await desk.all()
    assert found.period == "2026-11-20"
    await desk.findings.resolve(desk.stage.context(), found.id, "root", "CHG-2")
    desk.stage.clock.advance(86_400)
    told = await desk.reconciliations.on_schedule(desk.stage.context(), "payouts", "delta", due + timedelta(days=1))
    assert (told["period"], told["verdict"], told["verified"]) == ("2026-11-21", "NO_DATA", ["FAIL"])
    assert [(each.state, each.reopened) for each in await desk.all()] == [("open", 1)]
    await desk.findings.resolve(desk.stage.context(), found.id, "root", "CHG-3")
    desk.write({"1": "2"}, {"1": "2"})
    told = await desk.reconciliations.on_schedule(desk.stage.context(), "payouts", "delta", due + timedelta(days=1))
    assert told["verified"] == ["PASS"]
    assert [each.verified_at is not None for each in await desk.all()] == [True]


async def test_it_is_accepted_only_under_a_waiver_that_covers_it_and_as_long(desk: Desk) -> None:
    await desk.book()
    desk.write({"1": "1"}, {"1": "2"})
    await desk.run()
    (found,) = await desk.all()
    with pytest.raises(Conflict) as refused:
        await desk.findings.accept(desk.stage.context(), found.id, "root", "W-1")
    assert refused.value.reason == "waiver_not_covering"
    desk.stage.heard.waivers[("reconciliation/payouts", "mismatch")] = "W-1"
    await desk.findings.accept(desk.stage.context(), found.id, "root", "W-1")
    assert desk.stage.heard.uses == [("W-1", "reconciliation/payouts/mismatch")]
    run = await desk.run()
    assert run.verdict == "PASS"
    _, report, _ = await desk.reconciliations.report("default", "payouts")
    assert (report["findings"], report["accepted"]) == (1, 1)
    desk.stage.heard.waivers.clear()
    assert (await desk.run()).verdict == "FAIL"
    assert [each.state for each in await desk.all()] == ["open"]


async def test_a_snooze_mutes_and_nothing_more(desk: Desk) -> None:
    await desk.book()
    desk.write({"1": "1"}, {"1": "2"})
    await desk.run()
    (found,) = await desk.all()
    with pytest.raises(InvalidRequest):
        await desk.findings.snooze(desk.stage.context(), found.id, "root", NOW + timedelta(days=31))
    await desk.findings.snooze(desk.stage.context(), found.id, "root", NOW + timedelta(hours=2))
    assert [event.code for event in await desk.stage.people.events()][-1] == "BW7602"
    assert (await desk.run()).verdict == "FAIL" and len(desk.stage.heard.fired) == 1
    desk.stage.clock.advance(7_201)
    await desk.run()
    assert len(desk.stage.heard.fired) == 2


# --- periods and schedules


async def test_a_period_that_is_not_over_is_not_reported_on(desk: Desk) -> None:
    await desk.book(TIMED)
    desk.write({"1": "1"}, {"1": "1"})
    for period in ("2026-11-21", "full-2026-11-21", "2026-13-01", "1900-01-01"):
        with pytest.raises(InvalidRequest):
            await desk.run(period=period)
    assert (await desk.run(period="2026-11-20")).verdict == "PASS"
    await desk.stage.apply(
        (BOOK % {"directory": desk.directory, "more": TIMED}).replace("file: ledger.csv", 'file: "day-{date}.csv"')
    )
    (desk.directory / "a/ledger.csv").rename(desk.directory / "a/day-2026-11-20.csv")
    assert (await desk.run(period="2026-11-20")).verdict == "PASS"
    assert (await desk.run(mode="full")).error == "left (books): there is no file day-2026-10-17.csv"
    for n in range(34):
        (desk.directory / f"a/day-{NOW.date() - timedelta(days=2 + n)}.csv").write_text("id,amount,at")
    full = await desk.run(mode="full")
    assert full.verdict == "PASS"
    (desk.directory / "a/day-2026-11-01.csv").write_text("id,at,amount\n")
    assert "other columns" in str((await desk.run(mode="full")).error)
    assert (full.period, (full.until - full.since).days) == ("full-2026-11-20", 35)


async def test_the_book_asks_for_a_delta_and_a_full_scan(desk: Desk) -> None:
    await desk.book()
    async with desk.stage.database.begin() as tx:
        book = await desk.stage.books.current(tx, "default")
    jobs = desk.reconciliations.scheduled("default", book)
    assert [(job.name, job.schedule) for job in jobs] == [
        ("reconciliation:payouts:delta@default", "0 2 * * *"),
        ("reconciliation:payouts:full@default", "0 4 * * 0"),
    ]
    desk.write({"1": "1"}, {"1": "1"})
    assert {(await job.handler(NOW) or {})["verdict"] for job in jobs} == {"PASS"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("connection: bank", "connection: nowhere", "no Connection 'nowhere'"),
        ("{connection: bank, file: statement.csv}", "{own: nothing}", "nothing of our own"),
        ("{connection: bank, file: statement.csv}", "{connection: bank, sql: select 1}", "not of kind postgresql"),
        ("file: statement.csv", "file: ../etc/passwd.csv", "spec.right"),
        ("file: statement.csv", "file: statement.csv, sql: select 1", "one of sql"),
        ("weigh: amount", "weigh: size", "weigh"),
        ("weigh: amount", 'weigh: amount\n  schedule: {delta: "99 2 * * *"}', "cron"),
    ],
)
async def test_a_reconciliation_that_cannot_be_made_is_refused(desk: Desk, before: str, after: str, told: str) -> None:
    text = BOOK % {"directory": desk.directory, "more": ""}
    with pytest.raises(BadBook) as refused:
        await desk.stage.books.plan("default", read_text(text.replace(before, after), "a.yaml"))
    assert any(told in line for line in refused.value.problems), refused.value.problems


# --- other sources


async def test_rows_come_of_a_database_and_over_http(
    desk: Desk, house: House, aiohttp_pages: Callable[[], int]
) -> None:
    where = conninfo_to_dict(libpq_url(house.owner.url))
    with psycopg.connect(libpq_url(house.owner.url), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.payments (id text, amount numeric, rate float8)")
        connection.execute("TRUNCATE public.payments")
        connection.execute("INSERT INTO public.payments VALUES ('1', 0.1, 1), ('2', 0.2, 2), (E'q\"3', 3, 3)")
    name, password = str(where["user"]), str(where.get("password") or "none")
    await house.credentials.create(
        desk.stage.context(), "books", Secret("basic", None, {"username": name, "password": password})
    )
    await house.credentials.create(desk.stage.context(), "bank", Secret("bearer", None, {"token": "t0ken"}))

    def book(sql: str) -> str:
        return f"""
apiVersion: bailiwick/v1
kind: Connection
metadata: {{name: books}}
spec: {{kind: postgresql, host: {where["host"]}, port: {where["port"]}, database: {where["dbname"]}, credential: books}}
---
apiVersion: bailiwick/v1
kind: Connection
metadata: {{name: bank}}
spec: {{kind: http, url: "http://127.0.0.1:{aiohttp_pages()}/v1", credential: bank}}
---
apiVersion: bailiwick/v1
kind: Reconciliation
metadata: {{name: payouts}}
spec:
  owner: payouts
  left: {{connection: books, sql: "{sql}"}}
  right:
    connection: bank
    path: /payments?since=:since
    items: data.items
    columns: {{ref: reference, value: money.amount}}
    paging: {{kind: cursor, parameter: after, next: data.next}}
  keys: [{{left: id, right: ref}}]
  fields: [{{left: amount, right: value, kind: decimal}}]
"""

    await desk.stage.apply(book("SELECT id, amount FROM public.payments WHERE :since::timestamptz < :until"))
    run = await desk.run()
    assert (run.verdict, run.error, run.totals) == (
        "FAIL",
        None,
        {"left_rows": 3, "right_rows": 3, "left_keys": 3, "right_keys": 3, "matched": 3, "unmatched": 0},
    )
    assert [(each.key[0], each.detail["off"]) for each in await desk.all() if "off" in each.detail] == []
    (found,) = await desk.all()
    assert found.detail["fields"]["amount"] == {"left": "0.2", "right": "0.200000000000000001"}
    for sql, told in (
        ("DELETE FROM public.payments RETURNING id, amount", "query fails"),
        ("SELECT id, rate AS amount FROM public.payments", "floating-point"),
        ("SELECT id FROM public.payments", "no column 'amount'"),
        ("SELECT set_config('transaction_read_only', 'off', true) AS id, 1 AS amount", "query fails"),
    ):
        await desk.stage.apply(book(sql))
        run = await desk.run()
        assert run.verdict == "ERROR" and told in (run.error or ""), (sql, run)


@pytest.fixture
async def aiohttp_pages() -> AsyncIterator[Callable[[], int]]:
    """A provider that has three payments on two pages, of numbers that floats would spoil."""

    async def payments(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer t0ken" or not request.query["since"].startswith(
            "2026-11-21T"
        ):
            return web.Response(status=403)
        first = '[{"reference": "1", "money": {"amount": 0.10}}, {"reference": "2", "money": {"amount": 0.200000000000000001}}]'
        if "after" not in request.query:
            return web.Response(
                text=f'{{"data": {{"items": {first}, "next": "a b"}}}}', content_type="application/json"
            )
        assert request.query["after"] == "a b"
        return web.json_response({"data": {"items": [{"reference": 'q"3', "money": {"amount": "3"}}], "next": None}})

    app = web.Application()
    app.router.add_get("/v1/payments", payments)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield lambda: runner.addresses[0][1]
    await runner.cleanup()


async def test_members_of_groups_are_read_page_by_page(desk: Desk, house: House, tmp_path: Path) -> None:
    groups = [("none", []), ("ops", ["jane", "joe"]), ("empty", []), ("finance", ["jane"])]

    async def answer(request: web.Request) -> web.Response:
        first = int(request.query["startIndex"]) - 1
        some = [
            {"displayName": name, "members": [{"display": each} for each in who]} for name, who in groups[first:][:1]
        ]
        return web.json_response({"Resources": some})

    app = web.Application()
    app.router.add_get("/scim/Groups", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        connection = ConnectionSpec(kind="http", url=f"http://127.0.0.1:{runner.addresses[0][1]}/scim")
        source = SourceSpec.model_validate(
            {
                "connection": "directory",
                "path": "/Groups",
                "items": "Resources",
                "each": "members",
                "columns": {"resource": "item.displayName", "subject": "each.display"},
                "paging": {"kind": "page", "parameter": "startIndex"},
            }
        )
        sources, window = Sources(desk.stage.database, lambda: house.sealer, reach), Window(NOW, NOW)
        laid = await sources.lay("default", source, {"directory": connection}, tmp_path / "left.csv", window, 3)
        assert laid.path.read_text().split() == [
            '"resource","subject"', '"ops","jane"', '"ops","joe"', '"finance","jane"',
        ]  # fmt: skip
        with pytest.raises(TooMany):
            await sources.lay("default", source, {"directory": connection}, tmp_path / "left.csv", window, 2)
    finally:
        await runner.cleanup()
    with pytest.raises(Unreachable):
        await sources.lay("default", source, {"directory": connection}, tmp_path / "left.csv", window, 3)


async def test_what_is_found_here_is_compared_with_the_entitlement_ledger(desk: Desk) -> None:
    text = """
apiVersion: bailiwick/v1
kind: Reconciliation
metadata: {name: payouts}
spec:
  owner: access
  left: {own: entitlements}
  right: {own: roles}
  keys: [{left: subject, right: subject}, {left: resource, right: resource}]
"""
    await desk.stage.apply(text)
    ledger = EntitlementLedger(desk.stage.clock, desk.stage.ids, desk.stage.recorder)
    await desk.stage.people.user("jane")
    async with desk.stage.database.begin() as tx:
        users = await tx.all("SELECT username, role FROM users WHERE zone = 'default' AND is_active ORDER BY 1")
        standing = [Entitlement(row["username"], row["role"]) for row in users]
        await ledger.open_with(tx, desk.stage.context(), standing, by="root")
    assert (await desk.run()).verdict == "PASS"
    with pytest.raises(Conflict):
        async with desk.stage.database.begin() as tx:
            await ledger.post(tx, desk.stage.context(), standing[0], granted=True, cause="again", by="root")
    async with desk.stage.database.begin() as tx:
        await ledger.post(
            tx, desk.stage.context(), Entitlement("jane", "auditor"), granted=True, cause="CHG-1", by="root"
        )
        await tx.run("UPDATE users SET role = 'operator' WHERE username = 'jane'")  # behind everybody's back
    run = await desk.run()
    found = sorted((each.type, tuple(each.key)) for each in await desk.all())
    before = next(each.resource for each in standing if each.subject == "jane")
    assert run.verdict == "FAIL"
    assert found == [("excess", ("jane", "operator")), ("missing", ("jane", before)), ("missing", ("jane", "auditor"))]


async def test_a_role_that_no_event_gave_is_found(desk: Desk, house: House) -> None:
    ledger = EntitlementLedger(desk.stage.clock, desk.stage.ids, desk.stage.recorder)

    async def follow(zone: str) -> None:
        async with desk.stage.database.begin() as tx:
            await ledger.follow(tx, desk.stage.context("reconciliation", zone))

    shipped = Path(reconciliation.__file__).parent.parent / "shipped" / "reconciliation.yaml"
    own = read_text(shipped.read_text(), "reconciliation.yaml")
    documents = [each for each in own if each.kind == "Reconciliation"]
    planned = await desk.stage.books.plan("default", documents)
    await desk.stage.books.apply(desk.stage.context(), documents, sha256=planned.sha256, by="root")
    assert (await desk.reconciliations.run(desk.stage.context(), "siem")).verdict == "PASS"
    desk.reconciliations._sources = Sources(
        desk.stage.database, lambda: house.sealer, reach, before={"entitlements": follow}
    )

    async def run() -> Run:
        return await desk.reconciliations.run(desk.stage.context(), "entitlements")

    token = await house.signed_in("root")
    assert (await run()).verdict == "PASS"  # opens with what stands
    made = {"username": "joe", "email": "joe@example.com", "role": "viewer"}
    assert (await house.call("POST", "/api/v1/users", made, token=token)).status == 201
    assert (await house.call("PATCH", "/api/v1/users/joe", {"role": "auditor"}, token=token)).status == 200
    assert (await run()).verdict == "PASS"
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET role = 'admin' WHERE username = 'joe'")
    assert (await run()).verdict == "FAIL"
    assert sorted((each.type, tuple(each.key)) for each in await desk.all()) == [
        ("excess", ("joe", "admin")),
        ("missing", ("joe", "auditor")),
    ]


async def test_legs_add_up_and_nobody_changes_them(desk: Desk) -> None:
    ledger = EntitlementLedger(desk.stage.clock, desk.stage.ids, desk.stage.recorder)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.booleans()), max_size=12))
    def walk(postings: list[tuple[str, str, bool]]) -> None:
        waiting.append(postings)

    waiting: list[list[tuple[str, str, bool]]] = []
    await asyncio.to_thread(walk)
    given_: set[tuple[str, str]] = set()
    for subject, resource, granted in (each for postings in waiting for each in postings):
        held = (subject, resource) in given_
        try:
            async with desk.stage.database.begin() as tx:
                await ledger.post(
                    tx, desk.stage.context(), Entitlement(subject, resource), granted=granted, cause="c", by="root"
                )
            assert held != granted
            (given_.add if granted else given_.discard)((subject, resource))
        except Conflict:
            assert held == granted
        async with desk.stage.database.begin() as tx:
            balances = await ledger.balances(tx, "default")
        assert (balances["balance"], balances["given"]) == (0, len(given_))
    async with desk.stage.database.begin() as tx:
        if not given_:
            await ledger.post(tx, desk.stage.context(), Entitlement("a", "x"), granted=True, cause="c", by="root")
    one_leg = (
        "INSERT INTO bailiwick.entitlement_legs (posting, zone, subject, resource, leg, amount, cause, at, by)"
        " VALUES ('p', 'default', 'a', 'z', 'desired', 1, 'c', now(), 'root')"
    )
    for database in (desk.stage.database, desk.stage.people.owner):
        for sql in ("UPDATE bailiwick.entitlement_legs SET amount = 1", "DELETE FROM bailiwick.entitlement_legs",
                    "TRUNCATE bailiwick.entitlement_legs", one_leg):  # fmt: skip
            with pytest.raises(DBAPIError):
                async with database.begin() as tx:
                    await tx.run(sql)


# --- routes


async def test_the_routes_refuse_and_answer(desk: Desk) -> None:
    await desk.book()
    desk.write({"1": "1"}, {"1": "2"})
    token = await desk.stage.people.signed_in("root")

    async def call(method: str, path: str, body: Any = None) -> Any:
        return await desk.stage.call(method, path, body, token=token)

    ran = await call("POST", "/api/v1/reconciliations/payouts/runs", {})
    assert ran.status == 201, ran.body
    run = ran.json()
    listed = (await call("GET", "/api/v1/findings?state=unsettled")).json()["items"]
    assert [each["rule"] for each in listed] == ["payouts/mismatch"]
    finding = f"/api/v1/findings/{listed[0]['id']}"
    for path, body, status in (
        (f"{finding}/resolve", {}, 422),
        (f"{finding}/resolve", {"change_id": "CHG", "state": "resolved"}, 400),
        (f"{finding}/accept", {"waiver_id": "W"}, 409),
        (f"{finding}/snooze", {"until": "2020-01-01T00:00:00Z"}, 400),
        (f"{finding}/acknowledge", {}, 200),
        (f"{finding}/acknowledge", {}, 409),
        ("/api/v1/reconciliations/nothing/runs", {}, 404),
        ("/api/v1/reconciliations/payouts/runs", {"period": "2026-02-30"}, 400),
    ):
        assert (await call("POST", path, body)).status == status, path
    assert (await call("GET", finding)).status == 200
    shown = await call("GET", f"/api/v1/reconciliations/payouts/runs/{run['id']}/markdown")
    assert shown.status == 200 and "amount: 1 ≠ 2" in shown.body.decode()
    report = (await call("GET", "/api/v1/reconciliations/payouts/report")).json()
    assert report["run"]["sha256"] == digest(report["report"])
    assert (await call("GET", "/api/v1/reconciliations")).status == 200
    assert (await call("GET", "/api/v1/reconciliations/payouts/runs?limit=1")).status == 200
