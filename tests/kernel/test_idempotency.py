from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgi import Answer, call
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry

from bailiwick.kernel import idempotency, problems
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Conflict, Denied, Unauthenticated
from bailiwick.kernel.front import Front
from bailiwick.kernel.http import Caller
from bailiwick.kernel.idempotency import Idempotency
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics


class House:
    """An API that makes things, behind the front; ``made`` tells how often it was asked to."""

    def __init__(self, database: Database, **options: Any) -> None:
        self.clock = FakeClock()
        self.made: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.signed_in = {"Bearer jane-1": "jane", "Bearer jane-2": "jane", "Bearer john": "john"}
        self.sealer = Sealer({"k": b"k" * 32}, "k")
        self.wrapped = Idempotency(
            self._api(), database, self.clock, lambda: self.sealer, self._authenticate, **options
        )
        self.front = Front(
            self.wrapped, {}, ids=Ids(), clock=self.clock, metrics=Metrics(CollectorRegistry()), max_body_bytes=100_000
        )

    async def _authenticate(self, request: Request) -> Caller:
        name = self.signed_in.get(request.headers.get("authorization", ""))
        if name is None:
            raise Unauthenticated(reason="invalid_token")
        return Caller(request.state.zone, name, "admin", "s")

    def _api(self) -> FastAPI:
        app = FastAPI()
        problems.install(app)

        @app.post("/api/v1/{kind}")
        async def make(kind: str, request: Request) -> Response:
            await self._authenticate(request)
            self.made.append(await request.body())
            number = len(self.made)
            self.entered.set()
            await self.gate.wait()
            if kind == "broken":
                raise RuntimeError("broken")
            if kind == "denied":
                raise Denied()
            if kind == "taken":
                raise Conflict(reason="already_exists")
            if kind == "large":
                return Response(b"x" * (2 << 20))
            told = {"secret": "Zq9planted", "number": number}
            return Response(json.dumps(told), 201, {"Location": "/here", "ETag": '"1"'}, "application/json")

        @app.get("/api/v1/{kind}")
        async def read(kind: str) -> dict[str, str]:
            self.made.append(b"")
            return {"kind": kind}

        return app

    async def post(
        self,
        path: str = "/api/v1/things",
        body: bytes = b'{"name":"a"}',
        *,
        key: str | None = "k-1",
        token: str = "Bearer jane-1",
        content_type: str = "application/json",
    ) -> Answer:
        headers = {"content-type": content_type, "authorization": token}
        if key is not None:
            headers["idempotency-key"] = key
        return await call(self.front, "POST", path, body, headers)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    async with database.begin() as tx:
        await tx.run("DELETE FROM idempotency_keys")
    yield database
    await database.close()


@pytest.fixture
def house(database: Database) -> House:
    return House(database)


async def test_a_repeat_gets_the_same_answer_and_nothing_is_done_twice(house: House) -> None:
    first = await house.post()
    again = await house.post(token="Bearer jane-2")  # the caller, not the token, owns the key
    assert len(house.made) == 1
    assert first.status == again.status == 201
    assert first.body == again.body
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    for name in ("content-type", "location", "etag", "content-length"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


async def test_the_kept_answer_is_sealed_and_bound_to_its_row(house: House, database: Database) -> None:
    await house.post()
    await house.post(key="k-2")
    async with database.begin() as tx:
        rows = await tx.all("SELECT * FROM idempotency_keys ORDER BY key")
        assert all(b"Zq9planted" not in row["body"] for row in rows)
        assert all(b"Zq9planted" in house.sealer.open(row["body"], idempotency.answer_aad(row)) for row in rows)
        await tx.run("UPDATE idempotency_keys SET body = :body WHERE key = 'k-1'", body=rows[1]["body"])
    answer = await house.post()
    assert (answer.status, answer.json["reason"]) == (409, "conflict")
    assert len(house.made) == 2


async def test_keys_are_apart_by_caller_and_zone(house: House) -> None:
    for token, path in (
        ("Bearer jane-1", "/api/v1/things"),
        ("Bearer john", "/api/v1/things"),
        ("Bearer jane-1", "/z/blue/api/v1/things"),
    ):
        assert (await house.post(path, token=token)).status == 201
    assert len(house.made) == 3


@pytest.mark.parametrize("change", [{"body": b"{}"}, {"path": "/api/v1/others"}, {"content_type": "text/plain"}])
async def test_another_request_under_the_key_is_refused(house: House, change: dict[str, Any]) -> None:
    await house.post()
    answer = await house.post(**change)
    assert (answer.status, answer.json["reason"]) == (422, "idempotency_conflict")
    assert len(house.made) == 1


async def test_a_form_is_the_same_whatever_its_boundary(house: House) -> None:
    def form(boundary: str, value: str) -> tuple[bytes, str]:
        text = f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\n{value}\r\n--{boundary}--\r\n'
        return text.encode(), f"multipart/form-data; boundary={boundary}"

    for boundary, value, status in (("aaa111", "x", 201), ("bbb222", "x", 201), ("ccc333", "y", 422)):
        body, content_type = form(boundary, value)
        assert (await house.post(body=body, content_type=content_type)).status == status
    assert len(house.made) == 1


async def test_while_the_first_is_being_worked_on_the_second_waits_its_turn(house: House) -> None:
    house.gate.clear()
    first = asyncio.create_task(house.post())
    await asyncio.wait_for(house.entered.wait(), 5)
    second = await house.post()
    assert (second.status, second.json["reason"], second.headers["retry-after"]) == (409, "conflict", "1")
    assert (await house.post(body=b"{}")).status == 422
    house.gate.set()
    assert (await first).status == 201
    assert (await house.post()).headers["idempotency-replayed"] == "true"
    assert len(house.made) == 1


async def test_of_many_at_once_one_is_done(house: House) -> None:
    answers = await asyncio.gather(*(house.post() for _ in range(12)))
    assert len(house.made) == 1
    assert {answer.status for answer in answers} <= {201, 409}


async def test_a_process_that_died_does_not_lock_the_key(database: Database) -> None:
    house = House(database, claim_s=0.2)
    house.gate.clear()
    dying = asyncio.create_task(house.post())
    await asyncio.wait_for(house.entered.wait(), 5)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    house.gate.set()
    assert (await house.post(body=b"{}")).status == 422  # the key stays with its request
    async with asyncio.timeout(5):
        while (answer := await house.post()).status == 409:
            await asyncio.sleep(0.02)
    assert answer.status == 201
    assert len(house.made) == 2


async def test_who_lost_the_claim_does_not_overwrite_the_answer(database: Database) -> None:
    house = House(database, claim_s=0.05)
    house.gate.clear()
    slow = asyncio.create_task(house.post())
    await asyncio.wait_for(house.entered.wait(), 5)
    house.entered.clear()
    await asyncio.sleep(0.06)
    second = asyncio.create_task(house.post())
    await asyncio.wait_for(house.entered.wait(), 5)
    house.gate.set()
    assert ((await slow).json["number"], (await second).json["number"]) == (1, 2)
    kept = await house.post()
    assert (kept.json["number"], kept.headers["idempotency-replayed"]) == (2, "true")


@pytest.mark.parametrize("kind", ["broken", "denied"])
async def test_what_another_try_may_improve_is_not_kept(house: House, kind: str) -> None:
    for _ in range(2):
        assert (await house.post(f"/api/v1/{kind}")).status in {500, 403}
    assert len(house.made) == 2


async def test_a_refusal_of_the_request_itself_is_kept(house: House) -> None:
    for _ in range(2):
        assert (await house.post("/api/v1/taken")).json["reason"] == "already_exists"
    assert len(house.made) == 1


async def test_an_answer_too_large_to_keep_passes_through(house: House) -> None:
    for _ in range(2):
        answer = await house.post("/api/v1/large")
        assert len(answer.body) == 2 << 20
        assert answer.complete
    assert len(house.made) == 2


async def test_after_a_day_the_key_is_free(house: House) -> None:
    await house.post()
    house.clock.advance(24 * 3600 + 1)
    answer = await house.post(body=b"{}")
    assert (answer.status, len(house.made)) == (201, 2)


async def test_a_key_is_no_way_around_a_revocation(house: House) -> None:
    await house.post()
    del house.signed_in["Bearer jane-1"]
    answer = await house.post()
    assert (answer.status, answer.json["reason"]) == (401, "invalid_token")
    assert b"Zq9planted" not in answer.body


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "\xe9", "a\tb"])
async def test_a_key_that_is_none_is_400(house: House, key: str) -> None:
    answer = await house.post(key=key)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    assert house.made == []


async def test_without_a_key_everything_is_done_every_time(house: House) -> None:
    for _ in range(2):
        assert (await house.post(key=None)).status == 201
    headers = {"idempotency-key": "k", "authorization": "Bearer jane-1"}
    for _ in range(2):
        assert (await call(house.front, "GET", "/api/v1/things", headers=headers)).status == 200
    assert len(house.made) == 4


async def test_a_body_too_large_is_413_here_too(house: House) -> None:
    headers = {"idempotency-key": "k", "authorization": "Bearer jane-1"}
    answer = await call(house.front, "POST", "/api/v1/things", [b"x" * 60_000] * 2, headers, chunked=True)
    assert (answer.status, answer.json["reason"]) == (413, "payload_too_large")
    assert house.made == []


async def test_without_the_database_nothing_is_done() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    house = House(away)
    answer = await house.post()
    assert (answer.status, answer.json["reason"]) == (503, "database_unavailable")
    assert house.made == []
    await away.close()
