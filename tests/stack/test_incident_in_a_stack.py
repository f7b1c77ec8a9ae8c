"""An incident in an installation: it opens by itself from an event and a probe, names the streams that go on, and is
over only when the gateway itself answers as expected."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from rig import Stack, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        made.govern("pay")
        made.govern("crm")
        yield made


def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bailiwick/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def apply(stack: Stack, folder: Path, *more: dict[str, Any]) -> None:
    """Put documents beside those in force."""
    told = json.loads(stack.cli("assurance", "show", "--json").stdout)
    kept = [{name: each[name] for name in ("apiVersion", "kind", "metadata", "spec")} for each in told]
    fresh = {(each["kind"], each["metadata"]["name"]) for each in more}
    kept = [each for each in kept if (each["kind"], each["metadata"]["name"]) not in fresh]
    folder.mkdir()
    (folder / "all.yaml").write_text(yaml.safe_dump_all([*kept, *more]))
    planned = json.loads(stack.cli("assurance", "plan", str(folder), "--json").stdout)
    done = stack.cli("assurance", "apply", str(folder), "--plan", planned["sha256"])
    assert done.returncode == 0, done.stdout + done.stderr


def until(what: Callable[[], Any], limit: float = 90) -> Any:
    deadline = time.monotonic() + limit
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.3)
    return found


def streaming(stack: Stack, token: str, server: str) -> http.client.HTTPConnection:
    """A long request that goes on, and has brought something."""
    parts = urlsplit(stack.gateway)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request("GET", f"/s/{server}/stream", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read(3)
    connection.answer = answer  # type: ignore[attr-defined] - closes with it
    return connection


def ongoing(stack: Stack, trigger: str) -> Any:
    found = stack.admin("GET", "/api/v1/incidents?state=ongoing").json["incidents"]
    return next((each for each in found if each["trigger"] == trigger), None)


def test_it_opens_by_itself_names_streams_and_is_over_when_the_gateway_says_so(stack: Stack, tmp_path: Path) -> None:
    token, other = stack.token_for("pay-agent", "pay"), stack.token_for("crm-agent", "crm")
    assert stack.governed(token, "/s/pay/items").status == stack.governed(other, "/s/crm/items").status == 200
    apply(
        stack,
        tmp_path / "book",
        document("ExpectedDecision", "reads", application="pay-agent", server="pay", scope="items:read",
                 expect="allow"),
        document("ExpectedDecision", "does-not-reach", application="crm-agent", server="pay", scope="items:read",
                 expect="deny"),
        document("IncidentTrigger", "a-key-is-made", events=["api-key.created"], severity="P2",
                 title="Somebody made a key", **{"class": "security"}),
        document("IncidentTrigger", "pay-probe", probe="pay-answers", severity="P1",
                 title="The upstream does not answer", **{"class": "operations"}),
        document("Probe", "pay-answers", summary="The upstream answers", every="5m", owner="uptime", severity="P1",
                 runbook="docs", check={"type": "http", "url": f"{stack.upstream.url}/items", "status": [200]}),
    )  # fmt: skip

    # an event of the ledger, and what a probe measured, open incidents without anybody
    made = stack.admin("POST", "/api/v1/api-keys", {"name": "k", "permissions": ["servers:read"]})
    assert made.status == 201, made
    assert stack.admin("POST", "/api/v1/probes/pay-answers/run").status == 202
    by_event = until(lambda: ongoing(stack, "a-key-is-made"))
    by_probe = until(lambda: ongoing(stack, "pay-probe"))
    assert (by_event["severity"], by_event["class"], by_probe["severity"]) == ("P2", "security", "P1")

    # what the gateway says is measured, and not only what policies would
    name = stack.admin("POST", "/api/v1/incidents", {"title": "pay fails", "severity": "P1",
                                                     "class": "availability"}).json["name"]  # fmt: skip

    def canary() -> Any:
        got = stack.admin("POST", f"/api/v1/incidents/{name}/judge").json
        return next(each for each in got["conditions"] if each["name"] == "canary")

    before = canary()
    assert before["verdict"] == "PASS", before
    assert {"reads at the gateway: allow, expected allow", "does-not-reach at the gateway: deny, expected deny"} <= {
        *before["told"]
    }
    asked = [each for each in stack.upstream.seen if each[2].get("user-agent", "").startswith("bailiwick/recovery")]
    assert [each[:2] for each in asked] == [("GET", "/items")]

    # what goes on is told by name before anything is done
    streams = [streaming(stack, token, "pay"), streaming(stack, other, "crm")]

    def preview(action: str, **arguments: str) -> Any:
        got = stack.admin("POST", f"/api/v1/incidents/{name}/preview", {"action": action, "arguments": arguments})
        assert got.status == 200, got
        return got.json

    off = preview("switch-off", switch="mint")
    assert len(off["uncut"]) == 2 and off["uncut"][0].startswith("crm: crm-agent, request "), off
    seen = preview("fail-closed-server", server="pay")
    assert seen["uncut"] == []
    assert any(line.startswith("live stream is cut: pay: pay-agent") for line in seen["hits"]), seen
    assert not any("crm" in line for line in seen["hits"])

    done = stack.admin("POST", f"/api/v1/incidents/{name}/contain",
                       {"action": "fail-closed-server", "arguments": {"server": "pay"}, "why": "drill",
                        "sha256": seen["sha256"]})  # fmt: skip
    assert done.status == 200, done
    assert stack.governed(token, "/s/pay/items").reason == "server_closed"
    until(lambda: [each.split(":")[0] for each in preview("switch-off", switch="mint")["uncut"]] == ["crm"])
    for each in streams:
        each.close()

    # while it is closed it is not over, whatever policies say
    closed = canary()
    assert closed["verdict"] == "ERROR", closed
    assert "reads: allow, expected allow" in closed["told"]
    assert "reads at the gateway: the gateway answers 503 server_closed" in closed["told"]
    told = stack.admin("GET", f"/api/v1/incidents/{name}").json
    assert {"contained", "judged"} <= {line["what"] for line in told["timeline"]}
