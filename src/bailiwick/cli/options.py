"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bailiwick.cli.failure import USAGE, CommandFailed
from bailiwick.kernel.paths import Layout, default_data_dir

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Where everything is kept. Default: $BAILIWICK_DATA_DIR, else /var/lib/bailiwick for root and"
        " ~/.local/share/bailiwick for others.",
    ),
]


def small_app() -> typer.Typer:
    """A typer application for one command, without what slows the start."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def layout_of(data_dir: Path | None) -> Layout:
    """The layout of the chosen data directory; the flag wins over the environment."""
    return Layout(data_dir if data_dir is not None else default_data_dir())


def existing_layout(data_dir: Path | None) -> Layout:
    """The same, for commands that need an installation that is there and ours to read."""
    layout = layout_of(data_dir)
    try:
        list(layout.data_dir.iterdir())
        list(layout.run.iterdir()) if layout.run.exists() else None
    except FileNotFoundError:
        raise CommandFailed(3, f"there is no installation at {layout.data_dir}") from None
    except NotADirectoryError:
        raise CommandFailed(USAGE, f"{layout.data_dir} is not a directory") from None
    except PermissionError as error:
        raise CommandFailed(USAGE, f"no permission to read {error.filename}") from None
    return layout
