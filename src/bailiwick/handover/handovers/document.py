"""The pack of a handover: canonical JSON, its SHA-256, and the same for people. Nothing of it is written by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick.assurance.book import canonical
from bailiwick.assurance.ports import Granted
from bailiwick.assurance.report.model import Block, Heading, Paragraph, Report, Table
from bailiwick.evidence.events import rfc3339
from bailiwick.handover.handovers.plan import TEAMS
from bailiwick.handover.ports import Point, Standing, Statement
from bailiwick.kernel.verdicts import Verdict, worst

FORMAT = "bailiwick-handover/v1"
LIFE = timedelta(days=7)
"""How long a pack can be signed and accepted: what it says is of when it was built."""

MOST_FIGURES = 16_384
MOST_ROWS = 60

ORDER = (
    "readiness", "ownership", "versions", "rollouts", "canary", "environment", "validation", "secrets", "storage",
    "backups", "network", "observability", "runbooks", "access", "compliance", "incidents", "known-issues", "waivers",
    "service-levels", "cadence", "documents", "announcements",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shown:
    """A statement with what shows it: the id of its evidence record, and the waiver that lets it pass if one does."""

    chapter: str
    statement: Statement
    waiver: Granted | None = None

    @property
    def passes(self) -> bool:
        """Whether a signature may stand upon it."""
        return self.statement.verdict.green or bool(self.waiver)

    @property
    def name(self) -> str:
        """Chapter and name."""
        return f"{self.chapter}/{self.statement.name}"

    def to_json(self) -> dict[str, Any]:
        """As the pack has it."""
        said = self.statement
        return {
            "name": said.name,
            "told": said.told,
            "verdict": str(said.verdict),
            "waiver": self.waiver.id if self.waiver is not None else "",
            "producer": said.producer,
            "since": rfc3339(said.since.astimezone(UTC)),
            "until": rfc3339(said.until.astimezone(UTC)),
            "figures": said.figures,
            "record": said.record,
            "beside": list(said.beside),
        }


def waivers_of(shown: Sequence[Shown]) -> list[dict[str, str]]:
    """The waivers that let statements pass: what each is of, until when, and the event that approved it."""
    found = {each.waiver.id: each.waiver for each in shown if each.waiver is not None}
    return [
        {
            "waiver": each.id,
            "control": each.control,
            "scope": each.scope,
            "until": rfc3339(each.until.astimezone(UTC)),
            "event": each.event,
        }
        for _, each in sorted(found.items())
    ]


def chapters_of(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """The statements by chapter, in the order in which one reads them."""
    names = dict.fromkeys(each.chapter for each in shown)
    placed = sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return [{"name": name, "statements": [each.to_json() for each in shown if each.chapter == name]} for name in placed]


def overall(shown: Sequence[Shown], readiness: Standing) -> Verdict:
    """What a pack amounts to: PASS when every statement passes, and readiness does."""
    found = [Verdict.PASS if each.passes else each.statement.verdict for each in shown]
    ready = Verdict.PASS if readiness.passes else worst([readiness.verdict, *(p.verdict for p in readiness.blockers)])
    # what blocks is not green, whatever a part says of it
    return (
        worst([*found, Verdict.FAIL if ready.green and not readiness.passes else ready]) if found else Verdict.NO_DATA
    )


def standing_json(standing: Standing) -> dict[str, Any]:
    """A standing as the pack has it."""
    return {
        "verdict": str(standing.verdict),
        "passes": standing.passes,
        "at": rfc3339(standing.at.astimezone(UTC)),
        "blockers": [point_json(each) for each in standing.blockers],
        "waived": [point_json(each) for each in standing.waived],
        "figures": dict(standing.figures),
    }


def point_json(point: Point) -> dict[str, str]:
    """A point as the pack has it."""
    return {"name": point.name, "verdict": str(point.verdict), "told": point.told, "waiver": point.waiver}


def digest(document: Mapping[str, Any]) -> tuple[bytes, str]:
    """The canonical bytes, and their SHA-256 in hexadecimal, which is what is signed."""
    body = canonical(document)
    return body, hashlib.sha256(body).hexdigest()


# ---------------------------------------------------------------------- for people


def report(document: Mapping[str, Any], sha256: str, signed: Mapping[str, Any]) -> Report:
    """The pack for people. ``signed``: what :func:`bailiwick.handover.handovers.records.standing_json` answered."""
    facts = [
        ("Environment", f"{document['environment']} of platform {document['platform']}, zone {document['zone']}"),
        ("From", document["from"]),
        ("To", document["to"]),
        ("Window", f"{minute(document['since'])} to {minute(document['until'])} UTC"),
        ("Built", f"{minute(document['built_at'])} UTC by {document['built_by']}, bailiwick {document['version']}"),
        ("Good until", f"{minute(document['good_until'])} UTC"),
        ("SHA-256", sha256),
        ("State", str(signed["state"])),
    ]
    if document["simulated_clock"]:
        facts.append(("Clock", "SIMULATED: this proves nothing about the world"))
    blocks: list[Block] = [Heading("Sign-off"), _signatures(document, signed)]
    if signed.get("statement"):
        blocks += [Heading("Handover statement"), Paragraph(signed["statement"]["text"])]
    blocks += _readiness(document["readiness"])
    blocks += _transfer(document["transfer"])
    for chapter in document["chapters"]:
        blocks += _chapter(chapter)
    title = f"Handover of {document['environment']}: {document['from']} to {document['to']}"
    return Report(title, facts, Verdict(document["verdict"]), blocks)


def _signatures(document: Mapping[str, Any], signed: Mapping[str, Any]) -> Table:
    by_team = {each["team"]: each for each in signed["signatures"]}
    rows: list[list[str | Verdict]] = []
    for team in TEAMS:
        found = by_team.get(team)
        if found is not None:
            how = "passkey over the SHA-256" if found["how"] == "webauthn" else "step-up, receipt in the ledger"
            rows.append([team, found["person"], f"{minute(found['at'])} UTC", how])
        else:
            who = document["teams"][team]
            rows.append([team, "-", "-", f"waits for {who['role'] or ', '.join(who['people'])}"])
    if refusal := signed.get("refusal"):
        told = f"refused: {refusal['reason']}"
        rows.append([refusal["team"], refusal["person"], f"{minute(refusal['at'])} UTC", told])
    if accepted := signed.get("acceptance"):
        told = f"accepted for {document['to']}; revision {accepted['revision']} of the book"
        rows.append(["receiving", accepted["person"], f"{minute(accepted['at'])} UTC", told])
    return Table(["Team", "Person", "When", "How"], rows)


def _readiness(standing: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Heading("Readiness"), Paragraph(f"Readiness is {standing['verdict']}.")]
    if standing["blockers"]:
        rows = [[each["name"], Verdict(each["verdict"]), each["told"]] for each in standing["blockers"]]
        blocks.append(Table(["Stands in the way", "Verdict", "Why"], rows))
    if standing["waived"]:
        rows = [[each["name"], Verdict(each["verdict"]), each["told"], each["waiver"]] for each in standing["waived"]]
        blocks.append(Table(["Passes by a waiver", "Verdict", "Why", "Waiver"], rows))
    return blocks


def changes(transfer: Mapping[str, Any]) -> list[list[str]]:
    """What acceptance changes in the book: the document, the member, what it is now and then."""
    rows: list[list[str]] = []
    for each in transfer["differences"]:
        before, after = each["before"] or {}, each["after"] or {}
        rows += [
            [f"{each['kind']} {each['name']}", key, _text(before.get(key)), _text(after.get(key))]
            for key in sorted({*before, *after})
            if before.get(key) != after.get(key)
        ]
    return rows


def _transfer(transfer: Mapping[str, Any]) -> list[Block]:
    rows = changes(transfer)
    told = "What acceptance changes in the book, in one transaction:" if rows else "Nothing in the book changes hands."
    table: list[Block] = [Table(["What", "Member", "Now", "Then"], rows)] if rows else []
    return [Heading("What changes hands"), Paragraph(told), *table]


def _chapter(chapter: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Heading(str(chapter["name"]).replace("-", " ").capitalize())]
    rows = [
        [
            each["name"],
            Verdict(each["verdict"]),
            each["told"] + (f" (waiver {each['waiver']})" if each["waiver"] else ""),
            f"{each['producer']}, {minute(each['since'])} to {minute(each['until'])}, {each['record'][:12]}",
        ]
        for each in chapter["statements"]
    ]
    blocks.append(Table(["Statement", "Verdict", "What is so", "Evidence"], rows))
    for each in chapter["statements"]:
        blocks += _figures(each)
    return blocks


def _figures(statement: Mapping[str, Any]) -> list[Block]:
    """Rows as a table each, single figures together."""
    blocks: list[Block] = []
    single = []
    for name, value in statement["figures"].items():
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            columns = list(dict.fromkeys(key for row in value for key in row))
            title = str(statement["name"]) if name == "rows" else f"{statement['name']}: {name}".replace("_", " ")
            blocks.append(Paragraph(title))
            blocks.append(
                Table(
                    [column.replace("_", " ") for column in columns],
                    [[_text(row.get(column)) for column in columns] for row in value],
                )
            )
        elif value not in ([], {}, "", None):
            single.append([name.replace("_", " "), _text(value)])
    if single:
        blocks = [Paragraph(str(statement["name"]).replace("_", " ")), Table(["Figure", "Value"], single), *blocks]
    return blocks


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(each) for each in value) or "-"
    text = str(value)
    return minute(text) if _instant(text) else text


def _instant(text: str) -> bool:
    return len(text) >= 20 and text[10:11] == "T" and text[:4].isdigit()


def minute(text: str) -> str:
    """An instant as people read it, to the minute, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
