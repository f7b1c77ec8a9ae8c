"""What continues ledgers after a loss, for the API and for the command line."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.continuing import Continuing
from bailiwick.evidence.events import Recorder
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.evidence.witnessing import KnownWitness, seen_by
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.quorum import Quorum
from bailiwick.kernel.settings import Settings, parse_witness


def known_witnesses(settings: Settings) -> tuple[list[KnownWitness], ssl.SSLContext | None]:
    """Who cosigns the heads of the ledgers, and what their TLS is trusted by."""
    ca = ssl.create_default_context(cafile=settings.witness_ca) if settings.witness_ca is not None else None
    return [KnownWitness(*parse_witness(text)) for text in settings.witnesses], ca


def build_continuing(
    settings: Settings,
    layout: Layout,
    database: Database,
    clock: Clock,
    recorder: Recorder,
    quorum: Quorum,
    cold: ColdEvents | None,
) -> Continuing:
    """The service. Connects to nothing yet."""
    witnesses, ca = known_witnesses(settings)

    async def asked(note: bytes) -> Mapping[str, int | None]:
        return await seen_by(witnesses, note, ca=ca)

    return Continuing(database, recorder, clock, quorum, HeadFiles(layout.heads), cold=cold, asked=asked)
