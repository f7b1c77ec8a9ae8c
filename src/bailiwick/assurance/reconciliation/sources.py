"""Reading a side: rows of a query, a file, an HTTP list, a directory or our own tables, as one file of the run.

Everything comes as text, so that no amount passes through a float. A source that cannot be read whole is an error and
never a short list: an answer that is cut, a page that repeats, more rows than the cap.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql as pgsql
from sqlalchemy import text as sqlalchemy_text

from bailiwick.assurance.reconciliation.directories import MEMBERS, ROLES, Directories
from bailiwick.assurance.reconciliation.matching import TooMany, Unreachable, Unreadable, Window
from bailiwick.assurance.reconciliation.own import OWN
from bailiwick.assurance.reconciliation.spec import ConnectionSpec, LdapSpec, Paging, SourceSpec
from bailiwick.evidence.siem.destination import Refused, Retry, Stop
from bailiwick.evidence.siem.outgoing import Outgoing, Reach
from bailiwick.inventory.credentials import Secret, presentation, unseal
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError

MOST_PAGES = 20_000
MOST_ANSWER = 32 << 20
STATEMENT_TIMEOUT_S = 600
_FLOATS = frozenset({700, 701})  # the types float4 and float8 of PostgreSQL
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Laid:
    """A source laid down. ``columns``: wanted name to the file's; ``sha256`` of its bytes as they were read."""

    path: Path
    columns: Mapping[str, str]
    sha256: str
    bytes: int


class Sources:
    """Reads them. ``sealer`` answers the keys as they are now; ``forbidden``: directories no file is read from;
    ``own``: our own queries by name, and ``before`` what is done before one of them is asked; ``directories``: how
    those are read that people sign in by."""

    def __init__(
        self,
        database: Database,
        sealer: Callable[[], Sealer],
        reach: Reach,
        forbidden: Sequence[Path] = (),
        own: Mapping[str, str] = OWN,
        before: Mapping[str, Callable[[str], Awaitable[None]]] | None = None,
        directories: Directories | None = None,
    ) -> None:
        self._directories = directories
        self._before = before or {}
        self._own_queries = own
        self._database = database
        self._sealer = sealer
        self._reach = reach
        self._forbidden = tuple(path.resolve() for path in forbidden)

    async def lay(
        self,
        zone: str,
        source: SourceSpec,
        connections: Mapping[str, ConnectionSpec],
        target: Path,
        window: Window,
        cap: int,
        judged: Window | None = None,
    ) -> Laid:
        """Read ``source`` to ``target`` (``.csv`` or the file's own suffix). At most ``cap`` + 1 rows are read.

        ``{date}`` in the name of a file stands for every day of ``judged`` (or of the window), each a file.

        Raises :class:`Unreachable`, :class:`Unreadable` and :class:`TooMany`.
        """
        if source.own is not None:
            await self._own(zone, source.own, target, window, cap)
            return await _laid(target, source.columns)
        if source.ldap is not None:
            await self._ldap(zone, source.ldap, target, cap)
            return await _laid(target, source.columns)
        connection = connections[source.connection or ""]
        if source.file is not None:
            days = _days(judged or window) if "{date}" in source.file else [window.since.date()]
            paths = [self._file(connection, source.file, day) for day in days]
            target = target.with_suffix(paths[0].suffix)
            await asyncio.to_thread(_together, paths, target)
            return await _laid(target, source.columns)
        secret = await self._secret(zone, connection.credential)
        if source.sql is not None:
            await _query(connection, secret, source.sql, target, window, cap)
            return await _laid(target, source.columns)
        await self._http(connection, secret, source, target, window, cap)
        return await _laid(target, {})

    async def tell(
        self, zone: str, connection: ConnectionSpec, path: str, identifier: str, body: Mapping[str, Any]
    ) -> int:
        """POST ``body`` to ``path`` of a connection by HTTP; the status it answered. Raises :class:`Unreachable`."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": identifier}
        secret = await self._secret(zone, connection.credential)
        if secret is not None and (shown := presentation(secret.kind, secret.header, secret.values)) is not None:
            headers[shown[0]] = shown[1]
        outgoing = Outgoing(self._reach, timeout_s=30)
        try:
            url = (connection.url or "").rstrip("/") + path
            return (await outgoing.post(url, json.dumps(body).encode(), headers)).status
        except (Retry, Stop, Refused, BailiwickError) as error:
            raise Unreachable(str(error)[:300]) from None
        finally:
            await outgoing.close()

    # --- our own

    async def _own(self, zone: str, name: str, target: Path, window: Window, cap: int) -> None:
        if (first := self._before.get(name)) is not None:
            await first(zone)
        values = {"zone": zone, "since": window.since, "until": window.until, "most": cap + 1}
        asked = sqlalchemy_text(f"SELECT * FROM ({self._own_queries[name]}) AS q LIMIT :most")  # noqa: S608 - ours
        used = {each: value for each, value in values.items() if f":{each}" in asked.text}
        async with self._database.begin() as tx:
            result = await tx.connection.stream(asked, used)
            columns = list(result.keys())
            await asyncio.to_thread(_begin, target, columns)
            async for rows in result.partitions(5_000):
                lines = "".join(_line([_plain(value) for value in row]) for row in rows)
                await asyncio.to_thread(_append, target, lines)

    # --- directories

    async def _ldap(self, zone: str, spec: LdapSpec, target: Path, cap: int) -> None:
        if self._directories is None:
            raise Unreachable("directories are not read here")
        rows = await self._directories.rows(zone, spec, cap)
        await asyncio.to_thread(_begin, target, MEMBERS if spec.rows == "members" else ROLES)
        await asyncio.to_thread(_append, target, "".join(_line(row) for row in rows))

    # --- files

    def _file(self, connection: ConnectionSpec, name: str, day: date) -> Path:
        directory = Path(connection.directory or "/nowhere").resolve()
        path = (directory / name.replace("{date}", str(day))).resolve()
        if not path.is_relative_to(directory) or any(path.is_relative_to(each) for each in self._forbidden):
            raise Unreadable("the file is not in the directory of its connection")
        if not path.is_file():
            raise Unreachable(f"there is no file {path.name}")
        return path

    # --- HTTP

    async def _secret(self, zone: str, name: str | None) -> Secret | None:
        if name is None:
            return None
        async with self._database.begin() as tx:
            row = await tx.one("SELECT * FROM credentials WHERE zone = :zone AND name = :name", zone=zone, name=name)
        if row is None or row["sealed"] is None:
            raise Unreachable(f"there is no credential {name}")
        try:
            return unseal(self._sealer(), zone, row["id"], row["kind"], row["header"], bytes(row["sealed"]))
        except SealError:
            raise Unreachable(f"the credential {name} does not open") from None

    async def _http(
        self,
        connection: ConnectionSpec,
        secret: Secret | None,
        source: SourceSpec,
        target: Path,
        window: Window,
        cap: int,
    ) -> None:
        if not source.columns:
            raise Unreadable("a source by HTTP names its columns")
        headers = {"Accept": "application/json"}
        if secret is not None and (shown := presentation(secret.kind, secret.header, secret.values)) is not None:
            headers[shown[0]] = shown[1]
        await asyncio.to_thread(_begin, target, list(source.columns))
        count = 0
        async with aclosing(self._pages(connection, source, headers, window)) as pages:
            async for items in pages:
                rows = [[at(item, path) for path in source.columns.values()] for item in items]
                count += len(rows)
                if count > cap:
                    raise TooMany(f"the source has more than {cap} rows")
                lines = "".join(_line([_plain(value) for value in row]) for row in rows)
                await asyncio.to_thread(_append, target, lines)

    async def _pages(
        self, connection: ConnectionSpec, source: SourceSpec, headers: Mapping[str, str], window: Window
    ) -> AsyncGenerator[list[Any], None]:
        base = (connection.url or "").rstrip("/")
        url = base + _filled(source.path or "", window)
        paging, number, seen = source.paging, (source.paging.first if source.paging else 0), set[str]()
        outgoing = Outgoing(self._reach, timeout_s=60, most=MOST_ANSWER)
        try:
            asked = _with(url, paging, str(number)) if paging is not None and paging.kind == "page" else url
            for _ in range(MOST_PAGES):
                if asked in seen:
                    raise Unreadable("the source sends us in a circle from page to page")
                seen.add(asked)
                answer = await _asked(outgoing, asked, headers)
                yield rows_of(answer, source.items, source.each)
                if paging is None or (paging.kind == "page" and not at(answer, source.items)):
                    return
                if paging.kind == "page":
                    number += paging.step
                    asked = _with(url, paging, str(number))
                    continue
                following = at(answer, paging.next)
                if following in (None, "", False):
                    return
                asked = _with(url, paging, str(following)) if paging.kind == "cursor" else _joined(base, str(following))
            raise TooMany(f"the source has more than {MOST_PAGES} pages")
        finally:
            await outgoing.close()


def _days(window: Window) -> list[date]:
    first, last = window.since.astimezone(UTC).date(), (window.until - timedelta(microseconds=1)).astimezone(UTC).date()
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _together(paths: Sequence[Path], target: Path) -> None:
    """One file of all, which must have the same columns in the same order."""
    if len(paths) > 1 and target.suffix != ".csv":
        raise Unreadable("several days are read together from CSV alone")
    header: bytes | None = None
    with target.open("wb") as together:
        for path in paths:
            with path.open("rb") as stream:
                first = stream.readline() if len(paths) > 1 else b""
                if header is None:
                    header = first.strip()
                    together.write(first)
                elif first.strip() != header:
                    raise Unreadable(f"{path.name} has other columns than {paths[0].name}")
                shutil.copyfileobj(stream, together, _CHUNK)
                if len(paths) > 1 and stream.seek(-1, 2) >= 0 and stream.read(1) != b"\n":
                    together.write(b"\n")


async def _asked(outgoing: Outgoing, url: str, headers: Mapping[str, str]) -> Any:
    try:
        answer = await outgoing.post(url, b"", headers, method="GET")
    except (Retry, Stop, Refused, BailiwickError) as error:
        raise Unreachable(str(error)[:300]) from None
    if answer.status != 200:
        raise Unreachable(f"the source answers {answer.status}")
    if len(answer.body) >= MOST_ANSWER:
        raise Unreadable(f"an answer is larger than {MOST_ANSWER} bytes; ask for smaller pages")
    try:
        return await asyncio.to_thread(
            json.loads, answer.body, parse_float=_number, parse_int=_number, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        raise Unreadable("the source answers what is no JSON") from None


def rows_of(answer: Any, items: str, each: str) -> list[Any]:
    """The rows of an answer. With ``each`` an entry of that list is one: ``{"item": the row, "each": the entry}``."""
    found = at(answer, items)
    if not isinstance(found, list):
        raise Unreadable("the answer holds no list of rows where one should be")
    if not each:
        return found
    rows = []
    for item in found:
        inner = at(item, each)
        if inner is None:
            continue
        if not isinstance(inner, list):
            raise Unreadable(f"{each} of a row is no list")
        rows += [{"item": item, "each": entry} for entry in inner]
    return rows


def at(value: Any, path: str) -> Any:
    """What is at ``a.b.0`` in JSON; the value itself for an empty path, None where there is nothing."""
    for part in path.split(".") if path else ():
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            return None
    return value


def _number(text: str) -> str:
    """A JSON number as text, without an exponent, losing nothing."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("no number") from None
    if abs(number.adjusted()) > 60:
        raise ValueError("a number beyond all amounts")
    return f"{number:f}"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _with(url: str, paging: Paging | None, value: str) -> str:
    assert paging is not None and paging.parameter is not None
    return f"{url}{'&' if '?' in url else '?'}{paging.parameter}={quote(value, safe='')}"


def _joined(base: str, following: str) -> str:
    """The next page's address; it must stand where the connection leads, or the credential would go elsewhere."""
    url = following if re.match(r"https?://", following) else base + "/" + following.lstrip("/")
    if not url.startswith(base + "/") and not url.startswith(base + "?"):
        raise Unreadable("the next page is somewhere else")
    return url


def _filled(text: str, window: Window) -> str:
    for name, moment in (("since", window.since), ("until", window.until)):
        text = text.replace(f":{name}", quote(_rfc3339(moment), safe=""))
    return text


# --- PostgreSQL


async def _query(
    connection: ConnectionSpec, secret: Secret | None, query: str, target: Path, window: Window, cap: int
) -> None:
    if secret is None or secret.kind != "basic":
        raise Unreachable("the credential of a database is of kind basic")
    try:
        async with _connected(connection, secret) as opened, opened.cursor() as cursor:
            # PostgreSQL itself refuses to change anything, whatever the query says
            await cursor.execute("SET TRANSACTION READ ONLY")
            await cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
            await cursor.execute("SET LOCAL timezone = 'UTC'")
            asked = pgsql.SQL(_literals(query, window, opened))
            await cursor.execute(pgsql.SQL("SELECT * FROM ({}\n) AS q LIMIT 0").format(asked))
            floating = [each.name for each in cursor.description or () if each.type_code in _FLOATS]
            if floating:
                raise Unreadable(f"{', '.join(floating)}: a floating-point number holds no exact amount")
            copy = pgsql.SQL("COPY (SELECT * FROM ({}\n) AS q LIMIT {}) TO STDOUT (FORMAT csv, HEADER true)")
            stream = await asyncio.to_thread(target.open, "wb")
            try:
                async with cursor.copy(copy.format(asked, pgsql.Literal(cap + 1))) as rows:
                    async for chunk in _gathered(rows):
                        await asyncio.to_thread(stream.write, chunk)
            finally:
                stream.close()
    except psycopg.errors.QueryCanceled:
        raise Unreachable(f"the query took longer than {STATEMENT_TIMEOUT_S} s") from None
    except (psycopg.OperationalError, OSError):
        raise Unreachable("the database does not answer, or does not let us in") from None
    except psycopg.Error as error:
        raise Unreadable(f"the query fails: {type(error).__name__}") from None


@asynccontextmanager
async def _connected(
    connection: ConnectionSpec, secret: Secret
) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
    opened = await psycopg.AsyncConnection.connect(
        host=connection.host,
        port=connection.port,
        dbname=connection.database,
        user=secret.values["username"],
        password=secret.values["password"],
        connect_timeout=10,
        application_name="bailiwick reconciliation",
    )
    async with opened:
        yield opened


async def _gathered(rows: Any) -> AsyncIterator[bytes]:
    """COPY gives a row at a time: they are written in larger pieces."""
    pieces: list[bytes] = []
    size = 0
    async for piece in rows:
        pieces.append(bytes(piece))
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)


def _literals(query: str, window: Window, opened: psycopg.AsyncConnection[Any]) -> str:
    filled = query
    for name, moment in (("since", window.since), ("until", window.until)):
        literal = pgsql.Literal(_rfc3339(moment)).as_string(opened)
        filled = re.sub(rf"(?<!:):{name}\b", f"{literal}::timestamptz", filled)
    return filled


# --- CSV


def _line(cells: Iterable[str | None]) -> str:
    """A line of CSV in which nothing at all is no value, and ``""`` an empty one."""
    return ",".join("" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in cells) + "\r\n"


def _plain(value: Any) -> str | None:
    match value:
        case None:
            return None
        case str():
            return value.replace("\x00", "\ufffd")
        case bool():
            return "true" if value else "false"
        case datetime():
            return _rfc3339(value)
        case float():
            raise Unreadable("a floating-point number holds no exact amount")
        case Decimal():
            return f"{value:f}"
        case dict() | list():
            return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return str(value)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _begin(path: Path, columns: Sequence[str]) -> None:
    path.write_text(_line(columns), encoding="utf-8", newline="")


def _append(path: Path, lines: str) -> None:
    with path.open("a", encoding="utf-8", errors="replace", newline="") as stream:
        stream.write(lines)


async def _laid(path: Path, columns: Mapping[str, str]) -> Laid:
    def read() -> Laid:
        with path.open("rb") as stream:
            return Laid(path, columns, hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)

    return await asyncio.to_thread(read)
