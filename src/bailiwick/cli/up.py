"""``bailiwick up``: check everything that can be checked, then run the supervisor until told to stop."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, layout_of, small_app

if TYPE_CHECKING:
    from bailiwick.cli.supervisor.launch import Launch

app = small_app()

ENTRY = (sys.executable, "-m", "bailiwick.cli.main")
"""How to run this program again, in the background."""


@app.command()
@command
def up(
    data_dir: DataDir = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the API and console.  [default: 8080]")] = None,
    gateway_port: Annotated[int | None, typer.Option(help="Port of the gateway.  [default: 8081]")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of serve workers.  [default: 1]")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once everything is ready.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback only with TLS.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain for both ports.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of the certificate.")] = None,
    dev: Annotated[bool, typer.Option("--dev", help="Development mode: loopback only.")] = False,
    clock_factor: Annotated[float | None, typer.Option(help="Speed time up; development mode only.")] = None,
    clock_stride: Annotated[
        str | None,
        typer.Option(
            metavar="4h", help="Let `clock advance` move time on; no job is due more often. Development mode."
        ),
    ] = None,
    announce_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Start everything on this machine and keep it running."""
    if detach:
        return _detach(sys.argv[1:])
    launch = prepare_launch(
        {
            "data_dir": layout_of(data_dir).data_dir,
            "api_port": api_port,
            "gateway_port": gateway_port,
            "workers": workers,
            "host": host,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "dev": dev or None,
            "clock_factor": clock_factor,
            "clock_stride_s": _seconds(clock_stride),
        }
    )
    return run_launch(launch, announce_fd)


def _seconds(text: str | None) -> int | None:
    from bailiwick.assurance.durations import span

    try:
        return None if text is None else int(span(text).total_seconds())
    except ValueError as error:
        raise CommandFailed(USAGE, f"--clock-stride: {error}") from None


def prepare_launch(flags: dict[str, Any]) -> Launch:
    """Settings from ``flags`` over the environment, checked. Raises :class:`CommandFailed` with exit code 2."""
    from pydantic import ValidationError

    from bailiwick.cli.supervisor.launch import Launch
    from bailiwick.kernel.settings import Settings

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = (_problem(dict(problem)) for problem in error.errors())
        raise CommandFailed(USAGE, "; ".join(problems)) from None
    return Launch(settings, given)


def run_launch(launch: Launch, announce_fd: int | None = None) -> int:
    """Run ``launch`` in the foreground; with ``announce_fd``, let go of the terminal once ready and say so there."""
    import asyncio

    from bailiwick.cli.supervisor.launch import Refused

    def let_go() -> None:
        if announce_fd is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
            os.close(nothing)
            os.write(announce_fd, b"1")
            os.close(announce_fd)

    try:
        return asyncio.run(launch.run(on_ready=let_go))
    except Refused as refusal:
        raise CommandFailed(USAGE, str(refusal)) from None


def _detach(arguments: list[str]) -> int:
    """Run ourselves in a session of its own; return when it is ready, or as it did when it is not."""
    import subprocess

    readable, writable = os.pipe()
    kept = [argument for argument in arguments if argument != "--detach"]
    child = subprocess.Popen(
        [*ENTRY, *kept, "--announce-fd", str(writable)],
        stdin=subprocess.DEVNULL,
        pass_fds=(writable,),
        start_new_session=True,
    )
    os.close(writable)
    try:
        ready = os.read(readable, 1) == b"1"
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        return 130
    if ready:
        child.returncode = 0  # it lives on without us
        return 0
    return child.wait() or FAILED


def _problem(problem: dict[str, Any]) -> str:
    """One validation problem with the flag it is about."""
    where = "".join(f"--{str(step).replace('_', '-')}: " for step in problem.get("loc", ()))
    return f"{where}{str(problem.get('msg')).removeprefix('Value error, ')}"
