"""The builder of an installation: every room's sections, no secret, bounded memory; the API's list, the job, the command."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient
from fastapi import FastAPI, Request
from ledger_world import KEK, World
from typer.testing import CliRunner

from bailiwick.app.packs import CONTROL_TABLES, ELSEWHERE, pack_builder
from bailiwick.cli.evidence import app as commands
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.ledger import HeadFiles, ledger_keys
from bailiwick.evidence.pack import PackBuilder, Selection, Window
from bailiwick.evidence.pack_api import routes
from bailiwick.evidence.pack_requests import JOB, KEPT, PackRequests
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.clock_file import set_pace
from bailiwick.kernel.http import Caller
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.problems import install
from bailiwick.kernel.settings import Settings
from bailiwick_verify.pack import verify_pack

CONTEXT = Context("default", Actor(user="olga"))
ALL = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
PLANTED = "planted-" + "0123456789abcdef" * 2


@pytest.fixture
def layout(world: World) -> Layout:
    layout = Layout(world.root)
    layout.create()
    (layout.secrets / "kek").write_text(f"k1 {KEK.hex()}\n")
    world.head_files = HeadFiles(layout.heads)
    return layout


def whole_builder(world: World, layout: Layout) -> PackBuilder:
    settings = Settings(
        data_dir=layout.data_dir,
        database_url=f"postgresql://bailiwick:{PLANTED}@db/x",
        redis_url=f"redis://:{PLANTED}@r",
        metrics_token=PLANTED,
    )  # type: ignore[call-arg]
    return pack_builder(
        settings, layout, world.database, world.clock, world.ids, world.recorder, world.keys, lambda: world.sealer
    )


async def verdict(world: World, path: Path) -> Any:
    async with world.database.begin() as tx:
        return verify_pack(path, list((await ledger_keys(tx, "default")).values()))


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def plant(world: World, layout: Layout) -> None:
    """Secrets wherever an installation keeps some."""
    sealed = world.sealer.seal(PLANTED.encode(), b"x")
    world.do(
        "INSERT INTO bailiwick.users (id, zone, username, email, role, password_hash, invitation_hash, created_at, updated_at)"
        " VALUES ('u1', 'default', 'jane', 'jane@example.com', 'viewer', %s, %s, now(), now())",
        f"$argon2id${PLANTED}", PLANTED.encode(),
    )  # fmt: skip
    world.do(
        "INSERT INTO bailiwick.applications (id, zone, name, role, secret_hash, secret_rotated_at, created_at, updated_at)"
        " VALUES ('a1', 'default', 'agent', 'operator', %s, now(), now(), now())",
        PLANTED,
    )
    world.do(
        "INSERT INTO bailiwick.credentials (id, zone, name, kind, sealed, created_at, rotated_at)"
        " VALUES ('c1', 'default', 'pay-key', 'bearer', %s, now(), now())",
        PLANTED.encode() + sealed,
    )
    world.do(
        "INSERT INTO bailiwick.idempotency_keys (zone, caller, key, fingerprint, holder, claimed_until, body, created_at)"
        " VALUES ('default', 'jane', 'k', 'f', 'h', now(), %s, now()) ON CONFLICT DO NOTHING",
        PLANTED.encode(),
    )
    now = datetime.now(UTC).isoformat()
    (layout.logs / "w1.log").write_text(
        json.dumps({"ts": now, "event": f"password={PLANTED}"})
        + "\n"
        + json.dumps({"ts": now, "event": "started"})
        + "\n"
    )
    (layout.secrets / "administrator-password").write_text(PLANTED)


async def test_no_secret_is_in_a_pack(world: World, layout: Layout, tmp_path: Path) -> None:
    plant(world, layout)
    await world.filled(5)
    path = tmp_path / "p.zip"
    await whole_builder(world, layout).build(Selection("default", windows=(ALL,), inputs=True), path, CONTEXT)
    report = await verdict(world, path)
    assert report.verdict == "PASS", report.findings
    private = world.rows("SELECT private_sealed FROM bailiwick.zone_keys")
    forbidden = [
        PLANTED.encode(),
        PLANTED.encode().hex().encode(),
        base64.b64encode(PLANTED.encode())[:20],
        KEK.hex().encode(),
    ]
    forbidden += [bytes(each) for each in private] + [bytes(each).hex().encode() for each in private]
    files = contents(path)
    for name, data in files.items():
        assert not [each for each in forbidden if each in data], name
    users = [json.loads(line) for line in files["control/users.jsonl"].splitlines()]
    assert [user["username"] for user in users] == ["jane"] and "password_hash" not in users[0]
    assert json.loads(files["configuration/settings.json"])["settings"]["metrics_token"] == "(set)"
    assert b"started" in files["logs/w1.log.txt"] and b"[redacted]" in files["logs/w1.log.txt"]
    assert json.loads(files["configuration/migrations.json"])["applied"].startswith("0004")
    assert json.loads(files["control/snapshot.json"])["lsn"]
    sections = {each["name"] for each in json.loads(files["manifest.json"])["sections"]}
    assert sections == {"configuration", "continued", "control", "dead-letters", "events", "handover", "heads", "inputs", "log", "logs", "policy", "readiness",
                        "receipts", "records", "timeline"}  # fmt: skip


async def test_a_pack_holds_nothing_of_another_zone(world: World, layout: Layout, tmp_path: Path) -> None:
    plant(world, layout)
    await world.filled(3)
    await world.filled(2, zone="acme", user="bob-of-acme")
    world.do("INSERT INTO ledger.dead_letters (source, segment, position, zone, reason, size, frame, at)"
             " VALUES ('s', 0, 0, 'nowhere', 'r', 0, '', now())")  # fmt: skip
    path = tmp_path / "p.zip"
    await whole_builder(world, layout).build(Selection("acme", windows=(ALL,)), path, Context("acme"))
    async with world.database.begin() as tx:
        report = verify_pack(path, list((await ledger_keys(tx, "acme")).values()))
    assert (report.verdict, report.events, report.zone) == ("PASS", 2, "acme"), report.findings
    files = contents(path)
    del files["configuration/settings.json"]  # the settings are the installation's
    for name, data in files.items():
        assert b"jane" not in data and b'"agent"' not in data and b'"zone": "default"' not in data, name
    assert not [name for name in files if name.startswith("logs/")] and not files["dead-letters/dead-letters.jsonl"]
    assert "control/users.jsonl" in files and "control/workers.jsonl" not in files


async def test_every_column_of_every_table_was_looked_at(world: World) -> None:
    known = {table.name: {*table.shown, *table.withheld} for table in CONTROL_TABLES}
    assert not known.keys() & ELSEWHERE.keys()
    for table in CONTROL_TABLES:
        assert not set(table.shown) & set(table.withheld)
        telling = [
            name for name in table.shown if any(word in name for word in ("hash", "sealed", "password_", "private"))
        ]
        assert not telling, (table.name, telling)
    found: dict[str, set[str]] = {}
    for table, column in world.rows(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'bailiwick'"
    ):
        found.setdefault(table, set()).add(column)
    undecided = {name: columns - known.get(name, set()) for name, columns in found.items() if name not in ELSEWHERE}
    assert not {name: columns for name, columns in undecided.items() if columns}, "show or withhold them in packs"
    assert known.keys() <= found.keys() and ELSEWHERE.keys() <= found.keys()


async def test_the_tables_are_of_one_instant(world: World, layout: Layout, tmp_path: Path) -> None:
    """Whatever is changed while a pack is built, its tables agree with each other."""
    await world.filled(3)
    world.do("INSERT INTO bailiwick.applications (id, zone, name, role, secret_hash, secret_rotated_at, created_at,"
             " updated_at) VALUES ('a1', 'default', 'agent', 'operator', 'x', now(), now(), now())")  # fmt: skip
    made = whole_builder(world, layout)
    seen: list[str] = []

    def meanwhile(section: str, done: int, of: int) -> None:
        if not seen:
            world.do("DELETE FROM bailiwick.applications")
            seen.append(section)

    # `control` is written before `events`: the change comes between configuration and the rest of a second pack
    path = tmp_path / "p.zip"
    await made.build(Selection("default", windows=(ALL,)), path, CONTEXT, progress=meanwhile)
    assert seen == ["events"] and b'"agent"' in contents(path)["control/applications.jsonl"]
    assert json.loads(contents(path)["control/snapshot.json"])["isolation"].startswith("repeatable read")


async def test_policies_of_the_window_are_packed(world: World, layout: Layout, tmp_path: Path) -> None:
    await world.filled(2)
    world.do("DELETE FROM bailiwick.policy_activations")
    world.do("ALTER TABLE bailiwick.policy_activations DISABLE TRIGGER policy_agreed")
    for number in (1, 2, 3):
        world.do(
            "INSERT INTO bailiwick.policy_versions (zone, name, version, sha256, source, data, dialect, report, created_by,"
            " created_at) VALUES ('default', 'authorization', %s, %s, %s, %s, 'v1', '{}', 'olga', now())",
            number, f"sha{number}", f"package p{number}", '{"x":1}' if number == 3 else "{}",
        )  # fmt: skip
        members = json.dumps([{"name": "authorization", "version": number, "sha256": f"sha{number}"}])
        world.do("INSERT INTO bailiwick.policy_sets VALUES ('default', %s, %s, now())", f"set{number}", members)
        world.do(
            "INSERT INTO bailiwick.policy_activations (zone, hash, kind, activated_by, activated_at)"
            " VALUES ('default', %s, 'activate', 'olga', now() - make_interval(days => %s))",
            f"set{number}", (4 - number) * 10,
        )  # fmt: skip
    world.do("ALTER TABLE bailiwick.policy_activations ENABLE TRIGGER policy_agreed")
    now = datetime.now(UTC)
    path = tmp_path / "p.zip"
    window = Window(now - timedelta(days=15), now + timedelta(seconds=1))
    await whole_builder(world, layout).build(Selection("default", windows=(window,)), path, CONTEXT)
    files = contents(path)
    active = [json.loads(line) for line in files["policy/activations.jsonl"].splitlines()]
    assert [(each["hash"], each["active_now"]) for each in active] == [("set2", False), ("set3", True)]
    assert files["policy/sources/authorization/3.rego"] == b"package p3"
    assert files["policy/sources/authorization/3.json"] == b'{"x":1}'
    assert "policy/sources/authorization/1.rego" not in files


# ---------------------------------------------------------------------- size


_MEASURE = """
import asyncio, sys, time, tracemalloc
sys.path[:0] = {path!r}
from pathlib import Path
from ledger_world import World
from test_pack_whole import ALL, CONTEXT, Layout, Selection, whole_builder
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
async def run():
    world = World({url!r}, Path({root!r}))
    builder = whole_builder(world, Layout(world.root))
    before, started = peak(), time.monotonic()
    built = await builder.build(Selection("default", windows=(ALL,)), Path({out!r}), CONTEXT)
    print(built.events, peak() - before, time.monotonic() - started)
    await world.close()
asyncio.run(run())
"""


def _many(world: World, count: int) -> None:
    """A ledger of many events, written the way the sequencer writes it."""
    from bailiwick.evidence.events import encode, leaf_hash
    from bailiwick.evidence.ledger import Head
    from bailiwick_verify.merkle import Edge

    body = encode(world.event(path="x" * 200))
    import psycopg

    edge, leaves = Edge(), []
    with psycopg.connect(world.url) as connection, connection.cursor() as cursor:
        columns = "zone, seq, id, at, recorded_at, code, outcome, principal, rest"
        at = datetime.now(UTC)
        with cursor.copy(f"COPY ledger.events ({columns}) FROM STDIN") as copy:
            for seq in range(count):
                one = body.replace(b'"user":"jane"', b'"user":"u%05d"' % seq)
                leaves.append(leaf_hash(one))
                copy.write_row(("default", seq, world.ids(), at, at, "BW4001", "allow", "jane", b"\n" + one))
        levels: list[list[bytes]] = [[], [], []]
        levels[0] = leaves
        for tile in edge.extend(leaves):
            levels[tile.level + 1].append(tile.root)
        for level, hashes in enumerate(levels):
            for first in range(0, len(hashes), 5000):  # as long as the batches of a sequencer
                run = hashes[first : first + 5000]
                cursor.execute(
                    "INSERT INTO ledger.hashes VALUES ('default', %s, %s, %s, %s)",
                    (level, first, len(run), b"".join(run)),
                )
        kid, signer = asyncio.run(_signer(world))
        head = Head.sign("default", count, edge.root(), at, kid, signer)
        cursor.execute(
            "INSERT INTO ledger.heads VALUES ('default', %s, %s, %s, %s, %s)",
            (head.size, head.at, head.root, kid, head.note),
        )


async def _signer(world: World) -> Any:
    other = World(world.url, world.root)
    try:
        return await other.keys.signer("default")
    finally:
        await other.close()


async def test_fifty_thousand_events_are_packed_in_bounded_memory(world: World, layout: Layout, tmp_path: Path) -> None:
    await asyncio.to_thread(_many, world, 50_000)
    path = tmp_path / "large.zip"
    code = _MEASURE.format(
        path=[entry for entry in sys.path if entry], url=world.url, root=str(world.root), out=str(path),
    )  # fmt: skip
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    told, _ = await child.communicate()
    events, grown, seconds = told.split()
    assert int(events) == 50_000
    assert int(grown) < 40_000, f"{int(grown)} KiB more for {50_000 * 560 >> 10} KiB of events"
    assert float(seconds) < 60
    report = await verdict(world, path)
    assert (report.verdict, report.events) == ("PASS", 50_000), report.findings
    assert path.stat().st_size < 8 << 20


# ---------------------------------------------------------------------- asked for over the API


@pytest.fixture
def packs(world: World, layout: Layout) -> PackRequests:
    return PackRequests(world.database, world.clock, world.ids, world.recorder, layout.packs, "this-host")


@pytest.fixture
def api(world: World, packs: PackRequests) -> ApiClient:
    app = FastAPI()
    install(app)

    async def authenticate(request: Request) -> Caller:
        return Caller(request.state.zone, "olga", request.headers["x-role"], "session-1")

    app.state.authenticate = authenticate
    app.include_router(routes(world.database, packs, world.recorder))

    async def front(scope: Any, receive: Any, send: Any) -> None:
        zone = dict(scope["headers"]).get(b"x-zone", b"default").decode()
        await app({**scope, "state": {"zone": zone, "request_id": world.ids(), "ip": "192.0.2.1"}}, receive, send)

    return ApiClient(front, {"x-role": "auditor"})


WANTED = {"windows": [{"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}], "name": "a day"}
PATH = "/api/v1/evidence/packs"


async def test_a_pack_is_asked_for_built_and_taken_away(
    world: World, layout: Layout, packs: PackRequests, api: ApiClient, tmp_path: Path
) -> None:
    await world.filled(5)
    asked = await api.post(PATH, body=WANTED)
    assert asked.status_code == 202, asked.text
    identifier = asked.json()["id"]
    assert asked.json()["state"] == "requested" and asked.json()["selection"]["name"] == "a day"
    assert world.rows("SELECT count(*) FROM bailiwick.job_occurrences WHERE job = %s AND state = 'due'", JOB) != [0]
    early = await api.get(f"{PATH}/{identifier}/file")
    assert (early.status_code, early.json()["reason"]) == (409, "pack_not_built")
    assert await packs.build_waiting(whole_builder(world, layout)) == {"built": 1, "failed": 0, "expired": 0}
    told = (await api.get(f"{PATH}/{identifier}")).json()
    assert (told["state"], told["events"]) == ("built", 5)
    got = await api.get(f"{PATH}/{identifier}/file")
    assert got.status_code == 200 and len(got.body) == told["bytes"]
    (tmp_path / "got.zip").write_bytes(got.body)
    assert (await verdict(world, tmp_path / "got.zip")).verdict == "PASS"
    assert [each["id"] for each in (await api.get(PATH)).json()["packs"]] == [identifier]
    names = [json.loads(bytes(body))["name"] for body in world.rows("SELECT event FROM bailiwick.outbox ORDER BY id")]
    assert names == ["evidence.pack.requested", "evidence.pack.built", "audit.exported"]
    assert (layout.packs.stat().st_mode & 0o777, len(list(layout.packs.iterdir()))) == (0o700, 1)


async def test_packs_stay_in_their_zone_and_on_their_machine_and_expire(
    world: World, layout: Layout, packs: PackRequests, api: ApiClient
) -> None:
    await world.filled(1)
    identifier = (await api.post(PATH, body=WANTED)).json()["id"]
    await packs.build_waiting(whole_builder(world, layout))
    for path in (f"{PATH}/{identifier}", f"{PATH}/{identifier}/file"):
        assert (await api.get(path, headers={"x-zone": "acme"})).status_code == 404
    file = layout.packs / f"{identifier}.zip"
    away = file.rename(file.with_suffix(".away"))
    assert (await api.get(f"{PATH}/{identifier}/file")).status_code == 404
    world.do("UPDATE bailiwick.evidence_packs SET host = 'another'")
    assert (await api.get(f"{PATH}/{identifier}/file")).json()["reason"] == "pack_elsewhere"
    world.do("UPDATE bailiwick.evidence_packs SET host = 'this-host'")
    away.rename(file)
    later = FakeClock(datetime.now(UTC) + KEPT + timedelta(minutes=1))
    aged = PackRequests(world.database, later, world.ids, world.recorder, layout.packs, "this-host")
    assert (await aged.build_waiting(whole_builder(world, layout)))["expired"] == 1
    assert not file.exists()
    assert (await api.get(f"{PATH}/{identifier}/file")).status_code == 404


async def test_a_pack_that_cannot_be_built_says_why(
    world: World, layout: Layout, packs: PackRequests, api: ApiClient
) -> None:
    await world.filled(1)
    unknown = (await api.post(PATH, body={"requests": [world.ids()]})).json()["id"]
    left = (await api.post(PATH, body=WANTED)).json()["id"]
    world.do("UPDATE bailiwick.evidence_packs SET attempts = 3, state = 'building' WHERE id = %s", left)
    layout.packs.mkdir()
    (layout.packs / f".{left}.zip.1.new").write_bytes(b"half")
    assert await packs.build_waiting(whole_builder(world, layout)) == {"built": 0, "failed": 2, "expired": 0}
    assert "Nothing is known" in (await api.get(f"{PATH}/{unknown}")).json()["error"]
    assert (await api.get(f"{PATH}/{left}")).json()["state"] == "failed"
    assert list(layout.packs.iterdir()) == []


async def test_what_a_dead_process_began_is_begun_again(
    world: World, layout: Layout, packs: PackRequests, api: ApiClient
) -> None:
    await world.filled(1)
    left = (await api.post(PATH, body=WANTED)).json()["id"]
    world.do("UPDATE bailiwick.evidence_packs SET attempts = 1, state = 'building'")
    assert (await packs.build_waiting(whole_builder(world, layout)))["built"] == 1
    assert (await api.get(f"{PATH}/{left}")).json()["state"] == "built"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"requests": ["x"]}, 400),
        ({"requests": ["00000000-0000-0000-0000-000000000000"] * 1001}, 400),
        ({"windows": [{"since": "2026-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"}]}, 400),
        ({"windows": [{"since": "2026-01-01T00:00:00", "until": "2026-01-02T00:00:00Z"}]}, 400),
        ({"windows": [{"since": "0001-01-01T00:00:00Z", "until": "9999-01-02T00:00:00Z"}]}, 400),
        ({**WANTED, "path": "/etc"}, 400),
        ({**WANTED, "name": "a\u0000"}, 400),
        ({"incident": "INC-1"}, 409),
    ],
)
async def test_a_bad_wish_is_refused(world: World, api: ApiClient, body: dict[str, Any], status: int) -> None:
    got = await api.post(PATH, body=body)
    assert got.status_code == status, got.text
    assert world.rows("SELECT count(*) FROM bailiwick.evidence_packs") == [0]


async def test_too_many_waiting_packs_are_refused(world: World, api: ApiClient) -> None:
    answers = [(await api.post(PATH, body=WANTED)).status_code for _ in range(21)]
    assert answers == [202] * 20 + [409]


async def test_who_may_have_packs(world: World, api: ApiClient) -> None:
    identifier = (await api.post(PATH, body=WANTED)).json()["id"]
    for role, may in (("admin", True), ("auditor", True), ("operator", False), ("viewer", False)):
        asked = await api.post(PATH, body={**WANTED, "inputs": True}, headers={"x-role": role})
        assert asked.status_code == (202 if may else 403)
        for path in (PATH, f"{PATH}/{identifier}", f"{PATH}/{identifier}/file"):
            got = await api.get(path, headers={"x-role": role})
            assert (got.status_code == 403) != may, (role, path)


# ---------------------------------------------------------------------- the command


async def cli(world: World, *arguments: str, code: int = 0) -> str:
    environment = {"BAILIWICK_DATABASE_URL": world.url, "BAILIWICK_DATA_DIR": str(world.root)}
    done = await asyncio.to_thread(CliRunner().invoke, commands, ["pack", *arguments], env=environment)
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


async def test_the_command_builds_a_pack(world: World, layout: Layout, tmp_path: Path) -> None:
    request = world.ids()
    await world.filled(3)
    await world.filled(1, request_id=request)
    out = tmp_path / "p.zip"
    told = json.loads(await cli(world, "--window", "1h..now", "-o", str(out), "--json"))
    assert told["events"] == 4 and (await verdict(world, out)).verdict == "PASS"
    assert "1 events of zone default" in await cli(world, "--request", request, "-o", str(out))
    assert (await verdict(world, out)).events == 1
    before = out.read_bytes()
    assert "no such incident" in await cli(world, "--incident", "INC-7", "-o", str(out), code=3)
    await cli(world, "--request", world.ids(), "-o", str(out), code=3)
    assert out.read_bytes() == before, "what was there stays until another is whole"


async def test_the_command_used_wrongly(world: World, layout: Layout, tmp_path: Path) -> None:
    out = str(tmp_path / "p.zip")
    await cli(world, "-o", out, code=2)
    await cli(world, "--request", "nonsense", "-o", out, code=2)
    for window in ("1h", "..now", "yesterday..now", "2026-01-02T00:00:00Z..2026-01-01T00:00:00Z"):
        await cli(world, "--window", window, "-o", out, code=2)
    await cli(world, "--window", "1h..now", "-o", str(tmp_path / "nowhere" / "p.zip"), code=2)
    await cli(world, "--window", "1h..now", "-o", str(tmp_path), code=2)
    await cli(world, "--window", "1h..now", "-o", out, code=3)  # nothing is signed yet
    (layout.secrets / "kek").unlink()
    await world.filled(1)
    assert "key-encryption key" in await cli(world, "--window", "1h..now", "-o", out, code=1)


async def test_evidence_made_where_time_is_simulated_says_so(world: World, layout: Layout, tmp_path: Path) -> None:
    set_pace(layout, 60.0)
    await world.filled(1)
    out = tmp_path / "p.zip"
    await cli(world, "--window", "1h..now", "-o", str(out))
    assert (await verdict(world, out)).verdict == "SIMULATED"


async def test_what_is_kept_byte_for_byte_is_shown_as_the_text_that_it_is(
    world: World, layout: Layout, tmp_path: Path
) -> None:
    await world.filled(1)
    body = json.dumps({"title": "Täglich"}, ensure_ascii=False).encode()
    world.do(
        "INSERT INTO bailiwick.rhythm_occurrences (id, zone, ceremony, starts_at, ends_at, made_by, state, created_at,"
        " moved_at) VALUES ('o1', 'default', 'daily', now(), now(), '1', 'done', now(), now())"
    )
    world.do(
        "INSERT INTO bailiwick.rhythm_packs (occurrence, body, sha256, verdict, built_at, built_by)"
        " VALUES ('o1', %s, repeat('0', 64), 'PASS', now(), 'bailiwick')",
        body,
    )
    path = tmp_path / "p.zip"
    await whole_builder(world, layout).build(Selection("default", windows=(ALL,)), path, CONTEXT)
    (row,) = contents(path)["control/rhythm_packs.jsonl"].splitlines()
    assert json.loads(row)["body"] == body.decode()
