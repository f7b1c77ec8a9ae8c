"""The documents we ship: what is in force in a zone until somebody applies a book of his own.

``*.yaml`` here is for every zone; what is under ``installation`` speaks of the installation itself and is for the
default zone alone.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from bailiwick.assurance.book import Document, read_text

INSTALLATION_ZONE = "default"


def shipped(zone: str) -> list[Document]:
    """The documents that ``zone`` begins with. Raises :class:`BadBook` where one of them cannot be read."""
    found: list[Document] = []
    here = files(__name__)
    folders = [here, here / "installation"] if zone == INSTALLATION_ZONE else [here]
    for folder in folders:
        for file in sorted(_documents(folder), key=lambda each: each.name):
            found += read_text(file.read_text(encoding="utf-8"), f"shipped/{file.name}")
    return found


def _documents(folder: Traversable) -> list[Traversable]:
    return [each for each in folder.iterdir() if each.name.endswith(".yaml")] if folder.is_dir() else []
