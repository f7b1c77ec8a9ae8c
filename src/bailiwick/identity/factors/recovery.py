"""Recovery codes: ten, each good once, for the day the phone is lost. Only their hashes are kept."""

from __future__ import annotations

import base64
import hashlib
import os
import re

COUNT = 10
_BYTES = 10  # 80 bits: no hash of one can be searched for
_FORM = re.compile(r"[a-z2-7]{16}")


def new_codes() -> list[str]:
    """Fresh codes, as they are shown: four groups of four."""
    return [_grouped(base64.b32encode(os.urandom(_BYTES)).decode().lower()) for _ in range(COUNT)]


def digest(code: str) -> bytes | None:
    """What is stored of a code, however the person spelled it; None when it cannot be one."""
    plain = re.sub(r"[\s-]", "", code).lower()
    return hashlib.sha256(plain.encode()).digest() if _FORM.fullmatch(plain) else None


def _grouped(code: str) -> str:
    return "-".join(code[start : start + 4] for start in range(0, len(code), 4))
