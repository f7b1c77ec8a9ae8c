"""``bailiwick selftest …``: whether faults are noticed, tried on a life that touches no installation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.options import small_app

if TYPE_CHECKING:
    from bailiwick.app.selftest.life import Chapter
    from bailiwick.app.selftest.mutations import Mutation
    from bailiwick.app.selftest.run import Outcome

WIDTH = 80

app = small_app()


@app.callback()
def selftest() -> None:
    """Try the platform on a simulated life."""


@app.command()
@command
def mutate(
    only: Annotated[list[str], typer.Option("--only", metavar="NAME", help="Only this fault; may be repeated.")] = [],  # noqa: B006 - typer copies it
    list_: Annotated[bool, typer.Option("--list", help="Only tell which faults there are.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Live 35 days, and again with each fault. Exits 1 when what has to turn red because of a fault did not."""
    from bailiwick.app.selftest.mutations import CONTROL, MUTATIONS

    known = {each.name: each for each in (*MUTATIONS, CONTROL)}
    if unknown := [name for name in only if name not in known]:
        raise CommandFailed(USAGE, f"there is no fault {unknown[0]}; --list tells which there are")
    # one fault once, however often it is named
    wanted = [known[name] for name in dict.fromkeys(only)] if only else list(MUTATIONS)
    return _list(wanted, json_) if list_ else _run(wanted, json_)


def _list(wanted: list[Mutation], json_: bool) -> int:
    if json_:
        faults = [{"name": each.name, "meaning": each.meaning, "red": list(map(str, each.red))} for each in wanted]
        print(as_json({"faults": faults}, indent=2))
        return 0
    for each in wanted:
        print(f"{each.name:22} {_cut(each.meaning, WIDTH - 23)}")
    return 0


def _run(wanted: list[Mutation], json_: bool) -> int:
    import asyncio

    import structlog

    from bailiwick.app.selftest.run import mutate as run

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what fails is meant to
    told = (lambda outcome: None) if json_ else _show
    found = asyncio.run(run(wanted, heard=_progress, told=told))
    survivors = [each for each in found if each.survived]
    if json_:
        names = [each.mutation.name for each in survivors]
        print(as_json({"faults": [each.document() for each in found], "survivors": names}, indent=2))
    else:
        print(f"{len(found) - len(survivors)} of {len(found)} faults turned red what they have to")
        for each in survivors:
            _explain(each)
    return FAILED if survivors else 0


def _progress(chapter: Chapter) -> None:
    print(f"day {chapter.day:4g}: {chapter.name}", file=sys.stderr, flush=True)


def _show(outcome: Outcome) -> None:
    more = f" and {len(outcome.red) - 1} more" if len(outcome.red) > 1 else ""
    told = "SURVIVED" if outcome.survived else _cut(outcome.red[0], WIDTH - 23 - len(more)) + more
    print(f"{outcome.mutation.name:22} {told}", flush=True)


def _explain(outcome: Outcome) -> None:
    from textwrap import fill

    print(f"\n{outcome.mutation.name} survived: {outcome.mutation.meaning}")
    for what, lines in (("not red", outcome.missing), ("done all the same", outcome.done)):
        for line in lines:
            print(fill(f"{what}: {line}", WIDTH, initial_indent="  ", subsequent_indent="    "))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
