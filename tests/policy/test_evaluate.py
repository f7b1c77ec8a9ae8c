from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_stage import NOBODY, SEED, Stage, allowing, codes

from bailiwick.evidence.inputs import digest_of
from bailiwick.kernel.errors import BailiwickError, InvalidRequest
from bailiwick.policy.evaluate import MAX_BODY_BYTES, PATH, Question, openapi_paths, read_question

BOB = {"user_id": "bob", "resource": "servers", "action": "read"}


@pytest.fixture
async def seeded(stage: Stage) -> Stage:
    await stage.put("authorization", SEED)
    return stage


# --- deciding -----------------------------------------------------------------------------------------------------


async def test_everybody_may_ask_for_himself(seeded: Stage) -> None:
    status, answer = await seeded.ask(BOB, "viewer:bob")
    assert status == 200
    assert list(answer) == ["allowed", "reasons", "policy_revision", "decision_id"]
    assert answer["allowed"] is True
    status, answer = await seeded.ask({**BOB, "action": "delete"}, "viewer:bob")
    assert (status, answer["allowed"], answer["reasons"]) == (200, False, ["policy_denied"])


@pytest.mark.parametrize(("token", "status"), [("viewer:eve", 403), ("operator:otto", 200), ("auditor:aude", 200)])
async def test_asking_for_others_needs_the_permission(seeded: Stage, token: str, status: int) -> None:
    assert (await seeded.ask(BOB, token))[0] == status
    assert (await seeded.ask({"input": {"user": {"role": "admin"}}}, token))[0] == status
    kinds = [event.code for event in seeded.memory.events]
    expected = codes.ACCESS_REFUSED if status == 403 else codes.DECISION_EVALUATED
    assert kinds == [expected.code] * 2


async def test_the_role_is_the_zones_and_not_the_callers(seeded: Stage) -> None:
    _, answer = await seeded.ask({**BOB, "user_id": "alice", "action": "delete"}, "auditor:aude")
    assert answer["allowed"] is True
    _, answer = await seeded.ask({**BOB, "user_id": "otto"})
    assert answer["allowed"] is False


@pytest.mark.parametrize(("user", "reason"), [("nobody", "unknown_user"), ("gone", "account_disabled")])
async def test_who_is_not_there_may_nothing(stage: Stage, user: str, reason: str) -> None:
    revision = await stage.put("open", allowing("open", "true"))
    _, answer = await stage.ask({**BOB, "user_id": user})
    assert (answer["allowed"], answer["reasons"], answer["policy_revision"]) == (False, [reason], revision)
    assert stage.memory.events[-1].reasons == (reason,)
    assert stage.observed == [("deny", reason, False)]


async def test_without_an_active_policy_nothing_is_allowed(stage: Stage) -> None:
    status, answer = await stage.ask(BOB)
    assert (status, answer["allowed"], answer["policy_revision"]) == (200, False, None)
    assert answer["reasons"] == ["no_active_policy"]


async def test_a_policy_that_fails_denies(stage: Stage) -> None:
    await stage.put(
        "clash", "package c\nimport rego.v1\nallow := true if input.x == 1\nallow := false if input.y == 1\n"
    )
    _, answer = await stage.ask({"input": {"x": 1, "y": 1}})
    assert (answer["allowed"], answer["reasons"]) == (False, ["policy_error"])
    event = stage.memory.events[-1]
    assert (event.outcome, event.details["fault"]) == ("error", "policy_conflict")
    assert stage.observed == [("error", "policy_error", False)]


async def test_the_input_has_both_forms(stage: Stage) -> None:
    await stage.put("nobody", NOBODY)
    _, answer = await stage.ask(BOB)
    event = stage.memory.events[-1]
    assert event.decision_id == answer["decision_id"]
    body = stage.memory.inputs[str(event.details["input"])]
    assert msgspec.json.decode(body) == {
        "stage": "evaluate",
        "zone": stage.zone,
        "user": {"id": "bob", "role": "viewer", "roles": ["viewer"]},
        "subject": {"type": "user", "id": "bob", "roles": ["viewer"]},
        "action": "read",
        "resource": "servers",
    }


async def test_a_full_input_is_decided_on_as_it_is(stage: Stage) -> None:
    await stage.put("deep", allowing("deep", 'input.resource.owner.team == "payments"'))
    _, answer = await stage.ask({"input": {"resource": {"owner": {"team": "payments"}}}}, "operator:otto")
    assert answer["allowed"] is True
    body = msgspec.json.decode(stage.memory.inputs[str(stage.memory.events[-1].details["input"])])
    assert (body["zone"], body["stage"]) == (stage.zone, "evaluate")
    status, refusal = await stage.ask({"input": {"zone": "other"}}, "operator:otto")
    assert (status, refusal["reason"]) == (400, "invalid_request")


async def test_reasons_come_from_the_policy(stage: Stage) -> None:
    await stage.put(
        "closed", 'package c\nimport rego.v1\nallow := true\ndeny contains "frozen"\ndeny contains "late"\n'
    )
    _, answer = await stage.ask(BOB)
    assert (answer["allowed"], answer["reasons"]) == (False, ["frozen", "late"])
    assert stage.observed == [("deny", "policy_denied", False)]


# --- evidence -----------------------------------------------------------------------------------------------------


async def test_the_decision_is_recorded_before_it_is_told(seeded: Stage) -> None:
    _, answer = await seeded.ask(BOB, **{"user-agent": "curl/8"})
    (event,) = seeded.memory.events
    assert event.code == codes.DECISION_EVALUATED.code
    assert (event.outcome, event.reasons, event.policy_set) == ("allow", ("sark.authz",), answer["policy_revision"])
    assert (event.actor.user, event.actor.session, event.network.user_agent) == ("alice", "session-1", "curl/8")
    assert event.subject is not None and event.subject.id == "bob"
    assert event.details["input"] == digest_of(next(iter(seeded.memory.inputs.values())))
    assert (event.details["action"], event.details["resource"]) == ("read", "servers")

    seeded.memory.full = True
    status, refusal = await seeded.ask(BOB)
    assert (status, refusal["reason"]) == (503, "evidence_unavailable")
    assert "allowed" not in refusal


async def test_answers_are_remembered(seeded: Stage) -> None:
    for _ in range(3):
        await seeded.ask(BOB)
    assert seeded.observed == [("allow", "", False), ("allow", "", True), ("allow", "", True)]
    assert len(seeded.memory.inputs) == 1
    assert len({event.decision_id for event in seeded.memory.events}) == 3


# --- refusing -----------------------------------------------------------------------------------------------------

BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"read"',
    b"\xff\xfe",
    b"{} {}",
    b"{}",
    b'{"user_id": "bob", "resource": "servers"}',
    b'{"user_id": "", "resource": "servers", "action": "read"}',
    b'{"user_id": 5, "resource": "servers", "action": "read"}',
    b'{"user_id": "bob", "resource": {"name": "x"}, "action": "read"}',
    b'{"user_id": "bob", "resource": "servers", "action": "read", "more": 1}',
    b'{"user_id": "bob", "resource": "servers", "action": "read", "input": {}}',
    b'{"user_id": "bob", "user_id": "alice", "resource": "servers", "action": "read"}',
    b'{"input": {"user": {"role": "viewer", "role": "admin"}}}',
    b'{"user_id": "bob\\u0000", "resource": "servers", "action": "read"}',
    b'{"user_id": "\\ud800", "resource": "servers", "action": "read"}',
    b'{"user_id": "' + b"x" * 501 + b'", "resource": "servers", "action": "read"}',
    b'{"input": []}',
    b'{"input": {"a": NaN}}',
    b'{"input": {"a": 1e999}}',
    b'{"input": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    b'{"input": {"a":' + b"[" * 60_000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:40].decode("latin-1"))
async def test_a_malformed_body_is_refused(seeded: Stage, body: bytes) -> None:
    async with seeded.client() as client:
        answer = await client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "invalid_request"
    assert seeded.memory.events == []


@pytest.mark.parametrize(
    "body", [b'{"input":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, b"[" * 100_000, b'{"a":' * 100_000]
)
def test_deep_json_does_not_overflow(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_question(body)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda below: (
                st.lists(below, max_size=3)
                | st.dictionaries(st.sampled_from(["input", "user_id", "resource", "action"]), below)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_body_is_a_question_or_refused(body: bytes) -> None:
    try:
        question = read_question(body)
    except BailiwickError as error:
        assert error.status == 400
        return
    assert isinstance(question, Question)
    assert (question.input is msgspec.UNSET) == isinstance(question.user_id, str)


async def test_a_number_too_large_to_decide_on_is_not_allowed(seeded: Stage) -> None:
    status, answer = await seeded.ask(b'{"input": {"action": ' + b"9" * 400 + b', "user": {"role": "admin"}}}')
    assert (status, answer.get("allowed", False)) in {(200, False), (400, False)}


async def test_the_body_is_bounded(seeded: Stage) -> None:
    large = b'{"input": {"a": "' + b"x" * MAX_BODY_BYTES + b'"}}'
    assert (await seeded.ask(large))[0] == 413
    async with seeded.client() as client:
        # chunks whose length nobody announced
        chunks = [b'{"input": {"a": "', *[b"x" * 8192] * 9]
        lying = [("content-type", "application/json")]
        answer = await client.request("POST", PATH, chunks, lying)
        assert answer.status_code == 413
        sent = json.dumps(BOB).encode()
        answer = await client.request("POST", PATH, [sent[:10], sent[10:20], sent[20:]], lying)
    assert answer.json()["allowed"] is True


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_only_json_is_read(seeded: Stage, media_type: str) -> None:
    status, refusal = await seeded.ask(BOB, **{"content-type": media_type})
    assert (status, refusal["reason"]) == (415, "unsupported_media_type")


async def test_a_content_type_may_name_its_charset(seeded: Stage) -> None:
    assert (await seeded.ask(BOB, **{"content-type": "Application/JSON; charset=utf-8"}))[0] == 200


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        (None, 401, "authentication_required"),
        ("garbage", 401, "invalid_token"),
        ("new:bob", 403, "password_change_required"),
    ],
)
async def test_who_is_not_known_is_not_answered(seeded: Stage, token: str | None, status: int, reason: str) -> None:
    answered, refusal = await seeded.ask(BOB, token)
    assert (answered, refusal["reason"]) == (status, reason)
    assert refusal["request_id"]


@pytest.mark.parametrize("credential", ["Basic YTpi", "Bearer", "admin:alice"])
async def test_another_kind_of_credential_is_refused(seeded: Stage, credential: str) -> None:
    status, _ = await seeded.ask(BOB, None, authorization=credential)
    assert status == 401


async def test_two_credentials_are_ambiguous(seeded: Stage) -> None:
    status, refusal = await seeded.ask(BOB, authorization="Bearer viewer:bob")
    assert (status, refusal["reason"]) == (400, "ambiguous_request")


async def test_a_caller_who_has_gone_is_not_answered(seeded: Stage) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "state": {"zone": seeded.zone, "request_id": "r"},
        "headers": [(b"authorization", b"Bearer admin:alice"), (b"content-type", b"application/json")],
    }
    await seeded.evaluate(scope, receive, send)
    assert sent == []
    assert seeded.memory.events == []


# --- looking back -------------------------------------------------------------------------------------------------


async def test_a_decision_can_be_looked_up(seeded: Stage) -> None:
    _, answer = await seeded.ask(BOB, "viewer:bob")
    path = f"/api/v1/decisions/{answer['decision_id']}"
    async with seeded.client("viewer:bob") as client:
        shown = (await client.get(path)).json()
    assert shown["allowed"] is True
    assert shown["policy_revision"] == answer["policy_revision"]
    assert shown["input_status"] == "PRESENT"
    assert shown["input"]["user"]["id"] == "bob"
    async with seeded.client("auditor:aude") as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.get("/api/v1/decisions/0197f7a0-0000-7000-8000-000000000000")).status_code == 404
        assert (await client.get("/api/v1/decisions/nonsense")).status_code == 400
    async with seeded.client("viewer:eve") as client:
        assert (await client.get(path)).status_code == 404

    seeded.memory.inputs.clear()
    async with seeded.client("viewer:bob") as client:
        expired = (await client.get(path)).json()
    assert (expired["input"], expired["input_status"]) == (None, "NO_DATA")
    assert expired["allowed"] is True


async def test_what_others_asked_about_somebody_is_not_his(seeded: Stage) -> None:
    _, answer = await seeded.ask(BOB, "operator:otto")
    async with seeded.client("viewer:bob") as client:
        assert (await client.get(f"/api/v1/decisions/{answer['decision_id']}")).status_code == 404


def test_the_endpoint_is_described() -> None:
    described = openapi_paths()[PATH]["post"]
    properties = described["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    assert list(properties) == ["allowed", "reasons", "policy_revision", "decision_id"]
    json.dumps(described)


# --- what changes while the disk is busy ----------------------------------------------------------------------------


async def test_a_session_that_ends_while_the_disk_is_busy_gets_no_answer(seeded: Stage) -> None:
    def end() -> None:
        seeded.ended.add("viewer:bob")
        seeded.changes += 1

    seeded.memory.while_writing.append(end)
    status, refusal = await seeded.ask(BOB, "viewer:bob")
    assert (status, refusal["reason"]) == (401, "session_ended")
    told = [(event.code, event.outcome, event.reasons) for event in seeded.memory.events]
    assert told[0][:2] == (codes.DECISION_EVALUATED.code, "allow")
    assert told[1] == (codes.ACCESS_REFUSED.code, "deny", ("session_ended",))


async def test_a_user_disabled_while_the_disk_is_busy_is_decided_on_anew(seeded: Stage) -> None:
    def disable() -> None:
        seeded.users["bob"] = ("viewer", False)
        seeded.changes += 1

    seeded.memory.while_writing.append(disable)
    status, answer = await seeded.ask(BOB, "operator:otto")
    assert (status, answer["allowed"], answer["reasons"]) == (200, False, ["account_disabled"])
    assert [event.outcome for event in seeded.memory.events] == ["allow", "deny"]
    assert seeded.memory.events[-1].decision_id == answer["decision_id"]


async def test_a_change_that_concerns_nobody_here_changes_nothing(seeded: Stage) -> None:
    def change() -> None:
        seeded.changes += 1

    seeded.memory.while_writing.append(change)
    assert (await seeded.ask(BOB, "operator:otto"))[1]["allowed"] is True
    assert len(seeded.memory.events) == 1


async def test_an_answer_does_not_outlive_the_freshness_of_the_feed(seeded: Stage) -> None:
    seeded.memory.while_writing.append(lambda: setattr(seeded, "stale", True))
    status, refusal = await seeded.ask(BOB)
    assert (status, refusal["reason"]) == (503, "revocation_stale")
    assert seeded.memory.events[-1].reasons == ("revocation_stale",)


async def test_who_has_had_his_share_is_told_when_to_come_back(seeded: Stage) -> None:
    seeded.limited.add("bob")
    async with seeded.client("viewer:bob") as client:
        answer = await client.post(PATH, json=BOB)
    assert (answer.status_code, answer.json()["reason"], answer.headers["retry-after"]) == (429, "rate_limited", "7")
    assert seeded.memory.events == []
    assert (await seeded.ask(BOB))[0] == 200
