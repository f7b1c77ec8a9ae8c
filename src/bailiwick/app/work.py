"""The work role: evidence into the ledger, routes into Envoy, scheduled jobs."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta

import structlog

from bailiwick.app import health
from bailiwick.app.foundations import Foundations, lay
from bailiwick.app.running import Background
from bailiwick.app.servers import serve_until
from bailiwick.app.sidecar import sidecar
from bailiwick.app.worker_state import WorkerState
from bailiwick.authority.snapshot import Snapshot
from bailiwick.evidence.access_log import purge_api_requests, purge_decision_inputs
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.sweep import ALERT, Sweep
from bailiwick.gateway.routing import RouteWriter
from bailiwick.gateway.supervised import envoy_files
from bailiwick.identity.bootstrap import FIRST_ADMINISTRATOR
from bailiwick.identity.login.lockout import LOCK
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.figures import Figures
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.redis import Redis
from bailiwick.kernel.settings import Settings
from bailiwick.policy.known_good import KnownGood

log = structlog.get_logger(__name__)

_NICE = 10


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
    routes = RouteWriter(files, layout.envoy / "ca")
    state.store.on_swap(routes.want)
    state.store.on_swap(lambda snapshot: _forget_first_password(snapshot, layout))
    await state.load()
    routes.write()
    sweep = Sweep(
        base.database,
        HeadFiles(layout.heads),
        base.recorder,
        observe=lambda zone, holds: base.metrics.ledger_tampered.labels(zone).set(0 if holds else 1),
    )
    jobs = Jobs(base.database, base.clock, base.metrics, [*scheduled(base, state), *swept(sweep)])
    base.metrics.before_flush(lambda: _show(base, sequencer))
    try:
        background.start("feed", state.reader.run())
        background.start("sequencer", sequencer.run())
        background.start("routes", routes.run())
        background.start("jobs", jobs.run())
        background.start("figures", Figures(base.metrics, base.database, redis, layout.data_dir).run())
        background.start("metrics", base.metrics.run())
        checks = health.Health(
            base.clock,
            ready={"ledger": lambda: _trouble(sequencer, sweep)},
            facts=lambda: {
                "lag_s": round(sequencer.figures.lag_s, 2),
                "backlog_bytes": sequencer.figures.backlog_bytes,
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


def scheduled(base: Foundations, state: WorkerState) -> list[JobDefinition]:
    """What is done by the clock."""
    proving = KnownGood(base.database, base.recorder, base.clock)
    resolver = Resolver(base.database, base.clock, base.recorder, base.settings)

    async def resolve(due: datetime) -> dict[str, int]:
        done = await resolver.refresh_all()
        return {"checked": done.checked, "changed": done.changed, "unroutable": done.unroutable}

    async def purge(due: datetime) -> dict[str, int]:
        now = base.clock.now()
        async with base.database.begin() as tx:
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
            refreshes = await tx.run(
                "DELETE FROM refresh_tokens r USING sessions s WHERE s.id = r.session_id"
                " AND (s.ended_at < :before OR s.expires_at < :before)",
                before=now - timedelta(days=1),
            )
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
            "refresh_tokens": refreshes,
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
        JobDefinition("verify-newest-events", timedelta(minutes=10), newest),
        JobDefinition("verify-whole-ledger", "41 2 * * *", whole, grace=timedelta(hours=12), timeout_s=6 * 3600.0),
    ]


def _trouble(sequencer: Sequencer, sweep: Sweep) -> str | None:
    """What an auditor must know before trusting the ledger, or None."""
    figures = sequencer.figures
    if figures.lost:
        return f"evidence was lost: {', '.join(figures.lost)}"
    if sweep.tampered:
        return "; ".join(f"{ALERT}: {zone}: {why}" for zone, why in sweep.tampered.items())
    if figures.contradictions:
        return "; ".join(f"{zone}: {why}" for zone, why in figures.contradictions.items())
    return None


def _show(base: Foundations, sequencer: Sequencer) -> None:
    figures, metrics = sequencer.figures, base.metrics
    metrics.ledger_lag_seconds.set(figures.lag_s)
    metrics.ledger_backlog_bytes.set(figures.backlog_bytes)
    metrics.ledger_dead_letters.set(figures.dead_letters_total)
