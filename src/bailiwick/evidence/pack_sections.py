"""The evidence room's own sections of a pack: events and their proof, records, inputs, timeline, dead letters."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.evidence.evidence_records import VERSION as RECORD_VERSION
from bailiwick.evidence.evidence_records import EvidenceRecord, decode
from bailiwick.evidence.inputs import DETAIL, input_aad
from bailiwick.evidence.pack import Outcome, Pack, Section
from bailiwick.evidence.receipts import receipt
from bailiwick.evidence.stored import TEXTS, body_from_texts
from bailiwick.evidence.tree import prove, read_hashes
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify.merkle import TILE_WIDTH, Nodes, consistency_path, inclusion_path
from bailiwick_verify.receipt import Receipt
from bailiwick_verify.tiles import Tile

LEDGER = "ledger"
MOST_RECEIPTS = 200
_TILES_AT_ONCE = 64
_MARK = f'"{DETAIL}":"'.encode()
_DIGEST = re.compile(_MARK + rb'([0-9a-f]{64})"')
_MOST_DIGESTS = 500_000
_DIGESTS_AT_ONCE = 1000
_AT = "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def evidence_sections(
    sealer: Callable[[], Sealer] | None,
) -> Sequence[Section]:
    """All of them. ``sealer`` opens decision inputs; without one they stay sealed."""
    return (
        Section("events", "The events, verbatim as they were hashed, one a line; and their positions", LEDGER, _events),
        Section("log", "The signed head, its keys, and the tiles of the tree that lead to each event", LEDGER, _log),
        Section("heads", "The heads signed around the window, and the one kept outside the database", LEDGER, _heads),
        Section("continued", "Where the log was continued after a loss: the statement of it, and who agreed", LEDGER,
                _continued),
        Section("receipts", "A receipt of each event, to be handed out by itself (.tlog-proof)", LEDGER, _receipts),
        Section("records", "Evidence records of probes and attestations in the window", "evidence records", _records),
        Section("inputs", "What decisions were made from, where it was asked for and is still kept", "decision inputs",
                _inputs(sealer)),
        Section("timeline", "Events and answers of the API together, in the order they happened", "ledger, access log",
                _timeline),
        Section("dead-letters", "What could not be put into the ledger: where from, why, its hash", LEDGER, _dead),
    )  # fmt: skip


# ---------------------------------------------------------------------- events and their proof


async def _events(pack: Pack) -> Outcome:
    matched = pack.matched
    where, values = pack.selection.where()
    found = pack.portions(
        f"SELECT seq, {TEXTS} FROM ledger.events"  # noqa: S608
        f" WHERE zone = %(zone)s AND seq < %(size)s AND {where} ORDER BY seq",
        {"zone": pack.zone, "size": pack.head.size, **values},
    )
    count, positions, zone = 0, bytearray(), pack.zone
    async with pack.file("events.jsonl", large=True) as stream:
        async for portion in found:
            bodies = b"\n".join([body_from_texts(zone, *row[1:]) for row in portion]) + b"\n"
            await stream.write(bodies)
            _note_digests(pack, bodies)
            positions += b"".join([b"%d\n" % row[0] for row in portion])
            for tile in dict.fromkeys(row[0] // TILE_WIDTH for row in portion):
                if not matched.tiles or matched.tiles[-1] != tile:
                    matched.tiles.append(tile)
            count += len(portion)
            pack.progress("events", count, matched.count)
    assert count == matched.count  # one snapshot
    await pack.put("positions.txt", bytes(positions))
    if not count:
        return Outcome(Verdict.NO_DATA, "no event of what was asked for")
    left_out = f"; {matched.unsigned:,} newer ones are under no head yet" if matched.unsigned else ""
    return Outcome(Verdict.PASS, f"{count:,} events, positions {matched.first:,} to {matched.last:,}{left_out}")


def _note_digests(pack: Pack, bodies: bytes) -> None:
    """Keep from which inputs decisions were made, as far as there is room for it."""
    found = pack.matched.digests
    if pack.selection.inputs and found is not None:
        # a quote within a value is written with a backslash: what is found is the detail itself
        found.update(_DIGEST.findall(bodies))
        if len(found) > _MOST_DIGESTS:
            pack.matched.digests = None


async def _log(pack: Pack) -> Outcome:
    """The tiles under which the events stand, those above them, and the right edge, which gives the root."""
    size = pack.head.size
    await pack.put("checkpoint", pack.head.note, windowed=False)
    await pack.put("verifier-keys", "".join(f"{key}\n" for key in pack.keys.values()).encode(), windowed=False)
    level, wanted, written = 0, pack.matched.tiles, 0
    while size >> (8 * level):
        full, width = divmod(size >> (8 * level), TILE_WIDTH)
        for run in _runs([index for index in wanted if index < full]):
            hashes = await read_hashes(pack.tx, pack.zone, level, run.start * TILE_WIDTH, run.stop * TILE_WIDTH)
            for index in run:
                start = (index - run.start) * TILE_WIDTH
                await _tile(pack, Tile(level, index), hashes[start : start + TILE_WIDTH])
            written += len(run)
        if width:
            start = full * TILE_WIDTH
            await _tile(
                pack, Tile(level, full, width), await read_hashes(pack.tx, pack.zone, level, start, start + width)
            )
            written += 1
        wanted = sorted({index // TILE_WIDTH for index in wanted if index < full})
        level += 1
    return Outcome(note=f"{written:,} tiles of a tree of {size:,}")


async def _tile(pack: Pack, tile: Tile, hashes: Sequence[bytes]) -> None:
    async with pack.file(tile.path, windowed=False, stored=True) as stream:
        await stream.write(b"".join(hashes))


def _runs(indexes: Sequence[int]) -> list[range]:
    """Neighbouring indexes together, so that their hashes are read at once."""
    runs: list[range] = []
    for index in indexes:
        if runs and runs[-1].stop == index and len(runs[-1]) < _TILES_AT_ONCE:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


async def _heads(pack: Pack) -> Outcome:
    window = pack.window
    found = pack.rows(
        "SELECT size, at, convert_from(note, 'UTF8') AS note FROM ledger.heads h WHERE zone = %(zone)s"
        " AND size <= %(size)s AND at >= coalesce((SELECT max(at) FROM ledger.heads"
        "  WHERE zone = %(zone)s AND at <= %(since)s), %(since)s)"
        " AND at <= coalesce((SELECT min(at) FROM ledger.heads"
        "  WHERE zone = %(zone)s AND at >= %(until)s AND size > %(last)s), %(now)s) ORDER BY size, at",
        {
            "zone": pack.zone,
            "size": pack.head.size,
            "since": window.since,
            "until": window.until,
            "last": pack.matched.last,
            "now": pack.now,
        },
    )
    oldest: list[int] = []

    async def noted() -> AsyncIterator[Mapping[str, Any]]:
        async for row in found:
            if not oldest:
                oldest.append(row["size"])
            yield row

    count = await pack.put_rows("heads.jsonl", noted())
    size = pack.head.size
    if oldest:
        path = await prove(pack.tx, pack.zone, size, lambda nodes: consistency_path(oldest[0], size, nodes))
        encoded = [base64.b64encode(item).decode() for item in path]
        await pack.put_json("consistency.json", {"old": oldest[0], "new": size, "path": encoded})
    kept = "none kept outside the database was at hand"
    if pack.published is not None:
        # one over more events than the newest stored head tells of a log that was cut off
        await pack.put("published", pack.published, windowed=False)
        kept = "with the one kept outside the database"
    return Outcome(note=f"{count:,} heads; {kept}")


async def _continued(pack: Pack) -> Outcome:
    """Receipts, under the pack's own head, of the statement of each continuation and of what its approval was given
    by."""
    rows = await pack.tx.all(
        "SELECT epoch, seq, body FROM ledger.continuation_entries WHERE zone = :zone AND seq < :size ORDER BY seq",
        zone=pack.zone,
        size=pack.head.size,
    )
    for row in rows:
        path = await prove(pack.tx, pack.zone, pack.head.size, _path_of(row["seq"], pack.head.size))
        made = Receipt(bytes(row["body"]), row["seq"], tuple(path), pack.head.note)
        await pack.put(f"e{row['epoch']}-{row['seq']:012d}.tlog-proof", bytes(made), windowed=False)
    count = len({row["epoch"] for row in rows})
    return Outcome(note=f"{count:,} continuations" if rows else "the log was never continued after a loss")


def _path_of(seq: int, size: int) -> Callable[[Nodes], list[bytes]]:
    return lambda nodes: inclusion_path(seq, size, nodes)


async def _receipts(pack: Pack) -> Outcome:
    count = pack.matched.count
    if count > MOST_RECEIPTS:
        return Outcome(note=f"none: of more than {MOST_RECEIPTS} events, `bailiwick audit receipt` makes single ones")
    where, values = pack.selection.where()
    found = pack.rows(
        f"SELECT seq, id FROM ledger.events WHERE zone = %(zone)s AND seq < %(size)s AND {where} ORDER BY seq",  # noqa: S608
        {"zone": pack.zone, "size": pack.head.size, **values},
    )
    wanted: list[tuple[int, UUID]] = [(row["seq"], row["id"]) async for row in found]
    for seq, identifier in wanted:
        made = await receipt(pack.tx, pack.zone, identifier)
        await pack.put(f"{seq:012d}-{identifier}.tlog-proof", bytes(made))
    return Outcome(note=f"{count:,} receipts")


# ---------------------------------------------------------------------- what stands beside the ledger


async def _records(pack: Pack) -> Outcome:
    values = {"zone": pack.zone, "since": pack.window.since, "until": pack.window.until}
    condition = "zone = %(zone)s AND until >= %(since)s AND since <= %(until)s"
    count = await pack.put_rows(
        "records.jsonl",
        pack.rows(
            "SELECT id, recorded_at, convert_from(body, 'UTF8') AS body"  # noqa: S608 - fixed parts
            f" FROM ledger.evidence_records WHERE {condition} ORDER BY number",
            values,
        ),
    )
    verdicts: dict[str, str | None] = {}
    async for row in pack.rows(
        f"SELECT body FROM ledger.evidence_records WHERE {condition} ORDER BY number",  # noqa: S608
        values,
    ):
        record = decode(row["body"])
        _worse(verdicts, record, pack)
    async for row in pack.rows(
        "SELECT sha256, data FROM ledger.evidence_outputs WHERE sha256 IN"  # noqa: S608
        f" (SELECT output FROM ledger.evidence_records WHERE {condition}) ORDER BY sha256",
        values,
    ):
        verdict: Any = verdicts.get(row["sha256"])
        await pack.put(f"outputs/{row['sha256']}.txt", row["data"], verdict=verdict)
    said = [verdict for verdict in verdicts.values() if verdict is not None]
    failed = len([verdict for verdict in said if verdict != "PASS"])
    note = f"{count:,} records; form {RECORD_VERSION}" + (f"; {failed:,} outputs are not of a PASS" if failed else "")
    return Outcome(Verdict.NO_DATA if not said else Verdict.FAIL if failed else Verdict.PASS, note)


def _worse(verdicts: dict[str, str | None], record: EvidenceRecord, pack: Pack) -> None:
    """Note what a record says of its output; where several name one output, a PASS gives way to any other."""
    verdict, known = record.verdict(pack.now), verdicts.get(record.output.sha256)
    if known in (None, "PASS"):
        verdicts[record.output.sha256] = verdict if verdict is not None else known


def _inputs(sealer: Callable[[], Sealer] | None) -> Callable[[Pack], Any]:
    async def write(pack: Pack) -> Outcome:
        if not pack.selection.inputs:
            return Outcome(note="not asked for")
        states = {"present": 0, "expired": 0, "sealed": 0}
        opener = sealer() if sealer is not None else None

        async def opened() -> AsyncIterator[Mapping[str, Any]]:
            async for digest, sealed in _sealed_inputs(pack):
                state, body = _opened(opener, pack.zone, digest, sealed)
                states[state] += 1
                yield {"digest": digest, "state": state} | ({"body": body} if body is not None else {})

        await pack.put_rows("inputs.jsonl", opened())
        told = ", ".join(f"{count:,} {state}" for state, count in states.items())
        return Outcome(
            Verdict.NO_DATA if states["expired"] or states["sealed"] or not states["present"] else Verdict.PASS, told
        )

    return write


async def _sealed_inputs(pack: Pack) -> AsyncIterator[tuple[str, bytes | None]]:
    """Each digest once, in order, with what is sealed under it; None where it has expired."""
    if pack.matched.digests is not None:
        digests = sorted(each.decode() for each in pack.matched.digests)
        for first in range(0, len(digests), _DIGESTS_AT_ONCE):
            asked = digests[first : first + _DIGESTS_AT_ONCE]
            kept = {
                row["digest"]: row["sealed"]
                async for row in pack.rows(
                    "SELECT digest, sealed FROM decision_inputs WHERE zone = %(zone)s AND digest = ANY(%(asked)s)",
                    {"zone": pack.zone, "asked": asked},
                )
            }
            for digest in asked:
                yield digest, kept.get(digest)
        return
    where, values = pack.selection.where()
    async for row in pack.rows(
        "SELECT w.digest, d.sealed FROM"  # noqa: S608
        " (SELECT encode(found, 'escape') AS digest FROM (SELECT DISTINCT"
        "   substring(rest FROM nullif(position(%(mark)s IN rest), 0) + %(after)s FOR 64) AS found"
        f"  FROM ledger.events WHERE zone = %(zone)s AND seq < %(size)s AND {where}) each) w"
        " LEFT JOIN decision_inputs d ON d.zone = %(zone)s AND d.digest = w.digest"
        " WHERE w.digest ~ '^[0-9a-f]{64}$' ORDER BY w.digest",
        {"zone": pack.zone, "size": pack.head.size, "mark": _MARK, "after": len(_MARK), **values},
    ):
        yield row["digest"], row["sealed"]


def _opened(sealer: Sealer | None, zone: str, digest: str, sealed: bytes | None) -> tuple[str, str | None]:
    if sealed is None:
        return "expired", None
    if sealer is None:
        return "sealed", None
    try:
        return "present", sealer.open(sealed, input_aad(zone, digest)).decode()
    except (SealError, UnicodeDecodeError):
        return "sealed", None


async def _timeline(pack: Pack) -> Outcome:
    """Written by the server, line by line: for each event one of millions, Python would be the slower writer."""
    events, values = pack.selection.where()
    answers, texts = pack.selection.where(texts=True)
    texts = {f"t_{name}" if name == "requests" else name: value for name, value in texts.items()}
    known = {code: kind.name for code, kind in EVENT_TYPES.items()}
    found = pack.portions(
        "SELECT convert_to(CASE kind WHEN 'event' THEN concat("  # noqa: S608
        f'\'{{"at":"\', {_AT}, \'","code":"\', code, \'","kind":"event"\', \',"name":\' || to_json(name)::text,'
        " ',\"outcome\":\"', outcome, '\"', ',\"principal\":' || to_json(nullif(principal, ''))::text,"
        " ',\"request_id\":\"' || request_id || '\"', ',\"seq\":', seq,"
        " ',\"server\":' || to_json(nullif(server, ''))::text, '}')"
        f" ELSE json_strip_nulls(json_build_object('at', {_AT}, 'duration_us', duration_us, 'ip', nullif(ip, ''),"
        " 'kind', kind, 'method', nullif(method, ''), 'principal', nullif(principal, ''),"
        " 'request_id', nullif(request_id, ''), 'route', nullif(route, ''), 'status', status))::text END, 'UTF8')"
        " FROM (SELECT at, 'event' AS kind, seq, code, outcome, principal, server, request_id::text AS request_id,"
        " NULL AS method, NULL AS route, NULL::int AS status, NULL::bigint AS duration_us, NULL AS ip"
        f" FROM ledger.events WHERE zone = %(zone)s AND seq < %(size)s AND {events}"
        " UNION ALL SELECT at, 'answer', NULL, NULL, NULL, caller, NULL, request_id,"
        " method, route, status, duration_us, ip"
        f" FROM api_requests WHERE zone = %(zone)s AND {answers.replace('%(requests)s', '%(t_requests)s')}"
        ") told LEFT JOIN unnest(%(codes)s::text[], %(names)s::text[]) AS types (code, name) USING (code)"
        " ORDER BY at, kind DESC, seq",
        {
            "zone": pack.zone,
            "size": pack.head.size,
            "codes": [*known],
            "names": [*known.values()],
            **values,
            **texts,
        },
    )
    count = 0
    async with pack.file("timeline.jsonl", large=True) as stream:
        async for portion in found:
            await stream.write(b"".join([row[0] + b"\n" for row in portion]))
            count += len(portion)
            pack.progress("timeline", count, max(count, pack.matched.count))
    return Outcome(note=f"{count:,} lines; the access log is kept for 30 days and is not part of the ledger")


async def _dead(pack: Pack) -> Outcome:
    count = await pack.put_rows(
        "dead-letters.jsonl",
        pack.rows(
            "SELECT d.id, d.source, d.segment, d.position, d.zone, d.reason, d.size,"
            " encode(sha256(d.frame), 'hex') AS sha256, d.at, r.at AS replayed_at"
            " FROM ledger.dead_letters d LEFT JOIN ledger.replays r ON r.dead_letter = d.id"
            " WHERE (d.zone = %(zone)s"
            "  OR %(zone)s = 'default' AND NOT EXISTS (SELECT FROM zones WHERE zones.name = d.zone))"
            " AND d.at >= %(since)s AND d.at <= %(until)s ORDER BY d.id",
            {"zone": pack.zone, "since": pack.window.since, "until": pack.now},
        ),
    )
    return Outcome(Verdict.PASS if not count else Verdict.FAIL, f"{count:,} dead letters since the window began")
