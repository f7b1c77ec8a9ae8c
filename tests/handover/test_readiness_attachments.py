"""Documents of attestations: kept whole by their hash, given out as they were or not at all, and carried in packs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from stage import Stage
from test_readiness import Desk

from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.handover.readiness.attachments import MOST_BYTES, MOST_WAITING, attached
from bailiwick.handover.readiness.documents import KINDS
from bailiwick.kernel.errors import BailiwickError
from people_fixtures import House

PDF = b"%PDF-1.7 a runbook that was read"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    return await Desk(Stage(house, (*KINDS, THRESHOLD, ACTIVITY)), tmp_path).open()


@asynccontextmanager
async def tampering(desk: Desk) -> AsyncIterator[None]:
    """Whoever owns the database takes away what holds hash and bytes together."""
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("ALTER TABLE bailiwick.readiness_attachments DROP CONSTRAINT readiness_attachments_data")
    yield
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("DELETE FROM bailiwick.readiness_attachments")
        await tx.run(
            "ALTER TABLE bailiwick.readiness_attachments ADD CONSTRAINT readiness_attachments_data"
            " CHECK (sha256 = encode(sha256(data), 'hex'))"
        )


async def test_a_document_is_given_out_as_it_was_handed_in_and_never_shown(desk: Desk) -> None:
    status, made = await desk.hand_in(PDF, media_type="application/pdf; charset=binary")
    assert (status, made["sha256"], made["media_type"], made["bytes"]) == (
        201,
        digest(PDF),
        "application/pdf",
        len(PDF),
    )
    assert (await desk.hand_in(PDF, who="sam", media_type="text/html"))[0] == 200  # it is kept as it was
    token = await desk.stage.people.signed_in("sam")
    answer = await desk.stage.call("GET", f"/api/v1/readiness/attachments/{digest(PDF)}", token=token)
    assert (answer.status, answer.body) == (200, PDF)
    told = {name: answer.headers[name] for name in ("content-type", "content-disposition", "x-content-type-options")}
    assert told == {
        "content-type": "application/pdf",
        "content-disposition": f'attachment; filename="{digest(PDF)}"',
        "x-content-type-options": "nosniff",
    }
    assert "sandbox" in answer.headers["content-security-policy"]
    names = [event.name for event in await desk.stage.people.events()]
    assert (names.count("readiness.attached"), names.count("readiness.read")) == (1, 1)
    viv = await desk.stage.people.signed_in("viv")
    assert (await desk.stage.call("GET", f"/api/v1/readiness/attachments/{digest(PDF)}", token=viv)).status == 403
    assert (await desk.hand_in(b"x", who="viv"))[0] == 403


async def test_ten_megabytes_are_kept_and_not_a_byte_more(desk: Desk) -> None:
    large = b"x" * MOST_BYTES
    assert (await desk.hand_in(large))[0] == 201
    _, data = await desk.attachments.read(desk.stage.context("sam"), digest(large))
    assert data == large
    status, told = await desk.hand_in(large + b"x")
    assert (status, told["reason"]) == (413, "payload_too_large")
    assert (await desk.hand_in(b""))[0] == 400


async def test_what_is_not_what_its_hash_names_is_refused(desk: Desk) -> None:
    status, told = await desk.hand_in(PDF, sha256="ab" * 32)
    assert (status, told["reason"]) == (422, "attachment_hash")
    assert (await desk.hand_in(PDF, sha256="AB" * 32))[0] == 400
    assert (await desk.hand_in(PDF, media_type="nonsense\tx"))[1]["reason"] == "unsupported_media_type"
    status, told = await desk.attest("signed", sha256="ab" * 32, attachment="signed.pdf")
    assert (status, told["reason"]) == (422, "attachment_missing")  # a hash alone shows nothing


async def test_an_attestation_rests_on_its_document_and_falls_with_it(desk: Desk) -> None:
    await desk.hand_in(PDF)
    await desk.agreed("signed", sha256=digest(PDF), attachment="runbook.pdf")
    assert (await desk.verdicts())["signed"] == "PASS"
    record = await desk.stage.people.value("SELECT record FROM readiness_attestations")
    async with desk.stage.database.begin() as tx:
        stored = await desk.stage.records.get(tx, "default", record)
        assert attached(stored.body) == digest(PDF)
    async with desk.stage.people.owner.begin() as tx:  # the program itself may not
        await tx.run("DELETE FROM bailiwick.readiness_attachments")
    assert (await desk.verdicts())["signed"] == "NO_DATA"
    _, told = await desk.say("olga", "GET", "/production/items/small/signed")
    assert "not kept any more" in told["told"] and told["attestations"][0]["attachment_kept"] is False
    token = await desk.stage.people.signed_in("sam")
    answer = await desk.stage.call("GET", f"/api/v1/readiness/attachments/{digest(PDF)}", token=token)
    assert (answer.status, answer.json()["reason"]) == (404, "no_attachment")
    assert (await desk.hand_in(PDF))[0] == 201  # handed in again, it is the same
    assert (await desk.verdicts())["signed"] == "PASS"


async def test_the_program_can_neither_change_nor_remove_one(desk: Desk) -> None:
    await desk.hand_in(PDF)
    for sql in ("UPDATE readiness_attachments SET media_type = 'text/html'", "DELETE FROM readiness_attachments"):
        with pytest.raises(Exception, match="permission denied"):
            async with desk.stage.database.begin() as tx:
                await tx.run(sql)


async def test_what_was_altered_where_it_is_kept_is_not_given_out(desk: Desk) -> None:
    await desk.hand_in(PDF)
    async with tampering(desk):
        async with desk.stage.people.owner.begin() as tx:
            await tx.run("UPDATE bailiwick.readiness_attachments SET data = 'another'")
        token = await desk.stage.people.signed_in("sam")
        answer = await desk.stage.call("GET", f"/api/v1/readiness/attachments/{digest(PDF)}", token=token)
        assert (answer.status, answer.json()["reason"]) == (409, "attachment_altered")


async def test_another_zones_document_is_not_there(desk: Desk) -> None:
    async with desk.stage.people.owner.begin() as tx:
        await tx.run("INSERT INTO bailiwick.zones (name, created_at) VALUES ('far', now()) ON CONFLICT DO NOTHING")
    await desk.attachments.keep(desk.stage.context("fay", "far"), digest(PDF), "application/pdf", PDF)
    with pytest.raises(BailiwickError) as refused:
        await desk.attachments.read(desk.stage.context("sam"), digest(PDF))
    assert refused.value.reason == "no_attachment"
    status, told = await desk.attest("signed", sha256=digest(PDF))
    assert (status, told["reason"]) == (422, "attachment_missing")
    assert (await desk.hand_in(PDF))[0] == 201  # each zone keeps its own


async def test_who_hands_in_and_attests_nothing_cannot_fill_the_database(desk: Desk) -> None:
    for number in range(MOST_WAITING):
        assert (await desk.hand_in(b"%d" % number))[0] == 201
    status, told = await desk.hand_in(b"more")
    assert (status, told["reason"]) == (409, "attachments_waiting")
    assert (await desk.hand_in(b"0"))[0] == 200
    await desk.attest("signed", sha256=digest(b"0"))
    assert (await desk.hand_in(b"more"))[0] == 201
