"""A page of ours in a browser, as far as its requests go."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from people_fixtures import PASSWORD, Answer, House

HERE = "https://bailiwick.example.com"
LOGIN = "/api/v1/auth/login/local"
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Page:
    """A page of ours in a browser: it keeps cookies and knows the session's token against forgery."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    def take(self, answer: Answer) -> Answer:
        for told in answer.cookies:
            name, _, value = told.split(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value:
                self.cookies[name] = value
        if answer.body and answer.status == 200 and answer.headers["content-type"] == "application/json":
            self.csrf = answer.json().get("csrf_token", self.csrf)
        return answer

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request as the page sends it; ``headers`` replace its own, an empty one leaves one out."""
        return self.take(await self.house.call(method, path, body, headers=self._sent(headers)))

    async def submit(self, path: str, form: dict[str, str], **headers: str) -> Answer:
        """A form of the page, as its browser navigates by it."""
        sent = {**self._sent(headers), "accept": HTML, "content-type": "application/x-www-form-urlencoded"}
        sent.pop("x-csrf-token", None)
        return self.take(await self.house.call("POST", path, raw=urlencode(form).encode(), headers=sent))

    async def sign_in(self, username: str = "root", **headers: str) -> Answer:
        body = {"username": username, "password": PASSWORD}
        return await self.call("POST", LOGIN, body, x_bailiwick_session="cookie", **headers)

    def _sent(self, headers: dict[str, str]) -> dict[str, str]:
        sent = {
            "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "origin": HERE,
            "sec-fetch-site": "same-origin",
            "x-csrf-token": self.csrf,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return {name: value for name, value in sent.items() if value}
