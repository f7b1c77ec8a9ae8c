"""How each action of a plan is done, and how it is seen that it was.

Nothing here writes down what became of a step; that is the engine's. What an action raises is a step that failed.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from bailiwick.assurance.book import BadBook, read_directory
from bailiwick.assurance.books import Books
from bailiwick.assurance.books import Plan as BookPlan
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Verdicts
from bailiwick.assurance.probes.looks import look
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import LookFailed, read
from bailiwick.assurance.probes.spec import DnsCheck, HttpCheck
from bailiwick.evidence.approvals import asker_of
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.evidence_records import MOST_OUTPUT
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import Outgoing
from bailiwick.handover.ports import Weights
from bailiwick.handover.rollouts.migrations import statements
from bailiwick.handover.rollouts.plans import (
    BookAction,
    CommandAction,
    Deed,
    DnsAction,
    HttpAction,
    KubectlAction,
    ManualAction,
    PolicyAction,
    PreflightAction,
    Verification,
    WaitAction,
    WeightsAction,
)
from bailiwick.handover.rollouts.programs import Programs, Ran
from bailiwick.handover.rollouts.records import Rollout
from bailiwick.handover.rollouts.states import Attempt
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.quorum import Approval, Quorum
from bailiwick.kernel.verdicts import Verdict
from bailiwick.policy.policies import Policies

POLLED = ("wait", "dns", "book", "policy")
"""Actions that are looked at again and again, and not waited for."""
_AGAIN_S = 1.0
_LOOK_S = 30.0
_MOST_LINES = 20_000
_ROOM = 65_536  # of a record, for the rest of what it says


class Renderings(Protocol):
    """What configurations were rendered to."""

    async def keep(self, rollout: Rollout, ran: Ran) -> str:
        """Keep what was rendered now; its text as kept."""
        ...

    async def before(self, rollout: Rollout) -> str:
        """What the release before was rendered to; empty where there was none."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What an action came to. ``ok`` is None where it is to be looked at again. ``holds_since``: of waiting.

    ``review``: it is done, and a person has to read what it found. ``approval``: the request that is waited for.
    """

    ok: bool | None
    told: str
    output: bytes = b""
    size: int | None = None
    command: tuple[str, ...] = ()
    holds_since: datetime | None = None
    review: bool = False
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Tools:
    """What actions are done with. Without ``policies`` none is activated here, without ``weights`` no traffic split;
    without ``quorum`` nobody hears of an approval but by asking for it again."""

    database: Database
    clock: Clock
    programs: Programs
    means: Means
    books: Books
    verdicts: Verdicts
    renderings: Renderings
    policies: Policies | None = None
    weights: Weights | None = None
    quorum: Quorum | None = None


class Actions:
    """Does them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def act(self, rollout: Rollout, deed: Deed, attempt: Attempt) -> Done:
        """Do it. Whatever goes wrong is a :class:`Done` that is not ok; only being cancelled is raised."""
        try:
            return await self._act(rollout, deed, attempt)
        except Unavailable as error:
            if error.reason in ("changes_frozen", "read_only") and deed.do.kind in POLLED:
                return Done(None, f"waits: {error.detail}")
            return Done(False, f"{error.reason}: {error.detail}")
        except BailiwickError as error:
            return Done(False, f"{error.reason}: {error.detail}")
        except (Retry, Stop, LookFailed, OSError) as error:
            return Done(False, str(error))

    async def verify(self, rollout: Rollout, deed: Deed, *, at_once: bool = False) -> Done:
        """See whether it was done: every verification holds, within its time. ``at_once``: holds now."""
        lines, output = [], b""
        for check in deed.verify:
            found = await self._verified(rollout, check, 0.0 if at_once else span(check.within).total_seconds())
            lines.append(found.told)
            output += found.output
            if not found.ok:
                return Done(False, f"not verified: {found.told}", output)
        return Done(True, "; ".join(lines) or "done", output)

    # --- actions

    async def _act(self, rollout: Rollout, deed: Deed, attempt: Attempt) -> Done:
        key = f"{rollout.id}/{attempt.step}/{attempt.way}"
        match deed.do:
            case CommandAction() as action:
                ran = await self._tools.programs.run(action.argv, span(action.timeout).total_seconds(), key)
                return _of(ran, action.argv)
            case KubectlAction() as action:
                return await self._kubectl(action, key)
            case HttpAction() as action:
                return await self._http(action, key)
            case WeightsAction() as action:
                if self._tools.weights is None:
                    return Done(False, "nothing here splits traffic")
                await self._tools.weights.set(rollout.zone, action.server, rollout.digest, action.percent)
                return Done(True, f"{action.percent} % of {action.server} go to the candidate")
            case PolicyAction() as action:
                return await self._pending(rollout, attempt) or await self._policy(rollout, action)
            case BookAction() as action:
                return await self._pending(rollout, attempt) or await self._book(rollout, action)
            case DnsAction() as action:
                return await self._dns(rollout, action, attempt)
            case WaitAction() as action:
                return await self._wait(rollout, action, attempt)
            case PreflightAction() as action:
                return await self._preflight(rollout, action, key)
            case ManualAction():
                raise AssertionError("a person does it")

    async def _kubectl(self, action: KubectlAction, key: str) -> Done:
        """The difference first: ``kubectl diff`` ends with 1 where there is one, above that where it cannot tell."""
        limit = span(action.timeout).total_seconds()
        where = ["-k" if action.kustomize else "-f", action.path]
        if action.namespace:
            where += ["-n", action.namespace]
        self._tools.programs.file(action.path)
        output, size = b"", 0
        if action.verb == "apply":
            seen = await self._tools.programs.run(["kubectl", "diff", *where], limit, key)
            output, size = b"--- kubectl diff\n" + seen.output + b"--- kubectl apply\n", seen.size
            if seen.code not in (0, 1):
                return Done(False, f"kubectl diff: {seen.told}", output, size)
        argv = ["kubectl", action.verb, *where, *(["--ignore-not-found"] if action.verb == "delete" else [])]
        ran = await self._tools.programs.run(argv, limit, key)
        return _of(replace(ran, output=output + ran.output, size=size + ran.size), argv)

    async def _http(self, action: HttpAction, key: str) -> Done:
        client = Outgoing(self._tools.means.reach, timeout_s=span(action.timeout).total_seconds(), most=1 << 20)
        try:
            answer = await client.post(
                action.url, action.body.encode(), {"Idempotency-Key": key, **action.headers}, method=action.method
            )
        finally:
            await client.close()
        told = f"{action.method} {action.url} answers {answer.status}"
        return Done(answer.status in action.status, told, answer.body)

    async def _pending(self, rollout: Rollout, attempt: Attempt) -> Done | None:
        """What became of the approval that the attempt waits for; None where it is to be done, or asked for, now.

        To ask again is to prepare all of it again, and after a rejection to ask anew, for ever.
        """
        if not attempt.approval or self._tools.quorum is None:
            return None
        found = await self._tools.quorum.get(rollout.zone, attempt.approval)
        if found.state in ("approved", "executed"):
            return None
        if found.state == "open":
            return _waits(found)
        by = f" by {found.ended_by}" if found.ended_by else ""
        return Done(False, f"approval {found.id} is {found.state}{by}")

    async def _policy(self, rollout: Rollout, action: PolicyAction) -> Done:
        if self._tools.policies is None:
            return Done(False, "no policies are activated here")
        change = await self._tools.policies.activate(_context(rollout), action.policy, int(action.version))
        if isinstance(change, Approval):
            return _waits(change)
        return Done(True, f"{action.policy} {action.version} is active in set {change.activation.hash[:19]}")

    async def _book(self, rollout: Rollout, action: BookAction) -> Done:
        try:
            documents = await asyncio.to_thread(read_directory, self._tools.programs.file(action.path))
            if not documents:  # a folder that is not there would be a book without anything in it
                return Done(False, f"there are no documents in {action.path}")
            planned = await self._tools.books.plan(rollout.zone, documents)
            if not planned.differences:
                return Done(True, f"the book is as {action.path} says")
            told = "\n".join(f"{each.how} {each.kind} {each.name}" for each in planned.differences).encode()
            context = _context(rollout)
            by, signed_in = asker_of(context)  # who started it may have done so by a key, and is not there now
            done = await self._tools.books.apply(context, documents, sha256=planned.sha256, by=by, signed_in=signed_in)
        except BadBook as error:
            return Done(False, str(error))
        if isinstance(done, BookPlan):
            return Done(True, f"{len(planned.differences)} documents changed", told)
        return replace(_waits(done), output=told)

    async def _dns(self, rollout: Rollout, action: DnsAction, attempt: Attempt) -> Done:
        found = await self._look(rollout, action.ask.check())
        if found.ok:
            return found
        late = self._tools.clock.now() - attempt.begun_at >= span(action.within)
        return replace(found, ok=False if late else None)

    async def _wait(self, rollout: Rollout, action: WaitAction, attempt: Attempt) -> Done:
        now, lasting = self._tools.clock.now(), span(action.lasting)
        if action.probe is None:
            left = attempt.begun_at + lasting - now
            return Done(True, f"waited {action.lasting}") if left <= timedelta(0) else Done(None, f"waits {_s(left)}")
        verdict = await self._probe(rollout.zone, action.probe, now)
        since = (attempt.since or now) if verdict.green else None
        told = f"probe {action.probe} is {verdict}"
        if since is not None and now - since >= lasting:
            return Done(True, told, holds_since=since)
        late = now - attempt.begun_at >= span(action.within) + lasting
        return Done(False if late else None, told, holds_since=since)

    async def _preflight(self, rollout: Rollout, action: PreflightAction, key: str) -> Done:
        """The rendered difference, the migrations, and the tests of the release before on the new schema."""
        limit = span(action.timeout).total_seconds()
        programs, parts = self._tools.programs, []
        rendered = await programs.run(action.render, limit, key)
        parts += ["# render: " + rendered.told]
        if rendered.code != 0 or not rendered.output.strip():
            return Done(False, f"render: {rendered.told}, {rendered.size} bytes", rendered.output)
        if rendered.size > MOST_OUTPUT:  # no more of it is kept
            return Done(False, f"render: {rendered.size} bytes are more than can be compared", rendered.output)
        before = await self._tools.renderings.before(rollout)
        now = await self._tools.renderings.keep(rollout, rendered)
        migrations = await programs.run(action.migrations, limit, key)
        parts += ["# migrations: " + migrations.told]
        if migrations.code != 0 or migrations.size > len(migrations.output):
            return Done(False, f"migrations: {migrations.told}", migrations.output)
        # neither may hold up what else this process does
        found = await asyncio.to_thread(_compared, before, now, migrations.output.decode("utf-8", "replace"))
        if not found.whole:
            return Done(False, "this is more than a person can read: " + found.told, found.text.encode())
        smoke = await programs.run(action.smoke, limit, key)
        parts += ["# smoke of the release before on the new schema: " + smoke.told]
        text = "\n".join([*parts, found.text, "# smoke", ""]).encode() + smoke.output
        return Done(smoke.code == 0, f"{found.told}, smoke {smoke.told}", text, review=found.differs)

    # --- looking

    async def _verified(self, rollout: Rollout, check: Verification, within_s: float) -> Done:
        until = time.monotonic() + within_s
        while True:
            try:
                found = await self._check(rollout, check)
            except (BailiwickError, LookFailed) as error:
                found = Done(False, error.detail if isinstance(error, BailiwickError) else str(error))
            if found.ok or time.monotonic() >= until:
                return found
            await asyncio.sleep(min(_AGAIN_S, max(0.01, until - time.monotonic())))

    async def _check(self, rollout: Rollout, check: Verification) -> Done:
        if check.command is not None:
            ran = await self._tools.programs.run(check.command, _LOOK_S, f"{rollout.id}/verify")
            done = _of(ran, check.command)
            if done.ok and check.prints not in ran.output.decode("utf-8", "replace"):
                return replace(done, ok=False, told=f"{check.command[0]} does not print {check.prints!r}")
            return replace(done, told=f"{check.command[0]}: {done.told}")
        if check.probe is not None:
            verdict = await self._probe(rollout.zone, check.probe, self._tools.clock.now())
            return Done(verdict.green, f"probe {check.probe} is {verdict}")
        if check.http is not None:
            return await self._look(rollout, check.http)
        assert check.dns is not None  # as the model says
        return await self._look(rollout, check.dns.check())

    async def _look(self, rollout: Rollout, check: DnsCheck | HttpCheck) -> Done:
        asked = Asked(rollout.zone, self._tools.clock.now(), None, _LOOK_S)
        try:
            reading = read(await look(check, self._tools.means, asked), None)
        except LookFailed as error:
            return Done(False, str(error))
        what = check.url if isinstance(check, HttpCheck) else check.name
        return Done(reading.verdict.green, f"{what}: {reading.verdict} {reading.detail}".strip(), reading.output)

    async def _probe(self, zone: str, probe: str, now: datetime) -> Verdict:
        async with self._tools.database.begin() as tx:
            found = await self._tools.verdicts.newest(tx, zone, probe, now)
        return found.verdict if found is not None else Verdict.NO_DATA


@dataclass(frozen=True, slots=True)
class _Compared:
    """What a preflight shows to who reviews it. ``whole``: all of it is there. ``differs``: somebody has to read it."""

    told: str
    text: str
    differs: bool
    whole: bool


def _compared(before: str, now: str, printed: str) -> _Compared:
    """The difference of two renderings and what the program of the migrations ``printed``, as it printed it.

    What is printed is read by people however little we understand of it: where we see no statement, one may be.
    """
    old, new = before.splitlines(), now.splitlines()
    comparable = old == new or max(len(old), len(new)) <= _MOST_LINES
    # its first two lines name both sides
    lines = [*difflib.unified_diff(old, new, lineterm="")][2:] if comparable else []
    changed = sum(line[:1] in ("+", "-") for line in lines)
    sql = statements(printed)
    risky = sum(each.danger for each in sql)
    text = "\n".join(
        [f"# {len(sql)} statements", *(f"{'! ' if each.danger else '  '}{each.text}" for each in sql),
         "# migrations, as printed", printed, f"# {changed} lines of configuration differ", *lines]
    )  # fmt: skip
    told = f"{changed} lines differ, {len(sql)} statements ({risky} take something away)"
    if not comparable:
        told = f"{len(new)} lines after {len(old)}, {len(sql)} statements"
    whole = comparable and len(text.encode()) <= MOST_OUTPUT - _ROOM
    return _Compared(told, text, bool(changed or printed.strip()), whole)


def _of(ran: Ran, argv: Sequence[str]) -> Done:
    return Done(ran.code == 0, ran.told, ran.output, ran.size, tuple(argv))


def _waits(approval: Approval) -> Done:
    return Done(None, f"waits for approval {approval.id}", approval=approval.id)


def _context(rollout: Rollout) -> Context:
    return Context(rollout.zone, Actor(user=rollout.started_by))


def _s(left: timedelta) -> str:
    return f"{int(left.total_seconds())} s more"


__all__ = ["POLLED", "Actions", "Done", "Renderings", "Tools"]
