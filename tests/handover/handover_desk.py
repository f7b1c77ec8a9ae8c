"""A handover over a real database and a real ledger: four teams with keys of ours, a book, and ports that listen."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cbor2
from ledger_world import World
from soft_key import SoftKey
from stage import Stage

from bailiwick.app.assurance import KINDS
from bailiwick.assurance.book import read_text
from bailiwick.assurance.notices.routes import ROUTE
from bailiwick.assurance.oncall.rota import ROTA
from bailiwick.assurance.oncall.service import OnCallBook
from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.owners.service import Ownership
from bailiwick.evidence import codes
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.events import Context, Subject, rfc3339
from bailiwick.evidence.evidence_records import Producer
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.pack import PackBuilder
from bailiwick.evidence.pack_requests import PackRequests
from bailiwick.evidence.pack_sections import evidence_sections
from bailiwick.handover.handovers.api import routes
from bailiwick.handover.handovers.chapters.people import Ownership as OwnershipChapter
from bailiwick.handover.handovers.escalation import Escalation, Installed
from bailiwick.handover.handovers.packing import Asked, Packer
from bailiwick.handover.handovers.pages_api import routes as page_routes
from bailiwick.handover.handovers.records import Handover, find
from bailiwick.handover.handovers.section import handover_section, selection
from bailiwick.handover.handovers.service import Around, Handovers
from bailiwick.handover.handovers.signing import Keys
from bailiwick.handover.ports import Environment, OpenIncident, Standing, Statement
from bailiwick.handover.readiness.attachments import Attachments
from bailiwick.handover.readiness.section import readiness_section
from bailiwick.identity.console.api import routes as console_routes
from bailiwick.identity.persons import Persons
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify.note import Signer, VerifierKey
from bailiwick_verify.pack import MANIFEST, NOTE, PackReport, PackStatement, verify_pack
from people_fixtures import House

MFA = ("pwd", "otp", "mfa")
SHA = "sha256:" + "a" * 64
BOOK = """
apiVersion: bailiwick/v1
kind: Activity
metadata: {name: uptime}
spec: {accountable: "person:eve", responsible: ["rota:default"], informed: ["role:product_owner"]}
---
apiVersion: bailiwick/v1
kind: Activity
metadata: {name: incident-response}
spec: {accountable: "person:eve"}
---
apiVersion: bailiwick/v1
kind: Rota
metadata: {name: default}
spec:
  start: "2026-01-01"
  levels:
    primary: {people: [eve]}
    secondary: {people: [mia]}
    lead: {people: [eve]}
    manager: {people: [mia]}
    management: {people: [mia]}
---
apiVersion: bailiwick/v1
kind: Channel
metadata: {name: makers}
spec: {slack: {}, secret_name: hook-makers}
---
apiVersion: bailiwick/v1
kind: Channel
metadata: {name: operations}
spec: {slack: {}, secret_name: hook-operations}
---
apiVersion: bailiwick/v1
kind: Route
metadata: {name: urgent}
spec: {severities: [P0, P1], channels: [makers]}
---
apiVersion: bailiwick/v1
kind: Risk
metadata: {name: growth}
spec: {item: It grows, likelihood: 2, impact: 2, mitigation: Buy more, owner: uptime, due: "2026-06-01"}
---
apiVersion: bailiwick/v1
kind: Ceremony
metadata: {name: weekly}
spec: {title: Weekly, every: {weekday: monday, at: "14:00"}, owner: uptime, roles: [ops_owner]}
---
apiVersion: bailiwick/v1
kind: Ceremony
metadata: {name: fortnightly}
spec: {title: Security, every: {weeks: 2, weekday: monday, at: "14:00"}, owner: uptime, roles: [security_owner]}
---
apiVersion: bailiwick/v1
kind: Ceremony
metadata: {name: monthly}
spec: {title: KPI, cron: "0 14 * * thu#1", owner: uptime, roles: [product_owner]}
---
apiVersion: bailiwick/v1
kind: Checkpoint
metadata: {name: t7}
spec: {title: T+7, after_days: 7, rule: waivers, owner: uptime}
---
apiVersion: bailiwick/v1
kind: Checkpoint
metadata: {name: t14}
spec: {title: T+14, after_days: 14, rule: automation, owner: uptime, checks: [owners/check]}
---
apiVersion: bailiwick/v1
kind: Checkpoint
metadata: {name: t30}
spec: {title: T+30, after_days: 30, rule: measured, owner: uptime}
"""
PLAN_TEXT = """---
apiVersion: bailiwick/v1
kind: HandoverPlan
metadata: {name: bau}
spec:
  environment: production
  from: The makers
  to: Operations
  teams:
    engineering: {people: [eve]}
    operations: {role: ops_owner}
    security: {role: security_owner}
    management: {people: [mia, eve]}
  receives: {role: ops_owner}
  activities:
    uptime: {accountable: "role:ops_owner"}
    incident-response: {accountable: "role:ops_owner"}
  rotas:
    default: {levels: {primary: {people: [olga]}, secondary: {people: [otto]}}}
  routes:
    urgent: {channels: [operations]}
"""
PEOPLE = (
    ("ada", "admin"), ("eve", "operator"), ("olga", "ops_owner"), ("otto", "ops_owner"), ("sam", "security_owner"),
    ("mia", "product_owner"), ("finn", "finance_owner"), ("viv", "viewer"),
)  # fmt: skip
SIGNERS = {"engineering": "eve", "operations": "otto", "security": "sam", "management": "mia"}


class Desk:
    """ada builds; eve, otto, sam and mia sign; olga accepts."""

    def __init__(
        self, people: House, world: World, directory: Path, issuer: str = "https://bailiwick.example.com"
    ) -> None:
        self.people, self.world, self.directory = people, world, directory
        self.stage = stage = Stage(people, KINDS)
        shared = (stage.database, stage.clock, stage.ids, stage.recorder)
        owners = Ownership(stage.books, stage.recorder, [])
        on_call = OnCallBook(*shared, stage.books)
        self.standing = Standing(Verdict.PASS, stage.clock.now())
        self.hyper = Standing(Verdict.PASS, stage.clock.now())
        self.environment: Environment | None = Environment("production", "hypercare", SHA)
        self.fires: list[OpenIncident] = []
        self.taken: list[tuple[str, str]] = []
        self.on_taking: Callable[[], None] = lambda: None
        self.proof = ""
        self.attested = ""  # the record of an attestation that rests on a document
        self.proven = Verdict.PASS
        self.chapters: dict[str, Any] = {
            "ownership": OwnershipChapter(stage.books, owners, on_call),
            "storage": self.storage,
        }
        keys = Keys(stage.clock, issuer)
        asked = Asked(stage.books, stage.records, stage.heard, Ready(self), Places(self), self.chapters, keys)
        around = Around(stage.books, owners, Ready(self), Fires(self), Places(self), stage.heard)
        self.packer = Packer(*shared, asked)
        self.handovers = Handovers(stage.database, stage.clock, stage.recorder, Persons(), keys, around)
        installed = Installed("0004_pre_handover", 30.0, with_redis=False)
        escalation = Escalation(
            stage.database, stage.clock, stage.recorder, installed, Ready(self), Fires(self), Places(self)
        )
        self.packs = PackRequests(*shared, directory, "here")
        stage.serve(
            routes(stage.database, self.packer, self.handovers, escalation, self.packs),
            page_routes(stage.database, stage.clock, self.handovers, people.cookies),
            console_routes(people.cookies, people.providers),
        )
        self.keys: dict[str, SoftKey] = {}

    async def open(self) -> Desk:
        for name, role in PEOPLE:
            await self.people.user(name, role)
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(BOOK + PLAN_TEXT, "test.yaml"))
        now = self.stage.clock.now()
        async with self.stage.database.begin() as tx:
            stored = await self.stage.records.probe(
                tx, self.stage.context("bailiwick"), "backup/restore-drill", b"restored", exit_code=0,
                since=now - timedelta(hours=2), until=now - timedelta(hours=1),
                producer=Producer(name="system:backups", program="drill", version="1"),
                expires_at=now + timedelta(days=30),
            )  # fmt: skip
        self.proof = stored.id
        return self

    async def storage(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        drill = Statement("drill", "it was restored", Verdict.PASS, "system:backups", since, until, {}, self.proof)
        rows = [{"id": "b1", "at": until}, {"id": "b2", "at": until}]
        figures = {"rows": rows, "count": 2, "password": "hunter2-is-no-secret", "share": 0.25}
        said = Statement("read", "it was read", Verdict.PASS, "bailiwick readiness", since, until, {}, self.attested)
        backups = Statement("backups", "there are two", self.proven, "job:backup", since, until, figures)
        return [drill, backups, *([said] if self.attested else [])]

    async def attest(self, document: bytes) -> str:
        """Have a statement of the pack rest on a document; its hash."""
        context, now = self.stage.context("nina"), self.stage.clock.now()
        sha256 = hashlib.sha256(document).hexdigest()
        await Attachments(self.stage.database, self.stage.clock, self.stage.recorder).keep(
            context, sha256, "application/pdf", document
        )
        async with self.stage.database.begin() as tx:
            stored = await self.stage.records.attest(
                tx, context, "readiness.production/go-live/read", "I read it",
                producer=Producer(name="nina", program="bailiwick readiness", version="1"),
                since=now - timedelta(hours=1), until=now - timedelta(hours=1), inputs={"attachment_sha256": sha256},
                expires_at=now + timedelta(days=90),
            )  # fmt: skip
        self.attested = stored.id
        return sha256

    # --- what tests do

    async def key(self, name: str, *, verifies: bool = True) -> SoftKey:
        """A passkey of ours for somebody."""
        made = self.keys[name] = SoftKey(verifies=verifies, user=name.encode())
        numbers = made.private.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        async with self.stage.database.begin() as tx:
            await tx.run(
                "INSERT INTO factors (id, zone, username, kind, name, credential_id, public_key, created_at,"
                " confirmed_at) VALUES (:id, 'default', :name, 'webauthn', 'key', :credential, :public, now(), now())",
                id=self.stage.ids(), name=name, credential=made.identifier, public=cbor2.dumps(cose),
            )  # fmt: skip
        return made

    async def say(
        self, who: str, method: str, path: str, body: Any = None, amr: tuple[str, ...] = MFA
    ) -> tuple[int, Any]:
        token = await self.people.signed_in(who, amr=amr)
        answer = await self.people.call(method, f"/api/v1/handovers{path}", body, token=token)
        return answer.status, answer.json()

    async def waive(self, name: str, control: str = "handover-statement", scope: str = "") -> str:
        """A waiver of a statement of production, with its event."""
        heard, scope = self.stage.heard, scope or f"production/{name}"
        identifier = heard.waivers[control, scope] = f"w{len(heard.approvals) + 1}"
        async with self.stage.database.begin() as tx:
            until = rfc3339(self.stage.clock.now() + timedelta(days=20))
            event = await self.stage.recorder.record(
                tx, codes.WAIVER_APPROVED, "success", self.stage.context("ada"),
                subject=Subject(id=identifier, type="waiver"), control=control, scope=scope, risk="LOW", until=until,
            )  # fmt: skip
        heard.approvals[identifier] = (event.id, until)
        return identifier

    async def build(self) -> dict[str, Any]:
        status, said = await self.say("ada", "POST", "", {"plan": "bau"})
        assert status == 201, said
        return dict(said)

    async def sign(self, built: dict[str, Any], team: str, who: str = "", **body: Any) -> tuple[int, Any]:
        """By the key that the signer has, or else by step-up."""
        who = who or SIGNERS[team]
        sent = {"team": team, "sha256": built["sha256"], **body}
        if who in self.keys and "credential" not in body:
            status, asked = await self.say(who, "POST", f"/{built['id']}/sign/options", {"team": team})
            if status != 200:
                return status, asked
            sent["credential"] = self.keys[who].get(asked["publicKey"])
        return await self.say(who, "POST", f"/{built['id']}/sign", sent)

    async def signed(self) -> dict[str, Any]:
        """A pack that all four teams signed, two of them by keys."""
        await self.key("eve")
        await self.key("sam", verifies=False)
        built = await self.build()
        self.stage.clock.advance(60)
        for team in SIGNERS:
            status, said = await self.sign(built, team)
            assert status == 200, said
        assert said["state"] == "signed"
        return built

    async def accepted(self) -> dict[str, Any]:
        built = await self.signed()
        self.stage.clock.advance(60)
        status, said = await self.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
        assert status == 200, said
        return dict(said)

    async def stored(self, document: dict[str, Any]) -> dict[str, Any]:
        """A pack of an installation that writes what it likes: its hash is in the ledger, and everything else is sound."""
        identifier = self.stage.ids()
        async with self.stage.database.begin() as tx:
            said = {**document, "handover": identifier}
            await self.packer._store(tx, self.stage.context("ada"), identifier, "bau", said)
            return (await find(tx, "default", identifier)).summary()

    async def forged(self, document: dict[str, Any], *, late: bool) -> dict[str, Any]:
        """A pack that says ``document``, signed by all and accepted by olga, who was not asked whether she may."""
        built = await self.stored(document)
        for team in SIGNERS:
            status, answer = await self.sign(built, team)
            assert status == 200, answer
        self.stage.clock.advance(8 * 86400 if late else 60)
        async with self.stage.database.begin() as tx:
            changed: Any = SimpleNamespace(revision=1, differences=[])
            found = await find(tx, "default", built["id"])
            await self.handovers._conclude(tx, self.stage.context("olga"), found, "olga", changed)
        return built

    async def found(self, built: dict[str, Any]) -> Handover:
        async with self.stage.database.begin() as tx:
            return await find(tx, "default", built["id"])

    async def book(self) -> dict[str, Any]:
        """Who answers, is called and told, by the book in force."""
        async with self.stage.database.begin() as tx:
            book = await self.stage.books.current(tx, "default")
        return {
            "uptime": book.of(ACTIVITY)["uptime"].accountable,
            "primary": book.of(ROTA)["default"].levels["primary"].people,
            "lead": book.of(ROTA)["default"].levels["lead"].people,
            "urgent": book.of(ROUTE)["urgent"].channels,
        }

    # --- offline

    async def signer(self) -> Signer:
        return (await self.world.keys.signer("default"))[1]

    async def trusted(self) -> list[VerifierKey]:
        async with self.world.database.begin() as tx:
            return list((await ledger_keys(tx, "default")).values())

    async def zipped(self, built: dict[str, Any], name: str = "handover.zip", cold: ColdEvents | None = None) -> Path:
        """The pack as somebody gets it, out of a ledger that has taken everything in. ``cold``: its archive."""
        sequencer = self.world.sequencer()
        await sequencer.drain()
        sequencer.close()
        builder = PackBuilder(
            self.world.database, self.stage.clock, self.stage.ids, self.stage.recorder, self.world.keys, "1.2.3",
            head_files=self.world.head_files,
        )  # fmt: skip
        for section in (*evidence_sections(None), handover_section(cold), readiness_section()):
            builder.register(section)
        path = self.directory / name
        await builder.build(selection(await self.found(built)), path, self.stage.context("ada"))
        return path

    async def check(self, path: Path) -> PackReport:
        return verify_pack(path, await self.trusted())


def repacked(path: Path, out: Path, signer: Signer, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The same pack after ``change``, signed anew by whoever has the log's key: only what is in it can tell."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    manifest = json.loads(files.pop(MANIFEST))
    files.pop(NOTE)
    old = {each["path"]: each for each in manifest["files"]}
    manifest["files"] = [
        {**old.get(name, {"section": "", "producer": "", "window": None, "verdict": None}), "path": name,
         "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(files.items())
    ]  # fmt: skip
    files[MANIFEST] = json.dumps(manifest).encode()
    files[NOTE] = bytes(PackStatement.of(signer.key.name, files[MANIFEST]).signed(signer, 1_780_000_000))
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in sorted(files.items()):
            archive.writestr(name, data)
    return out


class Ready:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def standing(self, tx: Transaction, zone: str, environment: str) -> Standing:
        return self._desk.standing


class Fires:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def open(self, tx: Transaction, zone: str) -> Sequence[OpenIncident]:
        return self._desk.fires


class Places:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, tx: Transaction, zone: str, name: str) -> Environment | None:
        found = self._desk.environment
        return found if found is not None and found.name == name else None

    async def went_live(self, tx: Transaction, context: Context, name: str, digest: str, rollout: str) -> None:
        raise NotImplementedError

    async def hypercare(self, tx: Transaction, zone: str, name: str) -> Standing:
        return self._desk.hyper

    async def handed_over(self, tx: Transaction, context: Context, name: str, pack_hash: str) -> None:
        self._desk.on_taking()
        self._desk.taken.append((name, pack_hash))
