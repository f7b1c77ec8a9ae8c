"""What is stuck: rules over items, limits and an instant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from bailiwick.assurance.stuck.spec import MachineSpec
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

Band = Literal["final", "fine", "approaching", "stuck", "critical", "unknown"]
BANDS: tuple[Band, ...] = get_args(Band)
APPROACHING, CRITICAL = 0.8, 2
BAD: frozenset[Band] = frozenset({"stuck", "critical", "unknown"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A row of the source. ``entered_at``: what the source says of it, None where it says nothing."""

    item: str
    state: str
    entered_at: datetime | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What our own log says of an item."""

    state: str
    entered_at: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """An item with its age in its state and what that amounts to."""

    item: str
    state: str
    entered_at: datetime
    owner: str
    age: timedelta
    band: Band

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "item": self.item,
            "state": self.state,
            "entered_at": self.entered_at.astimezone(UTC).isoformat(),
            "owner": self.owner,
            "age_s": int(self.age.total_seconds()),
            "band": self.band,
        }


def entered(seen: Seen, known: Known | None, *, history: bool, now: datetime) -> datetime:
    """When an item came into its state.

    Without history nothing but another state makes it later: a row that is touched is as old as it was.
    """
    if known is None or known.state != seen.state:
        return min(seen.entered_at or now, now)
    if seen.entered_at is None:
        return known.entered_at
    return min(seen.entered_at, now) if history else min(seen.entered_at, known.entered_at)


def band(age: timedelta, limit: timedelta) -> Band:
    """What an age amounts to: approaching at 80 % of its limit, stuck at the limit, critical at twice it."""
    if age >= limit * CRITICAL:
        return "critical"
    if age >= limit:
        return "stuck"
    return "approaching" if age >= limit * APPROACHING else "fine"


def judge(spec: MachineSpec, rows: Iterable[Seen], known: Mapping[str, Known], now: datetime) -> list[Judged]:
    """Every item with its band, the oldest of the worst first. A state that nobody declared is ``unknown``."""
    final, history = spec.final, spec.history or spec.source.own is not None
    judged = []
    for row in rows:
        at = entered(row, known.get(row.item), history=history, now=now)
        age = now - at
        found: Band = "unknown"
        if row.state in final:
            found = "final"
        elif row.state in spec.states and (limit := spec.limit(row.state)) is not None:
            found = band(age, limit)
        judged.append(Judged(row.item, row.state, at, row.owner, age, found))
    return sorted(judged, key=lambda each: (-BANDS.index(each.band), each.entered_at, each.item))


def silent(spec_heartbeat: timedelta | None, beats: Mapping[str, datetime], now: datetime) -> list[str]:
    """Workers that have not been heard of for longer than the heartbeat; ``(none)`` where there never was one."""
    if spec_heartbeat is None:
        return []
    return sorted(worker for worker, at in beats.items() if now - at > spec_heartbeat) if beats else ["(none)"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a look at one machine amounts to."""

    verdict: Verdict
    counts: Mapping[str, int]
    oldest: Judged | None
    silent: Sequence[str]

    def severity(self, base: Severity) -> Severity:
        """That of the alert: one higher where something is critical or unknown."""
        return base.raised if self.counts["critical"] or self.counts["unknown"] else base


def summary(spec: MachineSpec, judged: Sequence[Judged], silent_: Sequence[str]) -> Summary:
    """The verdict over all items: FAIL where something is stuck or a worker silent; NO_DATA of nothing at all,
    unless it is our own or declared that there may be nothing."""
    counted = Counter(each.band for each in judged)
    counts: dict[str, int] = {name: counted.get(name, 0) for name in BANDS}
    waiting = [each for each in judged if each.band != "final"]
    oldest = min(waiting, key=lambda each: each.entered_at, default=None)
    verdict = Verdict.PASS
    if silent_ or any(counts[name] for name in BAD):
        verdict = Verdict.FAIL
    elif not judged and not spec.may_be_empty and spec.source.own is None:
        verdict = Verdict.NO_DATA
    return Summary(verdict, counts, oldest, silent_)
