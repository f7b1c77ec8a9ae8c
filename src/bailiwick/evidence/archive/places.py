"""The stores of an installation, as its settings name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from bailiwick.evidence.archive.store import FolderStore, ObjectStore, S3Place, S3Store
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings


@dataclass(frozen=True, slots=True)
class Places:
    """``local`` on this machine; ``remote`` beside it if there is one; ``work`` for files that come and go."""

    local: FolderStore
    remote: ObjectStore | None
    work: Path

    @property
    def cache(self) -> Path:
        """Copies of what is only in the remote store."""
        return self.work / "cache"


def places(settings: Settings, layout: Layout) -> Places:
    """The stores that ``settings`` name. Connects to nothing."""
    root = settings.archive_dir or layout.archive
    return Places(FolderStore(root), _remote(settings), root / ".work")


def _remote(settings: Settings) -> ObjectStore | None:
    if settings.archive_url is None:
        return None
    return store_at(
        settings.archive_url,
        endpoint=settings.archive_s3_endpoint,
        region=settings.archive_s3_region,
        access_key=settings.archive_s3_access_key,
        secret_key=settings.archive_s3_secret_key,
    )


def store_at(
    url: str, *, endpoint: str | None, region: str | None, access_key: SecretStr | None, secret_key: SecretStr | None
) -> ObjectStore:
    """The store at ``s3://bucket/prefix`` or ``file:///folder``. Connects to nothing."""
    if url.startswith("file://"):
        return FolderStore(Path(url.removeprefix("file://")))
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(
        S3Place(
            bucket,
            prefix.strip("/"),
            endpoint,
            region,
            access_key.get_secret_value() if access_key else None,
            secret_key.get_secret_value() if secret_key else None,
        )
    )
