"""The loop of access, walked once against our own installation: asked for, decided, used, revoked, refused, recorded.

Every step has an expected value and is compared with what came. A loop makes what it needs (an application, a server, a
credential, an upstream of its own), goes by the public ways in, the token endpoint and the gateway, and takes it all
away again. Beside it the decisions are asked that the zone's book says are known: they tell of policies that allow what
only a policy forbids. Its verdict is bound to a digest: of the release that runs, or of the policy set that is active.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import platform
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol

import aiohttp
import msgspec
import structlog
from aiohttp import web
from yarl import URL

from bailiwick import __version__
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, decode
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.handover.canary.records import GOOD_FOR, Result, add_result
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)

CHECK = "canary.access-loop"
APPLICATION = "access-loop"
NAMED = r"access-loop-[0-9a-f]{8}"
"""What the server and the credential of a loop are called."""
READ, WRITE, BEYOND = "loop:read", "loop:write", "loop:beyond"
KEY_HEADER = "x-loop-key"
_WORD = re.compile(r"[a-z0-9_:. -]{0,100}")
_ANSWER_WITHIN_S = 10.0
_MOST = 64 << 10
_SETTLED_WITHIN_S = 5.0

EXPECTED: Mapping[str, str] = {
    "prepared": "routable",
    "unasked": "401 authentication_required",
    "beyond-grant": "400 grant_exceeded",
    "decided": f"200 {READ}",
    "used": "200 with the server's own credential",
    "beyond-mandate": "403 insufficient_scope",
    "revoked": "held by every worker",
    "refused": "401 token_revoked",
    "replayed": "401 token_revoked",
    "upstream": "1 request, no token of the caller",
    "ledger": "deny, allow, deny, deny, deny",
    "policy": "the policy set that is active",
    "removed": "404 unknown_server",
}
"""The steps in their order, and what each must come to."""

KNOWN = "known/"
"""What the names of steps begin with that are known decisions."""

UNSEEN = "not looked at"
ELSEWHERE: Mapping[str, str] = {"used": "200 of the upstream", "upstream": UNSEEN}
"""What differs where the upstream is not our own listener."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``ref``: the id of the request or the mandate, by which the ledger knows it."""

    name: str
    expected: str
    actual: str
    ref: str = ""

    @property
    def holds(self) -> bool:
        """Whether it came to what it must."""
        return self.expected == self.actual


KnownDecisions = Callable[[Transaction, str], Awaitable[Sequence[Step]]]
"""Asks what the book of a zone says is known; a step for each decision, named :data:`KNOWN` and its own name."""


async def none_known(tx: Transaction, zone: str) -> Sequence[Step]:
    """Where nobody says what is known."""
    return ()


class Fixture(Protocol):
    """Makes and removes what a loop needs, by the rooms' own services."""

    async def make(self, context: Context, name: str, upstream: str, key: str) -> tuple[str, str, str]:
        """A server ``name`` with a credential and the application :data:`APPLICATION` granted to read and write;
        its status, the application's id and secret."""
        ...

    async def revoke(self, context: Context, mandate: str) -> bool:
        """End a mandate; whether every worker refuses it now."""
        ...

    async def remove(self, context: Context, name: str) -> None:
        """Take it all away again, as much of it as there is and can be; then raises what went wrong with the rest."""
        ...


@dataclass(frozen=True, slots=True)
class Ways:
    """Where callers come in: base URLs of a zone's API and of its gateway."""

    api: str
    gateway: str


@dataclass(slots=True)
class _Walk:
    """What is known on the way."""

    name: str
    key: str
    expected: Mapping[str, str]
    steps: list[Step] = field(default_factory=list)
    client: tuple[str, str] = ("", "")
    token: str = ""
    seen: list[Mapping[str, str]] = field(default_factory=list)

    def note(self, name: str, actual: str, ref: str = "") -> None:
        self.steps.append(Step(name, self.expected[name], actual, ref))

    def ref(self, name: str) -> str:
        return next((step.ref for step in self.steps if step.name == name), "")


def verdict_of(steps: Sequence[Step], held: str = "") -> tuple[Verdict, str, str]:
    """The verdict, its reason, and what is told: every step there is must be there and hold.

    ``held``: why the loop itself was not walked, which is no pass; a known decision that is another is still a FAIL.
    """
    wrong = sorted((step for step in steps if not step.holds), key=lambda step: not step.name.startswith(KNOWN))
    if wrong:
        first = wrong[0]
        reason = "known" if first.name.startswith(KNOWN) else "loop"
        return Verdict.FAIL, reason, f"{first.name}: expected {first.expected}, got {first.actual}"
    if held:
        return Verdict.NO_DATA, "held", f"not walked: {held}; {len(steps)} known decisions hold"
    if not steps:
        return Verdict.NO_DATA, "no_data", "no step was made"
    if missing := [name for name in EXPECTED if name not in {step.name for step in steps}]:
        return Verdict.FAIL, "loop", f"not made: {', '.join(missing)}"
    return Verdict.PASS, "", f"all {len(steps)} steps came out as expected"


class AccessLoop:
    """Walks, one at a time in a zone. ``ways(zone)`` tells where callers come in; ``expected`` lets a test see that a
    wrong value is noticed. ``release``: the digest of what runs here, empty where the operator says nothing of it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        records: EvidenceRecords,
        fixture: Fixture,
        ways: Callable[[str], Ways],
        *,
        release: str = "",
        known: KnownDecisions = none_known,
        expected: Mapping[str, str] = EXPECTED,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._records = records
        self._fixture = fixture
        self._ways = ways
        self._release = release
        self._known = known
        self._expected = expected
        self._one = asyncio.Lock()

    async def run(self, context: Context, digest: str = "", upstream: str = "", *, held: str = "") -> Result:
        """Walk the loop and keep what came. ``digest``: what the verdict is about; the active policy set by default.

        ``upstream``: an address that answers GET with 200, where our own listener on loopback may not be an upstream;
        what arrived there is then not looked at. ``held``: why it may not be walked now; only what is known is asked
        then. Raises ``not_found`` where no digest is given and no policy active, ``loop_elsewhere`` for the digest of
        what does not run here, and what a freeze refuses: a loop makes a server and an application.
        """
        active = await self._active_policy(context.zone)
        bound = digest or active
        if not bound:
            raise NotFound("No policy set is active; say which release it is about.")
        if bound not in (active, self._release):
            raise Conflict(reason="loop_elsewhere")
        async with self._one:
            began = self._clock.now()
            expected = {**self._expected, **(ELSEWHERE if upstream else {})}
            walk = _Walk(f"access-loop-{secrets.token_hex(4)}", secrets.token_urlsafe(18), expected)
            if not held:
                await self._whole(context, walk, upstream, active)
                if await self._active_policy(context.zone) != active:
                    raise Conflict("Another policy set became active meanwhile.", reason="loop_elsewhere")
            async with self._database.begin() as tx:
                walk.steps += await self._known(tx, context.zone)
            return await self._keep(context, walk, bound, began, held)

    async def _whole(self, context: Context, walk: _Walk, upstream: str, active: str) -> None:
        """Make, walk, remove. All processes of an installation share one application, so that policies can name it:
        one after the other."""
        async with self._database.begin() as tx, _listening(walk) as own:
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.access-loop'), hashtext(:zone))", zone=context.zone
            )
            async with self._database.begin() as asked:  # of its own: whoever freezes waits for this, and for no loop
                await require_on(asked, context.zone, Switch.FREEZE, Switch.READ_ONLY, Switch.PROVISION)
            try:
                await self._walk(context, walk, upstream or own, upstream == "", active)
            finally:
                left = await self._take_away(context, walk.name)
                await self._removed(context.zone, walk, left)

    async def _take_away(self, context: Context, name: str) -> str:
        """Remove what was made; what went wrong with that, which is a step that failed and not the end of the rest."""
        try:
            await self._fixture.remove(context, name)
        except Exception as error:  # whatever it is, what was found before is kept
            log.error("a loop of access leaves something behind", loop=name, exc_info=error)
            return error.reason if isinstance(error, BailiwickError) else type(error).__name__
        return ""

    async def _walk(self, context: Context, walk: _Walk, upstream: str, ours: bool, active: str) -> None:
        """Step by step; the first that cannot be made at all ends it."""
        ways = self._ways(context.zone)
        governed = f"{ways.gateway}/s/{walk.name}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)) as http:
            step = "prepared"
            try:
                status, *client = await self._fixture.make(context, walk.name, upstream, walk.key)
                walk.client = (client[0], client[1])
                walk.note(step, status)
                for step, make in self._steps(http, ways, governed, context, walk):
                    await make(step)
                step = "upstream"
                walk.note(step, _arrived(walk) if ours else UNSEEN)
                step = "ledger"
                await self._ledger(context.zone, walk, active)
            except (BailiwickError, aiohttp.ClientError, OSError, TimeoutError, LookupError) as error:
                told = error.reason if isinstance(error, BailiwickError) else type(error).__name__
                walk.note(step, told)

    def _steps(
        self, http: aiohttp.ClientSession, ways: Ways, governed: str, context: Context, walk: _Walk
    ) -> Sequence[tuple[str, Callable[[str], Awaitable[None]]]]:
        async def ask(name: str, method: str = "GET", *, with_token: bool = True) -> None:
            headers = {"Authorization": f"Bearer {walk.token}"} if with_token else {}
            status, body, request = await _call(http, method, f"{governed}/", headers=headers)
            if status == 200:
                told = "with the server's own credential" if body.get("key") == "ours" else ""
                walk.note(name, f"200 {told or 'of the upstream'}", request)
            else:
                walk.note(name, f"{status} {_word(body, 'reason')}", request)

        async def unasked(name: str) -> None:
            await self._routed(http, governed)
            await ask(name, with_token=False)

        async def token(name: str, scope: str) -> None:
            form = {"grant_type": "client_credentials", "audience": walk.name, "scope": scope,
                    "client_id": walk.client[0], "client_secret": walk.client[1]}  # fmt: skip
            status, body, _ = await _call(http, "POST", f"{ways.api}/oauth/token", data=form)
            if status == 200:
                walk.token = str(body["access_token"])
                walk.note(name, f"200 {_word(body, 'scope')}", _jti(walk.token))
            else:
                walk.note(name, f"{status} {_word(body, 'reason')}")

        async def revoke(name: str) -> None:
            held = await self._fixture.revoke(context, _jti(walk.token))
            walk.note(name, "held by every worker" if held else "not confirmed by every worker", _jti(walk.token))

        return [
            ("unasked", unasked),
            ("beyond-grant", lambda name: token(name, BEYOND)),
            ("decided", lambda name: token(name, READ)),
            ("used", ask),
            ("beyond-mandate", lambda name: ask(name, "POST")),
            ("revoked", revoke),
            ("refused", ask),
            ("replayed", ask),
        ]

    async def _routed(self, http: aiohttp.ClientSession, governed: str) -> None:
        """Wait until the gateway knows the server: then it asks who is calling."""
        async with asyncio.timeout(_SETTLED_WITHIN_S):
            while (await _call(http, "GET", f"{governed}/"))[0] != 401:  # noqa: ASYNC110 - another process routes
                await asyncio.sleep(0.05)

    async def _ledger(self, zone: str, walk: _Walk, active: str) -> None:
        """Whether the ledger says the same of every request, in their order, and by which policy set."""
        asked = ("unasked", "used", "beyond-mandate", "refused", "replayed")
        found: dict[str, tuple[str, str]] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLED_WITHIN_S):
                while len(found) < len(asked):
                    found = await self._decisions(zone, walk, asked)
                    await asyncio.sleep(0.05)
        walk.note("ledger", ", ".join(found.get(name, ("nothing", ""))[0] for name in asked))
        by = found.get("used", ("", ""))[1]
        walk.note("policy", walk.expected["policy"] if by == active else by or "none")

    async def _decisions(self, zone: str, walk: _Walk, names: Sequence[str]) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        async with self._database.begin() as tx:
            for name in names:
                row = await tx.one(
                    f"SELECT {COLUMNS} FROM ledger.events WHERE zone = :zone"  # noqa: S608 - names of columns
                    " AND request_id = cast(:request AS uuid) AND code IN (:allowed, :denied)",
                    zone=zone,
                    request=walk.ref(name) or "00000000-0000-0000-0000-000000000000",
                    allowed=codes.GATEWAY_ALLOWED.code,
                    denied=codes.GATEWAY_DENIED.code,
                )
                if row is not None:
                    event = decode(body_of(row))
                    found[name] = (event.outcome, event.policy_set)
        return found

    async def _removed(self, zone: str, walk: _Walk, left: str) -> None:
        actual = "no answer"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)) as http:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                status, body, _ = await _call(http, "GET", f"{self._ways(zone).gateway}/s/{walk.name}/")
                actual = f"{status} {_word(body, 'reason')}"
        walk.note("removed", f"not removed: {left}; {actual}" if left else actual)

    async def _active_policy(self, zone: str) -> str:
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT hash, kind FROM policy_activations WHERE zone = :zone ORDER BY id DESC LIMIT 1", zone=zone
            )
        return "" if row is None or row["kind"] == "deactivate" else str(row["hash"])

    async def _keep(self, context: Context, walk: _Walk, digest: str, began: datetime, held: str) -> Result:
        verdict, reason, told = verdict_of(walk.steps, held)
        steps = [{**asdict(step), "holds": step.holds} for step in walk.steps]
        now, by = self._clock.now(), context.actor.user or "bailiwick"
        async with self._database.begin() as tx:
            stored = await self._records.probe(
                tx,
                context,
                CHECK,
                json.dumps({"digest": digest, "verdict": verdict.value, "steps": steps}, indent=1).encode(),
                exit_code=verdict.exit_code,
                since=began,
                until=now,
                producer=Producer(host=platform.node(), name=by, program="bailiwick", version=__version__),
                inputs={"digest": digest},
                expires_at=now + GOOD_FOR,
            )
            result = Result(
                self._ids(), context.zone, digest, "loop", None, verdict.value, reason, told, steps, began, now, by,
                stored.id, False, own=True,
            )  # fmt: skip
            await add_result(tx, result)
            await self._recorder.record(
                tx,
                codes.CANARY_LOOP_RUN,
                "success" if verdict.green else "failure",
                context,
                subject=Subject(id=result.id, type="access-loop"),
                digest=digest,
                told=told,
                verdict=verdict.value,
                reason=reason,
                steps=sum(step.holds for step in walk.steps),
                record=stored.id,
            )
        return result


@contextlib.asynccontextmanager
async def _listening(walk: _Walk) -> AsyncIterator[str]:
    """An upstream of our own on loopback, which remembers what arrived; its URL."""

    async def answer(request: web.Request) -> web.Response:
        walk.seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.json_response({"key": "ours" if request.headers.get(KEY_HEADER) == walk.key else "wrong"})

    runner = web.AppRunner(_app(answer), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _app(answer: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def _arrived(walk: _Walk) -> str:
    many = "1 request" if len(walk.seen) == 1 else f"{len(walk.seen)} requests"
    told = any(walk.token and walk.token in value for headers in walk.seen for value in headers.values())
    return f"{many}, {'the' if told else 'no'} token of the caller"


async def _call(
    http: aiohttp.ClientSession, method: str, url: str, **arguments: Any
) -> tuple[int, Mapping[str, Any], str]:
    """The status, the JSON object of the body (``{}`` for anything else), and the request's id."""
    async with http.request(method, URL(url, encoded=True), **arguments) as answer:
        content = b""
        async for chunk in answer.content.iter_any():
            content += chunk
            if len(content) > _MOST:  # an upstream that somebody named: what is that long is no answer of ours
                answer.close()
                break
        try:
            body = json.loads(content) if len(content) <= _MOST else {}
        except ValueError:
            body = {}
        return answer.status, body if isinstance(body, dict) else {}, answer.headers.get("x-request-id", "")


def _word(body: Mapping[str, Any], name: str) -> str:
    """A reason or a scope; ``?`` for anything else, which somebody's upstream may have said."""
    value = body.get(name, "")
    return value if isinstance(value, str) and _WORD.fullmatch(value) else "?"


def _jti(token: str) -> str:
    """The id of a mandate, which its issuer just gave us. Raises :class:`LookupError`."""
    try:
        middle = token.split(".")[1]
        claims = msgspec.json.decode(_unpadded(middle))
        return str(claims["jti"])
    except (IndexError, ValueError, KeyError, msgspec.DecodeError):
        raise LookupError("no mandate") from None


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
