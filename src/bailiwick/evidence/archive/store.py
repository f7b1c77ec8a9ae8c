"""Where archived objects lie: a port with two forms, a folder and an S3 bucket.

An object is written once, whole or not at all, and never changed: a name that is taken by the same bytes is done, one
that is taken by others is refused. Names are relative paths of plain characters.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bailiwick.evidence.spool import sync_directory
from bailiwick.kernel.errors import Unavailable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*(/[A-Za-z0-9][A-Za-z0-9_.=-]*)*")
_PORTION = 1 << 20
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_TAKEN = frozenset({"412", "409", "PreconditionFailed", "ConditionalRequestConflict"})


class ObjectMissing(Exception):
    """There is no object by that name."""


class ObjectTaken(Exception):
    """Another object stands under that name already."""


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and SHA-256 of an object, as the store holds it now."""

    size: int
    sha256: bytes


class ObjectStore(Protocol):
    """What the archive asks of a store. Every call may raise ``Unavailable`` (``archive_unavailable``)."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    async def put(self, name: str, source: Path, digest: Digest, *, replace: bool = False) -> None:
        """Store a file durably; raises :class:`ObjectTaken` where other bytes have the name, unless ``replace``."""
        ...

    async def fetch(self, name: str, target: Path) -> Digest:
        """Copy an object into a file; what was read. Raises :class:`ObjectMissing`."""
        ...

    async def digest(self, name: str) -> Digest:
        """What the store holds under the name; raises :class:`ObjectMissing`."""
        ...

    async def delete(self, name: str) -> None:
        """Remove an object; it may be gone already."""
        ...

    async def names(self, folder: str) -> list[str]:
        """The names of all objects below ``folder``, in their order."""
        ...


def make_private(directory: Path) -> list[Path]:
    """Make a directory with those above it, for nobody else; whose entries are to be flushed, innermost first."""
    missing, flushed = [], [directory]
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
        flushed.append(directory)
    for each in reversed(missing):
        each.mkdir(exist_ok=True, mode=0o700)
    return flushed


def digest_of(path: Path) -> Digest:
    """The digest of a file; raises OSError."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while portion := stream.read(_PORTION):
            hashed.update(portion)
            size += len(portion)
    return Digest(size, hashed.digest())


def digest_of_bytes(data: bytes) -> Digest:
    """The digest of bytes."""
    return Digest(len(data), hashlib.sha256(data).digest())


def _checked(name: str) -> str:
    if len(name) > 500 or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name an object")
    return name


def _away(place: str, error: Exception) -> Unavailable:
    told = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return Unavailable(f"The archive at {place} cannot be used: {told}.", reason="archive_unavailable")


class FolderStore:
    """A folder. An object appears under its name complete and flushed, its directory entry too."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        return str(self.root)

    def path(self, name: str) -> Path:
        """Where the object stands."""
        return self.root / _checked(name)

    async def put(self, name: str, source: Path, digest: Digest, *, replace: bool = False) -> None:
        try:
            await asyncio.to_thread(self._put, self.path(name), source, digest, replace)
        except OSError as error:
            raise _away(self.place, error) from error

    async def fetch(self, name: str, target: Path) -> Digest:
        try:
            return await asyncio.to_thread(_copy, self.path(name), target)
        except FileNotFoundError:
            raise ObjectMissing(name) from None
        except OSError as error:
            raise _away(self.place, error) from error

    async def digest(self, name: str) -> Digest:
        try:
            return await asyncio.to_thread(digest_of, self.path(name))
        except FileNotFoundError:
            raise ObjectMissing(name) from None
        except OSError as error:
            raise _away(self.place, error) from error

    async def delete(self, name: str) -> None:
        path = self.path(name)
        try:
            await asyncio.to_thread(self._delete, path)
        except OSError as error:
            raise _away(self.place, error) from error

    async def names(self, folder: str) -> list[str]:
        top = self.path(folder)

        def walk() -> list[str]:
            if not top.is_dir():
                return []
            # what is being written has a name that begins with a dot
            found = [path for path in top.rglob("*") if path.is_file() and not path.name.startswith(".")]
            return sorted(path.relative_to(self.root).as_posix() for path in found)

        try:
            return await asyncio.to_thread(walk)
        except OSError as error:
            raise _away(self.place, error) from error

    async def tidy(self, folder: str, known: Collection[str]) -> None:
        """Remove the files of one folder that are not among the names ``known``."""

        def remove() -> None:
            directory = self.path(folder)
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.is_file() and f"{folder}/{path.name}" not in known:
                    path.unlink(missing_ok=True)

        try:
            await asyncio.to_thread(remove)
        except OSError as error:
            raise _away(self.place, error) from error

    def _put(self, path: Path, source: Path, digest: Digest, replace: bool) -> None:
        if not replace:
            with contextlib.suppress(FileNotFoundError):
                if digest_of(path) == digest:
                    return
                raise ObjectTaken(str(path))
        made = make_private(path.parent)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            if _copy(source, new) != digest:
                raise OSError(f"{source} changed while it was copied")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        for directory in made:
            sync_directory(directory)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent.exists():
            sync_directory(path.parent)


def _copy(source: Path, target: Path) -> Digest:
    hashed, size = hashlib.sha256(), 0
    # evidence is for nobody else on the machine
    private = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with source.open("rb") as reading, os.fdopen(private, "wb") as writing:
        while portion := reading.read(_PORTION):
            writing.write(portion)
            hashed.update(portion)
            size += len(portion)
        writing.flush()
        os.fsync(writing.fileno())
    return Digest(size, hashed.digest())


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a bucket is. ``endpoint`` None is Amazon's own; keys None are found the way AWS tools find them."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None

    def __repr__(self) -> str:
        return f"S3Place(s3://{self.bucket}/{self.prefix})"


class S3Store:
    """A bucket of the S3 API. Objects carry a SHA-256 that the server checks, and are put only where none stands."""

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._made: Any = None

    @property
    def place(self) -> str:
        return f"s3://{self._place.bucket}/{self._place.prefix}".rstrip("/")

    async def put(self, name: str, source: Path, digest: Digest, *, replace: bool = False) -> None:
        await asyncio.to_thread(self._put, self._key(name), source, digest, replace)

    async def fetch(self, name: str, target: Path) -> Digest:
        return await asyncio.to_thread(self._fetch, self._key(name), target)

    async def digest(self, name: str) -> Digest:
        return await asyncio.to_thread(self._digest, self._key(name))

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._call, "delete_object", self._key(name))

    async def names(self, folder: str) -> list[str]:
        return await asyncio.to_thread(self._names, self._key(folder) + "/")

    def _names(self, below: str) -> list[str]:
        prefix = self._place.prefix.strip("/")
        start = len(prefix) + 1 if prefix else 0
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._ask("list_objects_v2", below, Prefix=below, **more)
            found += [each["Key"][start:] for each in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return sorted(found)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _key(self, name: str) -> str:
        prefix = self._place.prefix.strip("/")
        return f"{prefix}/{_checked(name)}" if prefix else _checked(name)

    def _client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            place = self._place
            config = Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 4, "mode": "standard"},
                s3={"addressing_style": "path" if place.endpoint else "auto"},
                request_checksum_calculation="when_required",
            )
            self._made = boto3.session.Session().client(
                "s3",
                endpoint_url=place.endpoint,
                region_name=place.region or "us-east-1",
                aws_access_key_id=place.access_key,
                aws_secret_access_key=place.secret_key,
                config=config,
            )
        return self._made

    def _call(self, operation: str, key: str, **more: Any) -> Any:
        return self._ask(operation, key, Key=key, **more)

    def _ask(self, operation: str, about: str, **more: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client(), operation)(Bucket=self._place.bucket, **more)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _GONE:
                raise ObjectMissing(about) from None
            if code in _TAKEN:
                raise ObjectTaken(about) from None
            # only the code: the server's text may quote what was sent
            raise Unavailable(
                f"The archive at {self.place} refuses: {code or 'no reason given'}.", reason="archive_unavailable"
            ) from None
        except (BotoCoreError, OSError) as error:
            raise _away(self.place, error) from error

    def _put(self, key: str, source: Path, digest: Digest, replace: bool) -> None:
        condition = {} if replace else {"IfNoneMatch": "*"}
        if digest_of(source) != digest:  # not every server compares what arrives with the checksum that is sent
            raise _away(self.place, OSError(f"{source} is not what was to be stored"))
        with source.open("rb") as body:
            try:
                self._call(
                    "put_object",
                    key,
                    Body=body,
                    ContentLength=digest.size,
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=base64.b64encode(digest.sha256).decode(),
                    Metadata={"sha256": digest.sha256.hex()},
                    **condition,
                )
            except ObjectTaken:
                if self._digest(key) != digest:
                    raise

    def _fetch(self, key: str, target: Path) -> Digest:
        answer = self._call("get_object", key)
        hashed, size = hashlib.sha256(), 0
        try:
            with target.open("wb") as writing:
                for portion in answer["Body"].iter_chunks(_PORTION):
                    writing.write(portion)
                    hashed.update(portion)
                    size += len(portion)
        except Exception as error:  # the connection may end in many ways while a body is read
            target.unlink(missing_ok=True)
            raise _away(self.place, error) from error
        return Digest(size, hashed.digest())

    def _digest(self, key: str) -> Digest:
        answer = self._call("head_object", key, ChecksumMode="ENABLED")
        told = answer.get("ChecksumSHA256")
        if told and "-" not in told:  # with a dash it is one over parts, not over the bytes
            return Digest(int(answer["ContentLength"]), base64.b64decode(told))
        hashed, size = hashlib.sha256(), 0
        for portion in self._call("get_object", key)["Body"].iter_chunks(_PORTION):
            hashed.update(portion)
            size += len(portion)
        return Digest(size, hashed.digest())
