"""The policies in an evidence pack: what was active in its window and is active now, with sources and digests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from bailiwick.evidence.pack import Outcome, Pack, Section
from bailiwick.kernel.verdicts import Verdict


def policy_section() -> Section:
    """The folder ``policy/``."""
    return Section(
        "policy", "Policy sets active in the window and now: history, members, sources, digests", "policy", _write
    )


async def _write(pack: Pack) -> Outcome:
    """The activations of the window, the one before them and the newest; the sets they name; their versions."""
    window = pack.window
    active = await pack.tx.value(
        "SELECT hash FROM policy_activations WHERE zone = :zone ORDER BY id DESC LIMIT 1", zone=pack.zone
    )
    values = {"zone": pack.zone, "since": window.since, "until": window.until}
    hashes: set[str] = set()
    members: set[tuple[str, int]] = set()

    async def activations() -> AsyncIterator[Mapping[str, Any]]:
        async for row in pack.rows(_ACTIVATIONS, values):
            hashes.add(row["hash"])
            yield {**row, "active_now": row["hash"] == active}

    async def sets() -> AsyncIterator[Mapping[str, Any]]:
        async for row in pack.rows(
            "SELECT hash, members, created_at FROM policy_sets WHERE zone = %(zone)s AND hash = ANY(%(hashes)s)"
            " ORDER BY hash",
            {"zone": pack.zone, "hashes": sorted(hashes)},
        ):
            members.update((member["name"], member["version"]) for member in row["members"])
            yield row

    count = await pack.put_rows("activations.jsonl", activations())
    await pack.put_rows("sets.jsonl", sets())
    versions = []
    for name, version in sorted(members):
        row = await pack.tx.one(
            "SELECT name, version, sha256, dialect, description, source, data, created_by, created_at"
            " FROM policy_versions WHERE zone = :zone AND name = :name AND version = :version",
            zone=pack.zone,
            name=name,
            version=version,
        )
        if row is None:
            continue  # the set then names a member that the list of versions lacks, which is for all to see
        told = dict(row)
        source, data = told.pop("source"), told.pop("data")
        await pack.put(f"sources/{name}/{version}.rego", source.encode())
        if data != "{}":
            await pack.put(f"sources/{name}/{version}.json", data.encode())
        versions.append(told)
    await pack.put_json("versions.json", versions, windowed=True)
    if active is None:
        return Outcome(Verdict.NO_DATA, "no policy set is active")
    return Outcome(Verdict.PASS, f"{active} is active; {count:,} activations, {len(versions):,} versions")


_ACTIVATIONS = """
SELECT id, hash, previous, kind, newly_allowed, decided_at, suspect_at, known_good_at, activated_by, activated_at,
  approval
FROM policy_activations a WHERE zone = %(zone)s AND (
  activated_at >= %(since)s AND activated_at <= %(until)s
  OR id = (SELECT max(id) FROM policy_activations WHERE zone = %(zone)s AND activated_at <= %(since)s)
  OR id = (SELECT max(id) FROM policy_activations WHERE zone = %(zone)s))
ORDER BY id
"""
