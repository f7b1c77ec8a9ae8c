"""A small evidence installation for tests, in this process and in children that are killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from samples import sample_details

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Actor, Context, Event, Recorder, encode
from bailiwick.evidence.frames import MAX_PAYLOAD, Kind
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys, key_aad
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.spool import Files, Spool
from bailiwick.evidence.stored import COLUMNS, body_from
from bailiwick.kernel.clock import Clock, SystemClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.ids import Ids

ZONES = ("acme", "default")
LEDGER_TABLES = (
    "events", "hashes", "heads", "cosignatures", "cosigned", "dead_letters", "replays", "evidence_records",
    "evidence_outputs", "losses", "continuations", "continuation_entries",
)  # fmt: skip
OTHER_TABLES = (
    "outbox", "evidence_packs", "spool_positions", "decision_inputs", "api_requests", "approvals", "zones", "zone_keys",
)  # fmt: skip
SMALL_SEGMENT = 2 * MAX_PAYLOAD
KEK = bytes(range(32))


class World:
    """Handles to one installation. Children are told ``url`` and ``root`` and make their own."""

    def __init__(self, url: str, root: Path, clock: Clock | None = None) -> None:
        self.url = url
        self.root = root
        self.clock: Clock = clock or SystemClock()
        self.ids = Ids()
        self.database = Database(url, pool_size=4)
        self.sealer = Sealer({"k1": KEK}, active="k1")
        self.keys = LedgerKeys(self.database, self.sealer, self.clock)
        self.head_files = HeadFiles(root / "evidence" / "heads")
        self.recorder = Recorder(self.clock, self.ids)
        self._spools: list[Spool] = []
        self._sequencers: list[Sequencer] = []

    @classmethod
    async def make(cls, url: str, root: Path) -> World:
        """Empty every table the ledger uses and start anew."""
        from databases import empty  # processes that only use what was made have another path

        with psycopg.connect(url, autocommit=True) as connection:
            empty(
                connection,
                *(f"ledger.{name}" for name in LEDGER_TABLES),
                *(f"bailiwick.{name}" for name in OTHER_TABLES),
            )
            for zone in ZONES:
                connection.execute("INSERT INTO bailiwick.zones (name, created_at) VALUES (%s, now())", (zone,))
                add_ledger_key(connection, zone)
        return cls(url, root)

    @property
    def spool_root(self) -> Path:
        return self.root / "spool"

    async def spool(self, slot: str = "w0", *, files: Files | None = None, segment: int = SMALL_SEGMENT) -> Spool:
        spool = Spool(self.spool_root, slot, self.ids(), segment_bytes=segment, files=files)
        await spool.start()
        self._spools.append(spool)
        return spool

    def sequencer(self, *, fault: Callable[[str], None] = lambda step: None, **options: Any) -> Sequencer:
        options.setdefault("head_interval_s", 0.0)
        made = Sequencer(
            self.database, self.url, self.spool_root, self.head_files, self.keys, self.clock, fault=fault, **options
        )
        self._sequencers.append(made)
        return made

    def event(
        self, kind: EventType = codes.GATEWAY_ALLOWED, *, zone: str = "default", user: str = "jane", **more: Any
    ) -> Event:
        request_id = more.pop("request_id", "") or self.ids()
        context = Context(zone, Actor(user=user), request_id=request_id)
        return self.recorder.make(kind, "allow", context, **(sample_details(kind) | more))

    def bodies(self, where: str = "") -> list[bytes]:
        """The bytes of events in the ledger, in its order."""
        rows = self.rows(f"SELECT {COLUMNS} FROM ledger.events {where} ORDER BY seq")
        return [body_from(*row) for row in rows]

    async def put(self, spool: Spool, count: int, *, zone: str = "default", **more: Any) -> list[str]:
        """Append events and wait until they are acknowledged; their ids."""
        events = [self.event(zone=zone, **more) for _ in range(count)]
        for future in [spool.append(Kind.EVENT, zone, encode(event)) for event in events]:
            await future
        return [event.id for event in events]

    async def filled(self, count: int, *, zone: str = "default", **more: Any) -> list[str]:
        """A ledger of ``count`` events under heads."""
        spool = await self.spool()
        ids = await self.put(spool, count, zone=zone, **more)
        await spool.close()
        sequencer = self.sequencer()
        await sequencer.drain()
        sequencer.close()
        return ids

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Rows read as the superuser; single columns come bare."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(sql, values or None).fetchall()  # type: ignore[call-overload]
        return [row[0] if len(row) == 1 else row for row in found]

    def do(self, sql: str, *values: Any) -> int:
        """A statement run as the superuser: the attacker with the database in his hands."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return int(connection.execute(sql, values or None).rowcount)  # type: ignore[call-overload]

    def ledgered(self, zone: str = "default") -> list[str]:
        """Ids of the events in the ledger, in order."""
        return [str(value) for value in self.rows("SELECT id FROM ledger.events WHERE zone = %s ORDER BY seq", zone)]

    def sources(self) -> list[Path]:
        return sorted(path for path in self.spool_root.iterdir() if path.is_dir() and not path.name.startswith("."))

    async def close(self) -> None:
        for spool in self._spools:
            await spool.close()
        for sequencer in self._sequencers:
            sequencer.close()
        await self.database.close()


def add_ledger_key(connection: psycopg.Connection[Any], zone: str) -> None:
    """What the authority room does when a zone is made."""
    from joserfc.jwk import OKPKey

    private = Ed25519PrivateKey.generate()
    encoding, none = serialization.Encoding.DER, serialization.NoEncryption()
    der = private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, none)
    spki = private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    kid = f"l-{zone}-{spki.hex()[-12:]}"
    jwk = OKPKey.import_key(spki).as_dict(private=False)
    connection.execute(
        "INSERT INTO bailiwick.zone_keys"
        " (kid, zone, purpose, algorithm, public_jwk, private_sealed, created_at, changed_at)"
        " VALUES (%s, %s, 'ledger', 'Ed25519', %s, %s, now(), now())",
        (kid, zone, json.dumps(jwk), Sealer({"k1": KEK}, "k1").seal(der, key_aad(zone, kid))),
    )


def positions(frames: Sequence[Any]) -> list[int]:
    return [frame.offset for frame in frames]
