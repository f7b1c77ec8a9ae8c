"""``bailiwick logs``: the logs of one part or of all, in the order they were written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from bailiwick.kernel.paths import Layout

app = small_app()

_TIME = re.compile(r'"?\bts"?[:=]\s?"?([0-9T:.+-]+)')
_TAIL_BYTES_PER_LINE = 2048


@app.command()
@command
def logs(
    part: Annotated[str | None, typer.Argument(help="One part only; `supervisor` is one too.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to show.")] = 50,
    data_dir: DataDir = None,
) -> int:
    """Show the logs of the parts."""
    layout = existing_layout(data_dir)
    files = _files(layout, part)
    latest = sorted(
        ((_time_of(line), path, line) for path in files for line in _tail(path, lines)), key=lambda entry: entry[0]
    )
    for _, path, line in latest[-lines:] if lines else []:
        _show(path, line, part is None)
    if follow:
        _follow(layout, part)
    return 0


def _files(layout: Layout, part: str | None) -> list[Path]:
    found = sorted(layout.logs.glob("*.log")) if layout.logs.is_dir() else []
    if part is not None:
        names = [path.stem for path in found]
        found = [path for path in found if path.stem == part]
        if not found and names:
            raise CommandFailed(USAGE, f"there is no log of {part!r}; there are {', '.join(names)}")
    if not found:
        raise CommandFailed(NO_DATA, f"there are no logs at {layout.logs}")
    return found


def _tail(path: Path, count: int) -> list[str]:
    """The last ``count`` lines, also from the file before when this one was begun lately."""
    collected: list[str] = []
    for file in (path, path.with_name(f"{path.name}.1")):
        wanted = count - len(collected)
        if wanted <= 0 or not file.exists():
            break
        with file.open("rb") as content:
            size = file.stat().st_size
            content.seek(max(0, size - wanted * _TAIL_BYTES_PER_LINE))
            if content.tell():
                content.readline()
            collected = content.read().decode(errors="replace").splitlines()[-wanted:] + collected
    return collected


def _follow(layout: Layout, part: str | None) -> None:
    import time

    followed = {path: _Follower(path, at_end=True) for path in _files(layout, part)}
    while True:
        quiet = True
        for path in _files(layout, part):
            follower = followed.setdefault(path, _Follower(path, at_end=False))
            for line in follower.fresh():
                quiet = False
                _show(path, line, part is None)
        if quiet:
            time.sleep(0.2)


class _Follower:
    """Reads what is appended to a file, across its rotation."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self._path = path
        self._file = path.open("rb")
        self._rest = b""
        if at_end:
            self._file.seek(0, 2)

    def fresh(self) -> Iterator[str]:
        yield from self._read()
        try:
            rotated = self._path.stat().st_ino != self._inode()
        except FileNotFoundError:
            return
        if rotated:
            yield from self._read()  # what came between the last read and the move
            self._file.close()
            self._file = self._path.open("rb")
            yield from self._read()

    def _inode(self) -> int:
        import os

        return os.fstat(self._file.fileno()).st_ino

    def _read(self) -> Iterator[str]:
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")


def _show(path: Path, line: str, named: bool) -> None:
    # a log may quote what an attacker sent: nothing in it may drive the terminal
    shown = "".join(character if character.isprintable() or character == "\t" else "?" for character in line)
    print(f"{path.stem:<10} {shown}" if named else shown, flush=True)


def _time_of(line: str) -> str:
    found = _TIME.search(line)
    return found[1] if found else ""
