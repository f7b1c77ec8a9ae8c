"""A chat and a ticket system that speak for real: tokens, threads, idempotency keys, and what they say when they refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BOT = "xoxb-1-2-bot"
TOKEN = "ticket-token"
Answer = tuple[int, dict[str, str], Any]


class Server:
    """HTTP on loopback. ``down``: every request gets 503, as from a proxy before something that is away."""

    def __init__(self, answer: Callable[[str, str, dict[str, str], Any], Answer]) -> None:
        self.down = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    body = json.loads(raw)
                except ValueError:
                    body = None
                status, more, said = (503, {}, "away") if outer.down else answer(self.command, self.path, headers, body)
                out = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(out)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(out)

            do_POST = do_PATCH = do_PUT = _do

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Chat:
    """Slack's ``chat.postMessage``: 200 whatever becomes of it, ``ok`` and ``ts`` or ``error`` in the body."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # what is answered first

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        if self.errors:
            why = self.errors.pop(0)
            if why == "ratelimited":
                return 429, {"Retry-After": "30"}, {"ok": False, "error": why}
            return 200, {}, {"ok": False, "error": why}
        if method != "POST" or path != "/api/chat.postMessage":
            return 404, {}, "no"
        if headers.get("authorization") != f"Bearer {BOT}":
            return 200, {}, {"ok": False, "error": "invalid_auth"}
        if not headers.get("content-type", "").startswith("application/json") or not isinstance(body, dict):
            return 200, {}, {"ok": False, "error": "invalid_form_data"}
        if body.get("channel") != "C024BE91L":
            return 200, {}, {"ok": False, "error": "channel_not_found"}
        if not body.get("text"):
            return 200, {}, {"ok": False, "error": "no_text"}
        ts = f"1700000000.{len(self.messages) + 1:06d}"
        self.messages.append({**body, "ts": ts})
        return 200, {}, {"ok": True, "channel": body["channel"], "ts": ts, "message": {"text": body["text"]}}

    def threads(self) -> dict[str, list[str]]:
        """The texts of each thread, by the ts of its first message."""
        found: dict[str, list[str]] = {}
        for each in self.messages:
            found.setdefault(each.get("thread_ts", each["ts"]), []).append(each["text"])
        return found


@dataclass
class Desk:
    """A ticket system: POST makes a ticket, once a key; PATCH adds to it."""

    tickets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)  # ticket by idempotency key
    done: set[str] = field(default_factory=set)
    forget_answers: int = 0  # requests that are done, and answered 502

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        key = headers.get("idempotency-key", "")
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {}, {"error": "who are you"}
        if not key or not isinstance(body, dict) or not body.get("title"):
            return 422, {}, {"error": "a ticket has a title, and a request a key"}
        if method == "POST" and path == "/tickets":
            if key not in self.made:
                self.made[key] = f"OPS-{len(self.tickets) + 1}"
                self.tickets[self.made[key]] = [body]
            said: Answer = (201, {}, {"id": self.made[key]})
        else:
            name = path.removeprefix("/tickets/")
            if method != "PATCH" or name not in self.tickets:
                return 404, {}, {"error": "there is no such ticket"}
            if key not in self.done:
                self.done.add(key)
                self.tickets[name].append(body)
            said = (200, {}, {"id": name})
        if self.forget_answers:
            self.forget_answers -= 1
            return 502, {}, "bad gateway"
        return said
