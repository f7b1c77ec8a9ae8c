"""Operations of other systems, as documents describe them: a signed webhook, or a function of a database.

The other side knows a request by its key (the override's id), so that asking again after no answer does nothing twice.
A webhook carries ``Idempotency-Key``, ``X-Bailiwick-Timestamp`` (epoch seconds) and ``X-Bailiwick-Signature``:
``v1=`` and the HMAC-SHA256, in hexadecimal, of ``<timestamp>.<key>.<body>``. Every attempt leaves a receipt.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import Field, StringConstraints, create_model

from bailiwick.assurance.book import Book
from bailiwick.assurance.operations import Claim, Operation, Target
from bailiwick.assurance.override_rules import EXTERNAL, Argument, Class, External, Procedure, Webhook
from bailiwick.evidence.events import Context
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import Outgoing, Reach
from bailiwick.inventory.credentials import unseal
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Unavailable
from bailiwick.kernel.fields import Body
from bailiwick.kernel.redaction import redact_text

PREFIX = "external."
_LIMIT_S = 15.0
_KEPT = 2_000


def sign(key: bytes, timestamp: int, identifier: str, body: bytes) -> str:
    """The signature of a webhook's body."""
    return "v1=" + hmac.new(key, f"{timestamp}.{identifier}.".encode() + body, hashlib.sha256).hexdigest()


def arguments_of(name: str, arguments: Mapping[str, Argument]) -> type[Body]:
    """The model of an operation's arguments: every one of them, and no other."""
    fields: dict[str, Any] = {}
    for argument, said in arguments.items():
        if said.type == "integer":
            fields[argument] = (Annotated[int, Field(ge=-said.most, le=said.most, strict=True)], ...)
        else:
            plain = StringConstraints(min_length=1, max_length=min(said.most, 2000), pattern=r"^[^\x00-\x1f\x7f]*$")
            fields[argument] = (Annotated[str, plain], ...)
    model: type[Body] = create_model(f"Arguments_{name}", __base__=Body, **fields)
    return model


class ExternalOperation:
    """One of them."""

    external = True
    reversible = False

    def __init__(self, name: str, described: External, means: Externals) -> None:
        self.name = PREFIX + name
        self.title = described.title
        self.class_: Class = described.class_
        self.arguments = arguments_of(name, described.arguments)
        self._described = described
        self._means = means

    def amount(self, arguments: Any) -> int:
        """What the argument says that names the amount; 1 where none does."""
        return abs(int(getattr(arguments, self._described.amount))) if self._described.amount else 1

    async def target(self, tx: Transaction, zone: str, arguments: Any) -> Target:
        """The target's name, and its version where the other side tells one."""
        name = str(getattr(arguments, self._described.target))
        if self._described.webhook is not None:
            version = await self._means.web_version(self._described.webhook, name)
        else:
            assert self._described.procedure is not None
            version = await self._means.sql_version(tx, zone, self._described.procedure, name)
        return Target(f"{self.name}/{name}", version)

    async def perform(self, context: Context, arguments: Any, claim: Claim, key: str) -> Mapping[str, Any]:
        """Let it begin, then ask. The answer's ``verdict`` is ``done``, ``failed``, or ``unanswered``."""
        async with self._means.database.begin() as tx:
            await claim(tx)
            described = self._described
            name = described.webhook.credential if described.webhook else described.procedure.credential  # type: ignore[union-attr]
            secret = await self._means.secret(tx, context.zone, name)
            attempt = int(await tx.value("SELECT attempts FROM overrides WHERE id = :id", id=key))
        form = {
            "key": key,
            "operation": self.name,
            "zone": context.zone,
            "arguments": arguments.model_dump(mode="json"),
        }
        if described.webhook is not None:
            status, answer = await self._means.post(described.webhook, secret, key, form)
        else:
            assert described.procedure is not None
            status, answer = await self._means.call(described.procedure, secret, key, form["arguments"])
        await self._means.receipt(key, attempt, status, answer)
        told = redact_text(answer[:_KEPT].decode("utf-8", "replace").replace("\x00", "\ufffd"))
        verdict = "done" if 200 <= status < 300 else "unanswered" if status == 0 or status >= 500 else "failed"
        digest = hashlib.sha256(answer).hexdigest()
        return {"verdict": verdict, "status": status, "sha256": digest, "why": "" if verdict == "done" else told}

    async def undo(self, context: Context, arguments: Any, key: str) -> bool:
        """What another system did is not ours to take back."""
        return False


class Externals:
    """What external operations work with. ``conninfo`` makes of a stored connection string the one to connect by;
    without it the host is resolved and checked, and the address that was checked is connected to."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        reach: Reach,
        sealer: Callable[[], Sealer],
        conninfo: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self.database = database
        self._clock = clock
        self._reach = reach
        self._sealer = sealer
        self._conninfo = conninfo or self._checked

    def of(self, book: Book) -> dict[str, Operation]:
        """The operations that the documents of a zone describe."""
        found = (ExternalOperation(name, described, self) for name, described in book.of(EXTERNAL).items())
        return {operation.name: operation for operation in found}

    async def secret(self, tx: Transaction, zone: str, name: str) -> str:
        """The value of a stored bearer credential."""
        row = await tx.one(
            "SELECT id, kind, header, sealed FROM credentials WHERE zone = :zone AND name = :name", zone=zone, name=name
        )
        if row is None or row["kind"] != "bearer" or row["sealed"] is None:
            raise Conflict(f"There is no bearer credential {name}.")
        opened = unseal(self._sealer(), zone, row["id"], row["kind"], row["header"], bytes(row["sealed"]))
        return str(opened.values["token"])

    async def receipt(self, override: str, attempt: int, status: int, answer: bytes) -> None:
        """Keep what was answered."""
        told = redact_text(answer[:_KEPT].decode("utf-8", "replace").replace("\x00", "\ufffd"))
        async with self.database.begin() as tx:
            await tx.run(
                "INSERT INTO override_receipts (override, attempt, at, status, body_sha256, answer) VALUES (:override,"
                " :attempt, :now, :status, :digest, :answer) ON CONFLICT DO NOTHING",
                override=override,
                attempt=attempt,
                now=self._clock.now(),
                status=status,
                digest=hashlib.sha256(answer).hexdigest(),
                answer=told,
            )

    # --- webhooks

    async def post(self, hook: Webhook, secret: str, key: str, form: Mapping[str, Any]) -> tuple[int, bytes]:
        """Send it signed; status 0 where no answer came."""
        body = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        timestamp = int(self._clock.time())
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "X-Bailiwick-Timestamp": str(timestamp),
            "X-Bailiwick-Signature": sign(secret.encode(), timestamp, key, body),
        }
        return await self._request(hook.url, body, headers, "POST")

    async def web_version(self, hook: Webhook, target: str) -> str:
        """What the other side says of the target; refuses where it says nothing. Empty where nobody is to be asked."""
        if hook.version_url is None:
            return ""
        url = hook.version_url.replace("{target}", quote(target, safe=""))
        status, answer = await self._request(url, b"", {}, "GET")
        try:
            version = json.loads(answer)["version"] if status == 200 else None
        except (ValueError, KeyError, TypeError):
            version = None
        if not isinstance(version, (str, int)) or isinstance(version, bool):
            raise Unavailable(f"The version of {target} cannot be learnt.")
        return str(version)[:200]

    async def _request(self, url: str, body: bytes, headers: Mapping[str, str], method: str) -> tuple[int, bytes]:
        client = Outgoing(self._reach, timeout_s=_LIMIT_S)
        try:
            answer = await client.post(url, body, headers, method=method)
            return answer.status, answer.body
        except (Retry, Stop) as error:
            return 0, str(error).encode()
        finally:
            await client.close()

    # --- databases

    async def call(self, procedure: Procedure, dsn: str, key: str, arguments: Mapping[str, Any]) -> tuple[int, bytes]:
        """Call the function; 200 with what it answered, 400 where it refused, 0 where nobody answered."""
        statement = sql.SQL("SELECT {}(%s::text, %s::jsonb)::text").format(_named(procedure.function))
        return await self._query(dsn, statement, (key, json.dumps(dict(arguments))))

    async def sql_version(self, tx: Transaction, zone: str, procedure: Procedure, target: str) -> str:
        """What its function says of the target."""
        if procedure.version_function is None:
            return ""
        statement = sql.SQL("SELECT {}(%s::text)::text").format(_named(procedure.version_function))
        status, answer = await self._query(await self.secret(tx, zone, procedure.credential), statement, (target,))
        if status != 200:
            raise Unavailable(f"The version of {target} cannot be learnt.")
        return answer.decode("utf-8", "replace")[:200]

    async def _checked(self, dsn: str) -> str:
        parts = conninfo_to_dict(dsn)
        host, port = str(parts.get("host") or ""), int(parts.get("port") or 5432)
        if not host or host.startswith("/") or "," in host:
            raise Conflict("The connection string names no host, or several.")
        addresses = await self._reach(host, port)
        return make_conninfo(dsn, hostaddr=addresses[0], connect_timeout=5)

    async def _query(self, dsn: str, statement: sql.Composed, values: tuple[str, ...]) -> tuple[int, bytes]:
        try:
            conninfo = await self._conninfo(dsn)
            async with asyncio.timeout(_LIMIT_S), await psycopg.AsyncConnection.connect(conninfo) as connection:
                cursor = await connection.execute(statement, values)
                row = await cursor.fetchone()
        except (psycopg.OperationalError, TimeoutError, OSError) as error:
            return 0, type(error).__name__.encode()
        except (psycopg.Error, BailiwickError) as error:
            return 400, redact_text(str(error).splitlines()[0] if str(error) else type(error).__name__).encode()
        return 200, str(row[0] if row and row[0] is not None else "").encode()


def _named(function: str) -> sql.Identifier:
    return sql.Identifier(*function.split("."))
