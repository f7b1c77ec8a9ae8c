"""Routes of notices: receipts, another try, channels and their secrets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StringConstraints

from bailiwick.assurance.books import Books
from bailiwick.assurance.notices.channels import MOST_SECRET, ChannelSecrets, told_of
from bailiwick.assurance.notices.notices import Outbox
from bailiwick.assurance.notices.testing import send_test
from bailiwick.evidence.events import Recorder
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import page
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, NamePath, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.ALERTS_WORK))]
Configurer = Annotated[Caller, Depends(require(Permission.ASSURANCE_CONFIGURE))]


class NewSecret(Body):
    """The secret of a channel: a webhook's address, a routing key, a password. It is never answered."""

    value: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MOST_SECRET, pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"),
        Field(examples=["https://hooks.example.com/services/T0/B0/x"]),
    ]


def routes(database: Database, recorder: Recorder, books: Books, outbox: Outbox, secrets: ChannelSecrets) -> APIRouter:
    """The routes under ``/api/v1/notices``."""
    router = APIRouter(prefix="/api/v1/notices", tags=["notices"])

    @router.get("", summary="List notices with their receipts, newest first")
    async def list_notices(
        request: Request,
        caller: Reader,
        state: Annotated[Literal["waiting", "due", "delivered", "dead", "not_set_up"] | None, Query()] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await outbox.listed(tx, zone_of(request), state=state or "", before=after_id(cursor), limit=limit)
        return page(found, found[-1]["id"] if len(found) == limit else None)

    @router.get("/channels", summary="List channels, and which of their secrets were given")
    async def channels(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            book = await books.current(tx, zone_of(request))
            given = {each.name for each in await secrets.list(tx, zone_of(request))}
        return {"items": told_of(book, given)}

    @router.post("/channels/{channel}/test", status_code=202, summary="Send something by a channel")
    async def test(request: Request, channel: NamePath, caller: Worker) -> dict[str, Any]:
        """Answers the notice; its receipt says whether it arrived."""
        identifier = await send_test(database, recorder, books, outbox, context_of(request, caller), channel)
        async with database.begin() as tx:
            return await outbox.get(tx, zone_of(request), identifier)

    @router.get("/secrets", summary="List the secrets of channels, without what they are")
    async def list_secrets(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return {"items": [each.document() for each in await secrets.list(tx, zone_of(request))]}

    @router.put("/secrets/{name}", summary="Give or replace a secret")
    async def put_secret(request: Request, name: NamePath, body: NewSecret, caller: Configurer) -> dict[str, Any]:
        kept = await secrets.put(context_of(request, caller), name, body.value, by=caller.name)
        return kept.document()

    @router.delete("/secrets/{name}", status_code=204, summary="Forget a secret")
    async def remove_secret(request: Request, name: NamePath, caller: Configurer) -> None:
        await secrets.remove(context_of(request, caller), name)

    @router.get("/{notice_id}", summary="One notice with every attempt")
    async def get_notice(request: Request, notice_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return await outbox.get(tx, zone_of(request), notice_id)

    @router.post("/{notice_id}/retry", summary="Try what did not arrive again")
    async def retry(request: Request, notice_id: IdPath, caller: Worker) -> dict[str, Any]:
        await outbox.retry(context_of(request, caller), notice_id)
        async with database.begin() as tx:
            return await outbox.get(tx, zone_of(request), notice_id)

    return router
