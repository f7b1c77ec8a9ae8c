"""A faithful logs intake of Datadog (version 2), an OTLP collector and a webhook receiver that checks what it is sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import Any

from aiohttp import web
from http_server import HttpServer

API_KEY = "0123456789abcdef0123456789abcdef"
BEARER = "Bearer otlp-collector-token"
WEBHOOK_KEY = bytes(range(32))
WEBHOOK_SECRET = "whsec_" + base64.b64encode(WEBHOOK_KEY).decode()


class DatadogServer(HttpServer):
    """``logs`` as accepted. Refuses what the intake refuses: keys, sizes, counts, forms."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[dict[str, Any]] = []
        self.poison: set[str] = set()

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/v2/logs", self.faulty(self.take))]

    @property
    def ids(self) -> list[str]:
        return [each["event_id"] for each in self.logs]

    async def take(self, request: web.Request) -> web.Response:
        key = request.headers.get("DD-API-KEY")
        if key is None:
            return web.json_response({"errors": [{"status": "401", "title": "Unauthorized"}]}, status=401)
        if key != API_KEY:
            return web.json_response({"errors": [{"status": "403", "title": "Forbidden"}]}, status=403)
        body = await request.read()
        if len(body) > 5_000_000:
            return web.json_response({"errors": [{"status": "413"}]}, status=413)
        try:
            logs = json.loads(body)
        except ValueError:
            logs = None
        if not isinstance(logs, list) or any(each["event_id"] in self.poison for each in logs):
            return web.json_response({"errors": [{"status": "400", "title": "Bad Request"}]}, status=400)
        if len(logs) > 1000:
            return web.json_response({"errors": [{"status": "413"}]}, status=413)
        self.logs += logs
        return web.json_response({}, status=202)


class OtlpServer(HttpServer):
    """A collector that reads OTLP's JSON strictly. ``poison`` bodies are rejected as a partial success tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []
        self.poison: set[str] = set()

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/logs", self.faulty(self.take))]

    @property
    def ids(self) -> list[str]:
        return [_attribute(each, "bailiwick.event.id") for each in self.records]

    async def take(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != BEARER:
            return web.json_response({"code": 16, "message": "unauthenticated"}, status=401)
        if request.content_type != "application/json":
            return web.json_response({"code": 3}, status=415)
        (resource,) = (await request.json())["resourceLogs"]
        (scope,) = resource["scopeLogs"]
        rejected = 0
        for record in scope["logRecords"]:
            assert re.fullmatch(r"\d{19}", record["timeUnixNano"]) and 1 <= record["severityNumber"] <= 24
            assert "traceId" not in record or re.fullmatch(r"[0-9a-f]{32}", record["traceId"])
            if _attribute(record, "bailiwick.event.id") in self.poison:
                rejected += 1
            else:
                self.records.append(record)
        if rejected:
            told = {"rejectedLogRecords": str(rejected), "errorMessage": "not wanted"}
            return web.json_response({"partialSuccess": told})
        return web.json_response({})


class WebhookServer(HttpServer):
    """Checks signatures as the specification's own libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.forged = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/hook", self.faulty(self.take))]

    @property
    def ids(self) -> list[str]:
        return [entry["event"]["id"] for _, message in self.messages for entry in message["data"]["events"]]

    async def take(self, request: web.Request) -> web.Response:
        body, head = await request.read(), request.headers
        signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.new(WEBHOOK_KEY, signed, hashlib.sha256).digest()).decode()
        if wanted not in head["webhook-signature"].split(" "):
            self.forged += 1
            return web.Response(status=400)
        self.messages.append((head["webhook-id"], json.loads(body)))
        return web.Response(status=204)


def _attribute(record: dict[str, Any], key: str) -> str:
    return str(next(each["value"]["stringValue"] for each in record["attributes"] if each["key"] == key))
