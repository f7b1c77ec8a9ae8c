"""Why a SAML message is not accepted: one exception, with the reason that callers see and the rule that was broken."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "saml_malformed",
    "saml_signature_invalid",
    "saml_not_for_us",
    "saml_expired",
    "saml_replayed",
    "saml_unsolicited",
    "saml_undecryptable",
    "saml_provider_refused",
]


class Refused(Exception):
    """A message breaks a rule. ``detail`` names the rule for the administrator; it repeats nothing from the message."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason: Reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")
