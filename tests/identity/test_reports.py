"""Reports about access: what nobody answers for, who has what, who failed to sign in."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest

from bailiwick.evidence import codes
from people_fixtures import House

REPORTS = "/api/v1/reports"


async def report(house: House, token: str, name: str) -> dict[str, Any]:
    answer = await house.call("GET", f"{REPORTS}/{name}", token=token)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json()
    return told


async def test_orphans_are_found_and_what_has_an_owner_is_not(house: House) -> None:
    root, olga = await house.signed_in("root"), await house.signed_in("olga", "operator")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET last_login_at = :now", now=house.clock.now())
    assert (await report(house, root, "orphans"))["rows"] == []
    await house.user("ghost", "viewer", password_hash=None)
    assert (await house.call("POST", "/api/v1/groups", {"name": "nobody's"}, token=root)).status == 201
    assert (await house.call("POST", "/api/v1/groups", {"name": "hers", "owner": "olga"}, token=root)).status == 201
    key = await house.call("POST", "/api/v1/api-keys", {"name": "k", "permissions": ["servers:read"]}, token=olga)
    application = await house.call("POST", "/api/v1/applications", {"name": "agent"}, token=olga)
    assert (key.status, application.status, application.json()["owner"]) == (201, 201, "olga")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'olga'")
    found = {(row["kind"], row["name"], row["finding"]) for row in (await report(house, root, "orphans"))["rows"]}
    session = next(name for kind, name, _ in found if kind == "session")
    assert found == {
        ("user", "ghost", "no provider knows this person"),
        ("group", "nobody's", "nobody owns this group"),
        ("group", "hers", "its owner is disabled"),
        ("api-key", key.json()["id"], "its owner is disabled"),
        ("session", session, "its person is disabled"),
        ("application", "agent", "its owner is disabled"),
    }
    given = await house.call("PATCH", "/api/v1/applications/agent", {"owner": "root"}, token=root)
    assert given.json()["owner"] == "root"
    assert (await house.call("PATCH", "/api/v1/applications/agent", {"owner": "nobody"}, token=root)).status == 400
    house.clock.advance(timedelta(days=91).total_seconds())
    late = (await report(house, root, "orphans"))["rows"]
    assert ("user", "root", "has not signed in for 90 days") in {(r["kind"], r["name"], r["finding"]) for r in late}


async def test_the_access_review_is_due_until_somebody_looked_and_again_when_it_is_over(house: House) -> None:
    root, ruth = await house.signed_in("root"), await house.signed_in("ruth")
    await house.user("olga", "operator")
    first = {row["username"]: row for row in (await report(house, root, "access"))["rows"]}
    assert {name: row["review"] for name, row in first.items()} == {"olga": "due", "root": "due", "ruth": "due"}
    assert first["root"]["last_used_at"] is not None and first["olga"]["last_used_at"] is None
    for username, verdict, token in (("root", "keep", ruth), ("ruth", "keep", root), ("olga", "remove", root)):
        said = await house.call("PUT", f"{REPORTS}/access/{username}", {"verdict": verdict, "days": 30}, token=token)
        assert said.status == 200
    told = await report(house, root, "access")
    assert {row["username"]: row["review"] for row in told["rows"]} == {
        "olga": "remove",
        "root": "keep",
        "ruth": "keep",
    }
    assert told["findings"] == 1
    # nobody's access changed by it
    assert await house.value("SELECT role FROM users WHERE username = 'olga'") == "operator"
    house.clock.advance(timedelta(days=31).total_seconds())
    later = {row["username"]: row["review"] for row in (await report(house, root, "access"))["rows"]}
    assert later == {"olga": "remove", "root": "due", "ruth": "due"}
    assert [event.details["verdict"] for event in await house.events()] == ["keep", "keep", "remove"]
    assert (await house.call("PUT", f"{REPORTS}/access/nobody", {"verdict": "keep"}, token=root)).status == 404


@pytest.mark.parametrize("verdict", ["keep", "remove"])
async def test_nobody_reviews_his_own_access_by_whatever_account(house: House, verdict: str) -> None:
    root = await house.signed_in("root")
    await house.user("root2", "operator")  # the same mailbox, by a tag
    await house.user("root3", "operator")  # the same in the directory
    await house.user("somebody", "operator")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET email = 'Root+second@example.com' WHERE username = 'root2'")
        await tx.run("UPDATE users SET external_id = 'cn=root,dc=example' WHERE username IN ('root', 'root3')")
    for username in ("root", "ROOT", "root2", "root3"):
        answer = await house.call("PUT", f"{REPORTS}/access/{username}", {"verdict": verdict}, token=root)
        refused = (404, "not_found") if username == "ROOT" else (403, "own_access")
        assert (answer.status, answer.json()["reason"]) == refused, username
    assert await house.value("SELECT count(*) FROM access_reviews") == 0
    assert await house.events() == []
    # nor by the second account of the first's
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET role = 'admin' WHERE username = 'root2'")
    second = await house.signed_in("root2")
    assert (await house.call("PUT", f"{REPORTS}/access/root", {"verdict": verdict}, token=second)).status == 403
    assert (await house.call("PUT", f"{REPORTS}/access/somebody", {"verdict": verdict}, token=root)).status == 200


async def test_failed_sign_ins_are_counted_by_name_address_and_reason(house: House) -> None:
    root = await house.signed_in("root")
    answers = [
        await house.call("POST", "/api/v1/auth/login/local", {"username": "olga", "password": "wrong"})
        for _ in range(3)
    ]
    assert {answer.status for answer in answers} == {401}
    # into the ledger, as the sequencer would
    async with house.owner.begin() as tx:
        await tx.run("SET LOCAL search_path = bailiwick")
        await tx.run(
            "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, rest)"
            " SELECT zone, id, gen_random_uuid(), :now, :now, convert_from(event, 'UTF8')::jsonb->>'code', 'failure',"
            " event FROM outbox",
            now=house.clock.now(),
        )
    told = await report(house, root, "failed-logins")
    (row,) = told["rows"]
    assert (row["username"], row["reason"], row["method"], row["failures"]) == (
        "olga", "invalid_credentials", "local", 3,
    )  # fmt: skip
    assert (await house.events())[-1].code == codes.AUDIT_READ.code
    async with house.owner.begin() as tx:
        await tx.run("DELETE FROM ledger.events")


async def test_who_may_read_them(house: House) -> None:
    olga, vera = await house.signed_in("olga", "operator"), await house.signed_in("vera", "viewer")
    for name in ("orphans", "access"):
        assert (await house.call("GET", f"{REPORTS}/{name}", token=olga)).status == 200
        assert (await house.call("GET", f"{REPORTS}/{name}", token=vera)).status == 403
    # an operator does not read the evidence, by whatever way
    assert (await house.call("GET", f"{REPORTS}/failed-logins", token=olga)).status == 403
    assert (await house.call("PUT", f"{REPORTS}/access/vera", {"verdict": "keep"}, token=olga)).status == 403
    assert (await house.call("GET", f"{REPORTS}/nonsense", token=olga)).status == 400


async def test_a_table_for_a_spreadsheet_holds_no_formula(house: House) -> None:
    root = await house.signed_in("root")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET full_name = '=HYPERLINK(1)'")
    answer = await house.call("GET", f"{REPORTS}/access?format=csv", token=root)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert (rows[0]["username"], rows[0]["full_name"]) == ("root", "'=HYPERLINK(1)")
