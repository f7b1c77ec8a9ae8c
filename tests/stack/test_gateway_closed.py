"""The gateway's switch in an installation: closed by one person at once, opened by two, everywhere before the answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Stack, call, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        yield made


def test_a_closed_gateway_lets_nothing_through_until_two_persons_open_it(stack: Stack) -> None:
    agent = stack.govern("pay")
    token = stack.token_for(agent, "pay")
    assert stack.governed(token, "/s/pay/items").status == 200
    asked = {"operation": "gateway.close", "arguments": {"why": "drill"}, "reason": "drill", "ticket": "OPS-1",
             "risk": "HIGH"}  # fmt: skip
    done = stack.admin("POST", "/api/v1/overrides/break-glass", asked)
    assert (done.status, done.json["state"]) == (201, "review_due"), done
    for _ in range(10):  # whichever worker it comes to
        refused = stack.governed(token, "/s/pay/items")
        assert (refused.status, refused.reason) == (503, "gateway_closed")
    operations = stack.admin("GET", "/api/v1/overrides/operations").json
    assert operations["gateway"]["closed"] is True
    assert {"policy.rollback", "keys.rotate-emergency", "user.unlock", "gateway.open"} <= {
        each["name"] for each in operations["operations"]
    }
    # alone, or without a rule in force, nobody opens it again
    alone = stack.admin("POST", "/api/v1/overrides", {**asked, "operation": "gateway.open"})
    assert (alone.status, alone.reason) in {(422, "override_no_rule"), (422, "override_no_checker")}
    assert stack.governed(token, "/s/pay/items").status == 503
    assert call("GET", f"{stack.api}/health").status == 200  # never what people need to work


def test_a_rotated_signing_key_is_proven_refused(stack: Stack) -> None:
    done = stack.admin("POST", "/api/v1/secrets/rotations", {"kind": "signing-key", "name": "mandate"})
    assert (done.status, done.json["verdict"]) == (201, "PASS"), done
    record = stack.admin("GET", f"/api/v1/evidence/records/{done.json['record']}")
    assert record.json["verdict"] == "PASS"
