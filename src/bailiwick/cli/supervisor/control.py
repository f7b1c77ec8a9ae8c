"""The supervisor's end of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

from bailiwick.cli.supervisor.supervisor import StartFailed, Supervisor, UnknownPart
from bailiwick.kernel.control import LINE_LIMIT


class ControlServer:
    """Answers on ``path`` (0600) for ``supervisor``, to its own user and root only."""

    def __init__(self, path: Path, supervisor: Supervisor) -> None:
        self._path = path
        self._supervisor = supervisor
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(before)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_LIMIT)

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            for task in self._answering:
                task.cancel()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            if _peer_uid(writer) in (os.geteuid(), 0):
                while line := await reader.readline():
                    writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                    await writer.drain()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # the asker went away, sent no line, or we are closing
        finally:
            self._answering.discard(task)
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            command = request.pop("do")
            return {"ok": True, **await self._do(command, request)}
        except (ValueError, KeyError, TypeError, AttributeError):
            return _refusal("invalid_request", "not a command this supervisor knows, or its arguments are wrong")
        except UnknownPart as error:
            return _refusal("not_found", str(error))
        except StartFailed as error:
            return _refusal("not_ready", f"{error}; log: {error.log}")
        except TimeoutError:
            return _refusal("not_gone", "the process did not end; it must be taken to be still running")

    async def _do(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        supervisor = self._supervisor
        match command:
            case "status":
                return supervisor.status()
            case "down":
                supervisor.stop_asked.set()
                return {"pid": os.getpid()}
            case "workers":
                return {"workers": await supervisor.set_workers(int(arguments["count"]))}
            case "restart":
                if not await supervisor.restart(str(arguments["part"])):
                    return _refusal("not_ready", f"{arguments['part']} was restarted and is not ready")
                return {}
            case "fence":
                ended = await supervisor.fence(str(arguments["part"]))
                return {"pid": ended.pid if ended else None}
            case "reload":
                await supervisor.reload()
                return {}
            case _:
                raise ValueError(command)


def _refusal(reason: str, detail: str) -> dict[str, Any]:
    return {"ok": False, "reason": reason, "detail": detail}


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
