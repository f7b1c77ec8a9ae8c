"""Making a base backup: PostgreSQL's stream of the cluster, zipped and stored in parts as it comes.

Only one part is on this machine's disk at a time, so a backup needs no room here. The stream is a tar; PostgreSQL puts
its own manifest, with a SHA-256 of every file, and the log from the backup's beginning to its end into it.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bailiwick.evidence.archive.store import ObjectStore, digest_of
from bailiwick.handover.backups.manifest import Object
from bailiwick.handover.backups.server import Server
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.processes import Child

PART = 256 << 20
"""Bytes of the tar in one part. An S3 server takes 5 GB in one request at most."""

_PORTION = 1 << 20
_START = re.compile(r"write-ahead log start point: ([0-9A-F]+/[0-9A-F]+) on timeline ([0-9]+)")
_STOP = re.compile(r"write-ahead log end point: ([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True, slots=True)
class Taken:
    """What was stored, and the stretch of the log that makes it consistent."""

    parts: tuple[Object, ...]
    timeline: int
    start: str
    stop: str


async def take_base(
    server: Server,
    store: ObjectStore,
    folder: str,
    work: Path,
    *,
    part_bytes: int = PART,
    fault: Callable[[str], None] = lambda step: None,
) -> Taken:
    """Store the cluster under ``folder``. ``work``: a directory for the part that is being made.

    Raises :class:`Unavailable` (``backup_failed``) with PostgreSQL's words, and what the store raises.
    """
    arguments = [
        "--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--verbose",
        "--manifest-checksums=SHA256", f"--label={folder}",
    ]  # fmt: skip
    words = work / "basebackup.log"
    with words.open("wb") as stderr:
        child = Child.spawn(server.command("pg_basebackup", arguments), stdout=subprocess.PIPE, stderr=stderr)
    assert child.stdout is not None
    parts: list[Object] = []
    part = work / "part.gz"
    try:
        while await asyncio.to_thread(_fill, child.stdout, part, part_bytes):
            digest = await asyncio.to_thread(digest_of, part)
            name = f"{folder}/cluster-{len(parts):05}.tar.gz"
            fault(f"part {len(parts)} made")
            await store.put(name, part, digest)
            parts.append(Object(name, digest.size, digest.sha256.hex()))
            fault(f"part {len(parts) - 1} stored")
        code = await child.wait()
    except OSError as error:
        raise Unavailable(f"The backup cannot be written: {error.strerror}.", reason="backup_failed") from error
    finally:
        await child.stop(())
        child.stdout.close()
        part.unlink(missing_ok=True)
    told = words.read_text(errors="replace")
    start, stop = _START.search(told), _STOP.search(told)
    if code != 0 or start is None or stop is None or not parts:
        last = [line for line in told.splitlines() if "error" in line.lower()] or told.splitlines()[-2:]
        raise Unavailable(f"PostgreSQL made no backup: {' / '.join(last)[:500]}", reason="backup_failed")
    return Taken(tuple(parts), int(start[2]), start[1], stop[1])


def _fill(stream: IO[bytes], part: Path, most: int) -> bool:
    """Zip at most ``most`` bytes of ``stream`` into ``part``; whether there was any."""
    portion = stream.read(_PORTION)
    if not portion:
        return False
    left = most - len(portion)
    # no time in it: the same bytes make the same object
    with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as zipped:
        zipped.write(portion)
        while left > 0 and (portion := stream.read(min(_PORTION, left))):
            zipped.write(portion)
            left -= len(portion)
    return True
