"""Stores: a folder, and a bucket of a server that checks signatures."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from archive_world import START, ArchiveWorld, Died, window
from pydantic import ValidationError

from bailiwick.evidence.archive.places import Places, places
from bailiwick.evidence.archive.proof import Unproven, prove_window, verify_archive
from bailiwick.evidence.archive.purge import HotRows
from bailiwick.evidence.archive.seal import SealFailed
from bailiwick.evidence.archive.store import (
    Digest,
    FolderStore,
    ObjectMissing,
    ObjectStore,
    ObjectTaken,
    S3Place,
    S3Store,
    digest_of,
)
from bailiwick.evidence.archive.tiers import expire_local
from bailiwick.evidence.sweep import Sweep
from bailiwick.evidence.verify import verify
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings

ADMIN_POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Place]:
    """A bucket; the server answers 403 to a wrong signature."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        given = {"aws_access_key_id": "first", "aws_secret_access_key": "first", "region_name": "us-east-1"}
        iam = boto3.client("iam", endpoint_url=endpoint, **given)
        iam.create_user(UserName="archive")
        iam.put_user_policy(UserName="archive", PolicyName="all", PolicyDocument=ADMIN_POLICY)
        key = iam.create_access_key(UserName="archive")["AccessKey"]
        name = f"evidence-{secrets.token_hex(4)}"
        boto3.client("s3", endpoint_url=endpoint, **given).create_bucket(Bucket=name)
        import moto.core.responses as checked

        before = checked.settings.INITIAL_NO_AUTH_ACTION_COUNT
        checked.ActionAuthenticatorMixin.request_count = 0
        checked.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        try:
            yield S3Place(name, "bw/one", endpoint, None, key["AccessKeyId"], key["SecretAccessKey"])
        finally:
            checked.settings.INITIAL_NO_AUTH_ACTION_COUNT = before
    finally:
        server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    place: S3Place = request.getfixturevalue("bucket")
    return S3Store(
        S3Place(place.bucket, f"t/{secrets.token_hex(4)}", place.endpoint, None, place.access_key, place.secret_key)
    )


def file(tmp_path: Path, data: bytes) -> tuple[Path, Digest]:
    path = tmp_path / secrets.token_hex(4)
    path.write_bytes(data)
    return path, digest_of(path)


async def test_an_object_is_put_once_and_read_back(store: ObjectStore, tmp_path: Path) -> None:
    path, digest = file(tmp_path, os.urandom(3_000_000))
    await store.put("a/b/c.parquet", path, digest)
    await store.put("a/b/c.parquet", path, digest)
    assert await store.digest("a/b/c.parquet") == digest
    assert await store.fetch("a/b/c.parquet", tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    other, its = file(tmp_path, b"other")
    with pytest.raises(ObjectTaken):
        await store.put("a/b/c.parquet", other, its)
    assert await store.digest("a/b/c.parquet") == digest
    await store.put("a/b/c.parquet", other, its, replace=True)
    assert await store.digest("a/b/c.parquet") == its
    await store.delete("a/b/c.parquet")
    await store.delete("a/b/c.parquet")
    for asked in (store.digest("a/b/c.parquet"), store.fetch("a/b/c.parquet", tmp_path / "back")):
        with pytest.raises(ObjectMissing):
            await asked


@pytest.mark.parametrize("name", ["../up", "/root", "a//b", "a/../b", ".hidden", "a/.b", "", "a\x00b", "x" * 600])
async def test_a_name_cannot_leave_the_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError):
        await store.digest(name)


async def test_what_was_not_sent_whole_is_not_stored(store: ObjectStore, tmp_path: Path) -> None:
    path, digest = file(tmp_path, b"one thing")
    wrong = Digest(digest.size, bytes(32))
    with pytest.raises(Unavailable) as refused:
        await store.put("x", path, wrong)
    assert refused.value.reason == "archive_unavailable"
    with pytest.raises(ObjectMissing):
        await store.digest("x")


async def test_a_bucket_refuses_a_wrong_key_and_the_key_is_not_told(bucket: S3Place, tmp_path: Path) -> None:
    place = S3Place(bucket.bucket, "", bucket.endpoint, None, bucket.access_key, "not-the-secret-key")
    path, digest = file(tmp_path, b"data")
    with pytest.raises(Unavailable) as refused:
        await S3Store(place).put("x", path, digest)
    assert "not-the-secret-key" not in str(refused.value) and "not-the-secret-key" not in repr(place)
    assert "SignatureDoesNotMatch" in str(refused.value)


async def test_a_bucket_that_does_not_answer_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        await S3Store(S3Place("b", "", "http://127.0.0.1:1", None, "a", "b")).digest("x")
    assert refused.value.reason == "archive_unavailable"


async def test_a_folder_that_cannot_be_written_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    path, digest = file(tmp_path, b"data")
    with pytest.raises(Unavailable):
        await FolderStore(tmp_path / "store").put("a/b", path, digest)


async def test_evidence_outlives_this_machine_in_the_bucket(world: ArchiveWorld, bucket: S3Place) -> None:
    remote = S3Store(
        S3Place(bucket.bucket, secrets.token_hex(4), bucket.endpoint, None, bucket.access_key, bucket.secret_key)
    )
    world.remote = remote
    await world.day(60, 0, 20)
    before = world.bodies()
    world.wait(days=8)
    await world.sequence()

    def die(step: str) -> None:
        if step == "copied":
            raise Died

    with pytest.raises(Died):
        await world.archivist(fault=die).run("default")
    await world.archivist().run()
    assert world.rows("SELECT count(*) FROM ledger.archive_objects WHERE NOT remote") == [0]
    assert world.rows("SELECT count(*) FROM ledger.archives WHERE NOT remote") == [0]
    await HotRows(world.database, world.cold, world.recorder, world.clock).drop_due()
    assert await expire_local(world.database, world.places, world.cold, world.clock) == {"removed": 0, "kept": 0}
    world.wait(days=90)
    await world.sequence()
    first = world.rows("SELECT name FROM ledger.archive_objects WHERE zone = 'default' ORDER BY first_seq LIMIT 1")[0]
    path, digest = file(world.root, b"not what was sealed")
    await remote.put(first, path, digest, replace=True)
    assert await expire_local(world.database, world.places, world.cold, world.clock) == {"removed": 1, "kept": 1}
    with pytest.raises(Unproven, match="not the one in its manifest"):
        await prove_window(world.database, world.cold, "default", window(), everywhere=True)
    good = world.places.local.path(first)
    await remote.put(first, good, digest_of(good), replace=True)
    assert await expire_local(world.database, world.places, world.cold, world.clock) == {"removed": 1, "kept": 0}
    assert not world.objects()
    assert await world.archived() == before, "read from the bucket"
    report = await verify(world.database, "default", world.head_files, cold=world.cold)
    assert (report.verdict, report.archived) == ("PASS", 80)
    await remote.delete(first)
    for cached in world.places.cache.iterdir():
        cached.unlink()
    report = await verify(world.database, "default", world.head_files, cold=world.cold)
    assert report.verdict == "FAIL" and {finding.kind for finding in report.findings} >= {"archive", "removed"}
    assert "missing" in (await verify_archive(world.database, world.cold, "default")).findings[0].why


async def test_a_bucket_that_is_away_holds_up_copies_and_nothing_else(world: ArchiveWorld) -> None:
    world.remote = S3Store(S3Place("b", "", "http://127.0.0.1:1", None, "a", "b"))
    await world.day(5)
    world.wait(days=8)
    with pytest.raises(SealFailed, match="archive_unavailable"):
        await world.archivist().run("default")
    report = await verify_archive(world.database, world.cold, "default", until=START)
    assert report.manifests >= 1 and world.objects()


async def test_an_archive_that_is_away_is_no_tampering_and_hides_no_other_zone(world: ArchiveWorld) -> None:
    await world.day(5)
    await world.filled(2, zone="acme")
    world.wait(days=8)
    await world.sequence()
    await world.archivist().run()
    await HotRows(world.database, world.cold, world.recorder, world.clock).drop_due()
    world.do("UPDATE ledger.archive_objects SET local = false, remote = true WHERE zone = 'acme'")
    world.remote = S3Store(S3Place("b", "", "http://127.0.0.1:1", None, "a", "b"))
    told: list[tuple[str, bool]] = []
    sweep = Sweep(
        world.database, world.head_files, world.recorder, cold=world.cold, observe=lambda *said: told.append(said)
    )
    with pytest.raises(Unavailable) as away:
        await sweep.run(whole=True)
    assert away.value.reason == "archive_unavailable"
    assert told == [("default", True)] and not sweep.tampered


def test_the_settings_name_the_stores(tmp_path: Path) -> None:
    def made(**more: str) -> Places:
        return places(Settings(data_dir=tmp_path, **more), Layout(tmp_path))  # type: ignore[arg-type]

    plain = made()
    assert (plain.local.root, plain.remote) == (tmp_path / "archive", None)
    assert made(archive_dir=str(tmp_path / "x")).local.root == tmp_path / "x"
    folder = made(archive_url=f"file://{tmp_path}/far").remote
    assert isinstance(folder, FolderStore) and folder.root == tmp_path / "far"
    keys = {"archive_s3_access_key": "id", "archive_s3_secret_key": "hush-hush"}
    bucket = made(archive_url="s3://evidence/a/b/", **keys).remote
    assert isinstance(bucket, S3Store) and bucket.place == "s3://evidence/a/b"
    settings = Settings(data_dir=tmp_path, archive_url="s3://evidence", **keys)  # type: ignore[arg-type]
    assert "hush-hush" not in f"{settings!r} {settings.shown()} {bucket!r}"
    for wrong in ({"archive_url": "ftp://x"}, {"archive_url": "s3://"}, {"archive_s3_access_key": "id"}):
        with pytest.raises(ValidationError):
            made(**wrong)
