"""The rooms of an incident: a thread of a chat, a ticket, a conversation by mail, that say how far it is.

What is told is left with the notices in the transaction that notes it. Whether a chat answers is the delivery's
trouble: an incident never waits for it, and its timeline shows what arrived and what did not.
"""

from __future__ import annotations

from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Notice, Notices
from bailiwick.handover.incidents.documents import ROOM, Room
from bailiwick.handover.incidents.records import Incident
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.ids import Ids

_STATES = {
    "opened": "open",
    "contained": "contained",
    "recovered": "recovered",
    "reviewed": "reviewed",
    "closed": "closed",
}
"""To which state what is told of leads; anything else changes none."""


def thread_of(incident: str) -> str:
    """What makes the messages of an incident one conversation."""
    return f"incident-room/{incident}"


def text_of(room: Room, incident: Incident, what: str, told: str) -> tuple[str, str]:
    """Subject and body of a message to a room."""
    open_hearted = room.security or incident.class_ != "security"
    subject = f"[{incident.severity}] {incident.name}: {incident.title if open_hearted else incident.heading}"
    return subject, f"{what}: {told}" if open_hearted else what


class Rooms:
    """Tells the rooms that the book has for an incident."""

    def __init__(self, books: Books, notices: Notices, ids: Ids) -> None:
        self._books = books
        self._notices = notices
        self._ids = ids

    async def tell(self, tx: Transaction, incident: Incident, what: str, told: str) -> None:
        """Tell each channel of each room once."""
        channels: dict[str, Room] = {}
        for room in (await self._books.read_all(tx, incident.zone, ROOM)).values():
            if room.severities and incident.severity not in room.severities:
                continue
            for channel in room.channels:
                known = channels.get(channel)
                # in two rooms: what one of them keeps to itself is kept
                channels[channel] = room if known is None or known.security else known
        facts = {
            "source": "incidents",
            "incident": incident.name,
            "what": what,
            "state": _STATES.get(what, incident.state),
            "severity": incident.severity.value,
        }
        for channel, room in sorted(channels.items()):
            subject, body = text_of(room, incident, what, told)
            key = f"{thread_of(incident.id)}/{channel}/{self._ids()}"
            notice = Notice(f"channel:{channel}", key, subject, body, incident.severity, thread_of(incident.id), facts)
            await self._notices.send(tx, incident.zone, notice)
