"""``bailiwick kek``: the key-encryption key of an installation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bailiwick.cli.failure import command
from bailiwick.cli.options import DataDir, existing_layout, small_app

app = small_app()


@app.callback()
def kek() -> None:
    """The key that wraps every stored secret."""


@app.command()
@command
def rotate(data_dir: DataDir = None, json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> int:
    """Make a new key, wrap everything under it, and drop the old one. Nothing stops meanwhile; safe to repeat."""
    import asyncio
    import json

    done = asyncio.run(_rotate(existing_layout(data_dir)))
    if json_:
        print(
            json.dumps(
                {"kek": done.kek, "rewrapped": done.rewrapped, "retired": list(done.retired), "kept": list(done.kept)}
            )
        )
        return 0
    print(f"key-encryption key {done.kek} is in force")
    for table, count in done.rewrapped.items():
        print(f"  {table:20} {count:8} wrapped anew")
    print(f"  retired: {', '.join(done.retired) or 'none'}")
    if done.kept:
        print(f"  kept: {', '.join(done.kept)}, since evidence that is not in the ledger yet may need it:")
        print("  rotate again once the work role has caught up")
    return 0


async def _rotate(layout: Any) -> Any:
    from datetime import timedelta

    from bailiwick.app.fencing import Fence
    from bailiwick.app.foundations import kek_file
    from bailiwick.app.kek import KekRotation
    from bailiwick.authority.revocation import Revocations
    from bailiwick.cli.local import clock_of, database_url
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence.drained import drained
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.settings import Settings

    settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
    clock, database = clock_of(layout), Database(database_url(layout.data_dir))
    recorder, context = by_operator(layout)
    revocations = Revocations(
        database,
        clock,
        recorder,
        longest_mandate=timedelta(seconds=settings.mandate_ttl_s),
        longest_session=timedelta(seconds=settings.session_ttl_s),
        freshness_limit_s=settings.freshness_limit_s,
        fence_after_s=settings.fence_after_s,
        fence=Fence(layout.control_socket),
    )
    try:
        file = kek_file(settings, layout)
        rotation = KekRotation(database, recorder, file, revocations, lambda: drained(database, layout.spool))
        return await rotation.rotate(context)
    finally:
        await database.close()
