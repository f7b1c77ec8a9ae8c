"""Checks a whole log, from a folder or from a server, entry by entry against its signed checkpoint.

The entries are hashed and the tree is built from them alone; the log's own hash tiles are used for one thing only, to
say which entry is the first that is not what was logged. A finished check can be kept (:class:`Progress`) and gone on
from later, which also proves that the log of then is the beginning of the log of now.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from bailiwick_verify.checkpoint import OpenedCheckpoint, open_checkpoint
from bailiwick_verify.merkle import TILE_WIDTH, Edge, leaf_hash
from bailiwick_verify.note import NoteError, VerifierKey
from bailiwick_verify.tiles import ENTRIES, Tile, TileError, decode_bundle, hashes_of

Verdict = Literal["PASS", "FAIL", "NO_DATA"]
_MOST_BYTES = TILE_WIDTH * (65_535 + 2)


class Unreadable(Exception):
    """A file of the log is not there or cannot be fetched."""


# ---------------------------------------------------------------------- where a log is read from


class Folder:
    """A log exported into a directory, laid out as C2SP tlog-tiles."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, path: str) -> bytes:
        try:
            return (self._directory / path).read_bytes()
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from None


class Server:
    """A log at its URL prefix (``https://host/evidence/default``); ``token`` is sent for the entries."""

    def __init__(self, prefix: str, token: str = "", *, timeout_s: float = 30.0) -> None:
        if not prefix.startswith(("http://", "https://")):
            raise ValueError("the address of a log begins with http:// or https://")
        self._prefix = prefix.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s

    def __call__(self, path: str) -> bytes:
        request = Request(f"{self._prefix}/{path}", headers=self._headers)  # noqa: S310 - the scheme was looked at
        try:
            with urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                data: bytes = answer.read(_MOST_BYTES + 1)
        except HTTPError as error:
            raise Unreadable(f"{path}: the server answers {error.code}") from None
        except (URLError, OSError) as error:
            raise Unreadable(f"{path}: {error}") from None
        if len(data) > _MOST_BYTES:
            raise Unreadable(f"{path}: larger than any tile")
        return data


# ---------------------------------------------------------------------- the check


@dataclass(slots=True)
class Progress:
    """How far a log was checked: the right edge of its tree then."""

    origin: str
    edge: Edge

    def to_json(self) -> str:
        """The text a later check goes on from."""
        levels = [[base64.b64encode(item).decode() for item in level] for level in self.edge.levels]
        return json.dumps({"origin": self.origin, "size": self.edge.size, "levels": levels})

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read what :meth:`to_json` wrote; raises ValueError for anything else."""
        try:
            known = json.loads(text)
            edge = Edge([[base64.b64decode(item, validate=True) for item in level] for level in known["levels"]])
            if edge.size != known["size"]:
                raise ValueError("the size is not that of the hashes")
            return cls(str(known["origin"]), edge)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the state of a check: {error}") from None


@dataclass(slots=True)
class LogReport:
    """What was found. ``first_bad``: the first entry that is not what was logged; -1 for none or unknown."""

    verdict: Verdict = "PASS"
    origin: str = ""
    size: int = 0
    checked: int = 0
    signed_at: int = 0
    witnesses: dict[str, int] = field(default_factory=dict)
    first_bad: int = -1
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fail(self, why: str, entry: int = -1) -> None:
        """Note a contradiction."""
        self.verdict = "FAIL"
        self.findings.append(why)
        if entry >= 0 and self.first_bad < 0:
            self.first_bad = entry

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def verify_log(
    fetch: Callable[[str], bytes],
    keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey] = (),
    *,
    quorum: int = 0,
    known: Progress | None = None,
    not_before: int = 0,
) -> tuple[LogReport, Progress | None]:
    """Check the log that ``fetch`` reads (a path below its prefix to bytes; raises :class:`Unreadable`).

    ``keys``: the log's, trusted from elsewhere. ``known``: an earlier check to go on from. ``not_before``: POSIX
    seconds before which the newest checkpoint must not have been signed (a log that was stopped). Answers the report,
    and the progress to keep where everything held.
    """
    report, started = LogReport(), time.monotonic()
    progress = None
    try:
        opened = open_checkpoint(fetch("checkpoint"), keys, witness_keys, quorum=quorum)
        progress = _check(report, fetch, opened, known, not_before)
    except NoteError as error:
        report.fail(f"the checkpoint is not genuine: {error}")
    except Unreadable as error:
        report.fail(f"cannot be read: {error}")
    if report.verdict == "PASS" and report.size == 0:
        report.verdict = "NO_DATA"
    report.seconds = time.monotonic() - started
    return report, progress if report.verdict != "FAIL" else None


def _check(
    report: LogReport, fetch: Callable[[str], bytes], opened: OpenedCheckpoint, known: Progress | None, not_before: int
) -> Progress | None:
    checkpoint = opened.checkpoint
    report.origin, report.size = checkpoint.origin, checkpoint.size
    report.signed_at, report.witnesses = opened.time, opened.witnesses
    if not_before and opened.time < not_before:
        report.fail(f"the newest checkpoint is of {_utc(opened.time)}, before {_utc(not_before)}")
    edge = Edge()
    if known is not None:
        if known.origin != checkpoint.origin:
            report.fail(f"the earlier check was of another log: {known.origin}")
            return None
        if known.edge.size > checkpoint.size:
            report.fail(
                f"the log has {checkpoint.size} entries, it had {known.edge.size}: it was cut off", checkpoint.size
            )
            return None
        edge = known.edge.copy()
    size = edge.size
    while size < checkpoint.size:
        tile = _tile_at(ENTRIES, size, checkpoint.size)
        leaves = _leaves(report, fetch, tile)
        if leaves is None:
            return None
        skip = size - tile.index * TILE_WIDTH
        edge.extend(leaves[skip:])
        report.checked += len(leaves) - skip
        size = edge.size
    if edge.root() != checkpoint.root:
        report.fail(f"the entries are not those that the checkpoint over {checkpoint.size} signs")
        _locate(report, fetch, known.edge.size if known is not None else 0)
        return None
    return Progress(checkpoint.origin, edge)


def _leaves(report: LogReport, fetch: Callable[[str], bytes], tile: Tile) -> list[bytes] | None:
    try:
        entries = decode_bundle(fetch(tile.path))
    except TileError as error:
        report.fail(f"{tile.path}: {error}", tile.index * TILE_WIDTH)
        return None
    if len(entries) != tile.width:
        lacking = tile.index * TILE_WIDTH + min(len(entries), tile.width)
        report.fail(f"{tile.path} holds {len(entries)} entries in place of {tile.width}", lacking)
        return None
    return [leaf_hash(entry) for entry in entries]


def _locate(report: LogReport, fetch: Callable[[str], bytes], first: int) -> None:
    """Find the first entry whose hash is not in the log's own tile. A log that forged those as well is only refused."""
    size = first
    while size < report.size:
        tile = _tile_at(ENTRIES, size, report.size)
        try:
            hashes = hashes_of(fetch(Tile(0, tile.index, tile.width).path), tile.width)
        except (TileError, Unreadable):
            return
        leaves = _leaves(report, fetch, tile) or []
        for offset, (leaf, recorded) in enumerate(zip(leaves, hashes, strict=False)):
            if leaf != recorded:
                report.fail(
                    f"entry {tile.index * TILE_WIDTH + offset} is not what was logged", tile.index * TILE_WIDTH + offset
                )
                return
        size = tile.index * TILE_WIDTH + tile.width


def _tile_at(level: int, entry: int, size: int) -> Tile:
    index = entry // TILE_WIDTH
    return Tile(level, index, min(TILE_WIDTH, size - index * TILE_WIDTH))


def _utc(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
