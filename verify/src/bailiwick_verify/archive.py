"""Reading a ZIP file that a stranger made, without believing anything it says of itself.

Refused before anything is unpacked: names that lead out of a folder or hide something, two files of one name, links and
folders, encryption, methods other than stored and deflated, entries that overlap or leave bytes between them, anything
before the first entry or behind the last. Nothing is ever written to disk, and no file is read further than the caller
says it may be long.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

MOST_FILES = 200_000
MOST_BYTES = 1 << 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,11}")
_LOCAL = struct.Struct("<4s5H3I2H")
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES = 22, 56, 20
_CHUNK = 1 << 18
_MOST_RATIO = 1100  # deflate cannot do more than 1,032
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)


class ArchiveError(ValueError):
    """The archive is not one we read. ``file`` names the entry, '' for the archive as a whole."""

    def __init__(self, why: str, file: str = "") -> None:
        super().__init__(why)
        self.file = file


class Archive:
    """A ZIP file opened for reading; raises :class:`ArchiveError` and OSError. ``names`` are in the file's order."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        try:
            try:
                self._zip = zipfile.ZipFile(self._stream)
            except _BROKEN as error:
                raise ArchiveError(f"it is not a ZIP file: {error}") from None
            self._entries = {entry.filename: entry for entry in self._zip.filelist}
            self._check()
        except BaseException:
            self._stream.close()
            raise
        self.names = list(self._entries)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def open(self, name: str) -> IO[bytes]:
        """A file's content as a stream; what is wrong with it shows in reading (see :meth:`read`, :meth:`digest`)."""
        try:
            return self._zip.open(self._entries[name])
        except KeyError:
            raise ArchiveError("it is missing", name) from None
        except _BROKEN as error:
            raise ArchiveError(f"it cannot be unpacked: {error}", name) from None

    def read(self, name: str, most: int) -> bytes:
        """A whole file of at most ``most`` bytes."""
        return b"".join(self._chunks(name, most))

    def digest(self, name: str, size: int) -> str:
        """The SHA-256 of a file, in hexadecimal; raises :class:`ArchiveError` unless it has ``size`` bytes."""
        digest, seen = hashlib.sha256(), 0
        for chunk in self._chunks(name, size):
            digest.update(chunk)
            seen += len(chunk)
        if seen != size:
            raise ArchiveError(f"it has {seen:,} bytes in place of {size:,}", name)
        return digest.hexdigest()

    def lines(self, name: str, longest: int) -> Iterator[bytes]:
        """The lines of a file without their line feeds; each has at most ``longest`` bytes."""
        try:
            with self.open(name) as stream:
                while line := stream.readline(longest + 2):
                    if not line.endswith(b"\n"):
                        raise ArchiveError("a line is too long, or the last one is cut off", name)
                    yield line[:-1]
        except _BROKEN as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"it cannot be unpacked: {error}", name) from None

    def _chunks(self, name: str, most: int) -> Iterator[bytes]:
        left = most
        try:
            with self.open(name) as stream:
                while chunk := stream.read(min(_CHUNK, left + 1)):
                    left -= len(chunk)
                    if left < 0:
                        raise ArchiveError(f"it has more than the {most:,} bytes it may have", name)
                    yield chunk
        except _BROKEN as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"it cannot be unpacked: {error}", name) from None

    def _check(self) -> None:
        entries = self._zip.filelist
        if len(entries) > MOST_FILES:
            raise ArchiveError(f"it has more than {MOST_FILES:,} files")
        if self._zip.comment:
            raise ArchiveError("it has a comment, which no signature covers")
        seen: set[str] = set()
        for entry in entries:
            name = entry.orig_filename
            shown = ascii(name)[1:-1][:200]
            if entry.filename != name or not _NAME.fullmatch(name):
                raise ArchiveError("its name is none that a pack has: it may lead elsewhere", shown)
            if name.lower() in seen:
                raise ArchiveError("it stands in the archive more than once", shown)
            seen.add(name.lower())
            _check_entry(entry)
        if sum(entry.file_size for entry in entries) > MOST_BYTES:
            raise ArchiveError("it claims to unpack to more than a pack may hold")
        for name in seen:
            if any(name[:at] in seen for at in range(len(name)) if name[at] == "/"):
                raise ArchiveError("a file stands where a folder is", name)
        self._check_layout(sorted(entries, key=lambda entry: entry.header_offset))

    def _check_layout(self, entries: list[zipfile.ZipInfo]) -> None:
        """Entries must lie one behind the other from the first byte on, and the directory right behind them."""
        at = 0
        for entry in entries:
            if entry.header_offset != at:
                why = (
                    "it overlaps another file"
                    if entry.header_offset < at
                    else "bytes that belong to no file precede it"
                )
                raise ArchiveError(why, entry.filename)
            self._stream.seek(at)
            header = self._stream.read(_LOCAL.size)
            if len(header) != _LOCAL.size or header[:4] != b"PK\x03\x04":
                raise ArchiveError("its header is missing", entry.filename)
            name_bytes, extra_bytes = _LOCAL.unpack(header)[-2:]
            at += _LOCAL.size + name_bytes + extra_bytes + entry.compress_size
        if at != self._zip.start_dir:
            raise ArchiveError("bytes that belong to no file stand before the directory")
        # its records are what the library read; only their lengths are still to be held against the file's
        directory = sum(
            46 + len(entry.orig_filename.encode()) + len(entry.extra) + len(entry.comment) for entry in entries
        )
        end = self._stream.seek(0, 2)
        if end - at - directory not in {_END_BYTES, _END_BYTES + _LOCATOR_BYTES + _END64_BYTES}:
            raise ArchiveError("bytes that belong to no file stand behind the directory")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, mode = entry.filename, entry.external_attr >> 16
    if entry.is_dir() or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
        raise ArchiveError("it is no plain file", name)
    if entry.flag_bits & 0x1:
        raise ArchiveError("it is encrypted", name)
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ArchiveError("it is packed by a method that packs do not use", name)
    if entry.comment:
        raise ArchiveError("it has a comment, which no signature covers", name)
    if entry.file_size > _MOST_RATIO * entry.compress_size:
        raise ArchiveError("it claims to unpack to more than it can hold", name)
