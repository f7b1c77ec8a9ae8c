from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from bailiwick.evidence.events import Actor, Context
from bailiwick.inventory import resolver as module
from bailiwick.inventory.documents import parse_server
from bailiwick.inventory.endpoints import parse_upstream
from bailiwick.inventory.resolver import KEEP_FOR, LookupFailed, SystemLookup
from bailiwick.kernel.errors import BailiwickError
from people_fixtures import House

CONTEXT = Context(zone="default", actor=Actor(user="root"))


async def register(house: House, name: str, endpoint: str, **binding: Any) -> None:
    await house.servers.create(CONTEXT, parse_server({"name": name, "endpoint": endpoint, "binding": binding}))


async def row(house: House, name: str) -> dict[str, Any]:
    async with house.database.begin() as tx:
        found = await tx.one("SELECT * FROM servers WHERE name = :name", name=name)
    assert found is not None
    return dict(found)


async def test_every_address_of_a_name_is_checked(house: House) -> None:
    house.names.known["mixed.example"] = ["93.184.216.34", "169.254.169.254"]
    found = await house.resolver.resolve(parse_upstream("http://mixed.example"))
    assert found.addresses == ()
    assert found.reason == "upstream_forbidden"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.9.9.9", "fe80::1%eth0", "::ffff:127.0.0.1", "not-an-address"]
)
async def test_a_name_that_points_inside_is_forbidden(house: House, address: str) -> None:
    house.names.known["inside.example"] = [address]
    found = await house.resolver.resolve(parse_upstream("http://inside.example"))
    assert (found.addresses, found.reason) == ((), "upstream_forbidden")


async def test_a_private_network_that_is_allowed_may_be_reached(house: House) -> None:
    house.names.known["inside.example"] = ["10.1.2.3"]
    assert (await house.resolver.resolve(parse_upstream("http://inside.example"))).addresses == ("10.1.2.3",)
    assert (await house.resolver.resolve(parse_upstream("http://10.1.2.4"))).addresses == ("10.1.2.4",)


async def test_the_gateway_is_no_upstream_of_its_own(house: House) -> None:
    with pytest.raises(BailiwickError) as refused:
        house.resolver.check_literal(parse_upstream(house.settings.gateway))
    assert refused.value.reason == "upstream_forbidden"


async def test_names_that_do_not_resolve_are_told_apart(house: House) -> None:
    house.names.known["dead.example"] = None
    house.names.known["empty.example"] = []
    for name, transient in (("none.example", False), ("dead.example", True), ("empty.example", False)):
        found = await house.resolver.resolve(parse_upstream(f"http://{name}"))
        assert (found.addresses, found.reason, found.transient) == ((), "upstream_unresolved", transient)


async def test_a_name_that_turns_inward_is_cut_off_by_the_recheck(house: House) -> None:
    await register(house, "pay", "https://pay.example.com")
    house.names.known["pay.example.com"] = ["169.254.169.254"]
    refresh = await house.resolver.refresh_all()
    assert (refresh.checked, refresh.changed, refresh.unroutable) == (1, 1, 1)
    stored = await row(house, "pay")
    assert stored["addresses"] == []
    assert stored["resolve_error"].startswith("upstream_forbidden: ")
    assert (await house.feed())[-1] == ("server", "pay")
    assert (await house.events())[-1].details == {"cause": "resolution", "routing": "upstream_forbidden"}


async def test_a_recheck_that_finds_nothing_new_announces_nothing(house: House) -> None:
    await register(house, "pay", "https://pay.example.com")
    before = await house.feed()
    house.names.known["pay.example.com"] = list(reversed(house.names.known["pay.example.com"] or []))
    refresh = await house.resolver.refresh_all()
    assert (refresh.changed, refresh.unroutable) == (0, 0)
    assert await house.feed() == before


async def test_a_name_that_resolves_again_is_routable_and_keeps_its_version(house: House) -> None:
    await register(house, "late", "https://late.example")
    assert (await house.servers.get("default", "late")).status == "upstream_unresolved"
    house.names.known["late.example"] = ["93.184.216.40"]
    assert (await house.resolver.refresh_all()).changed == 1
    server = await house.servers.get("default", "late")
    assert (server.addresses, server.resolve_error, server.version) == (("93.184.216.40",), None, 1)
    assert (await house.feed())[-1] == ("server", "late")


async def test_a_silent_name_server_leaves_good_addresses_alone_for_a_while(house: House) -> None:
    await register(house, "pay", "https://pay.example.com")
    house.names.known["pay.example.com"] = None
    assert (await house.resolver.refresh_all()).changed == 0
    assert (await row(house, "pay"))["addresses"] == ["93.184.216.35"]
    house.clock.advance(KEEP_FOR.total_seconds())
    assert (await house.resolver.refresh_all()).unroutable == 1
    assert (await row(house, "pay"))["addresses"] == []


async def test_a_recheck_does_not_overwrite_a_change_made_meanwhile(house: House) -> None:
    await register(house, "pay", "https://pay.example.com")
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(host: str, port: int) -> list[str]:
        asked.set()
        await answered.wait()
        return ["93.184.216.99"]

    house.resolver._lookup = slow
    recheck = asyncio.create_task(house.resolver.refresh_all())
    await asked.wait()
    async with house.database.begin() as tx:
        await tx.run("UPDATE servers SET version = version + 1, addresses = '[\"93.184.216.77\"]'")
    answered.set()
    assert (await recheck).changed == 0
    assert (await row(house, "pay"))["addresses"] == ["93.184.216.77"]


async def test_the_systems_resolver_answers_local_names() -> None:
    lookup = SystemLookup()
    assert set(await lookup("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(LookupFailed):
        await lookup("name.invalid", 80)
    lookup.close()


async def test_a_hanging_resolver_holds_up_neither_us_nor_more_than_its_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go = threading.Event()
    calls: list[str] = []

    def hang(host: str, port: int) -> list[str]:
        calls.append(host)
        let_go.wait()
        return ["93.184.216.34"]

    monkeypatch.setattr(module, "_getaddrinfo", hang)
    lookup = SystemLookup(timeout_s=0.05, threads=2)
    outcomes = await asyncio.gather(*(lookup(f"h{n}", 80) for n in range(6)), return_exceptions=True)
    assert all(isinstance(outcome, LookupFailed) and outcome.transient for outcome in outcomes)
    assert len(calls) == 2
    let_go.set()
    lookup._timeout_s = 5
    assert await lookup("again", 80) == ["93.184.216.34"]
    lookup.close()
