"""What is to be seen of a life at one moment: verdicts, alerts, reports, refusals, without what differs by chance."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from bailiwick.app.selftest.world import ZONE, World

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32,64}")


@dataclass(frozen=True, slots=True)
class Seen:
    """Lines as ``alert WaiverOverdue P1 firing``, each with how often it is so."""

    lines: Counter[str]

    def turned(self, healthy: Seen) -> list[str]:
        """What is red here and was not in the healthy life (``+``), and what should have come and did not (``-``)."""
        more, less = self.lines - healthy.lines, healthy.lines - self.lines
        # what was refused says most
        first = sorted(more, key=lambda line: (not line.startswith("refused"), line))
        return [f"+ {line}" for line in first] + [f"- {line}" for line in sorted(less)]


async def look(world: World) -> Seen:
    """Everything there is to see now, of the tables that a person is shown."""
    found: Counter[str] = Counter(f"refused {each}" for each in world.refused)
    async with world.database.begin() as tx:
        for sql in _LOOKS:
            for row in await tx.all(sql, zone=ZONE):
                found[_ID.sub("*", str(row["line"]))] += int(row["n"])
    return Seen(found)


_LOOKS = (
    "SELECT 'checkpoint ' || checkpoint || ' v' || version || ' ' || verdict AS line, 1 AS n FROM checkpoint_results"
    " WHERE zone = :zone",
    "SELECT 'alert ' || rule || ' ' || severity || ' ' || state || ' ' || key AS line, count(*) AS n FROM alerts"
    " WHERE zone = :zone GROUP BY 1",
    "SELECT 'job ' || job || ' ' || state AS line, count(*) AS n FROM job_occurrences"
    " WHERE state NOT IN ('succeeded', 'due') AND :zone <> '' GROUP BY 1",
    "SELECT 'reconciliation ' || reconciliation || ' ' || verdict AS line, count(*) AS n FROM reconciliation_runs"
    " WHERE zone = :zone GROUP BY 1",
    "SELECT 'stuck ' || machine || ' ' || verdict AS line, count(*) AS n FROM stuck_runs WHERE zone = :zone GROUP BY 1",
    "SELECT 'report ' || r.kind || ' ' || r.verdict || CASE WHEN s.report IS NULL THEN ' unsigned' ELSE ' signed' END"
    " AS line, count(*) AS n FROM assurance_reports r LEFT JOIN assurance_report_signatures s ON s.report = r.id"
    " WHERE r.zone = :zone GROUP BY 1",
    "SELECT 'ceremony ' || ceremony || ' ' || state AS line, count(*) AS n FROM rhythm_occurrences WHERE zone = :zone"
    " AND state <> 'scheduled' GROUP BY 1",
    "SELECT 'waiver ' || scope || ' ' || state || CASE WHEN settled_at IS NULL THEN '' ELSE ' settled' END AS line,"
    " 1 AS n FROM waivers WHERE zone = :zone",
    "SELECT 'override ' || operation || ' ' || state || CASE WHEN break_glass THEN ' broken glass' ELSE '' END AS line,"
    " count(*) AS n FROM overrides WHERE zone = :zone GROUP BY 1",
    "SELECT 'drill ' || rule || ' ' || state AS line, count(*) AS n FROM alert_drills WHERE zone = :zone GROUP BY 1",
    "SELECT 'notice undelivered ' || state AS line, count(*) AS n FROM notice_deliveries WHERE state <> 'delivered'"
    " AND :zone <> '' GROUP BY 1",
    "SELECT 'task ' || state || ' ' || source AS line, count(*) AS n FROM assurance_tasks WHERE zone = :zone"
    " GROUP BY 1",
    "SELECT 'nobody answers for ' || rule || ': ' || owner AS line, count(*) AS n FROM alerts WHERE zone = :zone"
    " AND owner_person = '' GROUP BY 1",
    "SELECT 'service level ' || slo || ' not counted' AS line, 1 AS n FROM slo_states WHERE zone = :zone"
    " AND error <> ''",
)
