"""A cluster as a base backup left it, against PostgreSQL's own manifest of it.

That names every file with its size and SHA-256, and ends with a hash over itself ("Backup Manifest Format" of
PostgreSQL's documentation). It is read here, since the ``pg_verifybackup`` of the wheel does not run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from bailiwick.evidence.archive.store import digest_of
from bailiwick.handover.backups.manifest import Damaged

_NAME = "backup_manifest"
_UNLISTED = ("pg_wal/", _NAME)


class _File(msgspec.Struct):
    size: int = msgspec.field(name="Size")
    path: str = msgspec.field(name="Path", default="")
    encoded: str = msgspec.field(name="Encoded-Path", default="")
    algorithm: str = msgspec.field(name="Checksum-Algorithm", default="")
    checksum: str = msgspec.field(name="Checksum", default="")

    @property
    def name(self) -> str:
        """Its path below the cluster; one that is no UTF-8 stands in hexadecimal."""
        return self.path or bytes.fromhex(self.encoded).decode("utf-8", "surrogateescape")


class _Listing(msgspec.Struct):
    version: int = msgspec.field(name="PostgreSQL-Backup-Manifest-Version")
    files: list[_File] = msgspec.field(name="Files")
    checksum: str = msgspec.field(name="Manifest-Checksum")


def verify_cluster(cluster: Path) -> int:
    """Compare every file with the manifest; how many there are. Raises ``backup_damaged`` naming the first that is not
    what it was, is missing, or that no manifest names."""
    try:
        raw = (cluster / _NAME).read_bytes()
        listing = msgspec.json.decode(raw, type=_Listing)
        named = {each.name: each for each in listing.files}
    except (OSError, ValueError):
        raise Damaged("PostgreSQL's manifest of the cluster cannot be read.") from None
    body = raw[: raw.rindex(b"\n", 0, raw.rindex(b'"Manifest-Checksum"')) + 1]
    if hashlib.sha256(body).hexdigest() != listing.checksum:
        raise Damaged("PostgreSQL's manifest of the cluster was altered.")
    for name, each in named.items():
        if each.algorithm != "SHA256":
            raise Damaged(f"{name} of the cluster has no SHA-256 to compare it with.")
        try:
            found = digest_of(cluster / name)
        except OSError:
            raise Damaged(f"{name} of the cluster is missing.") from None
        if (found.size, found.sha256.hex()) != (each.size, each.checksum):
            raise Damaged(f"{name} of the cluster is not what it was.")
    for path in cluster.rglob("*"):
        name = path.relative_to(cluster).as_posix()
        if path.is_file() and name not in named and not name.startswith(_UNLISTED):
            raise Damaged(f"{name} of the cluster is in no manifest.")
    return len(named)
