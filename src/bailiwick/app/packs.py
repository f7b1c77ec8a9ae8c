"""The one pack builder with the sections of all rooms, and what the installation itself adds: configuration, logs."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from bailiwick import __version__
from bailiwick.app.foundations import Foundations
from bailiwick.assurance.pack_tables import TABLES as ASSURANCE_TABLES
from bailiwick.authority.pack_tables import TABLES as AUTHORITY_TABLES
from bailiwick.evidence.archive.places import places
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.events import Recorder
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys
from bailiwick.evidence.pack import Outcome, Pack, PackBuilder, Section
from bailiwick.evidence.pack_control import ControlTable, control_section
from bailiwick.evidence.pack_requests import JOB, PackRequests
from bailiwick.evidence.pack_sections import evidence_sections
from bailiwick.handover.handovers.section import handover_section
from bailiwick.handover.incidents.packs import selector
from bailiwick.handover.pack_tables import TABLES as HANDOVER_TABLES
from bailiwick.handover.readiness.section import readiness_section
from bailiwick.identity.pack_tables import TABLES as IDENTITY_TABLES
from bailiwick.inventory.pack_tables import TABLES as INVENTORY_TABLES
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.redaction import scrub
from bailiwick.kernel.settings import Settings, shown_value
from bailiwick.policy.pack_section import policy_section

KERNEL_TABLES = (
    ControlTable("feed", ("revision", "zone", "kind", "key", "at"), ("revision",), at="at"),
    ControlTable(
        "job_occurrences",
        ("job", "due_at", "state", "scheduled", "attempts", "holder", "started_at", "finished_at", "detail"),
        ("due_at", "job"),
        withheld=("lease_until",),
        zoned="",
        at="due_at",
    ),
    ControlTable(
        "spool_positions",
        ("source", "segment", "position", "next_sequence", "unsure_from", "finished", "gone", "updated_at"),
        ("source", "segment"),
        zoned="",
    ),
    ControlTable(
        "evidence_packs",
        (
            "id", "zone", "selection", "requested_by", "requested_at", "state", "attempts", "host", "events", "bytes",
            "sha256", "error", "finished_at", "expires_at", "kept", "section", "done", "expected",
        ),
        ("id",),
        withheld=("context",),
    ),
    ControlTable("saved_queries", ("id", "zone", "owner", "name", "shared", "query", "created_at"), ("id",)),
    ControlTable("audit_exports", ("request_id", "zone", "manifest", "at"), ("request_id",), at="at"),
    ControlTable(
        "approvals",
        (
            "id", "zone", "action", "payload", "payload_sha256", "reason", "needed", "requested_by", "requested_at",
            "expires_at", "ended", "ended_at", "ended_by", "roles", "other_role", "window_s", "requester_id",
            "requester_role", "requester_owns", "concerns",
        ),
        ("id",),
    ),
    ControlTable(
        "siem_sinks",
        (
            "id", "zone", "name", "kind", "options", "format", "filter", "redact", "batch_size", "linger_s",
            "all_zones", "enabled", "stopped", "stopped_at", "drain_at", "drain_batch", "version", "created_at",
            "updated_at",
        ),
        ("id",),
        withheld=("sealed",),
    ),
    ControlTable(
        "siem_cursors",
        ("sink", "zone", "next_seq", "sent_seq", "generation", "delivered", "filtered", "updated_at"),
        ("sink", "zone"),
    ),
    ControlTable(
        "siem_dead_letters",
        ("id", "sink", "zone", "seq", "event", "reason", "at", "retry_at", "delivered_at"),
        ("id",),
    ),
    ControlTable("siem_repeats", ("id", "sink", "zone", "first_seq", "end_seq", "times", "at"), ("id",)),
)  # fmt: skip
CONTROL_TABLES = (
    *INVENTORY_TABLES,
    *IDENTITY_TABLES,
    *AUTHORITY_TABLES,
    *KERNEL_TABLES,
    *ASSURANCE_TABLES,
    *HANDOVER_TABLES,
)
ELSEWHERE: Mapping[str, str] = {
    "server_hosts": "the bindings of servers say it",
    "policy_versions": "policy/",
    "policy_sets": "policy/",
    "policy_activations": "policy/",
    "decision_inputs": "inputs/",
    "api_requests": "timeline/",
    "outbox": "events on their way into the ledger",
    "approval_votes": "the events approval.voted say it",
    "account_influence": "the events of users and groups say it",
    "waiver_uses": "the events waiver.used say it",
    "override_receipts": "answers of other systems; the overrides hold their digests",
    "fingerprint_keys": "sealed keys",
    "siem_state": "figures of the moment, which readiness shows",
    "refresh_tokens": "hashes of what sessions go on by",
    "pending_sign_ins": "sign-ins that wait for a second factor, five minutes",
    "passkey_challenges": "hashes of what passkeys are asked, five minutes",
    "saml_requests": "requests to SAML providers that wait for their answer, ten minutes",
    "saml_seen": "hashes of the SAML assertions taken, for as long as each is valid",
    "oidc_sign_ins": "sign-ins under way at a provider, ten minutes",
    "idempotency_keys": "sealed answers, kept for a day",
    "job_definitions": "what is to run; its occurrences say what did",
}
"""Tables of the schema that ``control/`` leaves out, and where they are or why."""

_MIGRATIONS = Path(__file__).parent.parent / "kernel" / "migrations"
_MOST_LOG = 64 << 20
_TIME = re.compile(rb'"?ts"?[:=]\s?"?(\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d))')


def pack_builder(
    settings: Settings,
    layout: Layout,
    database: Database,
    clock: Clock,
    ids: Ids,
    recorder: Recorder,
    signer: LedgerKeys,
    sealer: Callable[[], Sealer],
) -> PackBuilder:
    """The builder of an installation."""
    stores = places(settings, layout)
    cold = ColdEvents(database, stores.local, stores.remote, stores.cache)
    builder = PackBuilder(
        database,
        clock,
        ids,
        recorder,
        signer,
        __version__,
        head_files=HeadFiles(layout.heads),
        incidents=selector(clock),
        cold=cold,
    )
    for section in (
        *evidence_sections(sealer),
        policy_section(),
        control_section(CONTROL_TABLES),
        handover_section(cold),
        readiness_section(),
        _configuration(settings, layout),
        _logs(layout),
    ):
        builder.register(section)
    return builder


def pack_requests(base: Foundations) -> PackRequests:
    """The list of packs asked for over the API, their files on this machine."""
    return PackRequests(base.database, base.clock, base.ids, base.recorder, base.layout.packs, socket.gethostname())


def packing(base: Foundations, signer: LedgerKeys, sealer: Callable[[], Sealer]) -> JobDefinition:
    """The job that builds them."""
    builder = pack_builder(
        base.settings, base.layout, base.database, base.clock, base.ids, base.recorder, signer, sealer
    )
    requests = pack_requests(base)

    async def build(due: datetime) -> dict[str, int]:
        return await requests.build_waiting(builder)

    return JobDefinition(JOB, timedelta(hours=1), build, timeout_s=6 * 3600.0)


def _configuration(settings: Settings, layout: Layout) -> Section:
    async def write(pack: Pack) -> Outcome:
        shown = settings.shown()
        defaults = {name: shown_value(field.get_default()) for name, field in Settings.model_fields.items()}
        changed = {
            name: {"default": defaults[name], "here": shown[name]} for name in shown if shown[name] != defaults[name]
        }
        await pack.put_json("settings.json", {"settings": shown, "differing": changed, "running": _running(layout)})
        await pack.put_json("versions.json", _versions(await pack.tx.value("SHOW server_version")))
        await pack.put_json(
            "migrations.json",
            {
                "applied": await pack.tx.value("SELECT version_num FROM public.alembic_version"),
                "known": {path.stem: _sha256(path) for path in _scripts()},
            },
        )
        return Outcome(note=f"{len(changed)} settings differ from their defaults; of secrets only that they are set")

    return Section("configuration", "Settings without secrets, versions, migrations applied", "configuration", write)


def _running(layout: Layout) -> Any:
    """What the installation was last started with, which need not be what this process reads."""
    try:
        return json.loads(layout.settings_file.read_text())
    except (OSError, ValueError):
        return None


def _versions(server: str) -> dict[str, Any]:
    packages = {each.name: each.version for each in metadata.distributions() if each.name}
    return {
        "bailiwick": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "postgresql": server,
        "packages": packages,
    }


def _scripts() -> list[Path]:
    patterns = ("versions/[0-9]*.py", "assurance/*.sql", "handover/*.sql")
    return sorted(path for pattern in patterns for path in _MIGRATIONS.glob(pattern))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _logs(layout: Layout) -> Section:
    """What parts of this machine wrote in the window; it is written without secrets, and scrubbed again."""

    async def write(pack: Pack) -> Outcome:
        if pack.zone != "default":
            return Outcome(note="logs tell of all zones, and are in packs of the default zone only")
        window, lines, cut = pack.window, 0, 0
        for path in sorted(layout.logs.glob("*.log*")) if layout.logs.is_dir() else ():
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < window.since:
                continue
            left = _MOST_LOG
            async with pack.file(f"{path.name}.txt" if path.suffix == ".log" else f"{path.name}.log") as stream:
                with path.open("rb") as log:
                    for line in log:
                        found = _TIME.search(line[:400])
                        if found and window.since <= _moment(found[1]) <= window.until:
                            clean = scrub(line.decode("utf-8", "replace"))[0].encode()
                            left -= len(clean)
                            if left < 0:
                                cut += 1
                                break
                            await stream.write(clean)
                            lines += 1
        return Outcome(note=f"{lines:,} lines of this machine" + (f"; {cut} files are cut off" if cut else ""))

    return Section("logs", "What the parts of this machine logged in the window", "logs", write)


def _moment(text: bytes) -> datetime:
    try:
        moment = datetime.fromisoformat(text.decode())
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
