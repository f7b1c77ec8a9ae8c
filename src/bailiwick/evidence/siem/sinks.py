"""Sinks: where the evidence of a zone is sent, in what form, and who changes that.

A sink of the default zone may send all zones. Its secrets are sealed and never answered; the address is checked here
and again wherever a connection is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import import_module
from typing import Any, Literal

import msgspec

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.evidence.events import Context, Event, Recorder, Subject
from bailiwick.evidence.siem import cursors
from bailiwick.evidence.siem.kinds import KINDS, check_options, check_secrets, kind_of, revealed
from bailiwick.evidence.siem.selection import KEPT, Redactions, Selection
from bailiwick.evidence.tree import tree_size
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.rfc7396 import merge

DEFAULT_ZONE = "default"
MOST_SINKS = 20
MOST_BATCH = 10_000

Format = Literal["native", "ocsf", "ecs"]
VersionGuard = Callable[[int], None]
CheckAddress = Callable[[str, int], Awaitable[None]]
"""Raises ``upstream_forbidden`` for a (host, port) that we may never connect to."""


def any_version(_version: int) -> None:
    """Used where the caller did not say which version he changes."""


@dataclass(frozen=True, slots=True)
class Sink:
    """A destination and what it is sent. ``sealed`` holds its secrets and the key of its redactions.

    ``stopped`` says why nothing is sent until somebody acts. ``drain_at``: when somebody asked for everything at once.
    """

    id: str
    zone: str
    name: str
    kind: str
    options: Mapping[str, Any]
    sealed: bytes = field(repr=False)
    format: Format
    selection: Selection
    redact: Redactions
    batch_size: int
    linger_s: float
    all_zones: bool
    enabled: bool
    stopped: str | None
    stopped_at: datetime | None
    drain_at: datetime | None
    drain_batch: int | None
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def label(self) -> str:
        """What metrics and logs call it."""
        return f"{self.zone}/{self.name}"

    def document(self) -> dict[str, Any]:
        """The JSON form, without secrets."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "options": dict(self.options),
            "format": self.format,
            "filter": selection_document(self.selection),
            "redact": dict(self.redact),
            "batch_size": self.batch_size,
            "linger_s": self.linger_s,
            "all_zones": self.all_zones,
            "enabled": self.enabled,
            "stopped": self.stopped,
            "version": self.version,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """What a sink is to be. ``start``: ``beginning`` of what the ledger holds, or ``now``."""

    name: str
    kind: str
    options: Mapping[str, Any]
    secrets: Mapping[str, Any] = field(repr=False)
    format: Format = "native"
    selection: Selection = field(default_factory=Selection)
    redact: Redactions = field(default_factory=dict)
    batch_size: int | None = None
    linger_s: float | None = None
    all_zones: bool = False
    enabled: bool = True
    start: Literal["beginning", "now"] = "beginning"


# ---------------------------------------------------------------------- rules


def selection_document(selection: Selection) -> dict[str, list[str]]:
    """The JSON form of a selection."""
    return {name: list(getattr(selection, name)) for name in selection.__slots__}


def check_selection(selection: Selection) -> None:
    """Raises ``invalid_request`` for a code that no event has: a filter that takes nothing is a mistake."""
    unknown = [code for code in selection.codes if code not in EVENT_TYPES]
    if unknown:
        raise InvalidRequest(f"There is no event code {unknown[0]}.")


def check_redactions(redactions: Redactions) -> None:
    """Raises ``invalid_request`` for a field that must stay or that no event has."""
    known = set(Event.__struct_fields__)
    for path in redactions:
        top = path.split(".")[0]
        if top in KEPT:
            raise InvalidRequest(f"The field {path} cannot be taken out: without it an event cannot be told again.")
        if top not in known:
            raise InvalidRequest(f"Events have no field {path}.")


def check_format(form: Format, redactions: Redactions) -> None:
    """Raises ``invalid_request`` for a form that cannot be made here."""
    if form != "native" and mapping_of(form) is None:
        raise InvalidRequest(f"Events cannot be sent as {form} by this version.")


def mapping_of(form: Format) -> Callable[[Event], dict[str, Any]] | None:
    """What makes an event of ours one of ``form``; None for our own form."""
    if form == "native":
        return None
    try:
        mapping = import_module("bailiwick.evidence.mapping")
    except ModuleNotFoundError:
        return None
    made: Callable[[Event], dict[str, Any]] = getattr(mapping, f"to_{form}")
    return made


def sink_aad(zone: str, identifier: str) -> bytes:
    """What a sink's sealed secrets are bound to."""
    return f"siem-sink/{zone}/{identifier}".encode()


def seal(sealer: Sealer, zone: str, identifier: str, kind: str, url: str, secrets: Mapping[str, str]) -> bytes:
    """The sealed secrets. The address is sealed with them: altered in the database alone it does not get the token."""
    form = {"kind": kind, "to": url, "secrets": dict(secrets)}
    return sealer.seal(msgspec.json.encode(form), sink_aad(zone, identifier))


def unseal(sealer: Sealer, sink: Sink) -> dict[str, str]:
    """The secrets of a sink; raises :class:`SealError`, also when the row's kind or address was altered."""
    from bailiwick.kernel.crypto import SealError

    form = msgspec.json.decode(sealer.open(sink.sealed, sink_aad(sink.zone, sink.id)))
    if form["kind"] != sink.kind or form["to"] != address_of(sink.options):
        raise SealError("the sink's kind or address was altered")
    secrets: dict[str, str] = form["secrets"]
    return secrets


def address_of(options: Mapping[str, Any]) -> str:
    """Where the options lead, as text: what secrets are bound to."""
    return json.dumps([options.get(name) for name in ("url", "site", "host", "port", "endpoint", "region", "bucket")])


def destination_of(options: Any) -> tuple[str, int]:
    """Host and port that options of any kind lead to."""
    found: tuple[str, int] = options.leads_to
    return found


# ---------------------------------------------------------------------- store


async def find(tx: Transaction, zone: str, name: str, *, lock: bool = False) -> Sink:
    """One sink; raises ``NotFound``."""
    row = await tx.one(
        f"SELECT * FROM siem_sinks WHERE zone = :zone AND name = :name {'FOR UPDATE' if lock else ''}",  # noqa: S608
        zone=zone,
        name=name,
    )
    if row is None:
        raise NotFound(f"There is no sink {name}.")
    return sink_of(row)


async def all_sinks(tx: Transaction, zone: str | None = None) -> list[Sink]:
    """The sinks of ``zone``, or of every zone, by name."""
    where = "WHERE zone = :zone" if zone is not None else ""
    values = {"zone": zone} if zone is not None else {}
    rows = await tx.all(f"SELECT * FROM siem_sinks {where} ORDER BY zone, name", **values)  # noqa: S608 - fixed parts
    return [sink_of(row) for row in rows]


def sink_of(row: Row) -> Sink:
    """A sink from its row."""
    return Sink(
        row["id"],
        row["zone"],
        row["name"],
        row["kind"],
        row["options"],
        bytes(row["sealed"]),
        row["format"],
        Selection(**{name: tuple(values) for name, values in row["filter"].items()}),
        row["redact"],
        row["batch_size"],
        row["linger_s"],
        row["all_zones"],
        row["enabled"],
        row["stopped"],
        row["stopped_at"],
        row["drain_at"],
        row["drain_batch"],
        row["version"],
        row["created_at"],
        row["updated_at"],
    )


# ---------------------------------------------------------------------- service


class Sinks:
    """Makes, changes, removes and lists sinks."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, sealer: Sealer, check: CheckAddress
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._sealer = sealer
        self._check = check

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def create(self, context: Context, draft: Draft) -> Sink:
        """Store a new sink and its cursors; raises ``Conflict`` (``already_exists``), ``InvalidRequest`` and others."""
        if draft.kind not in KINDS:
            raise InvalidRequest(f"There is no kind of sink {draft.kind}.")
        kind = kind_of(draft.kind)
        options, secrets = check_options(draft.kind, draft.options), check_secrets(draft.kind, draft.secrets)
        if draft.all_zones and context.zone != DEFAULT_ZONE:
            raise Denied("Only a sink of the default zone may send all zones.")
        now, identifier = self._clock.now(), self._ids()
        stored = options.model_dump(mode="json")
        sealed = revealed(secrets) | {"redaction_key": os.urandom(32).hex()}
        sink = Sink(
            identifier,
            context.zone,
            draft.name,
            draft.kind,
            stored,
            seal(self._sealer, context.zone, identifier, draft.kind, address_of(stored), sealed),
            draft.format,
            draft.selection,
            draft.redact,
            draft.batch_size or kind.batch_size,
            kind.linger_s if draft.linger_s is None else draft.linger_s,
            draft.all_zones,
            draft.enabled,
            None,
            None,
            None,
            None,
            1,
            now,
            now,
        )
        await self._check_sink(sink, options)
        async with self._database.begin() as tx:
            await _require_active(tx, context.zone)
            count = await tx.value("SELECT count(*) FROM siem_sinks WHERE zone = :zone", zone=context.zone)
            if count >= MOST_SINKS:
                raise Conflict(f"A zone has at most {MOST_SINKS} sinks.")
            await self._insert(tx, sink)
            await self._place(tx, sink, draft.start, now)
            await self._record(tx, codes.SIEM_SINK_CREATED, context, sink, start=draft.start)
        return sink

    async def change(
        self, context: Context, name: str, patch: Mapping[str, Any], guard: VersionGuard = any_version
    ) -> Sink:
        """Change a sink by a merge patch (RFC 7396) of ``options``, ``secrets``, ``filter``, ``redact``, ``format``,
        ``batch_size``, ``linger_s`` and ``enabled``. What stopped it is forgotten. A sink that is led to another
        address needs its secrets anew.
        """
        async with self._database.begin() as tx:
            await _require_active(tx, context.zone)
            before = await find(tx, context.zone, name, lock=True)
            guard(before.version)
            options = check_options(before.kind, merge(before.options, patch.get("options", {})))
            stored = options.model_dump(mode="json")
            secrets = unseal(self._sealer, before)
            kept = {"redaction_key": secrets.pop("redaction_key")}
            given = dict(patch.get("secrets", {}))
            if address_of(stored) != address_of(before.options):
                # or whoever may change a sink could have its token sent to himself
                if not given:
                    raise InvalidRequest("Another address needs the secrets anew.")
                secrets = {}
            checked = check_secrets(before.kind, merge(secrets, given))
            after = replace(
                before,
                options=stored,
                sealed=seal(
                    self._sealer, before.zone, before.id, before.kind, address_of(stored), revealed(checked) | kept
                ),
                format=patch.get("format", before.format),
                selection=_patched_selection(before.selection, patch.get("filter", {})),
                redact=merge(before.redact, patch.get("redact", {})),
                batch_size=patch.get("batch_size", before.batch_size),
                linger_s=patch.get("linger_s", before.linger_s),
                enabled=patch.get("enabled", before.enabled),
                stopped=None,
                stopped_at=None,
                version=before.version + 1,
                updated_at=self._clock.now(),
            )
            await self._check_sink(after, options)
            await self._update(tx, after)
            changed = sorted(part for part in patch if part != "secrets") + ["secrets"] * bool(given)
            await self._record(tx, codes.SIEM_SINK_CHANGED, context, after, changed=changed)
        return after

    async def delete(self, context: Context, name: str, guard: VersionGuard = any_version) -> None:
        """Remove a sink with its cursors; what it had not taken yet it will not get."""
        async with self._database.begin() as tx:
            await _require_active(tx, context.zone)
            sink = await find(tx, context.zone, name, lock=True)
            guard(sink.version)
            lag = sum(cursor.lag for cursor in await cursors.cursors(tx, sink.id))
            await tx.run("DELETE FROM siem_sinks WHERE id = :id", id=sink.id)
            await self._record(tx, codes.SIEM_SINK_DELETED, context, sink, behind=lag)

    async def get(self, zone: str, name: str) -> Sink:
        """One sink; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return await find(tx, zone, name)

    async def list(self, zone: str) -> list[Sink]:
        """The sinks of a zone by name."""
        async with self._database.begin() as tx:
            return await all_sinks(tx, zone)

    async def _check_sink(self, sink: Sink, options: Any) -> None:
        check_selection(sink.selection)
        check_redactions(sink.redact)
        check_format(sink.format, sink.redact)
        await self._check(*destination_of(options))

    async def _place(self, tx: Transaction, sink: Sink, start: str, now: datetime) -> None:
        zones = [sink.zone]
        if sink.all_zones:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        for zone in zones:
            if start == "now":
                seq = await tree_size(tx, zone)
            else:
                oldest = await tx.value("SELECT min(seq) FROM ledger.events WHERE zone = :zone", zone=zone)
                seq = await tree_size(tx, zone) if oldest is None else oldest
            await cursors.place(tx, sink.id, zone, seq, now)

    async def _insert(self, tx: Transaction, sink: Sink) -> None:
        done = await tx.run(
            "INSERT INTO siem_sinks (id, zone, name, kind, options, sealed, format, filter, redact, batch_size,"
            " linger_s, all_zones, enabled, created_at, updated_at) VALUES (:id, :zone, :name, :kind,"
            " CAST(:options AS jsonb), :sealed, :format, CAST(:filter AS jsonb), CAST(:redact AS jsonb), :batch_size,"
            " :linger_s, :all_zones, :enabled, :now, :now) ON CONFLICT (zone, name) DO NOTHING",
            **_values(sink),
            zone=sink.zone,
            name=sink.name,
            kind=sink.kind,
            all_zones=sink.all_zones,
            now=sink.created_at,
        )
        if not done:
            raise Conflict(f"A sink named {sink.name} exists already.", reason="already_exists")

    async def _update(self, tx: Transaction, sink: Sink) -> None:
        await tx.run(
            "UPDATE siem_sinks SET options = CAST(:options AS jsonb), sealed = :sealed, format = :format,"
            " filter = CAST(:filter AS jsonb), redact = CAST(:redact AS jsonb), batch_size = :batch_size,"
            " linger_s = :linger_s, enabled = :enabled, stopped = NULL, stopped_at = NULL, version = :version,"
            " updated_at = :now WHERE id = :id",
            **_values(sink),
            version=sink.version,
            now=sink.updated_at,
        )

    async def _record(
        self, tx: Transaction, kind: codes.EventType, context: Context, sink: Sink, **details: Any
    ) -> None:
        await self._recorder.record(
            tx, kind, "success", context, subject=Subject(id=sink.name, type="siem-sink"), sends=sink.kind, **details
        )


def _values(sink: Sink) -> dict[str, Any]:
    return {
        "id": sink.id,
        "options": json.dumps(dict(sink.options)),
        "sealed": sink.sealed,
        "format": sink.format,
        "filter": json.dumps(selection_document(sink.selection)),
        "redact": json.dumps(dict(sink.redact)),
        "batch_size": sink.batch_size,
        "linger_s": sink.linger_s,
        "enabled": sink.enabled,
    }


def _patched_selection(before: Selection, patch: Mapping[str, Any]) -> Selection:
    return replace(before, **{name: tuple(values or ()) for name, values in patch.items()})


async def _require_active(tx: Transaction, zone: str) -> None:
    state = await tx.value("SELECT state FROM zones WHERE name = :zone FOR SHARE", zone=zone)
    if state is None:
        raise NotFound(f"There is no zone {zone}.")
    if state != "active":
        raise Denied(reason="zone_archived")
