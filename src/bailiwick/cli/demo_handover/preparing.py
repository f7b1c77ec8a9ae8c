"""People, the operating model, the server and its policy: an installation as it stands before anything is ready."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import yaml

from bailiwick.cli.demo.exchange import Answer, Bearer
from bailiwick.cli.demo.telling import check
from bailiwick.cli.demo_handover import book
from bailiwick.cli.demo_handover.people import CAST, Person
from bailiwick.cli.demo_handover.stage import KEY_HEADER, READ, SERVER, WRITE, Stage, make_person, sign_in

POLICY = """\
package payments

import rego.v1

# the grant is not enough: only the payments agent has any business here
deny contains "not_the_payments_agent" if {
  input.server.name == "payments"
  input.client.name != "agent"
}
"""
LATER = frozenset({"finn"})
"""Who is not there yet when it is first asked whether all is ready."""


async def bring_people(stage: Stage) -> str:
    """The first administrator, and whom the machine makes beside him; each with a second factor."""
    first = stage.layout.administrator_password.read_text().strip()
    stage.people["admin"] = admin = Person("admin")
    stage.teller.conceal(first, admin.password)
    answer = await stage.call(
        "", "POST", "/auth/login/local", body={"username": "admin", "password": first}, show=("must_change_password",)
    )
    admin.bearer = Bearer(answer["access_token"], "admin")
    chosen = {"current_password": first, "new_password": admin.password}
    await stage.quietly("admin", "POST", "/auth/password", 204, chosen)
    key = await stage.http.call("GET", f"{stage.base}/evidence/default/verifier-keys", 200)
    stage.log_key = key.text  # written down now, as whoever checks later would
    names = [name for name in CAST if name not in LATER]
    stage.teller.note(f"$ bailiwick user create …  ({', '.join(f'{name}: {CAST[name]}' for name in names)})")
    await asyncio.gather(sign_in(stage, "admin"), *(make_person(stage, name) for name in names))
    return f"{len(names) + 1} people with a second factor each; no account was made by another of them."


async def apply_book(stage: Stage) -> str:
    """The book of the story takes the place of the shipped one: planned, agreed to by another, applied."""
    wanted = book.documents(stage.base, stage.arms.arms["good"].url, datetime.fromtimestamp(stage.now(), UTC))
    folder = stage.directory / "book"
    folder.mkdir(exist_ok=True)
    (folder / "book.yaml").write_text(yaml.safe_dump_all(wanted, sort_keys=False))
    planned = (await stage.done("assurance", "plan", str(folder), "--json")).json
    stage.teller.note(f"{len(planned['differences'])} differences; two persons: {planned['two_persons']}")
    check(planned["two_persons"] is True, "a plan that takes two persons", planned["two_persons"])
    body = {"documents": wanted, "sha256": planned["sha256"]}
    done = await stage.agreed("POST", "/assurance/apply", body, sent={"sha256": planned["sha256"]}, show=("applied",))
    check(done["applied"] is True, "an applied book", done.text)
    return f"{len(wanted)} documents are in force: as planned, by admin, agreed to by ada."


async def add_to_book(stage: Stage, more: list[dict[str, Any]]) -> Answer:
    """Put documents beside those in force; what is planned and needs nobody else."""
    told = (await stage.quietly("admin", "GET", "/assurance"))["documents"]
    kept = [{name: each[name] for name in ("apiVersion", "kind", "metadata", "spec")} for each in told]
    fresh = {(each["kind"], each["metadata"]["name"]) for each in more}
    wanted = [each for each in kept if (each["kind"], each["metadata"]["name"]) not in fresh] + more
    planned = await stage.quietly("admin", "POST", "/assurance/plan", body={"documents": wanted})
    body, sent = {"documents": wanted, "sha256": planned["sha256"]}, {"sha256": planned["sha256"]}
    names = [f"{each['kind']} {each['name']}" for each in planned["differences"]]
    stage.teller.note(f"into the book: {', '.join(names)}")
    if planned["two_persons"]:
        return await stage.agreed("POST", "/assurance/apply", body, sent=sent, show=("applied",))
    return await stage.call("admin", "POST", "/assurance/apply", body=body, sent=sent, show=("applied",))


async def register(stage: Stage) -> str:
    """The payments API behind the gateway, an agent with a grant, a stranger without, and a policy."""
    for name in ("makers", "operations"):
        await stage.quietly("admin", "PUT", f"/notices/secrets/hook-{name}", body={"value": stage.hooks[name].url})
    key = {"name": "payments-key", "kind": "api_key", "header": KEY_HEADER, "value": stage.arms.key}
    await stage.quietly("admin", "POST", "/credentials", 201, key)
    operations = [
        {"method": "GET", "path": "/payments", "scope": READ},
        {"method": "POST", "path": "/payments", "scope": WRITE},
    ]
    binding = {"credential": "payments-key", "operations": operations}
    server = {"name": SERVER, "endpoint": stage.arms.arms["stable"].url, "binding": binding}
    await stage.call("admin", "POST", "/servers", 201, server, sent={"name": SERVER}, show=("name", "status"))
    for name in ("ledger", "payroll", "cards", "refunds"):
        more = {"name": name, "endpoint": stage.arms.arms["stable"].url, "binding": binding}
        await stage.quietly("admin", "POST", "/servers", 201, more)
    for name, grants in (("agent", {SERVER: [READ, WRITE]}), ("stranger", {SERVER: [READ, WRITE]})):
        made = await stage.quietly("admin", "POST", "/applications", 201, {"name": name, "grants": grants})
        stage.clients[name] = {"client_id": made["client_id"], "client_secret": made["client_secret"]}
        stage.teller.conceal(made["client_secret"])
    await upload(stage, POLICY)
    await known_good(stage)
    await mandate(stage, "agent")
    answer = await stage.http.call(
        "GET", stage.governed("/payments"), 200, bearer=stage.mandate, until=lambda one: one.status == 200
    )
    check(answer["by"] == "stable", "an answer of the payments API", answer.text)
    return "The agent reads payments through the gateway; the policy set is known to be good."


async def upload(stage: Stage, source: str, *, activate: bool = True) -> Answer:
    """Upload a policy as the first administrator; what waits for another is agreed to by ada."""

    def form() -> aiohttp.FormData:
        made = aiohttp.FormData()
        made.add_field("file", source, filename="payments.rego")
        made.add_field("name", "payments")
        if activate:
            made.add_field("activate", "true")
        return made

    answer = await stage.call("admin", "POST", "/policies", (200, 201, 202), upload=form, show=("version", "active"))
    if answer.status == 202:
        approval = answer["approval"]
        stage.teller.note(f"waits for another: newly allowed {approval['payload'].get('newly_allowed')}")
        await stage.call(
            "ada",
            "POST",
            f"/approvals/{approval['id']}/approve",
            body={"payload_sha256": approval["payload_sha256"]},
            show=("state",),
        )
        answer = await stage.call("admin", "POST", "/policies", (200, 201), upload=form, show=("version", "active"))
    return answer


async def known_good(stage: Stage) -> None:
    """Two mark the active set as one to go back to."""
    active = (await stage.quietly("admin", "GET", "/policies"))["active_set"]
    await stage.agreed("POST", f"/policies/sets/{active}/known-good", show=("known_good_at",))


async def mandate(stage: Stage, name: str, status: int | tuple[int, ...] = 200) -> Answer:
    """A mandate for reading, by an application's own secret."""
    form = {"grant_type": "client_credentials", "audience": SERVER, "scope": READ, **stage.clients[name]}
    answer = await stage.http.call("POST", f"{stage.base}/oauth/token", status, form=form, quiet=True)
    if status == 200:
        stage.mandate = Bearer(str(answer["access_token"]), name)
        stage.teller.conceal(stage.mandate.token)
    return answer
