"""Review packs: what is put before a meeting, built from what was stored before its cut-off.

A pack is canonical JSON and nothing in it is of the moment it is built: built again from the same occurrence it has the
same digest. Every figure carries the query it came of, its window and its evidence record; what people are to do is
carried over from the meetings before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from bailiwick.assurance import registers
from bailiwick.assurance.book import Document, canonical
from bailiwick.assurance.rhythm.actions import Action, actions
from bailiwick.assurance.rhythm.automatic import Ran, runs_of
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, Ceremony
from bailiwick.assurance.rhythm.occurrences import Occurrence, utc
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.verdicts import Verdict, worst

VERSION = 1
INSTANT_BEFORE = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack as it was stored."""

    occurrence: str
    body: bytes
    sha256: str
    verdict: Verdict
    built_at: datetime
    built_by: str

    @property
    def document(self) -> dict[str, Any]:
        """What it says."""
        return dict(_decoded(self.body))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a pack is made of."""

    occurrence: Occurrence
    cut_off: datetime
    definition: Document
    ceremony: Ceremony
    runs: Sequence[Ran]
    actions: Sequence[Action]
    late: Mapping[registers.Register, Sequence[registers.Item]]
    checkpoints: Sequence[Row]
    simulated_clock: bool


# ---------------------------------------------------------------------- rules


def build(facts: Facts) -> dict[str, Any]:
    """The pack of these facts: a pure function of them."""
    ceremony, seen = facts.ceremony, facts.cut_off - INSTANT_BEFORE
    sections: dict[str, Any] = {}
    for section in ceremony.sections:
        match section:
            case "figures":
                sections[section] = [_figure(run) for run in facts.runs]
            case "actions":
                sections[section] = {
                    "carried_over": [each.document(seen) for each in facts.actions if not each.overdue(seen)],
                    "overdue": [each.document(seen) for each in facts.actions if each.overdue(seen)],
                }
            case "checkpoints":
                sections[section] = [_checkpoint(row) for row in facts.checkpoints]
            case _:
                sections[section] = [_late(item, seen) for item in facts.late.get(section, ())]
    return {
        "v": VERSION,
        "zone": facts.occurrence.zone,
        "ceremony": facts.occurrence.ceremony,
        "title": ceremony.title,
        "occurrence": facts.occurrence.id,
        "starts_at": utc(facts.occurrence.starts_at),
        "ends_at": utc(facts.occurrence.ends_at),
        "cut_off": utc(facts.cut_off),
        "definition": {"version": facts.definition.version, "sha256": facts.definition.sha256},
        "roles": list(ceremony.roles),
        "agenda": list(ceremony.agenda),
        "verdict": str(verdict_of(facts.runs, ceremony)),
        "sections": sections,
        "simulated_clock": facts.simulated_clock,
    }


def verdict_of(runs: Sequence[Ran], ceremony: Ceremony) -> Verdict:
    """What all automatic parts amount to; one that left no finding is NO_DATA. PASS where there are none to run."""
    if not ceremony.automatic:
        return Verdict.PASS
    found = {run.name: run.verdict for run in runs}
    return worst(found.get(name, Verdict.NO_DATA) for name in ceremony.automatic)


def digest(document: Mapping[str, Any]) -> tuple[bytes, str]:
    """The canonical bytes of a document and their SHA-256 in hexadecimal."""
    body = canonical(dict(document))
    return body, hashlib.sha256(body).hexdigest()


def _figure(run: Ran) -> dict[str, Any]:
    return {
        "name": run.name,
        "verdict": str(run.verdict),
        "query": run.query,
        "since": utc(run.since),
        "until": utc(run.until),
        "told": run.told,
        "values": dict(run.figures),
        "record": run.record,
    }


def _late(item: registers.Item, at: datetime) -> dict[str, Any]:
    told = item.document(at)
    return {
        name: told[name] for name in ("name", "item", "owner", "due", "state", "score", "track", "path") if name in told
    }


def _checkpoint(row: Row) -> dict[str, Any]:
    return {
        "checkpoint": row["checkpoint"],
        "version": row["version"],
        "verdict": row["verdict"],
        "at": utc(row["at"]),
        "record": row["record"],
    }


# ---------------------------------------------------------------------- store


async def gather(
    tx: Transaction, occurrence: Occurrence, cut_off: datetime, definition: Document, *, simulated: bool
) -> Facts:
    """What is stored of the time before ``cut_off``."""
    zone, seen = occurrence.zone, cut_off - INSTANT_BEFORE
    ceremony = CEREMONY.read(definition.spec)
    wanted = set(ceremony.sections)
    return Facts(
        occurrence,
        cut_off,
        definition,
        ceremony,
        await runs_of(tx, occurrence.id),
        await actions(tx, zone, seen, ceremony=occurrence.ceremony) if "actions" in wanted else (),
        {
            name: registers.late(await registers.items(tx, zone, name, seen), seen)
            for name in registers.REGISTERS
            if name in wanted
        },
        await tx.all(_CHECKPOINTS, zone=zone, at=seen) if "checkpoints" in wanted else (),
        simulated,
    )


async def definition_of(tx: Transaction, occurrence: Occurrence) -> Document:
    """The document, in the version that the occurrence was made by."""
    version = int(occurrence.made_by.partition("/")[0])
    row = await tx.one(
        "SELECT kind, name, spec, version, applied_at, applied_by FROM assurance_documents"
        " WHERE zone = :zone AND kind = :kind AND name = :name AND version = :version",
        zone=occurrence.zone,
        kind=CEREMONY.name,
        name=occurrence.ceremony,
        version=version,
    )
    if row is None:
        raise NotFound("The ceremony's document is not there any more.")
    return Document(
        row["kind"],
        row["name"],
        row["spec"],
        version=row["version"],
        applied_at=row["applied_at"],
        applied_by=row["applied_by"],
    )


async def store(tx: Transaction, occurrence: str, document: Mapping[str, Any], now: datetime, by: str) -> Pack:
    """Keep a pack: once, and as it is."""
    body, sha256 = digest(document)
    await tx.run(
        "INSERT INTO rhythm_packs (occurrence, body, sha256, verdict, built_at, built_by)"
        " VALUES (:occurrence, :body, :sha256, :verdict, :now, :by)",
        occurrence=occurrence,
        body=body,
        sha256=sha256,
        verdict=document["verdict"],
        now=now,
        by=by,
    )
    return Pack(occurrence, body, sha256, Verdict(document["verdict"]), now, by)


async def load(tx: Transaction, occurrence: str) -> Pack:
    """The pack of an occurrence; raises ``not_found``."""
    row = await tx.one(
        "SELECT occurrence, body, sha256, verdict, built_at, built_by FROM rhythm_packs WHERE occurrence = :occurrence",
        occurrence=occurrence,
    )
    if row is None:
        raise NotFound("No pack is built for it yet.")
    return Pack(**{**row, "body": bytes(row["body"]), "verdict": Verdict(row["verdict"])})


async def rebuilt(tx: Transaction, occurrence: Occurrence, pack: Pack) -> str:
    """The digest of the pack as it would be built from what is stored now."""
    document = pack.document
    cut_off = occurrence.cut_off or datetime.fromisoformat(document["cut_off"])
    facts = await gather(
        tx, occurrence, cut_off, await definition_of(tx, occurrence), simulated=document["simulated_clock"]
    )
    return digest(build(facts))[1]


# ---------------------------------------------------------------------- readable forms


def markdown(document: Mapping[str, Any], sha256: str) -> str:
    """The pack for people, as Markdown."""
    lines = [
        f"# {_plain(document['title'])}",
        "",
        f"- Begins: {document['starts_at']}",
        f"- Data cut-off: {document['cut_off']}",
        f"- Verdict: **{document['verdict']}**",
        f"- Must be there: {', '.join(document['roles']) or 'nobody'}",
        f"- SHA-256: `{sha256}`",
    ]
    if document["simulated_clock"]:
        lines.append("- **SIMULATED CLOCK**: this is no record of real time")
    if document["agenda"]:
        lines += ["", "## Agenda", "", *(f"{n}. {_plain(each)}" for n, each in enumerate(document["agenda"], 1))]
    for title, columns, rows in tables(document):
        lines += ["", f"## {title}", ""]
        if not rows:
            lines.append("Nothing.")
            continue
        lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def html(document: Mapping[str, Any], sha256: str) -> str:
    """The pack for people, as a page of HTML that runs nothing and fetches nothing."""
    return str(_template().render(pack=document, sha256=sha256, tables=tables(document)))


def tables(document: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The sections as tables: title, columns, rows of texts."""
    made: list[tuple[str, list[str], list[list[str]]]] = []
    sections = document["sections"]
    if "figures" in sections:
        rows = [
            [
                each["name"],
                each["verdict"],
                ", ".join(f"{name}={value}" for name, value in each["values"].items()) or each["told"],
                each["query"],
                f"{each['since']} – {each['until']}",
                each["record"][:12],
            ]
            for each in sections["figures"]
        ]
        made.append(("Figures", ["figure", "verdict", "values", "query", "window", "record"], rows))
    for name, title in (("overdue", "Action items overdue"), ("carried_over", "Action items carried over")):
        if "actions" in sections:
            rows = [
                [each["title"], each["owner"], each["due"], each["severity"], str(each["misses"])]
                for each in sections["actions"][name]
            ]
            made.append((title, ["action", "owner", "due", "severity", "missed"], rows))
    titles = (("risks", "Risks late"), ("roadmap", "Roadmap late"), ("documents", "Documents to review"))
    for name, title in titles:
        if name in sections:
            rows = [[each["name"], each["item"], each["owner"], each["due"], each["state"]] for each in sections[name]]
            made.append((title, ["name", "item", "owner", "due", "state"], rows))
    if "checkpoints" in sections:
        rows = [
            [each["checkpoint"], each["verdict"], each["at"], str(each["version"]), each["record"][:12]]
            for each in sections["checkpoints"]
        ]
        made.append(("Checkpoints", ["checkpoint", "verdict", "judged", "version", "record"], rows))
    return made


_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#!~])")


def _plain(text: str) -> str:
    """Text that Markdown reads as text."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return _plain(text) or "–"


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("bailiwick.assurance.rhythm", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("pack.html")


def _decoded(body: bytes) -> dict[str, Any]:
    import json

    value: dict[str, Any] = json.loads(body)
    return value


_CHECKPOINTS = """
SELECT DISTINCT ON (checkpoint) checkpoint, version, verdict, at, record FROM checkpoint_results
WHERE zone = :zone AND evaluated_at <= :at ORDER BY checkpoint, version DESC
"""
