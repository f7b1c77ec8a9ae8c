"""Delivery to a collector that acknowledges, on its good and its bad days."""

from __future__ import annotations

from typing import Any

from hec_server import TOKEN, HecServer
from http_server import Fault
from siem_world import SiemWorld, once_each


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
