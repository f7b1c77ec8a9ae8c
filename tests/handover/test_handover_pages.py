"""The pages of handovers: who sees what on them, and that nothing is done there which the API would not do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console_page import HTML, Page
from handover_desk import SIGNERS, Desk
from ledger_world import World

from bailiwick.handover.handovers.records import list_handovers
from bailiwick.identity.console.api import onward
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

PAGES = "/console/handovers"


@pytest.fixture
async def desk(house: House, database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    world = await World.make(database_url, tmp_path)
    house.clock.simulated = False
    world.clock = house.clock
    world.keys._clock = house.clock
    yield await Desk(house, world, tmp_path).open()
    await world.close()


async def come(desk: Desk, who: str) -> Page:
    """``who`` in a browser, signed in with a password."""
    page = Page(desk.people)
    answer = await page.sign_in(who)
    assert answer.status == 200, answer
    return page


async def look(page: Page, path: str = "", status: int = 200) -> str:
    answer = await page.call("GET", f"{PAGES}{path}", accept=HTML)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.body.decode()


def words(html: str) -> str:
    """What a page says, without its markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def part(html: str, heading: str) -> str:
    return words(html.partition(f'aria-labelledby="{heading}"')[2].partition("</section>")[0])


# ---------------------------------------------------------------------- what one sees


async def test_the_list_says_what_waits_for_whom(desk: Desk) -> None:
    built = await desk.build()
    sam = await come(desk, "sam")
    html = await look(sam)
    assert "you sign for security" in part(html, "yours") and f"{PAGES}/{built['id']}" in html
    assert "There are none." in part(html, "others")
    for who in ("ada", "finn"):  # who built it, and who speaks for nobody
        html = await look(await come(desk, who))
        assert "No handover waits for your signature" in part(html, "yours"), who
        assert "4 of 4 missing" in part(html, "others")
    assert (await desk.sign(built, "security"))[0] == 200
    html = await look(sam)
    assert "No handover waits" in part(html, "yours") and "3 of 4 missing" in part(html, "others")


async def test_one_handover_says_what_is_signed_and_by_whom(desk: Desk) -> None:
    sam = await come(desk, "sam")
    await desk.key("sam")
    desk.proven = Verdict.NO_DATA
    await desk.waive("storage/backups")
    built = await desk.build()
    assert (await desk.sign(built, "engineering"))[0] == 200
    html = await look(sam, f"/{built['id']}")
    assert html.count("<h1") == 1 and "Handover of production: The makers to Operations" in html
    assert f'<code class="hash">{built["sha256"]}</code>' in html and f'data-sha256="{built["sha256"]}"' in html
    teams = part(html, "teams")
    assert re.search(r"engineering signed eve signed, [-\d: ]+ UTC, by a second factor", teams)
    assert "security waits for you waits for whoever is security_owner" in teams
    assert "management not signed waits for eve, mia" in teams
    said = part(html, "chapters")
    assert "2 of 2 pass, 1 by a waiver" in said and "NO_DATA backups there are two" in said and "waived by w1" in said
    assert "Activity uptime accountable person:eve role:ops_owner" in part(html, "changes")
    assert 'id="by-passkey"' in html and "You can sign for security" in words(html)
    # without a key that the pack names there is the code, and why
    html = await look(await come(desk, "otto"), f"/{built['id']}")
    assert 'id="by-passkey"' not in html and 'id="by-factor"' in html
    assert "The pack names no passkey of yours" in words(html)


async def test_it_says_why_one_cannot_sign(desk: Desk) -> None:
    built = await desk.build()
    path = f"/{built['id']}"
    finn, mia, eve = await come(desk, "finn"), await come(desk, "mia"), await come(desk, "eve")
    assert "You speak for none of the teams" in part(await look(finn, path), "yours-title")
    # she speaks for two teams, and signs once
    html = await look(eve, path)
    assert re.findall(r'name="team" value="(\w+)"( checked)?', html.partition('id="prove"')[0]) == [
        ("engineering", " checked"), ("management", ""),
    ]  # fmt: skip
    assert (await desk.sign(built, "engineering"))[0] == 200
    html = await look(eve, path)
    assert 'id="signing"' not in html and "(handover_same_person)" in part(html, "yours-title")
    # too old, and mended by nothing on the page
    desk.stage.clock.advance(8 * 86400)
    await mia.sign_in("mia")
    html = await look(mia, path)
    assert 'id="signing"' not in html and "(handover_stale)" in html and 'id="refusing"' in html
    desk.proven = Verdict.FAIL
    red = await desk.build()
    html = await look(mia, f"/{red['id']}")
    assert 'id="signing"' not in html and "storage/backups is FAIL" in part(html, "yours-title")
    assert "superseded by a newer one" in part(await look(mia, path), "yours-title")


async def test_a_refused_and_an_accepted_one_are_over(desk: Desk) -> None:
    built = await desk.build()
    said = "<b>we</b> were not asked"
    status, _ = await desk.say("sam", "POST", f"/{built['id']}/refuse", {"team": "security", "reason": said})
    assert status == 200
    mia = await come(desk, "mia")
    html = await look(mia, f"/{built['id']}")
    assert "<b>we" not in html and "sam , for security: &lt;b&gt;we&lt;/b&gt; were not asked" in part(html, "objection")
    assert "nothing left to sign" in part(html, "yours-title") and "<form" not in html
    accepted = await desk.accepted()
    await mia.sign_in("mia")
    html = await look(mia, f"/{accepted['id']}")
    assert "the pack was accepted by olga" in part(html, "yours-title") and "<form" not in html
    assert "by a passkey over the SHA-256" in part(html, "teams")


@contextlib.asynccontextmanager
async def altered(desk: Desk) -> AsyncIterator[None]:
    """The packs with other bytes than were signed, past the trigger and the check that keep them."""
    async with desk.people.owner.begin() as tx:
        row = await tx.one(
            "SELECT conname AS name, pg_get_constraintdef(oid) AS said FROM pg_constraint"
            " WHERE conrelid = 'bailiwick.handovers'::regclass AND pg_get_constraintdef(oid) LIKE '%encode(sha256(%'"
        )
        assert row is not None
        await tx.run("SET LOCAL session_replication_role = replica")
        await tx.run(f"ALTER TABLE bailiwick.handovers DROP CONSTRAINT {row['name']}")
        await tx.run("UPDATE bailiwick.handovers SET document = document || ' '::bytea")
    try:
        yield
    finally:
        async with desk.people.owner.begin() as tx:
            await tx.run("SET LOCAL session_replication_role = replica")
            await tx.run("UPDATE bailiwick.handovers SET document = substr(document, 1, length(document) - 1)")
            await tx.run(f"ALTER TABLE bailiwick.handovers ADD CONSTRAINT {row['name']} {row['said']}")


async def test_what_was_altered_in_the_database_is_not_shown_as_a_pack(desk: Desk) -> None:
    built = await desk.build()
    sam = await come(desk, "sam")
    async with altered(desk):
        assert "(handover_changed)" in part(await look(sam), "others")
        html = await look(sam, f"/{built['id']}", 409)
        assert "<code>(handover_changed)</code>" in html and "<form" not in html


# ---------------------------------------------------------------------- who comes in


async def test_nobody_looks_without_a_session_or_the_permission(desk: Desk) -> None:
    built = await desk.build()
    path = f"{PAGES}/{built['id']}"
    answer = await Page(desk.people).call("GET", path, accept=HTML)
    assert answer.status == 303
    led = answer.headers["location"]
    assert led == f"/console/sign-in?to=%2Fconsole%2Fhandovers%2F{built['id']}&why=authentication_required"
    shown = (await Page(desk.people).call("GET", led, accept=HTML)).body.decode()
    assert f'data-to="{path}"' in shown and 'autocomplete="current-password"' in shown
    viv = await come(desk, "viv")
    html = await look(viv, f"/{built['id']}", 403)
    assert "<code>(permission_denied)</code>" in html
    for odd, status in (("/no-id", 400), (f"/{'0' * 8}-0000-7000-8000-{'0' * 12}", 404), ("?cursor=%00", 400)):
        await look(await come(desk, "sam"), odd, status)


@pytest.mark.parametrize(
    ("to", "leads"),
    [
        (PAGES, PAGES),
        ("https://evil.example.com", PAGES),
        ("//evil.example.com", PAGES),
        ("/console/../api", PAGES),
        ("/console\\evil", PAGES),
        ("/console/handovers?x=1", PAGES),
        ("javascript:alert(1)", PAGES),
        ("/console/handovers\n", PAGES),
        ("/api/v1/auth/logout", PAGES),
    ],
)
def test_signing_in_leads_to_pages_of_ours_alone(to: str, leads: str) -> None:
    assert onward("default", to) == leads
    assert onward("second", f"/z/second{to}") == f"/z/second{leads}"
    assert onward("second", "/console/handovers") == "/z/second/console/handovers"


async def test_the_sign_in_page_names_the_ways_in(desk: Desk, house: House) -> None:
    page = Page(house)
    shown = (await page.call("GET", "/console/sign-in?why=session_ended&to=/console/handovers", accept=HTML)).body
    assert b"<select" not in shown and b"The session" in shown
    made = (await page.call("GET", "/console/sign-in?why=%3Cscript%3E", accept=HTML)).body
    assert b"&lt;" not in made and b"<script>" not in made
    assert (await page.call("GET", "/console")).headers["location"] == PAGES


# ---------------------------------------------------------------------- forged


async def test_the_page_runs_nothing_inline_and_is_kept_nowhere(desk: Desk) -> None:
    built = await desk.build()
    sam = await come(desk, "sam")
    for path in (PAGES, f"{PAGES}/{built['id']}", "/console/sign-in"):
        answer = await sam.call("GET", path, accept=HTML)
        html = answer.body.decode()
        assert answer.headers["cache-control"] == "no-store", path
        assert answer.headers["referrer-policy"] == "same-origin", "or browsers would send Origin: null"
        assert "content-security-policy" not in answer.headers, "the front's, which lets nobody frame it"
        assert all('src="' in each for each in re.findall(r"<script[^>]*>", html)) and "<script" in html
        assert "<style" not in html and not re.search(r"\s(style|on\w+)=", html)
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
        assert sam.cookies["__Host-bailiwick_session"].partition("~")[0] not in html
        for file in re.findall(r'(?:src|href)="(/console/[^"]+\.(?:js|css))"', html):
            served = await sam.call("GET", file)
            assert served.status == 200 and served.headers["cache-control"] == "no-cache"
            again = await sam.call("GET", file, if_none_match=served.headers["etag"])
            assert again.status == 304 and not again.body


FORGED: list[dict[str, str]] = [
    {"x_csrf_token": ""},
    {"x_csrf_token": "a" * 43},
    {"origin": "https://evil.example.com", "sec_fetch_site": "cross-site"},
    {"origin": "null"},
    {"origin": "", "sec_fetch_site": ""},
]


@pytest.mark.parametrize("headers", FORGED)
async def test_another_site_signs_and_refuses_nothing(desk: Desk, headers: dict[str, str]) -> None:
    built = await desk.build()
    sam = await come(desk, "sam")
    said = {"team": "security", "sha256": built["sha256"]}
    for verb, body in (("sign", said), ("sign/options", {"team": "security"}), ("refuse", {**said, "reason": "no"})):
        refused = await sam.call("POST", f"/api/v1/handovers/{built['id']}/{verb}", body, **headers)
        assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused"), verb
    found = await desk.found(built)
    assert (found.state, found.signatures) == ("proposed", ())


async def test_nothing_of_one_session_is_of_use_in_another(desk: Desk) -> None:
    """Not its token against forgery, not what its key answered, not another team."""
    sam, otto = await come(desk, "sam"), await come(desk, "otto")
    key = await desk.key("sam")
    built = await desk.build()
    path = f"/api/v1/handovers/{built['id']}"
    answer = await otto.call("POST", f"{path}/sign", {"team": "operations"}, x_csrf_token=sam.csrf)
    assert answer.json()["reason"] == "csrf_refused"
    status, asked = await desk.say("sam", "POST", f"/{built['id']}/sign/options", {"team": "security"})
    assert status == 200
    body: dict[str, Any] = {"sha256": built["sha256"], "credential": key.get(asked["publicKey"])}
    for team, reason in (("security", "handover_team"), ("operations", "invalid_passkey")):
        status, said = await desk.say("otto", "POST", f"/{built['id']}/sign", {**body, "team": team})
        assert said["reason"] == reason and status in (401, 403)
    assert (await desk.found(built)).signatures == ()


async def test_every_state_is_shown(desk: Desk) -> None:
    """A pack in each state of the machine, so that none of them meets a page that does not know it."""
    from bailiwick.assurance.handover_states import HANDOVER
    from bailiwick.handover.handovers.signing_page import listed, shown

    built = await desk.build()
    async with desk.stage.database.begin() as tx:
        (found,) = await list_handovers(tx, "default", "~", 5)
    now = desk.stage.clock.now()
    for state in HANDOVER.states:
        ended = None if HANDOVER.moves[state] else now
        one = replace(found, state=state, ended_at=ended)  # type: ignore[arg-type]
        assert listed(one, {}).state == state
        assert shown(one, {}, now, may_sign=True).over is (ended is not None)
    assert built["id"] == found.id and set(SIGNERS) == set(found.missing)
