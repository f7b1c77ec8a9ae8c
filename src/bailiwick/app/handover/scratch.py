"""An installation restored for a drill: does it let somebody in? Nothing of it runs by itself, nothing leaves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from bailiwick.app.foundations import Foundations
from bailiwick.evidence.events import Context, Recorder
from bailiwick.evidence.spool import Spool
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.ratelimit import HotLimits, MachineCounters

_ZONE = "default"
_NAME = "restore-drill"


def sign_in_on(base: Foundations) -> Callable[[Layout, str], Awaitable[str]]:
    """Makes a user in a scratch installation, signs him in by the rooms of this program, and asks them who he is.

    That takes the schema, the key-encryption keys and the zone's signing keys: all that a person would need.
    """

    async def sign_in(layout: Layout, url: str) -> str:
        # lazily: the rooms are built of the parts of which this is one
        from bailiwick.app.rooms import build
        from bailiwick.app.worker_state import WorkerState
        from bailiwick.identity.passwords import Passwords

        clock, ids, database = base.clock, Ids(), Database(url, pool_size=4)
        recorder = Recorder(clock, ids)
        settings = base.settings.model_copy(
            update={"data_dir": layout.data_dir, "database_url": SecretStr(url), "kek_file": None, "redis_url": None}
        )
        sealer, metrics = KekFile(layout.secrets / "kek").load(), Metrics(CollectorRegistry())
        scratch = Foundations(settings, layout, clock, ids, sealer, database, url, recorder, metrics)
        spool = Spool(layout.spool, "drill", ids(), segment_bytes=settings.spool_segment_mb << 20)
        password = ids.secret(18)
        try:
            async with database.begin() as tx:
                await tx.run(
                    "INSERT INTO users (id, zone, username, email, role, password_hash, created_at, updated_at)"
                    " VALUES (:id, :zone, :name, :email, 'viewer', :hash, :now, :now)",
                    id=ids(),
                    zone=_ZONE,
                    name=_NAME,
                    email=f"{_NAME}@localhost",
                    hash=await Passwords().hash(password),
                    now=clock.now(),
                )
            await spool.start()
            state = WorkerState(scratch, with_policy=False)
            await state.load()
            limits = HotLimits(MachineCounters(layout.run / "limits", clock), metrics, clock, 0)
            rooms = build(scratch, state, spool, limits)
            signed_in = await rooms.login.sign_in(Context(_ZONE), _NAME, password)
            await state.poll()
            caller = rooms.authenticator.session(signed_in.token, _ZONE)
            if caller.name != _NAME:
                raise Unauthenticated(f"The token names {caller.name}.")
            return f"{caller.name} signed in, and his token was understood"
        finally:
            await spool.close()
            await database.close()

    return sign_in
