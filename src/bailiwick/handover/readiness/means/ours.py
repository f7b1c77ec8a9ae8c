"""Looks at the installation itself that checklists need beside those of the probes: on call, owners, secrets, waivers,
settings, and whether what is recorded comes out at the SIEM."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from bailiwick.assurance.ports import Level, OnCall, Owners, WaiverFacts
from bailiwick.assurance.probes.means import Asked, Internal
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.kernel.db import Database, Transaction, libpq_url
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.permissions import OWNER_ROLES
from bailiwick.kernel.verdicts import Verdict

SecretGate = Callable[[Transaction, str], Awaitable[tuple[Verdict, Sequence[str]]]]
"""What the gate of secrets says of a zone, and of which secrets that is."""

Snapshots = Callable[[], Awaitable[Sequence[str]]]
"""The names of the snapshots of Redis that are kept, as ``redis/20261121T020000Z.rdb``."""

_LEVELS: Mapping[str, Level] = {
    "primary": "primary", "secondary": "secondary", "lead": "lead", "manager": "manager", "management": "management",
}  # fmt: skip
_AHEAD = timedelta(days=7)
_SETTING = re.compile(r"([a-z_]+) *(<=|>=|==) *([A-Za-z0-9._-]+)")
_LOOK_S = 0.2


def ours(
    database: Database,
    direct_url: str,
    ids: Ids,
    recorder: Recorder,
    on_call: OnCall,
    owners: Owners,
    waivers: WaiverFacts,
    secrets: SecretGate,
    snapshots: Snapshots,
    settings: Mapping[str, Any],
) -> dict[str, Internal]:
    """Every look there is here, by the name that documents use. ``settings``: as JSON shows them."""
    all_ = _Ours(database, direct_url, ids, recorder, on_call, owners, waivers, secrets, snapshots, settings)
    return {
        "on_call": all_.covered,
        "owners_held": all_.owners_held,
        "open_waivers": all_.open_waivers,
        "secret_gate": all_.secret_gate,
        "redis_backup_age": all_.redis_backup_age,
        "replicas": all_.replicas,
        "setting": all_.setting,
        "siem_marker": all_.siem_marker,
    }


class _Ours:
    def __init__(
        self,
        database: Database,
        direct_url: str,
        ids: Ids,
        recorder: Recorder,
        on_call: OnCall,
        owners: Owners,
        waivers: WaiverFacts,
        secrets: SecretGate,
        snapshots: Snapshots,
        settings: Mapping[str, Any],
    ) -> None:
        self._database = database
        self._direct_url = direct_url
        self._ids = ids
        self._recorder = recorder
        self._on_call = on_call
        self._owners = owners
        self._waivers = waivers
        self._secrets = secrets
        self._snapshots = snapshots
        self._settings = settings

    async def covered(self, asked: Asked, argument: str) -> Found:
        """Whether somebody is called on each level (``primary,secondary``), at every moment of a week."""
        wrong = []
        async with self._database.begin() as tx:
            for name in argument.split(","):
                level = _LEVELS.get(name.strip())
                if level is None:
                    raise LookFailed(f"there is no level {name.strip()}")
                gap = await self._on_call.uncovered(tx, asked.zone, level, asked.now, asked.now + _AHEAD)
                if gap is not None:
                    wrong.append(f"nobody is {level} on call {'now' if gap <= asked.now else f'at {utc(gap)}'}")
        return Found(detail=f"{argument} are covered for a week", wrong="; ".join(wrong), holds=not wrong)

    async def owners_held(self, asked: Asked, argument: str) -> Found:
        """Whether an active person holds each owner role (those of ``argument``, or all four)."""
        roles = [each.strip() for each in argument.split(",") if each.strip()] or [str(each) for each in OWNER_ROLES]
        async with self._database.begin() as tx:
            empty = [role for role in roles if not await self._owners.holders(tx, asked.zone, role, asked.now)]
        wrong = f"nobody holds {', '.join(empty)}" if empty else ""
        held = len(roles) - len(empty)
        return Found(float(held), Unit.COUNT, f"{held} of {len(roles)} roles are held", wrong=wrong, holds=not wrong)

    async def open_waivers(self, asked: Asked, argument: str) -> Found:
        """How many waivers of high or critical risk are in force."""
        async with self._database.begin() as tx:
            found = await self._waivers.open_at(tx, asked.zone, asked.now)
        if found is None:
            return Found(absent="there is no register of waivers", unit=Unit.COUNT)
        high = [each for each in found if each.risk in ("HIGH", "CRITICAL")]
        told = ", ".join(f"{each.control} ({each.id})" for each in high[:5])
        return Found(
            float(len(high)), Unit.COUNT, f"{len(found)} open, {len(high)} of high risk",
            wrong=f"open: {told}" if high else "", holds=not high,
        )  # fmt: skip

    async def secret_gate(self, asked: Asked, argument: str) -> Found:
        """Whether the gate of secrets lets pass: none is a test secret, a default or past its rotation."""
        async with self._database.begin() as tx:
            verdict, bad = await self._secrets(tx, asked.zone)
        if verdict is Verdict.PASS:
            return Found(detail="every secret passes the gate", holds=True)
        if verdict in (Verdict.NO_DATA, Verdict.NOT_DUE):
            return Found(absent="the gate knows no secret")
        return Found(wrong=f"{verdict}: {', '.join(bad[:5])}"[:500])

    async def redis_backup_age(self, asked: Asked, argument: str) -> Found:
        """Age of the newest snapshot of Redis that is kept with the backups."""
        names = sorted(await self._snapshots())
        moments = [re.search(r"(\d{8}T\d{6})Z", name) for name in names]
        if not names or moments[-1] is None:
            return Found(absent="no snapshot of Redis is kept", unit=Unit.SECONDS)
        at = datetime.strptime(moments[-1][1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        return Found(max(0.0, (asked.now - at).total_seconds()), Unit.SECONDS, names[-1])

    async def replicas(self, asked: Asked, argument: str) -> Found:
        """How many servers follow our database and replay what it writes; who only keeps the log is none."""
        try:
            async with await psycopg.AsyncConnection.connect(
                libpq_url(self._direct_url), connect_timeout=max(2, int(asked.timeout_s)), autocommit=True
            ) as connection:
                cursor = await connection.execute(
                    "SELECT count(*) FILTER (WHERE state = 'streaming' AND replay_lsn IS NOT NULL),"
                    " count(*) FILTER (WHERE state IS NULL),"
                    " string_agg(application_name, ' ') FROM pg_stat_replication"
                )
                row = await cursor.fetchone()
        except psycopg.Error as error:
            raise LookFailed(f"the database does not tell: {type(error).__name__}") from None
        assert row is not None
        following, hidden, names = row
        if not following and hidden:
            raise LookFailed("the database role may not see replication (pg_monitor)")
        return Found(float(following), Unit.COUNT, f"{following} replicas", str(names or "").encode())

    async def setting(self, asked: Asked, argument: str) -> Found:
        """Whether a setting is as it should be: ``name <= number``, ``name >= …``, ``name == …`` (``set``: it is)."""
        match = _SETTING.fullmatch(argument.strip())
        if match is None or match[1] not in self._settings:
            raise LookFailed(f"{argument!r} speaks of no setting")
        name, comparison, wanted = match.groups()
        value = self._settings[name]
        if wanted == "set":
            holds = value not in (None, "", [], False)
        elif comparison == "==":
            holds = str(value).lower() == wanted.lower()
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LookFailed(f"{name} is no number")
        else:
            holds = value <= float(wanted) if comparison == "<=" else value >= float(wanted)
        told = f"{name} is {'set' if wanted == 'set' and holds else value}"
        return Found(detail=told, output=told.encode(), wrong="" if holds else told, holds=holds)

    async def siem_marker(self, asked: Asked, argument: str) -> Found:
        """Record an event, and wait until every sink has taken it."""
        marker = self._ids()
        async with self._database.begin() as tx:
            sinks = await tx.all("SELECT name FROM siem_sinks WHERE enabled AND zone = :zone", zone=asked.zone)
            if not sinks:
                return Found(absent="no sink is configured")
            marked = await self._recorder.record(
                tx,
                codes.READINESS_MARKED,
                "success",
                Context(asked.zone, Actor(user="system:readiness")),
                subject=Subject(id=marker, type="marker"),
                marker=marker,
            )
        behind = "it did not come into the ledger"
        try:
            async with asyncio.timeout(asked.timeout_s * 0.9):  # before it is ended from outside
                while behind:
                    await asyncio.sleep(_LOOK_S)
                    behind = await self._behind(asked.zone, marked.id)
        except TimeoutError:
            return Found(wrong=f"{behind} within {asked.timeout_s:g} s")
        except Unavailable:
            raise LookFailed("the database does not answer") from None
        return Found(detail=f"{len(sinks)} sinks took the marker", output=marker.encode(), holds=True)

    async def _behind(self, zone: str, event: str) -> str:
        """Who has not taken an event yet, in words; empty where everybody has."""
        async with self._database.begin() as tx:
            seq = await tx.value(
                "SELECT max(seq) FROM ledger.events WHERE zone = :zone AND id = cast(:event AS uuid)",
                zone=zone,
                event=event,
            )
            if seq is None:
                return "it did not come into the ledger"
            late = await tx.all(
                "SELECT s.name FROM siem_sinks s LEFT JOIN siem_cursors c ON c.sink = s.id AND c.zone = :zone"
                " WHERE s.enabled AND s.zone = :zone AND coalesce(c.next_seq, 0) <= :seq ORDER BY s.name",
                zone=zone,
                seq=seq,
            )
            dead = await tx.all(
                "SELECT s.name FROM siem_dead_letters d JOIN siem_sinks s ON s.id = d.sink"
                " WHERE d.zone = :zone AND d.seq = :seq AND d.delivered_at IS NULL",
                zone=zone,
                seq=seq,
            )
        if dead:
            return f"{dead[0]['name']} refused the marker"
        return f"{', '.join(row['name'] for row in late)} did not take the marker" if late else ""
