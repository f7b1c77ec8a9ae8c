"""``bailiwick status``: the parts, the addresses and whether it is ready to be used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from bailiwick.kernel.paths import Layout

app = small_app()

STEADY = frozenset({"ready", "done"})


@app.command()
@command
def status(data_dir: DataDir = None, json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> int:
    """Show the parts, the addresses and the readiness.

    Exits 0 when everything is ready, 1 when something is not, 3 when nothing is running.
    """
    import json

    from bailiwick.cli.asking import ask

    layout = existing_layout(data_dir)
    found = ask(layout, "status")
    found.pop("ok")
    found.pop("run_id")
    found["readiness"] = readiness(layout, found)
    for part in found["parts"]:
        part["memory_bytes"] = _memory(part["pid"])
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(rendered(found, datetime.now(UTC))))
    return 0 if found["state"] == "ready" and found["readiness"]["ready"] else FAILED


def readiness(layout: Layout, found: dict[str, Any]) -> dict[str, Any]:
    """What ``/health/ready`` of the first worker that answers says; not ready when none does."""
    import asyncio

    from bailiwick.cli.supervisor.probes import http_get

    for part in found["parts"]:
        socket = layout.slot(part["name"]).check
        if part["state"] == "ready" and socket.exists():
            try:
                code, body = asyncio.run(asyncio.wait_for(http_get(layout.slot(part["name"]).api, "/health/ready"), 2))
            except (OSError, ValueError, TimeoutError):
                continue
            return {"ready": code == 200, "status": code, "body": body.decode(errors="replace")[:2000]}
    return {"ready": False, "status": None, "body": "no worker answers"}


def rendered(found: dict[str, Any], now: datetime) -> list[str]:
    """The table, at most 80 columns."""
    from bailiwick.cli.supervisor.progress import shortened

    lines = [f"Bailiwick {found['version']}  {found['state']}  {shortened(found['data_dir'], 50)}", ""]
    lines.append(f"{'PART':<10} {'STATE':<12} {'PID':>7} {'UPTIME':>8} {'RESTARTS':>8} {'MEMORY':>8}  LAST EXIT")
    for part in found["parts"]:
        memory = f"{part['memory_bytes'] / 2**20:.0f} MB" if part["memory_bytes"] else ""
        lines.append(
            f"{shortened(part['name'], 10):<10} {part['state']:<12} {part['pid'] or '':>7}"
            f" {_uptime(part['since'], now):>8} {part['restarts']:>8} {memory:>8}"
            f"  {shortened(part['last_exit'] or '', 20)}".rstrip()
        )
    lines.append("")
    lines += [f"{name:<15} {address}" for name, address in found["addresses"].items()]
    verdict = found["readiness"]
    word = "ready" if verdict["ready"] else f"NOT READY  {shortened(str(verdict['body']), 50)}"
    lines.append(f"{'readiness':<15} {word}")
    return lines


def _memory(pid: int | None) -> int | None:
    from bailiwick.kernel.processes import memory_of

    return memory_of(pid) if pid else None


def _uptime(since: str | None, now: datetime) -> str:
    if since is None:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02}h"
