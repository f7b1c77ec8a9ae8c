"""How a message gets to a mail server, to Slack and what is compatible, to PagerDuty, and to a ticket system.

A sender returns what the other side calls the message, or raises what that means for delivery:
:class:`Retry` for what time may mend, :class:`Refused` and :class:`Stop` for what it does not. Addresses are checked
where the connection is made, redirects are not followed, certificates are always checked (``siem/outgoing.py``).
"""

from __future__ import annotations

import asyncio
import json
import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from bailiwick.assurance.durations import span
from bailiwick.assurance.notices.channels import ChannelSpec, Email, Slack, Ticket, lacking
from bailiwick.assurance.notices.notices import Action
from bailiwick.evidence.siem.destination import Refused, Retry, Stop
from bailiwick.evidence.siem.outgoing import Answer, Outgoing, Reach, judge, reached, retry_after, tls_context

_PAGER_SEVERITY = {"P0": "critical", "P1": "error", "P2": "warning", "P3": "info"}
_MOST_SLACK = 3500


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent to one address. ``delivery`` is the id by which a repeat is recognised; ``thread`` what the other
    side called the first message of the same ``dedup_key``, empty where this is the first or it called it nothing."""

    delivery: str
    address: str
    subject: str
    body: str
    severity: str
    action: Action
    dedup_key: str
    created_at: datetime
    source: str
    facts: Mapping[str, str] = field(default_factory=dict)
    thread: str = ""


class Sender(Protocol):
    """One way out."""

    async def send(self, message: Message) -> str:
        """Send; what the other side calls it, which may be nothing. Raises Retry, Refused or Stop."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def sender_of(spec: ChannelSpec, secret: str | None, reach: Reach, now: Callable[[], datetime]) -> Sender:
    """The way out of a channel. Raises :class:`Stop` where it is not set up."""
    if lacks := lacking(spec, secret is not None):
        raise Stop(f"the channel is not set up: {lacks}")
    if spec.email is not None:
        return MailSender(spec.email, secret or "", reach, span(spec.timeout).total_seconds())
    assert secret is not None
    if spec.slack is not None:
        return SlackSender(spec.slack, secret, reach, now, span(spec.timeout).total_seconds())
    if spec.ticket is not None:
        return TicketSender(spec.ticket, secret, reach, now, span(spec.timeout).total_seconds())
    assert spec.pagerduty is not None
    return PagerDutySender(
        spec.pagerduty.url, secret, reach, now, span(spec.timeout).total_seconds(), spec.pagerduty.ca
    )


def _safe_url(url: str) -> str:
    """``url`` unless a secret in it, or sent to it, would go over a network in clear."""
    parts = urlsplit(url)
    if not parts.hostname or parts.username or parts.scheme not in ("https", "http"):
        raise Stop("the address of the channel is no plain https address")
    if parts.scheme == "http" and not _on_this_machine(parts.hostname):
        raise Stop("the address of the channel is not https")
    return url


def _on_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------------- Slack and what is compatible


_SLACK_LATER = frozenset(
    ["ratelimited", "rate_limited", "internal_error", "fatal_error", "request_timeout", "service_unavailable"]
)
_SLACK_NEVER = frozenset(
    ["invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "missing_scope",
     "channel_not_found", "not_in_channel", "is_archived"]
)  # fmt: skip


class SlackSender:
    """An incoming webhook, which takes one JSON object with ``text`` and answers 200 and ``ok``; or with an API,
    ``chat.postMessage``, whose answer names the message and says in its body whether it was taken."""

    def __init__(self, spec: Slack, secret: str, reach: Reach, now: Callable[[], datetime], timeout_s: float) -> None:
        self._url = _safe_url(spec.api or secret)
        self._token = secret if spec.api else ""
        self._channel = spec.channel
        self._now = now
        self._outgoing = Outgoing(reach, timeout_s=timeout_s, ca=spec.ca)

    async def send(self, message: Message) -> str:
        """See :class:`Sender`; answers the ``ts`` of the message, which a plain webhook does not tell."""
        said: dict[str, str] = {"text": slack_text(message)}
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if self._token:
            said["channel"] = self._channel
            headers["Authorization"] = f"Bearer {self._token}"
        if message.thread:
            said["thread_ts"] = message.thread
        body = json.dumps(said, ensure_ascii=False).encode()
        try:
            answer = await self._outgoing.post(self._url, body, headers)
        except (Retry, Stop) as error:
            raise (error if self._token else _without(self._url, error)) from None
        judge(answer, self._now())
        return self._name_of(answer)

    def _name_of(self, answer: Answer) -> str:
        try:
            told = json.loads(answer.body)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            if self._token:
                raise Retry(f"{answer.status}, but it does not say that the message was taken")
            return ""  # a webhook's plain "ok"
        if told.get("ok") is not True and (self._token or "ok" in told):
            why = str(told.get("error", "no reason"))[:100]
            if why in _SLACK_LATER:
                raise Retry(why, retry_after(answer.headers.get("Retry-After"), self._now()))
            raise Stop(f"the chat does not take it: {why}") if why in _SLACK_NEVER else Refused(why)
        return _name(told.get("ts"))

    async def close(self) -> None:
        """See :class:`Sender`."""
        await self._outgoing.close()


def slack_text(message: Message) -> str:
    """The text of a message; the three characters that mean something to Slack mean nothing in it."""
    text = f"*{message.subject}*\n{message.body}"[:_MOST_SLACK]
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _without(url: str, error: Retry | Stop) -> Retry | Stop:
    """The error without the path of the webhook, which is its secret."""
    told = str(error).replace(url, "the webhook").replace(urlsplit(url).path or "\0", "/…")
    return Retry(told, error.after_s) if isinstance(error, Retry) else Stop(told)


def _name(found: object) -> str:
    """What the other side calls something, where that is a name that can be stored and sent back; else empty."""
    text = str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""
    return text if len(text) <= 200 and text.isascii() and text.isprintable() else ""


# ---------------------------------------------------------------------- tickets


class TicketSender:
    """A ticket system by HTTP, one ticket a thread."""

    def __init__(self, spec: Ticket, token: str, reach: Reach, now: Callable[[], datetime], timeout_s: float) -> None:
        self._spec = spec
        self._url = _safe_url(spec.url)
        self._update = _safe_url(spec.update_url or f"{spec.url.rstrip('/')}/{{id}}")
        self._token = token
        self._now = now
        self._outgoing = Outgoing(reach, timeout_s=timeout_s, ca=spec.ca)

    async def send(self, message: Message) -> str:
        """See :class:`Sender`; answers the name of the ticket."""
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._token}",
            "Idempotency-Key": message.delivery,
        }
        body = json.dumps(ticket_body(message), ensure_ascii=False).encode()
        if message.thread:
            url = self._update.replace("{id}", quote(message.thread, safe=""))
            judge(await self._outgoing.post(url, body, headers, method=self._spec.update_method), self._now())
            return message.thread
        answer = await self._outgoing.post(self._url, body, headers)
        if answer.status == 409:  # the first attempt under this key is still worked on
            raise Retry(f"409 {answer.told()}")
        judge(answer, self._now())
        try:
            found = _name(json.loads(answer.body)[self._spec.id_field])
        except (ValueError, TypeError, KeyError, IndexError):
            found = ""
        if not found:
            raise Retry(f"{answer.status}, but it does not name the ticket in {self._spec.id_field}")
        return found

    async def close(self) -> None:
        """See :class:`Sender`."""
        await self._outgoing.close()


def ticket_body(message: Message) -> dict[str, Any]:
    """What is sent of a message: ``create`` for the first of a thread, ``update`` for those after it."""
    return {
        "action": "update" if message.thread else "create",
        **({"id": message.thread} if message.thread else {}),
        "key": message.dedup_key or message.delivery,
        "title": message.subject,
        "text": message.body,
        "severity": message.severity,
        "at": message.created_at.isoformat(),
        "facts": dict(message.facts),
    }


# ---------------------------------------------------------------------- PagerDuty


class PagerDutySender:
    """PagerDuty's Events API v2. What is sent twice under one key is one incident."""

    def __init__(
        self, url: str, routing_key: str, reach: Reach, now: Callable[[], datetime], timeout_s: float, ca: str
    ) -> None:
        self._url = _safe_url(url)
        self._routing_key = routing_key
        self._now = now
        self._outgoing = Outgoing(reach, timeout_s=timeout_s, ca=ca)

    async def send(self, message: Message) -> str:
        """See :class:`Sender`; answers the key of the incident."""
        event = pager_event(message, self._routing_key)
        body = json.dumps(event, ensure_ascii=False).encode()
        answer = await self._outgoing.post(self._url, body, {"Content-Type": "application/json"})
        judge(answer, self._now())
        try:
            said = json.loads(answer.body)
            taken = said["status"] == "success"
        except (ValueError, TypeError, KeyError):
            taken = False
        if not taken:
            raise Retry(f"{answer.status}, but it does not say that the event was taken")
        return str(said.get("dedup_key", event["dedup_key"]))[:255]

    async def close(self) -> None:
        """See :class:`Sender`."""
        await self._outgoing.close()


def pager_event(message: Message, routing_key: str) -> dict[str, Any]:
    """The event of PagerDuty's Events API v2."""
    action = "trigger" if message.action == "tell" else message.action
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": (message.dedup_key or message.delivery)[:255],
    }
    if action == "trigger":
        event["client"] = "Bailiwick"
        event["payload"] = {
            "summary": message.subject[:1024],
            "source": message.source,
            "severity": _PAGER_SEVERITY.get(message.severity, "error"),
            "timestamp": message.created_at.isoformat(),
            "component": message.facts.get("component", ""),
            "group": message.facts.get("group", ""),
            "class": message.facts.get("rule", ""),
            "custom_details": {"text": message.body, **dict(message.facts)},
        }
        if message.facts.get("runbook", "").startswith(("https://", "http://")):
            event["links"] = [{"href": message.facts["runbook"], "text": "runbook"}]
    return event


# ---------------------------------------------------------------------- mail


class MailSender:
    """A mail server (RFC 5321), by STARTTLS (RFC 3207) or TLS from the start, with AUTH where there is a user name."""

    def __init__(self, spec: Email, password: str, reach: Reach, timeout_s: float) -> None:
        self._spec = spec
        self._password = password
        self._reach = reach
        self._timeout_s = timeout_s

    async def send(self, message: Message) -> str:
        """See :class:`Sender`; answers the Message-ID, which is the same for every attempt."""
        addresses = await reached(self._reach, self._spec.host, self._spec.port)
        if self._spec.tls == "none" and not all(_on_this_machine(address) for address in addresses):
            raise Stop("mail goes without TLS to this machine only")
        mail = mail_of(message, self._spec.sender)
        try:
            await asyncio.to_thread(self._send, addresses[0], mail, message.address)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise judged(error) from None
        return str(mail["Message-ID"])

    def _send(self, address: str, mail: EmailMessage, to: str) -> None:
        spec = self._spec
        context = tls_context(spec.ca) if spec.tls != "none" else None
        with _Smtp(spec.host, spec.port, address, self._timeout_s, context if spec.tls == "tls" else None) as server:
            if spec.tls == "starttls":
                server.starttls(context=context)  # raises where the server does not offer it
            if spec.username:
                server.login(spec.username, self._password)
            server.send_message(mail, from_addr=spec.sender, to_addrs=[to])

    async def close(self) -> None:
        """See :class:`Sender`. Each message has a connection of its own."""


class _Smtp(smtplib.SMTP):
    """Connects to the address that was checked, and checks the certificate by the name that was meant."""

    def __init__(self, host: str, port: int, address: str, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        self._to = address
        self._tls = tls
        super().__init__(host, port, timeout=timeout_s)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = socket.create_connection((self._to, port), timeout)
        return self._tls.wrap_socket(plain, server_hostname=host) if self._tls is not None else plain


def mail_of(message: Message, sender: str) -> EmailMessage:
    """The mail: plain text, marked as made by a machine (RFC 3834)."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, message.address, message.subject
    mail["Date"] = format_datetime(message.created_at)
    mail["Message-ID"] = f"<{message.delivery}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    if message.dedup_key:
        # one thread an alert
        mail["References"] = f"<alert-{message.dedup_key}@{sender.rpartition('@')[2]}>"
    mail["X-Bailiwick-Severity"] = message.severity
    mail.set_content(message.body or message.subject)
    return mail


def judged(error: Exception) -> Exception:
    """What an answer of a mail server, or none, means: 4yz may pass, 5yz does not (RFC 5321 section 4.2.1)."""
    if isinstance(error, smtplib.SMTPAuthenticationError) and error.smtp_code >= 500:
        return Stop(f"the credential is not accepted: {error.smtp_code}")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Stop(f"the mail server does not offer what is needed: {error}")
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, told = next(iter(error.recipients.values()))
        return Refused(f"{code} {_text(told)}") if code >= 500 else Retry(f"{code} {_text(told)}")
    if isinstance(error, smtplib.SMTPResponseException):
        why = f"{error.smtp_code} {_text(error.smtp_error)}"
        return Refused(why) if error.smtp_code >= 500 else Retry(why)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Stop(f"the certificate of the mail server is not trusted: {error.verify_message}")
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return Refused(f"the mail cannot be sent: {error}")
    return Retry(f"{type(error).__name__}: {error}")


def _text(told: bytes | str) -> str:
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
    return "".join(each if each.isprintable() else " " for each in text)[:200]
