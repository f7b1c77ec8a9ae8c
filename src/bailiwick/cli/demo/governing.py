"""Steps 7 to 14: what is refused, what passes, on whose authority, and what is known about it afterwards."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from bailiwick.cli.demo.exchange import Answer, Bearer
from bailiwick.cli.demo.payments import KEY_HEADER
from bailiwick.cli.demo.preparing import READ, WRITE
from bailiwick.cli.demo.stage import Stage, Stream, claims_of
from bailiwick.cli.demo.telling import Deviation, check
from bailiwick.evidence import codes

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
CALLS = 200


async def call_upstream_without_key(stage: Stage) -> str:
    """The payments API is really guarded."""
    await stage.http.call("GET", f"{stage.upstream.url}/payments", 401, show=("error", "header"))
    return "The payments API demands a key, which the agent does not have."


async def call_gateway_without_mandate(stage: Stage) -> str:
    """The gateway lets nothing through without a mandate."""
    before = len(await stage.seen())
    await stage.http.call("GET", stage.governed("/payments"), 401, reason="authentication_required")
    forged = Bearer("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.eyJzdWIiOiJhZG1pbiJ9.", "forged, alg none")
    stage.teller.conceal(forged.token)
    await stage.http.call("GET", stage.governed("/payments"), 401, reason="invalid_token", bearer=forged)
    check(len(await stage.seen()) == before, "an upstream that saw nothing", "a request that reached it")
    return "Refused twice at the gateway; the upstream saw neither."


async def ask_for_mandate(stage: Stage) -> str:
    """Authority is asked for, and only within the grant."""
    wanted = {"grant_type": "client_credentials", "audience": stage.server}
    token_url = stage.api("/oauth/token")
    refused = await stage.http.call(
        "POST", token_url, 400, reason="grant_exceeded", form={**wanted, "scope": WRITE, **stage.client}
    )
    check(refused["error"] == "invalid_scope", "error=invalid_scope", refused.text)
    issued = await stage.http.call(
        "POST",
        token_url,
        200,
        form={**wanted, "scope": READ, **stage.client},
        show=("access_token", "token_type", "expires_in", "scope"),
    )
    stage.mandate = Bearer(issued["access_token"], "the agent's mandate")
    stage.teller.conceal(stage.mandate.token)
    claims = claims_of(stage.mandate.token)
    stage.teller.note(f"aud={claims['aud']}  scope={claims['scope']}  jti={claims['jti']}")
    check(claims["exp"] - claims["iat"] <= 900, "a mandate for at most 15 minutes", claims)
    check(claims["scope"] == READ and claims["client_id"] == stage.client_id, f"a mandate for {READ}", claims)
    return f"More than the grant is refused; {READ} is given, for {issued['expires_in']} s."


async def call_governed(stage: Stage) -> str:
    """One governed request, and what the upstream saw of it."""
    answer = await stage.http.call(
        "GET",
        stage.governed("/payments"),
        200,
        bearer=stage.mandate,
        headers={KEY_HEADER: "forged"},
        show=("payments",),
    )
    stage.governed_request = answer.request_id
    seen = (await stage.seen_of(answer))["headers"]
    key = seen.get(KEY_HEADER.lower(), "")
    stage.teller.note(f"the upstream saw {KEY_HEADER}={key}, authorization={seen.get('authorization', 'none')}")
    check(key == stage.key, "the upstream to see its own key", stage.teller.masked(key))
    _check_no_token(stage, seen)
    check(stage.key not in answer.text, "an answer without the upstream's key", "one that holds it")
    return "Served; the upstream saw its own key and no token of the caller."


async def write_without_scope(stage: Stage) -> str:
    """An operation beyond the mandate never arrives."""
    before = len(await stage.seen())
    payment = {"amount": 999_999, "currency": "EUR", "to": "Mallory"}
    await stage.http.call(
        "POST", stage.governed("/payments"), 403, reason="insufficient_scope", bearer=stage.mandate, body=payment
    )
    disguised = stage.governed("/payments/%2e%2e/admin")
    await stage.http.call("GET", disguised, 400, reason="forbidden_path", bearer=stage.mandate)
    check(len(await stage.seen()) == before, "an upstream that saw nothing", "a request that reached it")
    return f"{WRITE} is not in the mandate, a disguised path not in the list: both refused, neither seen upstream."


async def call_on_behalf(stage: Stage) -> str:
    """RFC 8693: the agent acts for a person, and both are on record."""
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "audience": stage.server,
        "scope": READ,
        "subject_token": stage.person.token,
        "subject_token_type": ACCESS_TOKEN,
        **stage.client,
    }
    brief = {"grant_type": "…token-exchange", **{name: form[name] for name in ("subject_token", "audience", "scope")}}
    issued = await stage.http.call(
        "POST", stage.api("/oauth/token"), 200, form=form, sent=brief, show=("access_token", "expires_in", "scope")
    )
    stage.delegated = Bearer(issued["access_token"], f"the agent for {stage.username}")
    stage.teller.conceal(stage.delegated.token)
    claims = claims_of(stage.delegated.token)
    check(claims["sub"] == stage.username, f"sub={stage.username}", claims)
    check((claims.get("act") or {}).get("sub") == stage.client_id, "the agent as act", claims)
    answer = await stage.http.call(
        "GET", stage.governed("/payments/pay_1"), 200, bearer=stage.delegated, show=("id", "amount")
    )
    _check_no_token(stage, (await stage.seen_of(answer))["headers"])
    actor = (await evidence_of(stage, answer.request_id))["actor"]
    stage.teller.note(
        f"in evidence: user={actor.get('user')}  application={actor.get('application')} ({stage.application})"
    )
    check(actor.get("user") == stage.username, f"user {stage.username} in evidence", actor)
    check(actor.get("application") == stage.client_id, "the agent in evidence", actor)
    return "Both are on record: the person it was done for, the agent that did it."


async def open_stream(stage: Stage) -> str:
    """A request that lasts."""
    url, started = stage.governed("/payments/stream"), time.perf_counter()
    stage.teller.sent("GET", url, {}, str(stage.mandate))
    try:
        async with asyncio.timeout(10):
            response = await stage.http.session.get(
                url, headers=stage.mandate.headers, timeout=aiohttp.ClientTimeout(total=None)
            )
            stage.stream = Stream(response)
            check(response.status == 200, "200 from the stream", str(response.status))
            while stage.stream.events < 3:
                stage.stream.events += (await response.content.readany()).count(b"\n\n")
                check(not response.content.at_eof(), "a stream that goes on", "its end")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Deviation("events from the stream", f"{type(error).__name__} {error}") from None
    shown = {"content-type": response.headers.get("content-type", ""), "events": stage.stream.events}
    stage.teller.received(200, shown, (time.perf_counter() - started) * 1000)
    return "The stream is open and its events arrive as they happen."


async def read_evidence(stage: Stage) -> str:
    """What is known about the request of step 10, and what its decision was made from."""
    event = await evidence_of(stage, stage.governed_request)
    details = event["details"]
    check(event["name"] == codes.GATEWAY_ALLOWED.name and event["outcome"] == "allow", "an allowed request", event)
    check(event["server"] == stage.server, f"server {stage.server}", event)
    check(details.get("credential") == stage.credential, f"credential {stage.credential}", details)
    stage.teller.note(
        f"{event['name']}: {details.get('operation')} on {event['server']} with {details.get('credential')},"
        f" policy set {event['policy_set'][:19]}…"
    )
    where = stage.api(f"/api/v1/decisions/{event['id']}")
    decided = await stage.http.call("GET", where, 200, bearer=stage.admin, show=("allowed", "input_status", "input"))
    check(decided["allowed"] is True, "an allowing decision", decided.text)
    given: dict[str, Any] = decided["input"] or {}
    check(
        given.get("operation", {}).get("scope") == READ and given.get("client", {}).get("id") == stage.client_id,
        "the decision's input with the operation and the agent",
        given,
    )
    for secret in (stage.key, stage.mandate.token):
        check(secret not in decided.text, "evidence without secrets", "one that holds one")
    return "Who, what, with which key and policy, and the input it was decided from."


async def measure_calls(stage: Stage) -> None:
    """Time the governed call and the same call without the gateway between, one after the other."""
    kinds = {
        "governed": (stage.governed("/payments"), stage.mandate.headers),
        "direct": (f"{stage.upstream.url}/payments", {KEY_HEADER: stage.upstream.key}),
    }
    for kind, (url, headers) in kinds.items():
        times = []
        for _ in range(CALLS):
            started = time.perf_counter()
            async with stage.http.session.get(url, headers=headers) as response:
                await response.read()
            times.append((time.perf_counter() - started) * 1000)
            check(response.status == 200, f"200 from each of {CALLS} {kind} calls", str(response.status))
        times.sort()
        stage.figures[f"{kind}_p50_ms"] = round(times[CALLS // 2], 2)
        stage.figures[f"{kind}_p99_ms"] = round(times[CALLS * 99 // 100 - 1], 2)


async def evidence_of(stage: Stage, request_id: str) -> dict[str, Any]:
    """The gateway's event about a request, as soon as the ledger holds it."""

    def events(answer: Answer) -> list[dict[str, Any]]:
        told = [item["event"] for item in answer.body.get("timeline", []) if item["kind"] == "event" and item["intact"]]
        return [event for event in told if event["name"].startswith("gateway.request.")]

    answer = await stage.http.call(
        "GET",
        stage.api(f"/api/v1/audit/requests/{request_id}"),
        200,
        bearer=stage.admin,
        until=lambda found: len(events(found)) > 0,
    )
    return events(answer)[0]


def _check_no_token(stage: Stage, headers: dict[str, str]) -> None:
    tokens = [bearer.token for bearer in (stage.mandate, stage.delegated, stage.person) if bearer.token]
    check("authorization" not in headers, "no Authorization at the upstream", stage.teller.masked(str(headers)))
    held = [name for name, value in headers.items() if any(token in value for token in tokens)]
    check(not held, "no token of the caller at the upstream", held)
