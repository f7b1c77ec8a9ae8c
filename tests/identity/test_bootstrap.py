from __future__ import annotations

import pytest

from bailiwick.identity.bootstrap import create_first_administrator
from bailiwick.kernel.errors import Conflict
from people_fixtures import House


async def first(house: House) -> str:
    async with house.database.begin() as tx:
        return await create_first_administrator(
            tx, "default", clock=house.clock, ids=house.ids, recorder=house.recorder, passwords=house.passwords
        )


async def test_the_first_administrator_signs_in_once_and_must_change_the_password(house: House) -> None:
    password = await first(house)
    assert len(password) == 24
    assert password not in str(await house.events())
    login = {"username": "admin", "password": password}
    signed_in = (await house.call("POST", "/api/v1/auth/login/local", login)).json()
    assert (signed_in["must_change_password"], signed_in["user"]["role"]) == (True, "admin")
    token = signed_in["token"]
    assert (await house.call("GET", "/api/v1/users", token=token)).json()["reason"] == "password_change_required"
    change = {"current_password": password, "new_password": "a horse of my own"}
    assert (await house.call("POST", "/api/v1/auth/password", change, token=token)).status == 204
    assert (await house.call("GET", "/api/v1/users", token=token)).status == 200


async def test_there_is_one_first_administrator(house: House) -> None:
    await first(house)
    with pytest.raises(Conflict):
        await first(house)
    assert await house.value("SELECT count(*) FROM users") == 1
