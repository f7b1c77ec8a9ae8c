"""A serve worker: the API with its hot endpoints on one socket, Envoy's check on another, one event loop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import structlog
import uvloop
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Scope

import bailiwick.authority.api as authority_api
import bailiwick.evidence.api as evidence_api
import bailiwick.evidence.archive.api as archive_api
import bailiwick.evidence.continuing_api as continuing_api
import bailiwick.evidence.evidence_records_api as evidence_records_api
import bailiwick.evidence.pack_api as pack_api
import bailiwick.evidence.siem.api as siem_api
import bailiwick.identity.api as identity_api
import bailiwick.identity.console.api as console_api
import bailiwick.identity.groups_api as groups_api
import bailiwick.identity.login.factor_page_api as factor_page_api
import bailiwick.identity.login.oidc_api as oidc_api
import bailiwick.identity.login.saml_api as saml_api
import bailiwick.identity.providers_api as providers_api
import bailiwick.identity.reports_api as reports_api
import bailiwick.identity.scim.api as scim_api
import bailiwick.inventory.api as inventory_api
import bailiwick.policy.api as policy_api
from bailiwick import __version__
from bailiwick.app import health
from bailiwick.app.foundations import Foundations, lay
from bailiwick.app.refusals import refusal_recorder
from bailiwick.app.rooms import Rooms, build
from bailiwick.app.running import Background
from bailiwick.app.servers import Listener, serve_until
from bailiwick.app.settled import Settled
from bailiwick.app.switched import Switched
from bailiwick.app.worker_state import CurrentSealer, WorkerState
from bailiwick.authority.workers import WorkerRegister
from bailiwick.evidence.access_log import AccessLog, AccessRow
from bailiwick.evidence.approvals import routes as approval_routes
from bailiwick.evidence.spool import Spool
from bailiwick.evidence.tail import Tails
from bailiwick.gateway.check import Check
from bailiwick.gateway.verdict_counts import CountKeeper, VerdictCounts
from bailiwick.handover.incidents.packs import selector
from bailiwick.handover.readiness.api import LARGE_BODIES
from bailiwick.identity.login.throttle import SignInThrottle
from bailiwick.identity.providers import Providers
from bailiwick.identity.refresh_lane import RefreshLane
from bailiwick.identity.sessions import owner_of_session
from bailiwick.kernel import docs_page, problems
from bailiwick.kernel.api_document import describe_refusals
from bailiwick.kernel.errors import BailiwickError, Denied, Unauthenticated, Unavailable
from bailiwick.kernel.front import Front, RequestRecord
from bailiwick.kernel.http import Caller, RequireStepUp
from bailiwick.kernel.idempotency import Idempotency
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.ratelimit import HotLimits, Limiter, MachineCounters, RequestLimits
from bailiwick.kernel.redis import Redis
from bailiwick.kernel.settings import Settings
from bailiwick.policy.evaluate import Evaluate, openapi_paths

log = structlog.get_logger(__name__)

_HEARTBEAT_S = 5.0
_KEY_USE_S = 15.0
_ABOUT = """\
Who is calling, on whose authority, may they, and can it be proven afterwards. Sign in at `/api/v1/auth/login/local` and
send the token as a bearer. Another zone than the default one stands under `/z/{zone}`. Refusals are problems (RFC 9457)
with a stable `reason`.
"""
_EVALUATE = "/api/v1/authz/evaluate"


def run(settings: Settings, layout: Layout, slot: str) -> int:
    """Run until SIGTERM; the exit code."""
    return uvloop.run(_Worker(settings, layout, slot).run())


class _Worker:
    """One life of a worker."""

    def __init__(self, settings: Settings, layout: Layout, slot: str) -> None:
        self._settings = settings
        self._layout = layout
        self._slot = slot

    async def run(self) -> int:
        base = lay(self._settings, self._layout, self._slot)
        boot = base.ids()
        background = Background()
        background.heed_signals()
        register = WorkerRegister(base.database, base.clock, f"{self._slot}-{boot}", self._slot)
        state = WorkerState(base, with_policy=True)
        syncs: deque[float] = deque()
        spool = Spool(
            self._layout.spool,
            self._slot,
            boot,
            segment_bytes=self._settings.spool_segment_mb << 20,
            on_sync=syncs.append,
        )
        base.metrics.before_flush(spool_shower(base.metrics, spool, syncs))
        await spool.start()
        rooms: Rooms | None = None
        keeper: CountKeeper | None = None
        try:
            # entered before anything is read: whoever revokes from now on waits for this worker
            await register.enter()
            await state.load()
            await register.confirm(state.reader.revision)
            state.reader.on_applied = register.confirm
            redis = Redis(_secret(self._settings.redis_url), base.clock, base.metrics)
            counters = MachineCounters(self._layout.run / "limits", base.clock)
            hot_limits = HotLimits(counters, base.metrics, base.clock, self._settings.rate_limit_application)
            rooms = build(base, state, spool, hot_limits)
            state.on_sealer.append(rooms.replace_sealer)
            access_log = AccessLog(base.database)
            verdicts = VerdictCounts(self._layout.counts, f"{self._slot}-{boot}")
            keeper = CountKeeper(base.database, base.clock, verdicts, self._layout.counts)
            background.start("feed", state.reader.run())
            background.start("heartbeat", _beat(register, state))
            background.start("policy marks", _report_policies(state, rooms))
            background.start("access log", access_log.run())
            background.start("uses of API keys", _note_keys_used(rooms))
            background.start("metrics", base.metrics.run())
            background.start("verdict counts", keeper.run())
            background.start("tails", _end_tails(background, rooms.tails))
            for part in rooms.assurance.parts:
                for name, watch in part.watches.items():
                    background.start(name, watch())
            base.metrics.watch_feed(state.reader.age)
            limiter = Limiter(counters, redis)
            api = compose(base, state, rooms, spool, redis, access_log, limiter, hot_limits)
            check = Check(
                state.store,
                rooms.authenticator,
                state.decider,
                rooms.evidence,
                base.recorder,
                base.ids,
                monotonic=base.clock.monotonic,
                observe=_check_observer(base),
                limit=lambda application: hot_limits.require("gateway", application.id, application.rate_limit),
                count=verdicts.add,
            )
            sockets = self._layout.slot(self._slot)
            listeners = [
                Listener(api, sockets.api, tcp_port=_bench_port(self._settings)),
                Listener(check, sockets.check),
            ]
            # what is there now stays: looking through it for garbage again and again would cost every request
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            log.info("worker ready", revision=state.reader.revision)
            await serve_until(listeners, background.stopping)
        finally:
            await background.cancel()
            if rooms is not None:
                await rooms.oidc_clients.close()
                rooms.passwords.close()
            await spool.close()
            if keeper is not None:
                await keeper.close()
            await register.leave()
            await base.database.close()
        return 1 if background.failed else 0


def compose(
    base: Foundations,
    state: WorkerState,
    rooms: Rooms,
    spool: Spool,
    redis: Redis,
    access_log: AccessLog,
    limiter: Limiter,
    hot_limits: HotLimits,
) -> Front:
    """The API: every room's routes in one FastAPI app, the hot endpoints beside it, the front before both."""
    app = FastAPI(title="Bailiwick", description=_ABOUT, version=__version__, docs_url=None, redoc_url=None)
    problems.install(app)
    app.state.authenticate = _authenticate(rooms)
    app.state.step_up = _step_up(rooms)
    app.state.throttle = SignInThrottle(hot_limits, base.settings.rate_limit_sign_in)
    app.state.refused = refusal_recorder(base.recorder, rooms.evidence.event)
    checks = health.Health(
        base.clock,
        ready={
            "revocation feed": state.stale,
            "evidence spool": lambda: "evidence was lost" if spool.evidence_lost else spool.refusal,
        },
        services={
            "database": lambda: _database_state(base),
            "redis": redis.probe,
            "opa": lambda: _policy_state(state),
            "consul": _disabled,
        },
        figures=lambda: _figures(base),
        away=lambda: _away(rooms.providers),
        refusing={"evidence spool"},
        facts=lambda: {"revision": state.reader.revision, "feed_age_s": round(state.reader.age(), 1)},
    )
    app.include_router(health.routes(checks))
    app.include_router(_metrics_routes(base, rooms))
    app.include_router(
        identity_api.routes(
            rooms.login,
            rooms.ldap_login,
            rooms.sign_ins,
            rooms.users,
            rooms.invitations,
            rooms.sessions,
            rooms.applications,
            rooms.api_keys,
            rooms.passkeys,
            rooms.cookies,
        )
    )
    app.include_router(providers_api.routes(rooms.providers, rooms.testers))
    app.include_router(saml_api.routes(rooms.saml, rooms.cookies))
    app.include_router(oidc_api.routes(rooms.oidc, rooms.cookies))
    app.include_router(factor_page_api.routes(rooms.sign_ins, rooms.passkeys, rooms.cookies))
    app.include_router(console_api.routes(rooms.cookies, rooms.providers))
    app.include_router(groups_api.routes(rooms.groups))
    app.include_router(reports_api.routes(rooms.reports))
    app.include_router(scim_api.routes(rooms.scim_users, rooms.scim_groups, base.settings.zone_issuer))
    app.include_router(inventory_api.routes(rooms.zones, rooms.servers, rooms.credentials))
    app.include_router(
        policy_api.routes(rooms.policies, rooms.known_good, base.database, base.recorder, rooms.search.find_decision)
    )
    app.include_router(
        authority_api.routes(
            base.database, state.store, rooms.authenticator, rooms.issuer, rooms.revocations, rooms.rotation
        )
    )
    app.include_router(evidence_records_api.routes(base.database, rooms.evidence_records, base.recorder, base.clock))
    app.include_router(pack_api.routes(base.database, rooms.packs, base.recorder, selector(base.clock)))
    app.include_router(
        evidence_api.routes(
            base.database,
            rooms.search,
            base.recorder,
            rooms.head_files,
            ids=base.ids,
            tails=rooms.tails,
            owner_of=owner_of_session,
            cold=rooms.archive.cold,
        )
    )
    app.include_router(siem_api.routes(rooms.sinks, rooms.siem))
    app.include_router(archive_api.routes(base.database, rooms.archive.services, base.recorder, base.clock))
    app.include_router(continuing_api.routes(rooms.continuing))
    app.include_router(approval_routes(rooms.archive.quorum))
    for part in rooms.assurance.parts:
        for router in part.routers():
            app.include_router(router)
    app.include_router(docs_page.routes())
    evaluate = Evaluate(
        authenticate=rooms.authenticator.caller,
        principal=_principal(state),
        decider=state.decider,
        evidence=rooms.evidence,
        recorder=base.recorder,
        ids=base.ids,
        monotonic=base.clock.monotonic,
        observe=_decision_observer(base),
        limit=lambda caller: hot_limits.require("evaluate", f"{caller.zone}:{caller.name}"),
        moved=lambda: state.store.revocations_seen + state.store.current.generation,
        require_fresh=rooms.authenticator.require_fresh,
    )
    _document(app, openapi_paths())
    limits = RequestLimits(
        limiter,
        base.metrics,
        anonymous_per_minute=base.settings.rate_limit_anonymous,
        authenticated_per_minute=base.settings.rate_limit_authenticated,
        prefixes=("/api/", "/console/", "/evidence/", "/scim/"),
        identify=_identify(rooms),
        per_minute=_per_minute(base, state),
    )
    sealer = CurrentSealer(base.sealer)
    state.on_sealer.append(sealer.replace)
    return Front(
        Switched(
            Idempotency(
                Settled(RefreshLane(app, rooms.sign_ins), rooms.revocations.applied),
                base.database,
                base.clock,
                sealer,
                _authenticate(rooms),
            ),
            _off(state),
        ),
        {("POST", _EVALUATE): cast(ASGIApp, evaluate)},
        ids=base.ids,
        clock=base.clock,
        metrics=base.metrics,
        slow_ms=base.settings.slow_ms,
        trusted_proxies=base.settings.trusted_proxies,
        cors_origins=base.settings.cors_origins,
        on_request=_access_writer(access_log),
        limits=limits,
        large_bodies=LARGE_BODIES,
    )


def _off(state: WorkerState) -> Callable[[str], frozenset[str]]:
    def off(zone: str) -> frozenset[str]:
        known = state.store.current.zones.get(zone)
        return known.off if known is not None else frozenset()

    return off


def _authenticate(rooms: Rooms) -> Any:
    async def authenticate(request: Request) -> Caller:
        credential, request.state.by_cookie = rooms.cookies.presented(request.scope)
        if not credential:
            raise Unauthenticated(reason="authentication_required")
        return rooms.authenticator.caller(credential, request.state.zone)

    return authenticate


def _step_up(rooms: Rooms) -> RequireStepUp:
    async def step_up(request: Request, caller: Caller) -> None:
        await rooms.sign_ins.require_privileged(caller, request.state.ip)

    return step_up


def _identify(rooms: Rooms) -> Callable[[Scope], str | None]:
    """The caller of a request that carries a live session token, by the worker's memory."""

    def identify(scope: Scope) -> str | None:
        zone = scope["state"]["zone"]
        try:
            credential, _ = rooms.cookies.presented(scope)
            caller = rooms.authenticator.caller(credential, zone) if credential else None
        except BailiwickError:
            return None
        if caller is None:
            return None
        scope["state"]["role"] = caller.role
        if caller.key:
            scope["state"]["key"] = caller.key
            return f"{zone}:key:{caller.key}"
        return f"{zone}:{caller.name}"

    return identify


def _per_minute(base: Foundations, state: WorkerState) -> Callable[[Scope, bool], int]:
    """Requests a minute, as the zone's rate limiting policy says; where it says nothing usable, as configured."""
    known: dict[tuple[str, str, str | None], int] = {}

    def per_minute(scope: Scope, authenticated: bool) -> int:
        zone, role = scope["state"]["zone"], scope["state"].get("role", "") if authenticated else ""
        own = state.store.current.zones[zone].api_keys.get(scope["state"].get("key", "")) if authenticated else None
        if own is not None and own.rate_limit is not None:
            return own.rate_limit
        decider = state.deciders.get(zone)
        key = (zone, role, decider.policy_set if decider else None)
        if key not in known:
            settings = base.settings
            configured = settings.rate_limit_authenticated if authenticated else settings.rate_limit_anonymous
            question = {"authenticated": authenticated, "user": {"role": role}, "configured": configured}
            said = decider.rule("data.sark.rate_limiting.limit", question) if decider else None
            if len(known) > 1000:
                known.clear()
            known[key] = said if type(said) is int and said > 0 else configured
        return known[key]

    return per_minute


def _principal(state: WorkerState) -> Any:
    def principal(zone: str, username: str) -> tuple[str, bool] | None:
        known = state.store.current.zones.get(zone)
        user = known.users.get(username) if known else None
        return (user.role, user.is_active) if user else None

    return principal


def _check_observer(base: Foundations) -> Any:
    checks, seconds = base.metrics.gateway_checks, base.metrics.gateway_check_seconds

    def observe(outcome: str, reason: str, took: float) -> None:
        checks.inc(outcome, reason)
        seconds.observe(took)

    return observe


def spool_shower(metrics: Metrics, spool: Spool, syncs: deque[float]) -> Callable[[], None]:
    """Carries the spool's own figures over to the metrics, each time those are flushed.

    ``syncs`` are the seconds of each sync since; the spool's thread puts them in.
    """
    appended = refused = written = 0

    def show() -> None:
        nonlocal appended, refused, written
        now_appended, now_refused, now_written = spool.appended, spool.refused, spool.written
        metrics.spool_events.inc(now_appended - appended)
        metrics.spool_failures.inc(now_refused - refused)
        metrics.spool_bytes.inc(now_written - written)
        appended, refused, written = now_appended, now_refused, now_written
        metrics.spool_backlog_bytes.set(spool.queued_bytes)
        while syncs:
            metrics.spool_fsync_seconds.observe(syncs.popleft())

    return show


def _decision_observer(base: Foundations) -> Any:
    decisions, seconds, cache = base.metrics.decisions, base.metrics.decision_seconds, base.metrics.decision_cache

    def observe(outcome: str, reason: str, cached: bool, took: float) -> None:
        decisions.inc(outcome, reason)
        cache.inc("hit" if cached else "miss")
        seconds.observe(took)

    return observe


def _metrics_routes(base: Foundations, rooms: Rooms) -> APIRouter:
    router = APIRouter(tags=["health"])

    beyond = {status: {"description": "Asked from beyond loopback"} for status in (401, 403)}

    @router.get(
        "/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse, responses=cast(Any, beyond)
    )
    async def metrics(request: Request) -> Response:
        """The figures of all processes of this machine. Beyond loopback a bearer with metrics:read is needed."""
        if request.state.ip not in {"127.0.0.1", "::1", ""}:
            _require_metrics_reader(base.settings, rooms, request)
        return Response(
            await asyncio.to_thread(base.metrics.collect_text), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


def _require_metrics_reader(settings: Settings, rooms: Rooms, request: Request) -> None:
    token = request.headers.get("authorization", "").partition(" ")[2]
    import hmac

    own = _secret(settings.metrics_token)
    if own and hmac.compare_digest(own.encode(), token.encode()):
        return
    if not token:
        raise Unauthenticated(reason="authentication_required")
    if not rooms.authenticator.caller(token, request.state.zone).may(Permission.METRICS_READ):
        raise Denied(permission=str(Permission.METRICS_READ))


def _access_writer(access_log: AccessLog) -> Any:
    def write(record: RequestRecord) -> None:
        access_log.add(
            AccessRow(
                datetime.fromtimestamp(record.at, UTC),
                record.zone,
                record.request_id,
                record.caller,
                record.method,
                record.route,
                record.status,
                record.duration_us,
                record.ip,
            )
        )

    return write


async def _database_state(base: Foundations) -> str:
    try:
        async with asyncio.timeout(2), base.database.begin() as tx:
            await tx.value("SELECT 1")
    except (Unavailable, TimeoutError):
        return health.DOWN
    return health.UP


async def _policy_state(state: WorkerState) -> str:
    faulty = any(loaded.fault for loaded in state.policies.values())
    return health.DOWN if faulty or state.decider("default").policy_set is None else health.UP


async def _disabled() -> str:
    return health.DISABLED


async def _figures(base: Foundations) -> Mapping[str, int]:
    try:
        async with asyncio.timeout(2), base.database.begin() as tx:
            row = await tx.one(
                "SELECT (SELECT count(*) FROM sessions WHERE ended_at IS NULL AND expires_at > :now) AS sessions,"
                " (SELECT count(*) FROM servers) AS servers",
                now=base.clock.now(),
            )
    except (Unavailable, TimeoutError):
        return {}
    return {"active_sessions": row["sessions"], "total_servers": row["servers"]} if row else {}


async def _away(providers: Providers) -> Sequence[Mapping[str, Any]]:
    try:
        async with asyncio.timeout(2):
            return await providers.away()
    except (Unavailable, TimeoutError):
        return []  # the database's own state tells of it


async def _end_tails(background: Background, tails: Tails) -> None:
    """A worker that stops ends its tails: they would keep it for as long as somebody listens."""
    await background.stopping.wait()
    tails.close()


async def _note_keys_used(rooms: Rooms) -> None:
    while True:
        await asyncio.sleep(_KEY_USE_S)
        used, rooms.authenticator.keys_used = rooms.authenticator.keys_used, {}
        if used:
            try:
                await rooms.api_keys.note_use(used)
            except Unavailable:
                rooms.authenticator.keys_used = {**used, **rooms.authenticator.keys_used}


async def _beat(register: WorkerRegister, state: WorkerState) -> None:
    while True:
        await asyncio.sleep(_HEARTBEAT_S)
        try:
            await register.confirm(state.reader.revision)
        except Unavailable:
            continue  # the feed's age tells of it


async def _report_policies(state: WorkerState, rooms: Rooms) -> None:
    """Tell the history what this worker saw of the active sets, for known-good and suspect marks."""
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    while True:
        await asyncio.sleep(_HEARTBEAT_S)
        for zone, decider in state.deciders.items():
            running, stats = decider.policy_set, decider.stats
            decided, errors = seen.get((zone, running or ""), (0, 0))
            if running is None or stats.decisions == decided:
                continue
            try:
                await rooms.known_good.note(
                    zone,
                    running,
                    decisions=stats.decisions - decided,
                    fault="policy_runtime_error" if stats.errors > errors else None,
                )
            except Unavailable:
                continue
            seen[(zone, running)] = (stats.decisions, stats.errors)


def _document(app: FastAPI, paths: Mapping[str, Any]) -> None:
    """Have the OpenAPI document tell of endpoints that FastAPI does not serve, and of every refusal."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        if not paths.keys() <= schema["paths"].keys():
            schema["paths"].update(paths)
            describe_refusals(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _bench_port(settings: Settings) -> int | None:
    port = os.environ.get("BAILIWICK_BENCH_TCP_PORT")
    return int(port) if port and settings.dev else None


def _secret(value: Any) -> str | None:
    return value.get_secret_value() if value is not None else None
