"""Asking witnesses to cosign the newest head of every zone, and hearing what they say of it.

Works in rounds, at most one in a second: each zone's newest head goes to every witness at once, so that a quorum
cosigns the *same* head. It reads the ledger and adds cosignatures; sequencing neither knows nor waits. A witness that
is away is left alone for longer and longer, up to a minute.

A witness that has seen more than there is (409), or another tree (409, 422), says that the ledger was rolled back or
rewritten: ``audit_tamper_detected``. It says so until it cosigns again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import aiohttp
import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.sweep import ALERT
from bailiwick.evidence.tlog_witness import PATH, AddCheckpoint, Malformed, parse_conflict
from bailiwick.evidence.tree import MissingHashes, prove
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.metrics import Metrics
from bailiwick_verify.checkpoint import Checkpoint, parse_checkpoint
from bailiwick_verify.merkle import consistency_path
from bailiwick_verify.note import Note, SignatureLine, VerifierKey, parse_note, parse_signature_line

INTERVAL_S = 1.0
BEHIND_S = 300.0
_TIMEOUT_S = 5.0
_LONGEST_PAUSE_S = 60.0
_MOST_ANSWER_BYTES = 32 << 10
_FUTURE_S = 3600.0
_REQUESTS_AT_ONCE = 4

Result = Literal["cosigned", "conflict", "bad_proof", "refused", "not_genuine", "away"]

log = structlog.get_logger(__name__)


class _Said(Exception):
    """A witness answered otherwise than with a cosignature. ``tampered``: it says that the ledger is another one."""

    def __init__(self, result: Result, why: str, *, tampered: bool = False, saw: int = -1) -> None:
        super().__init__(why)
        self.saw = saw
        self.result: Result = result
        self.why = why
        self.tampered = tampered


@dataclass(frozen=True, slots=True)
class KnownWitness:
    """Where a witness is, and the cosigner key it is known by."""

    url: str
    key: VerifierKey

    @property
    def name(self) -> str:
        """The name it signs under."""
        return self.key.name


@dataclass(slots=True)
class Standing:
    """How a witness stands to a zone's ``log``. ``size``: of the head it cosigned last, -1 for none. ``refuses``: why
    it says the ledger is not what it saw; ``saw``: how many events it then told, -1 for none. ``trouble``: what it
    answered last in place of a cosignature."""

    log: str = ""
    size: int = -1
    saw: int = -1
    signed_at: datetime | None = None
    current_at: float = 0.0
    tried_at: float = float("-inf")
    pause_s: float = 0.0
    refuses: str = ""
    trouble: str = ""
    told_behind: bool = False


@dataclass(slots=True)
class _Away:
    """A witness that could not be reached, for all zones: when to try again, and how long the next pause is."""

    until: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class _Newest:
    zone: str
    size: int
    root: bytes
    at: datetime
    note: bytes

    @property
    def said(self) -> Checkpoint:
        return parse_checkpoint(parse_note(self.note).text)


class Witnessing:
    """Runs in the work role. ``quorum``: how many witnesses make a head a cosigned one. ``ca``: what their TLS is
    trusted by, None for the system's."""

    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        clock: Clock,
        metrics: Metrics,
        witnesses: Sequence[KnownWitness],
        *,
        quorum: int = 1,
        ca: ssl.SSLContext | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._clock = clock
        self._metrics = metrics
        self._witnesses = list(witnesses)
        self._quorum = quorum
        self._ca = ca
        self._interval_s = interval_s
        self._standings: dict[tuple[str, str], Standing] = {}
        self._session: aiohttp.ClientSession | None = None
        self._away: dict[str, _Away] = {}
        self._lines = {witness.name: asyncio.Semaphore(_REQUESTS_AT_ONCE) for witness in witnesses}
        # the sequencer uses the same connections, and it goes first
        self._connections = asyncio.Semaphore(2)

    @property
    def tampered(self) -> dict[str, str]:
        """By zone, what witnesses hold against its ledger."""
        told: dict[str, str] = {}
        for (zone, name), standing in self._standings.items():
            if standing.refuses:
                told[zone] = (
                    f"{told[zone]}; {name}: {standing.refuses}" if zone in told else f"{name}: {standing.refuses}"
                )
        return told

    def facts(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By witness and zone: the size cosigned last, for how many seconds it is behind, and what it answered else."""
        now = self._clock.monotonic()
        told: dict[str, dict[str, dict[str, Any]]] = {witness.name: {} for witness in self._witnesses}
        for (zone, name), standing in self._standings.items():
            told[name][zone] = {
                "size": standing.size,
                "behind_s": round(now - standing.current_at, 1),
                "trouble": standing.refuses or standing.trouble,
            }
        return told

    async def run(self) -> None:
        """Ask until cancelled. A database that is away is waited for."""
        try:
            while self._witnesses:
                started = self._clock.monotonic()
                try:
                    await self.round()
                except Unavailable as error:
                    log.warning("witnesses wait for the database", error=str(error))
                except Exception:
                    log.exception("asking witnesses failed")
                await asyncio.sleep(max(0.05, self._interval_s - (self._clock.monotonic() - started)))
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def round(self) -> None:
        """Ask every witness that is due for a cosignature of every zone's newest head it has not signed."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT z.name AS zone, h.size, h.root, h.at, h.note FROM zones z, LATERAL (SELECT size, root, at, note"
                " FROM ledger.heads WHERE zone = z.name ORDER BY size DESC, at DESC LIMIT 1) h"
            )
            for witness in self._witnesses:
                await self._recall(tx, witness, [row["zone"] for row in rows])
        heads = [_Newest(row["zone"], row["size"], bytes(row["root"]), row["at"], bytes(row["note"])) for row in rows]
        await asyncio.gather(*[self._follow_all(head) for head in heads])

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _recall(self, tx: Transaction, witness: KnownWitness, zones: Sequence[str]) -> None:
        """What the witness cosigned before this process began."""
        unknown = [zone for zone in zones if (zone, witness.name) not in self._standings]
        if not unknown:
            return
        rows = await tx.all(
            # a witness begins anew with a log that is continued: what it signed of the one before does not count
            "SELECT c.zone, max(c.size) AS size FROM ledger.cosignatures c WHERE witness = :witness"
            " AND zone = ANY(:zones) AND c.size > coalesce((SELECT max(e.seq) FROM ledger.continuations n"
            "  JOIN ledger.events e ON e.zone = n.zone AND e.id = n.event_id WHERE n.zone = c.zone), -1)"
            " GROUP BY c.zone",
            witness=witness.name,
            zones=unknown,
        )
        sizes = {row["zone"]: row["size"] for row in rows}
        for zone in unknown:
            self._standings[zone, witness.name] = Standing(sizes.get(zone, -1), current_at=self._clock.monotonic())

    # ------------------------------------------------------------------ one witness, one head

    async def _follow_all(self, head: _Newest) -> None:
        if any(await asyncio.gather(*[self._follow(witness, head) for witness in self._witnesses])):
            await self._count(head)

    async def _follow(self, witness: KnownWitness, head: _Newest) -> bool:
        """Ask, if it is due; whether the witness cosigned the head now."""
        signed = False
        standing = self._standings[head.zone, witness.name]
        now = self._clock.monotonic()
        if standing.log != (said := head.said).origin:
            _begin(standing, said)
        if (standing.size, standing.signed_at) == (head.size, head.at):
            standing.current_at = now
        elif now - standing.tried_at >= standing.pause_s and not self._is_away(witness):
            standing.tried_at = now
            try:
                line, moment = await self._ask(witness, standing, head)
                await self._keep(witness, head, line, moment)
            except _Said as said:
                await self._heard(witness, standing, head, said)
            else:
                signed = True
                await self._cosigned(witness, standing, head)
        self._show(witness, standing, head.zone)
        return signed

    async def _ask(self, witness: KnownWitness, standing: Standing, head: _Newest) -> tuple[SignatureLine, int]:
        """The witness's cosignature of ``head``; raises :class:`_Said`."""
        old = max(0, standing.size)
        for _ in range(2):
            if old > head.size:
                raise await self._seen_more(head, old)
            status, body = await self._post(witness, await self._request(head, old))
            if status == 200:
                return self._genuine(witness, head, body)
            if status == 422:
                why = f"the tree of {head.size} events does not continue the {old} it saw"
                raise _Said("bad_proof", why, tampered=True)
            if status != 409:
                raise _Said("refused", f"it answers {status}: {body[:200].decode('utf-8', 'replace').strip()}")
            try:
                seen = parse_conflict(body)
            except Malformed:
                raise _Said("refused", "it answers 409 without a size") from None
            if seen < standing.size:
                log.warning("witness has forgotten what it cosigned", witness=witness.name, zone=head.zone, size=seen)
            if seen == old == head.size > 0:
                raise _Said("conflict", f"it saw other events than these {seen}", tampered=True)
            if seen == old:
                raise _Said("refused", f"it refuses a proof from the very size it tells, {seen}")
            old = seen
        raise _Said("refused", "it tells another size each time it is asked")

    async def _seen_more(self, head: _Newest, seen: int) -> _Said:
        """Judge a witness that has seen more than the head: is there a newer one by now?"""
        async with self._connections, self._database.begin() as tx:
            newest = await tx.value("SELECT max(size) FROM ledger.heads WHERE zone = :zone", zone=head.zone)
        if newest >= seen:
            return _Said("conflict", f"it has seen {seen} events already")
        return _Said("conflict", f"it saw {seen} events, {newest} are left", tampered=True, saw=seen)

    async def _request(self, head: _Newest, old: int) -> bytes:
        try:
            async with self._connections, self._database.begin() as tx:
                proof = await prove(tx, head.zone, head.size, lambda nodes: consistency_path(old, head.size, nodes))
        except MissingHashes as error:
            raise _Said("refused", f"no proof can be made: {error}") from None
        return bytes(AddCheckpoint(old, tuple(proof), head.note))

    async def _post(self, witness: KnownWitness, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        options: dict[str, Any] = {"ssl": self._ca} if self._ca is not None else {}
        async with self._lines[witness.name]:
            if self._is_away(witness):  # found out while this request waited in line
                raise _Said("away", "it cannot be reached")
            try:
                url = witness.url + PATH
                async with self._session.post(url, data=body, allow_redirects=False, **options) as answer:
                    read = await answer.content.read(_MOST_ANSWER_BYTES)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                before = self._away.get(witness.name)
                pause = min(2 * before.pause_s, _LONGEST_PAUSE_S) if before is not None else self._interval_s
                self._away[witness.name] = _Away(self._clock.monotonic() + pause, pause)
                raise _Said("away", f"it cannot be reached: {type(error).__name__}") from None
            self._away.pop(witness.name, None)
            return answer.status, read

    def _is_away(self, witness: KnownWitness) -> bool:
        away = self._away.get(witness.name)
        return away is not None and self._clock.monotonic() < away.until

    def _genuine(self, witness: KnownWitness, head: _Newest, body: bytes) -> tuple[SignatureLine, int]:
        try:
            text = parse_note(head.note).text
            lines = [parse_signature_line(line) for line in body.decode().removesuffix("\n").split("\n")]
            mine = [line for line in lines if (line.name, line.key_id) == (witness.name, witness.key.key_id)]
            moment = witness.key.time_signed(Note(text, tuple(mine)))
        except ValueError as error:
            raise _Said("not_genuine", f"its answer is no cosignature: {error}") from None
        if moment is None:
            raise _Said("not_genuine", "its answer is not signed by its key")
        if not 0 < moment <= self._clock.time() + _FUTURE_S:
            raise _Said("not_genuine", "its cosignature is of a time to come")
        return max(mine, key=lambda line: line.moment), moment

    async def _keep(self, witness: KnownWitness, head: _Newest, line: SignatureLine, moment: int) -> None:
        async with self._connections, self._database.begin() as tx:
            await tx.run(
                "INSERT INTO ledger.cosignatures (zone, size, root, witness, at, line)"
                " VALUES (:zone, :size, :root, :witness, :at, :line) ON CONFLICT DO NOTHING",
                zone=head.zone,
                size=head.size,
                root=head.root,
                witness=witness.name,
                at=datetime.fromtimestamp(moment, UTC),
                line=str(line).rstrip("\n"),
            )

    async def _count(self, head: _Newest) -> None:
        """Have the head served as a cosigned one, once enough of them signed it."""
        async with self._connections, self._database.begin() as tx:
            await tx.run(
                "INSERT INTO ledger.cosigned (zone, size, root, witnesses, at)"
                " SELECT :zone, :size, :root, count(DISTINCT witness), :now FROM ledger.cosignatures"
                " WHERE zone = :zone AND size = :size AND root = :root AND witness = ANY(:names)"
                " HAVING count(DISTINCT witness) >= :quorum ON CONFLICT DO NOTHING",
                zone=head.zone,
                size=head.size,
                root=head.root,
                now=self._clock.now(),
                names=[witness.name for witness in self._witnesses],
                quorum=self._quorum,
            )

    # ------------------------------------------------------------------ what came of it

    async def _cosigned(self, witness: KnownWitness, standing: Standing, head: _Newest) -> None:
        self._metrics.witness_answers.labels(witness.name, "cosigned").inc()
        if standing.refuses:
            log.warning("witness cosigns again", witness=witness.name, zone=head.zone, size=head.size)
            await self._record(codes.WITNESS_RECOVERED, "success", witness, head, "")
        standing.size, standing.signed_at, standing.pause_s = head.size, head.at, 0.0
        standing.refuses = standing.trouble = ""
        standing.current_at = self._clock.monotonic()

    async def _heard(self, witness: KnownWitness, standing: Standing, head: _Newest, said: _Said) -> None:
        self._metrics.witness_answers.labels(witness.name, said.result).inc()
        if said.result != "away":
            standing.pause_s = min(max(2 * standing.pause_s, self._interval_s), _LONGEST_PAUSE_S)
        if said.why != standing.trouble:
            log.warning("witness does not cosign", witness=witness.name, zone=head.zone, why=said.why)
        standing.trouble = said.why
        if said.tampered:
            log.critical(ALERT, zone=head.zone, witness=witness.name, kind=said.result, why=said.why)
            first, standing.refuses, standing.saw = not standing.refuses, said.why, said.saw
            if first:  # it stands whether or not the event can be recorded
                await self._record(codes.WITNESS_REFUSED, "failure", witness, head, said.why)

    async def _record(
        self,
        kind: codes.EventType,
        outcome: Literal["success", "failure"],
        witness: KnownWitness,
        head: _Newest,
        why: str,
    ) -> None:
        async with self._connections, self._database.begin() as tx:
            await self._recorder.record(
                tx,
                kind,
                outcome,
                Context(head.zone),
                subject=Subject(id=witness.name, type="witness"),
                reasons=(ALERT,) if outcome == "failure" else (),
                size=head.size,
                why=why,
            )

    def _show(self, witness: KnownWitness, standing: Standing, zone: str) -> None:
        behind = self._clock.monotonic() - standing.current_at
        self._metrics.witness_behind_seconds.labels(zone, witness.name).set(behind)
        self._metrics.witness_refuses.labels(zone, witness.name).set(1 if standing.refuses else 0)
        late = behind > BEHIND_S
        if late and not standing.told_behind:
            log.error("witness_behind", witness=witness.name, zone=zone, seconds=int(behind), trouble=standing.trouble)
        standing.told_behind = late


def _begin(standing: Standing, said: Checkpoint) -> None:
    """The zone's log goes on under another name: a witness begins with it anew. What it held against the one before is
    over if that is the loss that was agreed to, and only then."""
    if standing.log:
        standing.size, standing.signed_at, standing.pause_s = -1, None, 0.0
        if standing.refuses and 0 <= standing.saw <= max((line.known for line in said.continued), default=-1):
            log.info("witness refused what was lost by agreement", saw=standing.saw, log=said.origin)
            standing.refuses = standing.trouble = ""
    standing.log = said.origin


async def seen_by(
    witnesses: Sequence[KnownWitness], note: bytes, *, ca: ssl.SSLContext | None = None
) -> dict[str, int | None]:
    """How many events each witness has seen of the log of the signed checkpoint ``note``; None from one that does not
    say. Asked is as if it had seen nothing, which it corrects (409)."""
    body = bytes(AddCheckpoint(0, (), note))
    options: dict[str, Any] = {"ssl": ca} if ca is not None else {}
    told: dict[str, int | None] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        for witness in witnesses:
            told[witness.name] = None
            try:
                async with session.post(witness.url + PATH, data=body, allow_redirects=False, **options) as answer:
                    if answer.status == 409:
                        told[witness.name] = parse_conflict(await answer.content.read(_MOST_ANSWER_BYTES))
                    elif answer.status == 200:
                        told[witness.name] = parse_checkpoint(parse_note(note).text).size
            except (aiohttp.ClientError, TimeoutError, OSError, Malformed):
                continue
    return told
