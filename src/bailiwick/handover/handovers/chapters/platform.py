"""What runs and what it is connected to: versions, secrets, the network map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from bailiwick import __version__
from bailiwick.assurance.books import Books
from bailiwick.assurance.secrets import SECRET, SecretInventory
from bailiwick.evidence.events import Actor, Context
from bailiwick.handover.handovers.chapters.look import INSTALLATION_ZONE, Look, cut, fails, judged
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict

BY = Actor(user="system:handover")
WHERE = {
    "kek": "file on the machine",
    "setting": "settings of the machine",
    "first-password": "file on the machine",
    "application": "database, as a hash",
    "api-key": "database, as a hash",
}
"""Where secrets of a kind lie; of every other kind sealed in the database."""


class Versions:
    """What runs, and what there is to go back to. ``schema``: the newest migration that this program has."""

    def __init__(self, books: Books, schema: str) -> None:
        self._books = books
        self._schema = schema

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        return [await self._program(look), await self._policies(look), await self._book(look)]

    async def _program(self, look: Look) -> Statement:
        applied = await look.tx.value("SELECT version_num FROM public.alembic_version")
        server = await look.tx.value("SHOW server_version")
        told = f"bailiwick {__version__}, schema {applied}, PostgreSQL {server}"
        figures = {"bailiwick": __version__, "schema": applied, "schema_known": self._schema, "postgresql": server}
        return look.says("program", told, fails(applied != self._schema), figures)

    async def _policies(self, look: Look) -> Statement:
        """The active set, and the one that a rollback leads to."""
        rows = await look.tx.all(
            "SELECT hash, kind, activated_by, activated_at, known_good_at, suspect_at FROM policy_activations"
            " WHERE zone = :zone ORDER BY id DESC LIMIT 20",
            zone=look.zone,
        )
        if not rows:
            return look.says("policies", "no policy set was ever active", Verdict.NO_DATA)
        active = rows[0]
        good = next(
            (row for row in rows[1:] if row["known_good_at"] is not None and row["hash"] != active["hash"]), None
        )
        figures = {
            "active": active["hash"],
            "activated_by": active["activated_by"],
            "activated_at": active["activated_at"],
            "suspect": active["suspect_at"] is not None,
            "rollback": good["hash"] if good else "",
        }
        back = f"; a rollback leads to {good['hash'][:12]}" if good else "; there is no earlier one to go back to"
        return look.says("policies", f"set {active['hash'][:12]} is active{back}", fails(figures["suspect"]), figures)

    async def _book(self, look: Look) -> Statement:
        book = await self._books.current(look.tx, look.zone)
        told = f"revision {book.revision} of the operating model, {len(book.documents)} documents"
        figures = {"revision": book.revision, "sha256": book.sha256, "documents": len(book.documents)}
        return look.says("operating-model", told, judged(True, there=bool(book.documents)), figures)


class Secrets:
    """Every secret by its name: where it is, who rotates it, when it was last and when it has to be. Never a value."""

    def __init__(self, books: Books, inventory: Callable[[], SecretInventory]) -> None:
        self._books = books
        self._inventory = inventory

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        _, found = await self._inventory().check(tx, Context(zone, BY), "handover")
        declared = (await self._books.current(tx, zone)).of(SECRET)
        places = {name: each.reference for name, each in declared.items()}
        places |= {each.reference.replace(":", "/", 1): each.reference for each in declared.values()}
        rows = [
            {
                "name": each.secret.name,
                "kind": each.secret.kind,
                "where": places.get(each.secret.name) or WHERE.get(each.secret.kind, "database, sealed"),
                "class": each.secret.class_,
                "owner": each.secret.owner,
                "last_rotated": each.secret.created_at,
                "rotate_by": each.secret.rotate_by,
                "verdict": str(each.verdict),
                "why": each.why,
                "waiver": each.waiver,
            }
            for each in found
        ]
        bad = [each for each in found if not each.verdict.green]
        worst = Verdict.FAIL if any(each.verdict is Verdict.FAIL for each in bad) else Verdict.NO_DATA
        told = (
            f"{len(found)} secrets; {len(bad)} not as they should be" if bad else f"{len(found)} secrets, all in time"
        )
        return [
            look.says("inventory", told, worst if bad else judged(True, there=bool(found)), cut(rows)),
            await self._rotations(look),
        ]

    async def _rotations(self, look: Look) -> Statement:
        """Rotations of the window, each proven by presenting the old one."""
        rows = await look.tx.all(
            "SELECT name, kind, rotated_by, rotated_at, overlap_until, verdict, proved_at, record FROM secret_rotations"
            " WHERE zone = :zone AND rotated_at >= :since AND rotated_at <= :until ORDER BY rotated_at DESC",
            zone=look.zone,
            since=look.since,
            until=look.until,
        )
        failed = [row for row in rows if row["verdict"] == "FAIL"]
        overlapping = [row for row in rows if row["verdict"] == "NOT_DUE" and row["overlap_until"] > look.until]
        proven = [row for row in rows if row["verdict"] == "PASS"]
        unproven = len(rows) - len(failed) - len(overlapping) - len(proven)
        told = f"{len(rows)} rotations in the window; the old one is still taken of {len(failed)}"
        told += f", of {unproven} nobody knows" if unproven else ""
        verdict = judged(not failed, there=bool(failed) or not unproven)
        return look.says("rotations", told, verdict, cut([dict(row) for row in rows]))


@dataclass(frozen=True, slots=True)
class Listening:
    """Where this installation listens: addresses, ports, and how it is reached. ``tls``: the lowest version, or ''."""

    address: str
    api_port: int
    gateway_port: int
    public_url: str
    gateway_url: str
    tls: str
    upstream_networks: tuple[str, ...] = ()


class Network:
    """The map: where we listen, whom we reach, and which live streams nothing cuts."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        found = [await self._upstreams(look), await self._connected(look), *await self._streams(look)]
        return [self._ingress(look), *found] if zone == INSTALLATION_ZONE else found

    def _ingress(self, look: Look) -> Statement:
        here = self._listening
        public = here.public_url or f"http://{here.address}:{here.api_port}"
        secure = bool(here.tls) or here.address in ("127.0.0.1", "::1")
        told = (
            f"{public}, gateway {here.gateway_url or here.gateway_port}; {'TLS ' + here.tls if here.tls else 'no TLS'}"
        )
        figures = {
            "address": here.address,
            "api_port": here.api_port,
            "gateway_port": here.gateway_port,
            "public_url": here.public_url,
            "gateway_url": here.gateway_url,
            "tls": here.tls,
            "upstream_networks": list(here.upstream_networks),
        }
        return look.says("ingress", told, fails(not secure), figures)

    async def _upstreams(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT name, endpoint, coalesce(binding ->> 'upstream_url', endpoint) AS upstream, addresses,"
            " resolve_error FROM servers WHERE zone = :zone ORDER BY name",
            zone=look.zone,
        )
        lost = [row["name"] for row in rows if row["resolve_error"]]
        shown = [
            {
                "server": row["name"],
                "upstream": _address(row["upstream"]),
                "addresses": row["addresses"],
                "trouble": row["resolve_error"] or "",
            }
            for row in rows
        ]
        told = f"{len(rows)} servers"
        told += f"; {', '.join(lost[:5])} cannot be resolved" if lost else ", all resolved" if rows else ""
        return look.says("upstreams", told, judged(not lost, there=bool(rows)), cut(shown))

    async def _connected(self, look: Look) -> Statement:
        """Endpoints of providers: identity providers, and where evidence is sent."""
        providers = await look.tx.all(
            "SELECT name, kind, enabled, away_since FROM identity_providers WHERE zone = :zone ORDER BY name",
            zone=look.zone,
        )
        sinks = await look.tx.all(
            "SELECT s.name, s.kind, s.enabled, t.breaker FROM siem_sinks s LEFT JOIN siem_state t ON t.sink = s.id"
            " WHERE s.zone = :zone ORDER BY s.name",
            zone=look.zone,
        )
        away = [row["name"] for row in providers if row["enabled"] and row["away_since"] is not None]
        away += [row["name"] for row in sinks if row["enabled"] and row["breaker"] == "open"]
        rows = [{"what": "identity provider", "name": row["name"], "kind": row["kind"], "enabled": row["enabled"]}
                for row in providers]  # fmt: skip
        rows += [{"what": "sink of evidence", "name": row["name"], "kind": row["kind"], "enabled": row["enabled"]}
                 for row in sinks]  # fmt: skip
        told = f"{len(rows)} connections" + (f"; {', '.join(away[:5])} does not answer" if away else "")
        return look.says("connections", told, fails(bool(away)), cut(rows))

    async def _streams(self, look: Look) -> list[Statement]:
        """Live streams: those that containment cuts, and by name those that it cannot."""
        rows = await look.tx.all(
            "SELECT s.name AS server, o ->> 'method' AS method, o ->> 'path' AS path,"
            " coalesce((o ->> 'long_lived')::boolean, false) AS cut FROM servers s,"
            " jsonb_array_elements(coalesce(s.binding -> 'operations', '[]')) AS o WHERE s.zone = :zone"
            " AND (coalesce((o ->> 'long_lived')::boolean, false)"
            "  OR s.binding ->> 'timeout_s' IS NULL OR EXISTS (SELECT FROM jsonb_array_elements(s.binding ->"
            "   'operations') p WHERE coalesce((p ->> 'long_lived')::boolean, false)))"
            " ORDER BY s.name, path, method",
            zone=look.zone,
        )
        named = [{key: row[key] for key in ("server", "method", "path")} for row in rows]
        kept = [each for each, row in zip(named, rows, strict=True) if not row["cut"]]
        cuts = [each for each, row in zip(named, rows, strict=True) if row["cut"]]
        told = f"{len(cuts)} operations last and are cut within a second of revocation"
        found = [look.says("streams-cut", told, Verdict.PASS, cut(cuts))] if cuts else []
        if kept:
            names = ", ".join(f"{each['server']} {each['method']} {each['path']}" for each in kept[:5])
            told = f"not declared to last and without a limit of time, so not cut: {names}"
            found.append(look.says("streams-not-cut", told, Verdict.PASS, cut(kept)))
        return found


def _address(url: str) -> str:
    """Where it leads, without what may stand in a user name or a query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
