"""``bailiwick selftest …``: whether faults are noticed, tried on a life that touches no installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.options import small_app

if TYPE_CHECKING:
    from bailiwick.app.selftest.run import Outcome

app = small_app()


@app.callback()
def selftest() -> None:
    """Try the platform on a simulated life."""


@app.command()
@command
def mutate(
    only: Annotated[list[str], typer.Option("--only", metavar="NAME", help="Only this fault; may be repeated.")] = [],  # noqa: B006 - typer copies it
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Live 35 days, and again with each fault. Exits 1 when a fault turned nothing red."""
    import asyncio

    import structlog

    from bailiwick.app.selftest.mutations import MUTATIONS
    from bailiwick.app.selftest.run import mutate as run

    known = {each.name: each for each in MUTATIONS}
    if unknown := [name for name in only if name not in known]:
        raise CommandFailed(USAGE, f"there is no fault {unknown[0]}; there are {', '.join(known)}")
    wanted = [known[name] for name in only] if only else list(MUTATIONS)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what fails is meant to
    found = asyncio.run(run(wanted, told=(lambda outcome: None) if json_ else _show))
    survivors = [each.mutation.name for each in found if each.survived]
    if json_:
        print(as_json({"faults": [each.document() for each in found], "survivors": survivors}, indent=2))
    else:
        print(f"{len(found) - len(survivors)} of {len(found)} faults turned something red")
        if survivors:
            print(f"survived: {', '.join(survivors)}")
    return FAILED if survivors else 0


def _show(outcome: Outcome) -> None:
    first = outcome.turned[0] if outcome.turned else "SURVIVED"
    more = f" and {len(outcome.turned) - 1} more" if len(outcome.turned) > 1 else ""
    print(f"{outcome.mutation.name:22} {first[: 57 - len(more)]}{more}", flush=True)
