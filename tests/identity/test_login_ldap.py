"""Signing in by a real OpenLDAP directory, and by directories that are no good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from slapd import (
    BASE,
    HOST,
    READER,
    READER_WORD,
    WORD,
    Authority,
    Slapd,
    cn,
    entry,
    received,
    result,
    running,
    server,
    uid,
)

from bailiwick.evidence.events import Context
from bailiwick.identity.ldap.walk import walk
from bailiwick.identity.login.ldap import Directories, LdapLogin
from bailiwick.identity.testing import Testers
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.settings import Settings
from people_fixtures import Answer, House, Names

PROVIDERS = "/api/v1/identity-providers"
LOGIN = "/api/v1/auth/login/ldap"


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    with running() as made:
        yield made


@dataclass
class Corp:
    """A house that may reach loopback, and its directories."""

    house: House
    token: str
    ca: str
    made: list[str] = field(default_factory=list)

    async def connect(self, *urls: str, name: str = "corp", secret: str = READER_WORD, **options: Any) -> Answer:
        """Connect a directory by the API."""
        given = {"urls": list(urls), "ca": self.ca, "bind_dn": READER, "base_dn": BASE, **options}
        body = {"name": name, "kind": "ldap", "options": given, "secrets": {"bind_password": secret}}
        made = await self.house.call("POST", PROVIDERS, body, token=self.token)
        assert made.status == 201, made
        return made

    async def sign_in(self, username: str, password: str = WORD, **more: Any) -> Answer:
        return await self.house.call("POST", LOGIN, {"username": username, "password": password, **more})

    async def test(self, name: str = "corp", **body: str) -> dict[str, Any]:
        answer = await self.house.call("POST", f"{PROVIDERS}/{name}/test", body, token=self.token)
        assert answer.status == 200, answer
        told: dict[str, Any] = answer.json()
        return told

    async def failures(self) -> list[tuple[str, str]]:
        """Reason and cause of the sign-ins that came to nothing."""
        events = [event for event in await self.house.events() if event.code == "BW1002"]
        return [(event.reasons[0], str(event.details.get("cause", ""))) for event in events]


@pytest.fixture
async def corp(house: House, slapd: Slapd) -> AsyncIterator[Corp]:
    settings = Settings(data_dir=Path("/tmp"), allow_upstream_networks=("127.0.0.0/8",))
    names = Names({HOST: ["127.0.0.1"], "dc2.example.com": ["127.0.0.1"], "web.example.com": ["169.254.169.254"]})
    resolver = Resolver(house.database, house.clock, house.recorder, settings, names)
    house.directories = Directories(house.providers, resolver, house.clock)
    house.testers = Testers({"ldap": partial(walk, house.directories.make)})
    house.ldap_login = LdapLogin(
        house.database, house.clock, house.recorder, house.providers, house.admissions, house.directories
    )
    yield Corp(house, await house.signed_in("root"), slapd.authority.pem)


# ---------------------------------------------------------------------- who comes in


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
async def test_a_person_of_the_directory_signs_in_and_becomes_a_user(corp: Corp, slapd: Slapd, scheme: str) -> None:
    await corp.connect(getattr(slapd, scheme), roles={cn("engineers"): "operator"})
    signed_in = await corp.sign_in("jane")
    assert signed_in.status == 200, signed_in
    assert signed_in.json()["user"] == {"username": "jane", "role": "operator", "email": "jane@corp.example.com"}
    token = signed_in.json()["access_token"]
    me = (await corp.house.call("GET", "/api/v1/auth/me", token=token)).json()
    assert (me["providers"], me["full_name"]) == (["ldap:corp"], "Jane Doe")
    assert await corp.house.value("SELECT password_hash IS NULL FROM users WHERE username = 'jane'")
    assert await corp.house.value("SELECT method FROM sessions WHERE username = 'jane'") == "ldap"
    # again, in another letter case: the same user, and nothing to record but the sign-in
    before = len(await corp.house.events())
    assert (await corp.sign_in("JANE")).json()["user"]["username"] == "jane"
    assert [event.code for event in (await corp.house.events())[before:]] == ["BW1001"]
    assert ("user", "jane") in await corp.house.feed()
    # no way around the directory
    local = await corp.house.call("POST", "/api/v1/auth/login/local", {"username": "jane", "password": WORD})
    assert (local.status, local.json()["reason"]) == (401, "invalid_credentials")
    invited = await corp.house.call("POST", "/api/v1/users/jane/invitation", token=corp.token)
    assert (invited.status, invited.json()["reason"]) == (409, "conflict")


async def test_nested_groups_give_the_highest_role_and_circles_end(corp: Corp, slapd: Slapd) -> None:
    roles = {cn("circle").upper(): "auditor", cn("ADMINS"): "admin", r"cn=ops\2c night,ou=groups," + BASE: "viewer"}
    await corp.connect(slapd.ldaps, roles=roles)
    assert (await corp.sign_in("jane")).json()["user"]["role"] == "auditor"
    assert (await corp.sign_in("adam")).json()["user"]["role"] == "admin"


@pytest.mark.parametrize(("nesting", "role"), [(0, "viewer"), (3, "auditor"), (7, "admin")])
async def test_groups_are_followed_as_deep_as_is_said(corp: Corp, slapd: Slapd, nesting: int, role: str) -> None:
    roles = {cn("level0"): "viewer", cn("level3"): "auditor", cn("level7"): "admin"}
    await corp.connect(slapd.ldaps, roles=roles, nesting=nesting)
    assert (await corp.sign_in("deep")).json()["user"]["role"] == role


async def test_without_a_mapped_group_one_is_signed_in_and_everything_is_denied(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, roles={cn("admins"): "admin"})
    signed_in = await corp.sign_in("lone")
    assert (signed_in.status, signed_in.json()["user"]["role"]) == (200, "none")
    token = signed_in.json()["access_token"]
    for path in ("servers", "users", "sessions", "auth/factors", "policies", "identity-providers"):
        refused = await corp.house.call("GET", f"/api/v1/{path}", token=token)
        assert refused.status in (403, 404), (path, refused)
    assert (await corp.house.call("GET", "/api/v1/servers", token=token)).json()["reason"] == "permission_denied"
    assert (await corp.house.call("POST", "/api/v1/auth/logout", token=token)).status == 204


async def test_a_role_taken_in_the_directory_is_taken_here(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, roles={cn("admins"): "admin"})
    await corp.sign_in("adam")
    patch = {"options": {"roles": {cn("admins"): None, cn("staff"): "viewer"}}}
    assert (await corp.house.call("PATCH", f"{PROVIDERS}/corp", patch, token=corp.token)).status == 200
    assert (await corp.sign_in("adam")).json()["user"]["role"] == "viewer"
    changed = [event for event in await corp.house.events() if event.code == "BW1102"]
    assert changed[-1].details == {"role": "viewer", "changed": ["role"], "cause": "ldap:corp"}


async def test_a_disabled_user_stays_out(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps)
    await corp.sign_in("jane")
    assert (await corp.house.call("PATCH", "/api/v1/users/jane", {"is_active": False}, token=corp.token)).status == 200
    refused = await corp.sign_in("jane")
    assert (refused.status, refused.json()["reason"]) == (401, "account_disabled")
    assert await corp.house.value("SELECT count(*) FROM sessions WHERE username = 'jane' AND ended_at IS NULL") == 0


async def test_a_name_that_somebody_has_here_is_not_taken_over(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, roles={cn("staff"): "viewer"})
    refused = await corp.sign_in("root")
    assert (refused.status, refused.json()["reason"]) == (403, "account_not_linked")
    await corp.house.user("else")
    async with corp.house.database.begin() as tx:
        await tx.run("UPDATE users SET email = 'Jane@Corp.Example.com' WHERE username = 'else'")
    assert (await corp.sign_in("jane")).json()["reason"] == "account_not_linked"


async def test_several_directories_have_realms_and_the_first_is_the_default(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps)
    corp.house.clock.advance(1)
    await corp.connect(slapd.ldap, name="partners", name_prefix="partner.")
    assert (await corp.sign_in("jane")).json()["user"]["username"] == "jane"
    lone = await corp.sign_in("lone", realm="partners")
    assert lone.json()["user"]["username"] == "partner.lone"
    unknown = await corp.sign_in("jane", realm="nowhere")
    assert (unknown.status, unknown.json()["reason"]) == (400, "unknown_realm")
    await corp.house.call("PATCH", f"{PROVIDERS}/partners", {"enabled": False}, token=corp.token)
    assert (await corp.sign_in("lone", realm="partners")).json()["reason"] == "unknown_realm"
    in_use = await corp.house.call("DELETE", f"{PROVIDERS}/partners", token=corp.token)
    assert (in_use.status, in_use.json()["reason"]) == (409, "in_use")


async def test_a_second_factor_is_owed_after_the_directory_too(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps)
    await corp.sign_in("jane")
    await corp.house.call("PATCH", "/api/v1/users/jane", {"mfa_enabled": True}, token=corp.token)
    owed = await corp.sign_in("jane")
    assert (owed.status, owed.json()["reason"]) == (401, "mfa_enrolment_required")
    assert "access_token" not in owed.json()


async def test_ten_thousand_people_and_paged_groups(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, roles={cn("team42"): "auditor"}, page_size=10)
    assert (await corp.sign_in("user09942")).json()["user"]["role"] == "auditor"
    directory = corp.house.directories.of(await corp.house.providers.get("default", "corp"))
    from bailiwick.identity.ldap.filters import encoded

    async with directory.pool.reader() as connection:
        everybody = await connection.search(
            BASE, encoded("(objectClass=inetOrgPerson)"), ["1.1"], most=20_000, page=500
        )
        some = await connection.search(BASE, encoded("(uid=user*)"), ["1.1"], most=700, page=500)
    assert len({each.dn for each in everybody}) == len(everybody) > 10_000
    assert len(some) == 700


# ---------------------------------------------------------------------- who does not


async def test_wrong_and_unknown_answer_the_same_and_lock_the_same(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps)
    for name in ("jane", "nobody"):
        answers = [await corp.sign_in(spelled, "wrong") for spelled in (name, name.upper(), f" {name} ") * 3]
        answers.append(await corp.sign_in(name, "wrong"))
        assert {(answer.status, answer.json()["detail"]) for answer in answers} == {(401, answers[0].json()["detail"])}
        locked = await corp.sign_in(name)
        assert (locked.status, locked.json()["reason"]) == (429, "account_locked"), name
    corp.house.clock.advance(15 * 60 + 1)
    assert (await corp.sign_in("jane")).status == 200
    assert (await corp.sign_in("nobody")).json()["reason"] == "invalid_credentials"
    assert await corp.house.value("SELECT count(*) FROM login_failures WHERE username LIKE 'corp/%'") == 1


async def test_an_empty_password_never_reaches_the_directory(corp: Corp, slapd: Slapd) -> None:
    dead = "ldaps://dc2.example.com:9"
    await corp.connect(dead)
    refused = await corp.sign_in("jane", "")
    assert (refused.status, refused.json()["reason"]) == (401, "invalid_credentials")
    assert await corp.failures() == [("invalid_credentials", "empty password")]


@pytest.mark.parametrize(
    "name",
    ["*", "j*", "jane)(uid=*", "*)(objectClass=*", "jane)(|(uid=*", "\\2a", "jane\\", "(jane)", "a" * 200, "jané*"],
)
async def test_nothing_typed_changes_the_search(corp: Corp, slapd: Slapd, name: str) -> None:
    await corp.connect(slapd.ldaps)
    refused = await corp.sign_in(name)
    assert (refused.status, refused.json()["reason"]) == (401, "invalid_credentials")
    assert await corp.failures() == [("invalid_credentials", "no entry matches")]


async def test_names_with_special_characters_are_themselves(corp: Corp, slapd: Slapd) -> None:
    roles = {f"cn=Ops\\, Night,ou=groups,{BASE}": "operator", cn("staff"): "viewer"}
    await corp.connect(slapd.ldaps, username_attribute="cn", subject_attribute="entryUUID", roles=roles)
    assert (await corp.sign_in("st*r")).json()["user"] == {
        "username": "Star",
        "role": "viewer",
        "email": "",
    }
    assert (await corp.sign_in("paren(s)")).json()["user"]["username"] == "Parens"
    assert (await corp.sign_in("comma, smith")).json()["user"]["role"] == "operator"


async def test_two_entries_are_nobody(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, user_filter="(mail={username})")
    assert (await corp.sign_in("twins@corp.example.com")).json()["reason"] == "invalid_credentials"
    assert await corp.failures() == [("invalid_credentials", "several entries match")]


# ---------------------------------------------------------------------- directories that are no good


async def test_a_dead_replica_is_passed_over(corp: Corp, slapd: Slapd) -> None:
    await corp.connect("ldaps://dc2.example.com:9", slapd.ldaps)
    assert (await corp.sign_in("jane")).status == 200
    told = await corp.test()
    assert [step["passed"] for step in told["steps"]][:2] == [False, True]
    assert told["verdict"] == "FAIL" and "no connection" in told["steps"][0]["detail"]


async def test_a_directory_that_restarts_is_found_again(corp: Corp) -> None:
    from slapd import _entry, hashed, person

    small = (
        _entry(BASE, objectClass=["dcObject", "organization"], dc="example", o="Example")
        + _entry(
            READER,
            objectClass=["organizationalRole", "simpleSecurityObject"],
            cn="reader",
            userPassword=hashed(READER_WORD),
        )
        + _entry(f"ou=people,{BASE}", objectClass="organizationalUnit", ou="people")
        + person("jane")
    )
    with running(ldif=small) as other:
        await corp.connect(other.ldaps, ca=other.authority.pem)
        assert (await corp.sign_in("jane")).status == 200
        other.stop()
        down = await corp.sign_in("jane")
        assert (down.status, down.json()["reason"]) == (503, "directory_unavailable")
        assert down.headers["retry-after"]
        (away,) = await corp.house.providers.away()
        assert (away["zone"], away["name"], away["kind"]) == ("default", "corp", "ldap")
        corp.house.clock.advance(5)
        assert (await corp.sign_in("jane")).status == 503
        assert await corp.house.providers.away() == [away], "since when it is away stays what it was"
        # others ways in are not touched
        local = {"username": "root", "password": "correct horse battery"}
        assert (await corp.house.call("POST", "/api/v1/auth/login/local", local)).status == 200
        other.start()
        assert (await corp.sign_in("jane")).status == 200
        assert await corp.house.providers.away() == []


async def test_a_certificate_of_another_authority_gets_no_password(corp: Corp, slapd: Slapd, tmp_path: Path) -> None:
    await corp.connect(slapd.ldaps, ca=Authority(tmp_path, "stranger").pem)
    refused = await corp.sign_in("jane")
    assert (refused.status, refused.json()["reason"]) == (503, "directory_unavailable")
    told = await corp.test()
    assert "certificate is not accepted" in told["steps"][0]["detail"] and "`ca`" in told["steps"][0]["mend"]


async def test_a_certificate_of_another_host_gets_no_password(corp: Corp, slapd: Slapd) -> None:
    for scheme, port in (("ldaps", slapd.ldaps_port), ("ldap", slapd.ldap_port)):
        await corp.connect(f"{scheme}://dc2.example.com:{port}", name=scheme)
        assert (await corp.sign_in("jane", realm=scheme)).json()["reason"] == "directory_unavailable"
        assert "certificate is not accepted" in (await corp.test(scheme))["steps"][0]["detail"]


async def test_where_starttls_is_refused_nothing_is_said(corp: Corp) -> None:
    with running(tls=False, ldif="") as bare:
        await corp.connect(bare.ldap)
        assert (await corp.sign_in("jane")).json()["reason"] == "directory_unavailable"
        assert "StartTLS is refused" in (await corp.test())["steps"][0]["detail"]


async def test_what_follows_the_answer_to_starttls_is_never_taken_for_the_directorys(corp: Corp) -> None:
    asked: list[int] = []

    async def inject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        identifier, tag, _ = await received(reader)
        asked.append(tag)
        # the answers to the bind and the search, sent ahead in the clear
        writer.write(result(identifier, 0x78) + result(2, 0x61) + entry(3, uid("jane"), uid="jane", entryUUID="x"))
        await writer.drain()
        asked.append((await reader.read(1))[0])

    async with server(inject) as port:
        await corp.connect(f"ldap://{HOST}:{port}", timeout_s=1, connect_timeout_s=1)
        assert (await corp.sign_in("jane")).json()["reason"] == "directory_unavailable"
    assert asked[:2] == [0x77, 0x16], "after the request for TLS came anything but a TLS handshake"


async def test_a_silent_directory_holds_up_nobody_else(corp: Corp, slapd: Slapd, tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    certificate = slapd.authority.issue(HOST)
    async with server(silent, certificate) as port:
        await corp.connect(f"ldaps://{HOST}:{port}", timeout_s=1, connect_timeout_s=0.5, pool_size=2)
        started, cpu = time.monotonic(), time.process_time()
        slow = [asyncio.create_task(corp.sign_in(f"user{n:05}")) for n in range(10)]
        longest = 0.0
        while not all(task.done() for task in slow):
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)
        assert {task.result().json()["reason"] for task in slow} == {"directory_unavailable"}
        assert time.monotonic() - started < 8
        assert time.process_time() - cpu < 0.7 * (time.monotonic() - started), "waiting must not burn the processor"
        assert longest < 0.9, "waiting for it must not hold up the event loop"  # which would be for a second


async def test_too_many_who_wait_are_refused_at_once(corp: Corp, slapd: Slapd) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with server(silent, slapd.authority.issue(HOST)) as port:
        await corp.connect(f"ldaps://{HOST}:{port}", timeout_s=3, connect_timeout_s=3, pool_size=1)
        directory = corp.house.directories.of(await corp.house.providers.get("default", "corp"))

        async def ask() -> str:
            from bailiwick.identity.ldap.connection import DirectoryError
            from bailiwick.identity.ldap.directory import authenticate

            try:
                await authenticate(directory, "jane", "word")
            except DirectoryError as error:
                return str(error)
            return ""

        async with asyncio.timeout(2):
            asking = [asyncio.create_task(ask()) for _ in range(30)]
            done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in done} == {"too many wait for it already"}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize(
    "how", ["huge message", "endless entries", "huge entries", "garbage", "other number", "closes"]
)
async def test_lying_directories_end_in_a_clear_no(corp: Corp, slapd: Slapd, how: str) -> None:
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            identifier, tag, _ = await received(reader)
            if tag == 0x60:
                writer.write(result(identifier, 0x61))
            elif how == "huge message":
                writer.write(b"\x30\x84\x7f\xff\xff\xff" + b"\x02\x01\x03" + b"x" * 4096)
            elif how == "endless entries":
                for _ in range(100_000):
                    writer.write(entry(identifier, uid("jane"), uid="jane", entryUUID="x"))
                    await writer.drain()
            elif how == "huge entries":
                for _ in range(100):
                    writer.write(entry(identifier, uid("jane"), uid="j" * 1_000_000))
                    await writer.drain()
            elif how == "garbage":
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif how == "other number":
                writer.write(result(identifier + 1, 0x65))
            else:
                return
            await writer.drain()

    async with server(lie, slapd.authority.issue(HOST)) as port:
        await corp.connect(f"ldaps://{HOST}:{port}", timeout_s=2)
        async with asyncio.timeout(10):
            refused = await corp.sign_in("jane")
        assert (refused.status, refused.json()["reason"]) == (503, "directory_unavailable")


async def test_a_name_that_leads_to_the_metadata_service_is_not_connected_to(corp: Corp) -> None:
    await corp.connect("ldaps://web.example.com")
    assert (await corp.sign_in("jane")).json()["reason"] == "directory_unavailable"
    step = (await corp.test())["steps"][0]
    assert "upstream_forbidden" in step["detail"] and "ALLOW_UPSTREAM" in step["mend"]


# ---------------------------------------------------------------------- Active Directory


async def _active_directory(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: str, control: str
) -> None:
    """Enough of a domain controller to sign in at: its codes, its account control, its rule of chains."""
    while True:
        identifier, tag, contents = await received(reader)
        if tag == 0x60 and b"cn=reader" in contents:
            writer.write(result(identifier, 0x61))
        elif tag == 0x60:
            told = f"80090308: LdapErr: DSID-0C09042A, comment: AcceptSecurityContext error, data {data}, v3839"
            writer.write(result(identifier, 0x61, 49 if data else 0, told + "\x00" if data else ""))
        elif tag == 0x63 and b"1.2.840.113556.1.4.1941" in contents:
            writer.write(entry(identifier, "CN=Ops,OU=Groups,DC=example,DC=com") + result(identifier, 0x65))
        elif tag == 0x63:
            found = {"sAMAccountName": "jane", "objectGUID": "0123456789abcdef", "userAccountControl": control}
            writer.write(entry(identifier, "CN=Jane,DC=example,DC=com", **found) + result(identifier, 0x65))
        await writer.drain()


@pytest.mark.parametrize(
    ("data", "control", "status", "reason", "cause"),
    [
        ("52e", "512", 401, "invalid_credentials", "52e: wrong password"),
        ("525", "512", 401, "invalid_credentials", "525: user not found"),
        ("530", "512", 401, "account_disabled", "530: not permitted to sign in at this time"),
        ("532", "512", 401, "password_expired", "532: password expired"),
        ("533", "514", 401, "account_disabled", "533: account disabled"),
        ("701", "512", 401, "account_disabled", "701: account expired"),
        ("773", "512", 401, "password_expired", "773: password must be changed"),
        ("775", "512", 401, "invalid_credentials", "775: account locked"),
        ("999", "512", 401, "invalid_credentials", "data 999"),
        ("", "514", 401, "account_disabled", "userAccountControl: disabled"),
        ("", "512", 200, "", ""),
    ],
)
async def test_what_active_directory_says(
    corp: Corp, slapd: Slapd, data: str, control: str, status: int, reason: str, cause: str
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _active_directory(reader, writer, data, control)

    async with server(speak, slapd.authority.issue(HOST)) as port:
        await corp.connect(
            f"ldaps://{HOST}:{port}",
            active_directory=True,
            user_filter="(sAMAccountName={username})",
            username_attribute="sAMAccountName",
            subject_attribute="objectGUID",
            groups="chain",
            roles={"cn=ops,ou=groups,dc=example,dc=com": "operator"},
        )
        answer = await corp.sign_in("jane")
    assert answer.status == status, answer
    if reason:
        assert answer.json()["reason"] == reason
        told = await corp.failures()
        assert told[0][0] == reason and cause in told[0][1]
        counted = await corp.house.value("SELECT count(*) FROM login_failures")
        assert counted == (1 if reason == "invalid_credentials" else 0)
    else:
        assert answer.json()["user"]["role"] == "operator"


# ---------------------------------------------------------------------- the test button


async def test_the_test_walks_every_step_and_says_how_to_mend(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, slapd.ldap, roles={cn("engineers"): "operator"})
    good = await corp.test(username="jane", password=WORD)
    assert good["verdict"] == "PASS", good
    assert [step["step"].split()[0] for step in good["steps"]] == [
        "connect", "connect", "bind", "base", "search", "attributes", "password", "groups",
    ]  # fmt: skip
    assert WORD not in str(good) and READER_WORD not in str(good)
    for asked, step, words in (
        ({"username": "nobody"}, "search", "user_filter"),
        ({"username": "jane", "password": "wrong"}, "password", "says"),
        ({"username": "lone"}, "groups", "roles"),
    ):
        told = await corp.test(**asked)
        assert told["verdict"] == "FAIL"
        failed = [each for each in told["steps"] if not each["passed"]]
        assert [each["step"] for each in failed] == [step] and words in failed[0]["mend"]
    await corp.connect(slapd.ldaps, name="badly", secret="not it")
    assert [each["step"] for each in (await corp.test("badly"))["steps"] if not each["passed"]] == ["bind"]
    await corp.connect(slapd.ldaps, name="base", base_dn="dc=elsewhere,dc=com")
    assert [each["step"] for each in (await corp.test("base"))["steps"] if not each["passed"]] == ["base"]
    told_of = [event.details["verdict"] for event in await corp.house.events() if event.code == "BW1404"]
    assert told_of.count("PASS") == 1 and len(told_of) == 6
    assert Context  # the walk opens no session
    assert await corp.house.value("SELECT count(*) FROM sessions WHERE username = 'jane'") == 0
