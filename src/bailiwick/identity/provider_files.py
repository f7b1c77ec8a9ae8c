"""Identity providers as files say them: what such a document means, and how it differs from what is configured.

A document is ``IdentityProvider`` with a spec of ``type``, ``enabled``, ``options`` and ``secrets``. A secret is named
by where it lies, ``{file: …}`` or ``{env: …}``, never written down; so may ``ca`` and ``metadata`` be, being long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bailiwick.identity.providers import KINDS, Draft, Provider, checked, options_of
from bailiwick.kernel.errors import Conflict, InvalidRequest
from bailiwick.kernel.fields import NAME_PATTERN, matches
from bailiwick.kernel.rfc7396 import difference

DOCUMENT_KIND = "IdentityProvider"
_LONG_OPTIONS = ("ca", "metadata")

Source = Literal["file", "env"]
Read = Callable[[Source, str], str]
"""Reads what a reference names; raises ``InvalidRequest`` where there is nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What applying a document would do. ``patch`` merges (RFC 7396) ``enabled``, ``options`` and ``secrets``.

    ``version`` is that of the provider that it was made from, 0 where there is none.
    """

    draft: Draft
    what: Literal["create", "change", "same"]
    patch: Mapping[str, Any]
    version: int

    def document(self) -> dict[str, Any]:
        """The JSON form: of secrets only their names."""
        told = {name: value for name, value in self.patch.items() if name != "secrets"}
        if "secrets" in self.patch:
            told["secrets"] = sorted(self.patch["secrets"])
        return {"name": self.draft.name, "type": self.draft.kind, "what": self.what, "changes": told}


def draft_of(name: str, spec: Mapping[str, Any], read: Read) -> Draft:
    """The provider that a document describes; raises ``InvalidRequest`` naming what is wrong, never a value."""
    if not matches(NAME_PATTERN, name):
        raise InvalidRequest("The name begins with a letter or digit and holds letters, digits, . _ and -.")
    if unknown := sorted(set(map(str, spec)) - {"type", "enabled", "options", "secrets"}):
        raise InvalidRequest(f"spec: {', '.join(unknown)} is not known.")
    kind, enabled = spec.get("type"), spec.get("enabled", True)
    options, secrets = spec.get("options"), spec.get("secrets") or {}
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidRequest(f"spec.type is one of {', '.join(KINDS)}.")
    if not isinstance(enabled, bool) or not isinstance(options, dict) or not isinstance(secrets, dict):
        raise InvalidRequest("spec.enabled is true or false, spec.options and spec.secrets are mappings.")
    options = {
        key: read(*_reference(f"options.{key}", value)) if key in _LONG_OPTIONS and isinstance(value, dict) else value
        for key, value in options.items()
    }
    opened = {
        key: None if value is None else read(*_reference(f"secrets.{key}", value)) for key, value in secrets.items()
    }
    made, _ = checked(kind, options, opened)
    return Draft(name, kind, made.model_dump(mode="json"), opened, enabled)


def compare(draft: Draft, present: Provider | None, known: Mapping[str, str]) -> Difference:
    """How ``draft`` differs from the provider that is there, whose secrets are ``known``. Raises ``Conflict``.

    A secret that the draft does not name is left as it is, and so are providers that no document names.
    """
    if present is None:
        return Difference(draft, "create", {"enabled": draft.enabled, "options": draft.options}, 0)
    if present.kind != draft.kind:
        raise Conflict(f"{draft.name} is of the kind {present.kind}, which nothing changes; give it another name.")
    before = options_of(present)
    patch: dict[str, Any] = {}
    if present.enabled != draft.enabled:
        patch["enabled"] = draft.enabled
    if options := difference(before.model_dump(mode="json"), draft.options):
        patch["options"] = options
    secrets = {name: value for name, value in draft.secrets.items() if known.get(name) != value}
    wanted, _ = checked(draft.kind, draft.options, {})
    if wanted.leads_to != before.leads_to:
        secrets = dict(draft.secrets)  # another address gets no secret that was given for this one
    if secrets:
        patch["secrets"] = secrets
    return Difference(draft, "change" if patch else "same", patch, present.version)


def _reference(where: str, value: Any) -> tuple[Source, str]:
    if isinstance(value, dict) and len(value) == 1:
        (source, name), *_ = value.items()
        if source in ("file", "env") and isinstance(name, str) and name and "\x00" not in name:
            return source, name
    raise InvalidRequest(f"{where} is {{file: PATH}} or {{env: NAME}}.")
