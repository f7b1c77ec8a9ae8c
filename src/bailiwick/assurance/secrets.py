"""Secrets and test keys: what there is, by reference and fingerprint and never by value, and until when.

What this installation keeps is found where it lies (signing keys, credentials, providers, sinks, channels,
applications, API keys, the key-encryption keys, settings and the passwords in them, the TLS key, the first password);
what lies elsewhere is a document. A test or default key in production fails the gate from the first day, and so does
what is past its date; a dated waiver alone lets it pass. What nobody said the class of is NO_DATA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Alerts, Notice, Notices, Raised, Waivers
from bailiwick.assurance.secret_forms import class_of, fingerprint, strings_of
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.siem.sinks import sink_aad
from bailiwick.identity.providers import provider_aad
from bailiwick.inventory.credentials import credential_aad
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

CLASS_CONTROL, ROTATION_CONTROL = "secret-class", "secret-rotation"
HEADS_UP = (14, 7, 1)
RUNBOOK = "docs/how-to/waivers-and-secrets.md"
MAX_AGE: Mapping[str, timedelta] = {
    "signing-key": timedelta(days=90),
    "kek": timedelta(days=365),
    "credential": timedelta(days=180),
    "provider": timedelta(days=365),
    "sink": timedelta(days=365),
    "channel": timedelta(days=365),
    "application": timedelta(days=180),
    "setting": timedelta(days=365),
    "first-password": timedelta(days=1),
    "declared": timedelta(days=90),
}


def _reference(value: str) -> str:
    """A reference says where a secret is. What looks like one itself is refused."""
    if class_of(value)[0] != "unknown":
        raise ValueError("this is a secret; say where it is, not what it is")
    return value


Reference = Annotated[
    str,
    StringConstraints(pattern=r"^(env|file|vault|kms|credential|external):[A-Za-z0-9_./:@-]{1,300}$", max_length=320),
    AfterValidator(_reference),
    Field(examples=["env:STRIPE_API_KEY"]),
]


class SecretSpec(Body):
    """A secret that somebody answers for. Of those found here by themselves (``credential:name``) it adds what only a
    person knows; others it makes known."""

    reference: Reference
    class_: Literal["live", "test", "default", "unknown"] = Field(alias="class")
    owner: Name = Field(description="activity whose accountable person answers for it")
    created_at: AwareDatetime | None = None
    rotate_by: AwareDatetime | None = None
    max_age_days: int = Field(90, ge=1, le=3650)
    used_by: list[Line] = Field(default_factory=list, max_length=50)


def _check(book: Book) -> Iterable[str]:
    for name, spec in book.of(SECRET).items():
        if spec.created_at is None and spec.rotate_by is None:
            yield f"Secret {name}: say created_at or rotate_by; without an end it would have none"


SECRET = Kind(
    "Secret", SecretSpec, check=_check,
    # to call a key live that was a test key is a way around the gate
    two_persons=lambda before, after: before is not None and (after is None or after.class_ != before.class_),
)  # fmt: skip
KINDS = (SECRET,)


@dataclass(frozen=True, slots=True)
class Secret:
    """One of them. ``fingerprint`` is empty where only a hash of the value is kept, or it cannot be reached."""

    name: str
    kind: str
    class_: str
    fingerprint: str
    owner: str
    created_at: datetime
    rotate_by: datetime
    used_by: tuple[str, ...] = ()
    last_used_at: datetime | None = None
    why: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        answer = {name: getattr(self, name) for name in self.__slots__ if name != "class_"}
        return {**answer, "class": self.class_, "used_by": list(self.used_by)}


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate says of one secret. ``waiver``: what let it pass."""

    secret: Secret
    verdict: Verdict
    why: str
    control: str = ""
    waiver: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self.secret.document(), "verdict": self.verdict, "why": self.why, "waiver": self.waiver}


# ---------------------------------------------------------------------- rules


def judge(secret: Secret, environment: str, now: datetime) -> Judged:
    """What the gate says of one, waivers aside."""
    if secret.class_ in ("test", "default") and environment == "production":
        why = f"a {secret.class_} key in production" + (f": {secret.why}" if secret.why else "")
        return Judged(secret, Verdict.FAIL, why, CLASS_CONTROL)
    if now >= secret.rotate_by:
        return Judged(secret, Verdict.FAIL, "past its rotation date", ROTATION_CONTROL)
    if secret.class_ == "unknown" and environment == "production":
        return Judged(secret, Verdict.NO_DATA, "nobody said whether it is live: a Secret document does")
    return Judged(secret, Verdict.PASS, "")


def state_of(secret: Secret, now: datetime) -> str:
    """Where it is in its life: blocked, rotate_due (two weeks before its date), or active."""
    if secret.class_ in ("test", "default"):
        return "blocked"
    return "rotate_due" if secret.rotate_by - now <= timedelta(days=max(HEADS_UP)) else "active"


# ---------------------------------------------------------------------- service


@dataclass(frozen=True, slots=True)
class Local:
    """What this process knows beside the database: settings by name, and files by kind. ``database_password``: that of
    the database that we run ourselves."""

    settings: Mapping[str, str]
    tls_key: Path | None
    kek: Path
    first_password: Path
    database_password: Path | None = None


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """A table of sealed secrets: what they are called, what a value is bound to by zone and id, and its columns."""

    table: str
    kind: str
    aad: Callable[[str, str], bytes]
    since: str
    id: str = "id"


SEALED = (
    SealedSecrets("credentials", "credential", credential_aad, "rotated_at"),
    SealedSecrets("identity_providers", "provider", provider_aad, "updated_at"),
    SealedSecrets("siem_sinks", "sink", sink_aad, "updated_at"),
)


class SecretInventory:
    """Finds the secrets of a zone and judges them. ``sealer()`` reads the keys as they are now; ``sealed``: the tables
    of other parts that hold some."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        waivers: Waivers,
        notices: Notices,
        alerts: Alerts,
        *,
        environment: str,
        sealer: Callable[[], Sealer],
        local: Local,
        sealed: Sequence[SealedSecrets] = (),
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._waivers = waivers
        self._notices = notices
        self._alerts = alerts
        self._environment = environment
        self._sealer = sealer
        self._local = local
        self._tables = (*SEALED, *sealed)

    async def key(self, tx: Transaction, zone: str) -> bytes:
        """The key of a zone's fingerprints, made at first use."""
        sealer = self._sealer()
        await tx.run(
            "INSERT INTO fingerprint_keys (zone, sealed) VALUES (:zone, :sealed) ON CONFLICT DO NOTHING",
            zone=zone,
            sealed=sealer.seal(os.urandom(32), key_aad(zone)),
        )
        sealed = await tx.value("SELECT sealed FROM fingerprint_keys WHERE zone = :zone", zone=zone)
        return sealer.open(bytes(sealed), key_aad(zone))

    async def found(self, tx: Transaction, zone: str) -> list[Secret]:
        """Every secret of a zone, by name; a document says of one that is found what only a person knows."""
        key, sealer = await self.key(tx, zone), self._sealer()
        found = {secret.name: secret for secret in [
            *await self._keys(tx, zone), *await self._sealed(tx, zone, key, sealer), *await self._hashed(tx, zone),
            *self._here(key), *await self._of_settings(tx, zone, key),
        ]}  # fmt: skip
        for name, spec in (await self._books.current(tx, zone)).of(SECRET).items():
            told = _declared(name, spec, self._clock.now())
            where, _, at = spec.reference.partition(":")
            if where == "credential" and f"credential/{at}" in found:
                seen = found.pop(f"credential/{at}")
                # a value that is recognised is what it is, whatever the document says
                kind = seen.class_ if seen.class_ in ("test", "default") else told.class_
                told = replace(told, name=seen.name, kind="credential", class_=kind, fingerprint=seen.fingerprint,
                               why=seen.why)  # fmt: skip
            elif (value := _reached(where, at)) is not None:
                kind, why = class_of(value)
                kept = kind if kind in ("test", "default") else told.class_
                told = replace(told, class_=kept, why=why, fingerprint=fingerprint(key, value))
            found[told.name] = told
        for secret in found.values():
            await self._seen(tx, zone, secret.name, secret.fingerprint)
        return [secret for _, secret in sorted(found.items())]

    async def history(self, tx: Transaction, zone: str, name: str) -> tuple[str, Sequence[str]]:
        """The fingerprint of a secret, and those that it had before, newest first. Raises ``not_found``."""
        secret = next((each for each in await self.found(tx, zone) if each.name == name), None)
        if secret is None or not secret.fingerprint:
            raise NotFound(f"There is no secret {name} whose value can be seen.")
        rows = await tx.all(
            "SELECT fingerprint FROM secrets_seen WHERE zone = :zone AND name = :name AND fingerprint <> :print"
            " ORDER BY first_seen_at DESC, fingerprint",
            zone=zone,
            name=name,
            print=secret.fingerprint,
        )
        return secret.fingerprint, [row["fingerprint"] for row in rows]

    async def _seen(self, tx: Transaction, zone: str, name: str, print_: str) -> None:
        if print_:
            await tx.run(
                "INSERT INTO secrets_seen (zone, name, fingerprint, first_seen_at) VALUES (:zone, :name, :print, :now)"
                " ON CONFLICT DO NOTHING",
                zone=zone,
                name=name,
                print=print_,
                now=self._clock.now(),
            )

    async def check(self, tx: Transaction, context: Context, gate: str = "secrets") -> tuple[Verdict, list[Judged]]:
        """What the gate says; every waiver that lets something pass is noted as used by ``gate``."""
        now = self._clock.now()
        judged: list[Judged] = []
        for secret in await self.found(tx, context.zone):
            each = judge(secret, self._environment, now)
            if each.verdict is Verdict.FAIL:
                waiver = await self._waivers.covering(tx, context.zone, each.control, f"secret/{secret.name}", now)
                if waiver is not None:
                    await self._waivers.used(tx, context, waiver, gate)
                    each = replace(each, verdict=Verdict.PASS, waiver=waiver)
            judged.append(each)
        verdict = worst(each.verdict for each in judged)
        await self._recorder.record(
            tx,
            codes.SECRETS_CHECKED,
            "success" if verdict.green else "failure",
            context,
            subject=Subject(id=context.zone, type="secrets"),
            verdict=verdict,
            found=len(judged),
            failing=[each.secret.name for each in judged if each.verdict is Verdict.FAIL][:50],
            waivers=[each.waiver for each in judged if each.waiver][:50],
        )
        return verdict, judged

    async def watch(self, tx: Transaction, zone: str) -> dict[str, int]:
        """Heads-up 14, 7 and 1 days before a date, and an alert on what fails, until it does not."""
        now, context = self._clock.now(), Context(zone)
        told = {"heads_up": 0, "failing": 0}
        _, judged = await self.check(tx, context, "watch-secrets")
        for each in judged:
            secret, key = each.secret, f"secret/{each.secret.name}"
            if each.verdict is Verdict.FAIL:
                severity = Severity.P1 if each.control == CLASS_CONTROL else Severity.P2
                summary = f"{secret.kind} {secret.name}: {each.why}"
                raised = Raised(key, "SecretDue", severity, summary[:200], secret.owner, RUNBOOK)
                await self._alerts.fire(tx, context, raised)
                told["failing"] += 1
                continue
            await self._alerts.clear(tx, context, key)
            days = next((d for d in sorted(HEADS_UP) if secret.rotate_by - now <= timedelta(days=d)), None)
            if days is not None and now < secret.rotate_by:
                subject = f"{secret.kind} {secret.name} is to be rotated within {days} d"
                body = f"Its date is {secret.rotate_by.isoformat()}. Owner: {secret.owner}."
                notice = Notice("role:security_owner", f"{key}/{secret.rotate_by:%Y%m%d}/{days}d", subject[:200], body)
                await self._notices.send(tx, zone, notice)
                told["heads_up"] += 1
        return told

    # --- where they lie

    async def _keys(self, tx: Transaction, zone: str) -> list[Secret]:
        rows = await tx.all(
            "SELECT kid, purpose, created_at FROM zone_keys WHERE zone = :zone AND state = 'active'", zone=zone
        )
        return [
            _secret(f"signing-key/{row['purpose']}", "signing-key", "live", row["kid"], row["created_at"],
                    owner="key-rotation", used_by=(row["purpose"],))
            for row in rows
        ]  # fmt: skip

    async def _sealed(self, tx: Transaction, zone: str, key: bytes, sealer: Sealer) -> list[Secret]:
        found: list[Secret] = []
        for table in self._tables:
            rows = await tx.all(
                f"SELECT {table.id} AS id, name, sealed, {table.since} AS since FROM {table.table}"  # noqa: S608 - ours
                " WHERE zone = :zone AND sealed IS NOT NULL",
                zone=zone,
            )
            for row in rows:
                values = _opened(sealer, row, table.aad(zone, row["id"]))
                if not values:
                    continue
                judged = [class_of(value) for value in values]
                bad = next((each for each in judged if each[0] in ("test", "default")), None)
                kind_, why = bad or next((each for each in judged if each[0] == "live"), ("unknown", ""))
                print_ = fingerprint(key, "\x00".join(sorted(values)))
                name = f"{table.kind}/{row['name']}"
                found.append(_secret(name, table.kind, kind_, print_, row["since"], why=why))
        return found

    async def _hashed(self, tx: Transaction, zone: str) -> list[Secret]:
        applications = await tx.all(
            "SELECT name, secret_rotated_at, coalesce(owner, '') AS owner FROM applications"
            " WHERE zone = :zone AND is_active",
            zone=zone,
        )
        keys = await tx.all(
            "SELECT id, username, created_at, expires_at, last_used_at FROM api_keys WHERE zone = :zone"
            " AND ended_at IS NULL AND expires_at > :now",
            zone=zone,
            now=self._clock.now(),
        )
        return [
            *(_secret(f"application/{row['name']}", "application", "live", "", row["secret_rotated_at"],
                      used_by=(row["name"],)) for row in applications),
            *(Secret(f"api-key/{row['id']}", "api-key", "live", "", "access-control", row["created_at"],
                     row["expires_at"], (row["username"],), row["last_used_at"]) for row in keys),
        ]  # fmt: skip

    def _here(self, key: bytes) -> list[Secret]:
        """Files of this machine: the KEKs, the TLS key, passwords of the first administrator and of the database."""
        found = []
        local = self._local
        for name, path, kind in (("kek", local.kek, "kek"), ("first-password", local.first_password, "first-password"),
                                 ("tls-key", local.tls_key, "setting"),
                                 ("database-password", local.database_password, "setting")):  # fmt: skip
            try:
                text, at = (path.read_text(), path.stat().st_mtime) if path is not None else ("", 0.0)
            except (OSError, UnicodeDecodeError):
                continue
            since = datetime.fromtimestamp(at, UTC)
            for called, value in _parts(name, text):
                found.append(_secret(called, kind, "live", fingerprint(key, value), since, owner="key-rotation"))
        return found

    async def _of_settings(self, tx: Transaction, zone: str, key: bytes) -> list[Secret]:
        found = []
        for name, value in self._local.settings.items():
            print_, called = fingerprint(key, value), f"setting/{name}"
            await self._seen(tx, zone, called, print_)
            since = await tx.value(
                "SELECT first_seen_at FROM secrets_seen WHERE zone = :zone AND name = :name AND fingerprint = :print",
                zone=zone,
                name=called,
                print=print_,
            )
            kind, why = class_of(value)
            # set by whoever runs the installation, for it: live unless recognised
            found.append(_secret(called, "setting", "live" if kind == "unknown" else kind, print_, since, why=why))
        return found


def _parts(name: str, text: str) -> list[tuple[str, str]]:
    """The secrets of a file: of the KEKs each line, of which the last is the active one; else the whole."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name != "kek" or not lines:
        return [(name, text.strip())] if text.strip() else []
    older = [(f"kek/{line.split()[0]}", line) for line in lines[:-1]]
    return [*older, (name, lines[-1])]


def key_aad(zone: str) -> bytes:
    """What a zone's fingerprint key is bound to."""
    return f"fingerprint-key/{zone}".encode()


def _secret(
    name: str,
    kind: str,
    class_: str,
    print_: str,
    since: datetime,
    *,
    owner: str = "secrets-management",
    used_by: Sequence[str] = (),
    why: str = "",
) -> Secret:
    return Secret(name, kind, class_, print_, owner, since, since + MAX_AGE[kind], tuple(used_by), None, why)


def _declared(name: str, spec: SecretSpec, now: datetime) -> Secret:
    created = spec.created_at or now
    aged = created + timedelta(days=spec.max_age_days)
    due = min(aged, spec.rotate_by) if spec.rotate_by and spec.created_at else spec.rotate_by or aged
    return Secret(name, "declared", spec.class_, "", spec.owner, created, due, tuple(spec.used_by))


def _opened(sealer: Sealer, row: Row, aad: bytes) -> list[str]:
    """The texts of a sealed value that can be secrets. What does not open is none of ours to judge."""
    try:
        raw = sealer.open(bytes(row["sealed"]), aad)
    except SealError:
        return []
    try:
        value = json.loads(raw)
    except ValueError:
        return [raw.decode("utf-8", "replace")] if raw else []
    if not isinstance(value, dict):
        return [text for text in strings_of(value) if text]
    held: dict[str, Any] = value.get("values") or value.get("secrets") or {}
    return [text for name, each in held.items() if name != "username" for text in strings_of(each) if text]


def _reached(where: str, at: str) -> str | None:
    """The value behind a reference, where this process can see it; it is not kept."""
    if where == "env":
        return os.environ.get(at) or None
    if where == "file":
        try:
            return Path(at).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None
    return None
