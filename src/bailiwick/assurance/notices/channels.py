"""Channels: by which ways people are reached, as documents that name their secrets and never hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, within
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import InvalidRequest, NotFound
from bailiwick.kernel.fields import EMAIL_PATTERN, NAME_PATTERN, Body, Line, Name, matches

MOST_SECRET = 4096

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\x00-\x1f@#]{1,500}$", max_length=512)]
Host = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?)?$", max_length=253)]
Address = Annotated[str, StringConstraints(pattern=EMAIL_PATTERN, max_length=254)]


class Storm(Body):
    """More than ``most`` new alerts ``within`` a while are told as one."""

    most: Annotated[int, Field(ge=1, le=10_000)] = 20
    within: Duration = "1m"


class Email(Body):
    """A mail server. ``host`` empty: not set up yet. ``to``: who gets what is sent to the channel itself.

    ``for_people``: messages to persons and roles go by it. Without TLS only to a server on this machine.
    """

    host: Host = ""
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: Line = ""
    sender: Address = "bailiwick@localhost"
    to: Annotated[list[Address], Field(max_length=50)] = Field(default_factory=list)
    for_people: bool = False
    ca: Annotated[str, StringConstraints(max_length=64_000)] = ""


class Slack(Body):
    """An incoming webhook as Slack, Mattermost and Rocket.Chat have it: its address is the secret. With ``api`` and
    ``channel``, Slack's ``chat.postMessage``: a bot's token is the secret.

    Messages of one thread follow the first of them where its answer named it (``ts``), as the API's does.
    """

    api: Url | None = None
    channel: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9#@._-]{1,80})?$", max_length=80)] = ""
    ca: Annotated[str, StringConstraints(max_length=64_000)] = ""


class Ticket(Body):
    """A ticket system by HTTP: what is told first of a thread creates a ticket by POST to ``url``, whose answer names
    it in ``id_field``; what follows updates it at ``update_url`` (``{id}`` stands for its name).

    A token is the secret, sent as ``Authorization: Bearer``. Each request carries an ``Idempotency-Key``, the same
    when it is repeated.
    """

    url: Url
    update_url: Annotated[str, StringConstraints(pattern=r"^(https?://[^\s\x00-\x1f@#]{1,500})?$", max_length=512)] = ""
    update_method: Literal["PATCH", "PUT", "POST"] = "PATCH"
    id_field: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] = "id"
    ca: Annotated[str, StringConstraints(max_length=64_000)] = ""

    @model_validator(mode="after")
    def _names_it(self) -> Ticket:
        if self.update_url and "{id}" not in self.update_url:
            raise ValueError("update_url has {id} where the ticket's name goes")
        return self


class PagerDuty(Body):
    """PagerDuty's Events API v2. The routing key is the secret."""

    url: Url = "https://events.pagerduty.com/v2/enqueue"
    ca: Annotated[str, StringConstraints(max_length=64_000)] = ""


class ChannelSpec(Body):
    """One way to reach people: exactly one of ``email``, ``slack``, ``pagerduty`` and ``ticket``.

    ``secret_name`` names what `notices secret` holds. After ``fallback_after`` failures, or a refusal, ``fallback`` is
    told too; after ``give_up_after`` attempts nothing more is tried and the notice is dead.
    """

    email: Email | None = None
    slack: Slack | None = None
    pagerduty: PagerDuty | None = None
    ticket: Ticket | None = None
    secret_name: Name | None = None
    fallback: Name | None = None
    fallback_after: Annotated[int, Field(ge=1, le=20)] = 3
    give_up_after: Annotated[int, Field(ge=1, le=50)] = 8
    timeout: Duration = "10s"
    storm: Storm = Field(default_factory=Storm)

    @model_validator(mode="after")
    def _one_way(self) -> ChannelSpec:
        if sum(each is not None for each in (self.email, self.slack, self.pagerduty, self.ticket)) != 1:
            raise ValueError("a channel is exactly one of email, slack, pagerduty and ticket")
        if self.slack is not None and bool(self.slack.api) != bool(self.slack.channel):
            raise ValueError("slack has api and channel, or neither")
        within(self.timeout, "1s", "1m")
        if self.email is None and self.secret_name is None:
            raise ValueError("slack, pagerduty and ticket need the name of a secret")
        if self.email is not None and self.email.username and self.secret_name is None:
            raise ValueError("a mail server with a user name needs the name of a secret")
        return self

    @field_validator("secret_name", "fallback")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and not matches(NAME_PATTERN, value):
            raise ValueError("is no name")
        return value

    @property
    def way(self) -> Literal["email", "slack", "pagerduty", "ticket"]:
        """Which of the four it is."""
        if self.email is not None:
            return "email"
        if self.ticket is not None:
            return "ticket"
        return "slack" if self.slack is not None else "pagerduty"


def _check(book: Book) -> Iterable[str]:
    channels = book.of(CHANNEL)
    for name, spec in channels.items():
        if spec.fallback == name:
            yield f"Channel {name}: it cannot be its own fallback"
        elif spec.fallback is not None and spec.fallback not in channels:
            yield f"Channel {name}: there is no channel {spec.fallback!r} to fall back on"
    if sum(1 for spec in channels.values() if spec.email is not None and spec.email.for_people) > 1:
        yield "Channel: messages to people go by one channel; several have for_people"


CHANNEL = Kind("Channel", ChannelSpec, check=_check)


def lacking(spec: ChannelSpec, secret_given: bool) -> str:
    """What a channel lacks before anything can be sent by it; empty where it lacks nothing."""
    if spec.email is not None and not spec.email.host:
        return "it names no mail server"
    needed = spec.email is None or bool(spec.email.username)
    return f"the secret {spec.secret_name} was never given" if needed and not secret_given else ""


def never_set_up(lacks: str, as_shipped: bool, worked_once: bool) -> bool:
    """Whether a channel that lacks something is one that nobody ever set up, and so no loss.

    It is as we ship it, and nothing was ever sent by it nor its secret ever given. One that somebody made or changed,
    and one that could be used before, is meant to work.
    """
    return bool(lacks) and as_shipped and not worked_once


def channel_for_people(channels: dict[str, ChannelSpec]) -> str | None:
    """The name of the channel by which persons get messages; None without one."""
    return next((name for name, spec in channels.items() if spec.email is not None and spec.email.for_people), None)


def told_of(book: Book, given: Collection[str]) -> list[dict[str, Any]]:
    """The channels of a book for people; ``given``: the secrets that there are."""
    return [
        {
            "name": name,
            "way": spec.way,
            "fallback": spec.fallback,
            "secret_name": spec.secret_name,
            "secret_given": spec.secret_name in given if spec.secret_name is not None else None,
            "lacks": lacking(spec, spec.secret_name in given),
        }
        for name, spec in book.of(CHANNEL).items()
    ]


# ---------------------------------------------------------------------- secrets


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """What may be told of a secret."""

    name: str
    set_at: datetime
    set_by: str
    version: int

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


def secret_aad(zone: str, name: str) -> bytes:
    """What a channel's sealed secret is bound to."""
    return f"channel-secret/{zone}/{name}".encode()


class ChannelSecrets:
    """Takes the secrets of channels in; gives them to delivery only."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, sealer: Sealer) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._sealer = sealer

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def put(self, context: Context, name: str, value: str, *, by: str) -> KeptSecret:
        """Set or replace a secret. Raises ``invalid_request`` for one that no protocol could send."""
        if not value or len(value) > MOST_SECRET or not value.isprintable() or value != value.strip():
            raise InvalidRequest(f"A secret is 1 to {MOST_SECRET} printable characters without space around them.")
        if not matches(NAME_PATTERN, name):
            raise InvalidRequest("A secret's name begins with a letter or digit and holds letters, digits, . _ and -.")
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO channel_secrets (zone, name, sealed, set_at, set_by) VALUES (:zone, :name, :sealed, :now,"
                " :by) ON CONFLICT (zone, name) DO UPDATE SET sealed = EXCLUDED.sealed, set_at = EXCLUDED.set_at,"
                " set_by = EXCLUDED.set_by, version = channel_secrets.version + 1",
                zone=context.zone,
                name=name,
                sealed=self._sealer.seal(value.encode(), secret_aad(context.zone, name)),
                now=self._clock.now(),
                by=by,
            )
            await self._recorder.record(
                tx, codes.CHANNEL_SECRET_SET, "success", context, subject=Subject(id=name, type="channel-secret")
            )
            return next(each for each in await self.list(tx, context.zone) if each.name == name)

    async def remove(self, context: Context, name: str) -> None:
        """Forget a secret. Raises :class:`NotFound`."""
        async with self._database.begin() as tx:
            gone = await tx.run(
                "DELETE FROM channel_secrets WHERE zone = :zone AND name = :name", zone=context.zone, name=name
            )
            if not gone:
                raise NotFound("There is no secret by that name.")
            await tx.run(
                "INSERT INTO channel_secrets_removed (zone, name, removed_at, removed_by)"
                " VALUES (:zone, :name, :now, :by)"
                " ON CONFLICT (zone, name) DO UPDATE SET removed_at = EXCLUDED.removed_at,"
                " removed_by = EXCLUDED.removed_by",
                zone=context.zone,
                name=name,
                now=self._clock.now(),
                by=context.actor.user,
            )
            await self._recorder.record(
                tx, codes.CHANNEL_SECRET_REMOVED, "success", context, subject=Subject(id=name, type="channel-secret")
            )

    async def list(self, tx: Transaction, zone: str) -> list[KeptSecret]:
        """Which there are, without what they are."""
        rows = await tx.all(
            "SELECT name, set_at, set_by, version FROM channel_secrets WHERE zone = :zone ORDER BY name", zone=zone
        )
        return [KeptSecret(**row) for row in rows]

    async def worked_once(self, tx: Transaction, zone: str, channel: str, secret: str | None) -> bool:
        """Whether ``channel`` could be used before: something arrived by it, or its secret was there."""
        return bool(await tx.value(_ONCE, zone=zone, channel=channel, secret=secret or ""))

    async def read(self, tx: Transaction, zone: str, name: str) -> str | None:
        """The secret, for delivery; None where none was set. Raises :class:`~bailiwick.kernel.crypto.SealError`."""
        sealed = await tx.value(
            "SELECT sealed FROM channel_secrets WHERE zone = :zone AND name = :name", zone=zone, name=name
        )
        return self._sealer.open(bytes(sealed), secret_aad(zone, name)).decode() if sealed is not None else None


_ONCE = """
SELECT EXISTS (SELECT FROM notice_deliveries WHERE zone = :zone AND channel = :channel AND state = 'delivered')
    OR EXISTS (SELECT FROM channel_secrets WHERE zone = :zone AND name = :secret)
    OR EXISTS (SELECT FROM channel_secrets_removed WHERE zone = :zone AND name = :secret)
"""
