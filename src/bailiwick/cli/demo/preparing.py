"""Steps 1 to 6: people, the sealed key, the server, the agent, the policy."""

from __future__ import annotations

import secrets

import aiohttp

from bailiwick.cli.demo.exchange import Answer, Bearer
from bailiwick.cli.demo.payments import KEY_HEADER
from bailiwick.cli.demo.stage import Stage
from bailiwick.cli.demo.telling import Deviation, check

READ, WRITE = "payments:read", "payments:write"
OPERATIONS = (
    {"method": "GET", "path": "/payments", "scope": READ},
    {"method": "POST", "path": "/payments", "scope": WRITE},
    {"method": "GET", "path": "/payments/stream", "scope": READ, "long_lived": True},
    {"method": "GET", "path": "/payments/{id}", "scope": READ},
)
POLICY = """\
package sark.authz

allow {
  input.user.role == "admin"
}

allow {
  input.action == "read"
  input.user.role == "viewer"
}
"""
"""Rego v0, as it stands in the handbook it comes from."""


async def sign_in_as_administrator(stage: Stage) -> str:
    """The one-time password opens nothing but its own change."""
    stage.teller.conceal(stage.admin_password, stage.new_admin_password)
    try:
        answer = await _sign_in(stage, "admin", stage.admin_password)
    except Deviation:
        stage.teller.note("an installation whose administrator changed the one-time password: give --password")
        raise
    stage.admin = Bearer(answer["access_token"], "admin")
    if not answer["must_change_password"]:
        await stage.http.call("GET", stage.api("/api/v1/users?limit=1"), 200, bearer=stage.admin)
        return "The administrator is signed in; the one-time password was changed before."
    await stage.http.call("GET", stage.api("/api/v1/users"), 403, reason="password_change_required", bearer=stage.admin)
    passwords = {"current_password": stage.admin_password, "new_password": stage.new_admin_password}
    await stage.http.call("POST", stage.api("/api/v1/auth/password"), 204, bearer=stage.admin, body=passwords)
    stage.password_changed = True
    answer = await _sign_in(stage, "admin", stage.new_admin_password)
    stage.admin = Bearer(answer["access_token"], "admin")
    await stage.http.call("GET", stage.api("/api/v1/users"), 200, bearer=stage.admin)
    return "Nothing else worked before the one-time password was changed."


async def invite_person(stage: Stage) -> str:
    """A viewer chooses her own password by an invitation."""
    user = {"username": stage.username, "email": f"{stage.username}@example.com", "role": "viewer"}
    made = await stage.http.call(
        "POST", stage.api("/api/v1/users"), 201, bearer=stage.admin, body=user, show=("username", "role", "invited")
    )
    token, password = str(made["invitation"]["token"]), secrets.token_urlsafe(18)
    chosen = {"token": token, "password": password}
    await stage.http.call("POST", stage.api("/api/v1/auth/invitations/accept"), 200, body=chosen, show=("username",))
    answer = await _sign_in(stage, stage.username, password)
    stage.person = Bearer(answer["access_token"], stage.username)
    await stage.http.call("GET", stage.api("/api/v1/users"), 403, reason="permission_denied", bearer=stage.person)
    return "She chose her password herself, and as a viewer may not list people."


async def seal_credential(stage: Stage) -> str:
    """The upstream's key goes in and never comes out."""
    stage.teller.conceal(stage.key, stage.upstream.key)
    body = {"name": stage.credential, "kind": "api_key", "header": KEY_HEADER, "value": stage.key}
    made = await stage.http.call(
        "POST", stage.api("/api/v1/credentials"), 201, bearer=stage.admin, body=body, show=("name", "kind", "header")
    )
    where = stage.api(f"/api/v1/credentials/{stage.credential}")
    read = await stage.http.call("GET", where, 200, bearer=stage.admin, show=("name", "kind", "header", "version"))
    for answer in (made, read):
        check(stage.key not in answer.text, "an answer without the key", "one that holds it")
    return "Sealed: no answer holds the key, not even the administrator's."


async def register_server(stage: Stage) -> str:
    """The payments API enters the inventory, with what may be asked of it."""
    binding = {"credential": stage.credential, "operations": list(OPERATIONS)}
    body = {"name": stage.server, "endpoint": stage.upstream.url, "tags": {"team": "payments"}, "binding": binding}
    brief = {"name": stage.server, "endpoint": stage.upstream.url, "credential": stage.credential}
    try:
        await stage.http.call(
            "POST",
            stage.api("/api/v1/servers"),
            201,
            bearer=stage.admin,
            body=body,
            sent={**brief, "operations": [f"{one['method']} {one['path']} → {one['scope']}" for one in OPERATIONS]},
            show=("name", "endpoint", "version"),
        )
    except Deviation as deviation:
        if "endpoint" in deviation.got or "address" in deviation.got:
            stage.teller.note("start it with BAILIWICK_ALLOW_UPSTREAM_NETWORKS=127.0.0.0/8 to allow this upstream")
        raise

    def routed(answer: Answer) -> bool:
        return answer.status == 401

    answer = await stage.http.call(
        "GET", stage.governed("/payments"), 401, reason="authentication_required", until=routed
    )
    return f"Registered, and routed by the gateway; it asks for a mandate ({answer.status})."


async def create_agent(stage: Stage) -> str:
    """The agent may ask for reading payments, nothing else."""
    body = {"name": stage.application, "description": "Reads payments", "grants": {stage.server: [READ]}}
    made = await stage.http.call(
        "POST", stage.api("/api/v1/applications"), 201, bearer=stage.admin, body=body, show=("client_id", "grants")
    )
    stage.client_id, stage.client_secret = made["client_id"], made["client_secret"]
    stage.teller.conceal(stage.client_secret)
    where = stage.api(f"/api/v1/applications/{stage.application}")
    read = await stage.http.call("GET", where, 200, bearer=stage.admin, show=("name", "grants", "is_active"))
    check(stage.client_secret not in read.text, "an answer without the secret", "one that holds it")
    return f"The agent holds a secret of its own, shown once, and a grant for {READ} only."


async def admit_policy(stage: Stage) -> str:
    """A policy is tried before it decides anything."""

    def upload() -> aiohttp.FormData:
        form = aiohttp.FormData()
        form.add_field("file", POLICY, filename="authorization.rego")
        form.add_field("name", "authorization")
        form.add_field("description", "Main authorization policy")
        return form

    admitted = await stage.http.call(
        "POST",
        stage.api("/api/v1/policies"),
        (200, 201),
        bearer=stage.admin,
        upload=upload,
        sent={"file": "authorization.rego", "name": "authorization"},
        show=("name", "version", "dialect", "active"),
    )
    check(admitted["dialect"] == "v0", "the policy read as Rego v0", admitted["dialect"])
    trial = {"user": {"role": "admin"}, "action": "delete", "resource": "servers"}
    tested = await stage.http.call(
        "POST",
        stage.api("/api/v1/policies/test"),
        200,
        bearer=stage.admin,
        body={"policy_name": "authorization", "input": trial},
        show=("allowed",),
    )
    check(tested["allowed"] is True, '{"allowed": true}', tested.text)
    for action, expected in (("read", True), ("delete", False)):
        question = {"user_id": stage.username, "resource": "servers", "action": action}
        decided = await stage.http.call(
            "POST",
            stage.api("/api/v1/authz/evaluate"),
            200,
            bearer=stage.admin,
            body=question,
            show=("allowed", "reasons", "decision_id"),
        )
        check(decided["allowed"] is expected, f"allowed={expected} for {action}", decided.text)
    return "Admitted as printed, tested, deciding: a viewer may read and not delete."


async def _sign_in(stage: Stage, username: str, password: str) -> Answer:
    answer = await stage.http.call(
        "POST",
        stage.api("/api/v1/auth/login/local"),
        200,
        body={"username": username, "password": password},
        show=("must_change_password", "expires_in"),
    )
    stage.teller.conceal(str(answer["access_token"]))
    return answer
