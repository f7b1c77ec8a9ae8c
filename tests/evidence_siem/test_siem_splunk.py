"""Delivery to a collector that acknowledges, on its good and its bad days."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hec_server import TOKEN, HecServer
from http_server import Fault
from siem_world import ADMIN, SiemWorld, once_each

from unmeasured import unmeasured


async def splunk(siem: SiemWorld, hec: HecServer, **more: Any) -> None:
    options = {"url": hec.url, "ack_poll_s": 0.02, **more.pop("options", {})}
    await siem.sink("splunk", options, {"token": TOKEN}, **more)


async def test_events_arrive_in_order_with_the_envelope_of_the_index(siem: SiemWorld, hec: HecServer) -> None:
    ids = await siem.world.filled(25)
    await splunk(siem, hec, batch_size=10)
    siem.run()
    await siem.until(lambda: siem.cursor() == 25)
    assert hec.ids == ids
    first = hec.indexed[0]
    assert (first["index"], first["sourcetype"], first["source"]) == ("sark_audit", "sark:audit:event", "sark")
    assert first["fields"] == {"event_id": ids[0], "zone": "default", "seq": 0, "code": "BW4001"}
    assert abs(first["time"] - siem.world.clock.time()) < 60
    assert siem.repeated() == []
    more = await siem.world.filled(3)  # and what was recorded of the sink itself
    await siem.until(siem.level)
    assert hec.ids == siem.world.ledgered() and set(more) < set(hec.ids)


async def test_nothing_counts_as_delivered_before_the_indexer_says_so(siem: SiemWorld, hec: HecServer) -> None:
    hec.index_at_once = False
    ids = await siem.world.filled(5)
    await splunk(siem, hec)
    siem.run()
    await hec.accepted.wait()
    queries = hec.ack_queries
    await siem.until(lambda: hec.ack_queries > queries + 3)
    assert siem.cursor() == 0
    hec.index()
    await siem.until(lambda: siem.cursor() == 5)
    assert hec.ids == ids


async def test_an_outage_loses_nothing(siem: SiemWorld, hec: HecServer) -> None:
    await siem.world.filled(10)
    await hec.stop()
    await splunk(siem, hec, batch_size=4)
    delivery = siem.run()
    await siem.until(lambda: bool(delivery.figures) and delivery.figures["default/out"].breaker == "open")
    assert siem.cursor() == 0
    await siem.world.filled(10)
    await hec.start()
    await siem.until(siem.level)
    assert once_each(hec.ids) == siem.world.ledgered() and len(once_each(hec.ids)) >= 20
    # many attempts on the same events are one line of the report
    assert len(siem.repeated()) == len(set(siem.repeated()))
    assert siem.world.rows("SELECT max(times) FROM bailiwick.siem_repeats")[0] > 1
    await siem.until(lambda: delivery.figures["default/out"].breaker == "closed")


async def test_answers_that_pass_are_tried_again(siem: SiemWorld, hec: HecServer) -> None:
    ids = await siem.world.filled(6)
    hec.faults += [Fault(status=503), Fault(status=429), Fault(reset=True), Fault(reset_after=True), Fault(status=500)]
    await splunk(siem, hec)
    siem.run()
    await siem.until(lambda: siem.cursor() == 6)
    assert once_each(hec.ids) == ids
    assert siem.dead() == []
    assert siem.repeated() and all(first >= 0 and end <= 6 for first, end in siem.repeated())


@pytest.mark.parametrize("step", ["marked", "sent", "acknowledged", "advanced"])
async def test_a_sender_killed_anywhere_loses_nothing_and_names_what_it_repeats(
    siem: SiemWorld, hec: HecServer, database_url: str, step: str
) -> None:
    ids = await siem.world.filled(12)
    await splunk(siem, hec, batch_size=4, options={"acknowledge": False})
    hec.acknowledges = False
    child = Path(__file__).with_name("siem_child.py")
    died = await asyncio.create_subprocess_exec(
        sys.executable, str(child), database_url, str(siem.world.root), step, "1", env=unmeasured()
    )
    assert await asyncio.wait_for(died.wait(), 30) == -signal.SIGKILL
    already = hec.ids
    siem.run()
    await siem.until(lambda: siem.cursor() == 12)
    assert once_each(hec.ids) == ids
    again = [each for each in ids if hec.ids.count(each) > 1]
    named = {place for first, end in siem.repeated() for place in range(first, end)}
    assert {ids.index(each) for each in again} <= named  # killed before it sent, a repeat was only possible
    if step in {"sent", "acknowledged"}:
        assert len(already) == 8 and again == ids[4:8] and named == {4, 5, 6, 7}
    if step == "advanced":
        assert again == [] and named == set()


async def test_an_indexer_that_forgets_what_it_accepted_gets_it_again(siem: SiemWorld, hec: HecServer) -> None:
    hec.index_at_once = False
    ids = await siem.world.filled(6)
    await splunk(siem, hec, batch_size=2)
    siem.run()
    await siem.until(lambda: sum(len(channel.pending) for channel in hec.channels.values()) == 3)
    hec.crash()  # its numbers begin anew, and the old ones would come to mean other events
    hec.index_at_once = True
    await siem.world.filled(6)
    await siem.until(lambda: hec.heard > 3 and siem.cursor() >= 12, within=20)
    # the new ones were searchable first; then all came in order
    assert once_each(hec.ids[::-1])[::-1][:12] == siem.world.ledgered()[:12] and hec.ids[0] not in ids


async def test_acknowledgements_that_never_come_are_not_waited_for_for_ever(siem: SiemWorld, hec: HecServer) -> None:
    hec.index_at_once = False
    await siem.world.filled(3)
    await splunk(siem, hec, options={"ack_timeout_s": 0.2})
    siem.run()
    await siem.until(lambda: len(hec.channels) >= 2)  # sent again, on a channel of its own
    assert siem.cursor() == 0
    hec.index_at_once = True
    await siem.until(lambda: siem.cursor() >= 3)


async def test_a_refused_token_stops_the_sink_until_it_is_mended(siem: SiemWorld, hec: HecServer) -> None:
    hec.disabled = True
    await siem.world.filled(3)
    await splunk(siem, hec)
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    heard = hec.heard
    await siem.until(
        lambda: bool(siem.world.rows("SELECT stopped FROM bailiwick.siem_sinks WHERE stopped IS NOT NULL"))
    )
    await siem.drain_outbox()
    await siem.until(lambda: delivery.figures["default/out"].lag_events >= 4)
    assert hec.heard == heard and siem.dead() == [] and siem.cursor() == 0
    assert "Token disabled" in str(delivery.trouble()) and TOKEN not in str(delivery.trouble())
    hec.disabled = False
    await siem.operations.drain(ADMIN, "out")
    await siem.until(lambda: siem.cursor() >= 3)
    await siem.until(lambda: delivery.trouble() is None)
    await siem.drain_outbox()
    names = siem.recorded()
    assert names.count("siem.stopped") == 1 and names.count("siem.resumed") == 1


async def test_an_index_the_token_may_not_write_to_stops_the_sink(siem: SiemWorld, hec: HecServer) -> None:
    hec.indexes = {"main"}
    await siem.world.filled(3)
    await splunk(siem, hec)
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert siem.dead() == []
    sink = await siem.sinks.change(ADMIN, "out", {"options": {"index": "main"}})
    assert sink.options["index"] == "main"
    await siem.until(lambda: siem.cursor() >= 3)


async def test_one_bad_event_becomes_a_dead_letter_and_the_others_arrive(siem: SiemWorld, hec: HecServer) -> None:
    ids = await siem.world.filled(40)
    hec.poison = {ids[17], ids[33]}
    await splunk(siem, hec, batch_size=20)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 40)
    good = [each for each in ids if each not in hec.poison]
    assert once_each(hec.ids)[:38] == good
    assert siem.dead() == [ids[17], ids[33]]
    hec.poison = set()
    assert await siem.operations.retry(ADMIN, "out") == 2
    await siem.until(lambda: siem.dead() == [])
    assert {ids[17], ids[33]} <= set(hec.ids)


async def test_a_destination_that_refuses_everything_is_stopped_and_not_emptied(
    siem: SiemWorld, hec: HecServer
) -> None:
    hec.refuses_everything = True
    await siem.world.filled(200)
    await splunk(siem, hec)
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert "refuses everything" in str(delivery.trouble())
    assert len(siem.dead()) == siem.cursor() == 10


async def test_batches_that_are_too_large_are_made_smaller(siem: SiemWorld, hec: HecServer) -> None:
    ids = await siem.world.filled(30)
    hec.most_bytes = 5000
    await splunk(siem, hec)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 30)
    assert once_each(hec.ids)[:30] == ids and siem.dead() == []


async def test_what_a_server_asks_us_to_wait_is_waited(siem: SiemWorld, hec: HecServer) -> None:
    await siem.world.filled(2)
    hec.faults.append(Fault(status=503, headers={"Retry-After": "1"}))
    await splunk(siem, hec)
    began = time.monotonic()
    siem.run()
    await siem.until(lambda: siem.cursor() >= 2)
    assert time.monotonic() - began >= 1.0


async def test_a_server_that_is_too_slow_gets_the_same_events_again(siem: SiemWorld, hec: HecServer) -> None:
    never = asyncio.Event()
    ids = await siem.world.filled(4)
    hec.faults.append(Fault(held=never))
    await splunk(siem, hec, options={"timeout_s": 0.3})
    siem.run()
    await siem.until(lambda: siem.cursor() >= 4)
    assert once_each(hec.ids)[:4] == ids
    assert siem.repeated() == [(0, 4)]


async def test_the_database_going_away_stops_nothing_for_good(siem: SiemWorld, hec: HecServer) -> None:
    await splunk(siem, hec, batch_size=5)
    siem.run()
    await siem.world.filled(10)
    await siem.until(siem.level)
    # every connection, the one that holds the locks included
    siem.world.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await siem.world.database.engine.dispose()
    await siem.world.filled(10)
    await siem.until(siem.level)
    assert set(hec.ids) == set(siem.world.ledgered())
