"""The story: an agent that holds no upstream credential gets one request through, provably, and is stopped by one call.

Every step checks what it claims; the first claim that does not hold ends the demonstration.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp

from bailiwick.cli.demo.calling import Caller
from bailiwick.cli.demo.telling import Telling

SEED_POLICY = """package sark.authz

allow {
  input.user.role == "admin"
}

allow {
  input.action == "read"
  input.user.role == "viewer"
}
"""
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name
_CALLS = 200


class Story:
    """One run. ``key`` is the payments API's own, ``password`` the administrator's current one."""

    def __init__(
        self, session: aiohttp.ClientSession, telling: Telling, urls: tuple[str, str, str], key: str, password: str
    ) -> None:
        api, gateway, upstream = urls
        self._session = session
        self._telling = telling
        self._api = Caller(session, telling, "api", api)
        self._gateway = Caller(session, telling, "gateway", gateway)
        self._upstream = Caller(session, telling, "payments", upstream)
        self._key = key
        self._password = password
        self._tag = secrets.token_hex(3)
        self._server = f"payments-{self._tag}"
        self._figures: dict[str, str] = {}

    async def tell(self) -> dict[str, str]:
        """Tell it all; the figures measured. Raises ``Deviation``."""
        await self._administrator()
        person = await self._person()
        await self._inventory()
        agent = await self._agent()
        await self._policy()
        await self._without_authority()
        mandate = await self._authority(agent)
        story = await self._governed(mandate)
        await self._beyond(mandate)
        await self._on_behalf(agent, person)
        stream = await self._stream(mandate)
        await self._evidence(story)
        await self._measure(mandate)
        await self._revoke(agent, mandate, stream)
        await self._verify()
        return self._figures

    # --- setting the scene

    async def _administrator(self) -> None:
        telling, api = self._telling, self._api
        telling.step("The administrator signs in with the one-time password")
        login = {"username": "admin", "password": self._password}
        got = await api("POST", "/api/v1/auth/login/local", json=login, show=("must_change_password",))
        telling.check("a signed token comes back", got.status == 200 and got["access_token"].count(".") == 2, got)
        api.token = got["access_token"]
        if got["must_change_password"]:
            refused = await api("GET", "/api/v1/servers")
            telling.check("nothing else works before it is changed", refused["reason"] == "password_change_required")
            login["password"] = f"demo {secrets.token_urlsafe(18)}"
            change = {"current_password": self._password, "new_password": login["password"]}
            telling.check("it is changed", (await api("POST", "/api/v1/auth/password", json=change)).status == 204)
            got = await api.quiet("POST", "/api/v1/auth/login/local", json=login)
            api.token = got["access_token"]

    async def _person(self) -> str:
        telling, api = self._telling, self._api
        telling.step("A person is created and accepts the invitation")
        name = f"jane-{self._tag}"
        person = {"username": name, "email": f"{name}@example.com", "role": "viewer"}
        made = await api("POST", "/api/v1/users", json=person, show=("username", "role"))
        telling.check("an invitation comes back, no password", made.status == 201 and "invitation" in made.body, made)
        accept = {"token": made["invitation"]["token"], "password": f"jane {secrets.token_urlsafe(12)}"}
        await api("POST", "/api/v1/auth/invitations/accept", token="", json=accept)
        login = {"username": name, "password": accept["password"]}
        signed_in = await api("POST", "/api/v1/auth/login/local", token="", json=login)
        telling.check("she signs in", signed_in.status == 200, signed_in)
        token: str = signed_in["access_token"]
        return token

    async def _inventory(self) -> None:
        telling, api = self._telling, self._api
        telling.step("The payments API is registered with its own key, sealed")
        credential = {"name": f"key-{self._tag}", "kind": "api_key", "header": "X-Api-Key", "value": self._key}
        made = await api("POST", "/api/v1/credentials", json=credential, show=("name", "kind"))
        read = await api("GET", f"/api/v1/credentials/{credential['name']}")
        telling.check("the key never comes back", self._key not in f"{made.body}{read.body}", read)
        operations = [
            {"method": "GET", "path": "/payments", "scope": "payments:read"},
            {"method": "POST", "path": "/payments", "scope": "payments:write"},
            {"method": "GET", "path": "/payments/stream", "scope": "payments:read", "long_lived": True},
        ]
        binding = {"credential": credential["name"], "operations": operations}
        server = {"name": self._server, "endpoint": self._upstream.base, "tags": {"environment": "demo"}}
        made = await api("POST", "/api/v1/servers", json={**server, "binding": binding}, show=("name", "endpoint"))
        telling.check("the server is registered", made.status == 201, made)

    async def _agent(self) -> dict[str, str]:
        telling, api = self._telling, self._api
        telling.step("An agent is created; it is granted reading, nothing else")
        wanted = {"name": f"agent-{self._tag}", "grants": {self._server: ["payments:read"]}}
        made = await api("POST", "/api/v1/applications", json=wanted, show=("name", "grants"))
        telling.check("its secret is shown once", made.status == 201 and made["client_secret"].startswith("bws_"), made)
        again = await api.quiet("GET", f"/api/v1/applications/{wanted['name']}")
        telling.check("and never again", "client_secret" not in again.body, again)
        return {"name": wanted["name"], "client_id": made["client_id"], "client_secret": made["client_secret"]}

    async def _policy(self) -> None:
        telling, api = self._telling, self._api
        telling.step("A policy is uploaded (Rego v0, as printed), tried, and asked")
        form = aiohttp.FormData({"name": "authorization", "description": "Main authorization policy"})
        form.add_field("file", SEED_POLICY.encode(), filename="authorization.rego")
        made = await api("POST", "/api/v1/policies", data=form, show=("name", "version", "dialect", "active"))
        telling.check("it is admitted", made.status in {200, 201}, made)
        question = {"user": {"role": "admin"}, "action": "delete", "resource": "servers"}
        tried = {"policy_name": "authorization", "input": question}
        got = await api("POST", "/api/v1/policies/test", json=tried, show=("allowed",))
        telling.check("it allows what it says", got["allowed"] is True, got)
        asked = {"user_id": "admin", "resource": "servers", "action": "read"}
        got = await api("POST", "/api/v1/authz/evaluate", json=asked, show=("allowed", "decision_id"))
        telling.check("a decision has an id and a policy revision", bool(got["decision_id"] and got["policy_revision"]))

    # --- the agent

    async def _without_authority(self) -> None:
        telling = self._telling
        telling.step("The agent has no key and no authority yet")
        direct = await self._upstream("GET", "/payments")
        telling.check("the payments API refuses it", direct.status == 401, direct)
        governed = await self._gateway("GET", f"/s/{self._server}/payments")
        telling.check("so does the gateway", governed["reason"] == "authentication_required", governed)

    async def _authority(self, agent: dict[str, str]) -> str:
        telling = self._telling
        telling.step("It asks for authority: a mandate, short-lived, for one server")
        beyond = await self._mandate(agent, scope="payments:read payments:write")
        telling.check("more than it was granted is refused whole", beyond["reason"] == "grant_exceeded", beyond)
        got = await self._mandate(agent, scope="payments:read")
        telling.check("what it was granted is issued, 15 minutes at most", 0 < got["expires_in"] <= 900, got)
        token: str = got["access_token"]
        return token

    async def _mandate(self, agent: dict[str, str], **asked: str) -> Any:
        form = {"grant_type": "client_credentials", "audience": self._server, **asked}
        client = {"client_id": agent["client_id"], "client_secret": agent["client_secret"]}
        return await self._api("POST", "/oauth/token", token="", data={**form, **client}, show=("scope", "expires_in"))

    async def _governed(self, mandate: str) -> str:
        telling = self._telling
        telling.step("The governed request")
        path = f"/s/{self._server}/payments"
        for _ in range(40):  # a new server is carried within a second
            if (await self._gateway.quiet("GET", path, token=mandate)).status == 200:
                break
            await asyncio.sleep(0.05)
        got = await self._gateway("GET", path, token=mandate)
        telling.check("it passes", got.status == 200 and got.body[0]["to"] == "ACME", got)
        seen = (await self._seen())[-1]["headers"]
        telling.check("the upstream saw its own key", seen.get("x-api-key", seen.get("X-Api-Key")) == self._key)
        telling.check("and no token of the caller's", "Authorization" not in seen and mandate not in str(seen), seen)
        telling.check("the caller saw no key", self._key not in f"{got.headers}{got.body}")
        return got.headers["x-request-id"]

    async def _beyond(self, mandate: str) -> None:
        telling = self._telling
        telling.step("A write, for which it has no authority")
        before = len(await self._seen())
        path = f"/s/{self._server}/payments"
        got = await self._gateway("POST", path, token=mandate, json={"to": "Mallory", "amount": 1})
        telling.check("it is refused, with the reason", got["reason"] == "insufficient_scope", got)
        telling.check("the upstream never heard of it", len(await self._seen()) == before)
        got = await self._gateway("GET", f"/s/{self._server}/x/%2e%2e/payments", token=mandate)
        telling.check("a hidden path is refused", got["reason"] == "forbidden_path", got)

    async def _on_behalf(self, agent: dict[str, str], person: str) -> None:
        telling = self._telling
        telling.step("The agent acts on behalf of the person (token exchange)")
        subject = {"subject_token": person, "subject_token_type": ACCESS_TOKEN}
        got = await self._mandate(agent, grant_type=EXCHANGE, scope="payments:read", **subject)
        telling.check("the person's session becomes a mandate of the agent's", got.status == 200, got)
        passed = await self._gateway("GET", f"/s/{self._server}/payments", token=got["access_token"])
        telling.check("it passes", passed.status == 200, passed)
        event = (await self._request_story(passed.headers["x-request-id"]))[0]
        chain = event["actor"]
        telling.check("the evidence names both", bool(chain.get("user") and chain.get("application")), chain)

    async def _stream(self, mandate: str) -> aiohttp.ClientResponse:
        telling = self._telling
        telling.step("A stream is opened")
        path = f"/s/{self._server}/payments/stream"
        headers = {"Authorization": f"Bearer {mandate}"}
        answer = await self._session.get(self._gateway.base + path, headers=headers)
        first = await answer.content.readany()
        telling.sent(f"GET gateway{path}")
        telling.check("events flow", answer.status == 200 and first.startswith(b"data:"), first)
        return answer

    # --- proof and end

    async def _evidence(self, request_id: str) -> None:
        telling, api = self._telling, self._api
        telling.step("The evidence tells the story of the request")
        event = (await self._request_story(request_id))[0]
        telling.note(f"{event['code']} {event['name']}  {event['outcome']}  {event['details'].get('operation')}")
        telling.check("who, what, by which policy, all there", bool(event["actor"] and event["policy_set"]), event)
        decision = await api("GET", f"/api/v1/decisions/{event['decision_id']}", show=("allowed", "input_status"))
        telling.check("the decision can be read with its input", decision["input_status"] == "PRESENT", decision)

    async def _measure(self, mandate: str) -> None:
        path = f"/s/{self._server}/payments"
        took = sorted([(await self._gateway.quiet("GET", path, token=mandate)).ms for _ in range(_CALLS)])
        self._figures["governed call, p50 / p99"] = f"{statistics.median(took):.1f} / {took[int(_CALLS * 0.99)]:.1f} ms"

    async def _revoke(self, agent: dict[str, str], mandate: str, stream: aiohttp.ClientResponse) -> None:
        telling = self._telling
        telling.step("One call ends the agent's authority")
        reading = asyncio.create_task(stream.content.read())
        wanted = {"application": agent["name"], "reason": "demonstration"}
        got = await self._api("POST", "/api/v1/revocations", json=wanted, show=("took_ms", "confirmed_by"))
        answered = time.perf_counter()
        telling.check("every worker has confirmed it", bool(got["confirmed_by"]) and not got["fenced"], got)
        refused = await self._gateway("GET", f"/s/{self._server}/payments", token=mandate)
        telling.check("the next call is refused", refused["reason"] == "token_revoked", refused)
        with contextlib.suppress(aiohttp.ClientError):
            await asyncio.wait_for(reading, 5)
        cut = (time.perf_counter() - answered) * 1000
        stream.close()
        telling.check("the stream was cut within a second", cut < 1000, f"{cut:.0f} ms")
        self._figures["revocation, request to answer"] = f"{got.ms:.1f} ms ({len(got['confirmed_by'])} workers)"
        self._figures["stream cut after the answer"] = f"{cut:.0f} ms"

    async def _verify(self) -> None:
        telling = self._telling
        telling.step("The ledger is verified")
        await asyncio.sleep(0.7)  # the newest head is signed at most half a second after its events
        started = time.perf_counter()
        got = await self._api("POST", "/api/v1/audit/verify", show=("verdict", "checked"))
        took = time.perf_counter() - started
        telling.check("nothing changed, removed or inserted", got["verdict"] == "PASS", got)
        self._figures["verification"] = f"{got['checked']} events in {took * 1000:.0f} ms"

    async def _seen(self) -> list[dict[str, Any]]:
        got = await self._upstream.quiet("GET", "/_seen", headers={"X-Api-Key": self._key})
        seen: list[dict[str, Any]] = got.body
        return seen

    async def _request_story(self, request_id: str) -> list[dict[str, Any]]:
        """The events of a request, waited for: they reach the ledger a moment after the answer."""
        for _ in range(60):
            got = await self._api.quiet("GET", f"/api/v1/audit/requests/{request_id}")
            events = [entry["event"] for entry in (got["timeline"] or ()) if entry.get("event")]
            if got.status == 200 and events:
                return events
            await asyncio.sleep(0.05)
        self._telling.check("the request is in the ledger", False, got)
        return []


def one_time_password(data_dir: Path) -> str:
    """The administrator's, as the first start left it."""
    return (data_dir / "secrets" / "administrator-password").read_text().strip()
