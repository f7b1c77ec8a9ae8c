"""Checks of environments look at our own API, also where it listens on loopback, and at nothing that stands beside it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from probe_servers import answer, web

from bailiwick.app.siem import reach_of, reach_with_api_of
from bailiwick.assurance.probes.looks import look
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import LookFailed
from bailiwick.assurance.probes.spec import Probe
from bailiwick.assurance.probes.web import fetch
from bailiwick.evidence.siem.destination import Stop
from bailiwick.evidence.siem.outgoing import reached
from bailiwick.handover.environments.measuring import values_of
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.settings import Settings
from people_fixtures import House
from ports import free_port


def resolver(house: House, **settings: Any) -> Resolver:
    """As an installation has it: nothing private is allowed."""
    said = {"allow_upstream_networks": (), "public_url": None, "gateway_port": free_port(), **settings}
    return Resolver(house.database, house.clock, house.recorder, house.settings.model_copy(update=said), house.names)


def means_of(found: Resolver) -> Means:
    return Means(reach_with_api_of(found), SystemClock(), "", Path("/nonexistent"))


@dataclasses.dataclass
class Site:
    """Our API on a port of loopback, and a neighbour that must not be asked."""

    api: int
    neighbour: int
    asked: list[str]

    def means(self, house: House, **settings: Any) -> Means:
        return means_of(resolver(house, api_port=self.api, **settings))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    asked: list[str] = []

    async def neighbour(target: str, writer: asyncio.StreamWriter) -> None:
        asked.append(target)
        writer.write(answer(b"secret"))

    async with web(neighbour) as beside:

        async def api(target: str, writer: asyncio.StreamWriter) -> None:
            match target:
                case "/away":
                    writer.write(answer(b"", "302 Found", Location=f"http://127.0.0.1:{beside}/"))
                case "/named":
                    writer.write(answer(b"", "302 Found", Location=f"http://inward.test:{beside}/"))
                case "/self":
                    writer.write(answer(b"", "302 Found", Location="/health"))
                case _:
                    writer.write(answer(b'{"status": "healthy"}'))

        async with web(api) as port:
            yield Site(port, beside, asked)


async def test_the_address_that_is_configured_may_be_looked_at(house: House, site: Site) -> None:
    means = site.means(house)
    got = await fetch(means, f"http://127.0.0.1:{site.api}/health", 2.0)
    assert (got.status, got.body) == (200, b'{"status": "healthy"}')
    assert (await fetch(means, f"http://127.0.0.1:{site.api}/self", 2.0, follow=1)).status == 200
    # to whatever is no check of an environment it is forbidden as ever
    plain = dataclasses.replace(means, reach=reach_of(resolver(house, api_port=site.api)))
    with pytest.raises(LookFailed, match="gateway itself"):
        await fetch(plain, f"http://127.0.0.1:{site.api}/health", 2.0)


async def test_its_neighbours_may_not(house: House, site: Site) -> None:
    means = site.means(house)
    house.names.known["inward.test"] = ["127.0.0.1"]
    house.names.known["localhost"] = ["127.0.0.1"]
    for url in (
        f"http://127.0.0.1:{site.neighbour}/",  # another port
        f"http://127.0.0.2:{site.api}/",  # another address of loopback
        f"http://[::1]:{site.api}/",
        f"http://[::ffff:127.0.0.1]:{site.api}/",
        f"http://localhost:{site.api}/",  # another name of it than the configured one
        f"http://inward.test:{site.api}/",  # somebody's name that leads here
        f"http://inward.test:{site.neighbour}/",
    ):
        with pytest.raises(LookFailed):
            await fetch(means, url, 2.0)
    assert site.asked == []


@pytest.mark.parametrize("path", ["/away", "/named"])
async def test_a_redirect_of_ours_leads_no_further_than_any(house: House, site: Site, path: str) -> None:
    house.names.known["inward.test"] = ["127.0.0.1"]
    with pytest.raises(LookFailed, match="loopback"):
        await fetch(site.means(house), f"http://127.0.0.1:{site.api}{path}", 2.0, follow=3)
    assert site.asked == []


async def test_a_scan_that_begins_at_our_port_opens_no_other(house: House, site: Site) -> None:
    means = site.means(house)
    for ports in ([f"{site.api}-{site.api + 1}"], [str(site.api), str(site.neighbour)]):
        spec = Probe.model_validate(
            {
                "summary": "s", "owner": "uptime", "expect": {"comparison": "<", "value": 1, "unit": "count"},
                "check": {"type": "port_scan", "host": "127.0.0.1", "ports": ports, "open": []},
            }
        )  # fmt: skip
        with pytest.raises(LookFailed, match="not allowed"):
            await look(spec.check, means, Asked("default", means.clock.now(), None, 2.0))
    assert site.asked == []


NAME = "bailiwick.test"


@pytest.mark.parametrize(
    ("addresses", "host", "lawful"),
    [
        (["127.0.0.1"], "127.0.0.1", True),  # where it listens
        (["127.0.0.1", "::1"], "localhost", True),
        (["127.0.1.1"], "0.0.0.0", True),
        (["10.1.2.3"], "127.0.0.1", True),  # a balancer of the house
        (["93.184.216.34"], "127.0.0.1", True),
        (["127.0.0.2"], "127.0.0.1", False),  # loopback, but not where it listens
        (["::1"], "127.0.0.1", False),
        (["::1"], "0.0.0.0", False),
        (["127.0.0.1"], "10.1.2.3", False),
        (["::ffff:127.0.0.2"], "127.0.0.1", False),
        (["169.254.169.254"], "127.0.0.1", False),
        (["fd00:ec2::254"], "127.0.0.1", False),
        (["0.0.0.0"], "127.0.0.1", False),
        (["93.184.216.34", "169.254.169.254"], "127.0.0.1", False),
        (["no-address"], "127.0.0.1", False),
        ([], "127.0.0.1", False),
        (None, "127.0.0.1", False),
    ],
)
async def test_whoever_answers_for_our_name_opens_nothing_else(
    house: House, addresses: list[str] | None, host: str, lawful: bool
) -> None:
    port = free_port()
    house.names.known[NAME] = addresses
    reach = reach_with_api_of(resolver(house, host=host, api_port=port, public_url=f"https://{NAME}:{port}"))
    if lawful:
        assert list(await reach(NAME, port)) == sorted(addresses or [])
        assert list(await reach(NAME.upper(), port)) == sorted(addresses or [])
        return
    with pytest.raises(BailiwickError):
        await reach(NAME, port)


async def test_loopback_is_ours_on_the_port_we_listen_on_alone(house: House) -> None:
    """Behind a proxy the public port is another; what listens on that port of this machine is somebody else."""
    house.names.known[NAME] = ["127.0.0.1"]
    reach = reach_with_api_of(resolver(house, host="127.0.0.1", api_port=free_port(), public_url=f"https://{NAME}"))
    with pytest.raises(Stop, match="loopback"):
        await reached(reach, NAME, 443)


async def test_a_name_that_changes_between_look_and_connection_is_not_asked_again(house: House, site: Site) -> None:
    """What was checked is what is connected to: the second answer of the name is never heard."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    async def rebinding(host: str, port: int) -> list[str]:
        return answers.pop(0)

    made = house.settings.model_copy(
        update={"api_port": site.api, "gateway_port": free_port(), "allow_upstream_networks": (),
                "public_url": f"http://{NAME}:{site.api}"}
    )  # fmt: skip
    means = means_of(Resolver(house.database, house.clock, house.recorder, made, rebinding))
    assert (await fetch(means, f"http://{NAME}:{site.api}/health", 2.0)).status == 200
    with pytest.raises(LookFailed, match="loopback"):
        await fetch(means, f"http://{NAME}:{site.api}/health", 2.0)
    assert answers == []


def test_an_environment_that_does_not_name_the_api_has_ours() -> None:
    said: dict[str, str] = {}
    standing: Any = SimpleNamespace(name="production", digest="", life=None, spec=SimpleNamespace(values=said))
    ours = {"api": Settings(data_dir=Path("/nonexistent")).issuer}  # type: ignore[call-arg]
    assert values_of("default", standing, ours)["api"] == "http://127.0.0.1:8080"
    said["api"] = "https://api.example.com"
    assert values_of("default", standing, ours)["api"] == "https://api.example.com"
