"""A policy may ask for a second factor: it sees how a person proved himself, and its word becomes RFC 9470's challenge."""

from __future__ import annotations

import json

import pytest
from test_ends import FRESHNESS_S, World

from bailiwick.authority.authenticate import Authenticator
from bailiwick.authority.issuer import Issuer
from bailiwick.authority.rfc8693 import STEP_UP, TOKEN_EXCHANGE, TokenRequest
from bailiwick.authority.tokens import Mandate
from bailiwick.evidence.events import Context
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.problems import oauth_error
from bailiwick.policy.decisions import Decider
from bailiwick.policy.engine import RegorusEngine
from bailiwick.policy.rego_syntax import Module
from people_fixtures import House

POLICY = Module(
    "step.rego",
    """package step

import rego.v1

allow := true

deny contains "insufficient_user_authentication" if {
    input.subject.type == "user"
    not "mfa" in input.subject.amr
}

deny contains "insufficient_user_authentication" if input.subject.auth_time < 1000
""",
)


SID = "0192f0a0-0000-7000-8000-000000000001"


class Clients:
    async def verify(self, application: object, secret: str) -> bool:
        raise AssertionError("nobody asks by a secret here")


class Stage:
    """A world whose policy wants a second factor of people, and who issues its mandates."""

    def __init__(self, world: World) -> None:
        decider = Decider()
        decider.swap(RegorusEngine().compile([POLICY], {}))
        house, self.world = world.house, world
        world.check._decider = lambda zone: decider
        self.issuer = Issuer(
            world.store,
            Authenticator(world.store, house.clock, feed_age=lambda: 0.0, freshness_limit_s=FRESHNESS_S),
            lambda zone: decider,
            Clients(),
            self.record,
            house.recorder,
            house.clock,
            house.ids,
            revision=lambda: world.revision,
            mandate_ttl_s=900,
            observe=lambda outcome, reason: None,
        )

    async def record(self, zone: str, event: bytes) -> None: ...

    async def exchange(self, amr: tuple[str, ...], auth_time: int | None = None) -> tuple[Mandate, str]:
        """The mandate for somebody who proved himself so."""
        now = int(self.world.house.clock.time())
        session = self.issuer.session_token(
            "default", "root", SID, now + 600, amr, now if auth_time is None else auth_time
        )
        return await self.narrow(session)

    async def narrow(self, subject_token: str) -> tuple[Mandate, str]:
        zone = self.world.store.current.zones["default"]
        (application,) = zone.applications.values()
        request = TokenRequest(TOKEN_EXCHANGE, "pay", ("items:read",), subject_token)
        return await self.issuer.issue(zone, application, request, Context("default"))


@pytest.fixture
async def stage(house: House) -> Stage:
    world = World(house)
    await world.open()
    return Stage(world)


async def test_one_factor_is_asked_for_another_and_two_pass(stage: Stage) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await stage.exchange(("pwd",))
    assert refused.value.reason == STEP_UP
    assert refused.value.headers["WWW-Authenticate"].startswith(f'Bearer error="{STEP_UP}", acr_values=')
    said = oauth_error(refused.value)[1]
    assert (said["error"], said["reason"]) == ("access_denied", STEP_UP)
    mandate, token = await stage.exchange(("pwd", "otp", "mfa"))
    assert (mandate.amr, mandate.auth_time) == (("pwd", "otp", "mfa"), mandate.iat)
    assert stage.world.reason(token) == ""


async def test_an_old_proof_is_asked_for_a_fresh_one(stage: Stage) -> None:
    with pytest.raises(Unauthenticated, match="fresh"):
        await stage.exchange(("pwd", "mfa"), auth_time=999)


async def test_what_is_narrowed_keeps_how_he_proved_himself(stage: Stage) -> None:
    _, token = await stage.exchange(("pwd", "mfa"))
    narrowed, again = await stage.narrow(token)
    assert narrowed.amr == ("pwd", "mfa") and narrowed.act is not None
    assert stage.world.reason(again) == ""


async def test_the_gateway_challenges_whoever_comes_with_less(stage: Stage) -> None:
    (answer,) = stage.world.ask(stage.world.token(amr=("pwd",), auth_time=2000))
    assert (answer.status, json.loads(answer.body)["reason"]) == (401, STEP_UP)
    challenges = [value for name, value in answer.headers if name == b"www-authenticate"]
    assert len(challenges) == 1 and STEP_UP.encode() in challenges[0]
    assert stage.world.reason(stage.world.token()) == STEP_UP, "a mandate of before says nothing of it"
    application = {"sub": stage.world.client_id, "sub_type": "application", "sid": ""}
    assert stage.world.reason(stage.world.token(**application)) == "", "an application has no second factor"
