"""``bailiwick demo``: tell the story against a running installation, or against one made for it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    import ssl

    from bailiwick.cli.demo.stage import Installation
    from bailiwick.cli.demo.story import Result
    from bailiwick.cli.demo.telling import Teller
    from bailiwick.kernel.paths import Layout

app = small_app()

WORKERS = 2
DEMO_PASSWORD_FILE = "demo-administrator-password"  # noqa: S105 - the name of a file


@app.command()
@command
def demo(
    data_dir: DataDir = None,
    own_stack: Annotated[
        bool, typer.Option("--own-stack", help="Start an installation for it, and remove it afterwards.")
    ] = False,
    password: Annotated[
        str | None,
        typer.Option(
            envvar="BAILIWICK_DEMO_PASSWORD",
            show_envvar=True,
            help="The administrator's. Default: the one-time password kept in the data directory.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Only the result, as JSON.")] = False,
    upstream_key: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> int:
    """Take one governed request through everything, and prove what happened.

    Exits 0 when every step went as told, 1 at the first that did not.
    """
    from bailiwick.cli.demo.children import NotStarted
    from bailiwick.cli.demo.children import own_stack as started
    from bailiwick.cli.demo.telling import Teller

    if own_stack and data_dir is not None:
        raise CommandFailed(USAGE, "--own-stack makes an installation of its own: it takes no --data-dir")
    if own_stack:
        # whatever this machine is configured for is another installation's: its database, its ports
        for name in [name for name in os.environ if name.startswith("BAILIWICK_")]:
            del os.environ[name]
    teller = Teller(silent=json_)
    layout = None if own_stack else existing_layout(data_dir)

    async def run() -> Result:
        teller.title("Bailiwick: one governed request, from asking for authority to losing it")
        if layout is not None:
            return await _tell(layout, teller, password, upstream_key, tidy=True)
        teller.blank()
        async with started(WORKERS, lambda line: echo(teller, line)) as made:
            result = await _tell(made, teller, None, upstream_key, tidy=False)
        teller.blank()
        teller.line("The installation made for this is stopped and removed.")
        return result

    try:
        result = until_done(run)
    except NotStarted as error:
        raise CommandFailed(FAILED, str(error)) from None
    _close(teller, result, json_)
    return 0 if result.ok else FAILED


async def _tell(
    layout: Layout, teller: Teller, password: str | None, upstream_key: str | None, *, tidy: bool
) -> Result:
    from bailiwick.cli.demo.story import tell

    at = await _installation(layout)
    if password is None:
        # what an earlier demonstration changed it to, or else the one that came with the installation
        for path in (layout.secrets / DEMO_PASSWORD_FILE, layout.administrator_password):
            if path.exists():
                password = path.read_text().strip()
                break
        else:
            raise CommandFailed(USAGE, "the administrator's password is not known here: give --password")
    return await tell(at, teller, admin_password=password, upstream_key=upstream_key, tls=_trust(layout), tidy=tidy)


async def _installation(layout: Layout) -> Installation:
    """The running installation at ``layout``, as its supervisor describes it."""
    from bailiwick.cli.demo.stage import Installation
    from bailiwick.kernel.control import SupervisorRefused, SupervisorSilent, ask_supervisor

    try:
        found = await ask_supervisor(layout.control_socket, "status", limit=5.0)
    except (SupervisorSilent, SupervisorRefused):
        raise CommandFailed(
            NO_DATA, f"nothing is running on {layout.data_dir}; `bailiwick up`, or demo --own-stack"
        ) from None
    addresses: dict[str, str] = found["addresses"]
    workers = [part for part in found["parts"] if part["name"][:1] == "w" and part["name"][1:].isdigit()]
    return Installation(layout, addresses["API and console"], addresses["gateway"], len(workers))


def _trust(layout: Layout) -> ssl.SSLContext | None:
    """What to believe of an installation with TLS: its own certificate too, under whatever name it is reached here."""
    import json
    import ssl

    certificate = json.loads(layout.settings_file.read_text()).get("tls_cert")
    if not certificate:
        return None
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context


def until_done(run: Callable[[], Awaitable[Result]]) -> Result:
    """Run it; the first SIGINT or SIGTERM ends it in good order, and further ones do not disturb that."""
    import asyncio
    import signal

    interrupted = False

    async def guarded() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        return await run()

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def echo(teller: Teller, line: str) -> None:
    """A line of the start-up; of the password only its beginning."""
    name, _, value = line.strip().partition("  ")
    if name == "one-time password":
        teller.conceal(value.split()[0])
        line = line.partition("  (")[0]
    if line:
        teller.line(f"  {line}")


def _close(teller: Teller, result: Result, json_: bool) -> None:
    """The figures and the verdict."""
    if json_:
        print(_as_json(result))
        return
    figures = result.figures
    teller.blank()
    if result.ok:
        teller.title("Measured")
        for name, text in _figures(figures):
            teller.line(f"    {name:<15} {text}")
        teller.blank()
    verdict = f"{result.passed} of {result.steps} steps as told, in {result.seconds:g} s"
    if result.failure is not None:
        verdict = f"step {result.failure['step']} deviated: {verdict}"
    teller.title(f"{'✓' if result.ok else '✗'} {verdict}")


def _figures(figures: dict[str, float]) -> list[tuple[str, str]]:
    return [
        (
            "governed call",
            f"p50 {figures['governed_p50_ms']:.1f} ms   p99 {figures['governed_p99_ms']:.1f} ms"
            f"   (without us p50 {figures['direct_p50_ms']:.1f} ms)",
        ),
        (
            "revocation",
            f"{figures['revocation_ms']:.1f} ms; settled on {figures['revocation_workers']:g} workers"
            f" in {figures['revocation_settled_ms']:.1f} ms",
        ),
        ("stream cut", f"{figures['cut_ms']:.0f} ms after the revocation was sent"),
        (
            "verification",
            f"{figures['verified_per_s']:,.0f} events/s ({figures['verified_events']:,.0f} events)",
        ),
        ("tampered copy", f"FAIL, as it must: event {figures['tampered_seq']:g} named"),
    ]


def _as_json(result: Result) -> str:
    import json

    from bailiwick import __version__

    answer: dict[str, Any] = {"name": "demo", "ok": result.ok, "version": __version__}
    answer |= {"steps": result.steps, "passed": result.passed, "seconds": result.seconds}
    return json.dumps({**answer, "figures": result.figures, "failure": result.failure}, ensure_ascii=False)
