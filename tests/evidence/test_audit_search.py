from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from api_client import Answer, ApiClient
from ledger_world import World

from bailiwick.evidence import codes
from bailiwick.evidence.events import encode
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.search import Search

AUDIT = "/api/v1/audit"


async def sequenced(world: World) -> None:
    sequencer = world.sequencer()
    await sequencer.drain()
    sequencer.close()


def ids(answer: Answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["event"]["id"] for entry in answer.json()["events"]]


async def test_events_are_listed_newest_first_in_pages(world: World, api: ApiClient) -> None:
    written = await world.filled(25)
    first = await api.get(f"{AUDIT}/events", params={"limit": 10})
    assert ids(first) == written[::-1][:10]
    assert first.json()["events"][0]["intact"] is True
    second = await api.get(f"{AUDIT}/events", params={"limit": 10, "cursor": first.json()["next"]})
    third = await api.get(f"{AUDIT}/events", params={"limit": 10, "cursor": second.json()["next"]})
    assert ids(first) + ids(second) + ids(third) == written[::-1]
    assert third.json()["next"] is None


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_cursors_are_stable_while_events_arrive(world: World, api: ApiClient, order: str) -> None:
    written = await world.filled(30)
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": "7", "order": order, "server": ""} | ({"cursor": cursor} if cursor else {})
        page = await api.get(f"{AUDIT}/events", params=params)
        seen += ids(page)
        cursor = page.json()["next"]
        if cursor is None or len(seen) > 60:
            break
        if len(seen) < 20:
            await world.filled(3)
    assert len(seen) == len(set(seen))
    assert [event for event in seen if event in written] == (written if order == "oldest" else written[::-1])


async def test_every_filter_restricts(world: World, api: ApiClient) -> None:
    await world.filled(3)
    spool = await world.spool()
    request = world.ids()
    event = world.event(
        codes.GATEWAY_DENIED,
        user="Joe%",
        server="payments",
        request_id=request,
        method="/Rechnungen/2026",
    )
    await spool.append(Kind.EVENT, "default", encode(event))
    await sequenced(world)
    for params in (
        {"code": "BW4002"},
        {"name": "gateway.request.denied"},
        {"name": "gateway.request.d*"},
        {"principal": "Joe%"},
        {"server": "payments"},
        {"request_id": request},
        {"decision_id": event.id},
        {"text": "rechnungen/2026"},
        {"text": "joe%"},
        {"text": event.id[5:]},
        {"since": event.at},
        {"code": "BW4002", "until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()},
    ):
        assert ids(await api.get(f"{AUDIT}/events", params=params)) == [event.id], params
    for params in (
        {"code": "BW9999"},
        {"name": "auth.logout"},
        {"outcome": "deny"},
        {"text": "j_n"},
        {"since": (datetime.now(UTC) + timedelta(hours=1)).isoformat()},
        {"until": "2020-01-01T00:00:00Z"},
    ):
        assert ids(await api.get(f"{AUDIT}/events", params=params)) == [], params


async def test_each_query_leaves_one_event(world: World, api: ApiClient) -> None:
    written = await world.filled(5)
    await api.get(f"{AUDIT}/events", params={"principal": "jane"})
    await api.get(f"{AUDIT}/events/{written[0]}")
    await api.post(f"{AUDIT}/verify")
    await sequenced(world)
    found = (await api.get(f"{AUDIT}/events", params={"name": "audit.*", "order": "oldest"})).json()["events"]
    events = [entry["event"] for entry in found]
    assert [event["name"] for event in events] == ["audit.read", "audit.read", "audit.verified"]
    assert events[0]["actor"] == {"session": "session-1", "user": "olga"}
    assert events[0]["details"] == {"query": "principal=jane", "returned": 5}
    assert events[0]["network"]["ip"] == "192.0.2.1"
    assert events[1]["subject"]["id"] == f"events/{written[0]}"


async def test_one_event_by_its_id(world: World, api: ApiClient) -> None:
    (event_id,) = await world.filled(1)
    answer = await api.get(f"{AUDIT}/events/{event_id}")
    assert answer.json()["event"]["id"] == event_id
    assert (await api.get(f"{AUDIT}/events/{world.ids()}")).status_code == 404
    assert (await api.get(f"{AUDIT}/events/{event_id}", headers={"x-zone": "acme"})).status_code == 404


async def test_the_story_of_a_request_is_told_in_order(world: World, api: ApiClient) -> None:
    request = world.ids()
    spool = await world.spool()
    told = []
    for kind in (codes.DECISION_EVALUATED, codes.GATEWAY_ALLOWED):
        event = world.event(kind, request_id=request)
        told.append(event.id)
        await spool.append(Kind.EVENT, "default", encode(event))
    await world.put(spool, 3)
    await sequenced(world)
    world.do(
        "INSERT INTO bailiwick.api_requests (at, zone, request_id, caller, method, route, status, duration_us)"
        " VALUES (now() + interval '1 second', 'default', %s, 'jane', 'POST', '/oauth/token', 200, 1500)",
        request,
    )
    story = (await api.get(f"{AUDIT}/requests/{request}")).json()
    assert [item["kind"] for item in story["timeline"]] == ["event", "event", "answer"]
    assert [item["event"]["id"] for item in story["timeline"][:2]] == told
    assert story["timeline"][2]["status"] == 200
    assert (await api.get(f"{AUDIT}/requests/{world.ids()}")).status_code == 404


async def test_dead_letters_are_listed_for_their_zone(world: World, api: ApiClient) -> None:
    spool = await world.spool()
    for number in range(3):
        await spool.append(Kind.EVENT, "acme", b"garbage %d" % number)
    await spool.append(Kind.EVENT, "nowhere", b"garbage")
    await sequenced(world)
    acme = await api.get(f"{AUDIT}/dead-letters", params={"limit": 2}, headers={"x-zone": "acme"})
    assert [letter["zone"] for letter in acme.json()["dead_letters"]] == ["acme", "acme"]
    rest = await api.get(f"{AUDIT}/dead-letters", params={"cursor": acme.json()["next"]}, headers={"x-zone": "acme"})
    assert len(rest.json()["dead_letters"]) == 1
    default = (await api.get(f"{AUDIT}/dead-letters")).json()["dead_letters"]
    assert [(letter["zone"], letter["size"]) for letter in default] == [("nowhere", 7)]


async def test_verify_tells_the_first_bad_event(world: World, api: ApiClient) -> None:
    await world.filled(5)
    assert (await api.post(f"{AUDIT}/verify")).json()["verdict"] == "PASS"
    world.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 2")
    report = (await api.post(f"{AUDIT}/verify", params={"newest": 1000})).json()
    assert (report["verdict"], report["first_bad"]["seq"], report["first_bad"]["kind"]) == ("FAIL", 2, "changed")


@pytest.mark.parametrize(
    "params",
    [
        {"text": "a\x00b"},
        {"principal": "\x00"},
        {"cursor": "nonsense"},
        {"cursor": "WyJvbGRlc3QiLDFd"},
        {"request_id": "not-a-uuid"},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"until": "9999-12-31T23:59:59-23:59"},
        {"limit": "501"},
        {"outcome": "maybe"},
    ],
)
async def test_what_makes_no_sense_is_refused(api: ApiClient, params: dict[str, str]) -> None:
    answer = await api.get(f"{AUDIT}/events", params=params)
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["events", "dead-letters", "events/0197", "requests/0197"])
async def test_only_auditors_read(api: ApiClient, path: str) -> None:
    assert (await api.get(f"{AUDIT}/{path}", headers={"x-role": "operator"})).status_code == 403
    api.headers.pop("x-role")
    assert (await api.get(f"{AUDIT}/{path}")).status_code == 401


async def test_mandates_of_a_key_are_found(world: World) -> None:
    spool = await world.spool()
    wanted = world.event(codes.MANDATE_ISSUED, kid="m-1")
    for event in (wanted, world.event(codes.MANDATE_ISSUED, kid="m-2"), world.event(path="m-1")):
        await spool.append(Kind.EVENT, "default", encode(event))
    await sequenced(world)
    search = Search(world.database, world.sealer)
    now = datetime.now(UTC).timestamp()
    found = await search.issued_by_key("default", codes.MANDATE_ISSUED.code, "m-1", now - 60)
    assert [event.id for event in found] == [wanted.id]
    assert await search.issued_by_key("default", codes.MANDATE_ISSUED.code, "m-1", now + 60) == []
