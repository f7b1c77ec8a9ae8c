"""Operations of other systems: signed webhooks with receipts, functions of a database, once by their key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError
from stage import Stage

from bailiwick.assurance.book import BadBook, read_text
from bailiwick.assurance.external_operations import Externals, arguments_of, sign
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.assurance.override_rules import KINDS, Argument, Procedure
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.overrides_api import routes
from bailiwick.assurance.overrides_watch import OverrideWatch
from bailiwick.inventory.credentials import Secret
from people_fixtures import House

RULES = """apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: finance}
spec: {operation: external.*, roles: [admin]}
---
apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: finance-large}
spec: {operation: external.*, from_amount: 1000, approvals: 2, roles: [admin]}
---
"""
SECRET = "k" * 40


class Ledger:
    """Another system: it answers as told, and knows requests by their key."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.paid: set[str] = set()
        self.version = "7"

    async def pay(self, request: web.Request) -> web.Response:
        self.seen.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        if status < 300:
            self.paid.add(request.headers["Idempotency-Key"])
        return web.json_response({"receipt": len(self.seen)}, status=status)

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})


class Desk:
    def __init__(self, stage: Stage, ledger: Ledger, port: int) -> None:
        self.stage, self.ledger, self.port = stage, ledger, port

        async def reach(host: str, port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        people = stage.people

        async def conninfo(dsn: str) -> str:
            return stage.people.owner.url.replace("postgresql+psycopg", "postgresql") if "example" in dsn else dsn

        self.externals = Externals(stage.database, stage.clock, reach, lambda: people.sealer, conninfo)
        self.overrides = Overrides(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.quorum, stage.books, stage.heard,
            environment="production", operations_of=self.externals.of,
        )  # fmt: skip
        switch = GatewaySwitch(stage.clock, stage.ids, stage.recorder)
        self.watch = OverrideWatch(
            stage.database, stage.clock, stage.recorder, self.overrides, stage.heard, stage.heard
        )
        stage.serve(routes(stage.database, stage.books, self.overrides, switch))

    async def open(self, spec: str) -> Desk:
        text = f"apiVersion: bailiwick/v1\nkind: ExternalOperation\nmetadata: {{name: payout}}\nspec: {spec}\n"
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(RULES + text, "x"))
        for name in ("jane", "kim", "lou"):
            await self.stage.people.user(name)
        return self

    async def say(self, who: str, path: str, body: Any) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call("POST", f"/api/v1/overrides{path}", body, token=token)
        return answer.status, answer.json()

    async def agreed(self, cents: int = 500) -> Any:
        body = {"operation": "external.payout", "arguments": {"payout": "p-7", "cents": cents}, "reason": "r",
                "ticket": "FIN-1", "risk": "HIGH"}  # fmt: skip
        status, asked = await self.say("jane", "", body)
        assert status == 201, asked
        word = {"payload_sha256": asked["payload_sha256"]}
        for who in ("kim", "lou")[: 1 if cents < 1000 else 2]:
            assert (await self.say(who, f"/{asked['id']}/approve", word))[0] == 200
        return asked

    async def execute(self, asked: Any) -> tuple[int, Any]:
        return await self.say("jane", f"/{asked['id']}/execute", {"payload_sha256": asked["payload_sha256"]})


HOOK = (
    "{title: pay, arguments: {payout: {type: text}, cents: {type: integer, most: 1000000}}, target: payout,"
    " amount: cents, webhook: {url: 'http://pay.example.com:PORT/pay', credential: psp,"
    " version_url: 'http://pay.example.com:PORT/version?of={target}'}}"
)
CALL = (
    "{title: pay, arguments: {payout: {type: text}, cents: {type: integer, most: 1000000}}, target: payout,"
    " amount: cents, procedure: {credential: psp, function: finance.pay, version_function: finance.version}}"
)


@pytest.fixture
async def hook(house: House) -> AsyncIterator[Desk]:
    ledger = Ledger()
    application = web.Application()
    application.add_routes([web.post("/pay", ledger.pay), web.get("/version", ledger.tell)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = int(runner.addresses[0][1])
    desk = await Desk(Stage(house, KINDS), ledger, port).open(HOOK.replace("PORT", str(port)))
    await house.credentials.create(desk.stage.context(), "psp", Secret("bearer", None, {"token": SECRET}))
    yield desk
    await runner.cleanup()


async def test_a_webhook_is_signed_sent_once_and_leaves_a_receipt(hook: Desk) -> None:
    asked = await hook.agreed()
    assert (asked["target"], asked["target_version"], asked["amount"]) == ("external.payout/p-7", "7", 500)
    status, done = await hook.execute(asked)
    assert (status, done["state"]) == (200, "done"), done
    assert (await hook.execute(asked))[1]["state"] == "done"
    ((headers, body),) = hook.ledger.seen
    assert json.loads(body)["arguments"] == {"payout": "p-7", "cents": 500}
    key, stamp = headers["Idempotency-Key"], int(headers["X-Bailiwick-Timestamp"])
    assert (key, headers["X-Bailiwick-Signature"]) == (asked["id"], sign(SECRET.encode(), stamp, key, body))
    token = await hook.stage.people.signed_in("kim")
    shown = (await hook.stage.call("GET", f"/api/v1/overrides/{asked['id']}", token=token)).json()
    assert [(each["attempt"], each["status"]) for each in shown["receipts"]] == [(1, 200)]
    assert SECRET not in str(shown)


async def test_what_moved_at_the_other_side_is_stale_and_not_sent(hook: Desk) -> None:
    asked = await hook.agreed()
    hook.ledger.version = "8"
    status, said = await hook.execute(asked)
    assert (status, said["reason"], hook.ledger.seen) == (409, "override_stale", [])


async def test_no_answer_is_asked_again_by_the_same_key_until_there_is_one(hook: Desk) -> None:
    hook.ledger.statuses = [503, 503]
    asked = await hook.agreed()
    assert (await hook.execute(asked))[1]["state"] == "executing"
    for _ in range(2):
        hook.stage.clock.advance(61)
        await hook.watch.run(hook.stage.clock.now())
    async with hook.stage.database.begin() as tx:
        assert (await hook.overrides.get(tx, "default", asked["id"])).state == "done"
    assert {headers["Idempotency-Key"] for headers, _ in hook.ledger.seen} == hook.ledger.paid == {asked["id"]}
    assert await hook.stage.people.value("SELECT count(*) FROM override_receipts") == 3


async def test_one_that_is_never_answered_fails_and_is_told(hook: Desk) -> None:
    hook.ledger.statuses = [500] * 9
    asked = await hook.agreed()
    await hook.execute(asked)
    for _ in range(6):
        hook.stage.clock.advance(61)
        await hook.watch.run(hook.stage.clock.now())
    async with hook.stage.database.begin() as tx:
        assert (await hook.overrides.get(tx, "default", asked["id"])).state == "failed"
    assert len(hook.ledger.seen) == 5
    assert f"override/{asked['id']}/unanswered" in hook.stage.heard.open_alerts


async def test_a_refusal_of_the_other_side_is_a_failure(hook: Desk) -> None:
    hook.ledger.statuses = [422]
    status, done = await hook.execute(await hook.agreed())
    assert (status, done["state"]) == (200, "failed")


async def test_a_large_amount_takes_two_beside_who_asks_and_glass_is_not_broken_for_it(hook: Desk) -> None:
    asked = await hook.agreed(cents=5000)
    assert asked["approval"]["needed"] == 2
    body = {"operation": "external.payout", "arguments": {"payout": "p-7", "cents": 1}, "reason": "r", "ticket": "t",
            "risk": "LOW"}  # fmt: skip
    assert (await hook.say("jane", "/break-glass", body))[1]["reason"] == "permission_denied"
    assert hook.ledger.seen == []


async def test_a_function_of_a_database_is_called_with_exactly_the_arguments(house: House) -> None:
    desk = await Desk(Stage(house, KINDS), Ledger(), 0).open(CALL)
    async with house.owner.begin() as tx:
        await tx.run("DROP SCHEMA IF EXISTS finance CASCADE")
        for text in (
            "CREATE SCHEMA finance", "CREATE TABLE finance.paid (key text PRIMARY KEY, arguments jsonb)",
            "CREATE FUNCTION finance.version(target text) RETURNS text LANGUAGE sql AS $$ SELECT 'v-' || target $$",
            "CREATE FUNCTION finance.pay(key text, arguments jsonb) RETURNS jsonb LANGUAGE sql AS"
            " $$ INSERT INTO finance.paid VALUES (key, arguments) RETURNING arguments $$",
        ):  # fmt: skip
            await tx.run(text)
    dsn = "postgresql://payer:pw@db.example.com/finance"
    await house.credentials.create(desk.stage.context(), "psp", Secret("bearer", None, {"token": dsn}))
    asked = await desk.agreed()
    assert asked["target_version"] == "v-p-7"
    status, done = await desk.execute(asked)
    assert (status, done["state"]) == (200, "done"), done
    async with house.owner.begin() as tx:
        rows = await tx.all("SELECT key, arguments FROM finance.paid")
    assert [(row["key"], row["arguments"]) for row in rows] == [(asked["id"], {"payout": "p-7", "cents": 500})]


@pytest.mark.parametrize("dsn", ["postgresql:///x", "host=/run/pg dbname=x", "host=a,b dbname=x"])
async def test_only_hosts_that_were_looked_at_are_connected_to(house: House, dsn: str) -> None:
    async def reach(host: str, port: int) -> Sequence[str]:
        raise AssertionError(host)

    externals = Externals(house.database, house.clock, reach, lambda: house.sealer)
    procedure = Procedure(credential="psp", function="f")
    assert (await externals.call(procedure, dsn, "k", {}))[0] == 400


def test_arguments_are_exactly_those_named() -> None:
    model = arguments_of("x", {"payout": Argument(type="text"), "cents": Argument(type="integer", most=10)})
    assert model.model_validate({"payout": "a", "cents": 3}).model_dump() == {"payout": "a", "cents": 3}
    for wrong in ({"payout": "a"}, {"payout": "a", "cents": 11}, {"payout": "a", "cents": "3"},
                  {"payout": "a", "cents": 1, "more": 1}, {"payout": "a\x00", "cents": 1}):  # fmt: skip
        with pytest.raises(ValidationError):
            model.model_validate(wrong)


@pytest.mark.parametrize(
    "spec",
    [
        HOOK.replace("webhook", "procedure"),
        HOOK.replace("target: payout", "target: nobody"),
        HOOK.replace("amount: cents", "amount: payout"),
        CALL.replace("finance.pay", "finance.pay(); drop"),
        HOOK.replace("http://pay", "file://pay"),
    ],
)
async def test_a_document_that_cannot_work_is_refused(house: House, spec: str) -> None:
    with pytest.raises(BadBook):
        await Desk(Stage(house, KINDS), Ledger(), 0).open(spec.replace("PORT", "1"))
