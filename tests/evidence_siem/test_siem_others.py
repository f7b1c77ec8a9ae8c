"""Datadog, OTLP, webhooks and object storage, each to a server that looks at what it is sent."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from http_server import Fault, HttpServer
from other_servers import API_KEY, BEARER, WEBHOOK_SECRET, DatadogServer, OtlpServer, WebhookServer
from siem_world import ADMIN, FORBIDDEN, SiemWorld, once_each

from ports import free_port
from unmeasured import unmeasured

KINDS = ("datadog", "otlp", "webhook")


def told(kind: str, server: HttpServer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options and secrets for a server of that kind."""
    match kind:
        case "datadog":
            return {"url": server.url}, {"api_key": API_KEY}
        case "otlp":
            return {"url": server.url}, {"value": BEARER}
        case _:
            return {"url": f"{server.url}/hook"}, {"secret": WEBHOOK_SECRET}


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    made = {"datadog": DatadogServer, "otlp": OtlpServer, "webhook": WebhookServer}[request.param]()
    made.kind = request.param
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


each_kind = pytest.mark.parametrize("server", KINDS, indirect=True)


@each_kind
async def test_events_arrive_in_order_through_failures(siem: SiemWorld, server: Any) -> None:
    ids = await siem.world.filled(30)
    server.faults += [Fault(status=500), Fault(reset=True), Fault(status=429, headers={"Retry-After": "0"})]
    server.faults += [Fault(reset_after=True), Fault(status=408)]
    await siem.sink(server.kind, *told(server.kind, server), batch_size=8)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 30)
    assert once_each(server.ids)[:30] == ids and siem.dead() == []
    repeated = {place for first, end in siem.repeated() for place in range(first, end)}
    assert {ids.index(each) for each in ids if server.ids.count(each) > 1} <= repeated


@each_kind
async def test_a_server_that_was_away_gets_everything(siem: SiemWorld, server: Any) -> None:
    await siem.sink(server.kind, *told(server.kind, server))
    await server.stop()
    delivery = siem.run()
    await siem.world.filled(10)
    await siem.until(lambda: bool(delivery.figures) and delivery.figures["default/out"].breaker != "closed")
    await server.start()
    await siem.until(siem.level)
    assert once_each(server.ids) == siem.world.ledgered()


@pytest.mark.parametrize("server", ["datadog", "otlp"], indirect=True)
async def test_one_event_that_is_refused_does_not_hold_up_the_others(siem: SiemWorld, server: Any) -> None:
    ids = await siem.world.filled(25)
    server.poison = {ids[7]}
    await siem.sink(server.kind, *told(server.kind, server))
    siem.run()
    await siem.until(lambda: siem.cursor() >= 25)
    assert once_each(server.ids)[:24] == ids[:7] + ids[8:]
    assert siem.dead() == [ids[7]]


@each_kind
async def test_a_wrong_credential_stops_the_sink_and_loses_nothing(siem: SiemWorld, server: Any) -> None:
    options, secrets = told(server.kind, server)
    wrong = dict.fromkeys(secrets, "wrong-credential")
    if server.kind == "webhook":
        server.always = Fault(status=401)
        wrong = secrets
    await siem.world.filled(5)
    await siem.sink(server.kind, options, wrong)
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert siem.cursor() == 0 and siem.dead() == [] and "wrong-credential" not in str(delivery.trouble())
    server.always = None
    await siem.sinks.change(ADMIN, "out", {"secrets": secrets})
    await siem.until(lambda: siem.cursor() >= 5)
    await siem.until(lambda: delivery.trouble() is None)


@each_kind
async def test_a_redirection_is_not_followed_with_the_credential(siem: SiemWorld, server: Any) -> None:
    other = type(server)()
    await other.start()
    try:
        await siem.world.filled(5)
        path = {"datadog": "/api/v2/logs", "otlp": "/v1/logs", "webhook": "/hook"}[server.kind]
        server.always = Fault(status=307, headers={"Location": other.url + path})
        await siem.sink(server.kind, *told(server.kind, server))
        delivery = siem.run()
        await siem.until(lambda: delivery.trouble() is not None)
        assert other.heard == 0 and siem.cursor() == 0 and siem.dead() == []
    finally:
        await other.stop()


@pytest.mark.parametrize("host", [FORBIDDEN, "rebound.example"], ids=["an address", "a name"])
async def test_an_address_is_checked_again_where_the_connection_is_made(
    siem: SiemWorld, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def passes(_host: str, _port: int) -> None:
        return

    def connect(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(siem.sinks, "_check", passes)  # what was allowed when the sink was made
    monkeypatch.setattr("bailiwick.evidence.siem.syslog._connect", connect)
    monkeypatch.setattr("aiohttp.connector.TCPConnector._wrap_create_connection", connect)
    url = {"url": f"https://{host}"}
    key = {"access_key_id": "abc", "secret_access_key": "x"}
    made: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "splunk": (url, {"token": "t"}),
        "datadog": (url, {"api_key": "k"}),
        "otlp": (url, {}),
        "webhook": (url, {"secret": WEBHOOK_SECRET}),
        "s3": ({"bucket": "evidence", "endpoint": f"https://{host}"}, key),
        "syslog": ({"host": host}, {}),
    }
    await siem.world.filled(1)
    for kind, (options, secrets) in made.items():
        await siem.sink(kind, options, secrets, name=kind)
    delivery = siem.run()
    await siem.until(lambda: str(delivery.trouble()).count("not allowed") == len(made))


@pytest.mark.parametrize("server", ["datadog"], indirect=True)
async def test_datadog_logs_carry_tags_and_the_event(siem: SiemWorld, server: DatadogServer) -> None:
    ids = await siem.world.filled(2500)
    options, secrets = told("datadog", server)
    await siem.sink("datadog", {**options, "tags": ["env:staging", "team:soc"]}, secrets, batch_size=10_000)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 2500)  # in three requests: the intake takes 1,000 at most
    assert server.ids[:2500] == ids
    log = server.logs[0]
    assert (log["ddsource"], log["service"], log["status"], log["hostname"]) == ("sark", "sark", "info", "work-1")
    assert log["ddtags"] == "env:staging,team:soc,zone:default,event_code:BW4001,outcome:allow"
    assert log["message"] == "gateway.request.allowed allow" and log["event"]["id"] == log["event_id"] == ids[0]


@pytest.mark.parametrize("server", ["otlp"], indirect=True)
async def test_log_records_hold_the_canonical_event(siem: SiemWorld, server: OtlpServer) -> None:
    await siem.world.filled(3)
    await siem.sink("otlp", *told("otlp", server))
    siem.run()
    await siem.until(lambda: siem.cursor() >= 3)
    bodies = (await siem.bodies())[:3]
    assert [record["body"]["stringValue"].encode() for record in server.records[:3]] == bodies
    assert server.records[0]["severityText"] == "INFO"


@pytest.mark.parametrize("server", ["webhook"], indirect=True)
async def test_the_same_message_id_means_the_same_events(siem: SiemWorld, server: WebhookServer) -> None:
    await siem.world.filled(6)
    server.faults += [Fault(reset_after=True), Fault(reset_after=True)]
    await siem.sink("webhook", *told("webhook", server), batch_size=6)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 6)
    assert len(server.messages) >= 3 and server.forged == 0
    by_id: dict[str, Any] = {}
    for identifier, message in server.messages:
        assert by_id.setdefault(identifier, message) == message
    assert server.messages[0][0] == server.messages[1][0] == server.messages[2][0]


@pytest.mark.parametrize("server", ["webhook"], indirect=True)
async def test_a_forged_signature_would_be_noticed(siem: SiemWorld, server: WebhookServer) -> None:
    await siem.world.filled(1)
    options, _ = told("webhook", server)
    await siem.sink("webhook", options, {"secret": "whsec_" + "QUFB" * 8})
    siem.run()
    await siem.until(lambda: server.forged > 0)
    assert server.messages == []


# ---------------------------------------------------------------------- object storage

_MAKE_KEY = """
import json, boto3
iam = boto3.client("iam", endpoint_url={url!r}, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
iam.create_user(UserName="bailiwick")
allowed = {{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
policy = json.dumps({{"Version": "2012-10-17", "Statement": [allowed]}})
iam.put_user_policy(UserName="bailiwick", PolicyName="p", PolicyDocument=policy)
key = iam.create_access_key(UserName="bailiwick")["AccessKey"]
s3 = boto3.client("s3", endpoint_url={url!r}, region_name="us-east-1", aws_access_key_id=key["AccessKeyId"],
                  aws_secret_access_key=key["SecretAccessKey"])
s3.create_bucket(Bucket="evidence")
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""


class Moto:
    """An S3 server that checks signatures once its first key is made."""

    def __init__(self, url: str, key: list[str]) -> None:
        self.url, self.key = url, key

    def objects(self) -> dict[str, list[dict[str, Any]]]:
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id=self.key[0], aws_secret_access_key=self.key[1],
        )  # fmt: skip
        listed = client.list_objects_v2(Bucket="evidence").get("Contents", [])
        return {
            each["Key"]: [
                json.loads(line)
                for line in gzip.decompress(
                    client.get_object(Bucket="evidence", Key=each["Key"])["Body"].read()
                ).splitlines()
            ]
            for each in listed
        }


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    port = free_port()
    # user, policy, key: three calls before signatures are looked at
    environment = unmeasured(INITIAL_NO_AUTH_ACTION_COUNT="3")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"Running on" in line:
                break
        url = f"http://127.0.0.1:{port}"
        made = subprocess.run([sys.executable, "-c", _MAKE_KEY.format(url=url)], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        yield Moto(url, json.loads(made.stdout))
    finally:
        process.kill()
        process.wait()


def s3(moto: Moto, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    secrets = {"access_key_id": moto.key[0], "secret_access_key": moto.key[1]}
    return {"bucket": "evidence", "endpoint": moto.url, **more}, secrets


async def test_objects_hold_runs_of_the_ledger(siem: SiemWorld, moto: Moto) -> None:
    ids = await siem.world.filled(25)
    await siem.sink("s3", *s3(moto, prefix="runs/"), batch_size=10)
    siem.run()
    await siem.until(lambda: siem.cursor() >= 25)
    objects = await asyncio.to_thread(moto.objects)
    mine = {key: events for key, events in sorted(objects.items()) if key.startswith("runs/default/")}
    assert [event["id"] for events in mine.values() for event in events][:25] == ids
    assert next(iter(mine)).endswith("/00000000000000000000-00000000000000000009.jsonl.gz")


@pytest.mark.parametrize(
    ("change", "secret"),
    [({}, "another/secret"), ({"bucket": "nobody-has-this"}, None)],
    ids=["a wrong key", "no such bucket"],
)
async def test_what_the_store_does_not_allow_stops_the_sink(
    siem: SiemWorld, moto: Moto, change: dict[str, str], secret: str | None
) -> None:
    options, secrets = s3(moto, prefix="wrong/", **change)
    await siem.world.filled(3)
    await siem.sink("s3", options, {**secrets, "secret_access_key": secret or secrets["secret_access_key"]})
    delivery = siem.run()
    await siem.until(lambda: delivery.trouble() is not None)
    assert siem.cursor() == 0 and siem.dead() == []
    assert secrets["secret_access_key"] not in str(delivery.trouble())
    assert not any(key.startswith("wrong/") for key in await asyncio.to_thread(moto.objects))
