"""The supervisor's questions over a unix socket, answered by servers that write as they like."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bailiwick.cli.supervisor.probes import http_get


@pytest.mark.parametrize("cut", [1, 9, 17, 40, 45])
async def test_an_answer_that_comes_in_pieces_is_read_whole(tmp_path: Path, cut: int) -> None:
    answer = b'HTTP/1.1 503 Not Ready\r\ncontent-length: 14\r\n\r\n{"ready":false}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (answer[:cut], answer[cut:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    socket = tmp_path / "s"
    async with await asyncio.start_unix_server(serve, socket):
        assert await http_get(socket, "/health/ready") == (503, b'{"ready":false}')


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 yes\r\n\r\n"])
async def test_what_is_no_http_answer_is_an_error(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    socket = tmp_path / "s"
    async with await asyncio.start_unix_server(serve, socket):
        with pytest.raises((OSError, ValueError)):
            await http_get(socket, "/health/ready")
