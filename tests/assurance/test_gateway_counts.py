"""What the gateway counted, what the ledger holds and what destinations were told: each of the three broken by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stage import Stage

import bailiwick.assurance.reconciliation as reconciliation
from bailiwick.assurance.book import read_text
from bailiwick.assurance.reconciliation.findings import Findings
from bailiwick.assurance.reconciliation.service import Reconciliations
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION, RECONCILIATION
from bailiwick.gateway.verdict_counts import CountKeeper, VerdictCounts, left_behind
from people_fixtures import House

DAY = datetime(2026, 1, 4, tzinfo=UTC)
LINES = {("09", "allow"): 5, ("09", "deny"): 2, ("10", "allow"): 3}


async def nowhere(host: str, port: int) -> Sequence[str]:
    raise AssertionError("nothing is to be reached")


class Desk:
    """A day with ten verdicts of the gateway, in all three places."""

    def __init__(self, stage: Stage, tmp_path: Path) -> None:
        self.stage = stage
        findings = Findings(stage.database, stage.clock, stage.ids, stage.recorder, stage.heard, stage.heard)
        self.reconciliations = Reconciliations(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.records, stage.heard, findings,
            Sources(stage.database, lambda: stage.people.sealer, nowhere), tmp_path / "scratch",
        )  # fmt: skip

    async def open(self, directory: Path) -> Desk:
        shipped = Path(reconciliation.__file__).parent.parent / "shipped" / "reconciliation.yaml"
        documents = [each for each in read_text(shipped.read_text(), "shipped") if each.kind == "Reconciliation"]
        planned = await self.stage.books.plan("default", documents)
        await self.stage.books.apply(self.stage.context(), documents, sha256=planned.sha256, by="root")
        counts = VerdictCounts(directory, "w1-a")
        for (hour, outcome), number in LINES.items():
            for _ in range(number):
                counts.add("default", f"{DAY:%Y-%m-%d}T{hour}", outcome)
        await CountKeeper(self.stage.database, self.stage.clock, counts, directory).close()
        seq = 0
        for (hour, outcome), number in LINES.items():
            for _ in range(number):
                await self.event(seq, hour, outcome)
                seq += 1
        await self.sql(
            "INSERT INTO siem_sinks (id, zone, name, kind, options, sealed, format, filter, redact, batch_size, linger_s,"
            " all_zones, enabled, created_at, updated_at) VALUES ('s1', 'default', 'splunk', 'webhook', '{}', '', 'native',"
            ' \'{"codes": [], "names": [], "outcomes": [], "exclude": []}\', \'{}\', 10, 1, false, true, :at, :at)',
            at=DAY - timedelta(days=30),
        )
        await self.sql(
            "INSERT INTO siem_cursors (sink, zone, next_seq, sent_seq, updated_at)"
            " VALUES ('s1', 'default', 10, 10, :at)", at=DAY,
        )  # fmt: skip
        return self

    async def sql(self, text: str, **values: Any) -> None:
        async with self.stage.database.begin() as tx:
            await tx.run(text, **values)

    async def event(self, seq: int, hour: str, outcome: str) -> None:
        at = DAY + timedelta(hours=int(hour), seconds=seq)
        await self.sql(
            "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, rest)"
            " VALUES ('default', :seq, gen_random_uuid(), :at, :at, :code, :outcome, '{}')",
            seq=seq, at=at, code="BW4001" if outcome == "allow" else "BW4002", outcome=outcome,
        )  # fmt: skip

    async def verdicts(self) -> tuple[str, str]:
        found = []
        for name in ("gateway", "gateway-siem"):
            run = await self.reconciliations.run(self.stage.context(), name, period=f"{DAY:%Y-%m-%d}")
            assert run.error is None, run.error
            found.append(str(run.verdict))
        return found[0], found[1]


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    stage = Stage(house, (CONNECTION, RECONCILIATION))
    async with house.owner.begin() as tx:
        await tx.run("DELETE FROM ledger.events WHERE zone = 'default'")  # of the test before
    stage.clock.advance((DAY + timedelta(days=1, hours=3) - stage.clock.now()).total_seconds())
    return await Desk(stage, tmp_path).open(tmp_path / "counts")


async def test_the_three_agree_and_a_run_says_so(desk: Desk) -> None:
    assert await desk.verdicts() == ("PASS", "PASS")


BROKEN = {
    "an event that never came to the ledger": (
        "DELETE FROM ledger.events WHERE zone = 'default' AND seq = 4", ("FAIL", "FAIL"),
    ),
    "an event in the ledger that the gateway never gave": (
        "UPDATE ledger.events SET outcome = 'allow', code = 'BW4001' WHERE zone = 'default' AND seq = 5", ("FAIL", "FAIL"),
    ),
    "a worker's counts that are gone": ("DELETE FROM bailiwick.gateway_counts WHERE outcome = 'deny'", ("FAIL", "FAIL")),
    "a destination that is behind": ("UPDATE bailiwick.siem_cursors SET next_seq = 8", ("PASS", "FAIL")),
    "a destination that refused one": (
        "INSERT INTO bailiwick.siem_dead_letters (sink, zone, seq, event, reason, at)"
        " VALUES ('s1', 'default', 3, gen_random_uuid(), 'too large', now())",
        ("PASS", "FAIL"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
async def test_each_side_broken_by_itself_is_found(desk: Desk, how: str) -> None:
    statement, wanted = BROKEN[how]
    async with desk.stage.people.owner.begin() as tx:  # past what the schema guards, as somebody with the server could
        assert await tx.run(statement) > 0
    assert await desk.verdicts() == wanted
    raised = [each for each in desk.stage.heard.fired if each.rule.startswith("reconciliation/")]
    assert raised and {each.owner for each in raised} == {"audit-archival"}


async def test_no_traffic_and_no_destination_is_no_difference(desk: Desk) -> None:
    await desk.sql("UPDATE siem_sinks SET enabled = false")
    run = await desk.reconciliations.run(desk.stage.context(), "gateway-siem", period="2026-01-02")
    assert run.verdict == "PASS"
    assert (await desk.reconciliations.run(desk.stage.context(), "gateway", period="2026-01-02")).verdict == "PASS"


# --- the counts themselves

KILLED = """
import os, signal, sys
from pathlib import Path
from bailiwick.gateway.verdict_counts import VerdictCounts
counts = VerdictCounts(Path(sys.argv[1]), "w2-killed")
for _ in range(1000):
    counts.add("default", "2026-01-05T09", "allow")
counts.add("default", "2026-01-05T09", "deny")
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_killed_worker_loses_no_count_and_another_tells_it_once(house: House, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    counts = VerdictCounts(tmp_path, "w2-next")
    keeper = CountKeeper(house.database, house.clock, counts, tmp_path)
    counts.add("default", "2026-01-05T09", "allow")
    for _ in range(2):
        await keeper.carry()
    total = "SELECT sum(verdicts) FROM gateway_counts WHERE outcome = 'allow'"
    assert await house.value(total) == 1001
    assert not [*left_behind(tmp_path)] and [each.stem for each in tmp_path.iterdir()] == ["w2-next"]
    counts.add("default", "2026-01-05T09", "allow")
    await keeper.close()
    assert await house.value(total) == 1002
    assert not [*tmp_path.iterdir()]


async def test_hours_that_are_told_make_room_and_a_full_file_stops_nobody(house: House, tmp_path: Path) -> None:
    counts = VerdictCounts(tmp_path, "small", slots=4)
    keeper = CountKeeper(house.database, house.clock, counts, tmp_path)
    for hour in range(10):
        counts.add("default", f"2025-12-01T{hour:02}", "allow")
    assert len(counts.totals()) == 3  # what has no room is counted nowhere, which the comparison finds
    await keeper.carry()
    counts.add("default", "2025-12-02T00", "allow")
    assert counts.totals() == {("default", "2025-12-02T00", "allow"): 1}
    counts.close(kept=False)
    assert [told for _, told in left_behind(tmp_path)] == [{("default", "2025-12-02T00", "allow"): 1}]
