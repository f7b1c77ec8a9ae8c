"""``bailiwick demo-handover``: from an empty installation to a signed handover, on one machine."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.options import small_app

app = small_app()


@app.command("demo-handover")
@command
def demo_handover(
    own_stack: Annotated[
        bool, typer.Option("--own-stack", help="Start an installation for it, and remove it afterwards.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Only the result, as JSON.")] = False,
    until: Annotated[int, typer.Option(hidden=True)] = 0,
    keep: Annotated[bool, typer.Option(hidden=True)] = False,
) -> int:
    """Take a release from nothing to a signed handover, a week in minutes, and prove each step.

    Exits 0 when every step went as told, 1 at the first that did not.
    """
    from bailiwick.cli.demo.children import NotStarted
    from bailiwick.cli.demo.command import echo, until_done
    from bailiwick.cli.demo.telling import Teller
    from bailiwick.cli.demo_handover.story import tell

    if not own_stack:
        raise CommandFailed(USAGE, "time is shifted in it, which cannot be undone: run it with --own-stack")
    for name in [name for name in os.environ if name.startswith("BAILIWICK_")]:
        del os.environ[name]  # what this machine is configured for is another installation's
    teller = Teller(silent=json_)
    teller.title("Bailiwick: from an empty installation to a signed handover")
    teller.blank()
    try:
        result = until_done(lambda: tell(teller, lambda line: echo(teller, line), until=until, keep=keep))
    except NotStarted as error:
        raise CommandFailed(FAILED, str(error)) from None
    if json_:
        print(json.dumps(_document(result), ensure_ascii=False))
    else:
        _close(teller, result)
    return 0 if result.ok else FAILED


def _document(result: Any) -> dict[str, Any]:
    from bailiwick import __version__

    answer = {"name": "demo-handover", "ok": result.ok, "version": __version__, "steps": result.steps}
    answer |= {"passed": result.passed, "seconds": result.seconds}
    return {**answer, "figures": result.figures, "failure": result.failure}


def _close(teller: Any, result: Any) -> None:
    teller.blank()
    if result.ok:
        teller.title("Measured")
        for name, value in result.figures.items():
            teller.line(f"    {name.replace('_', ' '):<34} {value:g}")
        teller.blank()
    verdict = f"{result.passed} of {result.steps} steps as told, in {result.seconds:g} s"
    if result.failure is not None:
        verdict = f"step {result.failure['step']} deviated: {verdict}"
    teller.title(f"{'✓' if result.ok else '✗'} {verdict}")
