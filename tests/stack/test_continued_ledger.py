"""A whole installation on an older copy of its database: refused, gone on with by two, and proven from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rig import Stack, call, installation
from test_lost_evidence import told_by_work, until

from bailiwick.kernel.paths import Layout

CONTINUE = "/api/v1/audit/ledger/continue"
GROUND = {"ground": "the disk died; this is last night's copy"}


def verified(stack: Stack, keys: Path, *more: str) -> dict[str, Any]:
    environment = {"PATH": "/usr/bin:/bin", "BAILIWICK_TOKEN": stack.token, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "bailiwick_verify.cli", "live", f"{stack.api}/evidence/default"]
    done = subprocess.run(
        [*command, "--key", str(keys), "--json", *more], capture_output=True, text=True, env=environment, timeout=60
    )
    return json.loads(done.stdout)


def asked_again(stack: Stack, code: int) -> subprocess.CompletedProcess[str]:
    done = stack.cli("ledger", "continue", "--ground", GROUND["ground"], "--json")
    assert done.returncode == code, done
    return done


def copied(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)  # with its owner, who alone may start it


def test_an_older_copy_is_gone_on_with_by_two(tmp_path: Path) -> None:
    with installation(WORKERS="1") as stack:
        stack.govern("pay")
        stack.second()
        keys = tmp_path / "keys"
        keys.write_text(call("GET", f"{stack.api}/evidence/default/verifier-keys").text)
        token = stack.token_for("pay-agent", "pay")
        assert stack.governed(token, "/s/pay/items").status == 200
        asked_again(stack, 3)
        refused = stack.admin("POST", CONTINUE, GROUND)
        assert (refused.status, refused.reason) == (409, "ledger_not_behind")
        assert stack.cli("down").returncode == 0

        cluster = Layout(stack.data_dir).pg
        copied(cluster, tmp_path / "pg")
        assert stack.up().returncode == 0
        assert until(stack, token, 200)
        for _ in range(20):
            assert stack.governed(token, "/s/pay/items").status == 200
        assert stack.cli("down").returncode == 0
        head = (Layout(stack.data_dir).heads / "default.head").read_text()
        shutil.rmtree(cluster)
        copied(tmp_path / "pg", cluster)
        up = stack.up()
        assert up.returncode == 0, up.stdout + up.stderr

        assert until(stack, token, 503).reason == "evidence_lost"
        told = told_by_work(stack)
        assert told["status"] == 503 and "ledger_contradicts_head" in told["troubles"], told
        looked = stack.cli("audit", "acknowledge-loss")
        assert looked.returncode == 0
        until(stack, token, 200)
        assert told_by_work(stack)["status"] == 503, "acknowledging is not agreeing"
        before = verified(stack, keys, "--max-age", "0")
        assert before["origin"] == head.splitlines()[0] and before["size"] < int(head.splitlines()[1])

        waits = stack.admin("POST", CONTINUE, GROUND)
        assert waits.status == 202, waits
        assert stack.admin("POST", CONTINUE, GROUND).json["approval"]["id"] == waits.json["approval"]["id"]
        own = f"/api/v1/approvals/{waits.json['approval']['id']}/approve"
        alone = stack.admin("POST", own, {"payload_sha256": waits.json["approval"]["payload_sha256"]})
        assert (alone.status, alone.reason) == (403, "approval_own_request")
        assert json.loads(asked_again(stack, 0).stdout)["done"] is False
        stack.approve(waits.json["approval"])
        done = json.loads(asked_again(stack, 0).stdout)
        assert done["done"] and done["log"] == f"{head.splitlines()[0]}/e2"

        deadline = time.monotonic() + 20
        while (told := told_by_work(stack))["status"] != 200:
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        passed = until(stack, token, 200)
        assert stack.story(passed.headers["x-request-id"])
        (tmp_path / "last").write_text(head)
        report = verified(stack, keys, "--head", str(tmp_path / "last"))
        assert report["verdict"] == "PASS", report
        (loss,) = report["losses"]
        assert loss["last"] == int(head.splitlines()[1]) - 1 and loss["persons"] == ["admin", "ada"]
        assert call("GET", f"{stack.api}/evidence/default/continuations").text == head
        checked = stack.cli("audit", "verify", "--json")
        assert checked.returncode == 0, checked
