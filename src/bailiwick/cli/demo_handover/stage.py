"""What the steps share: the installation, the people, and what was made so far."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bailiwick.cli.demo.children import OwnInstallation
from bailiwick.cli.demo.exchange import NOBODY, Answer, Bearer, Exchange
from bailiwick.cli.demo.telling import Teller, check
from bailiwick.cli.demo_handover.arms import Arms, Hook
from bailiwick.cli.demo_handover.people import CAST, Person
from bailiwick.kernel.paths import Layout

ENVIRONMENT = "production"
SERVER = "payments"
READ, WRITE = "payments:read", "payments:write"
KEY_HEADER = "X-Api-Key"
ESCROW_KEY = "escrow-key"
COMMAND_LIMIT_S = 150.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    output: str

    @property
    def json(self) -> Any:
        """What it printed, decoded."""
        return json.loads(self.output)


@dataclass(slots=True)
class Stage:
    """Everything a step needs. ``directory``: where the story keeps what it writes beside the installation."""

    installation: OwnInstallation
    directory: Path
    settings: Mapping[str, str]
    teller: Teller
    http: Exchange
    arms: Arms
    people: dict[str, Person] = field(default_factory=dict)
    hooks: dict[str, Hook] = field(default_factory=dict)
    clients: dict[str, dict[str, str]] = field(default_factory=dict)
    mandate: Bearer = NOBODY
    stranger: Bearer = NOBODY
    digests: dict[str, str] = field(default_factory=dict)
    rollout: str = ""
    log_key: str = ""
    incident: str = ""
    runbook: str = ""
    handover: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Where the installation keeps its things."""
        return self.installation.layout

    @property
    def base(self) -> str:
        """Base URL of the API."""
        assert self.installation.ports is not None
        return f"http://127.0.0.1:{self.installation.ports[0]}"

    @property
    def gateway(self) -> str:
        """Base URL of the gateway."""
        assert self.installation.ports is not None
        return f"http://127.0.0.1:{self.installation.ports[1]}"

    def governed(self, path: str) -> str:
        """URL of a path of the server through the gateway."""
        return f"{self.gateway}/s/{SERVER}{path}"

    def as_(self, name: str) -> Bearer:
        """Somebody's token."""
        return self.people[name].bearer

    async def call(
        self, who: str, method: str, path: str, status: int | Sequence[int] = 200, body: Any = None, **more: Any
    ) -> Answer:
        """A request to the API by ``who`` (empty: by nobody); see :meth:`Exchange.call`."""
        bearer = self.as_(who) if who else None
        return await self.http.call(method, f"{self.base}/api/v1{path}", status, bearer=bearer, body=body, **more)

    async def quietly(
        self, who: str, method: str, path: str, status: int | Sequence[int] = 200, body: Any = None, **more: Any
    ) -> Answer:
        """The same, and nothing is told of it."""
        return await self.call(who, method, path, status, body, quiet=True, **more)

    async def agreed(
        self, method: str, path: str, body: Any = None, *, by: str = "admin", other: str = "ada", **more: Any
    ) -> Answer:
        """What takes two: ``by`` asks, ``other`` approves exactly that, and ``by`` asks again."""
        waits = await self.call(by, method, path, 202, body, **more)
        approval = waits["approval"]
        await self.call(
            other,
            "POST",
            f"/approvals/{approval['id']}/approve",
            body={"payload_sha256": approval["payload_sha256"]},
            show=("state",),
        )
        return await self.call(by, method, path, (200, 201), body, **more)

    def now(self) -> float:
        """What time it is in the installation, seconds since the epoch."""
        from bailiwick.cli.local import clock_of

        return clock_of(self.layout).time()

    async def command(self, *arguments: str, who: str = "", told: bool = True, program: str = "bailiwick") -> Ran:
        """Run a command of ours on the machine; as ``who``, where a person acts."""
        module = {"bailiwick": "bailiwick.cli.main", "bailiwick-verify": "bailiwick_verify.cli"}[program]
        placed = ("--data-dir", str(self.layout.data_dir)) if program == "bailiwick" else ()
        environment = {**os.environ, **self.settings}
        if who:
            environment["BAILIWICK_TOKEN"] = self.as_(who).token
        if told:
            self.teller.note(f"$ {program} {' '.join(arguments)}")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments, *placed),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), COMMAND_LIMIT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode(errors="replace").strip()
        if process.returncode and not text:
            text = errors.decode(errors="replace").strip()
        return Ran(process.returncode or 0, text)

    async def done(self, *arguments: str, **more: Any) -> Ran:
        """Run a command that must end well."""
        ran = await self.command(*arguments, **more)
        check(ran.code == 0, f"exit 0 of `bailiwick {' '.join(arguments[:3])}`", f"{ran.code}: {ran.output[-600:]}")
        return ran


async def make_person(stage: Stage, name: str, *, told: bool = False) -> None:
    """Somebody of the cast, made on the machine, so that the account is by nobody's hand; with a second factor."""
    person = Person(name)
    stage.teller.conceal(person.password)
    made = await stage.done(
        "user", "create", name, "--email", f"{name}@example.com", "--role", CAST[name], "--json", told=told
    )
    token = made.json["invitation"]["token"]
    stage.teller.conceal(token)
    await stage.quietly("", "POST", "/auth/invitations/accept", body={"token": token, "password": person.password})
    stage.people[name] = person
    await sign_in(stage, name)


async def sign_in(stage: Stage, name: str) -> None:
    """A fresh session, by the second factor where there is one, and by enrolling one where there is none."""
    person = stage.people[name]
    login = {"username": name, "password": person.password}
    answer = await stage.quietly("", "POST", "/auth/login/local", (200, 401), login)
    if answer.status == 401:
        check(answer.body.get("reason") == "mfa_required", "a sign-in that asks for the second factor", answer.text)
        code, wait = person.code(stage.now())
        await asyncio.sleep(wait)
        answer = await stage.quietly("", "POST", "/auth/mfa", body={"mfa_token": answer["mfa_token"], "code": code})
    person.bearer = Bearer(answer["access_token"], name)
    stage.teller.conceal(person.bearer.token)
    if not person.has_app:
        await _enrol(stage, person)


async def _enrol(stage: Stage, person: Person) -> None:
    app = await stage.quietly(person.name, "POST", "/auth/factors/totp", 201, {"name": "phone"})
    person.enrolled(str(app["secret"]))
    stage.teller.conceal(str(app["secret"]))
    code, _ = person.code(stage.now())
    await stage.quietly(person.name, "POST", "/auth/factors/totp/confirm", body={"code": code})
    code, wait = person.code(stage.now())
    await asyncio.sleep(wait)
    stepped = await stage.quietly(person.name, "POST", "/auth/step-up", body={"code": code})
    person.bearer = Bearer(stepped["access_token"], person.name)
    stage.teller.conceal(person.bearer.token)


async def sign_in_all(stage: Stage) -> None:
    """Fresh sessions for everybody: theirs ended with the time that passed."""
    await asyncio.gather(*(sign_in(stage, name) for name in stage.people))


__all__ = ["ENVIRONMENT", "NOBODY", "Ran", "Stage", "make_person", "sign_in", "sign_in_all"]
