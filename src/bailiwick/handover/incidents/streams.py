"""Live streams and containment: which of them an action cuts, and which go on all the same.

The guard cuts a stream when what its mandate stands on ends, or an operator closes the way to its server. What takes
back a decision, or a right to new mandates, does not end what was let through before: that is told by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MOST_TOLD = 50
UNKNOWN = "the guard does not answer: which streams live is not known"


@dataclass(frozen=True, slots=True)
class LiveStream:
    """A long request that goes on now. ``application`` by name, ``client`` by id; ``expires_at`` in epoch seconds."""

    zone: str
    server: str
    application: str
    client: str
    user: str
    session: str
    mandate: str
    kid: str
    request: str
    expires_at: int

    @property
    def name(self) -> str:
        """What people know it by."""
        whom = f" for {self.user}" if self.user else ""
        until = datetime.fromtimestamp(self.expires_at, UTC)
        return f"{self.server}: {self.application}{whom}, request {self.request or '?'}, until {until:%H:%M:%S} UTC"


Ask = Callable[[str], Awaitable[Sequence[LiveStream] | None]]
"""The live streams of a zone; None where that is not known."""

Rule = Callable[[Mapping[str, Any], str, LiveStream], bool | None]
"""Whether an action with these arguments on a target of this version cuts a stream: True, False (it should end and goes
on), None where the action has nothing to do with it."""


async def unknown(zone: str) -> Sequence[LiveStream] | None:
    """Where nobody can be asked."""
    return None


def no_matter(arguments: Mapping[str, Any], version: str, stream: LiveStream) -> bool | None:
    """The action stops no traffic."""
    return None


def closed(arguments: Mapping[str, Any], version: str, stream: LiveStream) -> bool | None:
    """The way to the server, or to all, is closed."""
    return True if arguments.get("server", "") in ("", stream.server) else None


def goes_on(arguments: Mapping[str, Any], version: str, stream: LiveStream) -> bool | None:
    """What was let through before is not asked again."""
    return False


def switched_off(arguments: Mapping[str, Any], version: str, stream: LiveStream) -> bool | None:
    """Without new mandates those that are out stay good."""
    return False if arguments.get("switch") in ("mint", "exchange") else None


def key_replaced(arguments: Mapping[str, Any], version: str, stream: LiveStream) -> bool | None:
    """What the key signed ends; a session's key is not that of the mandates had by it."""
    if arguments.get("purpose") == "session":
        return False if stream.session else None
    return stream.kid == version


def authority_ended(arguments: Mapping[str, Any], version: str, stream: LiveStream) -> bool | None:
    """What stands on the subject ends, and nothing else is meant."""
    name = arguments.get("name", "")
    held = {
        "user": (stream.user,),
        "application": (stream.application, stream.client),
        "session": (stream.session,),
        "mandate": (stream.mandate,),
    }.get(str(arguments.get("kind")), ())
    return True if name and name in held else None


def told(
    rule: Rule, arguments: Mapping[str, Any], version: str, streams: Sequence[LiveStream] | None
) -> tuple[list[str], list[str]]:
    """The names of the streams that are cut, and of those that are not though they should end."""
    if rule is no_matter:
        return [], []
    if streams is None:
        return [], [UNKNOWN]
    cut = [each.name for each in streams if rule(arguments, version, each) is True]
    uncut = [each.name for each in streams if rule(arguments, version, each) is False]
    return _bounded(cut), _bounded(uncut)


def _bounded(names: list[str]) -> list[str]:
    more = len(names) - MOST_TOLD
    return [*names[:MOST_TOLD], *([f"and {more} more"] if more > 0 else [])]
