"""Canaries as they are kept: what one is, which state may follow which, its points, its judgements, what was found."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick.evidence.events import rfc3339
from bailiwick.handover.canary.judge import ArmName, Histogram, Judgement, Point, merged
from bailiwick.handover.canary.spec import CanaryPlan
from bailiwick.handover.ports import Point as Blocker
from bailiwick.handover.ports import Standing
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.verdicts import Verdict, worst

GOOD_FOR = timedelta(hours=24)
"""How long a verdict about a release counts."""

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

ResultKind = Literal["traffic", "loop"]


@dataclass(frozen=True, slots=True)
class Canary:
    """One canary. ``step``: which of the plan's it is at, and ``passed`` how many of them it passed; ``phase`` grows
    with every change of weights, and points are of one phase. ``looked``: with how many it was judged last."""

    id: str
    zone: str
    server: str
    digest: str
    plan: str
    spec: Mapping[str, Any]
    stable_url: str
    baseline_url: str
    candidate_url: str
    baseline_addresses: Sequence[str]
    candidate_addresses: Sequence[str]
    baseline_percent: int
    candidate_percent: int
    state: str
    automatic: bool
    step: int
    passed: int
    phase: int
    phase_at: datetime
    looked: int
    verdict: str
    reason: str
    told: str
    started_at: datetime
    started_by: str
    ended_at: datetime | None
    ended_by: str
    version: int

    @property
    def rules(self) -> CanaryPlan:
        """The plan as it was when the canary began."""
        return CanaryPlan.model_validate(self.spec)

    @property
    def waits(self) -> bool:
        """Whether its step is passed and somebody has to let it go on."""
        return self.state == "running" and self.passed > self.step

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        hidden = {"zone", "spec", "baseline_addresses", "candidate_addresses"}
        told = {name: getattr(self, name) for name in self.__slots__ if name not in hidden}
        times = {name: rfc3339(told[name]) if told[name] is not None else None for name in _TIMES}
        return {**told, **times, "steps": self.rules.steps, "points_needed": self.rules.points, "waits": self.waits}


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of a release. ``steps``: of a loop, what was expected and what came. ``shortened``: its buckets
    were shorter than points are. ``own``: of a loop, that what it is about ran here while it was walked."""

    id: str
    zone: str
    digest: str
    kind: ResultKind
    canary: str | None
    verdict: str
    reason: str
    told: str
    steps: Sequence[Mapping[str, Any]]
    began_at: datetime
    at: datetime
    by: str
    record: str
    shortened: bool
    own: bool = False

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "zone"}
        return {**told, "began_at": rfc3339(self.began_at), "at": rfc3339(self.at)}


# ---------------------------------------------------------------------- rules


def standing_of(found: Sequence[Result], running: Sequence[str], now: datetime, *, development: bool) -> Standing:
    """What ``found`` amounts to: the newest of each kind counts, for a day; while a canary is judged, nothing does.

    What is asked for is a canary on traffic, and a loop beside it can only speak against it. Our own releases and
    policies, which no gateway of ours can split, have the loop for their canary.

    ``running``: ids of canaries of the release that have no verdict yet.
    """
    newest: dict[str, Result] = {}
    for each in sorted(found, key=lambda result: (result.at, result.id)):
        newest[each.kind] = each
    points = [_judged(each, now, development=development) for each in newest.values()]
    points += [Blocker(f"canary/{each}", Verdict.NO_DATA, "it goes on: there is no verdict yet") for each in running]
    if not any(each.kind == "traffic" or each.own for each in newest.values()):
        points.append(Blocker("canary/traffic", Verdict.NO_DATA, "no canary on traffic was run with this release"))
    verdict = worst(point.verdict for point in points)
    until = min((each.at + GOOD_FOR for each in newest.values()), default=None)
    blockers = [point for point in points if not point.verdict.green]
    return Standing(verdict, now, until, blockers, {f"{kind}_at": rfc3339(each.at) for kind, each in newest.items()})


def _judged(result: Result, now: datetime, *, development: bool) -> Blocker:
    name, verdict, told = f"canary/{result.kind}", Verdict(result.verdict), result.told
    if result.reason:
        told = f"{result.reason}: {told}"
    if verdict is Verdict.PASS and now >= result.at + GOOD_FOR:
        verdict, told = Verdict.STALE, f"passed at {rfc3339(result.at)}, which is more than a day ago"
    elif verdict is Verdict.PASS and now < result.at:
        verdict, told = Verdict.ERROR, "its time is in the future"
    elif verdict is Verdict.PASS and result.shortened and not development:
        verdict, told = Verdict.NO_DATA, "its points were shorter than ten seconds, which counts in development only"
    return Blocker(name, verdict, told, record=result.record)


def highest(canary: Canary) -> int:
    """The most that its candidate may get by what was shown so far: the first step that is not passed."""
    steps = canary.rules.steps
    return steps[min(canary.passed, len(steps) - 1)]


# ---------------------------------------------------------------------- store

_TIMES = ("phase_at", "started_at", "ended_at")
_SELECT = f"SELECT {', '.join(Canary.__slots__)} FROM canaries"  # noqa: S608 - names from the class
_RESULTS = f"SELECT {', '.join(Result.__slots__)} FROM canary_results"  # noqa: S608 - names from the class


def _canary(row: Row) -> Canary:
    return Canary(**{name: row[name] for name in Canary.__slots__})


async def find(tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Canary:
    """One canary by its id. Raises :class:`NotFound`."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND id = :id {'FOR UPDATE' if lock else ''}", zone=zone, id=identifier
    )
    if row is None:
        raise NotFound("There is no such canary.")
    return _canary(row)


async def open_of(tx: Transaction, zone: str, server: str) -> Canary | None:
    """The canary of a server that runs or is promoted, kept from changing until the transaction ends."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND server = :server AND state IN ('running', 'promoted') FOR UPDATE",
        zone=zone,
        server=server,
    )
    return _canary(row) if row is not None else None


async def newest_of(tx: Transaction, zone: str, server: str, digest: str) -> Canary | None:
    """The canary of a release on a server that began last, over or not."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND server = :server AND digest = :digest ORDER BY id DESC LIMIT 1",
        zone=zone,
        server=server,
        digest=digest,
    )
    return _canary(row) if row is not None else None


async def every_open(tx: Transaction) -> list[Canary]:
    """Those of all zones that run or are promoted."""
    return [_canary(row) for row in await tx.all(f"{_SELECT} WHERE state IN ('running', 'promoted') ORDER BY id")]


async def list_canaries(
    tx: Transaction, zone: str, *, digest: str = "", before: str = "g", limit: int = 100
) -> list[Canary]:
    """Newest first, of one release or of all."""
    rows = await tx.all(
        f"{_SELECT} WHERE zone = :zone AND id < :before AND (:digest = '' OR digest = :digest)"
        " ORDER BY id DESC LIMIT :limit",
        zone=zone,
        before=before,
        digest=digest,
        limit=limit,
    )
    return [_canary(row) for row in rows]


async def put(tx: Transaction, canary: str, **columns: Any) -> None:
    """Set columns of a canary, by our own names."""
    assert columns.keys() <= {*Canary.__slots__} and "id" not in columns
    said = ", ".join(
        f"{name} = cast(:{name} AS jsonb)" if name.endswith("_addresses") else f"{name} = :{name}" for name in columns
    )
    await tx.run(
        f"UPDATE canaries SET {said}, version = version + 1 WHERE id = :id",  # noqa: S608 - names checked above
        id=canary,
        **columns,
    )


async def points_of(
    tx: Transaction, canary: str, phase: int, since: datetime | None = None
) -> dict[ArmName, list[Point]]:
    """What the arms did in one phase, all machines together, by bucket."""
    rows = await tx.all(
        "SELECT arm, bucket, requests, errors, refused, histogram FROM canary_points"
        " WHERE canary = :canary AND phase = :phase"
        " AND (cast(:since AS timestamptz) IS NULL OR at >= :since) ORDER BY bucket",
        canary=canary,
        phase=phase,
        since=since,
    )
    grouped: dict[tuple[ArmName, int], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["arm"], row["bucket"]].append(row)
    found: dict[ArmName, list[Point]] = {"stable": [], "baseline": [], "candidate": []}
    for (arm, bucket), each in grouped.items():
        requests, errors, refused = (sum(row[name] for row in each) for name in ("requests", "errors", "refused"))
        histogram = merged([[(low, wide, count) for low, wide, count in row["histogram"]] for row in each])
        found[arm].append(Point(bucket, requests, errors, refused, histogram))
    return found


@dataclass(frozen=True, slots=True)
class Counted:
    """What Envoy counted of one arm in one bucket."""

    arm: ArmName
    requests: int
    errors: int
    refused: int
    histogram: Histogram


async def add_points(
    tx: Transaction, canary: str, phase: int, bucket: int, machine: str, at: datetime, counted: Sequence[Counted]
) -> None:
    """Keep a bucket. Of two processes of a machine, which ask the same Envoy, the first is believed."""
    for each in counted:
        await tx.run(
            "INSERT INTO canary_points (canary, phase, bucket, arm, machine, at, requests, errors, refused, histogram)"
            " VALUES (:canary, :phase, :bucket, :arm, :machine, :at, :requests, :errors, :refused,"
            " cast(:histogram AS jsonb)) ON CONFLICT DO NOTHING",
            canary=canary,
            phase=phase,
            bucket=bucket,
            arm=each.arm,
            machine=machine,
            at=at,
            requests=each.requests,
            errors=each.errors,
            refused=each.refused,
            histogram=json.dumps(each.histogram),
        )


async def add_judgement(tx: Transaction, canary: Canary, judged: Judgement, now: datetime) -> None:
    """Keep a judgement, whatever it says."""
    await tx.run(
        "INSERT INTO canary_judgements (canary, number, at, percent, points, verdict, reason, told, metrics)"
        " SELECT :canary, coalesce(max(number), 0) + 1, :now, :percent, :points, :verdict, :reason, :told,"
        " cast(:metrics AS jsonb) FROM canary_judgements WHERE canary = :canary",
        canary=canary.id,
        now=now,
        percent=canary.candidate_percent,
        points=judged.points,
        verdict=judged.verdict.value,
        reason=judged.reason,
        told=judged.told,
        metrics=json.dumps([each.document() for each in judged.metrics]),
    )


async def judgements_of(tx: Transaction, canary: str) -> list[dict[str, Any]]:
    """Every judgement of a canary in the order they were made."""
    rows = await tx.all("SELECT * FROM canary_judgements WHERE canary = :canary ORDER BY number", canary=canary)
    return [
        {**{name: value for name, value in row.items() if name != "canary"}, "at": rfc3339(row["at"])} for row in rows
    ]


async def add_result(tx: Transaction, result: Result) -> None:
    """Keep what was found of a release. It is only ever added to."""
    values = {name: getattr(result, name) for name in Result.__slots__ if name != "steps"}
    await tx.run(
        "INSERT INTO canary_results (id, zone, digest, kind, canary, verdict, reason, told, steps, began_at, at, by,"
        " record, shortened, own) VALUES (:id, :zone, :digest, :kind, :canary, :verdict, :reason, :told,"
        " cast(:steps AS jsonb), :began_at, :at, :by, :record, :shortened, :own)",
        steps=json.dumps(list(result.steps)),
        **values,
    )


async def results_of(tx: Transaction, zone: str, *, digest: str = "", limit: int = 100) -> list[Result]:
    """What was found, newest first; of one release or of all."""
    rows = await tx.all(
        f"{_RESULTS} WHERE zone = :zone AND (:digest = '' OR digest = :digest) ORDER BY at DESC, id DESC LIMIT :limit",
        zone=zone,
        digest=digest,
        limit=limit,
    )
    return [_result(row) for row in rows]


async def newest_results(tx: Transaction, zone: str, digest: str, until: datetime | None = None) -> list[Result]:
    """Of each kind the newest that was found of a release, or the newest up to an instant, however many there are."""
    rows = await tx.all(
        f"SELECT DISTINCT ON (kind) {', '.join(Result.__slots__)} FROM canary_results"  # noqa: S608 - the class's names
        " WHERE zone = :zone AND digest = :digest AND (cast(:until AS timestamptz) IS NULL OR at <= :until)"
        " ORDER BY kind, at DESC, id DESC",
        zone=zone,
        digest=digest,
        until=until,
    )
    return [_result(row) for row in rows]


async def failed_since(tx: Transaction, zone: str, digest: str, since: datetime) -> bool:
    """Whether traffic spoke against a release: a canary that failed, or one that was ended before a look at it that
    showed nothing good was followed by one that did."""
    return bool(
        await tx.value(
            "SELECT EXISTS (SELECT FROM canary_results WHERE zone = :zone AND digest = :digest"  # noqa: S608 - our own words
            " AND kind = 'traffic' AND verdict = 'FAIL' AND at >= :since) OR EXISTS (SELECT FROM canaries c"
            f" WHERE c.zone = :zone AND c.digest = :digest AND {_IN_DOUBT})",
            zone=zone,
            digest=digest,
            since=since,
        )
    )


async def in_doubt(tx: Transaction, canary: str) -> bool:
    """Whether a canary was looked at and nothing good was shown since."""
    return bool(
        await tx.value(
            f"SELECT {_IN_DOUBT} FROM canaries c WHERE c.id = :canary",  # noqa: S608 - our own words
            canary=canary,
            since=None,
        )
    )


_IN_DOUBT = (
    "EXISTS (SELECT FROM canary_judgements j WHERE j.canary = c.id AND j.verdict = 'FAIL'"
    " AND (cast(:since AS timestamptz) IS NULL OR j.at >= :since) AND NOT EXISTS (SELECT FROM canary_judgements p"
    " WHERE p.canary = c.id AND p.verdict = 'PASS' AND p.number > j.number))"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many verdicts there were in a window, and how many refused; the newest of them, those on traffic first."""

    verdicts: int
    refused: int
    newest: Sequence[Result]


async def tally(tx: Transaction, zone: str, since: datetime, until: datetime, limit: int) -> Tally:
    """What was found in a window, of all releases; every verdict counts, ``limit`` of them are told."""
    window = "FROM canary_results WHERE zone = :zone AND at >= :since AND at <= :until"
    counted = await tx.one(
        f"SELECT count(*) AS verdicts, count(*) FILTER (WHERE verdict = 'FAIL') AS refused {window}",
        zone=zone, since=since, until=until,
    )  # fmt: skip
    rows = await tx.all(
        f"SELECT {', '.join(Result.__slots__)} {window}"
        " ORDER BY (kind = 'traffic') DESC, at DESC, id DESC LIMIT :limit",
        zone=zone, since=since, until=until, limit=limit,
    )  # fmt: skip
    assert counted is not None
    return Tally(counted["verdicts"], counted["refused"], [_result(row) for row in rows])


def _result(row: Row) -> Result:
    return Result(**{name: row[name] for name in Result.__slots__})
