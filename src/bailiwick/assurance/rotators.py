"""How our own secrets are rotated, and how it is seen that the old one is refused: it is presented as callers do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from bailiwick.assurance.secret_forms import fingerprint
from bailiwick.assurance.secret_rotation import Rotated
from bailiwick.assurance.secrets import SecretInventory
from bailiwick.authority.emergency import EmergencyRotation
from bailiwick.authority.keys import KeyStore, Purpose
from bailiwick.evidence.events import Context
from bailiwick.identity.api_keys import ApiKeys, holds, load_api_keys, parse
from bailiwick.identity.applications import Applications
from bailiwick.identity.loader import load_applications
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Conflict, InvalidRequest
from bailiwick.kernel.http import Caller

_WHY = "due for rotation"


class ApplicationSecrets:
    """The secret of an application."""

    def __init__(self, database: Database, clock: Clock, applications: Applications) -> None:
        self._database = database
        self._clock = clock
        self._applications = applications

    async def rotate(self, context: Context, caller: Caller, name: str, old: str, overlap: timedelta) -> Rotated:
        """The old one is refused everywhere when this returns; two are never good at once."""
        if old and not (await self.accepts(context.zone, name, old))[0]:
            raise InvalidRequest("That is not its present secret.")
        before = await self._applications.get(context.zone, name)
        after, secret = await self._applications.rotate_secret(context, caller.role, name)
        return Rotated(
            f"v{before.version}", f"v{after.version}", self._clock.now(), old, {"client_id": after.id, "secret": secret}
        )

    async def accepts(self, zone: str, name: str, old: str) -> tuple[bool, str]:
        """Verified as the token endpoint does."""
        async with self._database.begin() as tx:
            found = await load_applications(tx, zone, name)
        taken = any([await self._applications.verify(each, old) for each in found.values()])
        return taken, "accepted" if taken else "refused: invalid_client"


class ApiKeySecrets:
    """An API key."""

    def __init__(self, database: Database, clock: Clock, api_keys: ApiKeys) -> None:
        self._database = database
        self._clock = clock
        self._api_keys = api_keys

    async def rotate(self, context: Context, caller: Caller, name: str, old: str, overlap: timedelta) -> Rotated:
        """Old and new are good together for ``overlap``. A person rotates his own; an administrator anybody's."""
        if old and not (await self.accepts(context.zone, name, old))[0]:
            raise InvalidRequest("That is not this key.")
        owner = None if caller.role == "admin" else caller.name
        fresh, text = await self._api_keys.rotate(context, name, owner=owner, overlap=overlap)
        return Rotated(name, fresh.id, self._clock.now() + overlap, old, {"id": fresh.id, "key": text})

    async def accepts(self, zone: str, name: str, old: str) -> tuple[bool, str]:
        """Looked up and compared as every request's is."""
        parsed = parse(old)
        async with self._database.begin() as tx:
            entries = await load_api_keys(tx, zone, name)
        entry = entries.get(parsed[0]) if parsed is not None and parsed[0] == name else None
        taken = entry is not None and parsed is not None and holds(entry, parsed[1], self._clock.now())
        return taken, "accepted" if taken else "refused: invalid_token"


class SigningKeys:
    """A key that signs sessions or mandates: what the old one signs must verify no more."""

    def __init__(self, database: Database, clock: Clock, keys: KeyStore, rotation: EmergencyRotation) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._rotation = rotation

    async def rotate(self, context: Context, caller: Caller, name: str, old: str, overlap: timedelta) -> Rotated:
        """With an overlap the old key goes on verifying what it signed, and retires by itself; without it, at once."""
        purposes: dict[str, Purpose] = {"session": "session", "mandate": "mandate"}
        if name not in purposes:
            raise InvalidRequest("The keys that sign are those of session and mandate.")
        done = await self._rotation.rotate(context, purposes[name], emergency=not overlap, reason=_WHY)
        until = self._clock.now() + overlap
        return Rotated(str(done["old_kid"]), str(done["new_kid"]), until, str(done["old_kid"]))

    async def accepts(self, zone: str, name: str, old: str) -> tuple[bool, str]:
        """Whether the keys that tokens are verified with still hold the one by that id."""
        async with self._database.begin() as tx:
            verifying = await self._keys.load_public(tx, zone)
        taken = old in verifying
        return taken, "a token signed by it verifies" if taken else "refused: unknown_key"


class KeyEncryptionKey:
    """The KEK: what the old one wrapped must not open by the keys that are left.

    ``rotate_kek(context)`` makes the new key and wraps everything anew (``app/kek.py``); ``sealer()`` reads the file.
    """

    def __init__(
        self, clock: Clock, sealer: Callable[[], Sealer], rotate_kek: Callable[[Context], Awaitable[object]]
    ) -> None:
        self._clock = clock
        self._sealer = sealer
        self._rotate = rotate_kek

    async def rotate(self, context: Context, caller: Caller, name: str, old: str, overlap: timedelta) -> Rotated:
        """Everything is wrapped by the new one when this returns, and the old one is gone."""
        before = self._sealer()
        wrapped = before.seal(b"a probe", b"rotation-probe").hex()
        await self._rotate(context)
        return Rotated(before.active, self._sealer().active, self._clock.now(), wrapped)

    async def accepts(self, zone: str, name: str, old: str) -> tuple[bool, str]:
        """Whether something that the old key wrapped still opens."""
        try:
            self._sealer().open(bytes.fromhex(old), b"rotation-probe")
        except (SealError, ValueError, KeyError) as error:
            return False, f"refused: {type(error).__name__}"
        return True, "it opens"


Try = Callable[[str], Awaitable[bool | None]]
"""Presents a value as a user of the secret does: whether it is taken; None where that cannot be told."""


class ReplacedOutside:
    """What others replace: settings, keys of other systems. It is rotated once its fingerprint is another one.

    ``tries``: how an old value is presented, by the name of the secret; of others a person attests that it is refused.
    """

    def __init__(
        self, kind: str, database: Database, clock: Clock, inventory: SecretInventory, tries: Mapping[str, Try]
    ) -> None:
        self._kind = kind
        self._database = database
        self._clock = clock
        self._inventory = inventory
        self._tries = tries

    async def rotate(self, context: Context, caller: Caller, name: str, old: str, overlap: timedelta) -> Rotated:
        """Note that it was replaced. Raises ``conflict`` while it has the value that it always had."""
        async with self._database.begin() as tx:
            now, before = await self._inventory.history(tx, context.zone, self._called(name))
            key = await self._inventory.key(tx, context.zone)
        if not before:
            raise Conflict("It has the value that it was first seen with: replace it, then say so.")
        if old and fingerprint(key, old) not in before:
            raise InvalidRequest("That is no value that it had before.")
        return Rotated(before[0][:12], now[:12], self._clock.now() + overlap, old)

    async def accepts(self, zone: str, name: str, old: str) -> tuple[bool | None, str]:
        """Presented as its users do, where that can be."""
        tried = self._tries.get(self._called(name))
        taken = await tried(old) if tried is not None else None
        return taken, "accepted" if taken else "refused"

    def _called(self, name: str) -> str:
        return name if self._kind == "declared" or name in ("tls-key", "database-password") else f"{self._kind}/{name}"
