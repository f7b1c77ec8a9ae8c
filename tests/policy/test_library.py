from __future__ import annotations

from typing import Any

import pytest
from policies import SEED

from bailiwick.policy.admission import Admission
from bailiwick.policy.engine import RegorusEngine
from bailiwick.policy.library import library_modules, library_tests
from bailiwick.policy.samples import FULL_FORM


async def test_the_librarys_own_tests_hold() -> None:
    report = await Admission().admit(library_modules(), {}, samples=[dict(FULL_FORM)], tests=library_tests())
    assert report.accepted, report.findings
    assert report.tests_run == 20
    assert report.engine == "compiled"


def test_the_first_seeds_policy_is_as_printed() -> None:
    assert library_modules()[0].text == SEED


def request(**changes: Any) -> dict[str, Any]:
    return {**FULL_FORM, "user": {"id": "u", "role": "operator", "roles": ["operator"]}, **changes}


@pytest.mark.parametrize(
    ("document", "allowed", "reasons"),
    [
        (request(), True, ()),
        (request(stage="mint"), True, ()),
        (request(scope=["payments:write"]), False, ("insufficient_scope",)),
        (request(stage="mint", scope=["payments:write"]), False, ("grant_exceeded",)),
        (request(stage="mint", scope=[]), False, ()),
        (request(client={}), False, ("grant_exceeded",)),
        (request(client={"grants": {"server-1": "payments:read"}}), False, ("grant_exceeded",)),
        (request(operation={}), False, ("insufficient_scope",)),
        (request(user={"role": "admin"}, client={}), False, ("grant_exceeded",)),
        (request(server={"name": "server-1", "roles": ["treasurer"]}), False, ("role_not_listed",)),
        (request(server={"name": "server-1", "roles": "viewer"}), False, ("role_not_listed",)),
        (request(server={"name": "server-1", "roles": []}), True, ()),
        (request(server={"name": "server-1"}), True, ()),
        (request(stage="evaluate"), False, ()),
        (request(stage="evaluate", user={"role": "admin"}), True, ()),
        ({"user": {"role": "viewer"}, "action": "read"}, True, ()),
        ({"user": {"role": "viewer"}, "action": "write"}, False, ()),
        ({}, False, ()),
    ],
)
def test_the_default_set(document: dict[str, Any], allowed: bool, reasons: tuple[str, ...]) -> None:
    policy = RegorusEngine("compiled").compile(library_modules(), {})
    outcome = policy.evaluate(document)
    assert (outcome.allow, outcome.deny) == (allowed, reasons)
    assert RegorusEngine("interpreted").compile(library_modules(), {}).evaluate(document) == outcome


def test_the_rate_limit() -> None:
    policy = RegorusEngine().compile(library_modules(), {})
    limit = "data.sark.rate_limiting.limit"
    assert policy.evaluate_rule(limit, {"authenticated": False, "route": "/api/v1/servers"}) == 100
    assert policy.evaluate_rule(limit, {"authenticated": True, "user": {"role": "viewer"}}) == 1000
