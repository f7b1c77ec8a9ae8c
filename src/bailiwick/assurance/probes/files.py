"""Looks at files of the machine: how old one is, what a JSON file says, how often a log holds a phrase."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from bailiwick.assurance.probes.means import MOST_ANSWERED, Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import FileAgeCheck, JsonPathCheck, LogPhraseCheck
from bailiwick.assurance.probes.web import from_json
from bailiwick.assurance.thresholds import Unit

_MOST_LOG = 64 << 20
_BLOCK = 1 << 20
_INSTANT = re.compile(rb"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?)(Z|[+-]\d\d:?\d\d)?")


async def file_age(check: FileAgeCheck, means: Means, asked: Asked) -> Found:
    """The age of the file, or of the newest one of the pattern. None there: nothing to judge by."""
    path = Path(check.path)
    directory = means.readable(str(path.parent if "*" in path.name else path))
    try:
        found = await asyncio.to_thread(_newest, directory, path.name)
    except OSError as error:
        raise LookFailed(f"{check.path}: {error.strerror}") from None
    if found is None:
        return Found(absent="there is no such file", unit=Unit.SECONDS)
    name, written, size = found
    age = asked.now.timestamp() - written
    output = f"{name}\n{datetime.fromtimestamp(written, UTC).isoformat()}\n{size} bytes\n".encode()
    if age < -60:
        return Found(age, Unit.SECONDS, output=output, wrong=f"{name} was written in the future")
    if size == 0:
        return Found(age, Unit.SECONDS, output=output, wrong=f"{name} is empty")
    return Found(max(0.0, age), Unit.SECONDS, f"{name}, {size} bytes", output)


def _newest(place: Path, name: str) -> tuple[str, float, int] | None:
    candidates = list(place.glob(name)) if "*" in name else [place]
    newest = None
    for each in candidates:
        try:
            stat = each.stat()
        except FileNotFoundError:
            continue
        if not each.is_file():
            raise OSError(0, f"{each.name} is no file")
        if newest is None or stat.st_mtime > newest[1]:
            newest = (each.name, stat.st_mtime, stat.st_size)
    return newest


async def json_file(check: JsonPathCheck, means: Means, asked: Asked) -> Found:
    """A value out of a JSON file."""
    assert check.file is not None
    path = means.readable(check.file)
    try:
        if path.stat().st_size > MOST_ANSWERED:
            raise LookFailed(f"{check.file} is larger than {MOST_ANSWERED} bytes")
        text = await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        return Found(absent="there is no such file")
    except OSError as error:
        raise LookFailed(f"{check.file}: {error.strerror}") from None
    return from_json(check, text)


async def log_phrase(check: LogPhraseCheck, means: Means, asked: Asked) -> Found:
    """How many lines since the window's beginning hold the phrase. One without a time is as old as that before."""
    path = means.logs / f"{check.log}.log" if check.log is not None else means.readable(check.path or "")
    assert asked.window is not None
    since = asked.now - asked.window
    try:
        lines = await asyncio.to_thread(_lines_since, path, since)
    except FileNotFoundError:
        return Found(absent="there is no such log", unit=Unit.COUNT)
    except OSError as error:
        raise LookFailed(f"{path}: {error.strerror}") from None
    if lines is None:
        raise LookFailed(f"the window has more than {_MOST_LOG >> 20} MiB of log")
    phrase = check.phrase.encode()
    matching = [line for line in lines if phrase in line]
    output = b"\n".join(line[:2000] for line in matching[-100:])
    detail = f"{len(matching)} of {len(lines)} lines"
    return Found(float(len(matching)), Unit.COUNT, detail, output or detail.encode())


def _lines_since(path: Path, since: datetime) -> list[bytes] | None:
    """The lines at the end of a file from ``since`` on; None where they are more than is read."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at, text = end, b""
        while at > 0:
            step = min(_BLOCK, at)
            at -= step
            file.seek(at)
            text = file.read(step) + text
            first = text.partition(b"\n")[2] if at else text
            begins = next((moment for line in first.split(b"\n", 50)[:50] if (moment := instant_of(line))), None)
            if begins is not None and begins < since:
                break
            if len(text) > _MOST_LOG:
                return None
    lines = text.split(b"\n")[1 if at else 0 :]
    found, inside = [], at == 0
    for line in lines:
        moment = instant_of(line)
        if moment is not None:
            inside = moment >= since
        if inside and line:
            found.append(line)
    return found


def instant_of(line: bytes) -> datetime | None:
    """The first ISO 8601 instant near the beginning of a line; in UTC where it names no offset."""
    found = _INSTANT.search(line[:200])
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat((found[1] + (found[2] or b"")).decode())
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
