"""Searching over HTTP: pages, facets, timelines, saved queries, the archive, and who may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from api_client import ApiClient
from ledger_world import World
from searching import Archive, Client, bodies_of, event, ledgered, sequenced

from bailiwick.evidence import codes
from bailiwick.evidence.query import Filter
from bailiwick.evidence.search import FACETS, Search
from bailiwick.kernel.errors import BailiwickError

pytestmark = pytest.mark.made_up_events

AUDIT = "/api/v1/audit"


@pytest.fixture
def client(api: ApiClient) -> Client:
    return Client(api._app, {"x-role": "auditor"})


def seqs(found: dict[str, Any]) -> list[int]:
    return [entry["seq"] for entry in found.get("events", found.get("timeline"))]


async def reads(world: World) -> list[dict[str, Any]]:
    """The events that tell of queries, in order."""
    await sequenced(world)
    return bodies_of(world, "BW5001")


# ---------------------------------------------------------------------- pages


async def test_a_page_of_a_relative_time_goes_on_from_the_same_moment(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(6)])
    first = (await client("GET", f"{AUDIT}/events", params={"since": "-1h", "limit": 4})).json
    rest = await client("GET", f"{AUDIT}/events", params={"since": "-1h", "limit": 4, "cursor": first["next"]})
    assert seqs(first) + seqs(rest.json) == [5, 4, 3, 2, 1, 0]
    told = [each["details"]["query"] for each in await reads(world)]
    assert told[0] == told[1] and told[0].startswith("since=20")


async def test_a_cursor_of_another_query_is_refused(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(3)])
    asked = {"user": "jane", "limit": 1}
    cursor = (await client("GET", f"{AUDIT}/events", params=asked)).json["next"]
    for other, headers in (
        ({"user": "joe"}, {}),
        ({}, {}),
        (asked | {"order": "oldest"}, {}),
        (asked, {"x-zone": "acme"}),
        (asked | {"since": "-1h"}, {}),
    ):
        refused = await client("GET", f"{AUDIT}/events", params={**other, "cursor": cursor}, headers=headers)
        assert (refused.status, refused.json["reason"]) == (400, "invalid_request"), other
    assert (await client("GET", f"{AUDIT}/timelines/user/jane", params={"cursor": cursor})).status == 400
    assert (await client("GET", f"{AUDIT}/events", params={**asked, "limit": 2, "cursor": cursor})).status == 200


@pytest.mark.parametrize(
    "params",
    [
        {"sesion": "typo"},
        {"since": "-24"},
        {"since": "2026-02-30T00:00:00Z"},
        {"until": "now-1h"},
        {"since": "-99999999h"},
        {"facets": "code,body"},
        {"facets": "code; DROP TABLE zones"},
        {"user": "x" * 201},
        {"session": "a\x00b"},
        {"outcome": "ALLOW"},
        {"limit": "0"},
        {"decision_id": "1' OR '1'='1"},
    ],
)
async def test_what_is_no_query_is_refused(client: Client, params: dict[str, str]) -> None:
    answer = await client("GET", f"{AUDIT}/events", params=params)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request"), answer.body


async def test_huge_ranges_are_searched(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane")])
    for params in (
        {"since": "1970-01-01T00:00:00Z", "until": "8999-12-31T23:59:59Z"},
        {"since": "8999-01-01T00:00:00Z", "until": "1970-01-01T00:00:00Z"},
        {"since": "-999999s", "until": "now"},
    ):
        answer = await client("GET", f"{AUDIT}/events", params=params)
        assert answer.status == 200 and len(seqs(answer.json)) <= 1


async def test_injected_text_is_only_text(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="' OR true --"), event(world, user="jane")])
    for field in ("user", "principal", "session", "server", "text", "reason", "trace_id", "name", "code", "ip"):
        for value in ("' OR true --", "%", "_", "\\", "'; DROP TABLE ledger.events; --", ":zone", "$v0", "\\'"):
            answer = await client("GET", f"{AUDIT}/events", params={field: value})
            assert answer.status == 200, (field, value)
            assert seqs(answer.json) == (
                [0] if value == "' OR true --" and field in {"user", "principal", "text"} else []
            )


async def test_only_an_auditor_searches_and_only_his_zone(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane", session="s-1", subject=("jane", "user"))])
    await ledgered(world, [event(world, user="jane", zone="acme")] * 1, "acme")
    kept = (await client("POST", f"{AUDIT}/queries", {"name": "mine", "query": {}, "shared": True})).json["id"]
    paths = (
        "events", "timelines/user/jane", "queries", f"queries/{kept}", f"queries/{kept}/events", "export",
        "events/stream?seconds=1",
    )  # fmt: skip
    for path in paths:
        path, _, query = path.partition("?")
        params = dict([query.split("=")]) if query else {}
        for role in ("viewer", "operator"):
            refused = await client("GET", f"{AUDIT}/{path}", params=params, headers={"x-role": role})
            assert (refused.status, refused.json["reason"]) == (403, "permission_denied"), path
    elsewhere = {"x-zone": "acme"}
    assert len((await client("GET", f"{AUDIT}/events", headers=elsewhere)).json["events"]) == 1
    for path in ("timelines/session/s-1", "timelines/user/jane"):
        told = (await client("GET", f"{AUDIT}/{path}", headers=elsewhere)).json["timeline"]
        assert all(each["event"]["zone"] == "acme" for each in told)
    assert (await client("GET", f"{AUDIT}/queries/{kept}", headers=elsewhere)).status == 404
    assert (await client("GET", f"{AUDIT}/queries", headers=elsewhere)).json["items"] == []
    exported = (await client("GET", f"{AUDIT}/export", headers=elsewhere)).body
    assert exported.count(b"\n") == 1 and b'"zone":"acme"' in exported


async def test_a_query_that_takes_too_long_is_refused_and_recorded(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledgered(world, [event(world)])
    from bailiwick.evidence import hot
    from bailiwick.evidence.cold import too_expensive

    async def slow(*_: Any) -> list[Any]:
        raise too_expensive()

    monkeypatch.setattr(hot, "find", slow)
    answer = await client("GET", f"{AUDIT}/events", params={"text": "x"})
    assert (answer.status, answer.json["reason"]) == (422, "query_too_expensive")
    (told,) = await reads(world)
    assert (told["outcome"], told["reasons"], told["details"]["query"]) == ("error", ["query_too_expensive"], "text=x")


async def test_searches_leave_the_database_to_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from bailiwick.evidence import search as module

    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    search = Search(world.database, None, slots=1)
    async with search.slot():
        with pytest.raises(BailiwickError) as refused:
            async with search.slot():
                raise AssertionError("two at once")
    assert (refused.value.reason, refused.value.status) == ("search_busy", 503)
    async with search.slot():
        pass


# ---------------------------------------------------------------------- facets


async def test_facets_count_what_the_search_finds(world: World, client: Client) -> None:
    made = [event(world, user="jane", server="pay") for _ in range(3)]
    made += [event(world, codes.GATEWAY_DENIED, outcome="deny", application="agent", server="pay") for _ in range(2)]
    made += [event(world, codes.AUTH_LOGIN_SUCCESS, outcome="success", user="joe")]
    await ledgered(world, made)
    answer = (
        await client("GET", f"{AUDIT}/events", params={"facets": "code,outcome,server,principal", "limit": 1})
    ).json
    facets = answer["facets"]
    assert facets["complete"] is True and facets["counted_since"] is None
    assert facets["unlisted"] == dict.fromkeys(("code", "outcome", "server", "principal"), 0)
    counted = {name: {each["value"]: each["count"] for each in values} for name, values in facets["values"].items()}
    assert counted == {
        "code": {"BW4001": 3, "BW4002": 2, "BW1001": 1},
        "outcome": {"allow": 3, "deny": 2, "success": 1},
        "server": {"pay": 5, "": 1},
        "principal": {"jane": 3, "agent": 2, "joe": 1},
    }
    some = (await client("GET", f"{AUDIT}/events", params={"facets": "code", "user": "jane"})).json["facets"]
    assert some["values"] == {"code": [{"value": "BW4001", "count": 3}]}
    assert len(await reads(world)) == 2


async def test_facets_that_ran_out_of_time_say_so(world: World) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(4)])
    search = Search(world.database, None)
    facets = await search.count("default", Filter(), FACETS, budget_s=0.0)
    assert facets.complete is False and facets.counts["code"] == []
    whole = await search.count("default", Filter(), FACETS)
    assert whole.complete is True and whole.counts["code"] == [("BW4001", 4)]
    # a statement cut short by the database itself
    from bailiwick.evidence import hot

    async with world.database.begin() as tx:
        budget = hot.Budget(0.2)
        spans = await hot.spans(tx, "default", Filter(), "newest", None, budget)
        with pytest.raises(BailiwickError):
            async with budget.within(tx):
                await tx.value("SELECT pg_sleep(5)")
        assert spans


# ---------------------------------------------------------------------- timelines


async def test_timelines_tell_of_everybody_and_everything(world: World, client: Client) -> None:
    session, delegation, mandate = world.ids(), world.ids(), world.ids()
    made = [
        event(world, codes.AUTH_LOGIN_SUCCESS, outcome="success", user="jane", subject=("jane", "user")),
        event(world, codes.SERVER_CREATED, outcome="success", user="jane", session=session, subject=("pay", "server")),
        event(world, application="agent", mandate=mandate, server="pay"),
        event(world, application="agent", delegation=delegation, mandate=mandate, server="other"),
        event(world, codes.AUTH_SESSION_ENDED, outcome="success", user="olga", subject=(session, "session")),
        event(world, codes.USER_DISABLED, outcome="success", user="olga", subject=("jane", "user")),
        event(world, codes.POLICY_ACTIVATED, outcome="success", user="olga", subject=("a/b c", "policy")),
        event(world, user="nobody else"),
    ]
    await ledgered(world, made)
    for path, told in (
        (f"session/{session}", [1, 4]),
        (f"delegation/{delegation}", [3]),
        (f"mandate/{mandate}", [2, 3]),
        ("user/jane", [0, 1, 5]),
        ("user/olga", [4, 5, 6]),
        ("application/agent", [2, 3]),
        ("server/pay", [1, 2]),
        ("policy/a/b c", [6]),
        ("policy/other", []),
    ):
        answer = await client("GET", f"{AUDIT}/timelines/{path}")
        assert answer.status == 200 and seqs(answer.json) == told, path
        assert (answer.json["kind"], answer.json["id"]) == tuple(path.split("/", 1))
        assert all(each["kind"] == "event" and each["at"] for each in answer.json["timeline"])
    newest = (await client("GET", f"{AUDIT}/timelines/user/jane", params={"order": "newest", "limit": 2})).json
    rest = await client(
        "GET", f"{AUDIT}/timelines/user/jane", params={"order": "newest", "limit": 2, "cursor": newest["next"]}
    )
    assert seqs(newest) + seqs(rest.json) == [5, 1, 0]
    assert (await reads(world))[0]["subject"] == {"id": f"timelines/session/{session}", "type": "audit"}


async def test_the_timeline_of_a_request_has_its_answer(world: World, client: Client) -> None:
    request = world.ids()
    await ledgered(world, [event(world, request_id=request), event(world)])
    world.do(
        "INSERT INTO bailiwick.api_requests (at, zone, request_id, caller, method, route, status, duration_us)"
        " VALUES (now() + interval '1 second', 'default', %s, 'jane', 'POST', '/oauth/token', 200, 1500)",
        request,
    )
    told = (await client("GET", f"{AUDIT}/timelines/request/{request}")).json
    assert [each["kind"] for each in told["timeline"]] == ["event", "answer"] and told["next"] is None
    for bad, status in ((world.ids(), 404), ("nonsense", 404), ("a%00b", 404)):
        assert (await client("GET", f"{AUDIT}/timelines/request/{bad}")).status == status
    for path in ("Request/x", "user/", "user/a\x00b", "user/" + "x" * 301):
        assert (await client("GET", f"{AUDIT}/timelines/{path}")).status in {400, 404}, path


async def test_a_session_is_found_by_its_owner_and_its_age(world: World) -> None:
    from bailiwick.evidence.query import About
    from bailiwick.evidence.timelines import Timelines, made_at

    session, mandate = world.ids(), world.ids()
    asked: list[str] = []

    async def owner_of(tx: Any, zone: str, identifier: str) -> str | None:
        asked.append(identifier)
        return "jane" if identifier == session else None

    timelines = Timelines(Search(world.database, None), owner_of)
    made = made_at(session)
    assert made is not None and abs((datetime.now(UTC) - made).total_seconds()) < 60
    async with world.database.begin() as tx:
        narrow = await timelines.narrowed(tx, "default", Filter(about=About("session", session)))
        assert narrow.about == About("session", session, "jane") and narrow.since == made - timedelta(hours=1)
        assert {each.user for each in narrow.alternatives()} == {"", "jane"}
        narrow = await timelines.narrowed(tx, "default", Filter(session=session, until=made))
        assert (narrow.user, narrow.until) == ("jane", made)
        narrow = await timelines.narrowed(tx, "default", Filter(mandate=mandate))
        assert narrow.until is not None and narrow.since is not None
        assert narrow.until - narrow.since == timedelta(hours=3)
        unknown = Filter(session="not-ours", since=made)
        assert await timelines.narrowed(tx, "default", unknown) == unknown
    assert asked == [session, session, "not-ours"]


# ---------------------------------------------------------------------- saved queries


async def test_queries_are_kept_shared_run_and_removed(world: World, client: Client) -> None:
    await ledgered(world, [event(world, codes.GATEWAY_DENIED, outcome="deny", user="jane"), event(world, user="joe")])
    asked = {"name": "Refusals", "query": {"outcome": "deny", "since": "-24h"}}
    made = await client("POST", f"{AUDIT}/queries", asked)
    assert made.status == 201 and made.json["owner"] == "olga" and made.json["shared"] is False
    assert made.json["query"] == {"outcome": "deny", "since": "-24h"}
    path = f"{AUDIT}/queries/{made.json['id']}"
    assert (await client("POST", f"{AUDIT}/queries", asked)).json["reason"] == "already_exists"
    found = (await client("GET", f"{path}/events")).json
    assert seqs(found) == [0] and found["query"]["name"] == "Refusals"
    world.do("UPDATE bailiwick.saved_queries SET owner = 'paul'")
    assert (await client("GET", path)).status == 404
    assert (await client("DELETE", path)).status == 404
    world.do("UPDATE bailiwick.saved_queries SET shared = true")
    assert (await client("GET", path)).status == 200
    assert [each["id"] for each in (await client("GET", f"{AUDIT}/queries")).json["items"]] == [made.json["id"]]
    refused = await client("DELETE", path)
    assert (refused.status, refused.json["reason"]) == (403, "permission_denied")
    world.do("UPDATE bailiwick.saved_queries SET owner = 'olga'")
    assert (await client("DELETE", path)).status == 204
    assert (await client("GET", path)).status == 404
    await sequenced(world)
    names = world.rows("SELECT code FROM ledger.events WHERE code IN ('BW5006', 'BW5007') ORDER BY seq")
    assert names == ["BW5006", "BW5007"]


async def test_a_run_in_pages_ends(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(5)])
    made = (await client("POST", f"{AUDIT}/queries", {"name": "j", "query": {"user": "jane"}})).json
    other = (await client("POST", f"{AUDIT}/queries", {"name": "k", "query": {"user": "jane"}})).json
    first = (await client("GET", f"{AUDIT}/queries/{made['id']}/events", params={"limit": 3})).json
    params = {"limit": 3, "cursor": first["next"]}
    rest = (await client("GET", f"{AUDIT}/queries/{made['id']}/events", params=params)).json
    assert seqs(first) + seqs(rest) == [4, 3, 2, 1, 0] and rest["next"] is None
    assert (await client("GET", f"{AUDIT}/queries/{other['id']}/events", params=params)).status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "query": {}},
        {"name": "x" * 101, "query": {}},
        {"name": "x\x00", "query": {}},
        {"name": "x", "query": {"since": "yesterday"}},
        {"name": "x", "query": {"since": "2026-02-30T00:00:00Z"}},
        {"name": "x", "query": {"limit": 1}},
        {"name": "x", "query": {"user": "a\x00"}},
        {"name": "x", "query": [], "more": 1},
        {"name": "x"},
    ],
)
async def test_what_cannot_be_run_is_not_kept(world: World, client: Client, body: Any) -> None:
    refused = await client("POST", f"{AUDIT}/queries", body)
    assert (refused.status, refused.json["reason"]) == (400, "invalid_request")
    assert world.rows("SELECT count(*) FROM bailiwick.saved_queries") == [0]


async def test_nobody_keeps_endlessly_many(world: World, client: Client) -> None:
    world.do(
        "INSERT INTO bailiwick.saved_queries (id, zone, owner, name, shared, query, created_at)"
        " SELECT 'id-' || n, 'default', 'olga', 'q' || n, false, '{}', now() FROM generate_series(1, 200) n"
    )
    refused = await client("POST", f"{AUDIT}/queries", {"name": "one more", "query": {}})
    assert (refused.status, refused.json["reason"]) == (409, "conflict")


# ---------------------------------------------------------------------- hot and cold


async def test_one_order_over_the_table_and_the_archive(world: World, tmp_path: Path) -> None:
    made = [
        event(world, user=f"user-{n % 3}", server="pay" if n % 2 else "", request_id=world.ids()) for n in range(40)
    ]
    await ledgered(world, made)
    archive = Archive(world, tmp_path / "cold")
    for first in (10, 0, 20):
        archive.move(first, first + 9)
    search = Search(world.database, None, archive.search())

    async def walked(wanted: Filter, order: Any, limit: int) -> list[int]:
        found: list[int] = []
        while True:
            async with world.database.begin() as tx:
                page = await search.events(
                    tx, "default", wanted, order=order, after=found[-1] if found else None, limit=limit
                )
            assert all(entry.intact for entry in page)
            found += [entry.seq for entry in page]
            if len(page) < limit:
                return found

    for limit in (7, 10, 100):
        assert await walked(Filter(), "oldest", limit) == list(range(40))
        assert await walked(Filter(), "newest", limit) == list(range(40))[::-1]
        assert await walked(Filter(user="user-1", server="pay"), "newest", limit) == [
            n for n in range(39, -1, -1) if n % 6 == 1
        ]
    # a page that the table fills does not open the archive
    archive.opened.clear()
    async with world.database.begin() as tx:
        await search.events(tx, "default", Filter(), order="newest", after=None, limit=10)
        assert archive.opened == []
        old = await search.event(tx, "default", UUID(made[3].id))
        assert old.seq == 3 and len(archive.opened) == 3
        story = await search.request(tx, "default", UUID(made[12].request_id))
        assert [each["seq"] for each in story["timeline"]] == [12]
    facets = await search.count("default", Filter(), ("principal", "server"))
    assert facets.complete and dict(facets.counts["principal"]) == {"user-0": 14, "user-1": 13, "user-2": 13}
    assert dict(facets.counts["server"]) == {"pay": 20, "": 20}
    # a window that is in both is told once
    archive.move(30, 39, keep=True)
    assert await walked(Filter(), "newest", 7) == list(range(40))[::-1]


async def test_a_cold_search_ends_in_time(world: World, tmp_path: Path) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(5)])
    archive = Archive(world, tmp_path / "cold")
    archive.move(0, 4)
    cold = archive.search()

    search = Search(world.database, None, cold)
    endless = "SELECT count(*) FROM range(100000000000) t (x) WHERE hash(x) = 1"
    with pytest.raises(BailiwickError) as refused:
        await cold._run(archive.windows, lambda connection: connection.execute(endless).fetchall(), 0.3)
    assert refused.value.reason == "query_too_expensive"
    with pytest.raises(BailiwickError) as refused:
        async with world.database.begin() as tx:
            await search.events(tx, "default", Filter(), after=None, limit=10, budget_s=0.0001)
    assert refused.value.reason == "query_too_expensive"
