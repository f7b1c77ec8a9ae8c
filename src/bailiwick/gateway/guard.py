"""The stream guard: what lasts is cut when its authority ends.

Envoy opens one external-processing stream here for every request whose operation the check called
long-lived, and keeps it open as long as that request lives. The guard answers nothing further until the
mandate behind it is revoked or expires, an operator closes the way to its server, or until the guard can no longer
know; then it tells Envoy to end the request. When the guard dies, Envoy cuts its streams and no others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import grpc

from bailiwick.gateway import ext_proc
from bailiwick.gateway.authority_ref import AUTHORITY_HEADER, AuthorityRef, AuthorityRefError

CutReason = Literal["revoked", "closed", "expired", "feed_stale", "guard_stopped"]
RefusalReason = Literal["malformed", "revoked", "closed", "expired", "feed_stale"]

# Translated by Envoy (`envoy.problems`) into 401 with a problem document where the caller has no answer yet.
AUTHORITY_ENDED_STATUS = 510
_GRPC_PERMISSION_DENIED = 7
_CUT = ext_proc.immediate_response(AUTHORITY_ENDED_STATUS, _GRPC_PERMISSION_DENIED)


@dataclass(frozen=True, slots=True)
class EndedAuthority:
    """One revocation: everything that stands on this mandate, application, user or session has ended."""

    kind: Literal["mandate", "client", "subject", "session"]
    id: str


@dataclass(frozen=True, slots=True)
class GuardCounts:
    """Streams alive now, and how many ever opened, were refused at the start, and were cut, by reason."""

    live: int
    opened: int
    refused: dict[str, int]
    cut: dict[str, int]


class FeedEnded(RuntimeError):
    """The feed of changes came to an end, which it never should: the guard cannot go on."""


class _Stream:
    """One live request. `ended` is resolved with the reason to cut it."""

    __slots__ = ("ended", "ref", "request_id")

    def __init__(self, ref: AuthorityRef, request_id: str, ended: asyncio.Future[CutReason]) -> None:
        self.ref = ref
        self.request_id = request_id
        self.ended = ended


class Guard:
    """Knows every live long-lived request and ends those whose authority has ended.

    `is_live` tells whether everything a reference stands on still stands (from the shared snapshot; called
    for every stream on every change, so it must not block), `is_closed` whether an operator closed the way to its
    server. `now` is the wall clock and `monotonic` a steady
    one, both in seconds. `on_cut` is told of each cut with the id of its request ("" if unknown). Without a word
    from the feed for `stale_after_s` everything is cut and nothing new is let through.
    """

    def __init__(
        self,
        *,
        is_live: Callable[[AuthorityRef], bool],
        now: Callable[[], float],
        monotonic: Callable[[], float],
        is_closed: Callable[[AuthorityRef], bool] = lambda ref: False,
        stale_after_s: float = 30.0,
        sweep_every_s: float = 0.1,
        on_cut: Callable[[AuthorityRef, str, CutReason], None] = lambda ref, request_id, reason: None,
    ) -> None:
        self._is_live = is_live
        self._is_closed = is_closed
        self._now = now
        self._monotonic = monotonic
        self._stale_after_s = stale_after_s
        self._sweep_every_s = sweep_every_s
        self._on_cut = on_cut
        self._streams: set[_Stream] = set()
        self._heard_at: float | None = None
        self._opened = 0
        self._refused: Counter[str] = Counter()
        self._cut: Counter[str] = Counter()

    def counts(self) -> GuardCounts:
        return GuardCounts(len(self._streams), self._opened, dict(self._refused), dict(self._cut))

    def held(self) -> list[tuple[AuthorityRef, str]]:
        """What every live stream stands on, with the id of its request ("" if unknown)."""
        return [(stream.ref, stream.request_id) for stream in self._streams if not stream.ended.done()]

    @property
    def fresh(self) -> bool:
        """Whether the feed was heard within the limit; False until it was heard at all."""
        return self._heard_at is not None and self._monotonic() - self._heard_at <= self._stale_after_s

    async def run(self, changes: AsyncIterator[Sequence[EndedAuthority]]) -> None:
        """Follow the feed and the clock until cancelled.

        Each item of `changes` is a sign of life, with the revocations it brings (none: a heartbeat). Raises
        `FeedEnded` or the feed's own error when it stops; every stream is cut first.
        """
        following = asyncio.ensure_future(self._follow(changes))
        sweeping = asyncio.ensure_future(self._sweep_forever())
        try:
            await asyncio.wait({following, sweeping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (following, sweeping):
                if task.done():
                    task.result()
        finally:
            self.cut_all("guard_stopped")
            for task in (following, sweeping):
                task.cancel()
            await asyncio.gather(following, sweeping, return_exceptions=True)

    def revoked(self, ended: Callable[[AuthorityRef], bool] | Iterable[EndedAuthority]) -> int:
        """Cut every stream that stands on what ended; returns how many."""
        concerns = ended if callable(ended) else _stands_on(ended)
        return self._cut_where(concerns, "revoked")

    def cut_all(self, reason: CutReason) -> int:
        """Cut every stream; returns how many."""
        return self._cut_where(lambda _: True, reason)

    def sweep(self) -> None:
        """Cut what has expired since the last sweep, and everything once the feed is stale."""
        if not self.fresh:
            self.cut_all("feed_stale")
            return
        now = self._now()
        self._cut_where(lambda ref: ref.expires_at <= now, "expired")

    def heard(self, ended: Sequence[EndedAuthority] = ()) -> None:
        """Take one item of the feed: the revocations it names, then everything else it may have changed."""
        self._heard_at = self._monotonic()
        if ended:
            self.revoked(ended)
        self._cut_where(lambda ref: not self._is_live(ref), "revoked")
        self._cut_where(self._is_closed, "closed")

    # -- one stream ------------------------------------------------------------------------------------

    async def process(self, _: Any, context: Any) -> None:
        """Serve one external-processing stream (the gRPC method's handler)."""
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        admitted = self._admit(message)
        if isinstance(admitted, str):
            self._refused[admitted] += 1
            await context.write(_CUT)
            return
        self._streams.add(admitted)
        self._opened += 1
        try:
            await self._watch(admitted, message, context)
        finally:
            self._streams.discard(admitted)

    def _admit(self, message: bytes) -> _Stream | RefusalReason:
        try:
            headers = ext_proc.request_headers(message)
            headers = headers or {}
            ref = AuthorityRef.decode(headers.get(AUTHORITY_HEADER, ""))
        except (ext_proc.MalformedMessage, AuthorityRefError):
            return "malformed"
        if not self.fresh:
            return "feed_stale"
        if ref.expires_at <= self._now():
            return "expired"
        if not self._is_live(ref):
            return "revoked"
        if self._is_closed(ref):
            return "closed"
        return _Stream(ref, headers.get("x-request-id", ""), asyncio.get_running_loop().create_future())

    async def _watch(self, stream: _Stream, message: bytes, context: Any) -> None:
        """Let everything pass until the request ends by itself or its authority does."""
        while message is not grpc.aio.EOF:
            answer = ext_proc.passes(message)
            if answer is not None:
                await context.write(answer)
            reading = asyncio.ensure_future(context.read())
            reading.add_done_callback(_noted)
            await asyncio.wait({reading, stream.ended}, return_when=asyncio.FIRST_COMPLETED)
            if stream.ended.done():
                await context.write(_CUT)
                reading.cancel()
                return
            message = reading.result()

    # -- all streams -----------------------------------------------------------------------------------

    def _cut_where(self, concerns: Callable[[AuthorityRef], bool], reason: CutReason) -> int:
        ending = [stream for stream in self._streams if not stream.ended.done() and concerns(stream.ref)]
        for stream in ending:
            stream.ended.set_result(reason)
        for stream in ending:  # after all are on their way to be cut
            self._on_cut(stream.ref, stream.request_id, reason)
        if ending:
            self._cut[reason] += len(ending)
        return len(ending)

    async def _follow(self, changes: AsyncIterator[Sequence[EndedAuthority]]) -> None:
        async for ended in changes:
            self.heard(ended)
        raise FeedEnded("the feed of changes ended")

    async def _sweep_forever(self) -> None:
        while True:
            self.sweep()
            await asyncio.sleep(self._sweep_every_s)


class GuardServer:
    """Serves a guard on a unix socket that only our own user can reach."""

    def __init__(self, guard: Guard, socket: Path) -> None:
        self._guard = guard
        self._socket = socket
        self._server: Any = None

    async def start(self) -> None:
        """Bind the socket (removing one a killed guard left behind). Raises `OSError` when it cannot."""
        self._socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=(("grpc.max_concurrent_streams", 2**31 - 1), ("grpc.so_reuseport", 0)))
        handler = grpc.stream_stream_rpc_method_handler(self._guard.process)
        methods = {ext_proc.METHOD_NAME: handler}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ext_proc.METHOD_SERVICE, methods),))
        try:
            self._server.add_insecure_port("unix:" + quote(str(self._socket)))
        except RuntimeError as error:
            raise OSError(f"the guard cannot bind {self._socket}: {error}") from None
        self._socket.chmod(0o600)
        await self._server.start()

    async def stop(self, grace_s: float = 0.5) -> None:
        """Cut every stream and stop; whoever still holds one after `grace_s` is disconnected."""
        self._guard.cut_all("guard_stopped")
        if self._server is not None:
            await self._server.stop(grace_s)
        self._socket.unlink(missing_ok=True)


def _noted(reading: asyncio.Future[Any]) -> None:
    """Whatever a read abandoned with its stream came to, nobody is left to be told."""
    if not reading.cancelled():
        reading.exception()


def _stands_on(ended: Iterable[EndedAuthority]) -> Callable[[AuthorityRef], bool]:
    by_kind: dict[str, set[str]] = {"mandate": set(), "client": set(), "subject": set(), "session": set()}
    for authority in ended:
        by_kind[authority.kind].add(authority.id)
    mandates, clients = by_kind["mandate"], by_kind["client"]
    subjects, sessions = by_kind["subject"], by_kind["session"]

    def concerns(ref: AuthorityRef) -> bool:
        return (
            ref.jti in mandates
            or ref.client in clients
            or (ref.subject != "" and ref.subject in subjects)
            or (ref.session != "" and ref.session in sessions)
        )

    return concerns
