"""Notices on their way: to a mail server, a Slack-compatible webhook and PagerDuty, each of which speaks for real."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from alerting import Alerting, Pager, Said, Web, channel, route, slack, web
from self_signed import Certificate, certificate
from stage import room_of

from bailiwick.app.assurance.alerts import Alerting as Services
from bailiwick.app.assurance.alerts import keep_telling
from bailiwick.assurance.notices.delivery import wait_after
from bailiwick.assurance.notices.senders import Message
from bailiwick.assurance.notices.testing import send_test
from bailiwick.assurance.ports import Notice, Person
from bailiwick.evidence.siem.destination import Stop
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.severity import Severity
from people_fixtures import House

ROUTING_KEY = "R" * 32
HOOK = "/services/T0/B0/token"


@dataclass
class Post:
    """A mail server with TLS and accounts, and what it took."""

    host: str
    port: int
    ca: str
    got: list[Envelope]
    users: list[str]
    refuse: list[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("post"), "localhost")


class _Taking:
    def __init__(self, post: Post) -> None:
        self.post = post

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.post.refuse:
            return self.post.refuse.pop(0)
        self.post.got.append(envelope)
        return "250 taken"


@pytest.fixture(params=["starttls", "tls"])
async def post(request: pytest.FixtureRequest, made: Certificate) -> AsyncIterator[Post]:
    found = Post("127.0.0.1", 0, made.pem, [], [], [])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made.cert, made.key)

    def allowed(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        found.users.append(data.login.decode())
        right = data.password == b"mail password"
        return AuthResult(success=right, handled=right)

    implicit = request.param == "tls"
    options: dict[str, Any] = {"authenticator": allowed, "auth_required": True, "auth_require_tls": not implicit}
    if not implicit:
        options |= {"tls_context": tls, "require_starttls": True}
    loop = asyncio.get_running_loop()

    def speaking() -> SMTP:
        with warnings.catch_warnings(action="ignore"):  # it does not see that TLS is beneath it
            return SMTP(_Taking(found), loop=loop, **options)

    server = await loop.create_server(speaking, "127.0.0.1", 0, ssl=tls if implicit else None)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@pytest.fixture
async def alerting(house: House) -> Alerting:
    return Alerting(house)


async def keep(alerting: Alerting, **secrets: str) -> None:
    for name, value in secrets.items():
        await alerting.secrets.put(alerting.stage.context(), name, value, by="root")


async def send(alerting: Alerting, to: str, key: str = "k", severity: Severity = Severity.P1) -> str:
    async with alerting.database.begin() as tx:
        return await alerting.outbox.send(tx, "default", Notice(to, key, "something <broke>", "it & that", severity))


async def receipts(alerting: Alerting, notice: str | None = None) -> list[dict[str, Any]]:
    return await alerting.rows(
        "SELECT channel, address, state, attempts, remote_id, told, latency_ms, next_at, id FROM notice_deliveries"
        " WHERE cast(:notice AS text) IS NULL OR notice = :notice ORDER BY id",
        notice=notice,
    )


def mail(post: Post, more: str = "", tls: str = "starttls") -> str:
    spec = (
        f"email: {{host: localhost, port: {post.port}, tls: {tls}, username: bw, sender: bailiwick@example.com,"
        f" ca: {post.ca!r}, for_people: true, to: [ops@example.com]{more}}}, secret_name: mail-password"
    ).replace("'", '"')
    return channel("mail", spec)


# ---------------------------------------------------------------------- mail


@pytest.fixture
def tls_of(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["post"])


async def test_mail_goes_to_channels_persons_and_roles_by_tls_and_a_password(
    alerting: Alerting, post: Post, tls_of: str
) -> None:
    alerting.stage.people.names.known["localhost"] = ["127.0.0.1"]
    await alerting.stage.apply(mail(post, tls=tls_of))
    await keep(alerting, **{"mail-password": "mail password"})
    await alerting.stage.people.user("jane")
    alerting.stage.heard.people["ops_owner"] = Person("joe", "Joe", "joe@example.com")
    for number, to in enumerate(("channel:mail", "person:jane", "role:ops_owner")):
        await send(alerting, to, str(number))
    alerting.clock.advance(2)
    await alerting.deliver()
    assert sorted(each.rcpt_tos[0] for each in post.got) == ["jane@example.com", "joe@example.com", "ops@example.com"]
    found = await receipts(alerting)
    assert {(row["state"], row["told"]) for row in found} == {("delivered", "")} and {
        row["latency_ms"] for row in found
    } == {2000}
    text = post.got[0].content
    assert isinstance(text, bytes) and b"Subject: something <broke>" in text and b"Auto-Submitted" in text
    assert {row["remote_id"] for row in found} == {f"<{row['id']}@example.com>" for row in found}
    assert post.users == ["bw"] * 3


async def test_what_a_mail_server_answers_decides_what_happens_next(
    alerting: Alerting, post: Post, tls_of: str
) -> None:
    alerting.stage.people.names.known["localhost"] = ["127.0.0.1"]
    await alerting.stage.apply(mail(post, tls=tls_of).replace("ops@example.com", "ops@example.com, nobody@example.com"))
    await keep(alerting, **{"mail-password": "mail password"})
    post.refuse.append("451 4.7.1 later")
    notice = await send(alerting, "channel:mail")
    await alerting.deliver()
    by_address = {row["address"]: row for row in await receipts(alerting, notice)}
    assert (by_address["nobody@example.com"]["state"], by_address["nobody@example.com"]["told"][:3]) == ("dead", "550")
    assert (by_address["ops@example.com"]["state"], by_address["ops@example.com"]["attempts"]) == ("due", 1)
    alerting.clock.advance(5)
    await alerting.deliver()
    assert {row["address"]: row["state"] for row in await receipts(alerting, notice)}["ops@example.com"] == "delivered"
    # a wrong password, and a certificate that nobody vouches for, wait for no time to mend them
    await keep(alerting, **{"mail-password": "another"})
    wrong = await send(alerting, "channel:mail", "wrong")
    await alerting.deliver()
    assert {row["told"].split(":")[0] for row in await receipts(alerting, wrong)} == {"the credential is not accepted"}
    await alerting.stage.apply(mail(post, tls=tls_of).replace(post.ca.replace("\n", "\\n"), ""))
    unknown = await send(alerting, "channel:mail", "unknown")
    await alerting.deliver()
    assert "is not trusted" in (await receipts(alerting, unknown))[0]["told"]


async def test_mail_without_tls_leaves_this_machine_never(alerting: Alerting) -> None:
    from bailiwick.assurance.notices.channels import Email
    from bailiwick.assurance.notices.senders import MailSender

    async def far(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    spec = Email(host="mail.example.com", tls="none", to=["a@example.com"])
    now = alerting.clock.now()
    with pytest.raises(Stop):
        await MailSender(spec, "", far, 1.0).send(
            Message("d", "a@example.com", "s", "b", "P1", "tell", "", now, "test")
        )


# ---------------------------------------------------------------------- Slack and PagerDuty


@pytest.fixture
def chat() -> Iterator[Web]:
    with web(slack) as server:
        yield server


@pytest.fixture
def incidents() -> Pager:
    return Pager(ROUTING_KEY)


@pytest.fixture
def pager(incidents: Pager) -> Iterator[Web]:
    with web(incidents.answer) as server:
        yield server


def chat_channel(more: str = "") -> str:
    return channel("chat", "slack: {}, secret_name: hook, timeout: 2s", more)


def pager_channel(pager: Web, more: str = "") -> str:
    return channel("pager", f'pagerduty: {{url: "{pager.url}/v2/enqueue"}}, secret_name: routing', more)


async def test_an_incident_is_triggered_acknowledged_and_resolved_under_one_key(
    alerting: Alerting, pager: Web, incidents: Pager
) -> None:
    await alerting.stage.apply(
        pager_channel(pager) + route("all", "labels: {service: pay}, channels: [pager], group_wait: 0s")
    )
    await keep(alerting, routing=ROUTING_KEY)
    identifier = await alerting.fire(severity=Severity.P0)
    await alerting.deliver()
    await alerting.desk.acknowledge(alerting.stage.context(), identifier, by="jane")
    await alerting.deliver()
    await alerting.clear()
    await alerting.deliver()
    assert incidents.incidents == {identifier: ["trigger", "acknowledge", "resolve"]}
    payload = pager.got[0]["payload"]
    assert (payload["severity"], payload["component"], payload["class"]) == ("critical", "pay", "PayDown")
    assert pager.got[0]["links"] == [{"href": "https://runs.example.com/pay", "text": "runbook"}]
    own = [row for row in await receipts(alerting) if row["channel"] == "pager"]
    assert {row["remote_id"] for row in own} == {identifier}


async def test_a_resolve_waits_for_its_trigger(alerting: Alerting, pager: Web, incidents: Pager) -> None:
    await alerting.stage.apply(
        pager_channel(pager) + route("all", "labels: {service: pay}, channels: [pager], group_wait: 0s")
    )
    await keep(alerting, routing=ROUTING_KEY)
    pager.script = [Said(500), Said(503)]
    identifier = await alerting.fire(severity=Severity.P0)
    await alerting.deliver()
    await alerting.clear()
    for _ in range(4):
        await alerting.deliver()
        alerting.clock.advance(10)
    assert incidents.incidents == {identifier: ["trigger", "resolve"]}


async def test_chat_gets_plain_text_and_its_receipt_is_kept(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(chat_channel())
    await keep(alerting, hook=chat.url + HOOK)
    notice = await send_test(
        alerting.database, alerting.stage.recorder, alerting.stage.books, alerting.outbox,
        alerting.stage.context("jane"), "chat",
    )  # fmt: skip
    await send(alerting, "channel:chat", "same")
    await send(alerting, "channel:chat", "same")
    await alerting.deliver()
    assert {each["text"].splitlines()[0] for each in chat.got} == {
        "*Test of the channel chat*", "*something &lt;broke&gt;*",
    } and len(chat.got) == 2  # fmt: skip
    async with alerting.database.begin() as tx:
        shown = await alerting.outbox.get(tx, "default", notice)
    assert [each["outcome"] for each in shown["deliveries"][0]["tries"]] == ["delivered"]
    assert HOOK not in str(await alerting.rows("SELECT * FROM notice_deliveries JOIN notice_attempts ON true"))
    with pytest.raises(NotFound):
        await send_test(
            alerting.database, alerting.stage.recorder, alerting.stage.books, alerting.outbox,
            alerting.stage.context(), "nowhere",
        )  # fmt: skip


async def test_what_fails_is_tried_again_as_late_as_it_was_asked(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(chat_channel())
    await keep(alerting, hook=chat.url + HOOK)
    chat.script = [Said(429, b"", {"Retry-After": "120"}), Said(500, b"rollup_error")]
    await send(alerting, "channel:chat")
    began = alerting.clock.now()
    await alerting.deliver()
    assert (await receipts(alerting))[0]["next_at"] == began + timedelta(seconds=120)
    alerting.clock.advance(119)
    await alerting.deliver()
    assert len(chat.got) == 1
    alerting.clock.advance(1)
    await alerting.deliver()
    assert (await receipts(alerting))[0]["next_at"] == began + timedelta(seconds=123), "twice 2 s, less half a quarter"
    alerting.clock.advance(3)
    await alerting.deliver()
    assert [(row["state"], row["attempts"]) for row in await receipts(alerting)] == [("delivered", 3)]


async def test_no_answer_in_time_is_tried_again(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(channel("chat", "slack: {}, secret_name: hook, timeout: 1s"))
    await keep(alerting, hook=chat.url + HOOK)
    chat.script = [Said(200, b"ok", hang_s=5)]
    await send(alerting, "channel:chat")
    await alerting.deliver()
    assert [(row["state"], row["attempts"]) for row in await receipts(alerting)] == [("due", 1)]
    alerting.clock.advance(3)
    await alerting.deliver()
    assert [row["state"] for row in await receipts(alerting)] == ["delivered"]


@pytest.mark.parametrize(
    "said",
    [Said(302, b"", {"Location": "http://127.0.0.1:1/"}), Said(403, b"action_prohibited"), Said(404, b"no_service"),
     Said(410, b"channel_is_archived"), Said(400, b"invalid_payload")],
    ids=lambda said: str(said.status),
)  # fmt: skip
async def test_what_time_does_not_mend_falls_back_at_once_and_an_alert_says_so(
    alerting: Alerting, chat: Web, pager: Web, incidents: Pager, said: Said
) -> None:
    await alerting.stage.apply(chat_channel(", fallback: pager") + pager_channel(pager))
    await keep(alerting, hook=chat.url + HOOK, routing=ROUTING_KEY)
    chat.script = [said]
    notice = await send(alerting, "channel:chat")
    await alerting.deliver()
    states = {row["channel"]: row["state"] for row in await receipts(alerting, notice)}
    assert states == {"chat": "dead", "pager": "delivered"}
    assert len(incidents.incidents) == 1
    of_chat = "SELECT state FROM alerts WHERE key = 'notices/dead/chat'"
    assert await alerting.rows(of_chat) == [{"state": "firing"}]
    # somebody mends it, and has it tried again; the alert clears with the first receipt
    assert await alerting.outbox.retry(alerting.stage.context(), notice) == 1
    await alerting.deliver()
    assert {row["state"] for row in await receipts(alerting, notice)} == {"delivered"}
    assert await alerting.rows(of_chat) == [{"state": "resolved"}]
    with pytest.raises(Conflict):
        await alerting.outbox.retry(alerting.stage.context(), notice)


async def test_after_some_failures_the_fallback_is_told_once_and_in_the_end_the_notice_is_dead(
    alerting: Alerting, chat: Web, pager: Web, incidents: Pager
) -> None:
    await alerting.stage.apply(
        chat_channel(", fallback: pager, fallback_after: 2, give_up_after: 4") + pager_channel(pager)
    )
    await keep(alerting, hook=chat.url + HOOK, routing=ROUTING_KEY)
    chat.script = [Said(503)] * 9
    notice = await send(alerting, "channel:chat")
    seen = []
    for _ in range(5):
        await alerting.deliver()
        seen.append((len(chat.got), len(pager.got)))
        alerting.clock.advance(400)
    assert seen[:4] == [(1, 0), (2, 1), (3, 1), (4, 1)] and seen[4][0] == 4
    dead = next(row for row in await receipts(alerting, notice) if row["channel"] == "chat")
    assert (dead["state"], dead["attempts"], dead["told"]) == ("dead", 4, "503")


async def test_a_channel_that_is_not_set_up_or_gone_is_dead_at_once(alerting: Alerting, pager: Web) -> None:
    await alerting.stage.apply(chat_channel() + channel("mail", "email: {to: [a@example.com]}"))
    for name in ("chat", "mail", "gone"):
        await send(alerting, f"channel:{name}", name)
    await send(alerting, "person:stranger", "p")
    await send(alerting, "role:finance_owner", "r")
    await alerting.deliveries.run_once()
    found = await receipts(alerting)
    assert {row["state"] for row in found} == {"dead"} and len(found) == 5
    keys = {row["key"] for row in await alerting.rows("SELECT key FROM alerts")}
    assert keys == {
        "notices/dead/chat", "notices/dead/mail", "notices/nobody/channel:gone", "notices/nobody/person:stranger",
        "notices/nobody/role:finance_owner",
    }  # fmt: skip


async def test_addresses_that_may_not_be_reached_are_not(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(chat_channel())
    far = alerting.new_deliveries(reach=_house_reach(alerting))
    for number, url in enumerate(
        ("http://169.254.169.254/latest", chat.url + HOOK, "http://chat.example.com/hook", "https://u:p@x.example.com/")
    ):
        await keep(alerting, hook=url)
        await send(alerting, "channel:chat", str(number))
        await far.run_once()
    assert {row["state"] for row in await receipts(alerting)} == {"dead"}
    assert chat.got == []


def _house_reach(alerting: Alerting) -> Any:
    from bailiwick.app.siem import reach_of

    return reach_of(alerting.stage.people.resolver)


# ---------------------------------------------------------------------- more than one process, and dying ones


async def test_many_processes_deliver_each_notice_once(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(chat_channel())
    await keep(alerting, hook=chat.url + HOOK)
    for number in range(20):
        await send(alerting, "channel:chat", str(number))
    others = [alerting.new_deliveries() for _ in range(3)]
    for _ in range(5):
        await asyncio.gather(*(each.run_once() for each in others))
    assert len(chat.got) == 20
    assert {(row["state"], row["attempts"]) for row in await receipts(alerting)} == {("delivered", 1)}


class _Dies:
    async def send(self, message: Message) -> str:
        raise asyncio.CancelledError

    async def close(self) -> None: ...


async def test_what_a_process_died_in_is_sent_again_under_the_same_id_and_known_for_it(
    alerting: Alerting, pager: Web, incidents: Pager
) -> None:
    await alerting.stage.apply(pager_channel(pager))
    await keep(alerting, routing=ROUTING_KEY)
    notice = await send(alerting, "channel:pager")
    doomed = alerting.new_deliveries(make=lambda spec, secret: _Dies(), lease_s=0.2)
    with pytest.raises(asyncio.CancelledError):
        await doomed.run_once()
    assert await alerting.deliveries.run_once() == 0, "another has it still"
    async with asyncio.timeout(10):
        while not await alerting.deliveries.run_once():
            await asyncio.sleep(0.05)
    async with alerting.database.begin() as tx:
        shown = await alerting.outbox.get(tx, "default", notice)
    assert [each["outcome"] for each in shown["deliveries"][0]["tries"]] == ["begun", "delivered"]
    assert list(incidents.incidents.values()) == [["trigger"]]


async def test_serve_workers_tell_while_the_work_role_is_dead(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(
        chat_channel() + route("all", "labels: {service: pay}, channels: [chat], group_wait: 0s, group_interval: 0s")
    )
    await keep(alerting, hook=chat.url + HOOK)
    work = replace(
        services(alerting), deliveries=alerting.new_deliveries(make=lambda spec, secret: _Dies(), lease_s=0.2)
    )
    alert = await alerting.fire()
    with pytest.raises(asyncio.CancelledError):  # killed while it sends
        await keep_telling(work, 0.01)

    async def stood() -> list[str]:
        return [row["state"] for row in await receipts(alerting) if row["channel"] == "chat"]

    assert await stood() == ["due"]

    worker = replace(services(alerting), dispatcher=alerting.new_dispatcher(), deliveries=alerting.new_deliveries())
    telling = [asyncio.create_task(keep_telling(each, 0.01)) for each in (worker, replace(worker))]
    try:
        async with asyncio.timeout(20):
            while await stood() != ["delivered"]:
                await asyncio.sleep(0.02)
            second = await alerting.fire("pay/slow")
            while await stood() != ["delivered", "delivered"]:
                await asyncio.sleep(0.02)
    finally:
        for each in telling:
            each.cancel()
        await asyncio.gather(*telling, return_exceptions=True)
    assert alert != second and len(chat.got) == 2, "each is told of once, whoever does it"


def services(alerting: Alerting) -> Services:
    """What the loop of an installation is given."""
    return Services(
        alerting.desk, alerting.silences, alerting.outbox, alerting.secrets, alerting.figures, alerting.drills,
        alerting.receiver, alerting.evaluator, alerting.dispatcher, alerting.deliveries,
    )  # fmt: skip


async def test_the_loop_that_tells_runs_in_the_work_role_and_in_every_serve_worker(
    house: House, tmp_path: Path
) -> None:
    parts = room_of(house, tmp_path).parts
    assert "alerts and notices" in {name for part in parts for name in part.loops}
    assert "alerts and notices" in {name for part in parts for name in part.watches}


def test_waits_double_with_some_chance_and_never_fall_short_of_what_was_asked() -> None:
    assert [wait_after(n, None, 1.0).total_seconds() for n in (1, 2, 3, 20)] == [2, 4, 8, 300]
    assert wait_after(1, None, 0.0).total_seconds() == 1
    assert wait_after(1, 90, 0.5).total_seconds() == 90
    assert wait_after(1, 86_400, 0.5).total_seconds() == 3600


# ---------------------------------------------------------------------- secrets


async def test_a_secret_is_sealed_never_answered_and_survives_a_new_key(alerting: Alerting, chat: Web) -> None:
    await alerting.stage.apply(chat_channel())
    await keep(alerting, hook=chat.url + HOOK)
    stored = (await alerting.rows("SELECT sealed FROM channel_secrets"))[0]["sealed"]
    assert HOOK.encode() not in bytes(stored)
    async with alerting.database.begin() as tx:
        assert HOOK not in str([each.document() for each in await alerting.secrets.list(tx, "default")])
    from bailiwick.app.kek import SEALED

    column = next(each for each in SEALED if each.table == "channel_secrets")
    both = Sealer({"k1": b"k" * 32, "k2": b"x" * 32}, "k2")
    async with alerting.database.begin() as tx:
        row = await tx.one("SELECT * FROM channel_secrets")
        assert row is not None
        again = both.rewrap(bytes(row["sealed"]), column.aad(row))
        await tx.run("UPDATE channel_secrets SET sealed = :sealed", sealed=again)
    alerting.secrets.replace_sealer(Sealer({"k2": b"x" * 32}, "k2"))
    await send(alerting, "channel:chat")
    await alerting.deliver()
    assert len(chat.got) == 1
    for wrong in ("", " x", "x\n", "x" * 5000):
        with pytest.raises(BailiwickError):
            await keep(alerting, hook=wrong)
    await alerting.secrets.remove(alerting.stage.context(), "hook")
    with pytest.raises(NotFound):
        await alerting.secrets.remove(alerting.stage.context(), "hook")
