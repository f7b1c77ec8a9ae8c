"""What an installation wrote, held against the secrets it was given and gave out, and against the event schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from bailiwick.evidence.details import violations
from bailiwick.evidence.events import decode
from bailiwick.evidence.stored import COLUMNS, body_from
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.redaction import is_telling
from evidence_watch import WATCH, leaks

_TEXTS = (
    "SELECT convert_to(request::text, 'UTF8') FROM bailiwick.api_requests request",
    "SELECT convert_to(job::text, 'UTF8') FROM bailiwick.job_occurrences job",
    "SELECT frame FROM ledger.dead_letters",
)
_IDS = {"kek"}  # events tell the id of a key under its name
_PORTION = 4 << 20


def take_in(value: Any, name: str = "") -> None:
    """Note what stands under a telling name, at any depth of what was sent or answered."""
    if isinstance(value, dict):
        for key, inner in value.items():
            take_in(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            take_in(inner, name)
    elif isinstance(value, str) and is_telling(name) and name not in _IDS and not value.startswith("eyJ"):
        # tokens are known by their form
        WATCH.secret(value, f"a {name} of a request or an answer")


class Search:
    """Searches one installation: the database while it runs, the files once it is down."""

    def __init__(self, data_dir: Path) -> None:
        self._layout = Layout(data_dir)
        self._bodies: list[bytes] = []
        self._texts: list[bytes] = []
        self._read = False

    def read_database(self) -> None:
        """Read what the database holds of events and of what is written for people, where it still answers."""
        for path in self._layout.secrets.rglob("*"):
            if path.is_file():
                for line in path.read_text().splitlines():  # the last word: before it stand a key's id, a login
                    WATCH.secret(line.replace(":", " ").split()[-1], f"secrets/{path.name}")
        try:
            with psycopg.connect(EmbeddedPostgres(self._layout).url(), connect_timeout=5) as connection:
                events = connection.execute(f"SELECT {COLUMNS} FROM ledger.events")  # type: ignore[call-overload]
                self._bodies += [body_from(*row) for row in events]
                self._bodies += [bytes(row[0]) for row in connection.execute("SELECT event FROM bailiwick.outbox")]
                for query in _TEXTS:
                    self._texts += [bytes(row[0]) for row in connection.execute(query)]  # type: ignore[call-overload]
        except psycopg.OperationalError:
            return
        self._read = True

    def finish(self) -> None:
        """Search it all; raises AssertionError for a secret or for an event that breaks its schema."""
        assert self._bodies or not self._read, "an installation without a single event was not read"
        found = leaks(WATCH.secrets, self._bodies, "the ledger") + leaks(WATCH.secrets, self._texts, "the database")
        for path in self._files():
            for portion in _portions(path):
                found += leaks(WATCH.secrets, [portion], str(path.relative_to(self._layout.data_dir)))
        WATCH.leaks += found
        assert not found, "\n".join(found)
        broken = sorted({fault for body in self._bodies for fault in violations(decode(body))})
        assert not broken, "\n".join(broken)

    def _files(self) -> Iterator[Path]:
        yield from self._layout.spool.rglob("*")
        yield from self._layout.logs.glob("*")
        if not self._read:  # it was down already: what it holds is in its files
            yield from self._layout.pg.rglob("base/*/*")


def _portions(path: Path) -> Iterator[bytes]:
    """A file in portions that overlap, so that nothing falls between two."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        before = b""
        while data := file.read(_PORTION):
            yield before + data
            before = data[-4096:]
