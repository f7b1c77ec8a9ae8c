"""What an installation promises beside the governed request: limits, traces of every change, logs, figures."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from phrases import check_phrases
from rig import PASSWORD, Stack, call, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2", BAILIWICK_SLOW_MS="1") as made:
        made.govern("pay")
        assert made.governed(made.token_for("pay-agent", "pay"), "/s/pay/items").status == 200
        yield made


# ---------------------------------------------------------------------- limits


def test_an_application_has_its_own_limit_at_the_gateway_and_at_the_token_endpoint(stack: Stack) -> None:
    stack.govern("limited")
    limited = {"rate_limit": 3}
    changed = stack.admin("PATCH", "/api/v1/applications/limited-agent", limited)
    assert (changed.status, changed.json["rate_limit"]) == (200, 3)
    token = stack.token_for("limited-agent", "limited")
    answers = [stack.governed(token, "/s/limited/items") for _ in range(6)]
    assert {got.status for got in answers[:1]} == {200}
    refused = answers[-1]
    assert (refused.status, refused.reason) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    event = stack.story(refused.headers["x-request-id"])[0]
    assert (event["outcome"], event["reasons"]) == ("deny", ["rate_limited"])
    asked = [stack.mandate("limited-agent", "limited") for _ in range(5)]
    assert asked[-1].status == 429 and asked[-1].json["error"], asked[-1]
    # others are not touched, and taking the limit away frees it at once
    assert stack.governed(stack.token_for("pay-agent", "pay"), "/s/pay/items").status == 200
    freed = stack.admin("PATCH", "/api/v1/applications/limited-agent", {"rate_limit": None})
    assert (freed.status, freed.json["rate_limit"]) == (200, None)
    assert stack.governed(token, "/s/limited/items").status == 200
    assert stack.admin("PATCH", "/api/v1/applications/limited-agent", {"rate_limit": -1}).status == 400


# ---------------------------------------------------------------------- people


def test_the_one_time_password_is_gone_once_it_was_changed(stack: Stack) -> None:
    deadline = time.monotonic() + 10
    while (stack.data_dir / "secrets" / "administrator-password").exists():
        assert time.monotonic() < deadline, "the file with the one-time password is still there"
        time.sleep(0.1)
    assert stack.login("admin", PASSWORD)


def test_an_operator_may_return_to_what_is_known_to_be_good_and_nothing_else(stack: Stack) -> None:
    person = {"username": "olga", "email": "olga@example.com", "role": "operator", "password": "long enough for all"}
    assert stack.admin("POST", "/api/v1/users", person).status == 201
    olga = stack.login("olga", person["password"])
    rolled = call("POST", f"{stack.api}/api/v1/policies/rollback", token=olga)
    assert rolled.status != 403, rolled
    for path in ("authorization/activate", "authorization/deactivate"):
        assert call("POST", f"{stack.api}/api/v1/policies/{path}", token=olga).status == 403


# ---------------------------------------------------------------------- every change leaves its event

_ON_OVERRIDES = ("approve", "execute", "reject", "review", "withdraw")
_ON_INCIDENTS = ("ack", "close", "contain", "contained", "judge", "preserve", "recover", "review", "updates")
_ON_WAIVERS = ("approve", "close", "reject", "renew", "revoke", "submit")
# Routes that change no state of their own, each with the reason why no event of a mutation is asked of it.
_NO_MUTATION = {
    # says how two persons do it, and leaves an event that somebody tried (tests/assurance/test_overrides.py)
    "POST /api/v1/users/{username}/unlock": "leaves an override event",
    # two persons, a target, an old value must be there first (tests/assurance/test_waivers.py, test_overrides.py,
    # test_secrets.py hold each of them to its event)
    **{
        f"POST /api/v1/overrides{step}": "leaves an override event"
        for step in ("", "/break-glass", *(f"/{{override_id}}/{verb}" for verb in _ON_OVERRIDES))
    },
    # each takes an environment and a rollout in the right state (tests/handover/test_rollouts*.py hold them to their events)
    **{
        f"POST /api/v1/rollouts{step}": "leaves a rollout event"
        for step in (
            "",
            "/{rollout_id}/steps/{step}/confirm",
            *(f"/{{rollout_id}}/{verb}" for verb in ("check", "go", "no-go", "start", "decide", "rollback", "abandon")),
        )
    },
    # each takes an incident in the right state (tests/handover/test_incidents.py holds them to their events)
    **{
        f"POST /api/v1/incidents/{{incident_id}}/{verb}": "leaves an incident event"
        for verb in (*_ON_INCIDENTS, "actions/{number}/done", "actions/{number}/verify")
    },
    "PATCH /api/v1/incidents/{incident_id}": "leaves incident.changed",
    "POST /api/v1/incidents/{incident_id}/preview": "looks at what would be hit",
    "POST /api/v1/readiness/{environment}/items/{checklist}/{item}/attestations": (
        "takes whoever owns the item, which no administrator does; tests/handover prove readiness.attested"
    ),
    "PUT /api/v1/readiness/attachments/{sha256}": "takes bytes; tests/handover prove readiness.attached",
    "POST /api/v1/readiness/{environment}/attestations/{attestation_id}/review": (
        "needs another person's statement; tests/handover/test_readiness.py proves readiness.reviewed"
    ),
    # each takes a HandoverPlan and its pack (tests/handover/test_handovers.py holds them to their events)
    "POST /api/v1/handovers": "leaves handover.built",
    "POST /api/v1/handovers/{identifier}/sign/options": "says what a key is asked",
    "POST /api/v1/handovers/{identifier}/sign": "leaves handover.signed",
    "POST /api/v1/handovers/{identifier}/refuse": "leaves handover.refused",
    "POST /api/v1/handovers/{identifier}/accept": "leaves handover.accepted and handover.stated",
    "POST /api/v1/handovers/{identifier}/pack": "leaves evidence.pack.requested",
    "POST /api/v1/incidents/drills": "leaves incident.drill.started; it needs a sandbox",
    "POST /api/v1/runbooks/runs/{run_id}/abandon": "leaves runbook.ended",
    "POST /api/v1/runbooks/runs/{run_id}/steps/{number}": "leaves runbook.step.done",
    **{
        f"POST /api/v1/waivers{step}": "leaves a waiver event"
        for step in ("", *(f"/{{waiver_id}}/{verb}" for verb in _ON_WAIVERS))
    },
    "POST /api/v1/environments/{name}/validation/{suite}": "leaves validation.asked; it needs what is live",
    "POST /api/v1/documents/check": "leaves documents.checked",
    "POST /api/v1/canaries": "needs three upstreams; tests/handover/test_canary.py proves its events",
    "POST /api/v1/canaries/{canary_id}/promote": "needs a canary; tests/handover/test_canary.py proves its events",
    "POST /api/v1/canaries/{canary_id}/withdraw": "needs a canary; tests/handover/test_canary.py proves its events",
    "POST /api/v1/canaries/loops": "walks through others; tests/stack/test_canary_on_traffic.py proves what it leaves",
    "POST /api/v1/backups": "needs a place for backups; tests/handover/test_backups_api.py proves backup.asked",
    "POST /api/v1/secrets/check": "leaves secrets.checked",
    "POST /api/v1/secrets/review/{review_id}/keep": "leaves the review's event",
    "POST /api/v1/secrets/review/{review_id}/restore": "leaves the review's event",
    "POST /api/v1/secrets/rotations": "leaves the rotation's event",
    "POST /api/v1/secrets/rotations/{rotation_id}/prove": "leaves the proof's event",
    **{
        f"POST /api/v1/auth/{path}/{step}": "needs a browser; tests/stack/test_passkeys_in_a_browser.py walks it"
        for path in (
            "login/passkey",
            *(f"{where}/webauthn" for where in ("mfa", "mfa/enrolment", "step-up", "factors")),
        )
        for step in ("options", "verify")
    },
    "POST /api/v1/assurance/plan": "compares documents with the book",
    "POST /api/v1/assurance/apply": "leaves assurance.document.changed (tests/assurance: it needs a plan)",
    "POST /api/v1/notices/channels/{channel}/test": "needs a channel; tests/assurance prove its event",
    "POST /api/v1/notices/{notice_id}/retry": "needs a notice that did not arrive; tests/assurance prove its event",
    "POST /api/v1/policies/test": "evaluates an admitted policy",
    "POST /api/v1/authz/evaluate": "decides",
    "POST /api/v1/identity-providers/{name}/test": "tries it; leaves idp.tested",
    "POST /api/v1/auth/login/ldap": "leaves auth.login.success (tests/identity: it needs a directory)",
    "POST /api/v1/auth/oidc/{name}/backchannel-logout": "leaves auth.session.ended (tests/identity: it needs a provider)",
    "POST /api/v1/audit/verify": "reads; leaves audit.verified",
    **{
        f"{method} /api/v1/auth/{path}": "needs a second factor; tests/stack/test_factors_in_a_stack.py walks it"
        for method, path in (
            ("POST", "mfa"),
            ("POST", "mfa/enrolment"),
            ("POST", "mfa/enrolment/confirm"),
            ("POST", "step-up"),
            ("POST", "factors/totp"),
            ("POST", "factors/totp/confirm"),
            ("POST", "recovery-codes"),
            ("DELETE", "factors/{identifier}"),
        )
    },
    "POST /api/v1/audit/archive/verify": "reads; leaves archive.verified",
    # tried where the clock can be moved (tests/archive): a new installation has nothing to restore or to end
    "POST /api/v1/audit/archive/restore": "leaves archive.restored",
    "POST /api/v1/audit/archive/purge": "leaves approval.requested",
    "POST /api/v1/audit/archive/holds/{hold_id}/release": "leaves approval.requested",
    # nothing is lost in a new installation (tests/evidence/test_continued.py, tests/stack/test_continued_ledger.py)
    "POST /api/v1/audit/ledger/continue": "leaves ledger.continued",
    # a SAML provider must say something first (tests/stack/test_saml_simplesamlphp.py, tests/identity)
    "POST /api/v1/auth/saml/{name}/acs": "leaves auth.login.success",
    "POST /api/v1/auth/saml/{name}/slo": "leaves auth.session.ended",
    "POST /api/v1/auth/saml/logout": "leaves auth.logout",
    # there must be a rota with people, or a task (tests/assurance/test_oncall.py, test_tasks.py)
    "POST /api/v1/oncall/overrides": "leaves oncall.overridden",
    "DELETE /api/v1/oncall/overrides/{override_id}": "leaves oncall.override.withdrawn",
    "POST /api/v1/oncall/swaps": "leaves oncall.overridden twice",
    "POST /api/v1/tasks/{task_id}/done": "leaves task.ended",
    "POST /api/v1/tasks/{task_id}/reassign": "leaves task.reassigned",
    # a meeting, a checkpoint or an item must be there first (tests/assurance/test_rhythm_api.py walks them)
    "POST /api/v1/rhythm/occurrences/{occurrence_id}/pack": "leaves rhythm.pack.built",
    "PUT /api/v1/rhythm/occurrences/{occurrence_id}/minutes": "leaves rhythm.minutes.written",
    "POST /api/v1/rhythm/occurrences/{occurrence_id}/hold": "leaves rhythm.occurrence.moved",
    "POST /api/v1/rhythm/occurrences/{occurrence_id}/sign": "leaves rhythm.minutes.signed",
    "PATCH /api/v1/rhythm/actions/{action_id}": "leaves rhythm.action.changed",
    "POST /api/v1/rhythm/actions/{action_id}/done": "leaves rhythm.action.changed",
    "POST /api/v1/checkpoints/{name}/evaluate": "leaves checkpoint.evaluated",
    "POST /api/v1/checkpoints/{name}/plans": "leaves checkpoint.plan.changed",
    "POST /api/v1/checkpoints/plans/{plan_id}/revoke": "leaves checkpoint.plan.changed",
    "POST /api/v1/registers/{register}/{name}": "leaves register.item.changed",
    "POST /api/v1/slos/gate": "asks; leaves slo.gate-answered",
    "POST /api/v1/reports/made/{identifier}/signatures": "takes a second person; leaves report.signed (tests/assurance)",
    # they need a book with something to compare and to watch (tests/assurance)
    "POST /api/v1/reconciliations/{name}/runs": "leaves reconciliation.run",
    **{
        f"POST /api/v1/findings/{{finding_id}}/{move}": "leaves finding.moved"
        for move in ("acknowledge", "resolve", "accept", "snooze")
    },
    "POST /api/v1/stuck/detect": "leaves stuck.run",
    "POST /api/v1/stuck/{name}/detect": "leaves stuck.run",
    "POST /api/v1/stuck/{name}/actions": "leaves stuck.acted",
    "POST /api/v1/stuck/{name}/heartbeat": "says that a worker lives, every few seconds",
    "POST /api/v1/approvals/{approval_id}/approve": "leaves approval.voted",
    "POST /api/v1/approvals/{approval_id}/reject": "leaves approval.voted",
    "POST /api/v1/approvals/{approval_id}/withdraw": "leaves approval.withdrawn",
}


def _example(stack: Stack) -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """For each mutating route of the document: the path to call, the body, more for ``call``; in an order that works."""
    operation = {"method": "GET", "path": "/items", "scope": "items:read"}
    upload = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nextra\r\n'
    upload += b'--b\r\nContent-Disposition: form-data; name="file"; filename="e.rego"\r\n\r\n'
    upload += b"package extra\nimport rego.v1\ndefault allow := false\n\r\n--b--\r\n"
    multipart = {"headers": {"Content-Type": "multipart/form-data; boundary=b"}}
    bearer = {"name": "walk-key", "kind": "bearer", "token": "t"}
    user = {"username": "walker", "email": "walker@example.com", "role": "viewer", "password": "long enough for all"}
    agent = stack.agents["pay-agent"]
    client = {"client_id": agent["client_id"], "client_secret": agent["client_secret"]}
    wanted = {"grant_type": "client_credentials", "audience": "pay", "scope": "items:read"}
    revoked = stack.token_for("pay-agent", "pay")
    directory = {"urls": ["ldaps://directory.invalid"], "base_dn": "dc=example,dc=com"}
    provider = {"name": "walk", "kind": "ldap", "options": directory}
    page = {
        "summary": "it walks", "description": "as walks do", "severity": "P3", "owner": "uptime", "service": "walk",
        "team": "ops", "runbook": "none",
    }  # fmt: skip
    one, other = (stack.admin("POST", "/api/v1/alerts", page).json["id"] for _ in range(2))
    silence = {
        "matchers": ["service=walk"],
        "ends_at": f"{datetime.now(UTC) + timedelta(hours=1):%FT%TZ}",
        "reason": "x",
    }
    silenced = stack.admin("POST", "/api/v1/alerts/silences", silence).json["id"]
    fired = {"status": "firing", "labels": {"alertname": "Walk"}, "startsAt": "2026-01-05T09:00:00Z"}
    payload = {"version": "4", "groupKey": "walk", "status": "firing", "alerts": [fired]}
    happened = {"kind": "test", "reference": "walk", "began_at": "2026-01-05T09:00:00Z"}
    drill = {"fault": "kill-part", "target": "guard", "rule": "WalkRule"}
    sink = {"name": "walk", "kind": "otlp", "options": {"url": "https://collector.invalid"}, "secrets": {}}
    return {
        "POST /api/v1/alerts": ("/api/v1/alerts", page, {}),
        "POST /api/v1/alerts/{alert_id}/ack": (f"/api/v1/alerts/{one}/ack", {}, {}),
        "POST /api/v1/alerts/{alert_id}/close": (f"/api/v1/alerts/{other}/close", {"closed_as": "false"}, {}),
        "POST /api/v1/alerts/silences": ("/api/v1/alerts/silences", silence, {}),
        "DELETE /api/v1/alerts/silences/{silence_id}": (f"/api/v1/alerts/silences/{silenced}", None, {}),
        "POST /api/v1/alerts/alertmanager": ("/api/v1/alerts/alertmanager", payload, {}),
        "POST /api/v1/alerts/happenings": ("/api/v1/alerts/happenings", happened, {}),
        "POST /api/v1/alerts/drills": ("/api/v1/alerts/drills", drill, {}),
        "PUT /api/v1/notices/secrets/{name}": ("/api/v1/notices/secrets/walk", {"value": "planted"}, {}),
        "DELETE /api/v1/notices/secrets/{name}": ("/api/v1/notices/secrets/walk", None, {}),
        "POST /api/v1/users": ("/api/v1/users", user, {}),
        "PUT /api/v1/checkpoints/go-live/{platform}": (
            "/api/v1/checkpoints/go-live/walk",
            {"at": datetime.now(UTC).isoformat(), "reason": "walk"},
            {},
        ),
        "PATCH /api/v1/users/{username}": ("/api/v1/users/walker", {"full_name": "Walker"}, {}),
        "POST /api/v1/credentials": ("/api/v1/credentials", bearer, {}),
        "POST /api/v1/credentials/{name}/rotate": ("/api/v1/credentials/walk-key/rotate", {"token": "u"}, {}),
        "PUT /api/v1/credentials/{name}": ("/api/v1/credentials/walk-key", {"kind": "bearer", "token": "u"}, {}),
        "POST /api/v1/servers": (
            "/api/v1/servers",
            {"name": "walk", "endpoint": stack.upstream.url, "binding": {"operations": [operation]}},
            {},
        ),
        "PATCH /api/v1/servers/{name}": ("/api/v1/servers/walk", {"description": "walked"}, {}),
        "DELETE /api/v1/servers/{name}": ("/api/v1/servers/walk", None, {}),
        "DELETE /api/v1/credentials/{name}": ("/api/v1/credentials/walk-key", None, {}),
        "POST /api/v1/applications": ("/api/v1/applications", {"name": "walk-agent"}, {}),
        "PATCH /api/v1/applications/{name}": ("/api/v1/applications/walk-agent", {"description": "x"}, {}),
        "POST /api/v1/applications/{name}/rotate-secret": ("/api/v1/applications/walk-agent/rotate-secret", None, {}),
        "POST /api/v1/applications/{name}/secret": ("/api/v1/applications/walk-agent/secret", None, {}),
        "POST /api/v1/zones": ("/api/v1/zones", {"name": "walked"}, {}),
        "PATCH /api/v1/zones/{name}": ("/api/v1/zones/walked", {"description": "x"}, {}),
        "POST /api/v1/zones/{name}/archive": ("/api/v1/zones/walked/archive", None, {}),
        "POST /api/v1/slos/recount": ("/api/v1/slos/recount", None, {}),
        "POST /api/v1/kpis/build": ("/api/v1/kpis/build", {}, {}),
        "POST /api/v1/reports": (
            "/api/v1/reports",
            {"kind": "slo-weekly", "since": "2026-01-05T00:00:00Z", "until": "2026-01-12T00:00:00Z"},
            {},
        ),
        "POST /api/v1/support-cases": ("/api/v1/support-cases", {"kind": "critical-fix", "title": "walked"}, {}),
        "POST /api/v1/support-cases/{identifier}/done": ("SUPPORT", None, {}),
        "POST /api/v1/siem/sinks": ("/api/v1/siem/sinks", sink, {}),
        "PATCH /api/v1/siem/sinks/{name}": ("/api/v1/siem/sinks/walk", {"batch_size": 10}, {}),
        "POST /api/v1/siem/sinks/{name}/drain": ("/api/v1/siem/sinks/walk/drain", None, {}),
        "POST /api/v1/siem/sinks/{name}/replay": ("/api/v1/siem/sinks/walk/replay", {"from": "beginning"}, {}),
        "POST /api/v1/siem/sinks/{name}/dead-letters/retry": ("/api/v1/siem/sinks/walk/dead-letters/retry", None, {}),
        "DELETE /api/v1/siem/sinks/{name}": ("/api/v1/siem/sinks/walk", None, {}),
        "POST /api/v1/identity-providers": ("/api/v1/identity-providers", provider, {}),
        "PATCH /api/v1/identity-providers/{name}": ("/api/v1/identity-providers/walk", {"enabled": False}, {}),
        "DELETE /api/v1/identity-providers/{name}": ("/api/v1/identity-providers/walk", None, {}),
        "POST /api/v1/policies": ("/api/v1/policies", upload, multipart),
        "POST /api/v1/policies/{name}/activate": ("/api/v1/policies/extra/activate", None, {}),
        "POST /api/v1/policies/{name}/deactivate": ("/api/v1/policies/extra/deactivate", None, {}),
        "POST /api/v1/policies/rollback": ("/api/v1/policies/rollback", None, {}),
        "POST /api/v1/policies/cache/flush": ("/api/v1/policies/cache/flush", None, {}),
        "POST /api/v1/policies/sets/{set_hash}/known-good": ("SET/known-good", None, {}),
        "POST /api/v1/keys/rotate": ("/api/v1/keys/rotate", {"purpose": "mandate", "reason": "walk"}, {}),
        "POST /api/v1/revocations": ("/api/v1/revocations", {"application": "walk-agent", "reason": "walk"}, {}),
        "POST /api/v1/probes/{name}/run": ("/api/v1/probes/database-answers/run", None, {}),
        "POST /api/v1/audit/archive/seal": ("/api/v1/audit/archive/seal", None, {}),
        "PUT /api/v1/audit/archive/lives": ("/api/v1/audit/archive/lives", {"archive_days": 400}, {}),
        "POST /api/v1/audit/archive/holds": ("/api/v1/audit/archive/holds", {"reason": "walk"}, {}),
        "POST /oauth/token": ("/oauth/token", None, {"form": {**wanted, **client}}),
        "POST /oauth/revoke": ("/oauth/revoke", None, {"form": {"token": revoked, **client}}),
        "POST /api/v1/auth/login/local": (
            "/api/v1/auth/login/local",
            {"username": "walker", "password": user["password"]},
            {},
        ),
        "POST /api/v1/auth/refresh": ("REFRESH", None, {}),
        "POST /api/v1/api-keys": ("/api/v1/api-keys", {"name": "walk", "permissions": ["servers:read"]}, {}),
        "PATCH /api/v1/api-keys/{identifier}": ("KEY", {"name": "walked"}, {}),
        "POST /api/v1/api-keys/{identifier}/rotate": ("KEY/rotate", {}, {}),
        "DELETE /api/v1/api-keys/{identifier}": ("KEY", None, {}),
        "POST /api/v1/audit/queries": ("/api/v1/audit/queries", {"name": "walk", "query": {"code": "BW1101"}}, {}),
        "DELETE /api/v1/audit/queries/{query_id}": ("QUERY", None, {}),
        "POST /api/v1/auth/password": (
            "/api/v1/auth/password",
            {"current_password": user["password"], "new_password": "another long enough one"},
            {"as": "walker"},
        ),
        "POST /api/v1/evidence/records": (
            "/api/v1/evidence/records",
            {
                "kind": "probe",
                "check": "walk",
                "output": "ok",
                "exit": 0,
                "since": "2026-01-05T09:00:00Z",
                "until": "2026-01-05T09:00:01Z",
            },
            {},
        ),
        "POST /api/v1/evidence/packs": (
            "/api/v1/evidence/packs",
            {"windows": [{"since": "2026-01-05T09:00:00Z", "until": "2026-01-05T10:00:00Z"}]},
            {},
        ),
        "DELETE /api/v1/sessions/{identifier}": ("SESSION", None, {}),
        "DELETE /api/v1/sessions": ("SESSIONS", None, {}),
        "DELETE /api/v1/users/{username}/mfa": ("/api/v1/users/walker/mfa", None, {}),
        "POST /api/v1/users/{username}/invitation": ("/api/v1/users/walker/invitation", None, {}),
        "PUT /api/v1/reports/access/{username}": ("/api/v1/reports/access/walker", {"verdict": "keep"}, {}),
        "POST /api/v1/groups": ("/api/v1/groups", {"name": "walkers"}, {}),
        "PATCH /api/v1/groups/{group}": ("/api/v1/groups/walkers", {"description": "x"}, {}),
        "PUT /api/v1/groups/{group}/members/{username}": ("/api/v1/groups/walkers/members/walker", None, {}),
        "DELETE /api/v1/groups/{group}/members/{username}": ("/api/v1/groups/walkers/members/walker", None, {}),
        "DELETE /api/v1/groups/{group}": ("/api/v1/groups/walkers", None, {}),
        "POST /scim/v2/Users": ("/scim/v2/Users", {"userName": "scim-walker"}, {}),
        "PUT /scim/v2/Users/{identifier}": ("SCIM/Users", {"userName": "scim-walker", "title": "Walker"}, {}),
        "PATCH /scim/v2/Users/{identifier}": ("SCIM/Users", _scim_patch("active", False), {}),
        "DELETE /scim/v2/Users/{identifier}": ("SCIM/Users", None, {}),
        "POST /scim/v2/Groups": ("/scim/v2/Groups", {"displayName": "scim-walkers"}, {}),
        "PUT /scim/v2/Groups/{identifier}": ("SCIM/Groups", {"displayName": "scim-walkers", "externalId": "1"}, {}),
        "PATCH /scim/v2/Groups/{identifier}": ("SCIM/Groups", _scim_patch("displayName", "scim walkers"), {}),
        "DELETE /scim/v2/Groups/{identifier}": ("SCIM/Groups", None, {}),
        "POST /api/v1/auth/oidc/logout": ("/api/v1/auth/oidc/logout", None, {"as": "walker2"}),
        "POST /api/v1/auth/logout": ("/api/v1/auth/logout", None, {"as": "walker2"}),
        "POST /api/v1/auth/invitations/accept": ("INVITATION", None, {}),
        "POST /api/v1/users/{username}/password-reset": ("/api/v1/users/walker/password-reset", None, {}),
        "POST /api/v1/readiness/{environment}/runs": ("/api/v1/readiness/production/runs", None, {}),
        "POST /api/v1/incidents": ("/api/v1/incidents", {"title": "a walk", "severity": "P3"}, {}),
        "POST /api/v1/runbooks/{name}/runs": ("/api/v1/runbooks/audit-tamper/runs", {"dry": True}, {}),
        "POST /api/v1/environments/{name}/declare": (
            "/api/v1/environments/production/declare",
            {"at": "2026-01-05T08:00:00Z", "reason": "a walk"},
            {},
        ),
        "POST /api/v1/known-issues": (
            "/api/v1/known-issues",
            {
                "name": "walk",
                "item": "It walks",
                "severity": "P3",
                "impact": "none",
                "workaround": "none",
                "permanent_fix": "none",
                "target_version": "9",
                "owner": "uptime",
            },
            {},
        ),
        "POST /api/v1/documents/{name}/review": (
            "/api/v1/documents/backups/review",
            {"statement": "read on a walk, as it is"},
            {},
        ),
        "POST /api/v1/announcements": (
            "/api/v1/announcements",
            {
                "template": "handover",
                "values": dict.fromkeys(["platform", "environment", "team", "at", "on_call", "pack"], "x"),
            },
            {},
        ),
        "DELETE /api/v1/users/{username}": ("/api/v1/users/guest", None, {}),
    }


def _scim_patch(path: str, value: Any) -> dict[str, Any]:
    return {"Operations": [{"op": "replace", "path": path, "value": value}]}


def test_every_route_that_changes_something_leaves_an_event_of_it(stack: Stack) -> None:
    document = call("GET", f"{stack.api}/openapi.json").json
    mutating = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method in {"post", "put", "patch", "delete"}
    } - _NO_MUTATION.keys()
    examples = _example(stack)
    assert not (missing := sorted(mutating - examples.keys())), f"routes this walk does not know: {missing}"
    from bailiwick.evidence.codes import EVENT_TYPES

    people: dict[str, str] = {}
    without = []
    for route, (path, body, more) in examples.items():
        if route not in mutating:
            continue
        more = dict(more)
        token = stack.token
        if who := more.pop("as", None):
            words = {"walker": "long enough for all", "walker2": "another long enough one"}
            token = people.get(who) or stack.login("walker", words[who])
        if path == "SET/known-good":
            active = call("GET", f"{stack.api}/api/v1/policies", token=stack.token).json
            found = re.search(r"sha256:[0-9a-f]{64}", json.dumps(active))
            assert found, active
            path = f"/api/v1/policies/sets/{found[0]}/known-good"
        elif path.startswith("SCIM/"):
            kind = path.removeprefix("SCIM/")
            name = {"Users": 'userName eq "scim-walker"', "Groups": 'displayName sw "scim"'}[kind]
            found_one = call("GET", f"{stack.api}/scim/v2/{kind}?filter={quote(name)}", token=stack.token)
            path = f"/scim/v2/{kind}/{json.loads(found_one.text)['Resources'][0]['id']}"
        elif path == "SESSION":
            mine = call("GET", f"{stack.api}/api/v1/sessions?username=walker", token=stack.token).json
            listed = next(value for value in mine.values() if isinstance(value, list))
            path = f"/api/v1/sessions/{listed[0]['id']}"
        elif path == "SESSIONS":
            stack.login("walker", "another long enough one")
            path = "/api/v1/sessions?username=walker"
        elif path == "INVITATION":
            invited = {"username": "guest", "email": "guest@example.com", "role": "viewer"}
            made = stack.admin("POST", "/api/v1/users", invited).json
            invitation = {"token": made["invitation"]["token"], "password": "a guest's long password"}
            path, body = "/api/v1/auth/invitations/accept", invitation
        elif path == "REFRESH":
            words = {"username": "walker", "password": "long enough for all"}
            signed_in = call("POST", f"{stack.api}/api/v1/auth/login/local", body=words).json
            path, body = "/api/v1/auth/refresh", {"refresh_token": signed_in["refresh_token"]}
        elif path.startswith("KEY"):
            key = stack.admin("GET", "/api/v1/api-keys").json["items"][0]
            path = f"/api/v1/api-keys/{key['id']}{path[3:]}"
        elif path == "SUPPORT":
            case = stack.admin("GET", "/api/v1/support-cases").json["items"][0]
            path = f"/api/v1/support-cases/{case['id']}/done"
        elif path == "QUERY":
            path = f"/api/v1/audit/queries/{stack.admin('GET', '/api/v1/audit/queries').json['items'][0]['id']}"
        if "form" in more:
            token = ""
        got = call(route.split(" ")[0], stack.api + path, token=token, body=body, **more)
        if got.status == 202 and "approval" in got.json:  # it is done when somebody else agreed
            stack.approve(got.json["approval"])
            got = call(route.split(" ")[0], stack.api + path, token=token, body=body, **more)
        assert got.status < 300, (route, got)
        events = stack.story(got.headers["x-request-id"])
        if not any(EVENT_TYPES[event["code"]].mutation for event in events):
            without.append((route, [event["name"] for event in events]))
    assert not without


# ---------------------------------------------------------------------- bad input at the front


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"x" * (10 << 20), {413}),
        (b'{"username": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {400, 413}),
        (b'{"username": "\xff\xfe"}', {400}),
        (b'{"username": "a\\u0000b", "email": "a@example.com", "role": "viewer"}', {400}),
        (b"", {400}),
        (b"nonsense", {400}),
        (b'{"username": 1e999}', {400}),
    ],
    ids=["10 MB", "100,000 deep", "not UTF-8", "NUL", "empty", "no JSON", "infinite"],
)
def test_a_bad_body_is_told_so(stack: Stack, tmp_path: Path, body: bytes, statuses: set[int]) -> None:
    (tmp_path / "body").write_bytes(body)
    for path in ("/api/v1/users", "/api/v1/authz/evaluate", "/api/v1/auth/login/local", "/oauth/token"):
        # curl reads an answer that comes while it is still sending
        headers = [
            "-H",
            f"Authorization: Bearer {stack.token}",
            "-H",
            "Content-Type: application/json",
            "-H",
            "Expect:",
        ]
        command = ["curl", "-s", "-w", "\n%{http_code} %{content_type}", *headers, "--data-binary", "@body"]
        done = subprocess.run([*command, stack.api + path], capture_output=True, text=True, cwd=tmp_path, timeout=30)
        text, _, told = done.stdout.rpartition("\n")
        status, content_type = told.split(" ", 1)
        assert int(status) in statuses, (path, told, text[:300])
        assert content_type.startswith("application/")
        if path != "/oauth/token":  # answers as RFC 6749 section 5.2 has it
            assert json.loads(text)["reason"] in {"invalid_request", "payload_too_large"}


# ---------------------------------------------------------------------- logs, figures


def test_logs_hold_the_phrases_that_alerts_look_for_as_json(stack: Stack) -> None:
    check_phrases(stack, json.loads)
    slow = json.loads(stack.logged("slow query")[-1])
    assert slow["event"] == "slow query" and re.fullmatch(r"\d+\.\d{3}s", slow["duration"])


def test_the_spool_tells_its_figures(stack: Stack) -> None:
    def figure(name: str) -> float:
        found = re.search(rf"^{name} ([\d.e+]+)$", call("GET", f"{stack.api}/metrics").text, re.M)
        assert found, name
        return float(found[1])

    before = figure("bailiwick_spool_events_total"), figure("bailiwick_spool_fsync_duration_seconds_count")
    token = stack.token_for("pay-agent", "pay")
    assert stack.governed(token, "/s/pay/items").status == 200
    deadline = time.monotonic() + 10
    while figure("bailiwick_spool_events_total") < before[0] + 2:
        assert time.monotonic() < deadline, "the counter does not move"
        time.sleep(0.2)
    assert figure("bailiwick_spool_fsync_duration_seconds_count") > before[1]
    assert figure("bailiwick_spool_bytes_total") > 0


def test_the_open_part_of_the_evidence_is_limited_like_the_rest() -> None:
    with installation(WORKERS="1", BAILIWICK_RATE_LIMIT_ANONYMOUS="5") as small:
        answers = [call("GET", f"{small.api}/evidence/default/checkpoint").status for _ in range(8)]
        assert answers[-1] == 429 and set(answers) <= {200, 404, 429}
