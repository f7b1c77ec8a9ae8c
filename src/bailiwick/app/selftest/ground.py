"""What a simulated life stands on: a PostgreSQL of its own, and whoever is told. No installation is touched."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.embedded_postgres import Throwaway, throwaway_postgres
from bailiwick.kernel.migrate import migrate

LIFE = "life"
"""The database of the life that goes on. It has one name always, since documents of the story name it."""


class Listener:
    """Answers like an incoming webhook of a chat, and keeps what it was told. ``muted``: it refuses everything."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.muted = False
        listener = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                if not listener.muted:
                    listener.told.append(json.loads(raw))
                said = b"no_service" if listener.muted else b"ok"
                self.send_response(404 if listener.muted else 200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address to tell things to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/services/T0/B0/life"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Mail:
    """A mail server (RFC 5321, as much of it as a client needs) that keeps what it was given. ``muted``: refuses."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.muted = False
        mail = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 life\r\n")
                while line := self.rfile.readline(2000):
                    verb = line[:4].upper()
                    if verb == b"DATA" and not mail.muted:
                        self.wfile.write(b"354 go on\r\n")
                        lines = []
                        while (text := self.rfile.readline(4000)) not in (b".\r\n", b""):
                            lines.append(text)
                        mail.told.append(b"".join(lines).decode(errors="replace"))
                    said = b"550 no" if mail.muted and verb in (b"RCPT", b"DATA") else b"250 ok"
                    self.wfile.write((b"221 bye" if verb == b"QUIT" else said) + b"\r\n")
                    if verb == b"QUIT":
                        return

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, on this machine only."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Ground:
    """The database of the life, what it was at some days, the files of its platform, and a listener."""

    def __init__(self, postgres: Throwaway, files: Path, listener: Listener, mail: Mail) -> None:
        self.postgres = postgres
        self.layout = postgres.layout
        self.files = files
        self.listener = listener
        self.mail = mail
        KekFile(self.layout.secrets / "kek").ensure()

    @property
    def url(self) -> str:
        """Where the life is."""
        return self.postgres.url(LIFE)

    async def begin(self) -> None:
        """An empty database of the newest schema, in place of what there was."""

        async def build(url: str) -> None:
            migrate(url)

        template = await self.postgres.template("schema", build)
        await self._become(template)
        for each in self.files.iterdir():
            each.unlink()

    async def keep(self, day: str) -> None:
        """Remember how it is now. Nobody may be connected."""
        await self.postgres.drop_database(f"day_{day}")
        await self.postgres.ensure_database(f"day_{day}", template=LIFE)

    async def back_to(self, day: str) -> None:
        """Be again what was kept."""
        await self._become(f"day_{day}")

    async def _become(self, template: str) -> None:
        await self.postgres.drop_database(LIFE)
        await self.postgres.ensure_database(LIFE, template=template)
        self.listener.told.clear()
        self.listener.muted = False
        self.mail.told.clear()
        self.mail.muted = False


@asynccontextmanager
async def ground(parent: Path | None = None) -> AsyncIterator[Ground]:
    """A ground that is removed afterwards."""
    files = Path(tempfile.mkdtemp(prefix="bw-life-", dir=parent))
    listener, mail = Listener(), Mail()
    try:
        async with throwaway_postgres(parent) as postgres:
            yield Ground(postgres, files, listener, mail)
    finally:
        listener.close()
        mail.close()
        shutil.rmtree(files, ignore_errors=True)
