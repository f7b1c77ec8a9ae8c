"""Owners are told: whoever answers for an activity from now on hears of it, however that came about.

Who answers is compared with who answered when it was last looked at, and kept in the same transaction as what is said
about it: a process that dies in between says it the next time. Where the one who answered before has left, the one who
does now is given the task to take over.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from bailiwick.assurance.owners.people import people
from bailiwick.assurance.owners.service import Line, Ownership
from bailiwick.assurance.ports import Notice, Notices, Task
from bailiwick.assurance.tasks import TaskList
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity

SOURCE = "handover/"
GIVEN = timedelta(days=7)


class Answering:
    """Notices who answers for what, and says so."""

    def __init__(
        self, clock: Clock, recorder: Recorder, ownership: Ownership, tasks: TaskList, notices: Notices
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._ownership = ownership
        self._tasks = tasks
        self._notices = notices

    async def look(self, tx: Transaction, zone: str) -> dict[str, int]:
        """Compare and tell; how many activities have another owner than before."""
        context, now = Context(zone), self._clock.now()
        rows = await tx.all("SELECT activity, username FROM owners_answering WHERE zone = :zone", zone=zone)
        before = {row["activity"]: row["username"] for row in rows}
        lines = {line.name: line for line in await self._ownership.list(tx, zone, now)}
        changed = [line for name, line in lines.items() if before.get(name, "") != _username(line)]
        for line in changed:
            await self._keep(tx, context, line, before.get(line.name, ""), now)
        for gone in sorted(before.keys() - lines.keys()):
            await tx.run("DELETE FROM owners_answering WHERE zone = :zone AND activity = :name", zone=zone, name=gone)
        await self._tell(tx, zone, changed, now)
        await self._take_over(tx, context, {line.name: before.get(line.name, "") for line in changed}, lines)
        return {"changed": len(changed)}

    async def _keep(self, tx: Transaction, context: Context, line: Line, before: str, now: datetime) -> None:
        await tx.run(
            "INSERT INTO owners_answering (zone, activity, username, since) VALUES (:zone, :name, :username, :now)"
            " ON CONFLICT (zone, activity) DO UPDATE SET username = :username, since = :now",
            zone=context.zone,
            name=line.name,
            username=_username(line),
            now=now,
        )
        await self._recorder.record(
            tx,
            codes.OWNER_CHANGED,
            "success",
            context,
            subject=Subject(id=line.name, type="activity"),
            before=before,
            after=_username(line),
            why=line.answer.problem or ("deputy" if line.answer.deputy else ""),
        )

    async def _tell(self, tx: Transaction, zone: str, changed: list[Line], now: datetime) -> None:
        """One message for each person, however much is his."""
        for username in sorted({_username(line) for line in changed} - {""}):
            names = [line.name for line in changed if _username(line) == username]
            digest = hashlib.sha256("\n".join([now.isoformat(), *names]).encode()).hexdigest()[:16]
            await self._notices.send(
                tx,
                zone,
                Notice(
                    to=f"person:{username}",
                    key=f"owners/answers/{username}/{digest}",
                    subject=f"You answer for {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                    body="From now on you answer for:\n\n" + "".join(f"  {name}\n" for name in names),
                ),
            )

    async def _take_over(
        self, tx: Transaction, context: Context, before: dict[str, str], lines: dict[str, Line]
    ) -> None:
        standing = await self._tasks.sources(tx, context.zone, SOURCE)
        names = {*before.values(), *(source.split("/")[1] for source in standing)}
        known = await people(tx, context.zone, names, [])
        for activity, username in before.items():
            if username and known.active(username) is None and lines[activity].answer.person is not None:
                await self._tasks.open(
                    tx,
                    context,
                    Task(
                        f"{SOURCE}{username}/{activity}",
                        f"Take over {activity} from {username}, who is gone",
                        f"activity:{activity}",
                        self._clock.now() + GIVEN,
                        Severity.P3,
                    ),
                )
        for source in standing:
            if known.active(source.split("/")[1]) is not None:
                await self._tasks.close(tx, context, source, "he is back")


def _username(line: Line) -> str:
    return line.answer.person.username if line.answer.person is not None else ""
