"""Evidence records: addressed by content, stored once, redacted, only ever added to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from api_client import ApiClient
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import World
from typer.testing import CliRunner

from bailiwick.cli.evidence import app as commands
from bailiwick.evidence.events import Context
from bailiwick.evidence.evidence_records import (
    MOST_OUTPUT,
    MOST_READ,
    EvidenceRecords,
    Producer,
    encode,
    kept_command,
    kept_inputs,
    kept_output,
    record_id,
)
from bailiwick.evidence.evidence_records_api import routes
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.errors import InvalidRequest, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.problems import install

SECRET = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJqYW5lIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
SINCE = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
PRODUCER = Producer(host="m1", name="olga", program="test", version="1")
CONTEXT = Context("default")


def records(world: World) -> EvidenceRecords:
    return EvidenceRecords(FakeClock(), world.recorder)


async def probe(world: World, output: bytes = b"all well\n", **more: Any) -> Any:
    options: dict[str, Any] = {
        "exit_code": 0,
        "since": SINCE,
        "until": SINCE + timedelta(seconds=3),
        "producer": PRODUCER,
    }
    async with world.database.begin() as tx:
        return await records(world).probe(tx, CONTEXT, "backup.restore", output, **{**options, **more})


async def told(world: World) -> list[dict[str, Any]]:
    sequencer = world.sequencer()
    await sequencer.drain()
    sequencer.close()
    return [json.loads(body) for body in world.bodies("WHERE code = 'BW5071'")]


async def test_the_same_content_is_one_record_and_each_recording_an_event(world: World) -> None:
    first, second = await probe(world), await probe(world)
    assert first == second and len(first.id) == 64
    assert first.id == hashlib.sha256(first.body).hexdigest() == record_id(encode(first.record))
    assert world.rows("SELECT count(*) FROM ledger.evidence_records") == [1]
    events = await told(world)
    assert [event["details"]["new"] for event in events] == [True, False]
    assert {event["details"]["record"] for event in events} == {first.id}
    other = await probe(world, until=SINCE + timedelta(seconds=4))
    assert other.id != first.id
    assert world.rows("SELECT count(*) FROM ledger.evidence_outputs") == [1], "an output is stored once"


async def test_what_stands_in_the_ledger_is_the_record(world: World) -> None:
    made = await probe(world)
    details = (await told(world))[0]["details"]
    assert (details["record"], details["output"]) == (made.id, hashlib.sha256(b"all well\n").hexdigest())
    body = json.loads(made.body)
    assert list(body) == sorted(body) and body["producer"]["name"] == "olga"


async def test_a_verdict_is_what_the_exit_code_says_until_it_expires(world: World) -> None:
    now, later = SINCE + timedelta(hours=1), SINCE + timedelta(hours=3)
    life = SINCE + timedelta(hours=2)
    for code, said in ((0, "PASS"), (1, "FAIL"), (2, "FAIL"), (3, "NO_DATA"), (-9, "FAIL")):
        made = await probe(world, exit_code=code, expires_at=life)
        assert (made.record.verdict(now), made.record.verdict(later)) == (said, "STALE")


async def test_secrets_are_taken_out_and_counted(world: World) -> None:
    made = await probe(
        world,
        f"token={SECRET}\npassword=hunter2-planted\n".encode(),
        command=["curl", "--password", "hunter2-planted", "-H", f"Authorization: Bearer {SECRET}"],
        inputs={"api_key": "hunter2-planted", "url": "https://me:hunter2-planted@host/", "port": 5},
    )
    async with world.database.begin() as tx:
        output = await records(world).output(tx, made)
    everything = made.body + output
    assert b"hunter2" not in everything and SECRET.encode() not in everything
    assert made.record.redactions >= 5
    assert made.record.inputs["port"] == 5 and made.record.command[0] == "curl"


async def test_a_long_output_is_cut_and_says_so(world: World) -> None:
    made = await probe(world, b"x" * (MOST_OUTPUT + 5))
    assert made.record.output.truncated and made.record.output.bytes == MOST_OUTPUT + 5
    assert world.rows("SELECT max(octet_length(data)) FROM ledger.evidence_outputs") == [MOST_OUTPUT]
    assert not (await probe(world, b"x" * MOST_OUTPUT)).record.output.truncated


@given(st.binary(max_size=300), st.integers(0, 5))
def test_what_is_kept_of_an_output_is_text_with_its_hash(raw: bytes, more: int) -> None:
    kept, output, _ = kept_output(raw, len(raw) + more)
    assert kept.decode() is not None and b"\0" not in kept
    assert output.sha256 == hashlib.sha256(kept).hexdigest()
    assert output.bytes == len(raw) + more and output.truncated == (more > 0)


def test_a_secret_across_the_end_of_what_is_kept_does_not_survive() -> None:
    for start in (MOST_OUTPUT - 20, MOST_READ - 30):
        kept, output, _ = kept_output(b"a" * start + b" " + SECRET.encode() + b" " + b"b" * MOST_OUTPUT)
        assert b"eyJ" not in kept and output.truncated


@given(st.lists(st.text(max_size=40), max_size=6), st.dictionaries(st.text("abc_", min_size=1), st.text(max_size=30)))
def test_any_command_and_inputs_can_be_kept(words: list[str], inputs: dict[str, str]) -> None:
    kept, _ = kept_command(words)
    values, _ = kept_inputs(inputs)
    assert len(kept) == len(words) and values.keys() == inputs.keys()
    assert json.dumps([kept, values], ensure_ascii=False).encode() is not None


@pytest.mark.parametrize(
    "more",
    [
        {"until": SINCE - timedelta(seconds=1)},
        {"until": datetime(2030, 1, 1, tzinfo=UTC)},
        {"expires_at": SINCE},
        {"exit_code": 256},
        {"inputs": {"a b": "x"}},
        {"inputs": {"n": 1 << 60}},
        {"command": ["x" * 5000]},
    ],
    ids=["backwards", "future", "expired", "exit", "input name", "large number", "long command"],
)
async def test_what_is_out_of_bounds_is_refused(world: World, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await probe(world, **more)
    assert world.rows("SELECT count(*) FROM ledger.evidence_records") == [0]


async def test_the_app_cannot_change_or_remove_records_and_the_database_checks_their_addresses(world: World) -> None:
    await probe(world)
    for statement in (
        "UPDATE ledger.evidence_records SET subject = 'x'",
        "DELETE FROM ledger.evidence_records",
        "TRUNCATE ledger.evidence_records",
        "UPDATE ledger.evidence_outputs SET data = ''",
        "DELETE FROM ledger.evidence_outputs",
    ):
        with psycopg.connect(world.url) as connection:
            connection.execute("SET ROLE bailiwick_app")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)  # type: ignore[call-overload]
    with pytest.raises(psycopg.errors.CheckViolation):
        world.do("UPDATE ledger.evidence_records SET body = body || 'x'")
    with pytest.raises(psycopg.errors.CheckViolation):
        world.do("UPDATE ledger.evidence_outputs SET data = 'x'")


async def test_a_record_is_its_zones(world: World) -> None:
    made = await probe(world)
    async with world.database.begin() as tx:
        with pytest.raises(NotFound):
            await records(world).get(tx, "acme", made.id)
        assert await records(world).list(tx, "acme") == []


# ---------------------------------------------------------------------- routes


@pytest.fixture
def api(world: World) -> ApiClient:
    app = FastAPI()
    install(app)

    async def authenticate(request: Request) -> Caller:
        return Caller(request.state.zone, "olga", request.headers["x-role"], "session-1")

    app.state.authenticate = authenticate
    app.include_router(
        routes(world.database, EvidenceRecords(world.clock, world.recorder), world.recorder, world.clock)
    )

    async def front(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {"zone": "default", "request_id": world.ids(), "ip": "192.0.2.1"}}, receive, send)

    return ApiClient(front, {"x-role": "operator"})


NEW = {
    "kind": "probe",
    "check": "tls.expiry",
    "output": "token=abcdefghijkl\n90 days left",
    "exit": 0,
    "since": "2026-01-05T08:00:00Z",
    "until": "2026-01-05T08:00:01Z",
    "inputs": {"host": "example.com", "port": 443, "strict": True},
}


async def test_records_over_the_api(world: World, api: ApiClient) -> None:
    made = await api.post("/api/v1/evidence/records", body=NEW)
    assert made.status_code == 201, made.text
    answer = made.json()
    assert answer["verdict"] == "PASS" and answer["record"]["producer"]["name"] == "olga"
    assert (await api.post("/api/v1/evidence/records", body=NEW)).json()["id"] == answer["id"]
    output = await api.get(f"/api/v1/evidence/records/{answer['id']}/output")
    assert output.text == "token=[redacted]\n90 days left"
    stated = {**NEW, "kind": "attestation", "exit": None, "check": "budget.approved", "output": "Approved."}
    assert (await api.post("/api/v1/evidence/records", body=stated)).status_code == 201
    page = (await api.get("/api/v1/evidence/records", params={"limit": "1"})).json()
    assert [each["record"]["check"] for each in page["records"]] == ["budget.approved"]
    rest = (await api.get("/api/v1/evidence/records", params={"limit": "5", "cursor": page["next"]})).json()
    assert ([each["id"] for each in rest["records"]], rest["next"]) == ([answer["id"]], None)
    assert (await api.get(f"/api/v1/evidence/records/{answer['id']}")).json()["record"]["inputs"]["port"] == 443
    assert (await api.get("/api/v1/evidence/records/" + "0" * 64)).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"exit": None},
        {"kind": "attestation"},
        {"check": "UPPER"},
        {"check": "a\u0000"},
        {"output": "a\u0000"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00Z"},
        {"until": "2026-01-05T07:00:00Z"},
        {"verdict": "PASS"},
        {"inputs": {"x": 1.5}},
        {"inputs": {"x": 1 << 70}},
        {"command": ["\u0000"]},
    ],
)
async def test_a_bad_record_is_refused(world: World, api: ApiClient, change: dict[str, Any]) -> None:
    got = await api.post("/api/v1/evidence/records", body={**NEW, **change})
    assert got.status_code == 400, got.text


async def test_who_may_record_and_read(world: World, api: ApiClient) -> None:
    made = (await api.post("/api/v1/evidence/records", body=NEW)).json()["id"]
    writing = {role: (await api.post("/api/v1/evidence/records", body=NEW, headers={"x-role": role})).status_code
               for role in ("admin", "operator", "auditor", "viewer")}  # fmt: skip
    assert writing == {"admin": 201, "operator": 201, "auditor": 403, "viewer": 403}
    for path in ("", f"/{made}", f"/{made}/output"):
        reading = {role: (await api.get(f"/api/v1/evidence/records{path}", headers={"x-role": role})).status_code
                   for role in ("admin", "operator", "auditor", "viewer")}  # fmt: skip
        assert reading == {"admin": 200, "operator": 200, "auditor": 200, "viewer": 403}


# ---------------------------------------------------------------------- commands


async def cli(world: World, *arguments: str, code: int = 0) -> str:
    environment = {"BAILIWICK_DATABASE_URL": world.url, "BAILIWICK_DATA_DIR": str(world.root)}
    done = await asyncio.to_thread(CliRunner().invoke, commands, list(arguments), env=environment)
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.stdout


async def test_a_command_is_run_and_recorded(world: World) -> None:
    said = "import sys; print('password=planted-secret'); print('to stderr', file=sys.stderr); sys.exit({})"
    made = json.loads(await cli(world, "record", "--check", "probe.a", "--input", "host=db1", "--expires", "1h", "--json",
                                "--", sys.executable, "-c", said.format(0)))  # fmt: skip
    assert made["verdict"] == "PASS" and made["record"]["exit"] == 0 and made["record"]["inputs"] == {"host": "db1"}
    assert made["record"]["producer"]["name"].startswith("os:") and made["record"]["expires_at"]
    shown = await cli(world, "show", made["id"][:10])
    assert "password=[redacted]" in shown and "to stderr" in shown and "planted" not in shown
    await cli(world, "record", "--json", "--", sys.executable, "-c", said.format(7), code=1)
    await cli(world, "record", "--json", "--", sys.executable, "-c", said.format(3), code=3)
    listed = await cli(world, "list")
    assert len(listed.splitlines()) == 3 and "FAIL" in listed
    assert len((await cli(world, "list", "--check", "probe.a", "--json")).splitlines()) == 1
    stuck = json.loads(await cli(world, "record", "--timeout", "0.2", "--json", "--", "sleep", "60", code=1))
    assert stuck["record"]["exit"] == -9
    await cli(world, "record", "--attest", "The plan was approved.", "--check", "plan.approved")
    assert "The plan was approved." in await cli(
        world, "show", json.loads(await cli(world, "list", "-n", "1", "--json"))["id"]
    )


async def test_a_command_used_wrongly(world: World) -> None:
    await cli(world, "record", code=2)
    await cli(world, "record", "--attest", "yes", code=2)
    await cli(world, "record", "--", "/nowhere/at/all", code=2)
    await cli(world, "record", "--zone", "nowhere", "--", "true", code=2)
    await cli(world, "record", "--check", "NOT OK", "--", "true", code=2)
    await cli(world, "show", "0" * 64, code=3)
    await cli(world, "list", code=3)
