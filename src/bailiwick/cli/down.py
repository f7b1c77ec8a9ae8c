"""``bailiwick down``, ``workers``, ``restart`` and ``version``: short orders to a running installation."""

from __future__ import annotations

from typing import Annotated

import typer

from bailiwick.cli.failure import FAILED, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

app, workers_app, restart_app, version_app = small_app(), small_app(), small_app(), small_app()


@app.command()
@command
def down(
    data_dir: DataDir = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for everything to have stopped.")] = 60.0,
) -> int:
    """Drain and stop everything, and return when it is gone."""
    from bailiwick import __version__
    from bailiwick.cli.asking import ask, wait_until_gone
    from bailiwick.cli.recorded import by_operator, leave
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    layout = existing_layout(data_dir)
    ask(layout, "status")  # where nothing runs, nothing is stopped
    recorder, context = by_operator(layout)
    subject = Subject(id=context.zone, type="zone")
    leave(layout, recorder.make(codes.INSTALLATION_STOPPED, "success", context, subject=subject, version=__version__))
    pid = ask(layout, "down")["pid"]
    if not wait_until_gone(pid, wait):
        raise CommandFailed(FAILED, f"still stopping after {wait:g} s (pid {pid}); `kill {pid}` hastens it")
    print("stopped")
    return 0


@workers_app.command()
@command
def workers(
    count: Annotated[int, typer.Argument(min=1, max=64, help="How many serve workers to have.")],
    data_dir: DataDir = None,
) -> int:
    """Change the number of serve workers; returns when the new ones take requests and the old ones are gone."""
    from bailiwick.cli.asking import ask
    from bailiwick.cli.recorded import by_operator, leave
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    layout = existing_layout(data_dir)
    slots = ask(layout, "workers", limit=120.0, count=count)["workers"]
    recorder, context = by_operator(layout)
    subject = Subject(id=context.zone, type="zone")
    leave(layout, recorder.make(codes.WORKERS_CHANGED, "success", context, subject=subject, workers=[*slots]))
    print(f"workers: {' '.join(slots)}")
    return 0


@restart_app.command()
@command
def restart(
    part: Annotated[str, typer.Argument(help="Name of the part, as `status` shows it.")], data_dir: DataDir = None
) -> int:
    """Restart one part in good order; returns when it is ready again."""
    from bailiwick.cli.asking import ask
    from bailiwick.cli.recorded import by_operator, leave
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    layout = existing_layout(data_dir)
    ask(layout, "restart", limit=180.0, part=part)
    recorder, context = by_operator(layout)
    leave(layout, recorder.make(codes.PART_RESTARTED, "success", context, subject=Subject(id=part, type="part")))
    print(f"{part} restarted")
    return 0


@version_app.command()
@command
def version(json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> int:
    """Print the version."""
    import json

    from bailiwick import __version__

    print(json.dumps({"version": __version__}) if json_ else f"bailiwick {__version__}")
    return 0
