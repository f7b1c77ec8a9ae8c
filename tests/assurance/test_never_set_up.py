"""What nobody ever set up calls nobody; what was set up, or meant to be, and does not work is an alert of P1."""

from __future__ import annotations

from typing import Any

import pytest
from alerting import Alerting, Said, channel, web
from test_alert_notices import receipts, send

from bailiwick.assurance.book import Document
from bailiwick.assurance.notices.channels import CHANNEL
from bailiwick.assurance.notices.routes import ROUTE
from bailiwick.assurance.oncall.rota import ROTA
from bailiwick.assurance.shipped import shipped
from bailiwick.kernel.severity import Severity
from people_fixtures import House

SHIPPED: list[Document] = [each for each in shipped("default") if each.kind in (CHANNEL.name, ROUTE.name, ROTA.name)]


@pytest.fixture
async def fresh(house: House) -> Alerting:
    """An installation as it comes: nobody gave a secret or named a mail server."""
    alerting = Alerting(house)
    await alerting.stage.books.ship(alerting.stage.context("bailiwick"), SHIPPED)
    return alerting


async def states(alerting: Alerting) -> dict[str, str]:
    return {row["channel"]: row["state"] for row in await receipts(alerting)}


async def rules(alerting: Alerting) -> list[tuple[str, str]]:
    found = await alerting.rows("SELECT rule, severity FROM alerts WHERE state <> 'closed' ORDER BY id")
    return [(row["rule"], row["severity"]) for row in found]


# ---------------------------------------------------------------------- channels


async def test_what_is_for_a_channel_that_nobody_set_up_is_told_as_that_and_calls_nobody(fresh: Alerting) -> None:
    for name in ("pager", "chat", "mail"):
        await send(fresh, f"channel:{name}", name)
    await fresh.deliver()
    found = await receipts(fresh)
    assert {row["state"] for row in found} == {"not_set_up"}
    told = {row["channel"]: row["told"] for row in found}
    assert told == {
        "pager": "the channel is not set up: the secret pager-routing-key was never given",
        "chat": "the channel is not set up: the secret chat-webhook was never given",
        "mail": "the channel is not set up: it names no mail server",
    }
    assert await rules(fresh) == []
    assert [event.name for event in await fresh.stage.people.events() if event.name.startswith("notice.")] == []


async def test_a_real_alert_of_a_fresh_installation_raises_no_second_one(fresh: Alerting) -> None:
    fresh.rota.people.clear()
    await fresh.fire(severity=Severity.P0)
    for _ in range(6):
        await fresh.deliver()
        fresh.clock.advance(3600)
    assert await rules(fresh) == [("PayDown", "P0")]
    assert set((await states(fresh)).values()) == {"not_set_up"}


async def _given(alerting: Alerting) -> None:
    await alerting.secrets.put(alerting.stage.context(), "chat-webhook", "http://chat.example.com/hook", by="root")


async def _given_and_taken_away(alerting: Alerting) -> None:
    await _given(alerting)
    await alerting.secrets.remove(alerting.stage.context(), "chat-webhook")


async def _changed_and_no_secret(alerting: Alerting) -> None:
    await alerting.stage.apply(channel("chat", "slack: {}, secret_name: chat-webhook, timeout: 2s, give_up_after: 1"))


async def _made_and_no_secret(alerting: Alerting) -> None:
    await alerting.stage.apply(channel("chat", "slack: {}, secret_name: ours, give_up_after: 1"))


@pytest.mark.parametrize("how", [_given, _given_and_taken_away, _changed_and_no_secret, _made_and_no_secret])
async def test_one_that_was_set_up_or_meant_to_be_is_a_loss(fresh: Alerting, how: Any) -> None:
    await how(fresh)
    await send(fresh, "channel:chat")
    for _ in range(10):
        await fresh.deliver()
        fresh.clock.advance(600)
    assert (await states(fresh))["chat"] == "dead"
    assert ("notices/dead", "P1") in await rules(fresh)


async def test_one_that_worked_once_is_a_loss_when_its_host_is_gone(fresh: Alerting) -> None:
    """Also where it is again as we ship it."""
    await send(fresh, "channel:mail", "before")
    async with fresh.stage.people.owner.begin() as tx:
        await tx.run("INSERT INTO bailiwick.notice_deliveries (id, notice, zone, channel, address, dedup_key, state,"
                     " created_at, next_at) SELECT 'd', id, zone, 'mail', 'a@example.com', '', 'delivered', now(), now()"
                     " FROM bailiwick.notices")  # fmt: skip
    await send(fresh, "channel:mail", "after")
    await fresh.deliver()
    assert ("notices/dead", "P1") in await rules(fresh)


async def test_the_fallback_of_one_that_is_not_set_up_is_told(fresh: Alerting) -> None:
    with web(lambda path, body: Said(200, b"ok")) as chat:
        await fresh.secrets.put(fresh.stage.context(), "hook", f"{chat.url}/hook", by="root")
        async with fresh.stage.people.owner.begin() as tx:  # mail is set up by somebody; the pager stays as it came
            await tx.run(
                "UPDATE bailiwick.assurance_documents SET in_force = false WHERE kind = 'Channel' AND name = 'mail'"
            )
            await tx.run(
                "INSERT INTO bailiwick.assurance_documents (zone, kind, name, version, revision, spec, sha256, in_force,"
                " applied_at, applied_by) SELECT zone, kind, name, 2, 2, cast(:spec AS jsonb), 'x', true, now(), 'root'"
                " FROM bailiwick.assurance_documents WHERE kind = 'Channel' AND name = 'mail'",
                spec='{"slack": {}, "secret_name": "hook"}',
            )
        await send(fresh, "channel:pager")
        await fresh.deliver()
        assert await states(fresh) == {"pager": "not_set_up", "mail": "delivered"}
        assert len(chat.got) == 1 and await rules(fresh) == []


async def test_once_it_is_set_up_what_was_for_it_can_be_sent(fresh: Alerting) -> None:
    notice = await send(fresh, "channel:chat")
    await fresh.deliver()
    with web(lambda path, body: Said(200, b"ok")) as chat:
        await fresh.secrets.put(fresh.stage.context(), "chat-webhook", f"{chat.url}/hook", by="root")
        assert await fresh.outbox.retry(fresh.stage.context(), notice) == 2  # its fallback's too
        await fresh.deliver()
        assert await states(fresh) == {"chat": "delivered", "mail": "not_set_up"}
        assert len(chat.got) == 1


# ---------------------------------------------------------------------- on call


@pytest.mark.parametrize("role", ["operator", "product_owner"])
async def test_once_there_was_somebody_to_call_it_is_a_loss_that_there_is_nobody(fresh: Alerting, role: str) -> None:
    fresh.rota.people.clear()
    await fresh.stage.people.user("gone", role, is_active=False)
    await fresh.fire(severity=Severity.P0)
    await fresh.deliver()
    assert ("on-call/nobody", "P1") in await rules(fresh)


async def test_a_rota_that_somebody_wrote_has_somebody_on_it(fresh: Alerting) -> None:
    fresh.rota.people.clear()
    said = "start: '2026-01-05', levels: {primary: {people: [nora]}}"
    await fresh.stage.apply(f"apiVersion: bailiwick/v1\nkind: Rota\nmetadata: {{name: default}}\nspec: {{{said}}}\n")
    await fresh.fire(severity=Severity.P0)
    await fresh.deliver()
    assert ("on-call/nobody", "P1") in await rules(fresh)
