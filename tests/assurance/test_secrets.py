"""Secrets: what is found, what fails the gate, what a scan finds, rotations with proof, and what nobody uses."""

from __future__ import annotations

import asyncio
import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from stage import Stage

from bailiwick.app.assurance.secrets import CHANNELS, OUTSIDE, local_of, secret_in, tries_of
from bailiwick.assurance.book import BadBook
from bailiwick.assurance.notices.channels import secret_aad
from bailiwick.assurance.rotators import ApiKeySecrets, ApplicationSecrets, KeyEncryptionKey, ReplacedOutside
from bailiwick.assurance.secret_forms import class_of, findings_in, fingerprint, known, scan
from bailiwick.assurance.secret_rotation import Rotations
from bailiwick.assurance.secrets import KINDS, Local, Secret, SecretInventory, judge, key_aad
from bailiwick.assurance.secrets_api import routes
from bailiwick.assurance.unused import UnusedReview
from bailiwick.evidence.events import Context
from bailiwick.inventory.credentials import Secret as Stored
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

TEST_KEY = "sk_" + "test_" + "a1B2c3D4e5F6g7H8i9J0k1L2"  # assembled: no scan of this file finds it
LIVE_KEY = "sk_" + "live_" + "a1B2c3D4e5F6g7H8i9J0k1L2"
KEY = b"f" * 32


class Desk:
    """The inventory of a zone with people."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage, self.directory = stage, directory
        people = stage.people
        self.file = KekFile(directory / "kek")
        self.file.ensure()
        self.settings: dict[str, str] = {}
        self.inventory = SecretInventory(
            stage.clock, stage.recorder, stage.books, stage.heard, stage.heard, stage.heard, environment="production",
            sealer=lambda: people.sealer,
            local=Local(self.settings, None, self.file.path, directory / "first", directory / "pgpass"),
            sealed=[CHANNELS],
        )  # fmt: skip
        self.kek_rotations = 0

        async def rotate_kek(context: Context) -> None:
            self.kek_rotations += 1
            fresh = self.file.add()
            for kid in self.file.ids():
                if kid != fresh:
                    self.file.retire(kid)

        self.taken: set[str] = set()

        async def present(old: str) -> bool | None:
            return old in self.taken

        tries = {"setting/database_url": present}
        self.rotations = Rotations(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.records,
            {
                **{kind: ReplacedOutside(kind, stage.database, stage.clock, self.inventory, tries) for kind in OUTSIDE},
                "application": ApplicationSecrets(stage.database, stage.clock, people.applications),
                "api-key": ApiKeySecrets(stage.database, stage.clock, people.api_keys),
                "kek": KeyEncryptionKey(stage.clock, self.file.load, rotate_kek),
            },
        )  # fmt: skip
        self.unused = UnusedReview(
            stage.database, stage.clock, stage.ids, stage.recorder, people.users, stage.heard, stage.heard
        )
        stage.serve(routes(stage.database, stage.clock, self.inventory, self.rotations, self.unused))
        os.utime(self.file.path, (stage.clock.time(), stage.clock.time()))

    async def credential(self, name: str, token: str) -> None:
        await self.stage.people.credentials.create(self.stage.context(), name, Stored("bearer", None, {"token": token}))

    async def check(self) -> tuple[Verdict, dict[str, Any]]:
        async with self.stage.database.begin() as tx:
            verdict, judged = await self.inventory.check(tx, self.stage.context())
        return verdict, {each.secret.name: each for each in judged}

    async def call(self, method: str, path: str, body: Any = None, who: str = "jane") -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call(method, f"/api/v1/secrets{path}", body, token=token)
        return answer.status, answer.json()


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return Desk(Stage(house, KINDS), tmp_path)


def document(name: str, reference: str, class_: str = "live", more: str = "") -> str:
    return (
        f"apiVersion: bailiwick/v1\nkind: Secret\nmetadata: {{name: {name}}}\nspec: {{reference: '{reference}',"
        f" class: {class_}, owner: secrets-management, created_at: '2026-01-01T00:00:00Z'{more}}}\n---\n"
    )


@pytest.mark.parametrize(
    ("value", "class_"),
    [
        (TEST_KEY, "test"),
        ("AKIA" + "IOSFODNN7EXAMPLE", "test"),
        ("changeme", "default"),
        ("ChangeMe", "default"),
        ("your-256-bit-secret", "default"),
        ("aaaaaaaaaaaa", "default"),
        (LIVE_KEY, "live"),
        ("Zk3.vT8qLw0sXy9Rb2NcHd5f", "unknown"),
    ],
)
def test_what_kind_a_value_is_is_known_by_form_and_by_fingerprint(value: str, class_: str) -> None:
    assert class_of(value)[0] == class_


def test_the_list_of_known_keys_holds_digests_and_classes_alone() -> None:
    assert len(known()) >= 40
    assert all(len(digest) == 64 and kind in ("test", "default") for digest, kind in known().items())


@given(st.text(max_size=300))
def test_no_text_breaks_the_scan_or_is_shown_by_it(text: str) -> None:
    for finding in findings_in("a", text, KEY, {}):
        assert finding.line >= 1 and len(finding.fingerprint) == 24


async def test_our_own_are_found_by_themselves_and_no_value_is_told(desk: Desk) -> None:
    await desk.credential("pay", LIVE_KEY)
    desk.settings["metrics_token"] = "Zk3.vT8qLw0sXy9Rb2NcHd5f"
    await desk.stage.people.user("jane")
    await desk.stage.people.applications.create(desk.stage.context(), "admin", "app")
    status, said = await desk.call("GET", "")
    assert status == 200
    assert {each["name"]: each["class"] for each in said["secrets"]} == {
        "application/app": "live", "credential/pay": "live", "kek": "live", "setting/metrics_token": "live",
    }  # fmt: skip
    for value in (LIVE_KEY, "Zk3.vT8qLw0sXy9Rb2NcHd5f", desk.file.path.read_text().split()[1]):
        assert value not in str(said)
    assert (await desk.check())[0] is Verdict.PASS


async def test_a_test_key_in_production_fails_until_a_waiver_and_again_after_it(desk: Desk) -> None:
    await desk.credential("pay", TEST_KEY)
    await desk.stage.apply(document("pay", "credential:pay", "live"))  # to call it live does not make it so
    verdict, judged = await desk.check()
    assert (verdict, judged["credential/pay"].control) == (Verdict.FAIL, "secret-class")
    desk.stage.heard.waivers["secret-class", "secret/credential/pay"] = "w-1"
    verdict, judged = await desk.check()
    assert (verdict, judged["credential/pay"].waiver, desk.stage.heard.uses) == (
        Verdict.PASS, "w-1", [("w-1", "secrets")],
    )  # fmt: skip
    status, said = await desk.call("POST", "/check")
    assert (status, said["verdict"], said["waivers"]) == (200, "PASS", ["w-1"])
    desk.stage.heard.waivers.clear()
    assert (await desk.check())[0] is Verdict.FAIL


async def test_what_nobody_said_the_class_of_is_no_data(desk: Desk) -> None:
    await desk.credential("pay", "Zk3.vT8qLw0sXy9Rb2NcHd5f")
    assert (await desk.check())[0] is Verdict.NO_DATA
    await desk.stage.apply(document("pay", "credential:pay"))
    assert (await desk.check())[0] is Verdict.PASS


async def test_a_date_that_is_past_fails_and_is_told_ahead(desk: Desk) -> None:
    await desk.stage.apply(document("psp", "vault:kv/psp", more=", max_age_days: 30"))
    rotate_by = datetime(2026, 1, 31, tzinfo=UTC)
    sent: list[int] = []
    for _ in range(27):
        before = len(desk.stage.heard.notices)
        async with desk.stage.database.begin() as tx:
            await desk.inventory.watch(tx, "default")
        sent += [(rotate_by - desk.stage.clock.now()).days] * (len(desk.stage.heard.notices) - before)
        desk.stage.clock.advance(86_400)
    assert sent == [13, 6, 0]
    assert desk.stage.heard.open_alerts["secret/psp"].owner == "secrets-management"
    assert (await desk.check())[1]["psp"].control == "secret-rotation"


async def test_a_referenced_value_is_fingerprinted_and_classed_where_it_can_be_reached(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BW_TEST_PSP", TEST_KEY)
    await desk.stage.apply(document("psp", "env:BW_TEST_PSP"))
    _, judged = await desk.check()
    assert (judged["psp"].secret.class_, judged["psp"].verdict) == ("test", Verdict.FAIL)
    assert len(judged["psp"].secret.fingerprint) == 24


async def test_a_value_in_the_place_of_a_reference_is_refused(desk: Desk) -> None:
    for reference in (f"env:{TEST_KEY}", LIVE_KEY, "changeme"):
        with pytest.raises(BadBook):
            await desk.stage.apply(document("psp", reference))


async def test_a_secret_without_an_end_is_refused(desk: Desk) -> None:
    text = document("psp", "env:X").replace(", created_at: '2026-01-01T00:00:00Z'", "")
    with pytest.raises(BadBook) as refused:
        await desk.stage.apply(text)
    assert "without an end" in str(refused.value)


def test_development_takes_test_keys() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    secret = Secret("a", "declared", "test", "", "o", now, now + timedelta(days=1))
    assert judge(secret, "development", now).verdict is Verdict.PASS
    assert judge(secret, "production", now).verdict is Verdict.FAIL


def test_a_scan_finds_planted_secrets_by_form_by_digest_and_ours_by_fingerprint(tmp_path: Path) -> None:
    ours = "Zk3.vT8qLw0sXy9Rb2NcHd5f"
    clean = tmp_path / "clean.txt"
    clean.write_text("a report of 12 lines\nchange me if you like; the test is over\nuuid 0190c3b8-7c3e-7a5c-9c2d\n")
    assert scan([clean], KEY, {fingerprint(KEY, ours): "credential/pay"}) == ([], 1)
    planted = tmp_path / "planted.txt"
    planted.write_text("x" * (1 << 20) + f"\nfine\nkey={TEST_KEY} \nmy {ours} here\nAKIA" + "IOSFODNN7EXAMPLE\n")
    found, read = scan([tmp_path], KEY, {fingerprint(KEY, ours): "credential/pay"})
    assert read == 2
    assert sorted((each.line, each.class_, each.what) for each in found) == [
        (3, "test", "Stripe test key"), (4, "live", "credential/pay"), (5, "test", "AWS sample key"),
    ]  # fmt: skip
    assert ours not in str(found) and TEST_KEY not in str(found)


# ---------------------------------------------------------------------- rotation


async def test_the_old_secret_of_an_application_is_presented_and_refused(desk: Desk) -> None:
    await desk.stage.people.user("jane")
    _, old = await desk.stage.people.applications.create(desk.stage.context(), "admin", "app")
    wrong = {"kind": "application", "name": "app", "old": old[:-1] + ("x" if old[-1] != "x" else "y")}
    assert (await desk.call("POST", "/rotations", wrong))[0] == 400
    status, said = await desk.call("POST", "/rotations", {"kind": "application", "name": "app", "old": old})
    assert (status, said["verdict"]) == (201, "PASS"), said
    async with desk.stage.database.begin() as tx:
        stored = await desk.stage.records.get(tx, "default", said["record"])
        told = await desk.stage.records.output(tx, stored)
    assert stored.record.exit == 0 and b"refused: invalid_client" in told
    assert said["secret"]["secret"] != old
    status, listed = await desk.call("GET", "/rotations")
    assert said["secret"]["secret"] not in str(listed) and old not in str(listed)
    status, said = await desk.call("POST", "/rotations", {"kind": "application", "name": "app"})
    assert said["verdict"] == "NO_DATA"  # nothing was presented, so nothing is proven


async def test_an_api_key_overlaps_and_is_proven_refused_afterwards(desk: Desk) -> None:
    await desk.stage.people.user("jane")
    context = desk.stage.context("jane")
    key, old = await desk.stage.people.api_keys.create(context, "admin", "k", ["servers:read"], life=timedelta(days=30))
    body = {"kind": "api-key", "name": key.id, "old": old, "overlap_hours": 24}
    status, said = await desk.call("POST", "/rotations", body)
    assert (status, said["verdict"]) == (201, "NOT_DUE"), said
    desk.stage.clock.advance(86_400)
    _, proven = await desk.call("POST", f"/rotations/{said['id']}/prove", {"old": old})
    assert (proven["verdict"], proven["old"]) == ("PASS", key.id)
    assert (await desk.call("POST", f"/rotations/{said['id']}/prove", {"old": old}))[0] == 409


async def test_an_old_key_that_is_still_taken_fails_the_proof(desk: Desk) -> None:
    await desk.stage.people.user("jane")
    context = desk.stage.context("jane")
    key, old = await desk.stage.people.api_keys.create(context, "admin", "k", ["servers:read"], life=timedelta(days=30))
    _, said = await desk.call("POST", "/rotations", {"kind": "api-key", "name": key.id, "old": old, "overlap_hours": 1})
    desk.stage.clock.advance(3600)
    async with desk.stage.database.begin() as tx:  # somebody prolonged it
        await tx.run("UPDATE api_keys SET expires_at = :then", then=desk.stage.clock.now() + timedelta(days=9))
    _, proven = await desk.call("POST", f"/rotations/{said['id']}/prove", {"old": old})
    assert proven["verdict"] == "FAIL"


async def test_what_the_old_kek_wrapped_does_not_open_any_more(desk: Desk) -> None:
    await desk.stage.people.user("jane")
    before = desk.file.ids()
    status, said = await desk.call("POST", "/rotations", {"kind": "kek", "name": "kek"})
    assert (status, said["verdict"], desk.kek_rotations) == (201, "PASS", 1), said
    assert [said["old"]] == before and [said["new"]] == desk.file.ids()


async def test_the_kek_is_rotated_by_somebody_who_proved_himself_just_now(desk: Desk) -> None:
    house, body = desk.stage.people, {"kind": "kek", "name": "kek"}
    await house.user("jane")
    async with house.database.begin() as tx:
        await tx.run(
            "INSERT INTO factors (id, zone, username, kind, name, created_at, confirmed_at)"
            " VALUES (:id, 'default', 'jane', 'totp', 'app', now(), now())",
            id=house.ids(),
        )
    weak, strong = await house.signed_in("jane"), await house.signed_in("jane", amr=("pwd", "otp", "mfa"))
    refused = await desk.stage.call("POST", "/api/v1/secrets/rotations", body, token=weak)
    assert (refused.status, refused.json()["reason"]) == (401, "insufficient_user_authentication")
    for hour in (3600, -3600):  # a proof of an hour ago, and one of a clock that was put back since
        house.clock.set_wall(hour)
        late = await desk.stage.call("POST", "/api/v1/secrets/rotations", body, token=strong)
        assert (late.status, late.json()["reason"]) == (401, "insufficient_user_authentication")
        assert desk.kek_rotations == 0
        strong = await house.signed_in("jane", amr=("pwd", "otp", "mfa"))
    done = await desk.stage.call("POST", "/api/v1/secrets/rotations", body, token=strong)
    assert (done.status, desk.kek_rotations) == (201, 1), done.json()


# ---------------------------------------------------------------------- unused


async def test_what_nobody_used_is_listed_kept_or_disabled_and_comes_back(desk: Desk) -> None:
    people, clock = desk.stage.people, desk.stage.clock
    for name, role in (("jane", "admin"), ("idle", "operator"), ("busy", "operator"), ("viv", "viewer")):
        await people.user(name, role)
    now = clock.now()
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET created_at = :old", old=now - timedelta(days=400))
        await tx.run("UPDATE users SET last_login_at = :then", then=now - timedelta(days=30))
        await tx.run("UPDATE users SET last_login_at = :then WHERE username = 'idle'", then=now - timedelta(days=31))
        await tx.run("UPDATE users SET last_login_at = :now WHERE username IN ('jane', 'busy')", now=now)
    assert await desk.unused.list_unused(now) == {"listed": 1}
    assert await desk.unused.list_unused(now) == {"listed": 0}
    _, said = await desk.call("GET", "/review")
    (review,) = said["reviews"]
    assert (review["name"], review["idle_days"], review["state"]) == ("idle", 31, "listed")
    assert (await desk.unused.disable_due(now))["disabled"] == 0
    clock.advance(7 * 86_400)
    assert (await desk.unused.disable_due(now))["disabled"] == 1
    assert await people.value("SELECT is_active FROM users WHERE username = 'idle'") is False
    await people.user("ada")
    back = {"note": "back from leave"}
    status, said = await desk.call("POST", f"/review/{review['id']}/restore", back)
    assert (status, said["approval"]["action"], said["approval"]["candidates"]) == (202, "user.enable", ["ada"])
    await people.approve(said["approval"], "ada")
    status, said = await desk.call("POST", f"/review/{review['id']}/restore", back)
    assert (status, said["state"]) == (200, "restored")
    assert await people.value("SELECT is_active FROM users WHERE username = 'idle'") is True
    names = [event.name for event in await people.events() if event.name.startswith("unused.")]
    assert names == ["unused.disabled", "unused.restored"]


async def test_what_a_person_kept_or_somebody_used_meanwhile_stays(desk: Desk) -> None:
    people, clock = desk.stage.people, desk.stage.clock
    await people.user("jane")
    await people.user("idle", "operator")
    await people.user("late", "operator")
    async with desk.stage.database.begin() as tx:
        old = clock.now() - timedelta(days=60)
        await tx.run("UPDATE users SET last_login_at = :old WHERE username IN ('idle', 'late')", old=old)
        await tx.run("UPDATE users SET last_login_at = :now WHERE username = 'jane'", now=clock.now())
    await desk.unused.list_unused(clock.now())
    _, said = await desk.call("GET", "/review")
    reviews = {each["name"]: each["id"] for each in said["reviews"]}
    assert (await desk.call("POST", f"/review/{reviews['idle']}/keep", {"note": "x"}, who="idle"))[0] == 403
    assert (await desk.call("POST", f"/review/{reviews['idle']}/keep", {"note": "needed"}))[1]["state"] == "kept"
    await people.signed_in("late")
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET last_login_at = :now WHERE username = 'late'", now=clock.now())
    clock.advance(7 * 86_400)
    done = await desk.unused.disable_due(clock.now())
    assert (done["disabled"], done["used_since"]) == (0, 1)


def test_the_key_of_fingerprints_is_bound_to_its_zone() -> None:
    assert key_aad("a") != key_aad("b")
    assert fingerprint(b"a" * 32, "x") != fingerprint(b"b" * 32, "x")


# --- what others replace


def test_every_secret_setting_is_in_the_inventory(tmp_path: Path) -> None:
    addresses = {
        "database_url": "postgresql+psycopg://app:p%40ss@db.example.com/bailiwick",
        "database_direct_url": "postgresql+psycopg://app@db.example.com/bailiwick?password=direct",
        "redis_url": "rediss://:cache-word@redis.example.com:6379/0",
    }
    secret = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    values: dict[str, Any] = {name: addresses.get(name, f"word-of-{name}") for name in secret}
    settings = Settings(data_dir=tmp_path, **values)
    found = local_of(settings, Layout(tmp_path)).settings
    assert found.keys() == set(secret)
    assert [found[name] for name in addresses] == ["p@ss", "direct", "cache-word"]
    assert secret_in("redis://redis.example.com") == ""  # no password, no secret


async def test_all_kinds_of_our_own_are_listed_by_reference_and_fingerprint(desk: Desk) -> None:
    zone, sealer = "default", desk.stage.people.sealer
    desk.settings |= {"database_url": "Zk3.vT8qLw0s", "redis_url": "Xy9.Rb2NcHd5"}
    (desk.directory / "pgpass").write_text("*:*:*:bailiwick_admin:Qw8.eR5tY1u")
    desk.file.add()  # as a rotation that was interrupted leaves them
    async with desk.stage.database.begin() as tx:
        await tx.run(
            "INSERT INTO channel_secrets (zone, name, sealed, set_at, set_by) VALUES (:zone, 'ops-chat', :sealed, :now,"
            " 'root')", zone=zone, sealed=sealer.seal(b"Pl4.nTed9w0rd", secret_aad(zone, "ops-chat")),
            now=desk.stage.clock.now(),
        )  # fmt: skip
        found = {each.name: each for each in await desk.inventory.found(tx, zone)}
    wanted = {"setting/database_url", "setting/redis_url", "database-password", "channel/ops-chat", "kek"}
    assert wanted <= found.keys() and sum(name.startswith("kek/") for name in found) == 1
    told = str([each.document() for each in found.values()])
    assert not [word for word in ("Zk3", "Xy9", "Qw8", "Pl4") if word in told]
    assert all(found[name].fingerprint and found[name].rotate_by for name in wanted)


async def test_a_setting_that_was_replaced_is_proven_by_presenting_the_old_one(desk: Desk) -> None:
    async def rotated(old: str = "", **more: Any) -> tuple[int, Any]:
        body = {"kind": "setting", "name": "database_url", "old": old, **more}
        return await desk.call("POST", "/rotations", body)

    desk.settings["database_url"] = "Zk3.vT8qLw0s"
    status, told = await rotated()
    assert (status, told["reason"]) == (409, "conflict")  # nobody replaced it
    desk.stage.clock.advance(86_400)
    desk.settings["database_url"] = "Nw7.pQ2zLm4k"
    assert (await rotated("never-its-value"))[0] == 400
    desk.taken = {"Zk3.vT8qLw0s"}
    status, told = await rotated("Zk3.vT8qLw0s")
    assert (status, told["verdict"]) == (201, "FAIL")  # the database still takes it
    desk.taken = set()
    status, told = await rotated("Zk3.vT8qLw0s")
    assert (status, told["verdict"]) == (201, "PASS") and told["record"]
    assert told["old"] != told["new"]
    async with desk.stage.database.begin() as tx:
        found = {each.name: each for each in await desk.inventory.found(tx, "default")}
    assert found["setting/database_url"].created_at == desk.stage.clock.now()  # its date begins anew


async def test_what_cannot_be_presented_is_attested_and_not_green(desk: Desk) -> None:
    desk.settings["redis_url"] = "Zk3.vT8qLw0s"
    await desk.check()
    desk.settings["redis_url"] = "Nw7.pQ2zLm4k"
    body = {"kind": "setting", "name": "redis_url", "old": "Zk3.vT8qLw0s", "statement": "AUTH with it was refused"}
    status, told = await desk.call("POST", "/rotations", body)
    assert (status, told["verdict"]) == (201, "NO_DATA") and told["record"]
    async with desk.stage.database.begin() as tx:
        stored = await desk.stage.records.get(tx, "default", told["record"])
    assert stored.record.verdict(desk.stage.clock.now()) is None  # words set no verdict


async def test_the_database_is_asked_whether_it_still_takes_a_password(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """PostgreSQL's protocol up to the refusal."""
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            if (await reader.readexactly(length - 4))[:4] != struct.pack("!I", 80877103):
                break
            writer.write(b"N")  # no TLS
        told = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "app"\0\0'
        writer.write(b"E" + struct.pack("!I", len(told) + 4) + told)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = SecretStr(f"postgresql+psycopg://app:now@127.0.0.1:{port}/bailiwick")
    tries = tries_of(Settings(data_dir=tmp_path, database_url=url, metrics_token=SecretStr("the-token-of-now")))  # type: ignore[call-arg]
    async with server:
        assert await tries["setting/database_url"]("before") is False
    server.close()
    await server.wait_closed()
    assert await tries["setting/database_url"]("before") is None  # who does not answer refuses nothing
    assert [await tries["setting/metrics_token"](each) for each in ("the-token-of-now", "before")] == [True, False]
