"""One run of the installation, from the checks before anything is started to the lock given back at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from bailiwick import __version__
from bailiwick.cli.supervisor.control import ControlServer
from bailiwick.cli.supervisor.leftovers import end_leftovers
from bailiwick.cli.supervisor.part import Pace
from bailiwick.cli.supervisor.ports import complaint
from bailiwick.cli.supervisor.progress import Screen
from bailiwick.cli.supervisor.stack import Gateway, Program, Stack, role_environment
from bailiwick.cli.supervisor.supervisor import StartFailed, Supervisor
from bailiwick.kernel.clock_file import set_pace
from bailiwick.kernel.embedded_postgres import SPACE_FOR_NEW_CLUSTER
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.paths import AlreadyRunning, DataDirLock, DataDirUnusable, Layout
from bailiwick.kernel.processes import adopt_orphans, children_of, started_at
from bailiwick.kernel.settings import Settings

GATEWAY = "bailiwick.gateway.supervised:gateway"
"""``gateway(settings: Settings, layout: Layout) -> Gateway``."""

_SPACE_TO_RUN = 64 << 20

PROGRAM = Program()
"""The command lines of the roles."""

GatewayFactory = Callable[[Settings, Layout], Gateway]


class Refused(Exception):
    """It cannot be started like this, and nothing was; the text is one line for the operator."""


class Launch:
    """Runs the installation that ``settings`` describe.

    ``flags`` are the settings that came from the command line, handed on to every role.
    """

    def __init__(
        self,
        settings: Settings,
        flags: dict[str, Any],
        *,
        pace: Pace | None = None,
        screen: Screen | None = None,
    ) -> None:
        self.settings = settings
        self.layout = Layout(settings.data_dir)
        self._flags = flags
        self._pace = pace
        self._screen = screen or Screen()

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> int:
        """Start, stay until asked to stop, stop; the exit code. Raises :class:`Refused` before anything is started."""
        began = asyncio.get_running_loop().time()
        lock = self._claim()
        try:
            await end_leftovers(self.layout)
            for stale in self.layout.metrics.glob("*.db"):
                stale.unlink(missing_ok=True)
            self._check_machine()
            self._set_pace(self.settings.clock_factor, self.settings.clock_stride_s)
            return await self._supervise(lock, began, on_ready)
        finally:
            with contextlib.suppress(Refused):  # what is wrong with it was said at the start
                self._set_pace()  # while nothing runs, time goes on as it does elsewhere
            self._clear_run()
            lock.release()

    # --- before anything is started

    def _claim(self) -> DataDirLock:
        lock = DataDirLock(self.layout.lock)
        try:
            self.layout.create()
            lock.acquire(self.layout.data_dir)
        except DataDirUnusable as error:
            raise Refused(str(error)) from None
        except AlreadyRunning as error:
            addresses = ", ".join(error.holder.get("addresses", {}).values())
            where = f", at {addresses}" if addresses else ""
            raise Refused(f"{error}{where}; `bailiwick status` and `bailiwick down` talk to it") from None
        except OSError as error:
            raise Refused(f"cannot lock {self.layout.data_dir}: {error.strerror}") from None
        lock.describe({"addresses": self._addresses()})
        return lock

    def _check_machine(self) -> None:
        new = self.settings.database_url is None and not any(self.layout.pg.iterdir())
        try:
            self.layout.require_space(SPACE_FOR_NEW_CLUSTER if new else _SPACE_TO_RUN)
        except DataDirUnusable as error:
            raise Refused(str(error)) from None
        if self.settings.tls_cert is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.settings.tls_cert, self.settings.tls_key)
            except FileNotFoundError:
                raise Refused("--tls-cert or --tls-key: there is no such file") from None
            except OSError as error:  # ssl.SSLError is one: wrong form, or a key of another certificate
                raise Refused(f"--tls-cert and --tls-key: {error.strerror or error}") from None
        ports = ((self.settings.api_port, "--api-port"), (self.settings.gateway_port, "--gateway-port"))
        complaints = [complaint(self.settings.host, port, flag) for port, flag in ports]
        if said := [text for text in complaints if text]:
            raise Refused("; ".join(said))

    def _set_pace(self, factor: float = 1.0, stride_s: float = 0.0) -> None:
        try:
            if self.layout.clock_file.exists() and not self.settings.dev:
                raise Refused("time was sped up here before: this installation starts in development mode only (--dev)")
            set_pace(self.layout, factor, stride_s)
        except (ValueError, OSError) as error:
            raise Refused(str(error)) from None

    def _addresses(self) -> dict[str, str]:
        return {"API and console": self.settings.issuer, "gateway": self.settings.gateway}

    # --- while it runs

    async def _supervise(self, lock: DataDirLock, began: float, on_ready: Callable[[], None]) -> int:
        supervisor = self._build()
        screen = self._screen
        screen.begin(
            __version__,
            str(self.layout.data_dir),
            dev=self.settings.dev,
            clock_factor=self.settings.clock_factor,
            shifted=self.layout.clock_file.exists(),
        )
        control = ControlServer(self.layout.control_socket, supervisor)
        adopt_orphans()
        reaper = asyncio.create_task(_reap_orphans())
        _heed_signals(supervisor)
        starting = asyncio.create_task(supervisor.start())
        asked = asyncio.create_task(supervisor.stop_asked.wait())
        code = 0
        try:
            await control.start()
            await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                elapsed = asyncio.get_running_loop().time() - began
                screen.ready(elapsed, supervisor.addresses, _told(supervisor.result("prepare")))
                on_ready()
                await asked
            screen.line("  stopping")
        except StartFailed as error:
            screen.failed(error)
            code = 1
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            asked.cancel()
            await supervisor.stop()
            await control.close()
            reaper.cancel()
        screen.line("  stopped")
        return code

    def _build(self) -> Supervisor:
        settings = self.settings
        url = settings.database_url.get_secret_value() if settings.database_url else None
        try:
            gateway = _gateway_factory()(settings, self.layout)
            environment = role_environment({**self._flags, "data_dir": self.layout.data_dir})
            # read by prometheus-client when it is imported: all processes count into one directory
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(self.layout.metrics)
            stack = Stack(self.layout, environment, gateway=gateway, database_url=url, program=PROGRAM)
        except (BailiwickError, ValueError, OSError) as error:
            raise Refused(getattr(error, "detail", None) or str(error)) from error
        return Supervisor(
            self.layout,
            stack.parts(),
            run_id=secrets.token_hex(16),
            now=lambda: datetime.now(UTC),
            make_worker=stack.worker,
            worker_count=settings.workers,
            on_workers_changed=gateway.set_workers,
            reload=gateway.reload,
            addresses=self._addresses(),
            pace=self._pace,
            log_form=settings.log_format,
            observe=self._screen.progress,
        )

    def _clear_run(self) -> None:
        """Leave no socket behind, and no directory outside the data directory: all of it is made anew."""
        for entry in sorted(self.layout.run.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):
                entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.layout.remove_foreign_run()


def _gateway_factory() -> GatewayFactory:
    module, _, name = GATEWAY.partition(":")
    factory: GatewayFactory = getattr(import_module(module), name)
    return factory


def _told(result: bytes) -> list[tuple[str, str]]:
    """What ``prepare`` has to say to the operator, such as the one-time password: the last line of what it printed."""
    try:
        told = json.loads(result.splitlines()[-1])
    except (ValueError, IndexError):
        return []
    return [(str(name).replace("_", " "), str(value)) for name, value in told.items() if value is not None]


def _heed_signals(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if supervisor.stop_asked.is_set():
            supervisor.hasten()
        supervisor.stop_asked.set()

    def hang_up() -> None:
        if sys.stdin is not None and sys.stdin.isatty():
            stop()  # the terminal was closed
        else:
            reloading.add(task := loop.create_task(supervisor.reload()))
            task.add_done_callback(reloading.discard)

    reloading: set[asyncio.Task[None]] = set()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)


async def _reap_orphans() -> None:
    """Orphans become our children, also as process 1 of a container: take their exit statuses."""
    seen: set[int] = set()
    while True:
        await asyncio.sleep(2)
        zombies = {pid for pid in children_of(os.getpid()) if started_at(pid) is None}
        for pid in zombies & seen:  # one of our own is reaped by its watcher long before the second look
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        seen = zombies
