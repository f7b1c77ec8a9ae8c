"""Canaries begun, driven step by step, and ended. What is decided here holds at the gateway within moments: the weights
are in the row, the feed tells the work role, and that tells Envoy."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick import __version__
from bailiwick.assurance.books import Books
from bailiwick.assurance.canary_states import CANARY
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.gateway.lease import HELD_S
from bailiwick.handover.canary.judge import Judgement, judge, vetoed
from bailiwick.handover.canary.mix import mixes, more_denied
from bailiwick.handover.canary.records import (
    GOOD_FOR,
    Canary,
    Result,
    add_judgement,
    add_result,
    every_open,
    failed_since,
    find,
    highest,
    in_doubt,
    newest_of,
    newest_results,
    open_of,
    points_of,
    put,
    standing_of,
)
from bailiwick.handover.canary.spec import CANARY_PLAN, POINT_S, CanaryPlan
from bailiwick.handover.ports import Standing
from bailiwick.inventory.endpoints import Upstream, parse_upstream
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel import feed, modes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.verdicts import Verdict

RUNBOOK = "docs/how-to/canary.md"
CHECK = "canary.traffic"
_BY = Actor(user="system:canary")
LATELY = timedelta(minutes=2)
"""Of one that passed, points of so long ago are judged: older ones were."""
_FROZEN = (Switch.FREEZE.value, Switch.READ_ONLY.value)


@dataclass(frozen=True, slots=True)
class Start:
    """What is wanted: the release (``sha256:`` and 64 hex), by which plan, and where its instances answer."""

    server: str
    digest: str
    plan: str
    baseline_url: str
    candidate_url: str
    automatic: bool | None = None


class CanaryDesk:
    """Keeps the canaries of all zones; the rooms' ``Canaries`` and whoever sets ``Weights``.

    ``development``: whether points shorter than ten seconds count.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        resolver: Resolver,
        alerts: Alerts,
        *,
        development: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._resolver = resolver
        self._alerts = alerts
        self._development = development

    # --- what others ask

    async def standing(self, tx: Transaction, zone: str, digest: str) -> Standing:
        """The newest verdict on a release: NO_DATA without one or while it is being judged, STALE after 24 h."""
        running = await tx.all(
            "SELECT id FROM canaries WHERE zone = :zone AND digest = :digest AND state = 'running' AND verdict = ''",
            zone=zone,
            digest=digest,
        )
        found = await newest_results(tx, zone, digest)
        return standing_of(found, [row["id"] for row in running], self._clock.now(), development=self._development)

    async def set(self, zone: str, server: str, digest: str, candidate_percent: int) -> None:
        """Give the candidate of a release's canary on a server this part of the traffic; 0 withdraws it.

        Nothing is left to do where the candidate has none of it, and is asked to have none: whoever takes a release
        back does it after the canary withdrew the candidate, and may do it twice. Raises ``canary_unproven`` for more
        than what it was judged fit for, ``not_found`` without an open canary, ``canary_other`` where another release's
        goes on, ``canary_upstream`` where no weight takes the traffic away since the candidate is what the server has.
        """
        context = Context(zone, Actor(user="system:rollouts"))
        async with self._database.begin() as tx:
            canary = await open_of(tx, zone, server)
            if canary is not None and canary.digest != digest:
                if candidate_percent:
                    raise Conflict(reason="canary_other")
                canary = None
            if candidate_percent:
                await self._give(tx, context, server, digest, canary, candidate_percent)
            elif canary is not None:
                await self._withdraw(tx, context, canary, Verdict.NO_DATA, "withdrawn", "the rollout took it back")
            had = canary or await newest_of(tx, zone, server, digest)
            taken_over = had is not None and await _is_upstream(tx, had)
        if not candidate_percent and taken_over:
            raise Conflict(reason="canary_upstream")

    async def _give(
        self, tx: Transaction, context: Context, server: str, digest: str, canary: Canary | None, percent: int
    ) -> None:
        if canary is None:
            before = await newest_of(tx, context.zone, server, digest)
            if percent == 100 and before is not None and before.state == "ended" and await _is_upstream(tx, before):
                return  # it has all of it, since it is the server's own upstream by now
            raise NotFound("No canary of this release goes on at this server.")
        if percent not in canary.rules.steps:
            raise InvalidRequest(f"The plan's steps are {', '.join(map(str, canary.rules.steps))} percent.")
        if percent > highest(canary):
            raise _unproven(canary)
        if percent == canary.candidate_percent:
            return
        if canary.state != "running":
            raise Conflict("The candidate has passed and has all traffic; it can be withdrawn.")
        await require_on(tx, context.zone, Switch.FREEZE, Switch.READ_ONLY)
        if percent == 100:
            return await self._advance(tx, context, canary)
        if percent < canary.candidate_percent and not canary.waits and await in_doubt(tx, canary.id):
            raise Conflict(reason="canary_in_doubt")  # a smaller step would be looked at anew, and then this one
        step = canary.rules.steps.index(percent)
        passed = min(canary.passed, step)
        await put(tx, canary.id, passed=passed, **({"verdict": ""} if passed < canary.passed else {}))
        await self._weigh(tx, context, canary, percent, step)

    # --- beginning

    async def start(self, context: Context, wanted: Start) -> Canary:
        """Begin a canary at its plan's first step.

        Raises ``not_found`` (server, plan), ``canary_open``, ``canary_failed`` for a release that failed within a day,
        ``no_binding``, and what the addresses of the arms are refused for.
        """
        baseline, candidate = parse_upstream(wanted.baseline_url), parse_upstream(wanted.candidate_url)
        addresses = {name: await self._resolved(each) for name, each in (("b", baseline), ("c", candidate))}
        zone, now, identifier = context.zone, self._clock.now(), self._ids()
        async with self._database.begin() as tx:
            await require_on(tx, zone, Switch.FREEZE, Switch.READ_ONLY)
            stable_url = await _upstream_url(tx, zone, wanted.server, lock=True)
            _refuse_alike(parse_upstream(stable_url), baseline, candidate)
            plan = await self._plan(tx, zone, wanted)
            if await open_of(tx, zone, wanted.server) is not None:
                raise Conflict(reason="canary_open")
            await self._refuse_failed(tx, zone, wanted.digest, now)
            baseline_percent, percent = plan.weights(plan.steps[0])
            await tx.run(
                "INSERT INTO canaries (id, zone, server, digest, plan, spec, stable_url, baseline_url, candidate_url,"
                " baseline_addresses, candidate_addresses, baseline_percent, candidate_percent, state, automatic,"
                " phase_at, started_at, started_by) VALUES (:id, :zone, :server, :digest, :plan, cast(:spec AS jsonb),"
                " :stable_url, :baseline_url, :candidate_url, cast(:b AS jsonb), cast(:c AS jsonb), :baseline_percent,"
                " :percent, 'running', :automatic, :now, :now, :by)",
                id=identifier,
                zone=zone,
                server=wanted.server,
                digest=wanted.digest,
                plan=wanted.plan,
                spec=plan.model_dump_json(),
                stable_url=stable_url,
                baseline_url=wanted.baseline_url,
                candidate_url=wanted.candidate_url,
                baseline_percent=baseline_percent,
                percent=percent,
                automatic=plan.automatic if wanted.automatic is None else wanted.automatic,
                now=now,
                by=context.actor.user or context.actor.application or "bailiwick",
                **{name: json.dumps(each) for name, each in addresses.items()},
            )
            canary = await find(tx, zone, identifier)
            await self._note(tx, codes.CANARY_STARTED, context, canary, f"begins with {percent} %")
        return canary

    # --- by hand

    async def promote(self, context: Context, identifier: str) -> Canary:
        """Let a canary that waits go on to its next step. Raises ``canary_unproven`` before its step passed."""
        async with self._database.begin() as tx:
            canary = await find(tx, context.zone, identifier, lock=True)
            if canary.state != "running":
                CANARY.require(canary.state, "promoted")
            await require_on(tx, context.zone, Switch.FREEZE, Switch.READ_ONLY)
            if not canary.waits:
                raise _unproven(canary)
            await self._advance(tx, context, canary)
            return await find(tx, context.zone, identifier)

    async def withdraw(self, context: Context, identifier: str, why: str) -> Canary:
        """Take the candidate's traffic away. Nobody is kept from it, by no freeze either."""
        async with self._database.begin() as tx:
            canary = await find(tx, context.zone, identifier, lock=True)
            CANARY.require(canary.state, "withdrawn")
            await self._withdraw(tx, context, canary, Verdict.NO_DATA, "withdrawn", why)
            return await find(tx, context.zone, identifier)

    # --- by the clock

    async def drive(self, due: datetime) -> dict[str, int]:
        """Judge every canary that goes on, and do what follows; how many there were, and how many ended."""
        async with self._database.begin() as tx:
            standing = await every_open(tx)
        ended = 0
        for each in standing:
            trouble = await self._resolve_again(each)
            async with self._database.begin() as tx:
                canary = await find(tx, each.zone, each.id, lock=True)
                if canary.state in ("running", "promoted"):
                    await self._drive(tx, Context(canary.zone, _BY), canary, trouble)
                    ended += (await find(tx, canary.zone, canary.id)).state not in ("running", "promoted")
        return {"canaries": len(standing), "ended": ended}

    async def _drive(self, tx: Transaction, context: Context, canary: Canary, trouble: str) -> None:
        try:
            moved = parse_upstream(await _upstream_url(tx, canary.zone, canary.server)) != parse_upstream(
                canary.stable_url
            )
        except BailiwickError:
            moved = True
        if canary.state == "promoted":
            if moved:
                await self._end(tx, context, canary)
                return
            points = await points_of(tx, canary.id, canary.phase, self._clock.now() - LATELY)
            if veto := vetoed(points["candidate"], canary.rules.rules):  # there is no baseline any more to compare with
                told = f"it passed, and then {veto}"
                await self._withdraw(tx, context, canary, Verdict.FAIL, "veto", told)
            return
        unwatched = await tx.value(
            "SELECT extract(epoch FROM clock_timestamp() - watched_at) FROM canaries WHERE id = :id", id=canary.id
        )
        if unwatched > HELD_S:
            told = f"nobody judged it for {unwatched:.0f} s"
            return await self._withdraw(tx, context, canary, Verdict.NO_DATA, "unwatched", told)
        if moved:
            told = "the server's own upstream is another than when it began"
            return await self._withdraw(tx, context, canary, Verdict.NO_DATA, "server_changed", told)
        if trouble:
            return await self._withdraw(tx, context, canary, Verdict.NO_DATA, "unresolved", trouble)
        await tx.run("UPDATE canaries SET watched_at = clock_timestamp() WHERE id = :id", id=canary.id)
        await self._judge(tx, context, canary)

    async def _judge(self, tx: Transaction, context: Context, canary: Canary) -> None:
        plan, now = canary.rules, self._clock.now()
        points = await points_of(tx, canary.id, canary.phase)
        judged = judge(points["baseline"], points["candidate"], plan.rules)
        if judged.reason == "veto":
            await add_judgement(tx, canary, judged, now)
            return await self._withdraw(tx, context, canary, judged.verdict, judged.reason, judged.told)
        if canary.waits:
            return await self._go_on(tx, context, canary)
        if judged.points < max(plan.points, canary.looked + plan.rules.every if canary.looked else 0):
            spent = await tx.value(
                "SELECT extract(epoch FROM clock_timestamp() - phased_at) FROM canaries WHERE id = :id", id=canary.id
            )
            if spent > plan.patience * plan.bucket_s:
                await add_judgement(tx, canary, judged, now)
                reason = judged.reason if judged.verdict is Verdict.NO_DATA else "inconclusive"
                await self._withdraw(tx, context, canary, judged.verdict, reason, f"out of patience: {judged.told}")
            return None
        return await self._look(tx, context, canary, judged)

    async def _look(self, tx: Transaction, context: Context, canary: Canary, judged: Judgement) -> None:
        plan, now = canary.rules, self._clock.now()
        if judged.verdict.green:
            before, during = await mixes(tx, canary.zone, canary.server, canary.started_at, now)
            if denied := more_denied(before, during, plan.decisions.more_denied, plan.alpha):
                judged = Judgement(Verdict.FAIL, "denied", denied, True, judged.points, judged.metrics)
        await add_judgement(tx, canary, judged, now)
        await put(tx, canary.id, looked=judged.points, told=judged.told)
        await self._note(
            tx, codes.CANARY_JUDGED, context, canary, judged.told, verdict=judged.verdict.value, reason=judged.reason
        )
        if judged.verdict.green:
            await put(tx, canary.id, passed=canary.step + 1)
            canary = await find(tx, canary.zone, canary.id)
            if canary.rules.steps[canary.passed] == 100:
                await self._pass(tx, context, canary)
            await self._go_on(tx, context, await find(tx, canary.zone, canary.id))
        elif judged.final:
            await self._withdraw(tx, context, canary, judged.verdict, judged.reason, judged.told)

    async def _go_on(self, tx: Transaction, context: Context, canary: Canary) -> None:
        """Take the next step of one whose step is passed, where nobody has to be asked and nothing is frozen."""
        if canary.automatic and not (await modes.standing(tx, canary.zone)).intersection(_FROZEN):
            await self._advance(tx, context, canary)

    async def _pass(self, tx: Transaction, context: Context, canary: Canary) -> None:
        """Every step with a part of the traffic is passed: that is the verdict on the release, whoever gives it all."""
        told = f"passed {canary.passed} steps: {canary.told}"
        await put(tx, canary.id, verdict=Verdict.PASS.value, reason="", told=told)
        await self._conclude(tx, context, canary, Verdict.PASS, "", told)

    async def _advance(self, tx: Transaction, context: Context, canary: Canary) -> None:
        steps = canary.rules.steps
        if steps[canary.step + 1] < 100:
            return await self._weigh(tx, context, canary, steps[canary.step + 1], canary.step + 1)
        CANARY.require(canary.state, "promoted")
        await put(
            tx, canary.id, state="promoted", baseline_percent=0, candidate_percent=100, step=canary.step + 1,
            phase=canary.phase + 1, phase_at=self._clock.now(),
        )  # fmt: skip
        await tx.run("UPDATE canaries SET phased_at = clock_timestamp() WHERE id = :id", id=canary.id)
        await self._note(tx, codes.CANARY_PROMOTED, context, canary, canary.told, verdict=canary.verdict)

    async def _weigh(self, tx: Transaction, context: Context, canary: Canary, percent: int, step: int) -> None:
        """Other weights, and a phase of its own for them."""
        baseline, candidate = canary.rules.weights(percent)
        await put(
            tx, canary.id, baseline_percent=baseline, candidate_percent=candidate, step=step, looked=0,
            phase=canary.phase + 1, phase_at=self._clock.now(),
        )  # fmt: skip
        await tx.run("UPDATE canaries SET phased_at = clock_timestamp() WHERE id = :id", id=canary.id)
        await self._note(tx, codes.CANARY_WEIGHED, context, canary, f"{percent} % from now on", percent=percent)

    async def _withdraw(
        self, tx: Transaction, context: Context, canary: Canary, verdict: Verdict, reason: str, told: str
    ) -> None:
        """No traffic for the candidate from now on. One that passed keeps its verdict, and says why it went."""
        CANARY.require(canary.state, "withdrawn")
        passed = canary.verdict == Verdict.PASS
        await put(
            tx, canary.id, state="withdrawn", baseline_percent=0, candidate_percent=0, phase=canary.phase + 1,
            phase_at=self._clock.now(), verdict=verdict.value, reason=reason, told=told, ended_at=self._clock.now(),
            ended_by=context.actor.user or "",
        )  # fmt: skip
        await self._conclude(tx, context, canary, verdict, reason, told)
        await self._note(
            tx, codes.CANARY_WITHDRAWN, context, canary, told, verdict=verdict.value, reason=reason, passed=passed
        )
        if verdict is Verdict.FAIL or context.actor == _BY:
            await self._alerts.fire(tx, context, _raised(canary, reason, told))

    async def _end(self, tx: Transaction, context: Context, canary: Canary) -> None:
        """The server's own upstream is another by now, so that there is nothing to split any more."""
        await put(tx, canary.id, state="ended", ended_at=self._clock.now(), ended_by=context.actor.user or "")
        await self._note(tx, codes.CANARY_ENDED, context, canary, "the server has an upstream of its own again")

    async def _conclude(
        self, tx: Transaction, context: Context, canary: Canary, verdict: Verdict, reason: str, told: str
    ) -> None:
        now, plan = self._clock.now(), canary.rules
        exit_code = verdict.exit_code
        output = {"canary": canary.id, "verdict": verdict.value, "reason": reason, "told": told, "plan": canary.spec}
        stored = await self._records.probe(
            tx,
            context,
            CHECK,
            json.dumps(output, indent=1).encode(),
            exit_code=exit_code,
            since=canary.started_at,
            until=now,
            producer=Producer(host=platform.node(), name=_BY.user, program="bailiwick", version=__version__),
            inputs={"digest": canary.digest, "server": canary.server, "plan": canary.plan},
            expires_at=now + GOOD_FOR,
        )
        result = Result(
            self._ids(), canary.zone, canary.digest, "traffic", canary.id, verdict.value, reason, told, [],
            canary.started_at, now, context.actor.user or "", stored.id, plan.bucket_s < POINT_S,
        )  # fmt: skip
        await add_result(tx, result)
        if verdict.green:
            await self._alerts.clear(tx, context, _key(canary))

    # --- steps

    async def _plan(self, tx: Transaction, zone: str, wanted: Start) -> CanaryPlan:
        plan = await self._books.read(tx, zone, CANARY_PLAN, wanted.plan)
        if plan is None:
            raise NotFound(f"The book has no CanaryPlan {wanted.plan}.")
        if plan.servers and wanted.server not in plan.servers:
            raise InvalidRequest("The plan is for other servers.")
        return plan

    async def _refuse_failed(self, tx: Transaction, zone: str, digest: str, now: datetime) -> None:
        """Who may try until it passes by chance needs no judge: a release that failed is not tried again for a day."""
        if await failed_since(tx, zone, digest, now - GOOD_FOR):
            raise Conflict(reason="canary_failed")

    async def _resolved(self, upstream: Upstream) -> Sequence[str]:
        found = await self._resolver.resolve(upstream)
        if found.error is not None:
            raise BailiwickError(found.error.partition(": ")[2], reason=found.reason)
        return list(found.addresses)

    async def _resolve_again(self, canary: Canary) -> str:
        """Keep the addresses of the arms current; what is wrong where one may not be reached any more."""
        changed: dict[str, str] = {}
        for arm in ("baseline", "candidate"):
            found = await self._resolver.resolve(parse_upstream(getattr(canary, f"{arm}_url")))
            if found.error is not None:
                if found.transient:
                    continue  # as for servers: a name server that is away moves nobody
                return f"{arm}: {found.error}"
            if list(found.addresses) != list(getattr(canary, f"{arm}_addresses")):
                changed[f"{arm}_addresses"] = json.dumps(list(found.addresses))
        if changed:
            async with self._database.begin() as tx:
                await put(tx, canary.id, **changed)
                await feed.announce(tx, canary.zone, "server", canary.server)
        return ""

    async def _note(
        self, tx: Transaction, kind: EventType, context: Context, canary: Canary, told: str, **details: Any
    ) -> None:
        await self._recorder.record(
            tx,
            kind,
            "success",
            context,
            subject=Subject(id=canary.id, type="canary"),
            server=canary.server,
            digest=canary.digest,
            told=told,
            **details,
        )
        await feed.announce(tx, canary.zone, "server", canary.server)


async def _upstream_url(tx: Transaction, zone: str, server: str, *, lock: bool = False) -> str:
    """Where a bound server's requests go. Raises ``not_found``, ``no_binding``."""
    found = "SELECT endpoint, binding FROM servers WHERE zone = :zone AND name = :name"
    row: Row | None = await tx.one(f"{found} FOR UPDATE" if lock else found, zone=zone, name=server)
    if row is None:
        raise NotFound(f"There is no server {server}.")
    if row["binding"] is None:
        raise BailiwickError("A server without a binding has no traffic to split.", reason="canary_impossible")
    return str(row["binding"].get("upstream_url") or row["endpoint"])


async def _is_upstream(tx: Transaction, canary: Canary) -> bool:
    """Whether the candidate is what all requests of the server go to, canary or not."""
    try:
        return parse_upstream(await _upstream_url(tx, canary.zone, canary.server)) == parse_upstream(
            canary.candidate_url
        )
    except BailiwickError:
        return False  # no server, no binding: nothing goes anywhere


def _refuse_alike(stable: Upstream, baseline: Upstream, candidate: Upstream) -> None:
    """Raises ``canary_impossible`` for arms that could not be told apart, or that need another path than the server."""
    if candidate in (stable, baseline):
        raise BailiwickError("The candidate answers where another arm does.", reason="canary_impossible")
    if len({stable.base_path, baseline.base_path, candidate.base_path}) > 1:
        raise BailiwickError("All arms have the base path of the server's upstream.", reason="canary_impossible")


def _unproven(canary: Canary) -> BailiwickError:
    return BailiwickError(
        reason="canary_unproven", most_percent=highest(canary), verdict=canary.verdict or Verdict.NO_DATA.value
    )


def _key(canary: Canary) -> str:
    return f"canary/{canary.server}"


def _raised(canary: Canary, reason: str, told: str) -> Raised:
    return Raised(
        _key(canary),
        "CanaryWithdrawn",
        canary.rules.severity,
        f"the candidate of {canary.server} was withdrawn ({reason}): {told}"[:500],
        canary.rules.owner,
        RUNBOOK,
        {"component": "canary", "server": canary.server},
        {"description": f"bailiwick canary show {canary.id} tells by what. NO-GO for {canary.digest}."},
    )
