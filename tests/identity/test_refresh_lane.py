"""The lane that refreshes take answers as the route behind it would, and leaves to that what it does not take."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from bailiwick.identity.refresh_lane import PATH, RefreshLane
from people_fixtures import PASSWORD, House

PLAIN = {"content-type": "application/json", "user-agent": "curl/8"}


async def signed_in(house: House) -> str:
    await house.user("jane")
    body = {"username": "jane", "password": PASSWORD}
    token: str = (await house.call("POST", "/api/v1/auth/login/local", body)).json()["refresh_token"]
    return token


class Lane:
    """The lane with nothing behind it: what it does not take is noted, with the body as it comes through."""

    def __init__(self, house: House) -> None:
        self.passed_on: list[bytes] = []
        self._house = house
        self._lane = RefreshLane(self._behind, house.sign_ins)
        self.scope: Scope = {}

    async def __call__(self, *parts: bytes, headers: dict[str, str] = PLAIN, **changed: Any) -> tuple[int, Any]:
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = False
        sent: list[Message] = []

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        state = {"zone": "default", "request_id": self._house.ids(), "ip": "198.51.100.9"}
        self.scope = {"type": "http", "method": "POST", "path": PATH, "headers": raw, "state": state, **changed}
        await self._lane(self.scope, receive, send)
        if not sent:
            return 0, None
        assert dict(sent[0]["headers"])[b"cache-control"] == b"no-store"
        return sent[0]["status"], json.loads(sent[1]["body"])

    async def _behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.passed_on.append(body)


def plain(token: str) -> bytes:
    return json.dumps({"refresh_token": token}).encode()


async def test_a_session_goes_on_without_the_framework(house: House) -> None:
    token, lane = await signed_in(house), Lane(house)
    status, told = await lane(plain(token))
    assert (status, told["user"]["username"], told["token_type"]) == (200, "jane", "Bearer")
    assert not lane.passed_on and lane.scope["route"].path == PATH
    event = (await house.events())[-1]
    assert (event.name, event.actor.user, event.actor.session) == ("auth.session.refreshed", "jane", told["session_id"])
    assert (event.network.ip, event.network.user_agent) == ("198.51.100.9", "curl/8")
    assert event.request_id == lane.scope["state"]["request_id"]
    # a used one is a refusal like the route's, and the session is over
    status, told = await lane(plain(token))
    assert (status, told["reason"], told["request_id"]) == (401, "refresh_reused", lane.scope["state"]["request_id"])


async def test_both_answer_alike(house: House) -> None:
    token = await signed_in(house)
    by_lane = await house.call("POST", PATH, raw=plain(token))
    # the same member, written so that the lane does not know it
    other = plain(by_lane.json()["refresh_token"]).replace(b"refresh_token", b"refresh\\u005ftoken")
    by_route = await house.call("POST", PATH, raw=other)
    assert (by_lane.status, by_route.status) == (200, 200)
    assert by_lane.json().keys() == by_route.json().keys()
    assert by_lane.json()["user"] == by_route.json()["user"]
    for name in ("content-type", "cache-control"):
        assert by_lane.headers[name] == by_route.headers[name]
    for nonsense in ("bwr_unknown", token):
        lane = (await house.call("POST", PATH, raw=plain(nonsense))).json()
        route = (await house.call("POST", PATH, raw=plain(nonsense).replace(b"_t", b"\\u005ft"))).json()
        # the second time the session is over already
        assert lane.keys() == route.keys() and lane["instance"] == route["instance"] == PATH


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"refresh_token": ""}',
        b'{"refresh_token": 1}',
        b'{"refresh_token": "bwr_a", "more": 1}',
        b'{"refresh_token": "bwr_a", "refresh_token": "bwr_b"}',
        b'{"refresh_token": "bwr_' + b"a" * 200 + b'"}',
        b'{"refresh_token": "bwr_\\u0000"}',
        b'{"refresh_token": "bwr_a"}{}',
    ],
)
async def test_a_body_of_another_form_is_the_route_s(house: House, body: bytes) -> None:
    lane = Lane(house)
    assert await lane(body) == (0, None)
    assert lane.passed_on == [body]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {**PLAIN, "cookie": "a=b"},
        {**PLAIN, "x-bailiwick-session": "cookie"},
        {**PLAIN, "content-encoding": "gzip"},
    ],
)
async def test_other_headers_are_the_route_s(house: House, headers: dict[str, str]) -> None:
    lane, body = Lane(house), plain(await signed_in(house))
    assert await lane(body, headers=headers) == (0, None)
    assert lane.passed_on == [body]
    assert (await lane(body))[0] == 200, "nothing was used up"


async def test_a_body_in_parts_and_other_paths_are_passed_on_whole(house: House) -> None:
    lane, body = Lane(house), plain(await signed_in(house))
    await lane(body[:9], body[9:])
    await lane(body, path="/api/v1/auth/logout")
    await lane(body, method="PUT")
    assert lane.passed_on == [body] * 3
