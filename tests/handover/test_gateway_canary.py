"""Known questions at the gateway: what counts as denied is what the ledger says the gateway denied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from bailiwick.app.handover import gateway_canary
from bailiwick.app.handover.gateway_canary import AtGateway, judged
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Network, encode
from bailiwick.evidence.stored import rest_of
from bailiwick.handover.incidents.documents import Expected
from bailiwick.kernel.settings import Settings
from people_fixtures import House

SERVER = "pay"
DENIED, ALLOWED = codes.GATEWAY_DENIED, codes.GATEWAY_ALLOWED


class Gateway:
    """Answers 403 as an upstream may, and leaves in the ledger what the test says the gateway did."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.status = 403
        self.leaves: tuple[codes.EventType, str, tuple[str, ...]] | None = None  # its kind, of which server, by what
        self.late_s = 0.0
        self.told = str(uuid4())
        self.port = 0
        self.leaving: list[asyncio.Task[None]] = []

    async def answer(self, request: web.Request) -> web.Response:
        if self.leaves is not None:
            self.leaving.append(asyncio.create_task(self.leave(*self.leaves)))
        return web.json_response(
            {"reason": "permission_denied"}, status=self.status, headers={"x-request-id": self.told}
        )

    async def leave(self, kind: codes.EventType, server: str, reasons: tuple[str, ...]) -> None:
        await asyncio.sleep(self.late_s)
        context = Context("default", Actor(application="app"), Network(), self.told)
        outcome = "deny" if kind is DENIED else "allow"
        event = self.house.recorder.make(
            kind, outcome, context, server=server, reasons=reasons, method="GET", path="/", operation="GET /",
            scope="pay:read", input="0" * 64,
        )  # fmt: skip
        at = datetime.fromisoformat(event.at)
        async with self.house.owner.begin() as tx:
            await tx.run(
                "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, request_id, server, rest)"
                " VALUES ('default', :seq, cast(:id AS uuid), :at, now(), :code, :outcome, cast(:request AS uuid),"
                " :server, :rest)",
                seq=UUID(event.id).int % 2**40,
                id=event.id,
                at=at,
                code=event.code,
                outcome=event.outcome,
                request=self.told,
                server=server,
                rest=rest_of(event, UUID(event.id), at, UUID(self.told), encode(event)),
            )

    async def ask(self) -> str:
        settings = Settings(data_dir=Path("/tmp"), gateway_url=f"http://127.0.0.1:{self.port}")

        async def mint(zone: str, application: str, server: str, scope: str) -> str:
            return "token"

        expected = Expected(application="app", server=SERVER, scope="pay:read", expect="deny", path="/")
        async with self.house.database.begin() as tx:
            said = await AtGateway(settings, mint)(tx, "default", expected)
        await asyncio.gather(*self.leaving)
        return said


@asynccontextmanager
async def standing(gateway: Gateway) -> AsyncIterator[Gateway]:
    app = web.Application()
    app.router.add_get("/{path:.*}", gateway.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.port = runner.addresses[0][1]
    try:
        yield gateway
    finally:
        await runner.cleanup()


@pytest.fixture
async def gateway(house: House) -> AsyncIterator[Gateway]:
    async with standing(Gateway(house)) as made:
        yield made


async def test_a_refusal_that_the_ledger_holds_is_a_denial(gateway: Gateway) -> None:
    gateway.leaves, gateway.late_s = (DENIED, SERVER, ("policy_denied",)), 0.3
    assert await gateway.ask() == "deny"


async def test_what_an_upstream_answers_is_no_denial(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.leaves = (ALLOWED, SERVER, ())
    assert await gateway.ask() == "the answer is 403, and the ledger holds no refusal of the request"
    gateway.told, gateway.leaves = str(uuid4()), (DENIED, "another", ("policy_denied",))
    monkeypatch.setattr(gateway_canary, "_RECORDED_WITHIN_S", 1.0)
    assert await gateway.ask() == "the answer is 403, and the ledger holds no refusal of the request"
    gateway.told, gateway.leaves = "none", None
    assert await gateway.ask() == "the answer is 403, and the ledger holds no refusal of the request"


async def test_a_server_that_is_not_set_up_is_no_denial(gateway: Gateway) -> None:
    gateway.leaves = (DENIED, SERVER, ("operation_not_listed",))
    assert await gateway.ask() == "the gateway answers 403 operation_not_listed"


@pytest.mark.parametrize(
    ("status", "refused", "means"),
    [(200, None, "allow"), (302, None, "allow"), (401, ("policy_denied",), "the gateway answers 401 policy_denied"),
     (503, None, "the gateway answers 503"), (403, ("policy_denied",), "deny")],
)  # fmt: skip
def test_what_answers_mean(status: int, refused: tuple[str, ...] | None, means: str) -> None:
    assert judged(status, refused) == means
