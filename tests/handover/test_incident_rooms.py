"""A thread and a ticket an incident: told in order, once, whatever becomes of the chat meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alerting import KINDS as ALERTING_KINDS
from alerting import Alerting, channel
from incident_desk import Desk, kinds
from room_servers import BOT, TOKEN, Chat, Server
from room_servers import Desk as Tickets
from stage import Stage

from bailiwick.assurance.book import BadBook
from people_fixtures import House


class Ground:
    """The desk of incidents with the real notices, a chat and a ticket system."""

    def __init__(self, house: House, directory: Path) -> None:
        self.chat, self.tickets = Chat(), Tickets()
        self.chat_server, self.ticket_server = Server(self.chat.answer), Server(self.tickets.answer)
        self.house, self.directory = house, directory
        self.alerting = Alerting(house)

    async def open(self, room: str = "") -> Ground:
        stage = Stage(self.house, [*kinds(), *ALERTING_KINDS])
        self.desk = Desk(stage, self.directory, notices=self.alerting.outbox)
        await self.desk.open(more=self.documents(room))
        self.alerting.deliveries = self.alerting.new_deliveries()
        for name, value in (("bot", BOT), ("desk", TOKEN)):
            await self.alerting.secrets.put(stage.context(), name, value, by="root")
        return self

    def documents(self, room: str) -> str:
        api = f'slack: {{api: "{self.chat_server.url}/api/chat.postMessage", channel: C024BE91L}}, secret_name: bot'
        ticket = f'ticket: {{url: "{self.ticket_server.url}/tickets"}}, secret_name: desk'
        return (
            "---\n"
            + channel("war-room", api)
            + channel("tickets", ticket, ", give_up_after: 20")
            + "apiVersion: bailiwick/v1\nkind: IncidentRoom\nmetadata: {name: all}\n"
            + f"spec: {{channels: [war-room, tickets]{room}}}\n"
        )

    async def deliver(self, times: int = 12) -> None:
        """Until nothing is due, as time goes by."""
        for _ in range(times):
            await self.alerting.deliver()
            self.desk.stage.clock.advance(1)

    async def timeline(self, name: str) -> list[dict[str, Any]]:
        await self.desk.look()
        return list((await self.desk.say("jane", "GET", f"/incidents/{name}"))[1]["timeline"])

    def close(self) -> None:
        self.chat_server.close()
        self.ticket_server.close()


@pytest.fixture
def ground(house: House, tmp_path: Path) -> Iterator[Ground]:
    found = Ground(house, tmp_path)
    yield found
    found.close()


async def tell(ground: Ground, name: str, told: str) -> None:
    status, said = await ground.desk.say("olga", "POST", f"/incidents/{name}/updates", {"told": told})
    assert status == 200, said


async def test_each_incident_is_one_thread_and_one_ticket(ground: Ground) -> None:
    await ground.open()
    one, two = await ground.desk.opened(title="pay <down>"), await ground.desk.opened(title="slow")
    for name in (one, two, one):
        await tell(ground, name, f"news of {name}")
    await ground.deliver()
    threads = list(ground.chat.threads().values())
    assert [len(each) for each in threads] == [3, 2]
    assert "pay &lt;down&gt;" in threads[0][0] and "opened" in threads[0][0]
    assert all(f"news of {one}" in each for each in threads[0][1:])
    assert {name: [each["action"] for each in told] for name, told in ground.tickets.tickets.items()} == {
        "OPS-1": ["create", "update", "update"],
        "OPS-2": ["create", "update"],
    }
    first = ground.tickets.tickets["OPS-1"][0]
    assert (first["severity"], first["facts"]["incident"], first["facts"]["state"]) == ("P1", one, "open")
    delivered = [each["told"] for each in await ground.timeline(one) if each["what"] == "delivery"]
    assert '"opened" arrived in tickets as OPS-1' in delivered and len(delivered) == 6
    again = [each for each in await ground.timeline(one) if each["what"] == "delivery"]
    assert len(again) == 6


async def test_the_chat_is_away_and_the_incident_goes_on(ground: Ground) -> None:
    await ground.open()
    ground.chat_server.down = ground.ticket_server.down = True
    name = await ground.desk.opened()
    await ground.deliver(3)
    await tell(ground, name, "we look at it")
    status, _ = await ground.desk.contain(name, "freeze")
    assert status == 200
    assert (await ground.desk.ongoing())[0]["state"] == "contained"
    waits = [each["told"] for each in await ground.timeline(name) if each["what"] == "delivery"]
    assert any("does not arrive in war-room yet: 503" in each for each in waits)
    ground.chat_server.down = ground.ticket_server.down = False
    await ground.deliver(30)
    (thread,) = ground.chat.threads().values()
    assert [each.split("\n")[1].split(":")[0] for each in thread] == ["opened", "update", "contained"]
    (ticket,) = ground.tickets.tickets.values()
    assert [each["facts"]["what"] for each in ticket] == ["opened", "update", "contained"]


async def test_an_answer_that_is_lost_makes_no_second_ticket(ground: Ground) -> None:
    await ground.open()
    ground.tickets.forget_answers = 1
    name = await ground.desk.opened()
    await tell(ground, name, "news")
    ground.alerting.clock.advance(1)
    await ground.deliver(20)
    assert {each: len(told) for each, told in ground.tickets.tickets.items()} == {"OPS-1": 2}


async def test_what_the_chat_refuses_is_dead_and_told(ground: Ground) -> None:
    await ground.open()
    ground.chat.errors = ["ratelimited", "is_archived"]
    name = await ground.desk.opened()
    await ground.deliver(5)
    state = await ground.alerting.rows("SELECT state, told FROM notice_deliveries WHERE channel = 'war-room'")
    assert state[0]["state"] == "due" and "429" in state[0]["told"]
    await ground.deliver(60)
    said = [each["told"] for each in await ground.timeline(name) if each["what"] == "delivery"]
    assert '"opened" did not arrive in war-room: the chat does not take it: is_archived' in said
    alerts = await ground.alerting.rows("SELECT rule FROM alerts WHERE rule = 'notices/dead'")
    assert len(alerts) == 1
    # the next one begins the thread
    await tell(ground, name, "news")
    await ground.deliver()
    assert len(ground.chat.threads()) == 1


@pytest.mark.parametrize(("room", "told"), [("", False), (", security: true", True)])
async def test_of_a_security_incident_a_room_is_told_what_it_may_know(ground: Ground, room: str, told: bool) -> None:
    await ground.open(room)
    name = await ground.desk.opened(title="the plan leaked", **{"class": "security"})
    await tell(ground, name, "it was the intern")
    await ground.deliver()
    said = str(ground.chat.messages) + str(ground.tickets.tickets)
    assert ("plan" in said, "intern" in said) == (told, told) and name in said


async def test_only_the_severities_that_a_room_is_for(ground: Ground) -> None:
    await ground.open(", severities: [P0]")
    await ground.desk.opened(severity="P1")
    await ground.desk.opened(severity="P0")
    await ground.deliver()
    assert len(ground.chat.messages) == 1


async def test_what_was_told_last_is_shown_after_it_was_closed(ground: Ground) -> None:
    await ground.open()
    name = await ground.desk.opened()
    await ground.desk.closed(name)
    await ground.deliver()
    told = [each["told"] for each in await ground.timeline(name) if each["what"] == "delivery"]
    assert any(each.startswith('"closed" arrived in tickets') for each in told)


@pytest.mark.parametrize(
    "documents",
    [
        "apiVersion: bailiwick/v1\nkind: IncidentRoom\nmetadata: {name: r}\nspec: {channels: [nowhere]}\n",
        channel("page", "pagerduty: {}, secret_name: k")
        + "apiVersion: bailiwick/v1\nkind: IncidentRoom\nmetadata: {name: r}\nspec: {channels: [page]}\n",
        channel("chat", "slack: {channel: C1}, secret_name: k"),
        channel("desk", 'ticket: {url: "https://desk.example.com/tickets"}'),
        channel("desk", 'ticket: {url: "https://d.example.com", update_url: "https://d.example.com"}, secret_name: k'),
    ],
    ids=["no channel", "a pager", "half an api", "no secret", "no place for the id"],
)
async def test_a_room_or_a_channel_that_cannot_be_is_refused(house: House, documents: str) -> None:
    stage = Stage(house, [*kinds(), *ALERTING_KINDS])
    with pytest.raises(BadBook):
        await stage.apply(documents)
