"""Running it: keys, workers, and what the commands tell, with requests going on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from rig import Stack, call, claims, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(measured=True) as made:
        made.govern("pay")
        assert made.governed(made.token_for("pay-agent", "pay"), "/s/pay/items").status == 200
        yield made


def passes(stack: Stack, token: str) -> bool:
    return stack.governed(token, "/s/pay/items").status == 200


def test_the_key_encryption_key_is_rotated_under_traffic(stack: Stack) -> None:
    token = stack.token_for("pay-agent", "pay")
    before = (stack.data_dir / "secrets" / "kek").read_text().split()[0]
    done = stack.cli("kek", "rotate", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["retired"] == [before] and told["rewrapped"]["zone_keys"] >= 3 and told["rewrapped"]["credentials"] >= 1
    assert before not in (stack.data_dir / "secrets" / "kek").read_text()
    assert passes(stack, token)
    assert passes(stack, stack.token_for("pay-agent", "pay"))
    assert stack.cli("restart", "w1").returncode == 0
    assert passes(stack, token)


def test_an_ordinary_rotation_ends_nothing_and_an_emergency_everything(stack: Stack) -> None:
    token = stack.token_for("pay-agent", "pay")
    rotated = stack.admin("POST", "/api/v1/keys/rotate", {"purpose": "mandate", "reason": "quarterly"})
    assert rotated.status == 201, rotated
    assert passes(stack, token)
    newer = stack.token_for("pay-agent", "pay")
    ended = stack.admin("POST", "/api/v1/keys/rotate", {"purpose": "mandate", "emergency": True, "reason": "exposed"})
    assert ended.status == 201, ended
    assert claims(newer)["jti"] in {each["jti"] for each in ended.json["affected_mandates"]}
    refused = stack.governed(newer, "/s/pay/items")
    assert (refused.status, refused.reason) == (401, "key_revoked")
    assert passes(stack, stack.token_for("pay-agent", "pay"))


def test_a_disabled_user_is_out_at_once(stack: Stack) -> None:
    person = {"username": "jane.doe", "email": "jane@example.com", "role": "viewer", "password": "long enough for all"}
    assert stack.admin("POST", "/api/v1/users", person).status == 201
    token = stack.login("jane.doe", person["password"])
    assert call("GET", f"{stack.api}/api/v1/auth/me", token=token).status == 200
    assert stack.admin("PATCH", "/api/v1/users/jane.doe", {"is_active": False}).status == 200
    assert call("GET", f"{stack.api}/api/v1/auth/me", token=token).status == 401


def test_commands_tell_what_is(stack: Stack) -> None:
    assert stack.cli("db", "status").returncode == 0
    told = stack.cli("changes", "--since", "1h")
    assert told.returncode == 0 and "server.created" in told.stdout
    assert stack.cli("changes", "--since", "yesterday").returncode == 2
    assert stack.cli("changes", "--since", "2999-01-01").returncode == 3
    differs = stack.cli("config", "diff", "--json")
    assert differs.returncode == 1 and json.loads(differs.stdout)["settings"]["workers"]["running"] == 2
    reader = stack.cli("db", "reader", "bailiwick_readonly").stdout.strip()
    assert reader.startswith("postgresql://bailiwick_readonly@")


def test_workers_are_added_and_every_scrape_shows_all(stack: Stack) -> None:
    token = stack.token_for("pay-agent", "pay")
    assert stack.cli("workers", "3").returncode == 0
    for _ in range(30):
        assert passes(stack, token)
    pattern = r'bailiwick_gateway_checks_total\{outcome="allow",reason=""\} ([\d.]+)'
    deadline = time.monotonic() + 15
    while True:  # each process counts in memory and tells of it once a second
        counts = {float(re.search(pattern, call("GET", f"{stack.api}/metrics").text)[1]) for _ in range(8)}
        if len(counts) == 1 and min(counts) >= 30:
            break
        assert time.monotonic() < deadline, f"workers go on answering different sums: {counts}"
        time.sleep(0.2)
    assert stack.cli("workers", "2").returncode == 0
    assert passes(stack, token)


def test_headers_and_ids_on_every_answer(stack: Stack) -> None:
    ids = set()
    for path in ("/health", "/nowhere", "/api/v1/users", "/docs", "/openapi.json"):
        got = call("GET", stack.api + path)
        for name in (
            "strict-transport-security", "content-security-policy", "x-content-type-options", "x-frame-options",
            "referrer-policy", "permissions-policy", "cross-origin-opener-policy",
        ):  # fmt: skip
            assert name in got.headers, (path, name)
        ids.add(got.headers["x-request-id"])
    assert len(ids) == 5


def test_an_auditor_checks_the_running_log_and_a_receipt_with_the_verifier_alone(stack: Stack, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(call("GET", f"{stack.api}/evidence/default/verifier-keys").text)
    verifier = [sys.executable, "-m", "bailiwick_verify.cli"]
    log = f"{stack.api}/evidence/default"

    def verified(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "BAILIWICK_TOKEN": stack.token, "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run([*verifier, *arguments], capture_output=True, text=True, env=environment, timeout=60)

    token = stack.token_for("pay-agent", "pay")
    got = stack.governed(token, "/s/pay/items")
    event = stack.story(got.headers["x-request-id"])[0]
    whole = verified("live", log, "--key", str(keys), "--state", str(tmp_path / "state"), "--max-age", "3700", "--json")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert json.loads(whole.stdout)["checked"] > 5
    for _ in range(50):  # a head covers the event within a second
        receipt = stack.admin("GET", f"/api/v1/audit/events/{event['id']}/receipt")
        if receipt.status == 200:
            break
        time.sleep(0.1)
    (tmp_path / "r.tlog-proof").write_text(receipt.text)
    proven = verified("receipt", str(tmp_path / "r.tlog-proof"), "--key", str(keys), "--json")
    assert proven.returncode == 0 and json.loads(json.loads(proven.stdout)["entry"])["id"] == event["id"]
    (tmp_path / "r.tlog-proof").write_text(receipt.text.replace("index ", "index 1", 1))
    assert verified("receipt", str(tmp_path / "r.tlog-proof"), "--key", str(keys)).returncode == 1
    rotated = stack.admin("POST", "/api/v1/keys/rotate", {"purpose": "ledger", "reason": "yearly"})
    assert rotated.status == 201, rotated
    deadline = time.monotonic() + 30
    while len(call("GET", f"{stack.api}/evidence/default/verifier-keys").text.splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    keys.write_text(call("GET", f"{stack.api}/evidence/default/verifier-keys").text)
    again = verified("live", log, "--key", str(keys), "--state", str(tmp_path / "state"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "public, max-age=31536000, immutable" in call("GET", f"{log}/tile/0/000.p/1").headers["cache-control"]


def test_the_work_role_seals_what_is_due_and_it_is_proven(stack: Stack) -> None:
    from bailiwick.cli.local import database_url

    with psycopg.connect(database_url(stack.data_dir)) as connection:
        connection.execute("SET search_path = bailiwick")
        connection.execute("UPDATE zones SET created_at = now() - interval '9 days' WHERE name = 'default'")
    assert stack.cli("audit", "archive", "status").returncode == 3
    done = stack.cli("audit", "archive", "seal", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["state"] == "succeeded" and told["windows"] in {3, 4} and told["events"] == 0, told
    report = json.loads(stack.cli("audit", "archive", "verify", "--zone", "default", "--json").stdout)
    assert (report["verdict"], report["zones"][0]["manifests"]) == ("PASS", told["windows"])
    shown = stack.admin("GET", "/api/v1/audit/archive").json
    assert (shown["sealed"]["windows"], shown["overdue_s"]) == (told["windows"], 0)
    assert stack.admin("GET", "/api/v1/audit/archive/manifests/0").text.startswith("bailiwick archive manifest v1\n")
    assert stack.cli("audit", "verify", "--zone", "default").returncode == 0
