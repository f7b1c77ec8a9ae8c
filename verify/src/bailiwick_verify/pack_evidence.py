"""What a pack holds, against the tree: events, heads, receipts, evidence records, decision inputs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from bailiwick_verify.archive import Archive
from bailiwick_verify.checkpoint import Checkpoint, OpenedCheckpoint, open_checkpoint
from bailiwick_verify.continuation import Loss, Statements, judge_old_head
from bailiwick_verify.epochs import kept_of, split_origin
from bailiwick_verify.merkle import TILE_WIDTH, Edge, leaf_hash, root_of, verify_consistency
from bailiwick_verify.note import NoteError, VerifierKey
from bailiwick_verify.receipt import Receipt, ReceiptError
from bailiwick_verify.tiles import MAX_ENTRY_BYTES, Tile, TileError, hashes_of

EVENTS, POSITIONS = "events/events.jsonl", "events/positions.txt"
CHECKPOINT, TILES = "log/checkpoint", "log/"
HEADS, CONSISTENCY, PUBLISHED = "heads/heads.jsonl", "heads/consistency.json", "heads/published"
RECORDS, OUTPUTS = "records/records.jsonl", "records/outputs/"
INPUTS = "inputs/inputs.jsonl"
RECEIPTS = "receipts/"
CONTINUED = "continued/"
_MOST_NOTE = 64 << 10
_MOST_RECORD = 4 << 20
_MOST_INPUT = 8 << 20
_MOST_OUTPUT = 1 << 20


class EvidenceError(ValueError):
    """Something in a pack is not what the tree says. ``file`` names where it stands."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(why)
        self.file = file


class Evidence:
    """The evidence of a pack whose files are known to be those that were signed for."""

    def __init__(self, archive: Archive, manifest: dict[str, Any], origin: str, keys: Sequence[VerifierKey]) -> None:
        self._archive = archive
        self._manifest = manifest
        self._origin = origin
        self._keys = keys
        self._checkpoint = Checkpoint(origin, 0, b"")
        self._verified: dict[tuple[int, int], list[bytes]] = {}

    def open_head(self, witness_keys: Sequence[VerifierKey], quorum: int) -> OpenedCheckpoint:
        """The signed checkpoint that everything else is held against."""
        data = self._archive.read(CHECKPOINT, _MOST_NOTE)
        opened = self._open(CHECKPOINT, data, witness_keys, quorum)
        self._checkpoint = opened.checkpoint
        return opened

    # ------------------------------------------------------------------ tree

    def check_tree(self) -> None:
        """The right edge of the tree gives the signed root; every other tile gives its hash in the tile above."""
        size = self._checkpoint.size
        levels: list[list[bytes]] = []
        while size >> (8 * len(levels)):
            level, hashes = len(levels), size >> (8 * len(levels))
            width = hashes % TILE_WIDTH
            levels.append(self._read(Tile(level, hashes // TILE_WIDTH, width)) if width else [])
        if Edge(levels).root() != self._checkpoint.root:
            raise EvidenceError(CHECKPOINT, "the tiles do not give the root that was signed")
        for level, hashes_there in enumerate(levels):
            self._verified[level, (size >> (8 * level)) // TILE_WIDTH] = hashes_there
        for name in self._archive.names:
            if name.startswith(f"{TILES}tile/"):
                try:
                    tile = Tile.parse(name.removeprefix(TILES))
                except TileError as error:
                    raise EvidenceError(name, str(error)) from None
                self._tile(tile.level, tile.index)

    def _tile(self, level: int, index: int) -> list[bytes]:
        """The hashes of a tile that leads to the signed root."""
        known = self._verified.get((level, index))
        if known is not None:
            return known
        hashes = self._checkpoint.size >> (8 * level)
        tile = Tile(level, index, max(0, min(TILE_WIDTH, hashes - index * TILE_WIDTH)))
        name = TILES + Tile(level, index).path
        if level < 0 or tile.width != TILE_WIDTH:
            raise EvidenceError(name, f"the tree of {self._checkpoint.size} entries has no such tile")
        found = self._read(tile)
        above = self._tile(level + 1, index // TILE_WIDTH)
        if root_of(found) != above[index % TILE_WIDTH]:
            raise EvidenceError(name, "its hashes do not give the hash that the tile above it has")
        if level:  # the lowest are many, and are read in order
            self._verified[level, index] = found
        return found

    def _read(self, tile: Tile) -> list[bytes]:
        name = TILES + tile.path
        try:
            return hashes_of(self._archive.read(name, TILE_WIDTH * 32), tile.width)
        except TileError as error:
            raise EvidenceError(name, str(error)) from None

    # ------------------------------------------------------------------ events

    def check_events(self) -> tuple[int, int, bool]:
        """Every event stands where it is said to, and is of what was asked for.

        Answers how many there are, how many entries between the first and the last are not in the pack, and whether
        one was made under a simulated clock.
        """
        wanted = _Wanted(self._manifest)
        positions = self._positions()
        count, first, last, index, hashes, simulated = 0, -1, -1, -1, [b""], False
        for number, entry in enumerate(self._archive.lines(EVENTS, MAX_ENTRY_BYTES)):
            where = f"event {number}"
            seq = next(positions, -1)
            if seq <= last or seq >= self._checkpoint.size:
                raise EvidenceError(POSITIONS, f"{where} has no position, or one that is out of order")
            if seq // TILE_WIDTH != index:
                index = seq // TILE_WIDTH
                hashes = self._tile(0, index)
            if leaf_hash(entry) != hashes[seq % TILE_WIDTH]:
                raise EvidenceError(EVENTS, f"{where} is not the one that was logged at position {seq}")
            simulated = wanted.check(entry, where) or simulated
            first, last, count = (seq if first < 0 else first), seq, count + 1
        if next(positions, None) is not None:
            raise EvidenceError(POSITIONS, "it has more positions than there are events")
        if count != wanted.count:
            raise EvidenceError(EVENTS, f"it holds {count} events, the manifest says {wanted.count}")
        return count, (last - first + 1 - count if count else 0), simulated

    def _positions(self) -> Iterator[int]:
        for line in self._archive.lines(POSITIONS, 20):
            if not line.isdigit() or str(int(line)).encode() != line:
                raise EvidenceError(POSITIONS, "a line is no number")
            yield int(line)

    # ------------------------------------------------------------------ heads

    def check_heads(self) -> None:
        """Every head is genuine, none contradicts another, and the oldest is a beginning of the newest."""
        roots: dict[int, bytes] = {self._checkpoint.size: self._checkpoint.root}
        oldest: Checkpoint | None = None
        last = -1
        for number, line in enumerate(self._archive.lines(HEADS, 2 * _MOST_NOTE)):
            try:
                note = str(json.loads(line)["note"]).encode()
            except (ValueError, KeyError, TypeError, RecursionError):
                raise EvidenceError(HEADS, f"head {number} cannot be read") from None
            head = self._open(HEADS, note, (), 0).checkpoint
            kept = kept_of(self._checkpoint.continued, head.epoch)
            if kept is not None and head.size > kept:
                why = f"head {number} is over {head.size} entries of {head.origin}, of which {kept} are said to be kept"
                raise EvidenceError(HEADS, f"{why}: more is told lost than was")
            if head.size < last or head.size > self._checkpoint.size:
                raise EvidenceError(HEADS, f"head {number} is over {head.size} entries: heads are out of order")
            if roots.get(head.size, head.root) != head.root:
                raise EvidenceError(HEADS, f"two heads over {head.size} entries differ: the log was forked")
            if head.size != last:
                roots = {self._checkpoint.size: self._checkpoint.root, head.size: head.root}
            oldest, last = oldest or head, head.size
        if CONSISTENCY in self._archive:
            self._check_consistency(oldest)
        if PUBLISHED in self._archive:
            published = self._open(PUBLISHED, self._archive.read(PUBLISHED, _MOST_NOTE), (), 0).checkpoint
            if not judge_old_head(
                self._checkpoint.continued,
                published.origin,
                published.size,
                published.root,
                "the published head",
                self._refuse_published,
            ):
                return
            if published.size > self._checkpoint.size:
                why = f"a head over {published.size} entries was published: the log was cut off"
                raise EvidenceError(PUBLISHED, why)
            if published.size == self._checkpoint.size and published.root != self._checkpoint.root:
                raise EvidenceError(PUBLISHED, f"two heads over {published.size} entries differ: the log was forked")

    def _refuse_published(self, why: str, entry: int) -> None:
        raise EvidenceError(PUBLISHED, f"{why} (entry {entry})")

    def check_continued(self, witness_keys: Sequence[VerifierKey]) -> list[Loss]:
        """What was lost: the statement of each continuation, and who agreed to it, stand in the tree of the pack."""
        lines, statements = self._checkpoint.continued, Statements()
        found: list[tuple[int, bytes]] = []
        for name in self._archive.names:
            if name.startswith(CONTINUED):
                try:
                    receipt = Receipt.parse(self._archive.read(name, 4 * MAX_ENTRY_BYTES))
                    opened = receipt.verify(self._keys)
                except ReceiptError as error:
                    raise EvidenceError(name, str(error)) from None
                if opened.checkpoint != self._checkpoint:
                    raise EvidenceError(name, "it is not under the checkpoint of the pack")
                found.append((receipt.index, receipt.entry))
        for index, entry in sorted(found):
            statements.look(index, entry)

        def refuse(why: str, entry: int) -> None:
            raise EvidenceError(CHECKPOINT, f"{why} (entry {entry})")

        return statements.judge(lines, split_origin(self._origin)[0], self._keys, witness_keys, refuse=refuse)

    def _check_consistency(self, oldest: Checkpoint | None) -> None:
        try:
            told = json.loads(self._archive.read(CONSISTENCY, _MOST_NOTE))
            path = [base64.b64decode(item, validate=True) for item in told["path"]]
            old, new = int(told["old"]), int(told["new"])
        except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
            raise EvidenceError(CONSISTENCY, "it cannot be read") from None
        head, now = oldest, self._checkpoint
        if head is None or (old, new) != (head.size, now.size):
            raise EvidenceError(CONSISTENCY, "it is not about the oldest head and the checkpoint")
        if not verify_consistency(old, new, head.root, now.root, path):
            raise EvidenceError(CONSISTENCY, f"the log of {old} entries is not the beginning of the log of {new}")

    # ------------------------------------------------------------------ receipts, records, inputs

    def check_receipts(self, witness_keys: Sequence[VerifierKey], quorum: int) -> None:
        """Each receipt proves its event by itself."""
        for name in self._archive.names:
            if name.startswith(RECEIPTS):
                try:
                    receipt = Receipt.parse(self._archive.read(name, 4 * MAX_ENTRY_BYTES))
                    receipt.verify(self._keys, witness_keys, quorum=quorum)
                except ReceiptError as error:
                    raise EvidenceError(name, str(error)) from None

    def check_records(self) -> None:
        """Each evidence record has the id of its content, and its output the hash it names."""
        if RECORDS not in self._archive:
            return
        for number, line in enumerate(self._archive.lines(RECORDS, _MOST_RECORD)):
            try:
                told = json.loads(line)
                identifier, body = str(told["id"]), str(told["body"]).encode()
                sha256 = str(json.loads(body)["output"]["sha256"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise EvidenceError(RECORDS, f"record {number} cannot be read") from None
            if hashlib.sha256(body).hexdigest() != identifier:
                raise EvidenceError(RECORDS, f"record {number} is not what its id says")
            name = f"{OUTPUTS}{sha256}.txt"
            if hashlib.sha256(self._archive.read(name, _MOST_OUTPUT)).hexdigest() != sha256:
                raise EvidenceError(name, "it is not the output that the record names")

    def check_inputs(self) -> None:
        """Each decision input that is there has the digest that events name it by."""
        if INPUTS not in self._archive:
            return
        for number, line in enumerate(self._archive.lines(INPUTS, _MOST_INPUT)):
            try:
                told = json.loads(line)
                digest, body = str(told["digest"]), told.get("body")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise EvidenceError(INPUTS, f"input {number} cannot be read") from None
            if body is not None and hashlib.sha256(str(body).encode()).hexdigest() != digest:
                raise EvidenceError(INPUTS, f"input {number} is not what its digest says")

    def _open(self, name: str, data: bytes, witness_keys: Sequence[VerifierKey], quorum: int) -> OpenedCheckpoint:
        try:
            opened = open_checkpoint(data, self._keys, witness_keys, quorum=quorum)
        except NoteError as error:
            raise EvidenceError(name, str(error)) from None
        of, now = split_origin(opened.checkpoint.origin), split_origin(self._origin)
        if of[0] != now[0] or of[1] > now[1] or (name == CHECKPOINT and of != now):
            raise EvidenceError(name, "it is of another log than the one that signed the pack")
        return opened


class _Wanted:
    """What the pack was asked to hold, as its manifest says."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        try:
            selection = manifest["selection"]
            self._requests = frozenset(str(each) for each in selection["requests"])
            self._windows = [(_moment(each["since"]), _moment(each["until"])) for each in selection["windows"]]
            self._zone = str(manifest["zone"])
            self.count = int(manifest["events"]["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise EvidenceError("manifest.json", f"its selection cannot be read: {error}") from None

    def check(self, entry: bytes, where: str) -> bool:
        """Whether the event was made under a simulated clock; raises :class:`EvidenceError` if it was not asked for."""
        try:
            event = json.loads(entry)
            at, zone, request = _moment(event["at"]), event["zone"], event.get("request_id")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise EvidenceError(EVENTS, f"{where} cannot be read") from None
        if zone != self._zone:
            raise EvidenceError(EVENTS, f"{where} is of another zone")
        if request not in self._requests and not any(since <= at < until for since, until in self._windows):
            raise EvidenceError(EVENTS, f"{where} is not of what was asked for")
        return bool(event.get("simulated_clock"))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment
