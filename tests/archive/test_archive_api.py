"""The archive's and the approvals' routes, called in process."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from archive_world import START, ArchiveWorld
from fastapi import FastAPI, Request

sys.path.append(str(Path(__file__).parent.parent / "kernel"))

from asgi import Answer, call

from bailiwick.evidence import approvals
from bailiwick.evidence.api import routes as evidence_routes
from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.archive import api as archive_api
from bailiwick.evidence.archive.lives import RELEASE, Keeping
from bailiwick.evidence.archive.purge import PURGE, Endings, HotRows
from bailiwick.evidence.archive.restore import Restorer
from bailiwick.evidence.events import decode
from bailiwick.evidence.export import export_log
from bailiwick.evidence.search import Search
from bailiwick.identity.holders import holders
from bailiwick.kernel.http import Caller
from bailiwick.kernel.problems import install
from bailiwick.kernel.quorum import Quorum
from bailiwick_verify.log import Folder, verify_log
from bailiwick_verify.note import VerifierKey
from bailiwick_verify.receipt import Receipt

pytestmark = pytest.mark.made_up_events

BASE = "/api/v1/audit/archive"


class Api:
    """Calls the routes as whoever is named."""

    def __init__(self, app: Any, world: ArchiveWorld) -> None:
        self._app = app
        self._world = world

    async def __call__(
        self, method: str, path: str, body: Any = None, *, role: str = "admin", name: str = "jane", query: str = ""
    ) -> Answer:
        headers = {"x-role": role, "x-name": name, "content-type": "application/json"}
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body, default=str).encode()

        async def front(scope: Any, receive: Any, send: Any) -> None:
            state = {"zone": "default", "request_id": self._world.ids(), "ip": "192.0.2.1"}
            await self._app({**scope, "state": state}, receive, send)

        return await call(front, method, path, sent, headers, query=query)


async def proven(request: Request, caller: Caller) -> None:
    """Everybody here proved himself just now."""


@pytest.fixture
async def api(world: ArchiveWorld) -> AsyncIterator[Api]:
    app = FastAPI()
    install(app)

    async def authenticate(request: Request) -> Caller:
        return Caller(request.state.zone, request.headers["x-name"], request.headers["x-role"], "session-1")

    app.state.authenticate = authenticate
    app.state.step_up = proven
    quorum = Quorum(world.database, world.clock, world.ids, recorder_note(world.recorder), holders, [PURGE, RELEASE])
    services = archive_api.ArchiveServices(
        world.places,
        world.cold,
        Keeping(world.database, world.clock, world.ids, world.recorder, quorum),
        Endings(world.database, world.places, world.cold, world.recorder, world.clock, quorum),
        Restorer(world.database, world.cold, world.recorder, world.clock),
    )
    search = Search(world.database, None)
    app.include_router(evidence_routes(world.database, search, world.recorder, world.head_files, cold=world.cold))
    app.include_router(archive_api.routes(world.database, services, world.recorder, world.clock))
    app.include_router(approvals.routes(quorum))
    yield Api(app, world)


async def sealed(world: ArchiveWorld) -> list[str]:
    for name in ("jane", "olga"):
        world.do(
            "INSERT INTO bailiwick.users (id, zone, username, email, role, created_at, updated_at)"
            " VALUES (%s, 'default', %s, %s, 'admin', now(), now())",
            world.ids(), name, f"{name}@example.com",
        )  # fmt: skip
    await world.day(30, 0)
    ids = world.ledgered()
    world.wait(days=8)
    await world.sequence()
    await world.archivist().run()
    await HotRows(world.database, world.cold, world.recorder, world.clock).drop_due()
    await world.sequence()
    return ids


async def test_an_auditor_reads_what_is_sealed(world: ArchiveWorld, api: Api) -> None:
    assert (await api("GET", BASE)).json["sealed"]["windows"] == 0
    ids = await sealed(world)
    told = (await api("GET", BASE, role="auditor")).json
    assert (told["sealed"]["events"], told["objects"]["local"]["count"], told["holds"]) == (30, 1, 0)
    assert told["objects"]["local"]["bytes"] > 0 and told["overdue_s"] == 0
    page = (await api("GET", f"{BASE}/windows", role="auditor", query="limit=1")).json
    rest = (await api("GET", f"{BASE}/windows", role="auditor", query=f"cursor={page['next']}")).json
    assert page["windows"][0]["ordinal"] == rest["windows"][0]["ordinal"] + 1
    note = await api("GET", f"{BASE}/manifests/0", role="auditor")
    assert note.body.startswith(b"bailiwick archive manifest v1\n")
    assert (await api("GET", f"{BASE}/manifests/99")).status == 404
    proof = await api("GET", f"/api/v1/audit/events/{ids[3]}/receipt", role="auditor")
    assert (proof.status, Receipt.parse(proof.body).index) == (200, 3)
    assert (await api("POST", "/api/v1/audit/verify", role="auditor")).json["archived"] == 30
    bundle = await api("GET", "/evidence/default/tile/entries/000.p/20", role="auditor")
    assert bundle.status == 200 and ids[0].encode() in bundle.body
    report = (await api("POST", f"{BASE}/verify", role="auditor")).json
    assert (report["verdict"], report["events"]) == ("PASS", 30)


async def test_archived_events_are_exported_with_the_others(world: ArchiveWorld, tmp_path: Path) -> None:
    await sealed(world)
    done = await export_log(world.database, "default", tmp_path / "export", cold=world.cold)
    keys = [VerifierKey.parse(line) for line in (tmp_path / "export" / "verifier-keys").read_text().splitlines()]
    found, _ = verify_log(Folder(tmp_path / "export"), keys)
    # the world's clock is a simulated one, which the verifier tells
    assert found.verdict == "SIMULATED" and not found.findings and found.checked == done.events > 30


async def test_evidence_comes_back_for_a_while(world: ArchiveWorld, api: Api) -> None:
    await sealed(world)
    span = {"since": START, "until": START.replace(hour=10), "days": 3}
    back = await api("POST", f"{BASE}/restore", span, role="operator")
    assert (back.status, back.json["events"]) == (200, 30)
    assert (await api("POST", f"{BASE}/restore", {**span, "until": START}, role="operator")).status == 400
    gone = {**span, "since": START.replace(year=2020), "until": START.replace(year=2021)}
    assert (await api("POST", f"{BASE}/restore", gone, role="operator")).status == 404


async def test_two_persons_end_it_and_a_hold_stops_them(world: ArchiveWorld, api: Api) -> None:
    await sealed(world)
    wanted = {"before": START.replace(day=6), "reason": "past its life"}
    assert (await api("POST", f"{BASE}/purge", wanted)).json["reason"] == "conflict", "a year is not over"
    world.wait(days=370)
    hold = await api("POST", f"{BASE}/holds", {"reason": "lawsuit 17"}, role="auditor")
    assert hold.status == 201
    assert (await api("POST", f"{BASE}/purge", wanted)).json["reason"] == "legal_hold"
    why = {"reason": "settled"}
    release = await api("POST", f"{BASE}/holds/{hold.json['id']}/release", why, role="auditor", name="olga")
    assert (release.status, release.json["candidates"]) == (202, ["jane"])
    said = {"payload_sha256": release.json["payload_sha256"]}
    assert (await api("POST", f"/api/v1/approvals/{release.json['id']}/approve", said)).json["state"] == "approved"
    quorum = Quorum(world.database, world.clock, world.ids, recorder_note(world.recorder), holders, [RELEASE])
    keeping = Keeping(world.database, world.clock, world.ids, world.recorder, quorum)
    assert (await keeping.release_approved())["released"] == 1
    assert [each["id"] for each in (await api("GET", f"{BASE}/holds")).json["holds"]] == [hold.json["id"]]
    asked = await api("POST", f"{BASE}/purge", wanted)
    assert (asked.status, asked.json["candidates"]) == (202, ["olga"])
    path, vote = f"/api/v1/approvals/{asked.json['id']}", {"payload_sha256": asked.json["payload_sha256"]}
    assert (await api("POST", f"{path}/approve", vote)).json["reason"] == "approval_own_request"
    assert (await api("POST", f"{path}/approve", {"payload_sha256": "0" * 64}, name="olga")).status == 409
    assert (await api("POST", f"{path}/approve", vote, name="paul", role="operator")).status == 403
    assert (await api("POST", f"{path}/approve", vote, name="olga")).json["state"] == "approved"
    assert (await api("GET", path, role="auditor")).json["votes"][0]["person"] == "olga"
    listed = (await api("GET", "/api/v1/approvals", role="auditor")).json["approvals"]
    assert [each["state"] for each in listed] == ["approved", "executed"]
    assert (await api("POST", f"{path}/withdraw")).json["state"] == "withdrawn"
    assert (await api("POST", f"{path}/reject", vote, name="olga")).json["reason"] == "approval_ended"


async def test_lives_are_changed_and_only_made_to_fit(world: ArchiveWorld, api: Api) -> None:
    lives = {"seal_days": 2, "hot_days": 3, "local_days": 30, "archive_days": 400}
    assert (await api("PUT", f"{BASE}/lives", lives, role="operator")).json["version"] == 1
    assert (await api("GET", BASE)).json["lives"] == {**lives, "version": 1}
    assert (await api("PUT", f"{BASE}/lives", {**lives, "hot_days": 1}, role="operator")).status == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "roles"),
    [
        ("GET", "", None, {"admin", "auditor"}),
        ("PUT", "/lives", {}, {"admin", "operator"}),
        ("POST", "/seal", None, {"admin", "operator"}),
        ("POST", "/verify", None, {"admin", "auditor"}),
        ("POST", "/holds", {"reason": "why not"}, {"admin", "auditor"}),
        ("POST", "/purge", {"before": START, "reason": "why not"}, {"admin"}),
    ],
)
async def test_each_asks_for_its_permission(
    world: ArchiveWorld, api: Api, method: str, path: str, body: Any, roles: set[str]
) -> None:
    got = {
        role: (await api(method, BASE + path, body, role=role)).status
        for role in ("admin", "operator", "auditor", "viewer")
    }
    assert {role for role, status in got.items() if status != 403} == roles, got


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/holds", {"reason": "x" * 3000}), ("/holds", {"reason": "a\x00b c"}), ("/holds", {}), ("/holds", b"["),
        ("/holds", {"reason": "why", "since": "2026-01-01"}), ("/holds", {"reason": "why", "more": 1}),
        ("/restore", {"since": START, "until": "9999-12-31T23:59:59-23:59"}), ("/purge", {"before": 1e30, "reason": "abc"}),
        ("/restore", {"since": START, "until": START, "days": 10**9}), ("/holds", {"reason": "   "}),
    ],
)  # fmt: skip
async def test_nonsense_is_refused(world: ArchiveWorld, api: Api, path: str, body: Any) -> None:
    assert (await api("POST", BASE + path, body)).status == 400


async def test_every_change_leaves_its_event(world: ArchiveWorld, api: Api) -> None:
    await api("POST", f"{BASE}/seal")
    await api("PUT", f"{BASE}/lives", {})
    hold = (await api("POST", f"{BASE}/holds", {"reason": "why not"})).json
    await api("POST", f"{BASE}/holds/{hold['id']}/release", {"reason": "settled"})
    await world.sequence()
    names = [decode(body).name for body in world.bodies().values()]
    assert names == ["archive.work.asked", "archive.lives.changed", "archive.hold.placed", "approval.requested"]
    assert "seal-archive" in world.rows("SELECT job FROM bailiwick.job_occurrences")
    world.do("DELETE FROM bailiwick.job_occurrences")
