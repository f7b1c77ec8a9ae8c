from __future__ import annotations

import asyncio
import json
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from asgi_client import Answer, Client
from policy_stage import NOBODY, PAYMENTS, SEED, Stage, allowing, codes
from prometheus_client import CollectorRegistry

from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.feed import Change
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.quorum import Approval
from bailiwick.policy.figures import PolicyFigures
from bailiwick.policy.library import library_modules
from bailiwick.policy.policies import Policies, PolicySetRefused, Upload
from bailiwick.policy.sandbox import Limits, SandboxFailed
from bailiwick.policy.trial import Source, Trials

READ = {"user": {"role": "viewer"}, "action": "read", "resource": "servers"}


def part(source: bytes | str, name: str = "authorization.rego") -> dict[str, Any]:
    return {"file": (name, source if isinstance(source, bytes) else source.encode())}


async def upload(client: Client, name: str, source: bytes | str, **form: str) -> Answer:
    return await client.post("/api/v1/policies", data={"name": name, **form}, files=part(source, f"{name}.rego"))


# --- the seed's own lines -----------------------------------------------------------------------------------------


async def curl(*arguments: str, cwd: Path) -> tuple[int, Any]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-w", "\n%{http_code}", *arguments, cwd=cwd, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    return int(status), json.loads(body)


async def test_the_seeds_curl_lines_work_as_printed(stage: Stage, tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(stage.asgi, log_level="error", lifespan="off", interface="asgi3"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            (tmp_path / "authorization.rego").write_text(SEED)
            admin = ("-H", "Authorization: Bearer admin:alice")
            status, uploaded = await curl(
                *("-X", "POST", f"{base}/api/v1/policies", *admin, "-F", "file=@authorization.rego"),
                *("-F", "name=authorization", "-F", "description=Main authorization policy"),
                cwd=tmp_path,
            )
            assert status == 201
            assert uploaded["active"] is True and uploaded["dialect"] == "v0" and uploaded["version"] == 1

            document = '{"user": {"role": "admin"}, "action": "delete", "resource": "servers"}'
            body = f'{{"policy_name": "authorization", "input": {document}}}'
            json_type = ("-H", "Content-Type: application/json")
            test_call = ("-X", "POST", f"{base}/api/v1/policies/test", *admin, *json_type, "-d", body)
            assert await curl(*test_call, cwd=tmp_path) == (200, {"allowed": True, "reasons": ["sark.authz"]})

            asked = '{\n    "user_id": "test.user",\n    "resource": "servers",\n    "action": "read"\n  }'
            status, decision = await curl(
                *("-X", "POST", f"{base}/api/v1/authz/evaluate", "-H", "Authorization: Bearer viewer:test.user"),
                *(*json_type, "-d", asked),
                cwd=tmp_path,
            )
            assert status == 200
            assert list(decision) == ["allowed", "reasons", "policy_revision", "decision_id"]
            assert decision["allowed"] is True
            assert decision["policy_revision"] == await stage.active_hash()
        finally:
            server.should_exit = True
            await serving


# --- uploading ----------------------------------------------------------------------------------------------------


async def test_the_same_bytes_are_the_same_version(stage: Stage) -> None:
    async with stage.client() as client:
        first = await upload(client, "authorization", SEED)
        again = await upload(client, "authorization", SEED)
        other = await upload(client, "authorization", NOBODY)
    assert [first.status_code, again.status_code, other.status_code] == [201, 200, 201]
    assert [each.json()["version"] for each in (first, again, other)] == [1, 1, 2]
    assert [each.json()["active"] for each in (first, again, other)] == [True, True, False]
    assert len(await stage.outbox(codes.POLICY_ADMITTED)) == 2


async def test_a_later_upload_is_active_only_when_asked(stage: Stage) -> None:
    first = await stage.put("one", allowing("one", 'input.action == "a"'))
    assert await stage.put("two", allowing("two", 'input.action == "b"'), activate=False) == first
    async with stage.client() as client:
        activated = await stage.said(
            lambda: upload(client, "two", allowing("two", 'input.action == "b"'), activate="true")
        )
    assert activated.status_code == 200
    assert activated.json()["active"] is True
    members = [(each["name"], each["version"]) for each in activated.json()["activation"]["members"]]
    assert members == [("one", 1), ("two", 1)]


@pytest.mark.parametrize(
    ("source", "reason", "line"),
    [
        ("package a\n\nallow {\n  input.x ==\n}\n", "policy_syntax_error", 3),
        ('package a\nimport rego.v1\nallow := "yes"\n', "policy_result_type", 3),
        ("package a\nimport rego.v1\nallow := input.x\n", "policy_result_type", None),
        ("package a\nimport rego.v1\nf(x) := f(x)\nallow if f(1)\n", "policy_recursion", 3),
        ('package a\nimport rego.v1\nallow if http.send({"url": "http://x"})\n', "policy_forbidden_builtin", 3),
        ("package a\nallow { true }\x00", "policy_syntax_error", 2),
        (b"package a\n\nallow { \xff }\n", "policy_syntax_error", 3),
        ("", "policy_syntax_error", None),
    ],
)
async def test_a_bad_policy_is_refused_with_file_line_and_reason(
    stage: Stage, source: bytes | str, reason: str, line: int | None
) -> None:
    async with stage.client() as client:
        refused = await upload(client, "bad", source)
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    assert problem["reason"] == "policy_refused"
    finding = problem["findings"][0]
    assert finding["file"] == "bad.rego"
    assert finding["reason"] == reason
    assert finding["message"]
    if line is not None:
        assert finding["line"] == line
    assert await stage.active_hash() == ""
    (event,) = await stage.outbox(codes.POLICY_REFUSED)
    assert reason in event.reasons


async def test_a_policy_that_hangs_is_refused(stage: Stage) -> None:
    loops = "".join(f"  x{i} := numbers.range(1, 900)[_]\n" for i in range(4))
    source = f"package a\nimport rego.v1\nallow if {{\n{loops}  x0 + x1 + x2 + x3 == -1\n}}\n"
    async with stage.client() as client:
        refused = await upload(client, "slow", source)
    assert refused.status_code == 422
    assert refused.json()["findings"][0]["reason"] in {
        "policy_timeout",
        "policy_unbounded",
        "policy_instruction_limit",
        "policy_out_of_memory",
    }


@pytest.mark.parametrize(
    "file_name", ["../authorization.rego", "/etc/passwd", "a\\b.rego", "..", ".hidden", "a..rego", "x" * 130, "a\x01b"]
)
async def test_a_file_name_that_looks_like_a_path_is_refused(stage: Stage, file_name: str) -> None:
    async with stage.client() as client:
        answer = await client.post("/api/v1/policies", data={"name": "a"}, files=part(SEED, file_name))
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["../a", "a/b", "", "a\x00b", "history", "x" * 101, "a_test"])
async def test_a_bad_name_is_refused(stage: Stage, name: str) -> None:
    async with stage.client() as client:
        answer = await client.post("/api/v1/policies", data={"name": name}, files=part(SEED))
    assert answer.status_code == 400


async def test_a_large_file_is_refused_unread(stage: Stage) -> None:
    async with stage.client() as client:
        answer = await upload(client, "large", "# " + "x" * (256 * 1024))
    assert answer.status_code == 413


async def test_only_administrators_upload(stage: Stage) -> None:
    for role in ("operator", "auditor", "viewer"):
        async with stage.client(f"{role}:otto") as client:
            assert (await upload(client, "a", SEED)).status_code == 403
            may_narrow = role == "operator"
            assert (await client.post("/api/v1/policies/rollback")).status_code == (409 if may_narrow else 403)


async def test_data_comes_with_a_policy(stage: Stage) -> None:
    source = "package a\nimport rego.v1\nallow if input.action in data.roles[input.user.role]\n"
    async with stage.client() as client:
        files = {**part(source), "data": ("data.json", b'{"roles": {"viewer": ["read"]}}')}
        made = await client.post("/api/v1/policies", data={"name": "grants"}, files=files)
        assert made.status_code == 201, made.text
        tried = await client.post("/api/v1/policies/test", json={"policy_name": "grants", "input": READ})
        files["data"] = ("data.json", b'{"roles": {"viewer": []}}')
        changed = await client.post("/api/v1/policies", data={"name": "grants"}, files=files)
        files["data"] = ("data.json", b"[" * 5000)
        broken = await client.post("/api/v1/policies", data={"name": "grants"}, files=files)
    assert tried.json()["allowed"] is True
    assert (changed.status_code, changed.json()["version"]) == (201, 2)
    assert broken.status_code == 400
    assert stage.worker.decider.decide(READ).allowed


async def test_policies_that_disagree_about_data_do_not_become_active_together(stage: Stage) -> None:
    one = Upload("one", "one.rego", allowing("one", "data.x.a"), data={"x": {"a": True}})
    two = Upload("two", "two.rego", allowing("two", "data.x.b"), data={"x": {"a": False, "b": True}})
    await stage.policies.upload(stage.context, one)
    before = await stage.active_hash()
    with pytest.raises(PolicySetRefused) as refused:
        await stage.policies.upload(stage.context, two, activate=True)
    assert refused.value.findings[0].reason == "policy_data_conflict"
    assert await stage.active_hash() == before


async def test_a_set_is_refused_as_a_whole(stage: Stage) -> None:
    before = await stage.put("one", "package same\nimport rego.v1\nallow := true if input.x\n")
    clash = "package same\nimport rego.v1\nallow := false if input.x\n"
    with pytest.raises(PolicySetRefused):
        await stage.put("two", clash)
    assert await stage.active_hash() == before
    assert stage.worker.decider.policy_set == before


# --- at the same time ---------------------------------------------------------------------------------------------


async def test_concurrent_uploads_of_the_same_bytes_make_one_version(stage: Stage) -> None:
    async with stage.client() as client:
        answers = await asyncio.gather(*(upload(client, "authorization", SEED) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert {answer.json()["version"] for answer in answers} == {1}
    assert len(await stage.history()) == 1


async def test_concurrent_activations_from_several_processes_lose_nothing(stage: Stage) -> None:
    await stage.put("base", SEED)
    names = ["p0", "p1", "p2", "p3"]
    for name in names:
        await stage.put(name, allowing(name, f'input.action == "{name}"'), activate=False)
    services = [stage.service() for _ in names]

    async def persistent(service: Policies, name: str) -> None:
        """What was asked for against a set that is active no more is asked for anew."""
        while True:
            done = await service.activate(stage.context, name)
            if not isinstance(done, Approval):
                assert done.changed
                return
            try:
                await stage.approve(done)
            except Conflict as over:
                assert over.reason in {"approval_ended", "conflict"}

    await asyncio.gather(*(persistent(service, name) for service, name in zip(services, names, strict=True)))
    history = await stage.history()
    assert sorted(member.name for member in history[0].members) == ["base", *names]
    assert [each.previous for each in history[:-1]] == [each.hash for each in history[1:]]


# --- activating, going back ---------------------------------------------------------------------------------------


async def test_the_first_decision_after_an_activation_uses_the_new_set(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    body = {"user_id": "bob", "resource": "servers", "action": "read"}
    assert (await stage.ask(body))[1]["allowed"] is True
    async with stage.client() as client:
        assert (await upload(client, "authorization", NOBODY)).json()["active"] is False
        assert (await stage.ask(body))[1]["allowed"] is True
        activated = await stage.said(lambda: client.post("/api/v1/policies/authorization/activate"))
        _, decision = await stage.ask(body)
        assert decision["allowed"] is False
        assert decision["policy_revision"] == activated.json()["policy_set"]
        back = await stage.said(lambda: client.post("/api/v1/policies/authorization/activate", json={"version": 1}))
    assert back.json()["changed"] is True
    assert (await stage.ask(body))[1]["allowed"] is True


async def test_activating_what_is_active_changes_nothing(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    change = await stage.policies.activate(stage.context, "authorization")
    assert not isinstance(change, Approval) and change.changed is False
    assert len(await stage.history()) == 1
    with pytest.raises(NotFound):
        await stage.policies.activate(stage.context, "authorization", 9)
    with pytest.raises(NotFound):
        await stage.policies.activate(stage.context, "unknown")


async def test_without_policies_everything_is_denied(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    change = await stage.agreed(lambda: stage.policies.deactivate(stage.context, "authorization"))
    assert change.activation.members == ()
    _, decision = await stage.ask({"user_id": "alice", "resource": "servers", "action": "read"})
    assert decision["allowed"] is False
    assert decision["reasons"] == ["no_active_policy"]
    assert decision["policy_revision"] is None
    # nothing is active, so an upload asks to be
    assert await stage.put("authorization", SEED, activate=False) == (await stage.history())[-1].hash
    assert stage.worker.decider.decide(READ).allowed


async def test_a_rollback_leads_to_the_set_before_while_none_is_known_good(stage: Stage) -> None:
    with pytest.raises(Conflict):
        await stage.policies.rollback(stage.context)
    good = await stage.put("authorization", SEED)
    with pytest.raises(Conflict):
        await stage.policies.rollback(stage.context)
    bad = await stage.put("authorization", allowing("sark.authz", "true"))
    async with stage.client() as client:
        answer = (await stage.said(lambda: client.post("/api/v1/policies/rollback"))).json()
    assert (answer["kind"], answer["policy_set"], answer["previous"]) == ("rollback", good, bad)
    assert stage.worker.decider.policy_set == good
    # the bad set is no place to go back to
    with pytest.raises(Conflict):
        await stage.policies.rollback(stage.context)
    assert len(await stage.outbox(codes.POLICY_ROLLED_BACK)) == 1
    assert len(await stage.outbox(codes.POLICY_SUSPECT)) == 1


async def test_a_rollback_prefers_what_is_known_good(stage: Stage) -> None:
    proven = await stage.put("authorization", SEED)
    assert await stage.known_good.mark_known_good() == []
    stage.clock.advance(601)
    assert await stage.known_good.mark_known_good() == []  # it has decided nothing yet
    await stage.known_good.note(stage.zone, proven, decisions=3)
    assert (stage.zone, proven) in await stage.known_good.mark_known_good()
    await stage.put("authorization", allowing("a", 'input.action == "1"'))
    await stage.put("authorization", allowing("a", 'input.action == "2"'))
    change = await stage.policies.rollback(stage.context)  # one person's to do
    assert not isinstance(change, Approval)
    assert (change.activation.hash, change.activation.approval) == (proven, None)
    assert change.activation.known_good_at is not None


async def test_an_operator_returns_to_what_is_known_good_and_to_nothing_else(stage: Stage) -> None:
    first = await stage.put("authorization", SEED)
    open_to_all = await stage.put("authorization", allowing("sark.authz", "true"))
    async with stage.client("operator:otto") as client:
        refused = await client.post("/api/v1/policies/rollback")
        assert (refused.status_code, refused.json()["reason"]) == (409, "conflict")
        assert "policies:write" in refused.json()["detail"]
        assert await stage.active_hash() == open_to_all, "the set before has not proven itself: it may widen"
        async with stage.client() as administrator:
            marked = await stage.said(lambda: administrator.post(f"/api/v1/policies/sets/{first}/known-good"))
            assert marked.status_code == 200
        assert (await client.post(f"/api/v1/policies/sets/{open_to_all}/known-good")).status_code == 403
        answer = await client.post("/api/v1/policies/rollback")
        assert (answer.status_code, answer.json()["policy_set"]) == (200, first)
        assert (await client.post("/api/v1/policies/authorization/activate")).status_code == 403
        assert (await client.post("/api/v1/policies/authorization/deactivate")).status_code == 403
    assert [event.actor.user for event in await stage.outbox(codes.POLICY_ROLLED_BACK)] == ["otto"]


async def test_a_set_with_errors_is_not_good(stage: Stage) -> None:
    faulty = await stage.put("authorization", SEED)
    await stage.known_good.note(stage.zone, faulty, decisions=5, fault="policy_runtime_error")
    stage.clock.advance(3600)
    assert await stage.known_good.mark_known_good() == []
    later = await stage.put("authorization", NOBODY)
    assert later != faulty
    with pytest.raises(Conflict):
        await stage.policies.rollback(stage.context)
    async with stage.client() as client:
        marked = await stage.said(lambda: client.post(f"/api/v1/policies/sets/{faulty}/known-good"))
        unknown = await client.post(f"/api/v1/policies/sets/{'0' * 64}/known-good")
    assert marked.json()["known_good_at"] and marked.json()["suspect_at"] is None
    assert unknown.status_code == 404
    back = await stage.policies.rollback(stage.context)
    assert not isinstance(back, Approval) and back.activation.hash == faulty


async def test_a_worker_that_cannot_compile_falls_back(stage: Stage) -> None:
    good = await stage.put("authorization", SEED)
    bad = await stage.put("authorization", NOBODY)
    async with stage.database.begin() as tx:
        await tx.run(
            "UPDATE policy_versions SET source = 'package a\nallow {' WHERE zone = :zone AND version = 2",
            zone=stage.zone,
        )
    stage.worker.decider.swap(None)
    await stage.worker.start()
    loaded = stage.worker.loaded[-1]
    assert (loaded.wanted, loaded.running, loaded.fault) == (bad, good, "policy_syntax_error")
    assert stage.worker.decider.decide(READ).policy_set == good
    async with stage.database.begin() as tx:
        await tx.run("UPDATE policy_versions SET source = source || ' ' WHERE zone = :zone", zone=stage.zone)
    stage.worker.decider.swap(None)
    await stage.worker.start()
    assert stage.worker.loaded[-1].running is None
    assert stage.worker.decider.decide(READ).reasons == ("no_active_policy",)


# --- newly allowed ------------------------------------------------------------------------------------------------


async def test_newly_allowed_pairs_are_found(stage: Stage) -> None:
    stage.surroundings = PAYMENTS
    await stage.put("authorization", SEED)
    await stage.remember_input({"user": {"id": "ines", "role": "intern"}, "action": "read", "resource": "reports"})
    await stage.remember_input({"user": {"id": "vera", "role": "viewer"}, "action": "read", "resource": "payments"})
    wider = SEED + 'allow {\n  input.action == "read"\n  input.user.role == {"operator", "intern"}[_]\n}\n'
    await stage.activate("authorization", (await stage.policies.upload(stage.context, Upload(
        "authorization", "authorization.rego", (SEED + "# the same\n").encode()))).version.version)  # fmt: skip
    async with stage.client() as client:
        waits = await upload(client, "authorization", wider, activate="true")
        shown = waits.json()["approval"]["payload"]
        assert (waits.status_code, shown["newly_allowed"], shown["comparison"]) == (202, 2, "complete")
        assert shown["pairs"] == ["user ines: read reports", "user olga: read payments"]
        assert await stage.newly_allowed() == 0
        answer = (await stage.said(lambda: upload(client, "authorization", wider, activate="true"))).json()[
            "activation"
        ]
    found = [(each["principal"], each["action"], each["server"]) for each in answer["newly_allowed"]]
    assert found == [("ines", "read", "reports"), ("olga", "read", "payments")]
    assert answer["comparison"]["status"] == "complete"
    assert answer["comparison"]["newly_allowed"] == 2
    assert await stage.newly_allowed() == 2
    assert list((await stage.history())[0].newly_allowed) == answer["newly_allowed"]
    event = (await stage.outbox(codes.POLICY_NEWLY_ALLOWED))[-1]
    assert event.details["first"] == ["user ines: read reports", "user olga: read payments"]

    narrower = await stage.activate("authorization", 1)
    assert list(narrower.activation.newly_allowed) == []
    assert await stage.newly_allowed() == 0


async def test_the_figure_of_newly_allowed_pairs_outlives_the_process_that_activated(stage: Stage) -> None:
    """Another process, which never activated anything, tells it; and that it is over, though yet another went back."""
    stage.surroundings = PAYMENTS
    await stage.put("authorization", SEED)
    wider = SEED + 'allow {\n  input.action == "read"\n  input.user.role == "operator"\n}\n'
    await stage.put("authorization", wider)
    metrics = Metrics(CollectorRegistry())
    figures = PolicyFigures(metrics, stage.database)
    await figures.sample()
    assert metrics.newly_allowed_pairs._value.get() >= await stage.newly_allowed() == 1
    running = asyncio.create_task(figures.run(every_s=600))
    async with stage.database.begin() as tx:  # of another zone, which comes later and says 0
        await tx.run("UPDATE zones SET state = 'archived' WHERE name <> :zone", zone=stage.zone)
    try:
        await stage.activate("authorization", 1)
        figures.heed([Change(1, stage.zone, "server", "x")])
        figures.heed([Change(2, stage.zone, "policy", "x")])
        async with asyncio.timeout(5):
            while metrics.newly_allowed_pairs._value.get() != 0:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


async def test_an_application_that_may_call_more_is_a_newly_allowed_pair(stage: Stage) -> None:
    stage.surroundings = PAYMENTS
    default = next(module.text for module in library_modules() if module.name == "default.rego")
    await stage.put("nobody", NOBODY)
    await stage.put("default", default)
    pairs = [
        (each["principal_type"], each["principal"], each["action"]) for each in (await stage.history())[0].newly_allowed
    ]
    assert pairs == [("application", "agent", "read")]


async def test_an_unfinished_search_says_so(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    async with stage.database.begin() as tx:
        await tx.run(
            "INSERT INTO decision_inputs VALUES (:zone, 'feed', '\\x00', :now, :now + interval '1 day')",
            zone=stage.zone,
            now=stage.clock.now(),
        )
    await stage.put("authorization", NOBODY)
    comparison = (await stage.history())[0].comparison
    assert (comparison["status"], comparison["left_out"]) == ("truncated", 1)
    assert (await stage.outbox(codes.POLICY_NEWLY_ALLOWED))[-1].details["comparison"] == "truncated"


async def test_a_trial_is_stopped_at_its_limit() -> None:
    trials = Trials(Limits(wall_seconds=0.01))
    with pytest.raises(SandboxFailed) as failed:
        await trials.compare(None, Source([], {}), lambda: [b"{}"] * 1000)
    assert failed.value.fault == "policy_timeout"


# --- a new zone ---------------------------------------------------------------------------------------------------


async def test_a_new_zone_starts_with_the_shipped_policies(stage: Stage) -> None:
    async with stage.database.begin() as tx:
        first = await stage.policies.load_library(tx, stage.zone)
        assert await stage.policies.load_library(tx, stage.zone) == first
    assert [member.name for member in first.members] == ["authorization", "default", "rate_limiting"]
    assert first.kind == "initial"
    await stage.worker.start()
    assert stage.worker.decider.policy_set == first.hash
    async with stage.client() as client:
        listed = (await client.get("/api/v1/policies")).json()
        same = await upload(client, "authorization", SEED)
    assert [(each["name"], each["active_version"]) for each in listed["items"]] == [
        ("authorization", 1),
        ("default", 1),
        ("rate_limiting", 1),
    ]
    assert (same.status_code, same.json()["active"]) == (200, True)


# --- reading, trying, flushing ------------------------------------------------------------------------------------


async def test_versions_sources_and_history_are_shown(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    await stage.put("authorization", NOBODY)
    async with stage.client("viewer:bob") as client:
        shown = (await client.get("/api/v1/policies/authorization")).json()
        source = (await client.get("/api/v1/policies/authorization/versions/1")).json()
        missing = await client.get("/api/v1/policies/authorization/versions/3")
        unknown = await client.get("/api/v1/policies/unknown")
        page = (await client.get("/api/v1/policies/history", params={"limit": 1})).json()
        following = (await client.get("/api/v1/policies/history", params={"cursor": page["next"]})).json()
        names = (await client.get("/api/v1/policies", params={"limit": 1})).json()
        newest = await client.get(f"/api/v1/policies/history/{page['items'][0]['id']}")
        none = await client.get("/api/v1/policies/history/2000000000")
    assert shown["active_version"] == 2
    assert [(each["version"], each["active"]) for each in shown["versions"]] == [(2, True), (1, False)]
    assert (source["source"], source["active"]) == (SEED, False)
    assert (missing.status_code, unknown.status_code) == (404, 404)
    kinds = [each["kind"] for each in (*page["items"], *following["items"])]
    assert kinds == ["activate", "initial"]
    assert newest.json() == page["items"][0]
    assert none.status_code == 404
    assert names["active_set"] == await stage.active_hash()


@pytest.mark.parametrize(
    ("source", "document", "expected"),
    [
        (SEED, READ, {"allowed": True, "reasons": ["sark.authz"]}),
        (SEED, {}, {"allowed": False, "reasons": ["policy_denied"]}),
        (
            'package a\nimport rego.v1\nallow := true\ndeny contains "closed" if input.late\n',
            {"late": True},
            {"allowed": False, "reasons": ["closed"]},
        ),
    ],
)
async def test_a_policy_can_be_tried(
    stage: Stage, source: str, document: dict[str, Any], expected: dict[str, Any]
) -> None:
    await stage.put("authorization", NOBODY)
    await stage.put("authorization", source, activate=False)
    async with stage.client("operator:otto") as client:
        body = {"policy_name": "authorization", "input": document}
        newest = await client.post("/api/v1/policies/test", json=body)
        oldest = await client.post("/api/v1/policies/test", json={**body, "version": 1})
    assert newest.json() == expected
    assert next(iter(newest.json())) == "allowed"
    assert oldest.json()["allowed"] is False
    assert [event.outcome for event in await stage.outbox(codes.POLICY_TESTED)] == [
        "allow" if expected["allowed"] else "deny",
        "deny",
    ]


@pytest.mark.parametrize(
    "body",
    [
        b'{"policy_name": "authorization", "input": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"policy_name": "authorization", "input": {"a": "\\ud800"}}',
        b'{"policy_name": "a\\u0000", "input": {}}',
        b'{"policy_name": "authorization", "input": {}, "version": 99999999999}',
        b'{"policy_name": "authorization", "input": [], "extra": 1}',
        b"",
    ],
)
async def test_what_cannot_be_tried_is_refused(stage: Stage, body: bytes) -> None:
    await stage.put("authorization", SEED)
    async with stage.client() as client:
        answer = await client.post("/api/v1/policies/test", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


async def test_the_decision_cache_is_flushed_everywhere(stage: Stage) -> None:
    await stage.put("authorization", SEED)
    stage.worker.decider.decide(READ)
    assert stage.worker.decider.cached_entries == 1
    async with stage.client("viewer:bob") as client:
        assert (await client.post("/api/v1/policies/cache/flush")).status_code == 403
    async with stage.client("operator:otto") as client:
        assert (await client.post("/api/v1/policies/cache/flush")).json()["revision"] >= 1
    assert stage.worker.decider.cached_entries == 0
    assert len(await stage.outbox(codes.POLICY_CACHE_FLUSHED)) == 1


async def test_a_set_known_good_once_is_so_again(stage: Stage) -> None:
    first = await stage.put("authorization", SEED)
    marked = await stage.known_good.mark(stage.context, first)
    assert isinstance(marked, Approval)
    await stage.approve(marked)
    assert not isinstance(await stage.known_good.mark(stage.context, first), Approval)
    await stage.put("authorization", NOBODY)
    again = await stage.activate("authorization", 1)
    assert again.activation.hash == first
    assert again.activation.known_good_at is not None
    assert again.activation.activated_at - again.activation.known_good_at < timedelta(seconds=1)
