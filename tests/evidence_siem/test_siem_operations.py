"""What operators see and do: status, drain, replay, alerts; who leads; filters and redaction on the way."""

from __future__ import annotations

import json
import sys
import types
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hec_server import TOKEN, HecServer
from http_server import Fault
from siem_world import ADMIN, QUICK, SiemWorld, once_each

from bailiwick.evidence import codes
from bailiwick.evidence.siem import delivery as delivery_module
from bailiwick.evidence.siem import operations as operations_module
from bailiwick.evidence.siem.breaker import Pace
from bailiwick.evidence.siem.cursors import Entry, oldest_needed, read_events
from bailiwick.evidence.siem.selection import Selection
from bailiwick.kernel.errors import Conflict, InvalidRequest


@pytest.fixture
async def plain(hec: HecServer) -> HecServer:
    """A collector without acknowledgement."""
    hec.acknowledges = False
    return hec


async def splunk(siem: SiemWorld, hec: HecServer, **more: Any) -> None:
    options = {"url": hec.url, "acknowledge": hec.acknowledges, "ack_poll_s": 0.02}
    await siem.sink("splunk", options, {"token": TOKEN}, **more)


async def test_a_sink_that_begins_now_gets_nothing_old(siem: SiemWorld, plain: HecServer) -> None:
    old = await siem.world.filled(10)
    await splunk(siem, plain, start="now")
    siem.run()
    new = await siem.world.filled(5)
    await siem.until(siem.level)
    assert not set(old) & set(plain.ids) and set(new) <= set(plain.ids)


async def test_filters_and_redaction_apply_on_the_way(siem: SiemWorld, plain: HecServer) -> None:
    wanted = await siem.world.filled(5, path="what was looked for", scope="items:read")
    await siem.world.filled(5, kind=codes.AUDIT_READ)
    await splunk(
        siem, plain, selection=Selection(names=("gateway.*",)), redact={"actor.user": "hash", "details.path": "mask"}
    )
    siem.run()
    await siem.until(siem.level)
    assert plain.ids == wanted
    events = [each["event"] for each in plain.indexed]
    shown = [(event["details"]["scope"], event["details"]["path"]) for event in events]
    assert shown == [("items:read", "[redacted]")] * 5
    assert {event["actor"]["user"] for event in events} == {events[0]["actor"]["user"]} != {"jane"}
    (status,) = await siem.operations.status("default")
    assert (status.delivered, status.lag_events) == (5, 0) and status.filtered >= 5


async def test_native_events_go_out_byte_for_byte(siem: SiemWorld, plain: HecServer) -> None:
    await siem.world.filled(3, user="ünï\u2028 \U0001f600")
    await splunk(siem, plain)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 3)
    bodies = (await siem.bodies())[:3]
    assert [each["event"] for each in plain.indexed[:3]] == [json.loads(body) for body in bodies]


async def test_a_sink_of_all_zones_gets_them_each_in_order(siem: SiemWorld, plain: HecServer) -> None:
    await siem.world.filled(6)
    await siem.world.filled(4, zone="acme")
    await splunk(siem, plain, all_zones=True)
    siem.run()
    await siem.until(lambda: siem.level("default") and siem.level("acme"))
    siem.world.do("INSERT INTO bailiwick.zones (name, created_at) VALUES ('later', now())")
    await siem.world.filled(3, zone="later")
    await siem.until(lambda: bool(siem.world.rows("SELECT 1 FROM bailiwick.siem_cursors WHERE zone = 'later'")))
    await siem.until(lambda: siem.level("later"))
    for zone in ("default", "acme", "later"):
        arrived = [each["event"]["id"] for each in plain.indexed if each["event"]["zone"] == zone]
        assert arrived == siem.world.ledgered(zone)
    with pytest.raises(InvalidRequest):
        await siem.operations.replay(ADMIN, "out", 3)


async def test_a_replay_sends_again_from_where_it_is_told(siem: SiemWorld, plain: HecServer) -> None:
    ids = await siem.world.filled(20)
    await splunk(siem, plain, batch_size=7)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 20)
    assert (await siem.operations.replay(ADMIN, "out", 12))["default"]["events"] >= 8
    await siem.until(lambda: siem.cursor() >= 20)
    assert plain.ids[:20] == ids and [each for each in plain.ids[20:] if each in ids] == ids[12:]
    assert siem.repeated()[0][0] == 12
    # a cursor never skips what a sink did not get
    assert (await siem.operations.replay(ADMIN, "out", 10_000))["default"]["events"] == 0
    since = await siem.operations.replay(ADMIN, "out", datetime(2020, 1, 1, tzinfo=UTC))
    assert since["default"]["from"] == 0
    await siem.until(lambda: plain.ids.count(ids[0]) == 2)
    await siem.drain_outbox()
    assert siem.recorded().count("siem.replayed") == 3


async def test_a_replay_in_the_middle_of_a_delivery_wins(siem: SiemWorld, hec: HecServer) -> None:
    hec.index_at_once = False
    ids = await siem.world.filled(10)
    await splunk(siem, hec, batch_size=5)
    siem.run()
    await hec.accepted.wait()
    hec.index()
    await siem.until(lambda: siem.cursor() >= 5)
    await siem.operations.replay(ADMIN, "out", 0)
    hec.index_at_once = True
    hec.index()
    await siem.until(lambda: siem.cursor() >= 10)
    assert set(hec.ids) >= set(ids) and hec.ids.count(ids[0]) >= 2


async def test_a_drain_does_not_wait_for_the_breaker_nor_for_more_events(siem: SiemWorld, plain: HecServer) -> None:
    await siem.world.filled(30)
    plain.always = Fault(status=503)
    await splunk(siem, plain, linger_s=3600.0)
    slow = Pace(base_s=600, cap_s=600, threshold=1, poll_s=0.01, look_s=0.02)
    delivery = siem.run(siem.delivery(pace=slow))
    targets = await siem.operations.drain(ADMIN, "out", 10)
    assert targets == {"default": 30}
    await siem.until(lambda: bool(delivery.figures) and delivery.figures["default/out"].breaker == "open")
    plain.always = None
    assert siem.cursor() == 0
    await siem.operations.drain(ADMIN, "out", 10)
    await siem.until(lambda: siem.cursor() == 30)
    assert len(plain.requests) == 3, "the batches were not of the size asked for"
    await siem.until(lambda: siem.world.rows("SELECT drain_at FROM bailiwick.siem_sinks") == [None])


async def test_events_linger_until_a_batch_is_full(siem: SiemWorld, plain: HecServer) -> None:
    await splunk(siem, plain, linger_s=3600.0, batch_size=10)
    siem.run()
    await siem.world.filled(5)
    await siem.until(lambda: bool(siem.world.rows("SELECT 1 FROM bailiwick.siem_state")))
    assert plain.heard == 0
    await siem.world.filled(10)
    await siem.until(lambda: siem.cursor() >= 10)


async def test_status_says_what_is_wrong(siem: SiemWorld, plain: HecServer) -> None:
    async def state() -> str:
        return (await siem.operations.status("default"))[0].state

    await siem.world.filled(4)
    await splunk(siem, plain)
    assert await state() == "unattended"
    plain.always = Fault(status=500, body="out of order")
    siem.run(siem.delivery(pace=Pace(base_s=60, look_s=0.02, poll_s=0.01)))
    await siem.until(lambda: bool(siem.world.rows("SELECT 1 FROM bailiwick.siem_state WHERE failures > 0")))
    (status,) = await siem.operations.status("default")
    assert (status.state, status.lag_events, status.failures) == ("failing", 4, 1)
    assert "out of order" in str(status.last_error) and status.holder == "work-1" and status.lag_s > 0
    assert status.document()["zones"] == [{"zone": "default", "next_seq": 0, "size": 4, "lag_events": 4}]
    plain.always = None
    await siem.operations.drain(ADMIN, "out")
    await siem.until(siem.level)

    async def green() -> bool:
        return await state() == "delivering"

    await siem.until(green)
    await siem.sinks.change(ADMIN, "out", {"enabled": False})
    assert await state() == "disabled"
    with pytest.raises(Conflict):
        await siem.operations.drain(ADMIN, "out")


async def test_a_disabled_sink_gets_afterwards_what_it_missed(siem: SiemWorld, plain: HecServer) -> None:
    await splunk(siem, plain, enabled=False)
    delivery = siem.run()
    await siem.world.filled(5)
    await delivery.look()
    assert plain.heard == 0
    await siem.sinks.change(ADMIN, "out", {"enabled": True})
    await siem.until(siem.level)
    assert plain.ids == siem.world.ledgered()


async def test_being_far_behind_is_told_once_at_each_mark_and_when_it_is_over(
    siem: SiemWorld, plain: HecServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "NEAR_CAPACITY_EVENTS", 10)
    monkeypatch.setattr(delivery_module, "FULL_EVENTS", 50)
    monkeypatch.setattr(operations_module, "NEAR_CAPACITY_EVENTS", 10)
    plain.always = Fault(status=503)
    await splunk(siem, plain)
    with structlog.testing.capture_logs() as logs:
        delivery = siem.run()
        await siem.world.filled(20)
        await siem.until(lambda: any(line["event"] == "SIEMQueueNearCapacity" for line in logs))
        assert not any(line["event"] == "SIEMQueueFull" for line in logs)
        await siem.world.filled(40)
        await siem.until(lambda: any(line["event"] == "SIEMQueueFull" for line in logs))
        assert "SIEMQueueFull" in str(delivery.trouble())
        text = siem.metrics.collect_text().decode()
        assert 'bailiwick_siem_lag_events{sink="default/out"} 61.0' in text
        plain.always = None
        await siem.until(siem.level)
        await siem.until(lambda: any(line["event"] == "siem sink is no longer far behind" for line in logs))
    told = [line for line in logs if line["event"].startswith("SIEMQueue")]
    assert [(line["event"], line["log_level"]) for line in told] == [
        ("SIEMQueueNearCapacity", "error"), ("SIEMQueueFull", "critical"),
    ]  # fmt: skip
    assert (delivery_module.FULL, delivery_module.NEAR_CAPACITY) == ("SIEMQueueFull", "SIEMQueueNearCapacity")


async def test_one_process_leads_and_another_takes_over(siem: SiemWorld, plain: HecServer) -> None:
    await splunk(siem, plain, batch_size=3)
    first, second = siem.run(), siem.delivery()
    await siem.until(lambda: bool(first.figures))
    siem.run(second)
    await siem.world.filled(10)
    await siem.until(siem.level)
    assert not second.figures and once_each(plain.ids) == plain.ids == siem.world.ledgered()
    await siem.stop(first)
    await siem.world.filled(10)
    await siem.until(siem.level)
    assert second.figures and plain.ids == siem.world.ledgered()


async def test_two_leaders_by_mistake_lose_nothing(
    siem: SiemWorld, plain: HecServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await splunk(siem, plain, batch_size=3)
    first, second = siem.delivery(), siem.delivery()

    async def leads(_sink: object) -> bool:
        return True

    for each in (first, second):
        monkeypatch.setattr(each, "_lead", leads)
        siem.run(each)
    for _ in range(5):
        await siem.world.filled(12)
    await siem.until(siem.level)
    assert set(plain.ids) == set(siem.world.ledgered())
    twice = {each for each in plain.ids if plain.ids.count(each) > 1}
    ledgered = siem.world.ledgered()
    named = {place for begin, end in siem.repeated() for place in range(begin, end)}
    assert {ledgered.index(each) for each in twice} <= named


async def test_events_that_are_gone_are_told_and_not_skipped(siem: SiemWorld, plain: HecServer) -> None:
    await siem.world.filled(10)
    await splunk(siem, plain, batch_size=4)
    async with siem.world.database.begin() as tx:
        kept = await read_events(tx, "default", 0, 6)
    siem.world.do("DELETE FROM ledger.events WHERE seq < 6")
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert "event 0 of zone default is not in the ledger" in str(delivery.trouble())
    assert plain.ids == [] and siem.cursor() == 0
    await siem.stop(delivery)
    with pytest.raises(Conflict):
        await siem.operations.replay(ADMIN, "out", 0)

    async def cold(zone: str, first: int, limit: int) -> list[Entry]:
        return kept[first : first + limit]

    siem.run(siem.delivery(cold=cold))
    await siem.operations.drain(ADMIN, "out")
    await siem.until(lambda: siem.cursor() >= 10)
    assert [each["fields"]["seq"] for each in plain.indexed[:10]] == list(range(10))


async def test_whoever_removes_events_can_ask_what_is_still_needed(siem: SiemWorld, plain: HecServer) -> None:
    await siem.world.filled(5)
    async with siem.world.database.begin() as tx:
        assert await oldest_needed(tx, "default") is None
    await splunk(siem, plain)
    async with siem.world.database.begin() as tx:
        assert await oldest_needed(tx, "default") == 0


@pytest.mark.parametrize("form", ["ocsf", "ecs"])
async def test_other_forms_are_sent_where_there_is_a_mapping_and_refused_where_not(
    siem: SiemWorld, plain: HecServer, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    monkeypatch.setitem(sys.modules, "bailiwick.evidence.mapping", None)  # as where it is not installed
    with pytest.raises(InvalidRequest):
        await splunk(siem, plain, format=form)
    stand_in = types.ModuleType("mapping")
    stand_in.to_ocsf = lambda event: {"id": event.id, "class_uid": 6003}  # type: ignore[attr-defined]
    stand_in.to_ecs = lambda event: {"id": event.id, "event": {"kind": "event"}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bailiwick.evidence.mapping", stand_in)
    ids = await siem.world.filled(3)
    await splunk(siem, plain, format=form, redact={"network.ip": "remove"})
    siem.run()
    await siem.until(lambda: siem.cursor() >= 3)
    assert plain.ids[:3] == ids
    assert plain.indexed[0]["event"].keys() == ({"id", "class_uid"} if form == "ocsf" else {"id", "event"})


async def test_an_event_that_cannot_be_put_into_a_form_does_not_hold_up_the_others(
    siem: SiemWorld, plain: HecServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await siem.world.filled(7)

    def to_ecs(event: Any) -> dict[str, Any]:
        if event.id == ids[3]:
            raise KeyError("no such thing")
        return {"id": event.id}

    stand_in = types.ModuleType("mapping")
    stand_in.to_ecs = to_ecs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bailiwick.evidence.mapping", stand_in)
    await splunk(siem, plain, format="ecs")
    siem.run()
    await siem.until(lambda: siem.cursor() >= 7)
    assert plain.ids[:6] == ids[:3] + ids[4:] and siem.dead() == [ids[3]]


async def test_secrets_that_cannot_be_opened_stop_the_sink(siem: SiemWorld, plain: HecServer) -> None:
    await siem.world.filled(1)
    await splunk(siem, plain)
    siem.world.do("UPDATE bailiwick.siem_sinks SET sealed = 'garbage'")
    delivery = siem.run(siem.delivery(pace=QUICK))
    await siem.until(lambda: delivery.trouble() is not None)
    assert "cannot be used" in str(delivery.trouble()) and plain.heard == 0
