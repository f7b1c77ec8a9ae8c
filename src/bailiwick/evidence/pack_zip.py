"""Writing a pack's ZIP file: straight to disk, the same bytes for the same content, whole or not there at all.

Every entry has the same date, mode and method, entries lie one behind the other, and the directory is sorted by name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bailiwick.evidence.spool import sync_directory

_DATE = (1980, 1, 1, 0, 0, 0)
_BUFFER = 1 << 20
_QUICK = 1


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file as the manifest lists it. ``since`` and ``until`` bound what it tells of; ``verdict`` where it has one."""

    path: str
    sha256: str
    size: int
    section: str
    producer: str
    since: str = ""
    until: str = ""
    verdict: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line of the manifest."""
        window = {"since": self.since, "until": self.until} if self.since else None
        return {
            "path": self.path,
            "sha256": self.sha256,
            "size": self.size,
            "section": self.section,
            "producer": self.producer,
            "window": window,
            "verdict": self.verdict,
        }


class PackStream:
    """A file of the pack being written."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._packing: asyncio.Future[None] | None = None
        self.size = 0

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._digest.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append; what is large is packed beside the event loop."""
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self.flush()

    async def flush(self) -> None:
        """Pack what waits; what is large while the next portion is made ready, one at a time."""
        portion, self._buffer = bytes(self._buffer), bytearray()
        self.size += len(portion)
        await self.settle()
        if len(portion) < 1 << 14:
            self._put(portion)
        else:
            self._packing = asyncio.ensure_future(asyncio.to_thread(self._put, portion))

    async def settle(self) -> None:
        """Wait for what is being packed. Raises what that did."""
        packing, self._packing = self._packing, None
        if packing is not None:
            await packing

    def _put(self, portion: bytes) -> None:
        self._digest.update(portion)
        self._target.write(portion)


class PackZip:
    """Writes ``path`` by way of a file beside it, which is removed unless :meth:`publish` is reached.

    Raises OSError. ``files`` lists what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[PackedFile] = []
        self.size = 0
        self.sha256 = ""
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        self._names: set[str] = set()

    async def __aenter__(self) -> PackZip:
        fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._stream = os.fdopen(fd, "w+b")
        self._zip = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        return self

    async def __aexit__(self, *failure: object) -> None:
        if not self._stream.closed:
            # a ZipFile that is not closed writes its directory when it is collected
            with suppress(OSError, ValueError):
                self._zip.close()
            self._stream.close()
        with suppress(FileNotFoundError):
            self._temporary.unlink()

    @asynccontextmanager
    async def file(
        self,
        path: str,
        section: str,
        producer: str,
        *,
        since: str = "",
        until: str = "",
        verdict: str | None = None,
        stored: bool = False,
        large: bool = False,
        listed: bool = True,
    ) -> AsyncIterator[PackStream]:
        """A new file. ``stored``: what does not shrink is not packed; ``large``: it may grow beyond 2 GiB."""
        if path in self._names:
            raise ValueError(f"the pack has {path} already")
        self._names.add(path)
        info = zipfile.ZipInfo(path, _DATE)
        info.create_system, info.external_attr = 3, 0o100600 << 16
        if large:  # a third of the time for a fifth more room; the name is that of every Python there is
            info._compresslevel = _QUICK  # type: ignore[attr-defined]
        info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        with self._zip.open(info, "w", force_zip64=large) as target:
            stream = PackStream(target)
            try:
                yield stream
            finally:  # what a section leaves unfinished is in the archive as well
                await stream.flush()
                await stream.settle()
                if listed:
                    packed = PackedFile(path, stream.sha256, stream.size, section, producer, since, until, verdict)
                    self.files.append(packed)

    async def seal(self) -> None:
        """Write the directory, make everything durable and tell ``size`` and ``sha256`` of the whole."""
        self._zip.filelist.sort(key=lambda info: info.filename)
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._zip.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.seek(0)
        digest = hashlib.sha256()
        while portion := self._stream.read(_BUFFER):
            digest.update(portion)
            self.size += len(portion)
        self.sha256 = digest.hexdigest()
        self._stream.close()

    async def publish(self) -> None:
        """Give the file its name. Until then nothing of it is to be seen, afterwards all."""
        self._temporary.replace(self.path)
        await asyncio.to_thread(sync_directory, self.path.parent)
