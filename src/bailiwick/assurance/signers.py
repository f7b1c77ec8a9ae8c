"""Who signs is not who produced what is signed, by whatever account."""

from __future__ import annotations

from collections.abc import Iterable

from bailiwick.kernel.db import Transaction
from bailiwick.kernel.quorum import People


async def produced(people: People, tx: Transaction, zone: str, signer: str, producers: Iterable[str]) -> bool:
    """Whether ``signer`` is one of ``producers``, or the same person as one of them.

    A producer may say what he was (``person:alice``): no name of a user holds a colon, so what follows it is one.
    """
    names = sorted({producer.rpartition(":")[2] for producer in producers})
    if signer.casefold() in {name.casefold() for name in names}:
        return True
    return bool(await people.related(tx, zone, signer, names, None))
