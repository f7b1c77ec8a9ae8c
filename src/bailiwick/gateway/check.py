"""The check: Envoy asks it before every governed request, and what it answers decides.

It reads the worker's memory only. In order: the request is parsed and bounded, the server found, the mandate verified,
revocation and freshness looked up, the operation matched, the scope compared, policy asked, the credential found; then
the decision is made durable; then revocation is looked up once more, because the feed may have moved while the disk was
busy; then the answer leaves. Anything that goes wrong on the way is a refusal with a reason.

The answer carries the upstream's credential, so this app listens on a socket of its own in a private directory and is
mounted nowhere else. A refusal of 5xx kind is answered as 470 or 472: Envoy takes a real 5xx of the check for a fault
of the check and drops its body; its local-reply mapping turns these back into 503 and 502.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from bailiwick.authority.authenticate import Authenticator, Presented
from bailiwick.authority.rfc8693 import Principal, denial, policy_input
from bailiwick.authority.snapshot import SnapshotStore, ZoneState
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Network, Recorder, encode
from bailiwick.evidence.inputs import DETAIL, digest_of
from bailiwick.gateway.authority_ref import AuthorityRef
from bailiwick.gateway.request import PREFIX, GatewayRequest, parse
from bailiwick.identity.loader import ApplicationEntry
from bailiwick.inventory.loader import ServerEntry
from bailiwick.inventory.operations import Operation
from bailiwick.kernel.errors import BailiwickError, Denied, NotFound, Unauthenticated, Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.problems import problem_bytes
from bailiwick.policy.decisions import Decider, Decision

_AS_REFUSAL = {500: 470, 502: 472, 503: 470, 504: 472}
_EMPTY = {"type": "http.response.body", "body": b""}
_UNRECORDED = "evidence_unavailable"

_encode_input = msgspec.json.Encoder(order="deterministic").encode


class Ledgering(Protocol):
    """Where the check leaves its evidence."""

    def event_then(self, zone: str, body: bytes, done: Callable[[Exception | None], None]) -> None:
        """Make an event durable, then call ``done`` with None, or with the failure.

        Raises ``Unavailable`` with ``evidence_unavailable`` when that cannot even be tried.
        """
        ...

    def decision_input(self, zone: str, digest: str, body: bytes) -> None:
        """Keep a decision's input, once per digest; flushed with the next event."""
        ...


class Answer(NamedTuple):
    """What Envoy is told."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(slots=True)
class Case:
    """What is known of one request so far; a refusal records as much as there is.

    ``answer`` takes the answer once the verdict is durable. ``error`` is the refusal. ``hour`` and ``verdict``: what is
    counted of the event that is being made durable.
    """

    request_id: str
    answer: Callable[[Answer], None]
    started: float = 0.0
    seen: int = 0
    error: BailiwickError | None = None
    zone: str = "default"
    hour: str = ""
    verdict: str = ""
    request: GatewayRequest | None = None
    state: ZoneState | None = None
    server: ServerEntry | None = None
    presented: Presented | None = None
    operation: Operation | None = None
    decision: Decision | None = None
    input_digest: str = ""


class Check:
    """The ASGI app behind Envoy's ext_authz.

    ``decider(zone)`` answers the zone's policy decider; ``observe(outcome, reason, seconds)`` feeds the metrics;
    ``limit(application)`` raises ``rate_limited`` when an application has had its share. ``count(zone, hour, verdict)``
    is told of every verdict that is durable.
    """

    def __init__(
        self,
        store: SnapshotStore,
        authenticator: Authenticator,
        decider: Callable[[str], Decider],
        ledgering: Ledgering,
        recorder: Recorder,
        ids: Ids,
        *,
        monotonic: Callable[[], float],
        observe: Callable[[str, str, float], None],
        limit: Callable[[ApplicationEntry], None] | None = None,
        count: Callable[[str, str, str], None] = lambda zone, hour, verdict: None,
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._decider = decider
        self._ledgering = ledgering
        self._recorder = recorder
        self._ids = ids
        self._monotonic = monotonic
        self._observe = observe
        self._limit = limit
        self._count = count

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """The check as an ASGI app. In service ``check_server.py`` drives the same steps without a task a request."""
        if not scope["raw_path"].startswith(PREFIX):
            # not on behalf of a request: Envoy asks whether this loop turns
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send(_EMPTY)
            return
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.judge(scope, answered.set_result)
        answer = await answered
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    def judge(self, scope: dict[str, Any], answer: Callable[[Answer], None]) -> None:
        """Judge a request, record the verdict, and then call ``answer``, at once or from the event loop.

        ``scope`` needs ``method``, ``raw_path``, ``query_string`` and ``headers`` as ASGI has them. Never raises for
        what a caller sent.
        """
        case = Case(self._ids(), answer, self._monotonic(), self._store.revocations_seen)
        try:
            self._judge(scope, case)
        except BailiwickError as error:
            case.error = error
        self._record(case)

    def _conclude(self, case: Case, unrecorded: Exception | None) -> None:
        """Answer, now that the verdict is durable or could not be made so; record anew if it changed meanwhile."""
        if unrecorded is not None:
            case.error = unrecorded if isinstance(unrecorded, BailiwickError) else Unavailable(reason=_UNRECORDED)
        else:
            self._count(case.zone, case.hour, case.verdict)
        if case.error is None:
            try:
                self._authenticator.require_fresh()
                if self._moved(case):
                    presented = case.presented
                    assert presented is not None
                    case.seen, case.state = self._store.revocations_seen, self._store.current.zones.get(case.zone)
                    self._authenticator.require_live(presented.mandate, self._store.current.zone(case.zone))
                    assert case.state is not None and case.server is not None
                    _require_open(case.state, case.state.servers.get(case.server.name, case.server))
            except BailiwickError as error:
                case.error = error
                self._record(case)
                return
        took = self._monotonic() - case.started
        if case.error is None:
            self._observe("allow", "", took)
            case.answer(Answer(200, self._passing_headers(case), b""))
        else:
            self._observe("deny", case.error.reason, took)
            case.answer(_refusal(case.error, case.request_id))

    def _moved(self, case: Case) -> bool:
        """Whether anything changed since the request was judged."""
        store = self._store
        return store.revocations_seen != case.seen or store.current.zones.get(case.zone) is not case.state

    def _record(self, case: Case) -> None:
        error = case.error
        reasons: tuple[str, ...] = ()
        if error is not None:
            reasons = (error.reason, *(reason for reason in error.extra.get("reasons", ()) if reason != error.reason))
        body = self._event(case, "deny" if error else "allow", reasons)
        try:
            self._ledgering.event_then(case.zone, body, lambda failure: self._conclude(case, failure))
        except BailiwickError as unavailable:
            self._conclude(case, unavailable)

    @staticmethod
    def _passing_headers(case: Case) -> list[tuple[bytes, bytes]]:
        server, presented = case.server, case.presented
        assert server is not None and presented is not None
        headers = [(b"content-length", b"0"), (b"x-request-id", case.request_id.encode())]
        if server.presented is not None:
            headers.append((b"x-bailiwick-credential", server.presented.value.encode("latin-1")))
        if case.operation is not None and case.operation.long_lived:
            headers.append((b"x-bailiwick-long-lived", b"1"))
            headers.append((b"x-bailiwick-authority", _reference(presented, server.name).encode().encode()))
        return headers

    def _judge(self, scope: dict[str, Any], case: Case) -> None:
        request = case.request = parse(scope)
        self._find_server(request, case)
        server, state = case.server, case.state
        assert server is not None and state is not None
        _require_open(state, server)
        if not request.token:
            raise Unauthenticated(reason="authentication_required")
        self._authenticator.require_fresh()
        presented = case.presented = self._authenticator.mandate(request.token, state)
        mandate = presented.mandate
        if mandate.aud != server.audience:
            raise Unauthenticated(reason="wrong_audience")
        self._authenticator.require_live(mandate, state)
        if self._limit is not None:
            self._limit(state.applications[mandate.client_id])
        if server.operations is None:
            raise Unavailable(reason="no_binding")
        operation = case.operation = server.operations.match(request.method, request.path)
        if operation is None:
            raise Denied(reason="operation_not_listed")
        if operation.scope not in presented.scopes:
            raise Denied(reason="insufficient_scope", scope=operation.scope)
        self._decide(case, state, server, presented, operation, request)
        if server.refusal is not None:
            raise Unavailable(reason=server.refusal)
        if request.route != server.route or request.binding != server.binding_tag:
            # Envoy would present this credential by an older binding; it takes the new one up within a second
            raise Unavailable(reason="route_pending", headers={"retry-after": "1"})

    def _find_server(self, request: GatewayRequest, case: Case) -> None:
        """The one server that path, header and host agree on."""
        named = set(request.named)
        by_host = self._store.current.hosts.get(request.host.rsplit(":", 1)[0] if ":" in request.host else request.host)
        if by_host is not None:
            named.add(by_host)
        if len(named) > 1:
            raise BailiwickError(reason="conflicting_server")
        if not named:
            raise NotFound(reason="unknown_server")
        zone, name = named.pop()
        state = self._store.current.zones.get(zone)
        if state is None:
            raise NotFound(reason="unknown_server")
        case.zone, case.state = zone, state
        case.server = state.servers.get(name)
        if case.server is None:
            raise NotFound(reason="unknown_server")

    def _decide(
        self,
        case: Case,
        state: ZoneState,
        server: ServerEntry,
        presented: Presented,
        operation: Operation,
        request: GatewayRequest,
    ) -> None:
        decider = self._decider(state.name)
        generation = (self._store.current.generation, decider.generation)
        if presented.generation != generation:
            presented.generation, presented.memo = generation, {}
        # without the path the question is the same for every request of this mandate to this operation
        by_path = decider.reads(("operation", "path"))
        key = (server.name, operation)
        known = None if by_path else presented.memo.get(key)
        if known is None:
            question = self._question(state, server, presented, operation, request, by_path)
            body = _encode_input(question)
            known = (decider.decide(question), digest_of(body), body)
            if not by_path and known[0].error is None:
                presented.memo[key] = known  # as many as the server has operations
        case.decision, case.input_digest, body = known
        self._ledgering.decision_input(state.name, case.input_digest, body)
        if not case.decision.allowed:
            raise denial(case.decision)

    def _question(
        self,
        state: ZoneState,
        server: ServerEntry,
        presented: Presented,
        operation: Operation,
        request: GatewayRequest,
        by_path: bool,
    ) -> dict[str, Any]:
        mandate = presented.mandate
        application = state.applications[mandate.client_id]
        if mandate.sub_type == "user":
            subject = Principal("user", mandate.sub, state.users[mandate.sub].role, mandate.amr, mandate.auth_time)
        else:
            subject = Principal("application", application.name, application.role)
        described = {"method": operation.method, "template": operation.path, "scope": operation.scope}
        if by_path:
            described["path"] = request.path
        return policy_input(
            stage="request",
            zone=state.name,
            subject=subject,
            application=application,
            server_name=server.name,
            server_tags=server.tags,
            scopes=mandate.scopes,
            scope=operation.scope,
            operation=described,
        )

    def _event(self, case: Case, outcome: str, reasons: tuple[str, ...] = ()) -> bytes:
        request, presented, operation, decision = case.request, case.presented, case.operation, case.decision
        details: dict[str, Any] = {}
        actor = Actor()
        context_ids: dict[str, str] = {}
        network = Network()
        if request is not None:
            details["method"] = request.method
            details["path"] = request.path[:512]
            context_ids = {"client_request_id": request.client_request_id, "trace_id": request.trace_id}
            network = Network(request.peer, request.user_agent)
        if presented is not None:
            actor = presented.actor
        if operation is not None:
            details["operation"] = f"{operation.method} {operation.path}"
            details["scope"] = operation.scope
        if case.input_digest:
            details[DETAIL] = case.input_digest
        if outcome == "allow" and case.server is not None and case.server.credential_name:
            details["credential"] = case.server.credential_name
        case.verdict = outcome
        event = self._recorder.make(
            codes.GATEWAY_ALLOWED if outcome == "allow" else codes.GATEWAY_DENIED,
            "allow" if outcome == "allow" else "deny",
            Context(case.zone, actor, network, case.request_id, **context_ids),
            server=case.server.name if case.server else "",
            policy_set=decision.policy_set if decision else "",
            reasons=reasons,
            **details,
        )
        case.hour = event.at[:13]
        return encode(event)


def _require_open(state: ZoneState, server: ServerEntry) -> None:
    """Refuse what an operator closed."""
    if state.closed:
        raise Unavailable(reason="gateway_closed")
    if server.closed:
        raise Unavailable(reason="server_closed")


def _refusal(error: BailiwickError, request_id: str) -> Answer:
    body = problem_bytes(error, request_id)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    if error.status == 401 and "WWW-Authenticate" not in error.headers:
        headers.append((b"www-authenticate", _challenge(error).encode()))
    return Answer(_AS_REFUSAL.get(error.status, error.status), headers, body)


def _reference(presented: Presented, server: str) -> AuthorityRef:
    mandate = presented.mandate
    return AuthorityRef(
        jti=mandate.jti,
        client=mandate.client_id,
        subject=mandate.sub if mandate.sub_type == "user" else "",
        session=mandate.sid,
        zone=mandate.zone,
        server=server,
        kid=presented.kid,
        revision=mandate.rev,
        expires_at=mandate.exp,
    )


def _challenge(error: BailiwickError) -> str:
    """RFC 6750 §3: without a token no error code, else ``invalid_token``."""
    if error.reason == "authentication_required":
        return "Bearer"
    return f'Bearer error="invalid_token", error_description="{error.reason}"'
