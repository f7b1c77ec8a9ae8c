"""``bailiwick config``: what an installation runs with, and how that differs from the defaults and from here."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, CommandFailed, command
from bailiwick.cli.options import DataDir, layout_of, small_app

app = small_app()


@app.callback()
def config() -> None:
    """What the installation runs with."""


@app.command()
@command
def diff(data_dir: DataDir = None, json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> int:
    """Show every setting that is not its default, and where the running installation differs from this environment.

    Exits 1 when a running installation would start differently from here.
    """
    from pydantic import ValidationError

    from bailiwick.kernel.settings import Settings, shown_value

    layout = layout_of(data_dir)
    try:
        here = Settings(data_dir=layout.data_dir).shown()  # type: ignore[call-arg]  # the rest is from the environment
    except ValidationError as error:
        raise CommandFailed(2, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
    defaults = {name: shown_value(field.get_default()) for name, field in Settings.model_fields.items()}
    try:
        running = json.loads(layout.settings_file.read_text())
    except (OSError, ValueError):
        running = None
    shown = {}
    for name in Settings.model_fields:
        values = {"default": defaults[name], "here": here[name], "running": (running or {}).get(name, here[name])}
        if name != "data_dir" and len({json.dumps(value) for value in values.values()}) > 1:
            shown[name] = values
    differs = any(values["running"] != values["here"] for values in shown.values())
    if json_:
        print(json.dumps({"running": running is not None, "differs": differs, "settings": shown}, indent=2))
        return FAILED if differs else 0
    print(f"{'setting':26}{'default':>14}{'here':>18}{'running':>20}")
    for name, values in shown.items():
        mark = " *" if values["running"] != values["here"] else ""
        told = values["running"] if running is not None else "not running"
        print(
            f"{name:26}{_short(values['default'], 13):>14}{_short(values['here'], 17):>18}{_short(told, 19):>20}{mark}"
        )
    if not shown:
        print("everything is at its default")
    return FAILED if differs else 0


def _short(value: Any, width: int) -> str:
    text = "–" if value is None or value == [] else str(value)
    return text if len(text) <= width else text[: width - 1] + "…"
