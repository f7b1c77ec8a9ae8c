"""Routes of backups: to read, to have one made, and to whom."""

from __future__ import annotations

from bailiwick.handover.backups.api import BACKUP_JOB, routes
from people_fixtures import House as People
from people_fixtures import clock, database_url, house

__all__ = ["clock", "database_url", "house"]


def serve(people: People, place: str | None = "file:///backups") -> None:
    people.serve(routes(people.database, people.clock, people.recorder, place))


async def test_backups_and_drills_are_listed(house: People) -> None:
    serve(house)
    token = await house.signed_in("ann", "auditor")
    listed = await house.call("GET", "/api/v1/backups", token=token)
    assert listed.status == 200, listed
    assert listed.json() == {"place": "file:///backups", "log_covered_until": None, "items": []}
    assert (await house.call("GET", "/api/v1/backups/drills", token=token)).json() == {"items": []}
    assert (await house.call("GET", "/api/v1/backups/20261121T020000Z-0a1b2c", token=token)).status == 404
    assert (await house.call("GET", "/api/v1/backups/other", token=token)).status == 400


async def test_a_backup_is_asked_for_by_who_operates_and_where_a_place_is_set(house: People) -> None:
    serve(house)
    auditor, operator = await house.signed_in("ann", "auditor"), await house.signed_in("bob", "operator")
    assert (await house.call("POST", "/api/v1/backups", token=auditor)).status == 403
    asked = await house.call("POST", "/api/v1/backups", token=operator)
    assert asked.status == 202 and asked.json()["job"] == BACKUP_JOB
    assert await house.value("SELECT count(*) FROM job_occurrences WHERE job = :job", job=BACKUP_JOB) == 1
    assert "backup.asked" in [event.name for event in await house.events()]


async def test_without_a_place_none_is_made(house: People) -> None:
    serve(house, None)
    operator = await house.signed_in("bob", "operator")
    refused = await house.call("POST", "/api/v1/backups", token=operator)
    assert (refused.status, refused.json()["reason"]) == (409, "backup_unconfigured")
