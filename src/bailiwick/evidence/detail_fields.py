"""The members that events may have in ``details``, and how their schemas are written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["str", "int", "bool", "list[str]"]


@dataclass(frozen=True, slots=True)
class DetailField:
    """One member of ``details``: a required one stands in every event of the code."""

    name: str
    type: Type
    meaning: str
    required: bool = True


def always(name: str, type: Type, meaning: str) -> DetailField:
    return DetailField(name, type, meaning)


def sometimes(name: str, type: Type, meaning: str) -> DetailField:
    return DetailField(name, type, meaning, required=False)
