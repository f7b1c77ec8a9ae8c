"""``POST /api/v1/authz/evaluate``: one decision over HTTP, on the hot path.

Raw ASGI over the worker's memory: no database call and no lock before the answer. The decision is durable before it is
told. Two forms are taken: ``{"user_id", "resource", "action"}``, where the zone says what role the user has, and
``{"input": {…}}``, which puts a question of any shape and needs ``decisions:evaluate-others``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Network, Recorder, Subject, encode
from bailiwick.evidence.inputs import DETAIL, digest_of
from bailiwick.evidence.requests import actor_of
from bailiwick.kernel.errors import BailiwickError, Denied, InvalidRequest, Unauthenticated
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.permissions import Permission, Role, allowed
from bailiwick.kernel.problems import send_problem
from bailiwick.policy.decisions import Decider, Decision
from bailiwick.policy.inputs import evaluate_input

PATH = "/api/v1/authz/evaluate"
MAX_BODY_BYTES = 64 * 1024
MAX_WORD = 500
_KNOWN_QUESTIONS = 2048
_KNOWN_QUESTION_BYTES = 1024
_MAX_REASONS = 20
_OUR_REASONS = frozenset({"policy_denied", "policy_error", "no_active_policy", "unknown_user", "account_disabled"})
_ANSWER_HEADERS = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_MAY_ASK_FOR_OTHERS = {str(role): allowed(role, Permission.EVALUATE_OTHERS) for role in Role}

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_WORD)]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """The body: either the three words, or an input."""

    user_id: Word | msgspec.UnsetType = msgspec.UNSET
    resource: Word | msgspec.UnsetType = msgspec.UNSET
    action: Word | msgspec.UnsetType = msgspec.UNSET
    input: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Prepared(NamedTuple):
    """A question, the input it makes for a user of ``role``, and that input's canonical bytes and digest."""

    question: Question
    role: str
    document: dict[str, Any]
    canonical: bytes
    digest: str


class Answer(msgspec.Struct):
    """What is answered. ``policy_revision`` is null while the zone has no active policy."""

    allowed: bool
    reasons: tuple[str, ...]
    policy_revision: str | None
    decision_id: str


class Evidence(Protocol):
    """Where decisions are recorded (``evidence.recording.WorkerEvidence``)."""

    def event(self, zone: str, body: bytes) -> Awaitable[None]:
        """Make an event durable; raises ``evidence_unavailable``."""
        ...

    def decision_input(self, zone: str, digest: str, body: bytes) -> None:
        """Keep a decision's input, once per digest; it becomes durable with the next event."""
        ...


class Observe(Protocol):
    """Feeds the metrics. ``reason`` is one of a closed set, ``seconds`` the time to decide, without evidence."""

    def __call__(self, outcome: str, reason: str, cached: bool, seconds: float) -> None: ...


class Evaluate:
    """The ASGI app.

    ``authenticate(token, zone)`` answers the caller or raises ``Unauthenticated``; ``principal(zone, user_id)`` answers
    (role, active), or None for a user the zone does not have; ``limit(caller)`` raises ``rate_limited``; ``moved()``
    answers another number once revocations or principals changed; ``require_fresh()`` raises ``revocation_stale``. All
    only look into memory. The front leaves ``zone``, ``request_id``, ``client_request_id``, ``trace_id`` and ``ip`` in
    ``scope["state"]``.
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[str, str], Caller],
        principal: Callable[[str, str], tuple[str, bool] | None],
        decider: Callable[[str], Decider],
        evidence: Evidence,
        recorder: Recorder,
        ids: Ids,
        monotonic: Callable[[], float],
        observe: Observe,
        limit: Callable[[Caller], None] | None = None,
        moved: Callable[[], int],
        require_fresh: Callable[[], None],
    ) -> None:
        self._authenticate = authenticate
        self._principal = principal
        self._decider = decider
        self._evidence = evidence
        self._recorder = recorder
        self._ids = ids
        self._monotonic = monotonic
        self._observe = observe
        self._limit = limit
        self._moved = moved
        self._require_fresh = require_fresh
        # services ask the same questions over and over; what a question says does not depend on who asks or when
        self._known: dict[tuple[str, bytes], Prepared] = {}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        state = scope["state"]
        try:
            body = await self._answer(scope, state, receive)
        except BailiwickError as error:
            await send_problem(send, error, state["request_id"], PATH)
            return
        if body is not None:
            headers = [*_ANSWER_HEADERS, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: dict[str, Any], state: dict[str, Any], receive: Receive) -> bytes | None:
        """The answer; None when the caller has gone."""
        zone = state["zone"]
        token, user_agent = _read_headers(scope["headers"])
        seen = self._moved()
        caller = state["caller"] = self._authenticate(token, zone)
        if caller.must_change_password:
            raise Denied(reason="password_change_required")
        if self._limit is not None:
            self._limit(caller)
        message = await receive()
        if message["type"] != "http.request":
            return None
        body = message.get("body", b"")
        if message.get("more_body", False):
            rest = await _read_rest(receive)
            if rest is None:
                return None
            body += rest
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        known = self._known.get((zone, body))
        question = known.question if known is not None else read_question(body)
        context = Context(
            zone,
            actor_of(caller),
            Network(state.get("ip", ""), user_agent),
            state["request_id"],
            state.get("client_request_id", ""),
            state.get("trace_id", ""),
        )
        if question.user_id != caller.name and not _may_ask_for_others(caller):
            await self._refused(context, question, "permission_denied")
            raise Denied(
                "Deciding for others, or on an input of your own making, needs the permission "
                f"{Permission.EVALUATE_OTHERS}.",
                permission=str(Permission.EVALUATE_OTHERS),
            )
        user_id = question.user_id
        while True:
            found = None if user_id is msgspec.UNSET else self._principal(zone, user_id)
            role = found[0] if found is not None else ""
            if known is None or known.role != role:
                known = self._prepare(zone, body, question, role)
            answer = await self._record(context, known, self._decide(zone, known, found))
            try:
                # while the disk was busy the caller's session may have ended, or the feed gone stale
                self._require_fresh()
                if (moved := self._moved()) == seen:
                    return answer
                seen = moved
                self._authenticate(token, zone)
            except BailiwickError as error:
                # the event before told of an answer that nobody gets
                await self._refused(context, question, error.reason)
                raise
            if user_id is msgspec.UNSET or self._principal(zone, user_id) == found:
                return answer

    def _prepare(self, zone: str, body: bytes, question: Question, role: str) -> Prepared:
        if question.user_id is msgspec.UNSET:
            document = _full_document(zone, question)
        else:
            document = evaluate_input(zone, question.user_id, role, str(question.action), question.resource)
        try:
            canonical = _encode_canonical(document)
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise InvalidRequest("The input holds a value that cannot be recorded.") from None
        prepared = Prepared(question, role, document, canonical, digest_of(canonical))
        if len(body) <= _KNOWN_QUESTION_BYTES:
            if len(self._known) >= _KNOWN_QUESTIONS:
                self._known.clear()
            self._known[zone, body] = prepared
        return prepared

    def _decide(self, zone: str, prepared: Prepared, found: tuple[str, bool] | None) -> Decision:
        started = self._monotonic()
        decider = self._decider(zone)
        if prepared.question.user_id is msgspec.UNSET:
            decision = decider.decide(prepared.document)
        elif found is None:
            decision = Decision(False, ("unknown_user",), decider.policy_set or "")
        elif not found[1]:
            decision = Decision(False, ("account_disabled",), decider.policy_set or "")
        else:
            decision = decider.decide(prepared.document)
        outcome, reason = "allow", ""
        if not decision.allowed:
            reason = decision.reasons[0] if decision.reasons[0] in _OUR_REASONS else "policy_denied"
            outcome = "error" if decision.error else "deny"
        self._observe(outcome, reason, decision.cached, self._monotonic() - started)
        return decision

    async def _record(self, context: Context, prepared: Prepared, decision: Decision) -> bytes:
        """Make the decision durable, and only then the answer."""
        question = prepared.question
        self._evidence.decision_input(context.zone, prepared.digest, prepared.canonical)
        user_id = question.user_id
        event = self._recorder.make(
            codes.DECISION_EVALUATED,
            "allow" if decision.allowed else "error" if decision.error else "deny",
            context,
            subject=Subject(user_id, "user") if user_id is not msgspec.UNSET else None,
            policy_set=decision.policy_set,
            reasons=_recordable(decision.reasons),
            **_details(question, prepared.digest, decision),
        )
        await self._evidence.event(context.zone, encode(event))
        return _encode(Answer(decision.allowed, decision.reasons, decision.policy_set or None, event.id))

    async def _refused(self, context: Context, question: Question, reason: str) -> None:
        user_id = question.user_id
        event = self._recorder.make(
            codes.ACCESS_REFUSED,
            "deny",
            context,
            subject=Subject(user_id, "user") if user_id is not msgspec.UNSET else None,
            reasons=(reason,),
            route=PATH,
        )
        await self._evidence.event(context.zone, encode(event))


def _may_ask_for_others(caller: Caller) -> bool:
    return _MAY_ASK_FOR_OTHERS.get(caller.role, False) and (
        caller.permissions is None or Permission.EVALUATE_OTHERS in caller.permissions
    )


# --- reading ------------------------------------------------------------------------------------------------------

_decode = msgspec.json.Decoder(Question).decode
_encode = msgspec.json.Encoder().encode
_encode_canonical = msgspec.json.Encoder(order="deterministic").encode


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member of an object stands twice")
    return found


_decode_strictly = json.JSONDecoder(object_pairs_hook=_once).decode


def read_question(body: bytes) -> Question:
    """The body as one of the two forms. Raises ``InvalidRequest`` for everything else, at any depth or length."""
    try:
        question = _decode(body)
        # what stands twice means two things to two readers, so it means nothing to us; six strings without an escape
        # are the three words and their three values
        if question.user_id is msgspec.UNSET or body.count(b'"') != 12 or b"\\" in body:
            _decode_strictly(body.decode())
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)[:200]) from None
    except (ValueError, RecursionError) as error:
        twice = "stands twice" in str(error)
        raise InvalidRequest("A member of an object stands twice." if twice else "The body is not JSON.") from None
    words = (question.user_id, question.resource, question.action)
    if question.input is not msgspec.UNSET:
        if any(word is not msgspec.UNSET for word in words):
            raise InvalidRequest("Send user_id, resource and action, or input, not both.")
    else:
        for word in words:
            if word is msgspec.UNSET:
                raise InvalidRequest("Send user_id, resource and action, or input.")
            if "\x00" in word:
                raise InvalidRequest("A word holds a NUL character.")
    return question


def _read_headers(headers: list[tuple[bytes, bytes]]) -> tuple[str, str]:
    """The bearer token and the user agent; refuses another content type, or two credentials."""
    token: bytes | None = None
    user_agent = media_type = b""
    for name, value in headers:
        if name == b"authorization":
            if token is not None:
                raise BailiwickError(reason="ambiguous_request")
            token = value
        elif name == b"content-type":
            media_type = value
        elif name == b"x-api-key":
            if token is not None:
                raise BailiwickError(reason="ambiguous_request")
            token = b"Bearer " + value
        elif name == b"user-agent":
            user_agent = value
        elif name == b"content-length" and (not value.isdigit() or len(value) > 6 or int(value) > MAX_BODY_BYTES):
            raise _too_large()
    if token is None:
        raise Unauthenticated(reason="authentication_required")
    if token[:7].lower() != b"bearer ":
        raise Unauthenticated(reason="invalid_token")
    if media_type != b"application/json" and media_type.split(b";", 1)[0].strip().lower() != b"application/json":
        raise BailiwickError("Send application/json.", reason="unsupported_media_type")
    return token[7:].strip().decode("latin-1"), user_agent[:256].decode("latin-1")


async def _read_rest(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        parts.append(part)
        length += len(part)
        if length > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large() -> BailiwickError:
    # the rest of the body is not read, so nothing can follow on this connection
    return BailiwickError(
        f"The body is at most {MAX_BODY_BYTES} bytes.", reason="payload_too_large", headers={"connection": "close"}
    )


def _full_document(zone: str, question: Question) -> dict[str, Any]:
    """The input as sent, with the zone it is asked in and the stage unless it names one."""
    document = question.input
    assert document is not msgspec.UNSET
    if document.setdefault("zone", zone) != zone:
        raise InvalidRequest("The input names another zone.")
    document.setdefault("stage", "evaluate")
    return document


# --- recording ----------------------------------------------------------------------------------------------------


def _details(question: Question, digest: str, decision: Decision) -> dict[str, Any]:
    details: dict[str, Any] = {DETAIL: digest}
    if question.user_id is not msgspec.UNSET:
        details["action"] = question.action
        details["resource"] = question.resource
    if decision.error:
        details["fault"] = decision.error
    return details


def _recordable(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Reasons as an event keeps them: a policy may build long ones out of what it was asked."""
    if len(reasons) == 1 and len(reasons[0]) <= MAX_WORD:
        return reasons
    return tuple(reason[:MAX_WORD] for reason in reasons[:_MAX_REASONS])


# --- describing ---------------------------------------------------------------------------------------------------


def openapi_paths() -> dict[str, Any]:
    """The endpoint's part of the OpenAPI document's ``paths``; ``kernel/api_document.py`` gives refusals their form."""
    word = {"type": "string", "minLength": 1, "maxLength": MAX_WORD, "pattern": "^[^\\x00]*$"}
    refusals = {
        "400": "The body is malformed, or something stands twice",
        "401": "No live token of this zone",
        "403": "The caller may not ask this",
        "413": "The body is larger than 64 KiB",
        "415": "Not application/json",
        "429": "Too many requests",
        "503": "The decision could not be recorded, or revocations are not up to date",
    }
    return {
        PATH: {
            "post": {
                "tags": ["policies"],
                "summary": "Decide",
                "description": (
                    "Everyone may ask for himself. Asking for others, and the full form (`input`), needs "
                    "`decisions:evaluate-others`. The decision is in the evidence before it is answered."
                ),
                "operationId": "evaluate",
                "security": [{"HTTPBearer": []}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "oneOf": [
                                    {
                                        "type": "object",
                                        "title": "For a user",
                                        "required": ["user_id", "resource", "action"],
                                        "additionalProperties": False,
                                        "properties": {"user_id": word, "resource": word, "action": word},
                                    },
                                    {
                                        "type": "object",
                                        "title": "On an input",
                                        "required": ["input"],
                                        "additionalProperties": False,
                                        "properties": {"input": {"type": "object"}},
                                    },
                                ]
                            },
                            "example": {"user_id": "test.user", "resource": "servers", "action": "read"},
                        }
                    },
                },
                "responses": {
                    "200": {
                        "description": "The decision",
                        "content": {
                            "application/json": {
                                "schema": {
                                    "type": "object",
                                    "required": ["allowed", "reasons", "policy_revision", "decision_id"],
                                    "properties": {
                                        "allowed": {"type": "boolean"},
                                        "reasons": {"type": "array", "items": {"type": "string"}},
                                        "policy_revision": {"type": ["string", "null"]},
                                        "decision_id": {"type": "string", "format": "uuid"},
                                    },
                                }
                            }
                        },
                    },
                    **{status: {"description": told} for status, told in refusals.items()},
                },
            }
        }
    }
