"""Actions of containment: what each would hit, listed before it is done, and how each is taken back.

Each is an operation of the overrides done by broken glass: one person with step-up, reviewed by another within a day.
What widens again (opening, lifting) takes two persons and is no action of containment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bailiwick.assurance.operations import Operation
from bailiwick.evidence import codes
from bailiwick.handover.incidents.streams import (
    LiveStream,
    Rule,
    authority_ended,
    closed,
    goes_on,
    key_replaced,
    no_matter,
    switched_off,
    told,
)
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.modes import Switch
from bailiwick.kernel.quorum import payload_hash
from bailiwick.policy import sets

MOST_NAMED = 50

Hits = Callable[["Look"], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Look:
    """What a listing looks at. ``mandates_live``: how long a mandate is good for; ``streams``: what lives now, None
    where that is not known."""

    tx: Transaction
    zone: str
    arguments: Mapping[str, Any]
    clock: Clock
    mandates_live: timedelta
    streams: Sequence[LiveStream] | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One action: ``operation`` with ``fixed`` arguments and those that are ``asked`` for. ``back``: how it is taken
    back; ``why``: the argument that takes the reason; ``streams``: which live streams it cuts."""

    title: str
    operation: str
    hits: Hits
    back: str
    fixed: Mapping[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    why: str = "why"
    streams: Rule = no_matter


@dataclass(frozen=True, slots=True)
class Preview:
    """What an action would do now. ``sha256`` binds who does it to what he read: action, arguments and target;
    ``uncut`` names the live streams that go on all the same."""

    action: str
    title: str
    operation: str
    arguments: Mapping[str, Any]
    target: str
    target_version: str
    hits: tuple[str, ...]
    back: str
    sha256: str
    uncut: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return {**told, "arguments": dict(self.arguments), "hits": list(self.hits), "uncut": list(self.uncut)}


# ---------------------------------------------------------------------- what is hit


async def _traffic(look: Look) -> list[str]:
    """Every governed request: the servers, and who used them in the last hour."""
    servers = await look.tx.all("SELECT name FROM servers WHERE zone = :zone ORDER BY name", zone=look.zone)
    named = [str(look.arguments["server"])] if look.arguments.get("server") else [row["name"] for row in servers]
    rows = await look.tx.all(
        "SELECT server, count(*) AS requests, count(DISTINCT principal) AS callers FROM ledger.events"
        " WHERE zone = :zone AND code = ANY(:codes) AND recorded_at > :since AND server = ANY(:servers)"
        " GROUP BY server ORDER BY server",
        zone=look.zone,
        codes=[codes.GATEWAY_ALLOWED.code],
        since=look.clock.now() - timedelta(hours=1),
        servers=named,
    )
    used = {row["server"]: f"{row['requests']} requests of {row['callers']} callers in the last hour" for row in rows}
    lines = [f"server {name}: {used.get(name, 'not used in the last hour')}" for name in named[:MOST_NAMED]]
    return [*lines, *_more(named)]


async def _streams(look: Look) -> list[str]:
    """The operations that last, whose live streams are cut."""
    server = look.arguments.get("server") or ""
    rows = await look.tx.all(
        "SELECT s.name, o ->> 'method' AS method, o ->> 'path' AS path FROM servers s,"
        " jsonb_array_elements(coalesce(s.binding -> 'operations', '[]')) AS o WHERE s.zone = :zone"
        " AND (:server = '' OR s.name = :server) AND coalesce((o ->> 'long_lived')::boolean, false)"
        " ORDER BY s.name, path LIMIT 50",
        zone=look.zone,
        server=server,
    )
    return [f"live streams are cut: {row['name']} {row['method']} {row['path']}" for row in rows]


async def _fail_closed(look: Look) -> list[str]:
    return [*await _traffic(look), *await _streams(look)]


async def _issued(look: Look) -> list[str]:
    """Who had a mandate issued in the last hour."""
    rows = await look.tx.all(
        "SELECT principal, count(*) AS mandates FROM ledger.events WHERE zone = :zone AND code = :code"
        " AND recorded_at > :since GROUP BY principal ORDER BY mandates DESC, principal LIMIT 50",
        zone=look.zone,
        code=codes.MANDATE_ISSUED.code,
        since=look.clock.now() - timedelta(hours=1),
    )
    told = [f"{row['principal']}: {row['mandates']} mandates in the last hour" for row in rows]
    return told or ["nobody had a mandate issued in the last hour"]


async def _changes(look: Look) -> list[str]:
    """What waits to be changed, and the jobs that will not destroy anything."""
    rows = await look.tx.all(
        "SELECT action, id, requested_by FROM approvals WHERE zone = :zone AND ended IS NULL AND expires_at > :now"
        " ORDER BY id LIMIT 50",
        zone=look.zone,
        now=look.clock.now(),
    )
    told = [f"waits for approval and will not be done: {row['action']} of {row['requested_by']}" for row in rows]
    jobs = "purge-expired, drop-archived-rows, expire-archive-copies, do-approved-for-archives, forget-runs"
    return [*told, "policies, servers, credentials, providers and the operating model stay as they are",
            f"jobs that destroy nothing meanwhile: {jobs}"]  # fmt: skip


async def _mutations(look: Look) -> list[str]:
    """The routes that changed something in the last hour."""
    rows = await look.tx.all(
        "SELECT method || ' ' || route AS route, count(*) AS requests, count(DISTINCT caller) AS callers"
        " FROM api_requests WHERE zone = :zone AND at > :since AND method NOT IN ('GET', 'HEAD', 'OPTIONS')"
        " AND status < 400 GROUP BY 1 ORDER BY requests DESC, route LIMIT 50",
        zone=look.zone,
        since=look.clock.now() - timedelta(hours=1),
    )
    told = [f"{row['route']}: {row['requests']} requests of {row['callers']} callers in the last hour" for row in rows]
    return [*(told or ["nobody changed anything by the API in the last hour"]), *await _changes(look)]


async def _capability(look: Look) -> list[str]:
    switch = Switch(str(look.arguments["switch"]))
    if switch in (Switch.MINT, Switch.EXCHANGE):
        return await _issued(look)
    return await _mutations(look) if switch is Switch.READ_ONLY else await _changes(look)


async def _policy(look: Look) -> list[str]:
    """The set that is active, and the one that would be."""
    history = await sets.read_history(look.tx, look.zone, None, sets.MAX_HISTORY_READ)
    targets = [each for each in sets.rollback_targets(history) if each.known_good_at]
    if not history:
        return ["no policy set is active"]
    now = {(member.name, member.version) for member in history[0].members}
    if not targets:
        return [f"active: {history[0].hash}", "no earlier set has proven itself: this will be refused"]
    then = {(member.name, member.version) for member in targets[0].members}
    gone = [f"goes: {name} {version}" for name, version in sorted(now - then)]
    comes = [f"comes: {name} {version}" for name, version in sorted(then - now)]
    return [f"active: {history[0].hash}", f"will be active: {targets[0].hash}", *gone, *comes]


async def _signed(look: Look) -> list[str]:
    """What the active key signed and is still good."""
    purpose = str(look.arguments["purpose"])
    if purpose == "session":
        rows = await look.tx.all(
            "SELECT username, count(*) AS sessions FROM sessions WHERE zone = :zone AND ended_at IS NULL"
            " AND expires_at > :now GROUP BY username ORDER BY username LIMIT 50",
            zone=look.zone,
            now=look.clock.now(),
        )
        return [f"{row['username']}: the tokens of {row['sessions']} sessions, yours among them" for row in rows]
    rows = await look.tx.all(
        "SELECT principal, server, count(*) AS mandates FROM ledger.events WHERE zone = :zone AND code = :code"
        " AND recorded_at > :since GROUP BY principal, server ORDER BY mandates DESC, principal, server LIMIT 50",
        zone=look.zone,
        code=codes.MANDATE_ISSUED.code,
        since=look.clock.now() - look.mandates_live,
    )
    told = [f"{row['principal']} on {row['server']}: {row['mandates']} mandates" for row in rows]
    return told or ["no mandate was issued as lately as that it could still be good"]


async def _authority(look: Look) -> list[str]:
    """What stands on the subject."""
    kind, name = str(look.arguments["kind"]), str(look.arguments["name"])
    told = []
    if kind == "user":
        rows = await look.tx.all(
            "SELECT id, ip FROM sessions WHERE zone = :zone AND username = :name AND ended_at IS NULL"
            " AND expires_at > :now ORDER BY id LIMIT 50",
            zone=look.zone,
            name=name,
            now=look.clock.now(),
        )
        told += [f"session {row['id']} from {row['ip'] or 'somewhere'}" for row in rows]
    rows = await look.tx.all(
        "SELECT server, count(*) AS mandates FROM ledger.events WHERE zone = :zone AND code = :code"
        " AND principal = :name AND recorded_at > :since GROUP BY server ORDER BY server LIMIT 50",
        zone=look.zone,
        code=codes.MANDATE_ISSUED.code,
        name=name,
        since=look.clock.now() - look.mandates_live,
    )
    told += [f"{row['mandates']} mandates on {row['server']}" for row in rows]
    return [*told, f"everything that stands on {kind} {name} now; new authority may be had again"]


def _more(named: list[str]) -> list[str]:
    more = len(named) - MOST_NAMED
    return [f"and {more} more"] if more > 0 else []


_TWO = "by two persons: the override `{}`"
_LIFT = _TWO.format("switch.lift")

ACTIONS: Mapping[str, Action] = {
    "fail-closed": Action(
        "Let nothing through the gateway",
        "gateway.close",
        _fail_closed,
        _TWO.format("gateway.open"),
        streams=closed,
    ),
    "fail-closed-server": Action(
        "Let nothing through to one server",
        "gateway.close",
        _fail_closed,
        _TWO.format("gateway.open"),
        {},
        ("server",),
        streams=closed,
    ),
    "freeze": Action("Freeze changes and what destroys", "switch.throw", _changes, _LIFT, {"switch": "freeze"}),
    "read-only": Action("Make the zone read-only", "switch.throw", _mutations, _LIFT, {"switch": "read-only"}),
    "switch-off": Action(
        "Switch one capability off", "switch.throw", _capability, _LIFT, {}, ("switch",), streams=switched_off
    ),
    "last-known-good": Action(
        "Return to the last policy set that has proven itself",
        "policy.last-known-good",
        _policy,
        "by activating another set, once nothing is frozen",
        streams=goes_on,
    ),
    "rotate-key": Action(
        "Replace a signing key and refuse what the old one signed",
        "keys.rotate-emergency",
        _signed,
        "not at all: the old key is refused for good",
        {},
        ("purpose",),
        "reason",
        streams=key_replaced,
    ),
    "revoke": Action(
        "End somebody's or something's authority",
        "authority.revoke",
        _authority,
        "not at all: new authority must be had",
        {},
        ("kind", "name"),
        streams=authority_ended,
    ),
}
"""Every action of containment there is, by name."""


def arguments_of(action: str, given: Mapping[str, str], why: str) -> tuple[Action, dict[str, str]]:
    """The action, and the arguments of its operation. Raises ``invalid_request``."""
    found = ACTIONS.get(action)
    if found is None:
        raise InvalidRequest(f"There is no action {action}; there are {', '.join(ACTIONS)}.")
    if set(given) != set(found.asked):
        raise InvalidRequest(f"{action} takes {', '.join(found.asked) or 'no arguments'}.")
    return found, {**found.fixed, **given, found.why: why}


async def preview(look: Look, action: str, found: Action, operation: Operation) -> Preview:
    """What it would hit now. Raises what the operation refuses (``conflict``, ``not_found``, ``invalid_request``)."""
    target = await operation.target(look.tx, look.zone, operation.arguments.model_validate(dict(look.arguments)))
    said = {name: value for name, value in look.arguments.items() if name != found.why}
    digest = payload_hash(
        f"containment.{action}", look.zone, {"arguments": said, "target": target.id, "version": target.version}
    )
    cut, uncut = told(found.streams, look.arguments, target.version, look.streams)
    hits = [
        *await found.hits(look),
        *(f"live stream is cut: {name}" for name in cut),
        *(f"live stream goes on: {name}" for name in uncut),
    ]
    return Preview(
        action, found.title, found.operation, said, target.id, target.version, tuple(hits), found.back, digest,
        tuple(uncut),
    )  # fmt: skip
