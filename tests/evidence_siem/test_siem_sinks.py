"""The routes of the sinks: who may what, what is refused, what is never shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from hec_server import TOKEN
from siem_world import FORBIDDEN, SiemWorld

from bailiwick.evidence.siem.api import routes
from bailiwick.evidence.siem.sinks import sink_aad, unseal
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.http import Caller
from bailiwick.kernel.problems import install

SPLUNK = {
    "name": "soc",
    "kind": "splunk",
    "options": {"url": "https://splunk.example.com:8088/services/collector"},
    "secrets": {"token": TOKEN},
}


class Api:
    def __init__(self, app: Any, siem: SiemWorld) -> None:
        self._app, self._siem = app, siem

    async def __call__(
        self, method: str, path: str, body: Any = None, *, role: str = "admin", zone: str = "default", **headers: str
    ) -> tuple[int, Any]:
        sent: list[dict[str, Any]] = []
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": f"/api/v1/siem{path}", "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"x-role", role.encode()),
                        *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())],
            "client": ("192.0.2.1", 1), "server": ("api", 80),
            "state": {"zone": zone, "request_id": self._siem.world.ids(), "ip": "192.0.2.1"},
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        text = b"".join(message.get("body", b"") for message in sent)
        assert TOKEN.encode() not in text, "a secret was answered"
        return sent[0]["status"], json.loads(text) if text else None


async def proven(request: Request, caller: Caller) -> None:
    """Everybody here proved himself just now."""


@pytest.fixture
async def api(siem: SiemWorld) -> AsyncIterator[Api]:
    app = FastAPI()
    install(app)

    async def authenticate(request: Request) -> Caller:
        if not request.headers.get("x-role"):
            raise Unauthenticated()
        return Caller(request.state.zone, "olga", request.headers["x-role"], "session-1")

    app.state.authenticate = authenticate
    app.state.step_up = proven
    app.include_router(routes(siem.sinks, siem.operations))
    yield Api(app, siem)


async def test_a_sink_is_made_with_the_usual_values_and_never_shows_its_token(api: Api, siem: SiemWorld) -> None:
    status, made = await api("POST", "/sinks", SPLUNK)
    assert status == 201
    assert (made["options"]["index"], made["options"]["sourcetype"]) == ("sark_audit", "sark:audit:event")
    assert (made["format"], made["batch_size"], made["linger_s"], made["version"]) == ("native", 1000, 1.0, 1)
    assert "secrets" not in made and "sealed" not in made
    assert (await api("GET", "/sinks/soc"))[1] == made
    assert (await api("GET", "/sinks"))[1]["items"] == [made]
    assert (await api("POST", "/sinks", SPLUNK))[0] == 409
    stored = siem.world.rows("SELECT options::text || sealed::text FROM bailiwick.siem_sinks")
    assert TOKEN not in stored[0]
    await siem.drain_outbox()
    bodies = await siem.bodies()
    assert siem.recorded() == ["siem.sink.created"] and not any(TOKEN.encode() in body for body in bodies)


@pytest.mark.parametrize(
    ("method", "path", "body", "roles"),
    [
        ("GET", "/sinks", None, {"admin", "operator", "auditor"}),
        ("GET", "/status", None, {"admin", "operator", "auditor"}),
        ("POST", "/sinks", {**SPLUNK, "name": "new"}, {"admin"}),
        ("PATCH", "/sinks/soc", {"batch_size": 5}, {"admin"}),
        ("POST", "/sinks/soc/drain", {}, {"admin", "operator"}),
        ("POST", "/sinks/soc/replay", {"from": "beginning"}, {"admin", "operator"}),
        ("GET", "/sinks/soc/dead-letters", None, {"admin", "operator", "auditor"}),
        ("GET", "/sinks/soc/repeats", None, {"admin", "operator", "auditor"}),
        ("POST", "/sinks/soc/dead-letters/retry", None, {"admin", "operator"}),
        ("DELETE", "/sinks/soc", None, {"admin"}),
    ],
)
async def test_who_may_what(api: Api, method: str, path: str, body: Any, roles: set[str]) -> None:
    assert (await api("POST", "/sinks", SPLUNK))[0] == 201
    for role in ("viewer", "auditor", "operator", "admin"):
        status, told = await api(method, path, body, role=role)
        assert (status == 403) == (role not in roles), (role, status, told)
        assert role not in roles or status < 300, told


BROKEN: list[Any] = [
    {},
    {**SPLUNK, "kind": "carrier-pigeon"},
    {**SPLUNK, "extra": 1},
    {**SPLUNK, "name": "../etc"},
    {**SPLUNK, "name": "a\x00b"},
    {**SPLUNK, "options": {"url": "http://splunk.example.com"}},
    {**SPLUNK, "options": {**SPLUNK["options"], "unknown": 1}},  # type: ignore[dict-item]
    {**SPLUNK, "options": {**SPLUNK["options"], "index": "x\x00"}},  # type: ignore[dict-item]
    {**SPLUNK, "secrets": {}},
    {**SPLUNK, "secrets": {"token": "line\r\nbreak"}},
    {**SPLUNK, "batch_size": 0},
    {**SPLUNK, "batch_size": 10_001},
    {**SPLUNK, "linger_s": -1},
    {**SPLUNK, "filter": {"codes": ["BW0000"]}},
    {**SPLUNK, "filter": {"codes": ["nonsense"]}},
    {**SPLUNK, "redact": {"id": "remove"}},
    {**SPLUNK, "redact": {"nothing.like.it": "remove"}},
    {**SPLUNK, "redact": {"network.ip": "shred"}},
    {**SPLUNK, "start": "tomorrow"},
    {"name": "s", "kind": "webhook", "options": {"url": "https://h.example"}, "secrets": {"secret": "plain"}},
    {"name": "s", "kind": "syslog", "options": {"host": "h", "port": 0}},
    {
        "name": "s",
        "kind": "s3",
        "options": {"bucket": "UPPER"},
        "secrets": {"access_key_id": "abc", "secret_access_key": "x"},
    },
    b"{",
    b'{"linger_s": 1e999}',
]


async def test_what_is_not_a_sink_is_told_so(api: Api) -> None:
    for body in BROKEN:
        status, told = await api("POST", "/sinks", body)
        assert (status, told["reason"]) == (400, "invalid_request"), (body, told)
    assert (await api("GET", "/sinks"))[1]["items"] == []


async def test_an_address_that_may_not_be_reached_is_refused_at_once(api: Api) -> None:
    status, told = await api("POST", "/sinks", {**SPLUNK, "options": {"url": f"https://{FORBIDDEN}"}})
    assert (status, told["reason"]) == (422, "upstream_forbidden")


async def test_changes_are_merged_guarded_and_recorded(api: Api, siem: SiemWorld) -> None:
    await api("POST", "/sinks", {**SPLUNK, "redact": {"network.ip": "hash"}, "filter": {"names": ["auth.*"]}})
    patch = {"options": {"index": "other"}, "redact": {"network.ip": None, "actor.user": "mask"}, "enabled": False}
    status, changed = await api("PATCH", "/sinks/soc", patch, if_match='"1"')
    assert status == 200 and changed["version"] == 2 and changed["enabled"] is False
    assert changed["options"]["index"] == "other" and changed["redact"] == {"actor.user": "mask"}
    assert changed["filter"]["names"] == ["auth.*"]
    assert (await api("PATCH", "/sinks/soc", {"batch_size": 7}, if_match='"1"'))[0] == 412
    for wrong in ({"options": {"index": "Ü"}}, {"secrets": {"token": ""}}, {"kind": "s3"}, {"options": {"x": 1}}):
        assert (await api("PATCH", "/sinks/soc", wrong))[0] == 400
    assert (await api("DELETE", "/sinks/soc"))[0] == 204
    assert (await api("GET", "/sinks/soc"))[0] == 404
    await siem.drain_outbox()
    assert siem.recorded() == ["siem.sink.created", "siem.sink.changed", "siem.sink.deleted"]


async def test_a_sink_led_elsewhere_needs_its_token_anew(api: Api, siem: SiemWorld) -> None:
    await api("POST", "/sinks", SPLUNK)
    elsewhere = {"options": {"url": "https://mine.example.org"}}
    status, told = await api("PATCH", "/sinks/soc", elsewhere)
    assert status == 400 and "secrets anew" in told["detail"]
    assert (await api("PATCH", "/sinks/soc", {**elsewhere, "secrets": {"token": "new"}}))[0] == 200
    # nor does changing the row in the database lead the token elsewhere
    siem.world.do('UPDATE bailiwick.siem_sinks SET options = options || \'{"url": "https://mine.example.net"}\'')
    with pytest.raises(SealError):
        unseal(siem.world.sealer, await siem.sinks.get("default", "soc"))


async def test_zones_keep_to_themselves(api: Api) -> None:
    assert (await api("POST", "/sinks", SPLUNK))[0] == 201
    assert (await api("GET", "/sinks/soc", zone="acme"))[0] == 404
    assert (await api("POST", "/sinks", SPLUNK, zone="acme"))[0] == 201
    status, _ = await api("POST", "/sinks", {**SPLUNK, "name": "all", "all_zones": True}, zone="acme")
    assert status == 403


async def test_secrets_survive_a_rotation_of_the_key_that_wraps_them(api: Api, siem: SiemWorld) -> None:
    await api("POST", "/sinks", SPLUNK)
    sink = await siem.sinks.get("default", "soc")
    both = Sealer({"k1": bytes(range(32)), "k2": bytes(32)}, active="k2")
    wrapped = both.rewrap(sink.sealed, sink_aad("default", sink.id))
    siem.world.do("UPDATE bailiwick.siem_sinks SET sealed = %s", wrapped)
    assert unseal(both, await siem.sinks.get("default", "soc"))["token"] == TOKEN


async def test_a_replay_needs_a_place(api: Api) -> None:
    await api("POST", "/sinks", SPLUNK)
    for body in (
        {},
        {"from": -1},
        {"from": "yesterday"},
        {"from": 1.5},
        {"from": 5, "zone": "nowhere"},
        {"from": 1 << 70},
    ):
        assert (await api("POST", "/sinks/soc/replay", body))[0] == 400, body
    assert (await api("POST", "/sinks/soc/replay", {"from": "2026-01-01T00:00:00Z"}))[0] == 202
