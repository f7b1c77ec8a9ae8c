"""Modes in an installation: each switch is thrown and what it stops is tried, by gateway, token endpoint and API."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from rig import PASSWORD, Stack, call, installation

from bailiwick.app.switched import switches_against


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        yield made


def throw(stack: Stack, operation: str = "switch.throw", **arguments: str) -> None:
    asked = {"operation": operation, "arguments": {"why": "drill", **arguments},
             "reason": "drill", "ticket": "INC-1", "risk": "HIGH"}  # fmt: skip
    done = stack.admin("POST", "/api/v1/overrides/break-glass", asked)
    assert (done.status, done.json["state"]) == (201, "review_due"), done


def test_each_switch_stops_what_it_names_everywhere_before_the_answer(stack: Stack) -> None:
    pay, crm = stack.govern("pay"), stack.govern("crm")
    token, other = stack.token_for(pay, "pay"), stack.token_for(crm, "crm")
    assert stack.governed(token, "/s/pay/items").status == 200

    throw(stack, "gateway.close", server="pay")
    for _ in range(10):  # whichever worker it comes to
        refused = stack.governed(token, "/s/pay/items")
        assert (refused.status, refused.reason) == (503, "server_closed"), refused
    assert stack.governed(other, "/s/crm/items").status == 200  # no other server

    throw(stack, switch="mint")
    for _ in range(6):
        minted = stack.mandate(crm, "crm")
        assert (minted.status, minted.json["reason"]) == (503, "switched_off"), minted
    assert stack.governed(other, "/s/crm/items").status == 200  # what was minted before goes on

    throw(stack, switch="read-only")
    document = call("GET", f"{stack.api}/openapi.json").json
    tried = 0
    for path, methods in document["paths"].items():
        concrete = re.sub(r"\{[^}]+\}", "0", path)
        for method in methods.keys() & {"post", "put", "patch", "delete"}:
            if not switches_against(method.upper(), concrete):
                continue
            answer = stack.admin(method.upper(), concrete, {})
            assert (answer.status, answer.reason) == (503, "read_only"), (method, path, answer)
            tried += 1
    assert tried > 80
    # never sign-in, health, revocation, incidents, or asking to lift it
    assert call("GET", f"{stack.api}/health").status == 200
    assert stack.login("admin", PASSWORD)
    revoked = stack.admin("POST", "/api/v1/revocations", {"user": "nobody-of-that-name"})
    assert revoked.reason == "not_found"
    opened = stack.admin("POST", "/api/v1/incidents", {"title": "drill", "severity": "P2"})
    assert opened.status == 201, opened
    name = opened.json["name"]
    lift = {"operation": "switch.lift", "arguments": {"switch": "read-only", "why": "over"}, "reason": "over",
            "ticket": name, "risk": "HIGH"}  # fmt: skip
    alone = stack.admin("POST", "/api/v1/overrides", lift)
    assert alone.reason == "override_no_checker", alone  # it says whom to invite, and nothing is lifted
    assert stack.admin("PATCH", "/api/v1/servers/crm", {"description": "x"}).reason == "read_only"

    # everybody may see that something is wrong, and no more; the page has no script
    status = call("GET", f"{stack.api}/status.json").json
    assert status["status"] in ("degraded", "down") and name in {each["name"] for each in status["incidents"]}
    assert "drill" not in str(status)
    page = call("GET", f"{stack.api}/status")
    assert page.status == 200 and "script" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
