"""The register of contacts: persons outside, vendors and channels, and how each is reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bailiwick.assurance.book import Kind
from bailiwick.kernel.fields import Body, Line, Text


class Contact(Body):
    """Somebody, or something, that can be reached when it matters."""

    kind: Literal["person", "vendor", "channel"]
    full_name: Line = Field(alias="name", description="What he, it or the company is called")
    reach: Annotated[list[Line], Field(max_length=20)] = Field(
        description="Ways to reach it, the best first: an address, a number, a URL, a channel's name"
    )
    hours: Line = Field("", description="When it answers, as `24x7` or `Mon-Fri 09:00-17:00 Europe/Berlin`")
    contract: Line = Field("", description="Number of the contract, for a vendor")
    owner: Line = Field(description="Who keeps this right: an activity, `role:…` or `person:…`")
    note: Text = ""


CONTACT = Kind("Contact", Contact)
