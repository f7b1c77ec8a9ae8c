"""Readiness as people and pipelines meet it: runs, statements and their review, waivers, age, profiles, the pack."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from stage import Stage

from bailiwick.app.assurance import KINDS as ALL_KINDS
from bailiwick.assurance.book import BadBook, check, read_text
from bailiwick.assurance.books import Plan
from bailiwick.assurance.books import plan as planned_between
from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.owners.service import Ownership
from bailiwick.assurance.probes.internal import internals
from bailiwick.assurance.probes.means import Means
from bailiwick.assurance.shipped import shipped
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.assurance.waivers import waivable
from bailiwick.handover.ports import Readiness
from bailiwick.handover.readiness import store
from bailiwick.handover.readiness.api import routes
from bailiwick.handover.readiness.attachments import Attachments
from bailiwick.handover.readiness.chapter import ReadinessChapter
from bailiwick.handover.readiness.documents import CHECKLIST, KINDS, READINESS_PROFILE, lines_of
from bailiwick.handover.readiness.service import ReadinessDesk
from bailiwick.handover.readiness.strength import weakness
from bailiwick.identity.groups import Members
from bailiwick.identity.persons import Persons
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

HERE = Path(__file__).parent
PASS, FAIL, NO_DATA, STALE = Verdict.PASS, Verdict.FAIL, Verdict.NO_DATA, Verdict.STALE

BOOK = """
apiVersion: bailiwick/v1
kind: Checklist
metadata: {name: small}
spec:
  owner: uptime
  title: A small one
  areas:
    - key: seen
      title: What is seen
      role: ops_owner
      items:
        - {key: figure, title: The figure is small, probe: {check: {type: internal, what: metric, argument: level},
           expect: {comparison: "<", value: 5}}}
        - {key: zones, title: There is a zone, life: 2h, probe: {check: {type: internal, what: database}}}
        - {key: nice, title: It would be nice, requirement: should, probe: {check: {type: internal, what: metric,
           argument: nice}, expect: {comparison: "<", value: 5}}}
        - {key: many, title: Several machines, profile: cluster, probe: {check: {type: internal, what: database}}}
    - key: said
      title: What is said
      role: security_owner
      items:
        - {key: read, title: It was read, attest: {states: somebody read it}}
        - {key: signed, title: It was signed, waivable: false, attest: {states: it was signed, attachment: true}}
    - key: sums
      title: What follows
      role: product_owner
      items:
        - {key: all-seen, title: All of it, requires: [small/seen]}
        - {key: everything, title: Everything, requires: [small/all-seen, small/said]}
---
apiVersion: bailiwick/v1
kind: ReadinessProfile
metadata: {name: production}
spec: {owner: uptime, profile: single, checklists: [small]}
"""


class Desk:
    """olga runs and attests (an operator who owns security by a group), sam reviews (security owner), viv only looks."""

    def __init__(self, stage: Stage, home: Path) -> None:
        self.stage, self.figures = stage, {"level": [1.0], "nice": [9.0]}
        looks = internals(stage.database, stage.clock, lambda: self.figures, list, None)
        means = Means(_nowhere, stage.clock, "", home, internals=looks)
        self.readiness = ReadinessDesk(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.records, stage.heard, Persons(),
            Ownership(stage.books, stage.recorder, []), lambda: means, {},
        )  # fmt: skip
        self.port: Readiness = self.readiness
        self.attachments = Attachments(stage.database, stage.clock, stage.recorder)
        stage.serve(routes(stage.database, self.readiness, self.attachments))

    async def open(self) -> Desk:
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(BOOK, "book"))
        for name, role in (("olga", "operator"), ("sam", "security_owner"), ("viv", "viewer"), ("root", "admin")):
            await self.stage.people.user(name, role)
        self.group = await self.stage.people.groups.create(
            self.stage.context("setup"), "security", role="security_owner", members=["olga"]
        )
        return self

    async def hand_in(
        self, data: bytes, *, who: str = "olga", sha256: str = "", media_type: str = "application/pdf"
    ) -> tuple[int, Any]:
        """Upload a document; status and answer."""
        token = await self.stage.people.signed_in(who)
        path = f"/api/v1/readiness/attachments/{sha256 or hashlib.sha256(data).hexdigest()}"
        answer = await self.stage.call("PUT", path, token=token, raw=data, headers={"content-type": media_type})
        return answer.status, answer.json()

    async def run(self) -> Verdict:
        run, _ = await self.readiness.run(self.stage.context("olga"), "production", "olga")
        return run.verdict

    async def say(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call(method, f"/api/v1/readiness{path}", body, token=token)
        return answer.status, answer.json()

    async def attest(self, item: str, who: str = "olga", **more: Any) -> tuple[int, Any]:
        body = {"statement": "I did", **more}
        return await self.say(who, "POST", f"/production/items/small/{item}/attestations", body)

    async def review(self, made: Any, outcome: str = "accepted", who: str = "sam", note: str = "") -> tuple[int, Any]:
        path = f"/production/attestations/{made['id']}/review"
        return await self.say(who, "POST", path, {"outcome": outcome, "note": note})

    async def agreed(self, item: str, **more: Any) -> None:
        status, made = await self.attest(item, **more)
        assert status == 201, made
        status, said = await self.review(made)
        assert status == 200, said

    async def verdicts(self) -> dict[str, str]:
        status, view = await self.say("olga", "GET", "/production")
        assert status == 200, view
        return {each["item"].partition("/")[2]: each["verdict"] for each in view["items"]}

    async def standing(self) -> tuple[Verdict, list[str]]:
        async with self.stage.database.begin() as tx:
            found = await self.port.standing(tx, "default", "production")
        assert found.passes == (found.verdict is PASS)
        return found.verdict, [each.name for each in found.blockers]


async def _nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is reached")


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, (*KINDS, THRESHOLD, ACTIVITY)), tmp_path).open()


# ---------------------------------------------------------------------- what is shipped


def _lines(name: str) -> list[str]:
    return re.findall(r"^- \[ \] (.*)$", (HERE / name).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(
    ("checklist", "text", "count"),
    [("pre-deployment", "pre_deployment_list.md", 84), ("sign-off", "sign_off_list.md", 23)],
)
def test_every_line_of_the_handoffs_lists_is_an_item(checklist: str, text: str, count: int) -> None:
    book = check("default", shipped("default"), {kind.name: kind for kind in ALL_KINDS})
    areas = book.of(CHECKLIST)[checklist].areas
    assert [item.title for area in areas for item in area.items] == _lines(text)
    assert len(_lines(text)) == count
    headings = re.findall(r"^#+ (.*)$", (HERE / text).read_text(encoding="utf-8"), re.MULTILINE)
    assert [area.title for area in areas] == headings


def test_the_shipped_lists_are_as_settled() -> None:
    book = check("default", shipped("default"), {kind.name: kind for kind in ALL_KINDS})
    profile = book.of(READINESS_PROFILE)["production"]
    lines = lines_of(book, profile)
    assert [area.key for area in book.of(CHECKLIST)["platform-handoff"].areas] == [
        "ownership", "versioning", "handed-secrets", "storage", "network", "observability", "runbooks", "access",
        "compliance",
    ]  # fmt: skip
    # an item is must unless the handoff says "if"; one of ours that few have is a should
    shoulds = {line.key for line in lines if line.item.requirement == "should"}
    assert shoulds == {"pre-deployment/penetration-test", "bailiwick/witnesses"}
    lives = {line.key: line.item.lives for line in lines if line.item.requires is None}
    assert lives["pre-deployment/nodes"] == timedelta(hours=1)
    assert lives["pre-deployment/backup-scripts"] == timedelta(hours=24)
    assert lives["pre-deployment/restore-tested"] == timedelta(days=30)
    assert {lives[line.key] for line in lines if line.item.attest is not None} == {timedelta(days=90)}
    assert waivable(book, "readiness/pre-deployment/nodes") and not waivable(book, "other/pre-deployment/nodes")
    assert not waivable(book, "canary")


# ---------------------------------------------------------------------- runs, age, score


async def test_a_run_leaves_a_row_a_record_and_a_result_for_each_item(desk: Desk) -> None:
    assert await desk.standing() == (NO_DATA, [
        "small/figure", "small/zones", "small/read", "small/signed", "small/all-seen", "small/everything"])  # fmt: skip
    assert await desk.run() is NO_DATA
    assert await desk.verdicts() == {
        "figure": "PASS", "zones": "PASS", "nice": "FAIL", "many": "NOT_DUE", "read": "NO_DATA", "signed": "NO_DATA",
        "all-seen": "PASS", "everything": "NO_DATA",
    }  # fmt: skip
    _, view = await desk.say("olga", "GET", "/production")
    assert view["score"] == {
        "applicable": 7, "green": 3, "waived": 0, "open_must": 3, "open_should": 1, "outside": 1, "percent": 42,
    }  # fmt: skip
    assert [each["percent"] for each in view["trend"]] == [42]
    value = desk.stage.people.value
    assert await value("SELECT count(*) FROM readiness_results") == 8
    assert await value("SELECT count(*) FROM readiness_results WHERE looked AND record <> ''") == 3
    assert await value("SELECT count(*) FROM ledger.evidence_records") == 4  # one for each look, one for the run
    async with desk.stage.database.begin() as tx:
        records = await desk.stage.records.list(tx, "default", check="readiness.production/small/nice")
    now = desk.stage.clock.now()
    assert records[0].record.verdict(now) is FAIL and records[0].record.verdict(now + timedelta(hours=1)) is STALE
    events = [event for event in await desk.stage.people.events() if event.name == "readiness.run"]
    assert len(events) == 1 and events[0].outcome == "failure"


async def test_what_is_ready_is_so_until_its_evidence_is_too_old(desk: Desk) -> None:
    await desk.run()
    await desk.agreed("read")
    await desk.hand_in(b"signed")
    await desk.agreed("signed", sha256=hashlib.sha256(b"signed").hexdigest(), attachment="signed.pdf")
    assert await desk.standing() == (PASS, [])
    assert await desk.run() is PASS
    async with desk.stage.database.begin() as tx:
        stands = await desk.port.standing(tx, "default", "production")
    assert stands.until == desk.stage.clock.now() + timedelta(hours=1)
    desk.stage.clock.advance(timedelta(minutes=59, seconds=59).total_seconds())
    assert (await desk.standing())[0] is PASS
    desk.stage.clock.advance(timedelta(seconds=1).total_seconds())
    assert await desk.standing() == (STALE, ["small/figure", "small/all-seen", "small/everything"])
    assert (await desk.verdicts())["zones"] == "PASS"  # which lives for two hours
    desk.figures["level"] = [7.0]
    assert await desk.run() is FAIL
    _, told = await desk.say("olga", "GET", "/production/items/small/figure")
    assert (told["verdict"], [each["verdict"] for each in told["found"]]) == ("FAIL", ["FAIL", "PASS", "PASS"])
    assert told["control"] == "readiness/small/figure"
    desk.stage.clock.advance(timedelta(days=90).total_seconds())
    assert (await desk.verdicts())["read"] == "STALE"


async def test_what_is_asked_must_be_what_was_looked_at(desk: Desk) -> None:
    await desk.run()
    assert (await desk.verdicts())["figure"] == "PASS"
    await _change(desk, BOOK.replace("value: 5}}}\n        - {key: zones", "value: 4}}}\n        - {key: zones"))
    assert (await desk.verdicts())["figure"] == "NO_DATA"
    await desk.run()
    assert (await desk.verdicts())["figure"] == "PASS"


async def test_an_environment_that_the_book_does_not_know_is_never_ready(desk: Desk) -> None:
    async with desk.stage.database.begin() as tx:
        stands = await desk.port.standing(tx, "default", "elsewhere")
    assert (stands.verdict, stands.passes) == (NO_DATA, False)
    assert (await desk.say("olga", "GET", "/elsewhere"))[0] == 404
    assert (await desk.say("olga", "POST", "/elsewhere/runs"))[1]["reason"] == "no_readiness"
    assert (await desk.say("olga", "GET", "/production/items/small/none"))[1]["reason"] == "no_readiness"


async def test_a_run_is_asked_for_and_the_work_role_does_it(desk: Desk) -> None:
    assert (await desk.say("viv", "POST", "/production/runs"))[0] == 403
    status, said = await desk.say("olga", "POST", "/production/runs")
    assert (status, said["environment"]) == (202, "production")
    assert await desk.stage.people.value("SELECT job FROM job_occurrences") == "readiness:production@default"
    async with desk.stage.database.begin() as tx:
        book = await desk.stage.books.current(tx, "default")
    (job,) = desk.readiness.scheduled("default", book)
    told = await job.handler(desk.stage.clock.now())
    assert told is not None and told["verdict"] == "NO_DATA"
    _, runs = await desk.say("olga", "GET", "/production/runs")
    assert [each["asked_by"] for each in runs["runs"]] == [""]


# ---------------------------------------------------------------------- what people state


async def test_a_statement_counts_once_another_living_person_agrees(desk: Desk) -> None:
    status, made = await desk.attest("read")
    assert (status, made["outcome"]) == (201, "")
    assert (await desk.verdicts())["read"] == "NO_DATA"
    assert (await desk.review(made, who="olga"))[1]["reason"] == "own_attestation"
    await desk.stage.people.user("olga2", "admin")
    async with desk.stage.people.owner.begin() as tx:  # another account of hers
        await tx.run("UPDATE bailiwick.users SET email = 'olga+x@example.com' WHERE username = 'olga2'")
    assert (await desk.review(made, who="olga2"))[1]["reason"] == "own_attestation"
    assert (await desk.review(made, who="viv"))[0] == 403
    assert (await desk.review(made, "refused"))[0] == 400  # without saying why
    assert (await desk.verdicts())["read"] == "NO_DATA"
    assert (await desk.review(made))[1]["reviewer"] == "sam"
    assert (await desk.verdicts())["read"] == "PASS"
    assert (await desk.review(made, who="root"))[1]["reason"] == "already_reviewed"
    names = [event.name for event in await desk.stage.people.events()]
    assert (names.count("readiness.attested"), names.count("readiness.reviewed")) == (1, 1)


async def test_what_was_refused_is_not_so_until_it_is_stated_anew(desk: Desk) -> None:
    await desk.agreed("read")
    desk.stage.clock.advance(timedelta(minutes=1).total_seconds())
    _, made = await desk.attest("read")
    assert (await desk.verdicts())["read"] == "PASS"  # what was accepted before still counts
    assert (await desk.review(made, "refused", note="nobody read it"))[0] == 200
    assert (await desk.verdicts())["read"] == "FAIL"
    desk.stage.clock.advance(timedelta(minutes=1).total_seconds())
    _, again = await desk.attest("read")
    assert (await desk.verdicts())["read"] == "NO_DATA", "what was accepted before it was refused is not taken up again"
    assert (await desk.review(again))[0] == 200
    assert (await desk.verdicts())["read"] == "PASS"


async def test_who_is_gone_or_a_program_states_and_reviews_nothing(desk: Desk) -> None:
    assert (await desk.attest("figure"))[1]["reason"] == "not_attested"
    assert (await desk.attest("signed"))[1]["reason"] == "attachment_missing"
    assert (await desk.attest("read", sha256="xyz"))[0] == 400
    assert (await desk.attest("read", statement=" "))[0] == 400
    assert (await desk.attest("read", who="viv"))[0] == 403
    _, made = await desk.attest("read")
    with pytest.raises(Exception, match="person") as caught:
        await desk.readiness.review(desk.stage.context("application:bot"), "production", made["id"], "accepted", "")
    assert getattr(caught.value, "reason", "") == "person_needed"
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("UPDATE bailiwick.users SET is_active = false WHERE username = 'sam'")
    with pytest.raises(Exception, match="person"):
        await desk.readiness.review(desk.stage.context("sam"), "production", made["id"], "accepted", "")
    assert (await desk.verdicts())["read"] == "NO_DATA"


# ---------------------------------------------------------------------- whose statement it is


ACTIVITY_BOOK = """
apiVersion: bailiwick/v1
kind: Activity
metadata: {name: access-control}
spec:
  accountable: ACCOUNTABLE
  deputies: DEPUTIES
---
"""


async def _deputies(desk: Desk, deputies: str, accountable: str = "role:security_owner") -> None:
    said = ACTIVITY_BOOK.replace("ACCOUNTABLE", accountable).replace("DEPUTIES", deputies)
    await desk.stage.apply(said + BOOK)


async def test_an_item_is_stated_by_whoever_owns_it_and_by_no_other_role(desk: Desk) -> None:
    """Neither an operator nor another plane's owner nor an administrator speaks for it."""
    for name, role in (("ole", "operator"), ("otto", "ops_owner"), ("pia", "product_owner")):
        await desk.stage.people.user(name, role)
    for who in ("ole", "otto", "pia", "root"):
        status, told = await desk.attest("read", who=who)
        assert (status, told["reason"], told["role"]) == (403, "attestation_role", "security_owner"), who
    assert (await desk.attest("read", who="sam"))[0] == 201  # the role is his own
    assert (await desk.attest("read", who="olga"))[0] == 201  # a group gives it to her
    await desk.stage.people.groups.change(
        desk.stage.context("setup"), desk.group.id, {}, Members(remove=frozenset(["olga"]))
    )
    assert (await desk.attest("read", who="olga"))[1]["reason"] == "attestation_role"
    names = [event.name for event in await desk.stage.people.events()]
    assert names.count("readiness.attested") == 2


async def test_a_deputy_speaks_on_his_days_for_what_he_stands_in(desk: Desk) -> None:
    await desk.stage.people.user("dan", "operator")
    today = desk.stage.clock.now().date()
    on = f"[{{person: dan, from: '{today}', until: '{today}'}}]"
    await _deputies(desk, on)
    assert (await desk.attest("read", who="dan"))[0] == 201
    # while he stands in, whoever holds the role still does
    assert (await desk.attest("read", who="sam"))[0] == 201
    over = today - timedelta(days=1)
    for deputies, accountable in (
        (f"[{{person: dan, until: '{over}'}}]", "role:security_owner"),
        (f"[{{person: dan, from: '{today + timedelta(days=1)}'}}]", "role:security_owner"),
        (on, "role:ops_owner"),  # of another plane
        ("[{person: dan}]", "role:security_owner"),  # without dates only where nobody holds it
    ):
        await _deputies(desk, deputies, accountable)
        assert (await desk.attest("read", who="dan"))[1]["reason"] == "attestation_role", (deputies, accountable)
    await desk.stage.people.groups.change(
        desk.stage.context("setup"), desk.group.id, {}, Members(remove=frozenset(["olga"]))
    )
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("UPDATE bailiwick.users SET is_active = false WHERE username = 'sam'")
    assert (await desk.attest("read", who="dan"))[0] == 201


# ---------------------------------------------------------------------- waivers


async def test_a_waiver_is_the_only_exception_and_its_use_is_recorded(desk: Desk) -> None:
    desk.figures["level"] = [9.0]
    await desk.agreed("read")
    await desk.hand_in(b"x")
    await desk.agreed("signed", sha256=hashlib.sha256(b"x").hexdigest())
    assert await desk.run() is FAIL
    desk.stage.heard.waivers["readiness/small/figure", "production"] = "w-1"
    assert await desk.standing() == (PASS, [])
    async with desk.stage.database.begin() as tx:  # whoever opens a gate on it has to note the use
        found = await desk.port.standing(tx, "default", "production")
    assert [(each.name, each.verdict) for each in found.waived] == [("small/figure", FAIL)]
    assert found.waivers == ["w-1"] and desk.stage.heard.uses == []
    assert (await desk.verdicts())["figure"] == "FAIL"  # which is not green for all that
    assert await desk.run() is PASS
    assert desk.stage.heard.uses == [("w-1", "readiness/production")]
    assert await desk.stage.people.value("SELECT waiver FROM readiness_results WHERE waiver <> ''") == "w-1"
    desk.stage.heard.waivers.clear()
    assert (await desk.standing())[0] is FAIL
    # another environment's waiver covers nothing here, and what says so cannot be waived at all
    desk.stage.heard.waivers["readiness/small/figure", "staging"] = "w-2"
    desk.stage.heard.waivers["readiness/small/signed", "production"] = "w-3"
    desk.stage.clock.advance(timedelta(days=91).total_seconds())
    desk.figures["level"] = [1.0]
    await desk.run()
    assert "small/signed" in (await desk.standing())[1]


# ---------------------------------------------------------------------- the book


async def _change(desk: Desk, text: str) -> Plan:
    documents = read_text(text, "book")
    planned = await desk.stage.books.plan("default", documents)
    async with desk.stage.people.owner.begin() as tx:  # as if two had agreed
        await tx.run("SET LOCAL search_path = bailiwick")
        for each in planned.differences:
            revision = planned.revision + 1
            await desk.stage.books._write(tx, "default", each, revision, "root")
    return planned


@pytest.mark.parametrize(
    ("old", "new", "two"),
    [
        ("profile: single", "profile: cluster", True),
        ("checklists: [small]", "checklists: [small], values: {prometheus_url: 'https://p.example.com'}", False),
        # to look elsewhere than one would without saying so
        ("checklists: [small]", "checklists: [small], values: {namespace: live}", True),
        ("checklists: [small]", "checklists: [small], values: {api_url: 'https://canned.example.com'}", True),
        ("checklists: [small]", "checklists: [small], values: {firewall_tried: ['1']}", True),
        # to have a token of this machine sent somewhere
        ("checklists: [small]",
         "checklists: [small], values: {grafana_url: 'https://g.example.com', grafana_token_file: /t}", True),
        ("type: internal, what: database}}}\n        - {key: nice",
         "type: monitoring, what: grafana_ready, url: 'https://g.example.com', token_file: /t}}}\n        - {key: nice",
         True),
        ("title: A small one", "title: Another", False),
        ("requirement: should, ", "", False),
        ("title: There is a zone, ", "title: There is a zone, requirement: should, ", True),
        ("life: 2h, ", "life: 1h, ", False),
        ("life: 2h, ", "life: 3h, ", True),
        ("profile: cluster, ", "", True),
        ("waivable: false, ", "", True),
        ("value: 5}}}\n        - {key: zones", "value: 9}}}\n        - {key: zones", True),
        ("type: internal, what: database}}}\n        - {key: nice", "type: sql, query: SELECT true}}}\n        - {key: nice",
         True),
    ],
)  # fmt: skip
def test_what_lets_more_pass_takes_two_persons(old: str, new: str, two: bool) -> None:
    kinds = {kind.name: kind for kind in (*KINDS, THRESHOLD)}
    assert old in BOOK
    before, after = (check("default", read_text(text, "b"), kinds) for text in (BOOK, BOOK.replace(old, new)))
    assert planned_between(before, after, kinds).two_persons is two


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("requires: [small/seen]", "requires: [small/none]", "nothing called small/none"),
        ("requires: [small/seen]", "requires: [small/everything]", "computed from itself"),
        ("what: database", "what: database, more: 1", "more"),
        ("argument: level", "argument: '${nothing}'", "no environment has a value called nothing"),
        ("checklists: [small]", "checklists: [large]", "no Checklist large"),
        ("key: zones", "key: figure", "two items are called figure"),
        ("attest: {states: somebody read it}", "attest: {states: x}, requires: [small]", "one of probe, attest"),
    ],
)
def test_a_book_that_cannot_be_held_to_is_refused(old: str, new: str, told: str) -> None:
    assert old in BOOK
    kinds = {kind.name: kind for kind in (*KINDS, THRESHOLD)}
    with pytest.raises((BadBook, ValueError), match=told):
        check("default", read_text(BOOK.replace(old, new), "book"), kinds)


LOOKS_AT_FILES = """
apiVersion: bailiwick/v1
kind: Checklist
metadata: {name: small}
spec:
  owner: uptime
  title: A small one
  areas:
    - key: seen
      title: What is seen
      role: ops_owner
      items: [{key: one, title: One, probe: {check: {%s}}}]
---
apiVersion: bailiwick/v1
kind: ReadinessProfile
metadata: {name: production}
spec: {owner: uptime, profile: single, checklists: [small], values: {%s}}
"""
HARMLESS = "type: monitoring, what: grafana_ready"


@pytest.mark.parametrize(
    ("asks", "values"),
    [
        ("type: internal, what: database", ""),
        (f"{HARMLESS}, url: 'https://g.example.com', token_file: /etc/bailiwick/token", ""),
        ("type: json_path, file: /etc/bailiwick/x, path: $.a, equals: b", ""),
        (HARMLESS, "grafana_token_file: /etc/bailiwick/token"),
        (HARMLESS, "coverage_report: /etc/bailiwick/token"),
    ],
)
def test_what_is_on_the_machine_is_for_the_default_zone_alone(asks: str, values: str) -> None:
    kinds = {kind.name: kind for kind in (*KINDS, THRESHOLD)}
    text = LOOKS_AT_FILES % (asks, values)
    with pytest.raises(BadBook, match="for the zone default alone"):
        check("emea", read_text(text, "book"), kinds)
    check("default", read_text(text, "book"), kinds)
    check("emea", read_text(LOOKS_AT_FILES % (HARMLESS, "grafana_url: 'https://g.example.com'"), "book"), kinds)


# ---------------------------------------------------------------------- the pack


def rows(figure: Any) -> list[dict[str, Any]]:
    return list(figure)


async def test_the_chapter_tells_each_item_with_its_evidence(desk: Desk) -> None:
    await desk.run()
    await desk.agreed("read")
    now = desk.stage.clock.now()
    chapter = ReadinessChapter(desk.readiness)
    async with desk.stage.database.begin() as tx:
        found = await chapter(tx, "default", "production", now - timedelta(days=7), now)
        runs = await store.runs(tx, "default", "production")
        assert await chapter(tx, "default", "elsewhere", now - timedelta(days=7), now) == []
    by_name = {each.name: each for each in found}
    assert set(by_name) == {
        "small", "small/figure", "small/zones", "small/read", "small/signed", "small/all-seen", "small/everything"
    }  # fmt: skip
    assert by_name["small"].verdict is NO_DATA
    assert by_name["small"].record == f"sha256:{runs[0].record}" and by_name["small"].figures["green"] == 4
    assert by_name["small/figure"].verdict is PASS and by_name["small/figure"].record.startswith("sha256:")
    # what stands in nobody's way is listed and counted, and is no statement that somebody had to waive
    assert by_name["small"].figures["of_another_profile"] == ["many"] and by_name["small"].figures["outside"] == 1
    assert [each["item"] for each in rows(by_name["small"].figures["ought_to_hold"])] == ["nice"]
    assert by_name["small/signed"].waivable is False and by_name["small/read"].waivable is True
    async with desk.stage.database.begin() as tx:
        (review,) = (await store.reviews(tx, "default", "production", now)).values()
    assert by_name["small/read"].beside == [f"sha256:{review}"] and by_name["small/figure"].beside == ()
    desk.stage.heard.waivers["readiness/small/read", "production"] = "w1"
    desk.stage.heard.waivers["readiness/small/zones", "production"] = "w2"
    # what was so then is told as it was then
    desk.stage.clock.advance(timedelta(hours=5).total_seconds())
    async with desk.stage.database.begin() as tx:
        then = await chapter(tx, "default", "production", now - timedelta(days=7), now)
        later = await chapter(tx, "default", "production", now, desk.stage.clock.now())
    assert {each.name: each.verdict for each in then} == {each.name: each.verdict for each in found}
    assert {each.name: each.verdict for each in later}["small/figure"] is STALE
    assert {each.name: each.waiver for each in later if each.waiver} == {"small/zones": "w2"}  # read is green still


# ---------------------------------------------------------------------- strength


@pytest.mark.parametrize(
    ("value", "least", "weak"),
    [
        ("", 16, True), ("hunter2", 16, True), ("a" * 40, 32, True), ("password" * 4, 32, True),
        ("abababababababababababababababab", 32, True), ("Zk3v9QmX7pLr2TnB8cWd", 32, True),
        ("pA7kQ2vX9mL4tR8wZ1nC6bJ3hF5dS0gY", 32, False), ("owner", 1, False),
        ("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 32, True),
    ],
)  # fmt: skip
def test_weak_secrets_are_told_without_telling_them(value: str, least: int, weak: bool) -> None:
    told = weakness(value, least)
    assert bool(told) is weak, told
    assert not value or value not in told
