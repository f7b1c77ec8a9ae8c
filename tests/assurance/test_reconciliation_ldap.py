"""What a real OpenLDAP directory says of people, against what they have here; and directories that do not say all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slapd import BASE, HOST, READER, READER_WORD, Authority, Slapd, cn, entry, received, result, running, server, uid
from stage import Stage, room_of

import bailiwick.assurance
from bailiwick.app.assurance.reconciliation import reconciliations_of
from bailiwick.assurance.book import BadBook, read_text
from bailiwick.assurance.reconciliation.directories import Directories
from bailiwick.assurance.reconciliation.findings import Findings
from bailiwick.assurance.reconciliation.service import Reconciliations, Run
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION, RECONCILIATION
from bailiwick.assurance.stuck.spec import MACHINE
from bailiwick.identity.directories import LdapOptions
from bailiwick.identity.ldap.ber import SEQUENCE, integer, octets, tlv
from bailiwick.identity.ldap.directory import Directory
from bailiwick.identity.ldap.members import TooManyEntries, read_members
from bailiwick.identity.login import ldap
from bailiwick.identity.providers import find
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.settings import Settings
from people_fixtures import House, Names

SHIPPED = (Path(bailiwick.assurance.__file__).parent / "shipped/reconciliation.yaml").read_text()
BOOK = """
apiVersion: bailiwick/v1
kind: Reconciliation
metadata: {name: staff}
spec:
  owner: access-control
  left: {ldap: %s}
  right: {own: memberships}
  keys: [{left: member, right: subject, fold: true}, {left: group, right: resource, fold: true}]
  cap: %d
"""


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    with running() as made:
        yield made


@dataclass
class Corp:
    """A zone with a directory, and what compares the two."""

    stage: Stage
    reconciliations: Reconciliations
    make: Any
    ca: str
    settings: Settings

    async def connect(self, url: str, *, secret: str = READER_WORD, name: str = "corp", **options: Any) -> None:
        given = {"urls": [url], "ca": self.ca, "bind_dn": READER, "base_dn": BASE, **options}
        body = {"name": name, "kind": "ldap", "options": given, "secrets": {"bind_password": secret}}
        token = await self.stage.people.signed_in("root")
        answer = await self.stage.call("POST", "/api/v1/identity-providers", body, token=token)
        assert answer.status == 201, answer

    async def book(self, source: str, cap: int = 2_000_000) -> None:
        await self.stage.apply(BOOK % (source, cap))

    async def ship(self) -> None:
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(SHIPPED, "shipped"))

    async def run(self, name: str = "staff") -> Run:
        return await self.reconciliations.run(self.stage.context(), name)

    async def found(self, name: str = "staff") -> set[tuple[str, ...]]:
        _, report, _ = await self.reconciliations.report("default", name)
        assert report["verdict"] in ("PASS", "FAIL"), report
        rows = await self.sql("SELECT type, key FROM reconciliation_findings WHERE reconciliation = :n", n=name)
        return {(row["type"], *row["key"]) for row in rows}

    async def sql(self, text: str, **values: Any) -> Any:
        async with self.stage.database.begin() as tx:
            return await tx.all(text, **values) if text.startswith("SELECT") else await tx.run(text, **values)

    async def person(self, name: str, role: str, provider: str = "ldap:corp") -> None:
        await self.stage.people.user(name, role)
        await self.sql(
            "INSERT INTO user_identities (zone, provider, subject, username, created_at, last_seen_at)"
            " VALUES ('default', :provider, :name, :name, now(), now())",
            name=name, provider=provider,
        )  # fmt: skip

    async def group(self, name: str, *members: str, source: str = "scim") -> None:
        await self.sql(
            "INSERT INTO groups (id, zone, name, source, created_at, updated_at)"
            " VALUES (:name, 'default', :name, :source, now(), now())",
            name=name, source=source,
        )  # fmt: skip
        for each in members:
            await self.sql(
                "INSERT INTO group_members (group_id, zone, username, source, added_at)"
                " VALUES (:name, 'default', :each, :source, now())",
                name=name, each=each, source=source,
            )  # fmt: skip


@pytest.fixture
async def corp(house: House, slapd: Slapd, tmp_path: Path) -> AsyncIterator[Corp]:
    stage = Stage(house, [CONNECTION, RECONCILIATION, MACHINE])
    settings = Settings(data_dir=Path("/tmp"), allow_upstream_networks=("127.0.0.0/8",))
    resolver = Resolver(house.database, house.clock, house.recorder, settings, Names({HOST: ["127.0.0.1"]}))
    make = ldap.Directories(house.providers, resolver, house.clock).make
    findings = Findings(stage.database, stage.clock, stage.ids, stage.recorder, stage.heard, stage.heard)
    sources = Sources(
        stage.database, lambda: house.sealer, _nowhere, directories=Directories(stage.database, make)
    )  # fmt: skip
    made = Reconciliations(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.records, stage.heard, findings, sources,
        tmp_path / "scratch",
    )  # fmt: skip
    yield Corp(stage, made, make, slapd.authority.pem, settings)


async def _nowhere(host: str, port: int) -> list[str]:
    return []


# ---------------------------------------------------------------------- what is found


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
async def test_members_of_groups_are_compared_and_nested_ones_are_members(
    corp: Corp, slapd: Slapd, scheme: str
) -> None:
    await corp.connect(getattr(slapd, scheme))
    for name in ("jane", "adam", "lone"):
        await corp.person(name, "viewer")
    # jane and adam are engineers by way of staff, which is in a circle of groups; lone is not
    await corp.group("engineers", "jane", "lone")
    await corp.group("Staff", "jane", "adam")
    await corp.book("{provider: corp, known: true}")
    run = await corp.run()
    assert (run.verdict, run.totals["matched"]) == ("FAIL", 3)
    assert await corp.found() == {("missing", "adam", "engineers"), ("excess", "lone", "engineers")}
    assert {raised.severity for raised in corp.stage.heard.fired} == {"P2", "P1"}
    assert run.coverage["left"]["source"] == "ldap:corp"
    await corp.sql("UPDATE group_members SET username = 'adam' WHERE username = 'lone'")
    await corp.run()
    again = await corp.run()
    assert again.totals["unmatched"] == 0, again.totals


async def test_only_groups_below_the_base_are_rows_and_others_are_followed(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, nesting=7)
    await corp.person("deep", "viewer")
    await corp.group("level7", "deep")
    await corp.book(f"{{provider: corp, base: '{cn('level7')}'}}")
    run = await corp.run()
    assert (run.verdict, run.totals["left_rows"], run.totals["matched"]) == ("PASS", 1, 1)
    await corp.sql("UPDATE identity_providers SET options = jsonb_set(options, '{nesting}', '6')")
    assert (await corp.run()).totals["left_rows"] == 0  # as deep as at a sign-in, and not deeper
    await corp.book("{provider: corp, group_filter: '(cn=team7)'}")
    assert (await corp.run()).totals["left_rows"] == 100


async def test_the_shipped_comparison_of_roles_waits_for_a_directory(corp: Corp, slapd: Slapd) -> None:
    await corp.ship()
    async with corp.stage.database.begin() as tx:
        book = await corp.stage.books.current(tx, "default")
    jobs = {job.name for job in corp.reconciliations.scheduled("default", book)}
    assert jobs and not any("directory" in job for job in jobs)
    nothing = await corp.run("directory-roles")  # by hand, with no directory: never green
    assert (nothing.verdict, "no directory" in (nothing.error or "")) == ("ERROR", True)
    await corp.connect(slapd.ldaps, roles={cn("engineers"): "operator", cn("admins"): "admin"})
    await corp.person("jane", "operator")
    await corp.person("adam", "viewer")  # an admin there
    await corp.person("lone", "auditor")  # nothing there
    await corp.person("st*r", "none")  # an operator there, who was not here since
    await corp.person("twin1", "none")
    await corp.stage.people.user("local", "admin")
    assert (await corp.run("directory-roles")).verdict == "FAIL"
    assert await corp.found("directory-roles") == {
        ("mismatch", "ldap:corp", "adam"), ("excess", "ldap:corp", "lone"), ("missing", "ldap:corp", "st*r"),
    }  # fmt: skip
    await corp.stage.apply(SHIPPED.replace("enabled: false", "enabled: true"))
    async with corp.stage.database.begin() as tx:
        book = await corp.stage.books.current(tx, "default")
    assert sum("directory" in job.name for job in corp.reconciliations.scheduled("default", book)) == 4


async def test_the_shipped_comparison_of_groups_leaves_those_made_here(corp: Corp, slapd: Slapd) -> None:
    await corp.ship()
    await corp.connect(slapd.ldaps)
    for name in ("jane", "adam"):
        await corp.person(name, "viewer")
    await corp.group("staff", "jane")
    await corp.group("admins", "jane", source="api")  # made here, and none of the directory's
    assert (await corp.run("directory-groups")).verdict == "FAIL"
    assert await corp.found("directory-groups") == {("missing", "adam", "staff")}


async def test_ten_thousand_people_of_many_groups_are_read(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps, page_size=100)
    await corp.book("{provider: corp}")
    run = await corp.run()
    assert run.totals["left_rows"] > 10_000 and run.coverage["left"]["verdict"] == "PASS"


# ---------------------------------------------------------------------- what cannot be read whole


async def erred(corp: Corp, told: str) -> None:
    """The run is an ERROR that says ``told``, with an alert; nothing is found of it."""
    run = await corp.run()
    assert run.verdict == "ERROR" and told in (run.error or ""), run
    assert run.totals == {}
    (raised,) = [each for each in corp.stage.heard.open_alerts.values() if each.key == "recon/staff/error"]
    assert raised.severity == "P1"
    assert not await corp.sql("SELECT id FROM reconciliation_findings")


async def test_a_directory_is_no_source_of_work_that_is_stuck(corp: Corp) -> None:
    with pytest.raises(BadBook, match="no states of work"):
        await corp.stage.apply(
            "{apiVersion: bailiwick/v1, kind: Machine, metadata: {name: m}, spec: {owner: x, source: {ldap: {}},"
            " states: {due: {limit: 1h}}}}"
        )


@pytest.mark.parametrize("cap", [20, 10_000])
async def test_more_than_the_cap_is_an_error_and_no_shorter_list(corp: Corp, slapd: Slapd, cap: int) -> None:
    await corp.connect(slapd.ldaps)
    await corp.book("{provider: corp}", cap)
    await erred(corp, f"more than {cap}")


async def test_a_directory_that_is_away_is_an_error_and_told(corp: Corp, house: House) -> None:
    home = Path(tempfile.mkdtemp(prefix="bw-away-", dir="/tmp"))
    try:
        away = Slapd(
            home, ldif="dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: example\n"
        )
    finally:
        shutil.rmtree(home)
    await corp.connect(away.ldaps)
    await corp.book("{provider: corp}")
    await erred(corp, "no connection")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"secret": "wrong"}, "result 49"),
        ({"ca": ""}, "certificate"),
        ({"base_dn": "dc=elsewhere,dc=com"}, "refused"),
    ],
)
async def test_what_the_provider_demands_is_demanded(corp: Corp, slapd: Slapd, how: dict[str, Any], told: str) -> None:
    await corp.connect(slapd.ldaps, **how)
    await corp.book("{provider: corp}")
    await erred(corp, told)


async def test_a_provider_that_is_none_or_disabled_or_sealed_anew_is_an_error(corp: Corp, slapd: Slapd) -> None:
    await corp.book("{provider: corp}")
    await erred(corp, "no identity provider corp")
    await corp.connect(slapd.ldaps)
    await corp.sql("UPDATE identity_providers SET enabled = false")
    await erred(corp, "not an enabled directory")
    await corp.sql("UPDATE identity_providers SET enabled = true, sealed = '\\x00'")
    await erred(corp, "secrets do not open")


async def test_roles_of_a_directory_that_gives_none_are_an_error(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps)
    await corp.book("{provider: corp, rows: roles}")
    await erred(corp, "no group of it is mapped")


@pytest.mark.parametrize(
    "bad",
    ["{provider: corp, rows: roles, base: 'ou=x,dc=y'}", "{provider: corp, base: x, more: 1}", "{group_filter: '(('}"],
)
async def test_a_document_that_cannot_be_is_refused(corp: Corp, bad: str) -> None:
    with pytest.raises(BadBook):
        await corp.book(bad)


# ---------------------------------------------------------------------- directories that do not say all

OTHERS = f"ou=others,{BASE}"


def plain(port: int, authority: Authority) -> Directory:
    options = LdapOptions(urls=[f"ldaps://{HOST}:{port}"], ca=authority.pem, base_dn=BASE, connect_timeout_s=5)

    async def reach(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    return Directory(options, "", reach, lambda: 0.0)


@pytest.mark.parametrize("how", ["limit", "reference", "own-reference", "silence", "range", "range-broken"])
async def test_an_answer_that_is_not_whole_is_never_a_shorter_list(tmp_path: Path, how: str) -> None:
    authority = Authority(tmp_path)
    asked: list[bytes] = []

    async def speak(reader: Any, writer: Any) -> None:
        while True:
            identifier, tag, contents = await received(reader)
            if tag != 0x63 or how == "silence":
                continue
            asked.append(contents)
            group = b"groupOfNames" in contents
            if how.startswith("range") and b"member;range=2-*" in contents:
                if how == "range":
                    writer.write(entry(identifier, cn("big"), **{"member;range=2-*": uid("c")}))
            elif how.startswith("range") and group:
                writer.write(entry(identifier, cn("big"), **{"cn": "big", "member;range=0-1": uid("a")}))
            elif group:
                writer.write(entry(identifier, cn("small"), cn="small", member=uid("a")))
            if how.endswith("reference") and group:
                writer.write(_reference(identifier, "DC=DomainDnsZones,dc=x" if how == "own-reference" else OTHERS))
            writer.write(result(identifier, 0x65, 4 if how == "limit" and group else 0))

    async with server(speak, authority.issue(HOST)) as port:
        directory = plain(port, authority)
        reading = read_members(directory, most=100, timeout_s=0.5 if how == "silence" else 10)
        if how == "range":
            assert {member.name for member in await reading} == {uid("a"), uid("c")}
            assert len(asked) == 3
        elif how == "own-reference":
            assert [member.name for member in await reading] == [uid("a")]
        else:
            with pytest.raises(Exception, match="refused|no answer|not the members") as caught:
                await reading
            assert type(caught.value).__name__ == "DirectoryError"
        await directory.pool.close()


def _reference(identifier: int, dn: str) -> bytes:
    return tlv(SEQUENCE, integer(identifier), tlv(0x73, octets(f"ldap://elsewhere/{dn}")))


async def test_more_members_than_may_be_read_are_no_shorter_list(corp: Corp, slapd: Slapd) -> None:
    await corp.connect(slapd.ldaps)
    async with corp.stage.database.begin() as tx:
        provider = await find(tx, "default", "corp")
    directory = corp.make(provider)
    try:
        with pytest.raises(TooManyEntries):
            await read_members(directory, most=150, timeout_s=30)
    finally:
        await directory.pool.close()


async def test_the_room_reads_a_directory_as_it_is_composed(
    corp: Corp, slapd: Slapd, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the resolver of the installation, its allowed networks, and the keys as they are in its file."""
    monkeypatch.setattr(KekFile, "load", lambda file: house.sealer)
    monkeypatch.setattr(house, "settings", corp.settings)
    room = room_of(house, tmp_path)
    await corp.connect(f"ldaps://127.0.0.1:{slapd.ldaps_port}", roles={cn("admins"): "admin"})
    await corp.person("adam", "admin")
    await corp.ship()
    run = await reconciliations_of(room.house).run(corp.stage.context(), "directory-roles")
    assert (run.verdict, run.totals["matched"]) == ("PASS", 1), run
