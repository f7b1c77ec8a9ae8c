"""Where a log is read from: a folder, a server, or any function from a path to bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from bailiwick_verify.merkle import TILE_WIDTH
from bailiwick_verify.note import NoteError, parse_note

_MOST_BYTES = TILE_WIDTH * (65_535 + 2)
_MOST_PAGES = 10_000


class Unreadable(Exception):
    """A file of the log is not there or cannot be fetched."""


class Source:
    """A log by the paths of C2SP tlog-tiles; ``fetch`` raises :class:`Unreadable`."""

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch

    def __call__(self, path: str) -> bytes:
        return self._fetch(path)

    def heads(self, after: int) -> list[bytes]:
        """The signed checkpoints that were kept by the hour, oldest first; those up to ``after`` may be left out."""
        return split_notes(self("heads"))


class Folder(Source):
    """A log exported into a directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(self._read)
        self._directory = directory

    def _read(self, path: str) -> bytes:
        try:
            return (self._directory / path).read_bytes()
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from None


class Server(Source):
    """A log at its URL prefix (``https://host/evidence/default``); ``token`` is sent for the entries."""

    def __init__(self, prefix: str, token: str = "", *, timeout_s: float = 30.0) -> None:
        if not prefix.startswith(("http://", "https://")):
            raise ValueError("the address of a log begins with http:// or https://")
        super().__init__(self._get)
        self._prefix = prefix.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s

    def heads(self, after: int) -> list[bytes]:
        """As they are told, page by page."""
        found: list[bytes] = []
        for _ in range(_MOST_PAGES):
            page = split_notes(self._get(f"heads?after={after}"))
            newest = max((line.moment for note in page for line in parse_note(note).signatures), default=0)
            found += page
            if newest <= after:
                return found
            after = newest
        raise Unreadable("heads: there is no end to them")

    def _get(self, path: str) -> bytes:
        request = Request(f"{self._prefix}/{path}", headers=self._headers)  # noqa: S310 - the scheme was looked at
        try:
            with urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                data: bytes = answer.read(_MOST_BYTES + 1)
        except HTTPError as error:
            raise Unreadable(f"{path}: the server answers {error.code}") from None
        except (URLError, OSError) as error:
            raise Unreadable(f"{path}: {error}") from None
        if len(data) > _MOST_BYTES:
            raise Unreadable(f"{path}: larger than any tile")
        return data


def split_notes(data: bytes) -> list[bytes]:
    """The signed notes of a file that holds several with an empty line between; raises :class:`NoteError`."""
    if not data:
        return []
    blocks = data.removesuffix(b"\n").split(b"\n\n")
    if len(blocks) % 2:
        raise NoteError("not a sequence of signed notes")
    return [blocks[n] + b"\n\n" + blocks[n + 1] + b"\n" for n in range(0, len(blocks), 2)]
