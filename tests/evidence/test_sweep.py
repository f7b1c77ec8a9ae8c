from __future__ import annotations

from ledger_world import World

from bailiwick.evidence.events import decode
from bailiwick.evidence.sweep import ALERT, Sweep


async def test_the_sweep_tells_of_a_changed_event_until_a_whole_sweep_passes(world: World) -> None:
    await world.filled(600)
    told: list[tuple[str, bool]] = []
    sweep = Sweep(world.database, world.head_files, world.recorder, observe=lambda *said: told.append(said))
    assert await sweep.run(whole=True) == {"zones": 2, "checked": 600, "findings": 0}
    assert told == [("acme", True), ("default", True)] and not sweep.tampered
    (rest,) = world.rows("SELECT rest FROM ledger.events WHERE seq = 40")
    world.do("UPDATE ledger.events SET rest = overlay(rest placing 'X'::bytea from 30) WHERE seq = 40")
    assert (await sweep.run(whole=True))["findings"] >= 1
    assert "changed at 40" in sweep.tampered["default"] and told[-1] == ("default", False)
    world.do("UPDATE ledger.events SET rest = %s WHERE seq = 40", rest)
    import bailiwick.evidence.sweep as module

    newest, module.NEWEST = module.NEWEST, 50
    try:
        await sweep.run(whole=False)
    finally:
        module.NEWEST = newest
    assert "default" in sweep.tampered, "a part that holds does not clear the whole"
    await sweep.run(whole=True)
    assert not sweep.tampered and told[-1] == ("default", True)
    await world.sequencer().drain()
    verdicts = [decode(body) for body in world.bodies("WHERE code = 'BW5003' AND zone = 'default'")]
    assert [event.outcome for event in verdicts] == ["success", "failure", "success", "success"]
    assert verdicts[1].reasons == (ALERT,)
