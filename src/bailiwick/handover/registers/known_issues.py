"""Known issues, as lines of the registers: put on the list in one step, and told in handover packs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bailiwick.assurance.book import API_VERSION, Document
from bailiwick.assurance.books import Books, Plan
from bailiwick.assurance.registers import KNOWN_ISSUE, Item, KnownIssue, Registers, items
from bailiwick.evidence.events import Context
from bailiwick.handover.ports import Statement
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.verdicts import Verdict


class KnownIssues:
    """Puts issues on the list. What becomes of them is the register's."""

    def __init__(self, database: Database, books: Books, registers: Registers) -> None:
        self._database = database
        self._books = books
        self._registers = registers

    async def add(self, context: Context, name: str, issue: KnownIssue, *, by: str) -> Item:
        """Put an issue into the book, beside everything that is in it. Raises ``conflict`` where there is one."""
        async with self._database.begin() as tx:
            book = await self._books.current(tx, context.zone)
        if (KNOWN_ISSUE.name, name) in book.documents:
            raise Conflict(f"There is a known issue {name}; what it says is changed in the book.")
        made = Document(KNOWN_ISSUE.name, name, issue.model_dump(mode="json", exclude_none=True), API_VERSION)
        documents = [*book.documents.values(), made]
        planned = await self._books.plan(context.zone, documents)
        done = await self._books.apply(context, documents, sha256=planned.sha256, by=by)
        assert isinstance(done, Plan), "what is only added takes no second person"
        return await self._registers.get(context.zone, "known-issues", name)


class KnownIssuesChapter:
    """The known issues of a zone: each that is not fixed, with its workaround; late is red."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        found = await items(tx, zone, "known-issues", until)
        left = [each for each in found if each.state != "fixed"]
        fixed = len(found) - len(left)
        told = [
            Statement(
                "known-issues", f"{len(left)} known and not fixed, {fixed} fixed", Verdict.PASS, "register", since,
                until, {"open": len(left), "fixed": fixed},
            )
        ]  # fmt: skip
        return [*told, *(_statement(each, since, until) for each in left)]


def _statement(issue: Item, since: datetime, until: datetime) -> Statement:
    spec = issue.spec
    late = issue.late(until)
    figures = {
        name: str(spec[name])
        for name in ("severity", "impact", "workaround", "permanent_fix", "target_version", "owner")
    }
    return Statement(
        issue.name,
        f"{spec['item']}: {issue.state}" + (f", due {issue.due} and late" if late else ""),
        Verdict.FAIL if late else Verdict.PASS,
        issue.changed_by or "book",
        since,
        until,
        figures,
        f"sha256:{issue.record}" if issue.record else "",
    )
