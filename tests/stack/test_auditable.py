"""What the systems before this one call auditable leaves its event, refusals and the reading of evidence included."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from rig import Stack, call, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(measured=True, WORKERS="1") as made:
        made.govern("pay")
        yield made


def event_of(stack: Stack, request_id: str, name: str) -> dict[str, Any]:
    """The event of that name that a request left, once it is there."""
    deadline = time.monotonic() + 15
    while True:
        events = stack.story(request_id)
        found = [event for event in events if event["name"] == name]
        if found:
            return found[0]
        assert time.monotonic() < deadline, (name, [event["name"] for event in events])
        time.sleep(0.05)


def first_events(stack: Stack, name: str) -> list[dict[str, Any]]:
    got = stack.admin("GET", f"/api/v1/audit/events?name={name}&order=oldest")
    return [entry["event"] for entry in got.json["events"]]


def test_the_keys_of_a_zone_begin_with_events(stack: Stack) -> None:
    purposes = {event["details"]["purpose"] for event in first_events(stack, "key.created")}
    assert purposes == {"mandate", "session", "ledger"}
    assert [event["details"]["before"] for event in first_events(stack, "schema.upgraded")] == [""]
    assert first_events(stack, "installation.bootstrapped")
    assert len(first_events(stack, "installation.started")) == 1


def test_a_person_who_may_not_is_named_with_what_he_wanted(stack: Stack) -> None:
    person = {"username": "vera", "email": "vera@example.com", "role": "viewer", "password": "long enough for all"}
    assert stack.admin("POST", "/api/v1/users", person).status == 201
    vera = stack.login("vera", person["password"])
    got = call("DELETE", f"{stack.api}/api/v1/servers/pay", token=vera)
    assert (got.status, got.reason) == (403, "permission_denied")
    event = event_of(stack, got.headers["x-request-id"], "access.refused")
    assert (event["actor"]["user"], event["outcome"], event["reasons"]) == ("vera", "deny", ["permission_denied"])
    assert event["details"] == {
        "method": "DELETE",
        "permission": "servers:write",
        "route": "/api/v1/servers/{name}",
    }
    read = call("GET", f"{stack.api}/api/v1/audit/events", token=vera)
    assert read.status == 403
    assert event_of(stack, read.headers["x-request-id"], "access.refused")["details"]["permission"] == "audit:read"


@pytest.mark.parametrize("endpoint", ["token", "revoke"])
def test_an_application_with_a_wrong_secret(stack: Stack, endpoint: str) -> None:
    form = {"grant_type": "client_credentials", "audience": "pay", "scope": "items:read", "token": "x"}
    client = {"client_id": "pay-agent", "client_secret": "certainly not the secret"}
    got = call("POST", f"{stack.api}/oauth/{endpoint}", form={**form, **client})
    assert (got.status, got.reason) == (401, "invalid_client")
    event = event_of(stack, got.headers["x-request-id"], "auth.login.failure")
    assert (event["subject"], event["reasons"], event["details"]) == (
        {"id": "pay-agent", "type": "application"},
        ["invalid_client"],
        {"method": "client_secret"},
    )


def test_a_guessed_invitation(stack: Stack) -> None:
    guess = {"token": "bwi_" + "A" * 43, "password": "long enough for all"}
    got = call("POST", f"{stack.api}/api/v1/auth/invitations/accept", body=guess)
    assert (got.status, got.reason) == (401, "invalid_token")
    event = event_of(stack, got.headers["x-request-id"], "auth.login.failure")
    assert (event["reasons"], event["details"]) == (["invalid_token"], {"method": "invitation"})


def test_who_looks_at_a_decision(stack: Stack) -> None:
    question = {"user_id": "admin", "action": "read", "resource": "server:pay"}
    decided = stack.admin("POST", "/api/v1/authz/evaluate", question).json["decision_id"]
    deadline = time.monotonic() + 15
    while (got := stack.admin("GET", f"/api/v1/decisions/{decided}")).status == 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    event = event_of(stack, got.headers["x-request-id"], "audit.read")
    assert event["subject"] == {"id": f"decisions/{decided}", "type": "audit"}


# Routes about the evidence that show no event: hashes, signatures and keys, which anybody may have.
_PUBLIC = {
    "/evidence/{zone}/checkpoint",
    "/evidence/{zone}/continuations",
    "/evidence/{zone}/cosigned-checkpoint",
    "/evidence/{zone}/heads",
    "/evidence/{zone}/verifier-keys",
    "/evidence/{zone}/tile/{path}",
}
# What is kept where, and searches that were kept: no event is shown.
_ABOUT = {
    "/api/v1/audit/archive",
    "/api/v1/audit/archive/windows",
    "/api/v1/audit/archive/manifests/{ordinal}",
    "/api/v1/audit/archive/holds",
    "/api/v1/audit/queries",
    "/api/v1/audit/queries/{query_id}",
}
_QUERIES = {
    "/api/v1/audit/proofs/inclusion": "?index=0",
    "/api/v1/audit/proofs/consistency": "?old=1",
    "/api/v1/audit/events/stream": "?seconds=0",
}


def test_every_route_that_shows_evidence_leaves_the_event_of_the_look(stack: Stack) -> None:
    paths = call("GET", f"{stack.api}/openapi.json").json["paths"]
    about = {
        path for path, methods in paths.items() if "get" in methods and path.startswith(("/api/v1/audit", "/evid"))
    }
    assert about > _PUBLIC
    looked = stack.admin("GET", "/api/v1/audit/events?order=oldest&limit=1")
    first = looked.json["events"][0]["event"]
    size = int(call("GET", f"{stack.api}/evidence/default/checkpoint").text.splitlines()[1])
    tile = "000" if size >= 256 else f"000.p/{size}"
    kept = stack.admin("POST", "/api/v1/audit/queries", {"name": "walk", "query": {"code": "BW6003"}})
    assert kept.status == 201, kept
    exported = stack.admin("GET", "/api/v1/audit/export?user=nobody")
    assert exported.status == 200, exported
    values = {
        "event_id": first["id"],
        "request_id": exported.headers["x-request-id"],
        "zone": "default",
        "path": tile,
        "query_id": kept.json["id"],
        "kind": "user",
        "identifier": "admin",
    }
    stack.story(values["request_id"])
    without = []
    assert about > _ABOUT
    for path in sorted(about - _PUBLIC - _ABOUT):
        got = stack.admin("GET", path.format(**values) + _QUERIES.get(path, ""))
        assert got.status == 200, (path, got)
        told = {event["name"] for event in stack.story(got.headers["x-request-id"])}
        if not told & {"audit.read", "audit.exported"}:
            without.append(path)
    assert not without


def test_a_stream_that_was_cut(stack: Stack) -> None:
    """The cut belongs to the request it ended, and names the authority it stood on."""
    token = stack.token_for("pay-agent", "pay")
    assert stack.governed(token, "/s/pay/items").status == 200
    parts = urlsplit(stack.gateway)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request("GET", "/s/pay/stream", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read(9)
    agent = stack.agents["pay-agent"]
    revoked = stack.admin("POST", "/api/v1/revocations", {"application": "pay-agent", "reason": "walk"})
    assert revoked.status == 201, revoked
    with pytest.raises((http.client.IncompleteRead, OSError)):
        while answer.read(4096):
            pass
        raise OSError("ended")
    event = event_of(stack, str(answer.getheader("x-request-id")), "gateway.stream.cut")
    assert event["details"] == {"cause": "revoked"}
    assert event["actor"]["application"] == "pay-agent"
    assert event["subject"]["type"] == "mandate"
    assert agent["client_secret"] not in str(event)
