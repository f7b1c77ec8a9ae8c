"""Reading XML that an enemy may have written: no DTD, no entity, no comment, no processing instruction, bounded.

Comments are refused and not skipped: canonicalisation drops them, so that ``admin<!-- -->.example.com`` carries the
signature of ``admin.example.com`` while a reader that takes the first text node sees ``admin`` (CVE-2017-11427 et al.).
"""

from __future__ import annotations

from datetime import UTC, datetime
from re import fullmatch
from typing import Any

from lxml import etree as etree  # type: ignore[import-untyped]

from bailiwick.identity.saml.refusals import Refused

Element = Any  # lxml has no types of its own

SAMLP = "urn:oasis:names:tc:SAML:2.0:protocol"
SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
MD = "urn:oasis:names:tc:SAML:2.0:metadata"
DS = "http://www.w3.org/2000/09/xmldsig#"
XENC = "http://www.w3.org/2001/04/xmlenc#"
XENC11 = "http://www.w3.org/2009/xmlenc11#"

MAX_MESSAGE = 256 * 1024
MAX_DEPTH = 40
MAX_ELEMENTS = 5_000
MAX_ATTRIBUTES = 50

# what any signature library may take for an ID, whatever the namespace in front
_ID_NAMES = ("ID", "Id", "id", "iD", "AssertionID", "RequestID", "ResponseID")


def parse(data: bytes, most: int = MAX_MESSAGE) -> Element:
    """The root of the document ``data``, of at most ``most`` bytes. Raises ``Refused`` (``saml_malformed``)."""
    if len(data) > most:
        raise Refused("saml_malformed", "The message is too large.")
    if b"\x00" in data or b"<!" in data.replace(b"<![CDATA[", b""):
        # NUL also stands for every encoding but UTF-8, in which the next test would see nothing
        raise Refused("saml_malformed", "The message holds a DTD, a comment, or is not UTF-8.")
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, dtd_validation=False, huge_tree=False, encoding="utf-8"
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise Refused("saml_malformed", "The message is not well-formed XML.") from None
    guard(root)
    return root


def guard(root: Element) -> None:
    """Refuse what no SAML message needs and attacks are made of: other nodes than elements, depth, IDs used twice."""
    info = root.getroottree().docinfo
    if info.internalDTD is not None or info.externalDTD is not None:
        raise Refused("saml_malformed", "The message holds a DTD.")
    if root.getprevious() is not None or root.getnext() is not None:
        raise Refused("saml_malformed", "The message holds nodes beside its root.")
    seen: set[str] = set()
    stack = [(root, 1)]
    count = 0
    while stack:
        element, depth = stack.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_ELEMENTS or len(element.attrib) > MAX_ATTRIBUTES:
            raise Refused("saml_malformed", "The message is nested too deeply or has too many elements.")
        if not isinstance(element.tag, str):
            raise Refused("saml_malformed", "The message holds a comment, an entity or a processing instruction.")
        for name, value in element.attrib.items():
            if etree.QName(name).localname in _ID_NAMES:
                if value in seen:
                    raise Refused("saml_malformed", "Two elements of the message have the same ID.")
                seen.add(value)
        stack.extend((child, depth + 1) for child in element)


def serialised(element: Element) -> bytes:
    """The element as a document of its own, with the namespaces it inherited."""
    return bytes(etree.tostring(element, encoding="utf-8", with_tail=False))


def children(parent: Element, namespace: str, name: str) -> list[Element]:
    """The direct children of that name; nothing here ever searches deeper."""
    return [child for child in parent if child.tag == f"{{{namespace}}}{name}"]


def only(parent: Element, namespace: str, name: str) -> Element:
    """The one direct child of that name. Raises ``Refused`` when there is none, or another."""
    found = children(parent, namespace, name)
    if len(found) != 1:
        raise Refused("saml_malformed", f"Exactly one {name} is expected in {local_name(parent)}.")
    return found[0]


def at_most_one(parent: Element, namespace: str, name: str) -> Element | None:
    """The one direct child of that name, None without one."""
    found = children(parent, namespace, name)
    if len(found) > 1:
        raise Refused("saml_malformed", f"At most one {name} is expected in {local_name(parent)}.")
    return found[0] if found else None


def text_of(element: Element) -> str:
    """The whole text of an element that may hold nothing else, without the white space around it."""
    if len(element):
        raise Refused("saml_malformed", f"{local_name(element)} may hold text only.")
    return str(element.text or "").strip()


def local_name(element: Element) -> str:
    """The name without the namespace."""
    return str(etree.QName(element).localname)


def required(element: Element, attribute: str) -> str:
    """An attribute that must stand and not be empty."""
    value = element.get(attribute)
    if not value:
        raise Refused("saml_malformed", f"{local_name(element)} lacks {attribute}.")
    return str(value)


def instant(text: str) -> datetime:
    """An xs:dateTime as SAML core 1.3.3 has it: in UTC."""
    if fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z", text) is None:
        raise Refused("saml_malformed", "A time is not in UTC or not a time.")
    try:
        return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise Refused("saml_malformed", "A time is not a time.") from None


def stamp(moment: datetime) -> str:
    """The xs:dateTime of a moment."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
