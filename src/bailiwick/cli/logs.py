"""``bailiwick logs``: the logs of one part or of all, in the order they were written."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

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
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to show.")] = 50,
    data_dir: DataDir = None,
) -> int:
    """Show the logs of the parts."""
    layout = existing_layout(data_dir)
    readers = {path: _Reader(path) for path in _files(layout, part)}
    # each reader stops where it has read to: what is written meanwhile is shown by following, once
    latest = sorted(
        ((_time_of(line), path, line) for path, reader in readers.items() for line in reader.last(lines)),
        key=lambda entry: entry[0],
    )
    for _, path, line in latest[-lines:] if lines else []:
        _show(path, line, part is None)
    if follow:
        _follow(layout, part, readers)
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


def _follow(layout: Layout, part: str | None, readers: dict[Path, _Reader]) -> None:
    import time

    while True:
        if part is None:
            for path in layout.logs.glob("*.log"):  # a part may begin to write later
                with contextlib.suppress(FileNotFoundError):
                    if path not in readers:
                        readers[path] = _Reader(path)
        quiet = True
        for path, reader in readers.items():
            for line in reader.fresh():
                quiet = False
                _show(path, line, part is None)
        if quiet:
            time.sleep(0.1)


class _Reader:
    """Reads a log from its end, and then what is appended to it, across its rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._rest = b""

    def last(self, count: int) -> list[str]:
        """The last ``count`` lines, also from the file before when this one was begun lately."""
        found = self._tail_of(self._file, count)
        before = self._path.with_name(f"{self._path.name}.1")
        if len(found) < count and before.exists() and not self._is_at(before):
            with before.open("rb") as file:
                found = self._tail_of(file, count - len(found)) + found
        return found

    def fresh(self) -> Iterator[str]:
        """The lines written since the last call."""
        yield from self._read()
        try:
            renewed = None if self._is_at(self._path) else self._path.open("rb")
        except FileNotFoundError:
            return  # between being moved away and begun anew
        if renewed is not None:
            yield from self._read()  # what came between the last read and the move
            self._file.close()
            self._file = renewed
            yield from self._read()

    def _is_at(self, path: Path) -> bool:
        return os.path.samestat(path.stat(), os.fstat(self._file.fileno()))

    def _tail_of(self, file: IO[bytes], count: int) -> list[str]:
        start = max(0, file.seek(0, 2) - max(count, 1) * _TAIL_BYTES_PER_LINE)
        file.seek(start)
        if start:
            file.readline()
        *whole, rest = file.read().split(b"\n")
        if file is self._file:
            self._rest = rest  # a line still being written
        return [line.decode(errors="replace") for line in whole][len(whole) - min(count, len(whole)) :]

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
