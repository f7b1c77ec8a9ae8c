"""A part's output as a structured log file that is rotated by size."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO

_LONGEST_LINE = 64 << 10
_LOGFMT = re.compile(rb"[A-Za-z_][\w.]*=\S")
_LEVELS = (
    (re.compile(r"\b(PANIC|FATAL|ERROR|critical|error|CRITICAL|Traceback)\b"), "ERROR"),
    (re.compile(r"\b(WARNING|warning|WARN)\b"), "WARNING"),
)


class LogSink:
    """Writes lines to ``path``, moving it to ``.1``, ``.2`` … when it would outgrow ``size`` bytes.

    ``form`` is ``json`` or ``logfmt``. A line already of that form passes unchanged; any other is wrapped. A log
    that cannot be written never holds the part up: the line is counted in :attr:`lost`.
    """

    def __init__(
        self,
        path: Path,
        part: str,
        *,
        now: Callable[[], datetime],
        form: str = "json",
        size: int = 10 << 20,
        keep: int = 4,
    ) -> None:
        self.path = path
        self.part = part
        self.lost = 0
        self._now = now
        self._form = form
        self._size = size
        self._keep = keep
        self._fd: int | None = None
        self._written = 0

    def write(self, line: bytes) -> None:
        """Write one line, given without its newline."""
        try:
            content = self._structured(line) + b"\n"
            if self._fd is None:
                self._open()
            if self._written + len(content) > self._size and self._written:
                self._rotate()
            assert self._fd is not None
            self._written += os.write(self._fd, content)
        except OSError:
            self.lost += 1

    def event(self, text: str, level: str = "INFO", **facts: object) -> None:
        """Write an event of the supervisor's own."""
        self.write(self._record(text, level, **facts))

    def tail(self, count: int) -> list[str]:
        """The texts of the last ``count`` lines, without what we wrapped around them."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - 64 * 1024))
                lines = file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:
            return []
        return [text_of(line) for line in lines]

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        self._written = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(f"{self.path.name}.{number}").replace(
                    self.path.with_name(f"{self.path.name}.{number + 1}")
                )
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self._open()

    def _structured(self, line: bytes) -> bytes:
        if self._form == "json" and line.startswith(b"{") and line.endswith(b"}"):
            return line
        if self._form == "logfmt" and _LOGFMT.match(line):
            return line
        text = line.decode(errors="replace").rstrip()
        return self._record(text, next((level for pattern, level in _LEVELS if pattern.search(text)), "INFO"))

    def _record(self, text: str, level: str, **facts: object) -> bytes:
        record = {
            "ts": self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": text,
            "part": self.part,
            **facts,
        }
        if self._form == "json":
            return json.dumps(record, ensure_ascii=False).encode()
        return " ".join(f"{name}={_quoted(str(value))}" for name, value in record.items()).encode()


class Pump:
    """Reads a child's pipe as it fills and gives whole lines to ``take``."""

    def __init__(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
        self._pipe = pipe
        self._take = take
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def close(self) -> None:
        """Take what is still in the pipe and close it."""
        self._read(to_the_end=True)
        self._end()

    def _read(self, to_the_end: bool = False) -> None:
        while not self._pipe.closed:
            try:
                data = os.read(self._pipe.fileno(), 64 << 10)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LONGEST_LINE:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                self._take(line)
            if not to_the_end:
                return

    def _end(self) -> None:
        if self._pipe.closed:
            return
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()


def text_of(line: str) -> str:
    """The message of a structured log line; the line itself when it is of no form we know."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and "event" in record:
                return str(record["event"])
    elif found := re.search(r'\bevent=("(?:[^"\\]|\\.)*"|\S+)', line):
        with contextlib.suppress(ValueError):
            return str(json.loads(found[1])) if found[1].startswith('"') else found[1]
    return line


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w.:/+-]+", value) else json.dumps(value, ensure_ascii=False)
