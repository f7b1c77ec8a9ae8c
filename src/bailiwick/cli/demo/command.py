"""``bailiwick demo``: tells the story against a running installation, or against one of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bailiwick.cli.failure import FAILED, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

app = small_app()


@app.command()
@command
def demo(
    data_dir: DataDir = None,
    own_stack: Annotated[
        bool, typer.Option("--own-stack", help="Start an installation for it, and remove it.")
    ] = False,
    password: Annotated[str, typer.Option(envvar="BAILIWICK_DEMO_PASSWORD", help="The administrator's.")] = "",
    upstream_key: Annotated[str, typer.Option(hidden=True, help="Key the payments API really demands.")] = "",
) -> int:
    """Take one governed request through everything, check every step, prove it afterwards.

    Exits 1 on the first step that deviates. The installation must allow upstreams on loopback
    (BAILIWICK_ALLOW_UPSTREAM_NETWORKS=127.0.0.0/8).
    """
    with ExitStack() as stack:
        directory = stack.enter_context(_own_stack()) if own_stack else existing_layout(data_dir).data_dir
        key = f"pk_{secrets.token_hex(12)}"
        upstream = stack.enter_context(_payments(upstream_key or key))
        return _tell(directory, upstream, key, password)


def _tell(data_dir: Path, upstream: str, key: str, password: str) -> int:
    import asyncio

    import aiohttp

    from bailiwick.cli.asking import ask
    from bailiwick.cli.demo.story import Story, one_time_password
    from bailiwick.cli.demo.tampering import verify_tampered_copy
    from bailiwick.cli.demo.telling import Deviation, Telling
    from bailiwick.kernel.paths import Layout

    addresses = ask(Layout(data_dir), "status")["addresses"]
    urls = (addresses["API and console"], addresses["gateway"], upstream)
    telling = Telling()

    async def run() -> dict[str, str]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=15)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            figures = await Story(session, telling, urls, key, password or one_time_password(data_dir)).tell()
        telling.step("A copy of the ledger, with one byte of one event changed")
        changed, report = await verify_tampered_copy(data_dir)
        bad = report.first_bad.seq if report.first_bad is not None else None
        telling.note(f"verdict {report.verdict}, first bad position {bad}")
        telling.check("verification fails", report.verdict == "FAIL", report.verdict)
        telling.check(f"and names the event that was changed ({changed})", bad == changed, bad)
        return figures

    try:
        telling.close(asyncio.run(run()))
    except Deviation as deviation:
        telling.deviated(deviation)
        return FAILED
    except (OSError, aiohttp.ClientError) as error:
        raise CommandFailed(FAILED, f"the installation does not answer: {error}") from None
    return 0


@contextmanager
def _own_stack() -> Iterator[Path]:
    """An installation on free ports in a directory of its own; gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="bailiwick-demo-"))
    data_dir = home / "data"
    base = [sys.executable, "-m", "bailiwick.cli.main"]
    flags = ["--data-dir", str(data_dir), "--api-port", str(_free_port()), "--gateway-port", str(_free_port())]
    environment = {**os.environ, "BAILIWICK_ALLOW_UPSTREAM_NETWORKS": "127.0.0.0/8"}
    try:
        started = subprocess.run(
            [*base, "up", *flags, "--workers", "2", "--dev", "--detach"], env=environment, check=False
        )
        if started.returncode:
            raise CommandFailed(FAILED, "the installation did not start")
        yield data_dir
    finally:
        subprocess.run([*base, "down", "--data-dir", str(data_dir)], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _payments(key: str) -> Iterator[str]:
    """The payments API as a process of its own; its URL."""
    port = _free_port()
    process = subprocess.Popen([sys.executable, "-m", "bailiwick.cli.demo.payments", str(port), key])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                probe.settimeout(0.05)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise CommandFailed(FAILED, "the payments API did not start")
            _pause()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _pause() -> None:
    import time

    time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
