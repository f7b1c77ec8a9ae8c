"""The work role: evidence into the ledger, routes into Envoy, scheduled jobs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from bailiwick.app import health
from bailiwick.app.archive import archive_jobs, build_archive
from bailiwick.app.assurance import build_assurance, keep_scheduled
from bailiwick.app.continuing import known_witnesses
from bailiwick.app.following import Following
from bailiwick.app.foundations import Foundations, lay
from bailiwick.app.packs import packing
from bailiwick.app.running import Background
from bailiwick.app.servers import serve_until
from bailiwick.app.sidecar import sidecar
from bailiwick.app.siem import cold_reader, reach_of
from bailiwick.app.worker_state import CurrentSealer, WorkerState
from bailiwick.authority.snapshot import Snapshot
from bailiwick.evidence.access_log import purge_api_requests, purge_decision_inputs
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.siem.delivery import Delivery
from bailiwick.evidence.siem.outgoing import Means
from bailiwick.evidence.sweep import ALERT, NEWEST_JOB, WHOLE_JOB, Sweep
from bailiwick.evidence.troubles import Trouble
from bailiwick.evidence.witnessing import Witnessing
from bailiwick.gateway.lease import Lease
from bailiwick.gateway.routing import RouteWriter
from bailiwick.gateway.supervised import envoy_files
from bailiwick.identity.bootstrap import FIRST_ADMINISTRATOR
from bailiwick.identity.login.lockout import LOCK
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.clock_file import pace_of
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.figures import Figures
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.modes import frozen_zones
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.quorum import Quorum
from bailiwick.kernel.redis import Redis
from bailiwick.kernel.settings import Settings
from bailiwick.policy.figures import PolicyFigures
from bailiwick.policy.known_good import KnownGood

log = structlog.get_logger(__name__)

_NICE = 10
_LEAST = timedelta(seconds=1)  # of real time, between two runs of one job


async def run(settings: Settings, layout: Layout) -> int:
    """Run until SIGTERM; the exit code."""
    base = lay(settings, layout, "work")
    # what is in the spool is safe already: putting it into the ledger may wait for requests, never the reverse
    os.nice(_NICE)
    background = Background()
    background.heed_signals()
    state = WorkerState(base, with_policy=False)
    signer = LedgerKeys(base.database, base.sealer, base.clock)
    sequencer = Sequencer(
        base.database,
        base.direct_url,
        layout.spool,
        HeadFiles(layout.heads),
        signer,
        base.clock,
        input_days=settings.decision_input_days,
    )
    state.on_sealer.append(signer.replace_sealer)
    redis = Redis(settings.redis_url.get_secret_value() if settings.redis_url else None, base.clock, base.metrics)
    files = envoy_files(settings, layout)
    routes = RouteWriter(files, layout.envoy / "ca", Lease(layout.canary_lease))
    state.store.on_swap(routes.want)
    state.store.on_swap(lambda snapshot: _forget_first_password(snapshot, layout))
    await state.load()
    routes.write()
    archive = build_archive(base.settings, base.layout, base.database, base.clock, base.ids, base.recorder)
    sweep = Sweep(
        base.database,
        HeadFiles(layout.heads),
        base.recorder,
        cold=archive.cold,
        observe=lambda zone, holds: base.metrics.ledger_tampered.labels(zone).set(0 if holds else 1),
    )
    witnessing = witnesses(base)
    assurance = build_assurance(base, archive.quorum, EvidenceRecords(base.clock, base.recorder))
    state.on_sealer.extend(assurance.house.on_sealer)
    sealer = CurrentSealer(base.sealer)
    state.on_sealer.append(sealer.replace)
    definitions = [
        *scheduled(base, state, archive.quorum),
        *swept(sweep),
        packing(base, signer, sealer),
        *archive_jobs(base, archive, signer),
        *(job for part in assurance.parts for job in part.jobs),
    ]
    pace = pace_of(layout)
    least = _LEAST if pace is None else max(_LEAST * max(1.0, pace.factor), timedelta(seconds=pace.stride_s))
    jobs = Jobs(base.database, base.clock, base.metrics, definitions, least=least)
    following = Following(jobs, [part.follows for part in assurance.parts])
    policy_figures = PolicyFigures(base.metrics, base.database)
    state.on_changes += [following.heed, policy_figures.heed]
    delivery = siem_delivery(base, archive.cold)
    state.on_sealer.append(delivery.replace_sealer)
    base.metrics.before_flush(ledger_shower(base.metrics, sequencer))
    try:
        with contextlib.suppress(Unavailable):
            await policy_figures.sample()  # before alerts are evaluated: one of before the restart still stands
        background.start("feed", state.reader.run())
        background.start("sequencer", sequencer.run())
        background.start("witnesses", witnessing.run())
        background.start("siem", delivery.run())
        background.start("routes", routes.run())
        background.start("jobs", jobs.run())
        background.start("jobs that follow the feed", following.run())
        background.start("jobs of the book", keep_scheduled(jobs, assurance))
        for part in assurance.parts:
            for name, loop in part.loops.items():
                background.start(name, loop())
        background.start("figures", Figures(base.metrics, base.database, redis, layout.data_dir).run())
        background.start("figures of policies", policy_figures.run())
        background.start("metrics", base.metrics.run())
        checks = health.Health(
            base.clock,
            ready={"ledger": lambda: _trouble(sequencer, sweep, witnessing)},
            refusing={"ledger"},
            facts=lambda: {
                **_facts(sequencer),
                "witnesses": witnessing.facts(),
                # a destination that is away must not keep the ledger from being called ready
                "siem": {"trouble": delivery.trouble(), "sinks": delivery.facts()},
            },
        )
        await serve_until([sidecar(checks, layout.slot("work"))], background.stopping)
        # what the workers acknowledged before they stopped belongs in the ledger before the database stops
        async with asyncio.timeout(8):
            await sequencer.drain()
    except TimeoutError:
        log.warning("stopped before the ledger held everything; the spool keeps the rest")
    finally:
        await background.cancel()
        await files.close()
        sequencer.close()
        await base.database.close()
    return 1 if background.failed else 0


def siem_delivery(base: Foundations, cold: ColdEvents) -> Delivery:
    """What sends the ledger on to the sinks."""
    reach = reach_of(Resolver(base.database, base.clock, base.recorder, base.settings))
    return Delivery(
        base.database,
        base.direct_url,
        base.sealer,
        base.recorder,
        base.metrics,
        Means(reach, base.clock, base.ids, socket.gethostname()),
        random=random.SystemRandom().random,
        cold=cold_reader(cold),
    )


def scheduled(base: Foundations, state: WorkerState, quorum: Quorum) -> list[JobDefinition]:
    """What is done by the clock."""
    proving = KnownGood(base.database, base.recorder, base.clock, quorum)
    resolver = Resolver(base.database, base.clock, base.recorder, base.settings)

    async def resolve(due: datetime) -> dict[str, int]:
        done = await resolver.refresh_all()
        return {"checked": done.checked, "changed": done.changed, "unroutable": done.unroutable}

    async def purge(due: datetime) -> dict[str, int]:
        now = base.clock.now()
        async with base.database.begin() as tx:
            if frozen := await frozen_zones(tx):
                return {"frozen_zones": len(frozen)}
            keys = await tx.run(
                "DELETE FROM idempotency_keys WHERE created_at < :before", before=now - timedelta(hours=24)
            )
            revocations = await tx.run("DELETE FROM revocations WHERE expires_at < :now", now=now)
            feed = await tx.run(
                "DELETE FROM feed WHERE at < :before AND revision < (SELECT max(revision) FROM feed)",
                before=now - timedelta(days=2),
            )
            failures = await tx.run("DELETE FROM login_failures WHERE last_at < :before", before=now - LOCK)
            pending = await tx.run("DELETE FROM pending_sign_ins WHERE expires_at < :now", now=now)
            challenges = await tx.run("DELETE FROM passkey_challenges WHERE expires_at < :now", now=now)
            saml = await tx.run("DELETE FROM saml_requests WHERE expires_at < :now", now=now)
            saml += await tx.run("DELETE FROM saml_seen WHERE expires_at < :now", now=now)
            begun = await tx.run("DELETE FROM oidc_sign_ins WHERE expires_at < :now", now=now)
            begun += await tx.run("DELETE FROM provider_logouts WHERE expires_at < :now", now=now)
            refreshes = await tx.run(
                "DELETE FROM refresh_tokens r USING sessions s WHERE s.id = r.session_id"
                " AND (s.ended_at < :before OR s.expires_at < :before)",
                before=now - timedelta(days=1),
            )
            id_tokens = await tx.run(
                "UPDATE sessions SET id_token_sealed = NULL WHERE id_token_sealed IS NOT NULL"
                " AND (expires_at < :now OR idle_until < :now)",
                now=now,
            )
            exports = await tx.run("DELETE FROM audit_exports WHERE at < :before", before=now - timedelta(days=30))
            workers = await tx.run("DELETE FROM workers WHERE seen_at < :before", before=now - timedelta(days=1))
        return {
            "api_requests": await purge_api_requests(base.database, now),
            "decision_inputs": await purge_decision_inputs(base.database, now),
            "idempotency_keys": keys,
            "revocations": revocations,
            "feed": feed,
            "workers": workers,
            "login_failures": failures,
            "pending_sign_ins": pending,
            "passkey_challenges": challenges,
            "oidc_sign_ins": begun,
            "saml_requests": saml,
            "refresh_tokens": refreshes,
            "id_tokens": id_tokens,
            "audit_exports": exports,
        }

    async def retire_keys(due: datetime) -> dict[str, int]:
        life = timedelta(seconds=max(base.settings.mandate_ttl_s, base.settings.session_ttl_s))
        return {"retired": await state.keys.retire_expired(life)}

    async def known_good(due: datetime) -> dict[str, int]:
        return {"marked": len(await proving.mark_known_good())}

    async def forget_revoked(due: datetime) -> dict[str, int]:
        before = len(state.store.revoked.mandates)
        state.store.revoked.drop_expired(base.clock.time())
        return {"forgotten": before - len(state.store.revoked.mandates)}

    return [
        JobDefinition("resolve-upstreams", timedelta(seconds=30), resolve, grace=timedelta(minutes=5)),
        JobDefinition("mark-policies-known-good", timedelta(minutes=1), known_good),
        JobDefinition("purge-expired", "17 * * * *", purge, grace=timedelta(hours=24)),
        JobDefinition("retire-keys", timedelta(minutes=10), retire_keys),
        JobDefinition("forget-expired-revocations", timedelta(minutes=10), forget_revoked),
    ]


def _forget_first_password(snapshot: Snapshot, layout: Layout) -> None:
    """The file with the first administrator's one-time password goes once he has a password of his own."""
    zone = snapshot.zones.get("default")
    first = zone.users.get(FIRST_ADMINISTRATOR) if zone is not None else None
    if first is not None and not first.must_change_password:
        try:
            layout.administrator_password.unlink(missing_ok=True)
        except OSError as error:
            # the password in it is worthless by now; what follows the snapshot must go on
            log.warning("file with a used one-time password cannot be removed", error=str(error))


def swept(sweep: Sweep) -> list[JobDefinition]:
    """The checks of the ledger by the clock."""

    async def newest(due: datetime) -> dict[str, int]:
        return await sweep.run(whole=False)

    async def whole(due: datetime) -> dict[str, int]:
        return await sweep.run(whole=True)

    return [
        JobDefinition(NEWEST_JOB, timedelta(minutes=10), newest),
        JobDefinition(WHOLE_JOB, "41 2 * * *", whole, grace=timedelta(hours=12), timeout_s=6 * 3600.0),
    ]


def witnesses(base: Foundations) -> Witnessing:
    """Who is asked to cosign the heads of the ledgers."""
    settings = base.settings
    known, ca = known_witnesses(settings)
    return Witnessing(
        base.database,
        base.recorder,
        base.clock,
        base.metrics,
        known,
        quorum=settings.witness_quorum,
        ca=ca,
    )


def _trouble(sequencer: Sequencer, sweep: Sweep, witnessing: Witnessing) -> str | None:
    """What must be mended before the ledger is to be trusted, or None."""
    told = [f"{trouble}: {why}" for trouble, why in sequencer.figures.troubles.serious.items()]
    told += [f"{ALERT}: {zone}: {why}" for zone, why in sweep.tampered.items()]
    told += [f"{ALERT}: {zone}: witness {why}" for zone, why in witnessing.tampered.items()]
    return "; ".join(told) or None


def _facts(sequencer: Sequencer) -> dict[str, Any]:
    figures = sequencer.figures
    return {
        "sequencing": "active" if figures.active else "standby",
        "lag_s": round(figures.lag_s, 2),
        "backlog_bytes": figures.backlog_bytes,
        "backlog_age_s": round(figures.backlog_age_s, 2),
        "dead_letters": figures.dead_letters,
        "clock_behind_s": round(figures.clock_behind_s, 2),
        "troubles": dict(figures.troubles),
    }


def ledger_shower(metrics: Metrics, sequencer: Sequencer) -> Callable[[], None]:
    """Carries the sequencer's own figures over to the metrics, each time those are flushed."""
    sequenced = 0

    def show() -> None:
        nonlocal sequenced
        figures = sequencer.figures
        metrics.ledger_events.inc(figures.sequenced_total - sequenced)
        sequenced = figures.sequenced_total
        metrics.ledger_lag_seconds.set(figures.lag_s)
        metrics.ledger_backlog_bytes.set(figures.backlog_bytes)
        metrics.ledger_backlog_age.set(figures.backlog_age_s)
        metrics.ledger_dead_letters.set(figures.dead_letters)
        metrics.clock_behind_seconds.set(figures.clock_behind_s)
        for trouble in Trouble:
            metrics.evidence_trouble.labels(trouble.value).set(1 if trouble in figures.troubles else 0)

    return show
