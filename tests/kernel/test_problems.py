from __future__ import annotations

import json
from typing import Annotated

import pytest
from asgi import call
from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from bailiwick.kernel import problems
from bailiwick.kernel.errors import REASONS, BailiwickError, Denied, NotFound


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")
    username: str = Field(pattern="^[a-z]+$")
    password: Annotated[str, Field(min_length=30)]


def application() -> FastAPI:
    app = FastAPI()
    problems.install(app)

    @app.post("/login")
    async def login(body: Login) -> None: ...

    @app.get("/page")
    async def page(limit: Annotated[int, Query(ge=1)]) -> None: ...

    @app.get("/denied")
    async def denied() -> None:
        raise Denied("This needs more.", permission="users:write", status="forged", headers={"X-Extra": "1"})

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("password=hunter2hunter2 in a row")

    return app


async def test_a_refusal_is_a_problem_with_every_member() -> None:
    answer = await call(application(), "GET", "/denied")
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-extra"] == "1"
    assert answer.json == {
        "type": "urn:bailiwick:problem:permission_denied",
        "title": REASONS["permission_denied"].meaning,
        "status": 403,
        "detail": "This needs more.",
        "reason": "permission_denied",
        "request_id": "",
        "instance": "/denied",
        "permission": "users:write",
    }


async def test_a_body_that_does_not_fit_is_400_and_never_echoed() -> None:
    body = {"username": "Zq9UserPlanted", "password": "Zq9planted", "clientSecret=Zq9name1234": 1}
    answer = await call(
        application(), "POST", "/login", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    assert answer.status == 400
    assert answer.json["reason"] == "invalid_request"
    fields = {entry["field"] for entry in answer.json["errors"]}
    assert {"body.username", "body.password"} < fields
    assert b"Zq9" not in answer.body
    assert all(set(entry) == {"field", "message"} for entry in answer.json["errors"])


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"null", b'{"username": "\\ud800", "password": 3}', b"[" * 5000])
async def test_what_is_no_json_is_400(body: bytes) -> None:
    answer = await call(application(), "POST", "/login", body, {"content-type": "application/json"})
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")


async def test_a_query_that_does_not_fit_is_400() -> None:
    answer = await call(application(), "GET", "/page", query="limit=0")
    assert (answer.status, answer.json["errors"][0]["field"]) == (400, "query.limit")


async def test_routing_errors_are_problems() -> None:
    missing = await call(application(), "GET", "/nothing")
    assert (missing.status, missing.json["reason"]) == (404, "not_found")
    wrong = await call(application(), "DELETE", "/denied")
    assert (wrong.status, wrong.json["reason"], wrong.headers["allow"]) == (405, "method_not_allowed", "GET")


async def test_what_was_not_foreseen_tells_nothing() -> None:
    with pytest.raises(RuntimeError):  # the server's log gets it; the answer has been sent by then
        await call(application(), "GET", "/broken")
    document = problems.problem(problems.as_error(RuntimeError("password=hunter2")), "r1")
    assert document["reason"] == "internal_error"
    assert "hunter2" not in json.dumps(document)
    assert document["request_id"] == "r1"


async def test_a_raw_endpoint_answers_the_same_form() -> None:
    async def raw(_scope: object, _receive: object, send: object) -> None:
        await problems.send_problem(send, NotFound(reason="unknown_server"), "r2")  # type: ignore[arg-type]

    answer = await call(raw, "GET", "/x")
    assert answer.status == 404
    assert answer.json["request_id"] == "r2"
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_every_401_carries_a_challenge() -> None:
    assert problems.problem_headers(BailiwickError(reason="authentication_required"))["www-authenticate"] == (
        'Bearer realm="bailiwick"'
    )
    assert (
        'error="invalid_token"' in problems.problem_headers(BailiwickError(reason="token_expired"))["www-authenticate"]
    )


OAUTH_CODES = {
    "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
    "invalid_scope", "invalid_target", "access_denied", "temporarily_unavailable", "server_error",
}  # fmt: skip


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_an_oauth_form(reason: str) -> None:
    status, body = problems.oauth_error(BailiwickError(reason=reason))
    assert body["error"] in OAUTH_CODES
    assert body["reason"] == reason
    assert status >= 400
    assert (status == 401) == (body["error"] == "invalid_client")
    if REASONS[reason].status >= 500 and body["error"] != "access_denied":
        assert status >= 500


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("invalid_client", 401, "invalid_client"),
        ("token_expired", 400, "invalid_request"),
        ("grant_exceeded", 400, "invalid_scope"),
        ("unknown_server", 400, "invalid_target"),
        ("policy_denied", 400, "access_denied"),
        ("evidence_unavailable", 503, "temporarily_unavailable"),
        ("internal_error", 500, "server_error"),
        ("rate_limited", 429, "temporarily_unavailable"),
    ],
)
def test_oauth_codes(reason: str, status: int, code: str) -> None:
    answered, body = problems.oauth_error(BailiwickError(reason=reason))
    assert (answered, body["error"]) == (status, code)
