"""The installation as parts: which processes it has, in what order they start and stop, and what each is given."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bailiwick.cli.supervisor.nursery import Nursery
from bailiwick.cli.supervisor.part import Exit, Part, Worker
from bailiwick.cli.supervisor.probes import http_probe
from bailiwick.kernel.embedded_postgres import DATABASE, STOP_LADDER, EmbeddedPostgres
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.processes import Command

APP_LOGIN = "bailiwick_app"
"""Role that serve and guard log in as: it owns nothing and cannot change evidence. Others log in as the owner."""

EMBEDDED = "BAILIWICK_EMBEDDED_POSTGRES"
"""Environment variable that tells ``prepare`` that the database is ours to create."""

HOLD = "--hold"

_POSTGRES, _PREPARE, _ROLES, _GATEWAY = 10, 20, 30, 40


class Gateway(Protocol):
    """What the supervisor needs of the gateway to run its proxy. Made by ``bailiwick.gateway.supervised:gateway``."""

    @property
    def argv(self) -> Sequence[str]:
        """The proxy's command line."""
        ...

    async def prepare(self) -> None:
        """Write what the proxy reads at its start. Called before every start of it."""
        ...

    async def ready(self) -> bool:
        """True when the proxy has all of its configuration and takes requests."""
        ...

    async def alive(self) -> bool:
        """True when the proxy answers at all."""
        ...

    async def set_workers(self, workers: Sequence[Worker]) -> None:
        """Send requests to exactly ``workers``; returns when that is in force.

        Called first while the proxy is not running yet (then it is what the proxy starts with), and before a worker
        is stopped.
        """
        ...

    async def drain(self) -> None:
        """Take no new connections; returns when requests in flight have ended, or after its own limit."""
        ...

    async def reload(self) -> None:
        """Read certificates and the like again."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """Command lines of the roles.

    With a ``nursery`` they are forked off it. Without, each is started at once with ``--hold`` appended: it is to
    import first and then to wait for its turn.
    """

    base: Sequence[str] = (sys.executable, "-m", "bailiwick.cli.main")
    prepare: Sequence[str] = ("prepare",)
    serve: Callable[[str], Sequence[str]] = field(default=lambda slot: ("serve", "--slot", slot))
    guard: Sequence[str] | None = ("guard",)
    work: Sequence[str] | None = ("work",)
    nursery: Sequence[str] | None = ("nursery",)


class Stack:
    """Makes the parts of the installation on ``layout``.

    ``environment`` is what every role inherits, settings included; ``database_url`` names a server to use in place
    of the embedded one.
    """

    def __init__(
        self,
        layout: Layout,
        environment: Mapping[str, str],
        *,
        gateway: Gateway | None,
        database_url: str | None = None,
        program: Program | None = None,
    ) -> None:
        self.layout = layout
        self.postgres = None if database_url else EmbeddedPostgres(layout)
        self._environment = dict(environment)
        self._gateway = gateway
        self._program = program or Program()
        self._nursery: Nursery | None = None
        if (forks := self._program.nursery) is not None:
            self._nursery = Nursery(lambda: self._command(forks), self._program.base)

    def parts(self) -> list[Part]:
        """Every part but the workers."""
        found = [self._prepare()]
        if self._nursery is not None:
            found.append(self._nursery.part(_POSTGRES))
        if self.postgres is not None:
            found.append(self._postgres(self.postgres))
        if self._program.guard is not None:
            found.append(self._role("guard", self._program.guard, stop_rank=30, login=APP_LOGIN))
        if self._program.work is not None:
            found.append(self._role("work", self._program.work, stop_rank=40, drain=15.0))
        if self._gateway is not None:
            found.append(self._proxy(self._gateway))
        return sorted(found, key=lambda part: part.stage)

    def worker(self, slot: str) -> Part:
        """The serve worker ``slot``: it listens on ``run/<slot>/api.sock`` and ``run/<slot>/check.sock``."""
        return self._role(slot, self._program.serve(slot), stop_rank=20, login=APP_LOGIN, serves=True)

    def _postgres(self, postgres: EmbeddedPostgres) -> Part:
        async def initialise() -> None:
            await postgres.initialise()

        return Part(
            name="postgres",
            title="PostgreSQL 18, unix socket",
            command=postgres.command,
            ready=postgres.accepting,
            alive=postgres.answering,
            stage=_POSTGRES,
            stop_rank=90,
            start_seconds=120.0,  # recovery after a crash replays the log
            hang_seconds=20.0,  # killing a database because its disk stalled makes matters worse
            stop_ladder=STOP_LADDER,
            before_start=initialise,
        )

    def _prepare(self) -> Part:
        return Part(
            name="prepare",
            title="schema, zone, keys, administrator",
            command=lambda: self._command(self._program.prepare),
            ready=_never,
            alive=_never,
            stage=_PREPARE,
            stop_rank=10,
            start_seconds=300.0,  # a migration of a large ledger takes its time
            once=True,
            **self._birth(),
        )

    def _role(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        stop_rank: int,
        login: str | None = None,
        drain: float = 10.0,
        serves: bool = False,
    ) -> Part:
        sockets = self.layout.slot(name)

        async def clean() -> None:
            sockets.create()

        async def forget_gauges(ended: Exit) -> None:
            # counters of a dead process go on counting in the sum; what it had at the moment does not
            for gauge in self.layout.metrics.glob(f"gauge_live*_{ended.pid}.db"):
                gauge.unlink(missing_ok=True)

        also = (sockets.check,) if serves else ()
        return Part(
            name=name,
            title="API and check" if serves else {"guard": "cuts live streams", "work": "evidence, jobs"}[name],
            command=lambda: self._command(arguments, login),
            ready=http_probe(sockets.api, "/health/started", *also),
            alive=http_probe(sockets.api, "/health/live"),
            stage=_ROLES,
            stop_rank=stop_rank,
            start_seconds=30.0,
            drain_seconds=drain,
            before_start=clean,
            on_exit=forget_gauges,
            worker=(sockets.api, sockets.check) if serves else None,
            **self._birth(),
        )

    def _proxy(self, gateway: Gateway) -> Part:
        return Part(
            name="gateway",
            title="Envoy",
            command=lambda: Command(list(gateway.argv), self._environment, cwd=self.layout.envoy),
            ready=gateway.ready,
            alive=gateway.alive,
            stage=_GATEWAY,
            stop_rank=0,
            start_seconds=20.0,
            drain_seconds=10.0,
            stop_ladder=((signal.SIGTERM, 3.0),),  # drained by then
            before_start=gateway.prepare,
            before_stop=gateway.drain,
        )

    def _birth(self) -> dict[str, Any]:
        """How a role comes to life."""
        return {"hold": HOLD} if self._nursery is None else {"spawn": self._nursery.spawn}

    def _command(self, arguments: Sequence[str], login: str | None = None) -> Command:
        environment = dict(self._environment)
        if self.postgres is not None:
            owner = self.postgres.url(DATABASE)
            environment["BAILIWICK_DATABASE_URL"] = self.postgres.url(DATABASE, user=login) if login else owner
            environment[EMBEDDED] = "1"
        return Command([*self._program.base, *arguments], environment)


def role_environment(settings: Mapping[str, Any], inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every role: ours, with ``settings`` (field name → value) put in as ``BAILIWICK_<NAME>``."""
    known = dict(os.environ if inherited is None else inherited)
    for name, value in settings.items():
        if value is not None:
            known[f"BAILIWICK_{name.upper()}"] = str(value.absolute() if isinstance(value, Path) else value)
    known["PYTHONUNBUFFERED"] = "1"  # the last words of a part that dies reach its log
    # argon2's 19 MiB go back to the system after each sign-in, instead of staying in an arena of each thread
    known.setdefault("MALLOC_ARENA_MAX", "2")
    known.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 20))
    known.setdefault("MIMALLOC_ARENA_RESERVE", "16MiB")
    return known


async def _never() -> bool:
    return False
