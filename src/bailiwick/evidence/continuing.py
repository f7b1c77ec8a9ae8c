"""Going on with a zone's ledger after a restore that lost events: by two persons, under another name, and never silent.

A database restored to an earlier point lacks events that a published head covers. No head is signed for the zone then:
another tree of a size that was published before would be a fork. What two persons may agree to is that the log ends
there, with exactly these events lost, and that another log begins with the events that were kept. The statement of it
is an event in the ledger and a line in every head from then on.

A ledger that is not behind but other than what was published, event for event, was rewritten. Nobody agrees to that.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.approvals import asker_of
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.continued import base_of, newest_continuation
from bailiwick.evidence.events import Context, Recorder, Subject, encode, leaf_hash, rfc3339
from bailiwick.evidence.ledger import Head, HeadFiles, TreeState, ledger_keys, lock_tree
from bailiwick.evidence.sweep import NEWEST, WHOLE_JOB
from bailiwick.evidence.tree import MissingHashes, root_at
from bailiwick.evidence.verify import verify
from bailiwick.kernel.agreement import given
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum, Terms
from bailiwick_verify.continuation import ACTION
from bailiwick_verify.epochs import origin_in

CONTINUE = Action(ACTION, Permission.OVERRIDES_APPROVE, life=timedelta(hours=24))
TERMS = Terms(roles=("admin", "security_owner"), window=timedelta(hours=24))
MOST_HEAD = 8192

Asked = Callable[[bytes], Awaitable[Mapping[str, int | None]]]
"""How many events each configured witness has seen of the log of a head (a signed checkpoint); None from one that does
not say."""


async def no_witnesses(note: bytes) -> Mapping[str, int | None]:
    """Where none is configured."""
    return {}


@dataclass(frozen=True, slots=True)
class Behind:
    """How a zone's ledger is behind: ``kept`` events of the ``known`` that ``head``, the last known one, covers."""

    origin: str
    head: Head
    kept: int
    kept_root: bytes

    @property
    def epoch(self) -> int:
        """The number of the log that goes on."""
        return self.head.epoch + 1

    def bound(self) -> dict[str, Any]:
        """What is agreed to."""
        return {
            "origin": self.head.said.origin,
            "log": origin_in(base_of(self.origin), self.epoch),
            "epoch": self.epoch,
            "kept": self.kept,
            "kept_root": base64.b64encode(self.kept_root).decode(),
            "known": self.head.size,
            "known_root": base64.b64encode(self.head.root).decode(),
            "lost_first": self.kept,
            "lost_last": self.head.size - 1,
        }


@dataclass(frozen=True, slots=True)
class Continued:
    """What came of asking: the approval that is waited for, or the log that goes on."""

    approval: Approval
    log: str
    kept: int
    known: int
    event_id: str = ""

    @property
    def done(self) -> bool:
        """Whether it was done now."""
        return bool(self.event_id)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {"log": self.log, "kept": self.kept, "known": self.known, "lost": self.known - self.kept}
        return {**told, "done": self.done, "event": self.event_id, "approval": self.approval.document()}


class Continuing:
    """Continues ledgers. ``asked``: asks the witnesses; ``fault`` is called with every step's name."""

    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        clock: Clock,
        quorum: Quorum,
        head_files: HeadFiles | None,
        *,
        cold: ColdEvents | None = None,
        asked: Asked = no_witnesses,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._clock = clock
        self._quorum = quorum
        self._head_files = head_files
        self._cold = cold
        self._asked = asked
        self._fault = fault
        quorum.register(CONTINUE)

    async def go_on(self, context: Context, ground: str, note: bytes | None = None) -> Continued:
        """Ask that the ledger of the context's zone go on, and have it do so once that is agreed to.

        ``ground``: why events were lost. ``note``: a newer head than the published one, from a witness, an auditor or
        a backup. Raises ``ledger_not_behind``, ``ledger_rewritten``, ``ledger_known_more``, ``invalid_request``, and
        what :meth:`Quorum.execute` raises.
        """
        zone = context.zone
        async with self._database.begin() as tx:
            behind = await self._behind(tx, zone, await lock_tree(tx, zone, None), note)
        await self._refuse_tampered(zone)
        seen = await self._asked(behind.head.note)
        for witness, size in seen.items():
            if size is not None and size > behind.head.size:
                raise Conflict(
                    f"The witness {witness} saw {size} events, the newest head known here is over {behind.head.size}:"
                    " bring the head that it keeps.",
                    reason="ledger_known_more",
                )
        shown = {
            "summary": f"lose events {behind.kept} to {behind.head.size - 1} of the ledger",
            "head": behind.head.note.decode(),
            "head_at": rfc3339(behind.head.at),
            "ground": ground,
            "witnesses": [_said(witness, size) for witness, size in sorted(seen.items())],
        }
        by, signed_in = asker_of(context)
        async with self._database.begin() as tx:
            await require_on(tx, zone, Switch.READ_ONLY)
            now = await self._behind(tx, zone, await lock_tree(tx, zone, None), note)
            bound = now.bound()
            approval = await given(
                self._quorum, tx, context, zone, CONTINUE.name, bound, shown,
                by=by, reason=ground, signed_in=signed_in, terms=TERMS,
            )  # fmt: skip
            if approval.state != "executed":
                return Continued(approval, bound["log"], now.kept, now.head.size)
            self._fault("agreed")
            event_id = await self._close(tx, context, now, approval)
            self._fault("closed")
        self._fault("committed")
        return Continued(approval, bound["log"], now.kept, now.head.size, event_id)

    async def _close(self, tx: Transaction, context: Context, behind: Behind, approval: Approval) -> str:
        """Leave the statement, the row and the event with one commit: heads under the new name follow from them."""
        zone = context.zone
        statement = json.dumps(
            dict(approval.payload), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        event = await self._recorder.record(
            tx,
            codes.LEDGER_CONTINUED,
            "success",
            context,
            subject=Subject(id=zone, type="ledger"),
            log=str(approval.payload["log"]),
            kept=behind.kept,
            known=behind.head.size,
            ground=str(approval.payload["ground"]),
            approval=approval.id,
            requested_by=approval.requested_by,
            approved_by=approval.approved_by,
            statement=statement,
        )
        await tx.run(
            "INSERT INTO ledger.continuations"
            " (zone, epoch, kept, known, known_root, note, at, event_id, leaf, approval)"
            " VALUES (:zone, :epoch, :kept, :known, :root, :note, :at, :event_id, :leaf, :approval)",
            zone=zone,
            epoch=behind.epoch,
            kept=behind.kept,
            known=behind.head.size,
            root=behind.head.root,
            note=str(approval.payload["head"]).encode(),
            at=datetime.fromisoformat(event.at),
            event_id=event.id,
            leaf=leaf_hash(encode(event)),
            approval=approval.id,
        )
        await make_due(tx, WHOLE_JOB, self._clock.now())  # what the last check found is over only when one passes
        return event.id

    # ------------------------------------------------------------------ is it behind, and only that?

    async def _behind(self, tx: Transaction, zone: str, state: TreeState, note: bytes | None) -> Behind:
        keys = await ledger_keys(tx, zone)
        if not keys:
            raise NotFound(f"Zone {zone} has no ledger.")
        continuation = await newest_continuation(tx, zone)
        epoch = continuation.epoch if continuation is not None else 1
        rows = await tx.all(
            "SELECT note, kept FROM ledger.losses WHERE zone = :zone AND epoch >= :epoch ORDER BY seen_at",
            zone=zone,
            epoch=epoch,
        )
        noted = [Head.read(zone, bytes(row["note"])) for row in rows]
        published = self._published(zone)
        brought = _brought(zone, note)
        known = [head for head in (*noted, published, brought) if head is not None]
        for head in known:
            if (why := head.false_because(keys.values())) is not None:
                raise InvalidRequest(f"A head over {head.size} events is not genuine: {why}.")
        if brought is not None and brought.epoch < epoch:
            raise Conflict("That head is of a log that was continued already.", reason="ledger_not_behind")
        known = [head for head in known if head.epoch >= epoch]
        if not known:
            raise Conflict(reason="ledger_not_behind")
        head = max(known, key=lambda each: each.order)
        if any((each.epoch, each.size) == (head.epoch, head.size) and each.root != head.root for each in known):
            why = f"Two heads over {head.size} events that the log signed differ."
            raise Conflict(why, reason="ledger_rewritten")
        if not rows:
            await self._refuse_unnoted(tx, state, known, head)
        kept = min(row["kept"] for row in rows)
        if head.size <= kept or kept > state.size:
            raise Conflict(reason="ledger_not_behind")
        if state.head_size > kept:
            why = f"A head was signed over {state.head_size} events, after only {kept} were restored."
            raise Conflict(why, reason="ledger_rewritten")
        try:
            if state.size >= head.size and await root_at(tx, zone, head.size) == head.root:
                raise Conflict("Nothing is missing any more: the spools had it.", reason="ledger_not_behind")
            for each in known:  # what was kept must be what was published
                if each.size <= kept and await root_at(tx, zone, each.size) != each.root:
                    raise Conflict(reason="ledger_rewritten")
            root = await root_at(tx, zone, kept)
        except MissingHashes as error:
            raise Conflict(f"{error}.", reason="ledger_rewritten") from None
        return Behind(next(iter(keys.values())).name, head, kept, root)

    async def _refuse_unnoted(self, tx: Transaction, state: TreeState, known: Sequence[Head], head: Head) -> None:
        """Refuse where nothing noted how many events there were when the newer head was missed first."""
        if head.size <= state.size:
            for each in known:
                if await root_at(tx, each.zone, each.size) != each.root:
                    raise Conflict(reason="ledger_rewritten")
            raise Conflict(reason="ledger_not_behind")
        raise Conflict(
            "Nothing noted yet how many events there were when that head was missed first: the work role does when it"
            " starts with it as the published head, and so does `restore --heads`.",
            reason="ledger_not_behind",
        )

    def _published(self, zone: str) -> Head | None:
        try:
            return self._head_files.load(zone) if self._head_files is not None else None
        except (ValueError, OSError) as error:
            raise Conflict(f"The published head cannot be read: {error}.", reason="ledger_rewritten") from None

    async def _refuse_tampered(self, zone: str) -> None:
        """What is there must be what its heads were signed over: a loss takes away the end and changes nothing."""
        report = await verify(self._database, zone, newest=NEWEST, cold=self._cold)
        first = report.first_bad
        if first is not None:
            raise Conflict(f"Event {first.seq}: {first.why}. That is no loss.", reason="ledger_rewritten")


def _brought(zone: str, note: bytes | None) -> Head | None:
    if note is None:
        return None
    try:
        return Head.read(zone, note)
    except ValueError as error:
        raise InvalidRequest(f"The head that was brought cannot be read: {error}.") from None


def _said(witness: str, size: int | None) -> str:
    return f"{witness} saw {size} events" if size is not None else f"{witness} does not say"
