"""The story: its steps in order, and how it ends."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from bailiwick.cli.demo import ending, governing, preparing
from bailiwick.cli.demo.children import payments_api
from bailiwick.cli.demo.exchange import Exchange
from bailiwick.cli.demo.stage import Installation, Stage
from bailiwick.cli.demo.telling import Deviation, Teller
from bailiwick.kernel.paths import write_private


@dataclass(frozen=True, slots=True)
class Step:
    """A numbered part of the story. ``run`` answers in one sentence what was shown."""

    title: str
    run: Callable[[Stage], Awaitable[str]]


STEPS = (
    Step("The administrator signs in", preparing.sign_in_as_administrator),
    Step("A person is invited", preparing.invite_person),
    Step("The payments API's key is sealed", preparing.seal_credential),
    Step("The payments API is registered", preparing.register_server),
    Step("The agent is created, with a grant to read", preparing.create_agent),
    Step("A policy is admitted, tested, asked", preparing.admit_policy),
    Step("The agent, without any credential, calls the payments API", governing.call_upstream_without_key),
    Step("The agent calls the gateway without a mandate", governing.call_gateway_without_mandate),
    Step("The agent asks for a mandate", governing.ask_for_mandate),
    Step("The agent reads payments through the gateway", governing.call_governed),
    Step("The agent tries to write", governing.write_without_scope),
    Step("The agent acts on behalf of the person", governing.call_on_behalf),
    Step("The agent opens a stream", governing.open_stream),
    Step("The evidence of step 10", governing.read_evidence),
    Step("One call revokes the agent's authority", ending.revoke),
    Step("The ledger is verified, then a tampered copy of it", ending.verify_ledger),
)
_MEASURED_AFTER = 14


@dataclass(slots=True)
class Result:
    """How it went: ``passed`` of ``steps``, the deviation if there was one, and the figures measured."""

    steps: int
    passed: int
    seconds: float
    figures: dict[str, float]
    failure: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """True when every step went as told."""
        return self.passed == self.steps and self.failure is None


async def tell(
    at: Installation,
    teller: Teller,
    *,
    admin_password: str,
    upstream_key: str | None = None,
    tls: ssl.SSLContext | None = None,
    tidy: bool = True,
) -> Result:
    """Tell the story against ``at``, to its end or the first deviation.

    ``upstream_key`` is what the payments API demands in place of the key that is sealed: the story then fails.
    ``tidy``: take the server, the agent and the person away at the end, and keep the administrator's new password in
    the installation's secrets.
    """
    key = f"pk_{secrets.token_urlsafe(18)}"
    started = time.monotonic()
    connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
    async with (
        payments_api(upstream_key or key) as upstream,
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        stage = Stage(
            at=at,
            teller=teller,
            http=Exchange(session, teller),
            upstream=upstream,
            suffix=secrets.token_hex(3),
            admin_password=admin_password,
            new_admin_password=secrets.token_urlsafe(18),
            key=key,
        )
        teller.call({at.api: "api", at.gateway: "gateway", upstream.url: "payments"})
        try:
            result = await _run(stage)
        finally:
            if stage.stream is not None:
                stage.stream.response.close()
            if tidy:
                await _tidy(stage)
    result.seconds = round(time.monotonic() - started, 1)
    return result


async def _run(stage: Stage) -> Result:
    result = Result(len(STEPS), 0, 0.0, stage.figures)
    for number, step in enumerate(STEPS, 1):
        stage.teller.step(number, step.title)
        started = time.perf_counter()
        try:
            shown = await step.run(stage)
            stage.teller.passed(shown, (time.perf_counter() - started) * 1000)
            if number == _MEASURED_AFTER:
                await governing.measure_calls(stage)
        except (Deviation, aiohttp.ClientError, TimeoutError) as error:
            known = error if isinstance(error, Deviation) else Deviation("an answer", f"{type(error).__name__} {error}")
            stage.teller.failed(known)
            masked = {"expected": stage.teller.masked(known.expected), "got": stage.teller.masked(known.got)}
            result.failure = {"step": number, "title": step.title, **masked}
            return result
        result.passed += 1
    return result


async def _tidy(stage: Stage) -> None:
    """Leave an installation that goes on as it was: the evidence stays, what the story made does not."""
    if stage.password_changed:
        kept = stage.at.layout.secrets / "demo-administrator-password"
        write_private(kept, f"{stage.new_admin_password}\n")
        stage.teller.blank()
        stage.teller.line(f"administrator's new password: {kept}")
    if not stage.admin.token:
        return
    off = {"is_active": False}
    for method, path, body in (
        ("DELETE", f"servers/{stage.server}", None),
        ("DELETE", f"credentials/{stage.credential}", None),
        ("PATCH", f"applications/{stage.application}", off),
        ("PATCH", f"users/{stage.username}", off),
    ):
        try:
            async with stage.http.session.request(
                method, stage.api(f"/api/v1/{path}"), json=body, headers=stage.admin.headers
            ) as response:
                await response.read()
        except aiohttp.ClientError:
            return
