"""Known issues, single-source documents and announcements: every rule broken once, and what is shipped."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import ProgrammingError
from stage import Stage

import bailiwick
from bailiwick.app.assurance import KINDS
from bailiwick.assurance.book import BadBook, check, read_text
from bailiwick.assurance.notices.notices import Outbox
from bailiwick.assurance.registers import KNOWN_ISSUE, REVIEWED_DOCUMENT, KnownIssue, Registers
from bailiwick.assurance.shipped import shipped
from bailiwick.evidence import codes
from bailiwick.evidence.evidence_records import Producer
from bailiwick.handover.registers import api
from bailiwick.handover.registers.announcements import (
    ANNOUNCEMENT_TEMPLATE,
    Announcements,
    AnnouncementsChapter,
    received,
)
from bailiwick.handover.registers.documents import Documents, DocumentsChapter, look, own_folder
from bailiwick.handover.registers.known_issues import KnownIssues, KnownIssuesChapter
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

DAY = timedelta(days=1)
ROOT = Path(bailiwick.__file__).parents[2]
BOOK = """
apiVersion: bailiwick/v1
kind: ReviewedDocument
metadata: {name: guide}
spec: {item: The guide, path: docs/guide.md, owner: uptime, every_days: 90, audience: operators}
---
apiVersion: bailiwick/v1
kind: ReviewedDocument
metadata: {name: lost}
spec: {item: Lost, path: docs/lost.md, owner: uptime, every_days: 90}
---
apiVersion: bailiwick/v1
kind: AnnouncementTemplate
metadata: {name: maintenance}
spec:
  title: Planned maintenance
  subject: "Maintenance of ${platform}"
  body: |
    ${platform} is maintained from ${begins}.
  to: ["role:ops_owner", "person:jane", "channel:ops"]
---
apiVersion: bailiwick/v1
kind: Channel
metadata: {name: ops}
spec: {email: {host: "", to: [ops@example.com]}}
"""
ISSUE = {
    "name": "slow-search", "item": "Search is slow", "severity": "P3", "impact": "People wait.",
    "workaround": "Ask for less.", "permanent_fix": "An index.", "target_version": "0.2.0", "owner": "uptime",
    "due": "2026-02-01",
}  # fmt: skip


class Desk:
    def __init__(self, people: House, folder: Path | None) -> None:
        self.stage = stage = Stage(people, KINDS)
        shared = (stage.database, stage.clock)
        self.outbox = Outbox(*shared, stage.ids, stage.recorder)
        self.registers = Registers(*shared, stage.recorder, stage.records)
        self.issues = KnownIssues(stage.database, stage.books, self.registers)
        self.documents = Documents(
            *shared, stage.recorder, stage.records, self.registers, stage.heard, folder
        )  # fmt: skip
        self.announcements = Announcements(
            *shared, stage.ids, stage.recorder, stage.books, self.outbox, self.outbox
        )  # fmt: skip
        stage.serve(api.routes(stage.database, stage.clock, self.issues, self.documents, self.announcements))

    async def open(self) -> Desk:
        for name, role in (("jane", "admin"), ("olga", "operator"), ("viv", "viewer")):
            await self.stage.people.user(name, role)
        await self.stage.apply(BOOK)
        return self

    async def say(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call(method, f"/api/v1{path}", body, token=token)
        return answer.status, answer.json()

    async def verdicts(self) -> dict[str, tuple[Verdict, str]]:
        async with self.stage.database.begin() as tx:
            found = await self.documents.standing(tx, "default")
        return {each.item.name: (each.verdict, each.told) for each in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text("# The guide\n")
    return tmp_path


@pytest.fixture
async def desk(house: House, folder: Path) -> Desk:
    return await Desk(house, folder).open()


# -------------------------------------------------------------- known issues


async def test_a_known_issue_is_put_on_the_list_and_fixed_by_evidence(desk: Desk) -> None:
    assert (await desk.say("viv", "POST", "/known-issues", ISSUE))[0] == 403
    assert (await desk.say("olga", "POST", "/known-issues", {**ISSUE, "workaround": ""}))[0] == 400
    status, said = await desk.say("olga", "POST", "/known-issues", ISSUE)
    assert (status, said["state"], said["target_version"]) == (201, "open", "0.2.0")
    assert (await desk.say("olga", "POST", "/known-issues", ISSUE))[0] == 409
    assert ("KnownIssue", "slow-search") in await desk.stage.documents()
    assert ("ReviewedDocument", "guide") in await desk.stage.documents()
    context = desk.stage.context("olga")
    with pytest.raises(BailiwickError) as refused:
        await desk.registers.move(context, "known-issues", "slow-search", "fixed", by="olga")
    assert refused.value.reason == "evidence_needed"
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        record = await desk.stage.records.probe(
            tx, context, "search", b"quick", exit_code=0, since=now, until=now,
            producer=Producer(name="olga", program="bench", version="1"),
        )  # fmt: skip
    moved = await desk.registers.move(context, "known-issues", "slow-search", "fixed", by="olga", record=record.id)
    assert moved.state == "fixed"


async def test_an_issue_past_its_day_is_red_in_the_pack(desk: Desk) -> None:
    await desk.issues.add(
        desk.stage.context("olga"), "slow", KnownIssue(**{k: v for k, v in ISSUE.items() if k != "name"}), by="olga"
    )
    chapter, now = KnownIssuesChapter(desk.stage.clock), desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        whole, issue = await chapter(tx, "default", "production", now - DAY, now)
    assert whole.figures == {"open": 1, "fixed": 0} and issue.verdict is Verdict.PASS
    assert issue.figures["workaround"] == "Ask for less."
    desk.stage.clock.advance(60 * 86_400)
    later = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        _, issue = await chapter(tx, "default", "production", now, later)
    assert issue.verdict is Verdict.FAIL and "late" in issue.told


async def test_forgetting_or_belittling_an_issue_takes_two(desk: Desk) -> None:
    issue = KnownIssue(**{k: v for k, v in ISSUE.items() if k != "name"})
    assert KNOWN_ISSUE.two_persons(issue, None)
    assert KNOWN_ISSUE.two_persons(issue.model_copy(update={"severity": "P1"}), issue)
    assert KNOWN_ISSUE.two_persons(issue, issue.model_copy(update={"due": "2027-01-01"}))
    assert not KNOWN_ISSUE.two_persons(issue, issue.model_copy(update={"workaround": "Another."}))
    assert not KNOWN_ISSUE.two_persons(None, issue)


# ----------------------------------------------------------------- documents


async def test_a_document_is_green_while_it_is_as_it_was_read(desk: Desk, folder: Path) -> None:
    assert (await desk.verdicts())["guide"] == (Verdict.NO_DATA, "nobody has reviewed it yet")
    assert (await desk.verdicts())["lost"] == (Verdict.FAIL, "there is no docs/lost.md")
    body = {"statement": "I have read it, and it is so."}
    assert (await desk.say("viv", "POST", "/documents/guide/review", body))[0] == 403
    status, said = await desk.say("olga", "POST", "/documents/guide/review", body)
    assert (status, said["verdict"], said["sha256"] == said["reviewed_sha256"]) == (200, "PASS", True)
    (folder / "docs" / "guide.md").write_text("# Another guide\n")
    verdict, told = (await desk.verdicts())["guide"]
    assert verdict is Verdict.STALE and "changed since" in told
    (folder / "docs" / "guide.md").write_text("# The guide\n")
    assert (await desk.verdicts())["guide"][0] is Verdict.PASS
    desk.stage.clock.advance(91 * 86_400)
    verdict, told = (await desk.verdicts())["guide"]
    assert verdict is Verdict.FAIL and "longer ago than 90 days" in told
    (folder / "docs" / "guide.md").unlink()
    assert (await desk.verdicts())["guide"][0] is Verdict.FAIL


async def test_nobody_reviews_what_is_not_there(desk: Desk) -> None:
    status, said = await desk.say("olga", "POST", "/documents/lost/review", {"statement": "I have read it."})
    assert (status, said["reason"]) == (422, "evidence_needed")
    assert (await desk.say("olga", "POST", "/documents/none/review", {"statement": "I have read it."}))[0] == 404


async def test_a_review_that_names_no_text_is_not_green(desk: Desk) -> None:
    context, now = desk.stage.context("olga"), desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        record = await desk.stage.records.attest(
            tx, context, "guide", "read", since=now, until=now,
            producer=Producer(name="olga", program="desk", version="1"),
        )  # fmt: skip
    await desk.registers.move(context, "documents", "guide", "reviewed", by="olga", record=record.id)
    assert (await desk.verdicts())["guide"][0] is Verdict.STALE


async def test_one_that_nobody_ever_read_fails_after_its_time(desk: Desk) -> None:
    desk.stage.clock.advance(91 * 86_400)
    assert (await desk.verdicts())["guide"][0] is Verdict.FAIL


async def test_where_nothing_can_be_seen_nothing_is_green(house: House) -> None:
    desk = await Desk(house, None).open()
    assert {verdict for verdict, _ in (await desk.verdicts()).values()} == {Verdict.NO_DATA}
    status, said = await desk.say("jane", "GET", "/documents")
    assert (status, said["verdict"]) == (200, "NO_DATA")
    assert "BAILIWICK_DOCUMENTS_DIR" in said["items"][0]["told"]


async def test_a_check_is_written_down_and_alerted(desk: Desk, folder: Path) -> None:
    status, said = await desk.say("olga", "POST", "/documents/check", {})
    assert (status, said["verdict"]) == (200, "FAIL")
    assert "documents/reviewed" in desk.stage.heard.open_alerts
    assert await desk.stage.people.value("SELECT count(*) FROM document_looks") == 2
    with pytest.raises(ProgrammingError, match="permission denied"):
        await desk.stage.people.value("DELETE FROM document_looks RETURNING 1")
    (folder / "docs" / "lost.md").write_text("found\n")
    desk.stage.clock.advance(60)
    assert await desk.documents.keep() == {"documents": 2, "red": 2}
    assert "documents/reviewed" not in desk.stage.heard.open_alerts  # not read yet is no alarm
    assert [each.code for each in await desk.stage.people.events()].count(codes.DOCUMENTS_CHECKED.code) == 2


@pytest.mark.parametrize("path", ["../outside.md", "/etc/passwd", "docs", "docs/../../outside.md"])
def test_only_files_in_the_folder_are_looked_at(folder: Path, path: str) -> None:
    (folder.parent / "outside.md").write_text("outside\n")
    assert look(folder, path).sha256 == ""


def test_links_out_of_the_folder_and_empty_files_are_not_there(folder: Path) -> None:
    (folder / "docs" / "link.md").symlink_to("/etc/hostname")
    (folder / "docs" / "empty.md").write_text("\n")
    assert look(folder, "docs/link.md").sha256 == "" and look(folder, "docs/empty.md").sha256 == ""
    assert not look(folder, "https://example.com/x").looked


def test_an_installed_package_has_no_folder_of_its_own(tmp_path: Path) -> None:
    assert own_folder(tmp_path / "lib" / "site-packages" / "bailiwick") is None
    assert own_folder(ROOT / "src" / "bailiwick") == ROOT


async def test_the_documents_chapter_names_each(desk: Desk) -> None:
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        whole, guide, lost = await DocumentsChapter(desk.documents)(tx, "default", "production", now - DAY, now)
    assert (whole.verdict, guide.verdict, lost.verdict) == (Verdict.FAIL, Verdict.NO_DATA, Verdict.FAIL)
    assert guide.figures["path"] == "docs/guide.md"


# ------------------------------------------------------------- announcements


async def test_an_announcement_goes_to_its_list_and_its_receipts_are_read(desk: Desk) -> None:
    values = {"platform": "Payments", "begins": "08:00"}
    assert (await desk.say("viv", "POST", "/announcements", {"template": "maintenance", "values": values}))[0] == 403
    status, said = await desk.say("olga", "POST", "/announcements", {"template": "maintenance", "values": values})
    assert status == 200 and said["subject"] == "Maintenance of Payments" and said["verdict"] == "NO_DATA"
    assert [each["to"] for each in said["receipts"]] == ["role:ops_owner", "person:jane", "channel:ops"]
    async with desk.stage.database.begin() as tx:
        for number, receipt in enumerate(said["receipts"]):
            await tx.run(
                "INSERT INTO notice_deliveries (id, notice, zone, channel, address, dedup_key, state, created_at,"
                " next_at) VALUES (:id, :notice, 'default', 'ops', 'a@b.example', '', 'delivered', :now, :now)",
                id=f"d{number}", notice=receipt["notice"], now=desk.stage.clock.now(),
            )  # fmt: skip
    status, said = await desk.say("olga", "GET", f"/announcements/{said['id']}")
    assert (status, said["verdict"]) == (200, "PASS")
    now = desk.stage.clock.now()
    async with desk.stage.database.begin() as tx:
        (told,) = await AnnouncementsChapter(desk.announcements)(tx, "default", "production", now - DAY, now)
    assert told.verdict is Verdict.PASS and told.figures["person:jane"] == "PASS"
    assert [each.code for each in await desk.stage.people.events()].count(codes.ANNOUNCEMENT_SENT.code) == 1


async def test_nothing_is_sent_with_a_value_missing(desk: Desk) -> None:
    body: dict[str, Any] = {"template": "maintenance", "values": {"platform": "Payments", "begins": " "}}
    status, said = await desk.say("olga", "POST", "/announcements", body)
    assert (status, said["reason"], said["missing"]) == (422, "announcement_incomplete", ["begins"])
    status, said = await desk.say("olga", "POST", "/announcements", {**body, "values": {}, "preview": True})
    assert status == 200 and said["missing"] == ["platform", "begins"] and "${begins}" in said["body"]
    assert await desk.stage.people.value("SELECT count(*) FROM notices") == 0
    assert (await desk.say("olga", "POST", "/announcements", {"template": "none"}))[0] == 404


async def test_a_value_cannot_make_a_second_header_or_a_place(desk: Desk) -> None:
    values = {"platform": "x\r\nBcc: eve@example.com", "begins": "${platform}"}
    sent = await desk.announcements.send(desk.stage.context("olga"), "maintenance", values)
    assert "\n" not in sent.subject and "from ${platform}." in sent.body


def test_what_receipts_amount_to() -> None:
    def one(state: str, id: str = "1", of: str | None = None) -> dict[str, Any]:
        return {"id": id, "state": state, "fallback_of": of}

    assert received([]) is Verdict.NO_DATA
    assert received([one("due")]) is Verdict.NO_DATA
    assert received([one("delivered"), one("dead", "2")]) is Verdict.FAIL
    assert received([one("dead"), one("due", "2", of="1")]) is Verdict.FAIL
    assert received([one("dead"), one("delivered", "2", of="1")]) is Verdict.PASS


def test_a_template_sends_to_nobody_twice() -> None:
    with pytest.raises(BadBook, match="twice"):
        check(
            "default", read_text(BOOK.replace("channel:ops", "person:jane"), "x"), {each.name: each for each in KINDS}
        )


# ------------------------------------------------------------------- shipped


def test_every_shipped_document_is_there() -> None:
    book = check("default", shipped("default"), {each.name: each for each in KINDS})
    documents = book.of(REVIEWED_DOCUMENT)
    missing = [each.path for each in documents.values() if not look(ROOT, each.path).sha256]
    assert missing == [] and len(documents) >= 15
    counterparts = {each.counterpart for each in documents.values()}
    assert {"DISASTER_RECOVERY.md", "INCIDENT_RESPONSE.md", "KNOWN_ISSUES.md", "OPERATIONS_RUNBOOK.md"} <= counterparts
    owners = {name for kind, name in book.documents if kind == "Activity"}
    assert {each.owner for each in documents.values()} <= owners


def test_templates_are_shipped_for_every_zone() -> None:
    for zone in ("default", "other"):
        book = check(zone, shipped(zone), {each.name: each for each in KINDS})
        templates = book.of(ANNOUNCEMENT_TEMPLATE)
        assert {"go-live", "maintenance", "incident", "incident-over", "rolled-back", "handover"} <= set(templates)
        assert all(each.asks for each in templates.values())
