"""Is it ready? No, and why not; each thing is mended by doing it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover import book
from bailiwick.cli.demo_handover.preparing import add_to_book
from bailiwick.cli.demo_handover.stage import ENVIRONMENT, ESCROW_KEY, Stage, make_person, sign_in

MISSING = {"ledger", "backup", "restore", "on-call", "owners", "reviewed"}
"""What must be wrong at first."""
BY_ITSELF = {"ledger"}
"""What the verification of every ten minutes may have mended meanwhile."""
_SEEN_WITHIN_S = 15.0


async def look(stage: Stage) -> dict[str, Any]:
    """Have everything looked at, and answer how it stands."""
    before = await stage.quietly("olga", "GET", f"/readiness/{ENVIRONMENT}/runs")
    count = len(before["runs"])
    started = time.perf_counter()
    await stage.quietly("olga", "POST", f"/readiness/{ENVIRONMENT}/runs", 202)
    await stage.quietly(
        "olga",
        "GET",
        f"/readiness/{ENVIRONMENT}/runs",
        until=lambda one: len(one["runs"]) > count,
        within=60.0,
    )
    stage.figures["readiness_s"] = round(time.perf_counter() - started, 2)
    return (await stage.quietly("olga", "GET", f"/readiness/{ENVIRONMENT}")).body


def not_green(view: dict[str, Any]) -> dict[str, str]:
    """What is not green, with what was found."""
    return {
        each["item"].partition("/")[2]: f"{each['verdict']}: {each['told']}"
        for each in view["items"]
        if each["applies"] and each["verdict"] != "PASS"
    }


async def find_out(stage: Stage) -> str:
    """It is not ready, and says why."""
    found = not_green(await look(stage))
    for name, told in found.items():
        stage.teller.note(f"{name}: {told}")
    wrong = MISSING - (BY_ITSELF - set(found))
    check(set(found) == wrong, f"not green: {', '.join(sorted(MISSING))}", ", ".join(sorted(found)))
    ran = await stage.command("readiness", "show")
    check(ran.code == 1, "exit 1 of `bailiwick readiness show`", f"{ran.code}: {ran.output[-300:]}")
    return f"{len(found)} items stand in the way; the command exits 1, so a pipeline stops here."


async def mend(stage: Stage) -> str:
    """A verification, a backup, a restore, a rota, an owner, a statement that another reviews: one by one."""
    await _mended(stage, "ledger", stage.call("sam", "POST", "/audit/verify", show=("verdict", "checked")))
    await _mended(stage, "backup", stage.done("backup", "run"))
    escrow = str(stage.directory / ESCROW_KEY)
    await _mended(stage, "restore", stage.done("drill", "restore", "--escrow-key", escrow))
    now = datetime.fromtimestamp(stage.now(), UTC)
    await _mended(stage, "on-call", add_to_book(stage, book.handing(stage.base, now)))
    await _mended(stage, "owners", make_person(stage, "finn", told=True))
    await _mended(stage, "reviewed", _attest(stage))
    ran = await stage.done("readiness", "show")
    stage.teller.note(next((line.strip() for line in ran.output.splitlines() if line.strip()), ""))
    return "Each was done, and then found to be so by looking again. It is ready."


async def _mended(stage: Stage, name: str, work: Any) -> None:
    await work
    until = time.monotonic() + _SEEN_WITHIN_S
    found = not_green(await look(stage))
    while name in found and time.monotonic() < until:  # what a job has to do first
        found = not_green(await look(stage))
    check(name not in found, f"{name} to be green", found.get(name, ""))
    stage.teller.note(f"{name} is green; left: {', '.join(sorted(found)) or 'nothing'}")


async def _attest(stage: Stage) -> None:
    item = f"/readiness/{ENVIRONMENT}/items/go-live/reviewed/attestations"
    said = {"statement": "I have read both runbooks and walked through them."}
    await stage.call("eve", "POST", item, 403, said, show=("reason",))  # it is for whoever owns operations to say
    made = await stage.call("olga", "POST", item, 201, said, show=("state",))
    review = f"/readiness/{ENVIRONMENT}/attestations/{made['id']}/review"
    await stage.call("olga", "POST", review, (403, 409), {"outcome": "accepted"}, show=("reason",))
    await stage.call("eve", "POST", review, body={"outcome": "accepted"}, show=("state",))


__all__ = ["find_out", "look", "mend", "not_green", "sign_in"]
