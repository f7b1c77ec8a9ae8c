"""Whether a log may go on as it does: the statement of a continuation, who agreed to it, and what it leaves out.

The statement is an entry of the log (``ledger.continued``). It says in canonical JSON what was agreed to: the log that
ended, its last known head as a signed note, how many entries were kept, which are lost, and why. That two persons
agreed is in entries before it: somebody asked for exactly this (the SHA-256 of it), others approved exactly this.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bailiwick_verify.checkpoint import open_checkpoint
from bailiwick_verify.epochs import Continued, kept_of, origin_in, split_origin
from bailiwick_verify.merkle import leaf_hash
from bailiwick_verify.note import NoteError, VerifierKey

ACTION = "ledger.continue"
CODE, ASKED, VOTED, DONE = "BW5043", "BW6021", "BW6022", "BW6024"
_MARK = b'"ledger.continue'  # in the statement's name, and in the action that the others tell of
_MACHINE = "os:"  # who asked at the machine's command line, and could be anybody there


@dataclass(frozen=True, slots=True)
class Loss:
    """What one continuation left out: entries ``first`` to ``last`` of the log ``of``, whose last known head was signed
    at ``known_at`` (POSIX seconds, 0 for untold); since ``at`` the log goes on as ``log``. ``persons`` asked and
    approved, for the reason ``ground``; nobody is named where the statement itself is not at hand. ``witnesses``: how
    many known witnesses had signed that head."""

    log: str
    of: str
    first: int
    last: int
    at: str
    entry: int
    known_at: int = 0
    persons: tuple[str, ...] = ()
    ground: str = ""
    witnesses: int = 0

    @property
    def lost(self) -> int:
        """How many entries."""
        return self.last - self.first + 1

    def told(self) -> list[str]:
        """For people, in lines."""
        span = f"entries {self.first} to {self.last}" if self.lost > 1 else f"entry {self.first}"
        lines = [f"lost: {span} of {self.of}; it goes on as {self.log} since {self.at}"]
        if self.persons:
            lines.append(f"      agreed to by {', '.join(self.persons)} (entry {self.entry}): {self.ground}")
        else:
            lines.append(f"      entry {self.entry} says who agreed to that")
        return lines

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "persons": [*self.persons]}


class Refused(ValueError):
    """A continuation that does not hold. ``entry``: the position it is told at."""

    def __init__(self, why: str, entry: int) -> None:
        super().__init__(why)
        self.entry = entry


class Statements:
    """What entries say of continuations, collected while a log is read in order."""

    def __init__(self) -> None:
        self.closings: dict[int, tuple[bytes, dict[str, Any]]] = {}
        self._told: list[tuple[int, dict[str, Any]]] = []

    @staticmethod
    def in_any(data: bytes) -> bool:
        """Whether some bytes hold anything of interest; quick."""
        return _MARK in data

    def look(self, index: int, entry: bytes) -> None:
        """Take in the entry at ``index`` if it is about a continuation."""
        if _MARK not in entry:
            return
        try:
            event = json.loads(entry)
            code, details = event["code"], event["details"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if code == CODE:
            self.closings[index] = (leaf_hash(entry), event)
        elif code in (ASKED, VOTED, DONE) and isinstance(details, dict) and details.get("action") == ACTION:
            self._told.append((index, event))

    def judge(
        self,
        lines: Sequence[Continued],
        base: str,
        keys: Sequence[VerifierKey],
        witness_keys: Sequence[VerifierKey] = (),
        *,
        since: int = 0,
        root_of: Callable[[int], bytes] | None = None,
        refuse: Callable[[str, int], None],
    ) -> list[Loss]:
        """What was lost, by the ``lines`` of the newest checkpoint of the log that began as ``base``.

        ``since``: entries before it were judged in an earlier check, and were not read. ``root_of``: the root of the
        log's tree after so many entries. ``refuse`` is told what does not hold, and the position.
        """
        losses: list[Loss] = []
        named = {line.entry for line in lines}
        for index in sorted(self.closings.keys() - named):
            why = f"entry {index} continues a log that no head tells of: a second continuation, or a hidden one"
            refuse(why, index)
        for line in lines:
            kept = kept_of(lines, line.epoch)
            if line.entry < since or (kept is not None and line.entry >= kept):
                losses.append(_by_line(line, base))  # judged before, or itself lost in a later loss
                continue
            try:
                losses.append(self._one(line, base, keys, witness_keys, root_of))
            except Refused as refused:
                refuse(str(refused), refused.entry)
        return losses

    def _one(
        self,
        line: Continued,
        base: str,
        keys: Sequence[VerifierKey],
        witness_keys: Sequence[VerifierKey],
        root_of: Callable[[int], bytes] | None,
    ) -> Loss:
        at = line.entry
        log, before = origin_in(base, line.epoch), origin_in(base, line.epoch - 1)
        if at not in self.closings:
            raise Refused(f"entry {at} does not state the continuation e{line.epoch} that the head tells of", at)
        leaf, event = self.closings[at]
        if leaf != line.leaf:
            raise Refused(f"entry {at} is not the statement of e{line.epoch} that the head tells of", at)
        try:
            details = event["details"]
            text = details["statement"]
            said = json.loads(text)
            if _canonical(said) != text:
                raise ValueError
            of, goes_on = said["origin"], said["log"]
            kept, known, first, last = (int(said[name]) for name in ("kept", "known", "lost_first", "lost_last"))
            kept_root, known_root = (
                base64.b64decode(said[name], validate=True) for name in ("kept_root", "known_root")
            )
            note, ground, zone = str(said["head"]).encode(), str(said["ground"]), str(event["zone"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(f"the statement of e{line.epoch} cannot be read", at) from None
        if str(event.get("at", ""))[:19] + "Z" != line.at:
            raise Refused(f"the head tells another time of e{line.epoch} than the statement has", at)
        if event.get("outcome") != "success" or zone != base.rpartition("/")[2]:
            raise Refused(f"entry {at} is no statement of this log's continuation", at)
        if (of, goes_on) != (before, log):
            raise Refused(f"the statement of e{line.epoch} continues {of} as {goes_on}, not {before} as {log}", at)
        if (kept, known, known_root) != (line.kept, line.known, line.root):
            raise Refused(f"the statement of e{line.epoch} names another head than the checkpoint's line does", at)
        if (first, last) != (kept, known - 1):
            why = f"the lost range of e{line.epoch} is {first} to {last}, but {kept} of {known} entries were kept"
            raise Refused(why, min(first, kept))
        try:
            opened = open_checkpoint(note, keys, witness_keys)
        except NoteError as error:
            raise Refused(f"the last head of {before} that is named is not genuine: {error}", at) from None
        head = opened.checkpoint
        if (head.origin, head.size, head.root) != (before, known, known_root):
            raise Refused(f"the last head of {before} that is named says other than the statement", at)
        if root_of is not None and root_of(kept) != kept_root:
            raise Refused(f"the log does not begin with the {kept} entries that are said to have been kept", kept)
        persons = self._persons(event, said, zone, line)
        return Loss(log, before, first, last, line.at, at, opened.time, persons, ground, len(opened.witnesses))

    def _persons(self, event: dict[str, Any], said: dict[str, Any], zone: str, line: Continued) -> tuple[str, ...]:
        """Who agreed, from the entries before the statement; raises :class:`Refused` unless two persons did."""
        digest = hashlib.sha256(_canonical({"action": ACTION, "payload": said, "zone": zone}).encode()).hexdigest()
        approval = event["details"].get("approval")
        asked: str | None = None
        approved: list[str] = []
        for index, each in sorted(self._told, key=lambda told: told[0]):
            details, subject = each["details"], each.get("subject") or {}
            if index >= line.entry or subject.get("id") != approval or details.get("payload") != digest:
                continue
            actor = each.get("actor") or {}
            if each["code"] == ASKED:
                asked = str(details.get("requested_by", ""))
            elif each["code"] == VOTED and each.get("outcome") == "success" and asked is not None:
                person = str(actor.get("user", ""))
                if person and person.casefold() not in {asked.casefold(), *map(str.casefold, approved)}:
                    approved.append(person)
        if asked is None:
            raise Refused(f"nobody is seen to have asked for the continuation e{line.epoch}", line.entry)
        persons = ([] if asked.startswith(_MACHINE) else [asked]) + approved
        if len(persons) < 2:
            who = ", ".join(persons) or asked
            raise Refused(f"the continuation e{line.epoch} was not agreed to by two persons: {who}", line.entry)
        named = event["details"]
        if named.get("requested_by") != asked or sorted(named.get("approved_by") or ()) != sorted(approved):
            raise Refused(f"the statement of e{line.epoch} names other persons than agreed", line.entry)
        return tuple(persons)


def losses_told(lines: Sequence[Continued], base: str) -> list[Loss]:
    """What a checkpoint's lines alone tell, where no entry can be read."""
    return [_by_line(line, base) for line in lines]


def _by_line(line: Continued, base: str) -> Loss:
    log, before = origin_in(base, line.epoch), origin_in(base, line.epoch - 1)
    return Loss(log, before, line.kept, line.known - 1, line.at, line.entry)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def judge_old_head(
    lines: Sequence[Continued], origin: str, size: int, root: bytes, who: str, refuse: Callable[[str, int], None]
) -> bool:
    """Whether a head of ``origin``, over ``size`` entries, is one that the tree of the log of now must meet.

    What lies among the lost is held against what is known of that log alone, and ``refuse`` is told what is wrong.
    """
    _, epoch = split_origin(origin)
    kept = kept_of(lines, epoch)
    if kept is None or size <= kept:
        return True
    ended = next(line for line in lines if line.epoch == epoch + 1)
    if size > ended.known:
        why = f"{who} is over {size} entries of {origin}, which is said to have ended after {ended.known}"
        refuse(f"{why}: the continuation hides more than it tells", ended.known)
    elif size == ended.known and root != ended.root:
        refuse(f"a fork: {who}, over {size}, is not the last head of {origin} that the continuation names", size - 1)
    return False
