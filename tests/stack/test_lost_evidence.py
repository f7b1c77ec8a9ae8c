"""Acknowledged evidence is gone: the installation refuses, says so, comes up all the same, and goes on once told to."""

from __future__ import annotations

import json
import re
import time

from rig import Got, Stack, call, installation

from bailiwick.cli.supervisor.probes import http_get
from bailiwick.evidence.spool import latch_loss
from bailiwick.kernel.paths import Layout


def until(stack: Stack, token: str, status: int, within: float = 20) -> Got:
    """The first answer of the gateway with ``status``."""
    deadline = time.monotonic() + within
    while (got := call("GET", f"{stack.gateway}/s/pay/items", token=token)).status != status:
        assert time.monotonic() < deadline, got
        time.sleep(0.1)
    return got


def told_by_work(stack: Stack) -> dict[str, object]:
    import asyncio

    status, body = asyncio.run(http_get(Layout(stack.data_dir).slot("work").api, "/health/ready"))
    return {**json.loads(body), "status": status}


def test_lost_evidence_refuses_until_somebody_looked_and_survives_a_restart() -> None:
    with installation(WORKERS="1") as stack:
        stack.govern("pay")
        token = stack.token_for("pay-agent", "pay")
        assert stack.governed(token, "/s/pay/items").status == 200
        healthy = told_by_work(stack)
        assert (healthy["status"], healthy["sequencing"], healthy["troubles"]) == (200, "active", {})
        assert {"lag_s", "backlog_bytes", "backlog_age_s", "dead_letters", "clock_behind_s"} <= healthy.keys()

        latch_loss(Layout(stack.data_dir).spool, "w9.gone/00000000.seg: frames 3 to 5 were taken out")
        assert until(stack, token, 503).reason == "evidence_lost"
        reached = len(stack.upstream.seen)
        refused = stack.admin("POST", "/api/v1/authz/evaluate", {"user_id": "admin", "resource": "x", "action": "y"})
        assert (refused.status, refused.reason) == (503, "evidence_lost")
        ready = call("GET", f"{stack.api}/health/ready")
        assert ready.status == 503 and "evidence was lost" in ready.text
        stack.logged("evidence_lost", "frames 3 to 5")
        assert stack.cli("status").returncode == 1

        assert stack.cli("down").returncode == 0
        up = stack.up()
        assert up.returncode == 0, up.stdout + up.stderr
        assert until(stack, token, 503).reason == "evidence_lost"
        assert len(stack.upstream.seen) == reached, "a request went on although evidence was lost"
        told = told_by_work(stack)
        assert told["status"] == 503 and "frames 3 to 5" in str(told["troubles"])
        deadline = time.monotonic() + 10
        while not re.search(r'^bailiwick_evidence_trouble{trouble="evidence_lost"} 1', metrics(stack), re.M):
            assert time.monotonic() < deadline, metrics(stack)
            time.sleep(0.2)

        looked = stack.cli("audit", "acknowledge-loss")
        assert looked.returncode == 0 and "frames 3 to 5" in looked.stdout
        passed = until(stack, token, 200)
        assert stack.story(passed.headers["x-request-id"])
        deadline = time.monotonic() + 10
        while (told := told_by_work(stack))["status"] != 200:
            assert time.monotonic() < deadline, told
            time.sleep(0.1)


def metrics(stack: Stack) -> str:
    return "\n".join(
        line for line in call("GET", f"{stack.api}/metrics").text.splitlines() if "evidence_trouble" in line
    )
