"""Backups and restores on a real server: whole, to a moment, and refused where something is wrong."""

from __future__ import annotations

from backup_ground import Ground, now


async def test_a_backup_comes_back_with_what_was_committed_until_the_log_ends(ground: Ground) -> None:
    ids = await ground.world.filled(5)
    async with ground.shipped():
        manifest = await ground.take()
        ground.user("after-the-backup")
        await ground.covered(now())
    restored = await ground.restore()
    assert restored.manifest.id == manifest.id and not restored.zones[1].lost
    async with ground.running() as connection:
        there = [row[0] for row in connection.execute("SELECT username FROM bailiwick.users").fetchall()]
        events = [str(row[0]) for row in connection.execute("SELECT id FROM ledger.events ORDER BY seq").fetchall()]
    assert there == ["after-the-backup"]
    assert events == ids
