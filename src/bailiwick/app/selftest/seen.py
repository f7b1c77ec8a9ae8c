"""What is to be seen of a life at one moment: verdicts, alerts, reports, refusals, without what differs by chance."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from bailiwick.app.selftest.world import ZONE, World

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32,64}")


@dataclass(frozen=True, slots=True, order=True)
class Sight:
    """One thing to be seen: a line as ``alert WaiverOverdue P1 firing``, whether somebody has to look at it, and why
    it is so in the words that are shown to him."""

    line: str
    red: bool
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Red:
    """What has to turn red: exactly ``line``, with ``cause`` among the words that tell why."""

    line: str
    cause: str = ""

    def of(self, sight: Sight) -> bool:
        """Whether that is what was meant."""
        return sight.red and sight.line == self.line and self.cause in sight.cause

    def __str__(self) -> str:
        return f"{self.line} ({self.cause})" if self.cause else self.line


@dataclass(frozen=True, slots=True)
class Seen:
    """What there was, each with how often it was so."""

    sights: Counter[Sight]
    lines: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        lines: Counter[str] = Counter()
        for sight, often in self.sights.items():
            lines[sight.line] += often
        object.__setattr__(self, "lines", lines)

    def turned(self, healthy: Seen) -> list[str]:
        """What is here and was not in the healthy life (``+``), and what should have come and did not (``-``)."""
        more, less = self.lines - healthy.lines, healthy.lines - self.lines
        # what was refused says most
        first = sorted(more, key=lambda line: (not line.startswith("refused"), line))
        return [f"+ {line}" for line in first] + [f"- {line}" for line in sorted(less)]

    def red(self, wanted: Red, healthy: Seen) -> Sight | None:
        """What ``wanted`` means, where it is so here and nothing like it was in the healthy life: that something is
        red once more often than it was is no sign of a fault."""
        if any(wanted.of(sight) for sight in healthy.sights):
            return None
        return min((sight for sight in self.sights if wanted.of(sight)), default=None)


async def look(world: World) -> Seen:
    """Everything there is to see now, of the tables that a person is shown."""
    found = Counter(Sight(f"refused {each}", True) for each in world.refused)
    async with world.database.begin() as tx:
        for sql in _LOOKS:
            for row in await tx.all(sql, zone=ZONE):
                sight = Sight(_ID.sub("*", row["line"]), row["red"], _ID.sub("*", row["cause"] or ""))
                found[sight] += int(row["n"])
    return Seen(found)


_LOOKS = (
    "SELECT 'checkpoint ' || checkpoint || ' v' || version || ' ' || verdict AS line, verdict <> 'PASS' AS red,"
    " (SELECT string_agg((f ->> 'subject') || ': ' || (f ->> 'told'), '; ' ORDER BY n)"
    "  FROM jsonb_array_elements(findings) WITH ORDINALITY AS each (f, n) WHERE f ->> 'verdict' <> 'PASS') AS cause,"
    " 1 AS n FROM checkpoint_results WHERE zone = :zone",
    "SELECT 'alert ' || rule || ' ' || severity || ' ' || state || ' ' || key AS line, state <> 'pending' AS red,"
    " summary AS cause, count(*) AS n FROM alerts WHERE zone = :zone GROUP BY 1, 2, 3",
    "SELECT 'job ' || job || ' ' || state AS line, true AS red, detail ->> 'error' AS cause, count(*) AS n"
    " FROM job_occurrences WHERE state IN ('missed', 'failed') AND :zone <> '' GROUP BY 1, 3",
    "SELECT 'job ' || job || ' ' || state AS line, false AS red, '' AS cause, count(*) AS n FROM job_occurrences"
    " WHERE state = 'running' AND :zone <> '' GROUP BY 1",
    "SELECT 'silent ' || job AS line, true AS red, why AS cause, 1 AS n FROM silent_jobs WHERE :zone <> ''",
    "SELECT 'reconciliation ' || reconciliation || ' ' || verdict AS line, verdict <> 'PASS' AS red,"
    " coalesce(error, '') AS cause, count(*) AS n FROM reconciliation_runs WHERE zone = :zone GROUP BY 1, 2, 3",
    "SELECT 'finding ' || reconciliation || ' ' || type || ' ' || state AS line, state = 'open' AS red,"
    " CAST(key AS text) AS cause, count(*) AS n FROM reconciliation_findings WHERE zone = :zone GROUP BY 1, 2, 3",
    "SELECT 'stuck ' || machine || ' ' || verdict AS line, verdict <> 'PASS' AS red, coalesce(error, '') AS cause,"
    " count(*) AS n FROM stuck_runs WHERE zone = :zone GROUP BY 1, 2, 3",
    "SELECT 'work ' || machine || ' ' || state || ' ' || band AS line, band IN ('stuck', 'critical', 'unknown') AS red,"
    " item AS cause, 1 AS n FROM stuck_transitions WHERE zone = :zone AND gone_at IS NULL AND band <> 'fine'",
    "SELECT 'report ' || r.kind || ' ' || r.verdict || CASE WHEN s.report IS NULL THEN ' unsigned' ELSE ' signed' END"
    " AS line, r.verdict <> 'PASS' AS red, '' AS cause, count(*) AS n FROM assurance_reports r"
    " LEFT JOIN assurance_report_signatures s ON s.report = r.id WHERE r.zone = :zone GROUP BY 1, 2",
    "SELECT 'ceremony ' || ceremony || ' ' || state AS line, state IN ('overdue', 'missed') AS red, '' AS cause,"
    " count(*) AS n FROM rhythm_occurrences WHERE zone = :zone AND state <> 'scheduled' GROUP BY 1, 2",
    "SELECT 'part ' || o.ceremony || ' ' || r.name || ' ' || r.verdict AS line, true AS red, r.told AS cause,"
    " count(*) AS n FROM rhythm_runs r JOIN rhythm_occurrences o ON o.id = r.occurrence"
    " WHERE o.zone = :zone AND r.verdict <> 'PASS' GROUP BY 1, 3",
    "SELECT 'waiver ' || scope || ' ' || state || CASE WHEN settled_at IS NULL THEN '' ELSE ' settled' END AS line,"
    " false AS red, '' AS cause, 1 AS n FROM waivers WHERE zone = :zone",
    "SELECT 'override ' || operation || ' ' || state || CASE WHEN break_glass THEN ' broken glass' ELSE '' END AS line,"
    " state IN ('failed', 'stale', 'disputed') AS red, why AS cause, count(*) AS n FROM overrides WHERE zone = :zone"
    " GROUP BY 1, 2, 3",
    "SELECT 'drill ' || rule || ' ' || state AS line, state = 'missed' AS red, CASE WHEN fired_at IS NULL THEN"
    " 'no alert' WHEN delivered_at IS NULL THEN 'delivered to nobody' ELSE '' END AS cause, count(*) AS n"
    " FROM alert_drills WHERE zone = :zone GROUP BY 1, 2, 3",
    "SELECT 'notice undelivered ' || state AS line, state = 'dead' AS red, channel || ': ' || told AS cause,"
    " count(*) AS n FROM notice_deliveries WHERE state <> 'delivered' AND :zone <> '' GROUP BY 1, 2, 3",
    "SELECT 'escalation to ' || level || ' nobody' AS line, true AS red, '' AS cause, count(*) AS n"
    " FROM escalation_steps WHERE zone = :zone AND state = 'nobody' GROUP BY 1",
    "SELECT 'task ' || state || ' ' || source AS line, ended_at IS NULL AS red, title AS cause, count(*) AS n"
    " FROM assurance_tasks WHERE zone = :zone GROUP BY 1, 2, 3",
    "SELECT 'nobody answers for ' || rule || ': ' || owner AS line, true AS red, '' AS cause, count(*) AS n FROM alerts"
    " WHERE zone = :zone AND owner_person = '' GROUP BY 1",
    "SELECT 'service level ' || slo || ' not counted' AS line, true AS red, error AS cause, 1 AS n FROM slo_states"
    " WHERE zone = :zone AND error <> ''",
    # what was refused or failed, as it goes to the ledger
    "SELECT 'event ' || (e ->> 'name') AS line, true AS red, coalesce(e ->> 'reasons', '') AS cause, count(*) AS n"
    " FROM (SELECT CAST(convert_from(event, 'UTF8') AS jsonb) AS e FROM outbox WHERE zone = :zone) AS events"
    " WHERE e ->> 'outcome' <> 'success' GROUP BY 1, 3",
)
