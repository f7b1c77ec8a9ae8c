"""What a secret looks like: well-known test and default values by digest and by form, and a scan of files for any.

Nothing here keeps or shows a value. A finding tells where it is, what kind it is, and a fingerprint.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

SecretClass = Literal["live", "test", "default", "unknown"]

MOST_SCANNED = 64 << 20
_BLOCK = 1 << 20
_OVERLAP = 4096

# (class, what it is, form). Test forms come first: they are narrower.
_FORMS: tuple[tuple[SecretClass, str, re.Pattern[str]], ...] = (
    ("test", "Stripe test key", re.compile(r"\b(?:sk|pk|rk)_test_[A-Za-z0-9]{8,}")),
    ("test", "AWS sample key", re.compile(r"\bAKIA[A-Z0-9]{9,13}EXAMPLE\b|\b[A-Za-z0-9/+]{25,40}EXAMPLEKEY\b")),
    ("test", "PayPal or Braintree sandbox key", re.compile(r"\b(?:sandbox|access_token\$sandbox)[_$][a-z0-9_$]{16,}")),
    ("test", "Square sandbox token", re.compile(r"\bsandbox-sq0[a-z]{3}-[A-Za-z0-9_-]{20,}")),
    (
        "test",
        "test API key",
        re.compile(r"\b(?:test|sandbox|dummy|fake|mock)[_-](?:api[_-]?)?(?:key|token|secret)\b", re.I),
    ),
    ("live", "Stripe live key", re.compile(r"\b(?:sk|rk)_live_[A-Za-z0-9]{8,}")),
    ("live", "AWS access key id", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("live", "GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})")),
    ("live", "Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("live", "private key", re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")),
    ("live", "application secret", re.compile(r"\bbws_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}\b")),
    ("live", "API key", re.compile(r"\bbwk_[A-Za-z0-9_-]{30,}")),
    ("live", "JSON Web Token", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}")),
)
_WORD = re.compile(r"[A-Za-z0-9+/=_.~$:@!%^&*-]{8,512}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret where none belongs. ``line`` counts from 1; ``what``: its kind, or the name of one of ours."""

    path: str
    line: int
    class_: str
    what: str
    fingerprint: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"path": self.path, "line": self.line, "class": self.class_, "what": self.what,
                "fingerprint": self.fingerprint}  # fmt: skip


@cache
def known() -> Mapping[str, str]:
    """The class of every well-known value by the SHA-256 of it."""
    text = (files("bailiwick.assurance") / "shipped/known-keys.txt").read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {line[0]: line[1] for line in lines}


def fingerprint(key: bytes, value: str) -> str:
    """A keyed digest of a value: the same value has the same one, and nobody without the key can try values."""
    return hmac.new(key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:24]


def class_of(value: str) -> tuple[SecretClass, str]:
    """What kind of secret a value is, and by what that is known; ``unknown`` where nothing tells."""
    for each in (value, value.casefold()):
        found = known().get(hashlib.sha256(each.encode("utf-8", "surrogatepass")).hexdigest())
        if found in ("test", "default"):
            return ("test" if found == "test" else "default"), "a well-known value"
    for kind, what, form in _FORMS:
        if form.search(value):
            return kind, what
    if len(value) >= 8 and _entropy(value) < 1.5:
        return "default", "hardly any different characters"
    return "unknown", ""


def _entropy(value: str) -> float:
    counts = [value.count(each) for each in set(value)]
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def findings_in(path: str, text: str, key: bytes, ours: Mapping[str, str], line: int = 1) -> Iterator[Finding]:
    """The secrets of a text by form, by well-known digest, and by the fingerprints of our own (to their names)."""
    taken: set[tuple[int, int]] = set()

    def at(offset: int) -> int:
        return line + text.count("\n", 0, offset)

    for kind, what, form in _FORMS:
        if what == "test API key":
            continue  # a name, not a value
        for match in form.finditer(text):
            if any(begin <= match.start() < end for begin, end in taken):
                continue
            taken.add(match.span())
            yield Finding(path, at(match.start()), kind, what, fingerprint(key, match[0]))
    for match in _WORD.finditer(text):
        print_ = fingerprint(key, match[0])
        if print_ in ours:
            yield Finding(path, at(match.start()), "live", ours[print_], print_)
            continue
        # of well-known words only those that are no words of any language
        if len(match[0]) >= 16 and any(character.isdigit() for character in match[0]):
            found = known().get(hashlib.sha256(match[0].encode()).hexdigest())
            if found and not any(begin <= match.start() < end for begin, end in taken):
                yield Finding(path, at(match.start()), found, "a well-known value", print_)


def scan(paths: Iterable[Path], key: bytes, ours: Mapping[str, str]) -> tuple[list[Finding], int]:
    """The findings in all files under ``paths``, and how many files were read. Archives and compressed files are read
    as they lie. Raises :class:`OSError`."""
    findings: list[Finding] = []
    read = 0
    for path in _files(paths):
        read += 1
        findings += _scan_file(path, key, ours)
    return findings, read


def _scan_file(path: Path, key: bytes, ours: Mapping[str, str]) -> list[Finding]:
    found: dict[tuple[int, str], Finding] = {}
    with path.open("rb") as stream:
        rest, line = "", 1
        while chunk := stream.read(_BLOCK):
            text = rest + chunk.decode("utf-8", "replace")
            for finding in findings_in(str(path), text, key, ours, line):
                found.setdefault((finding.line, finding.fingerprint), finding)
            keep = min(len(text), _OVERLAP)
            line += text.count("\n", 0, len(text) - keep)
            rest = text[len(text) - keep :]
            if stream.tell() > MOST_SCANNED:
                raise OSError(f"{path} is larger than {MOST_SCANNED} bytes")
    return list(found.values())


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (each for each in sorted(path.rglob("*")) if each.is_file() and not each.is_symlink())
        else:
            yield path


def strings_of(value: Any) -> Collection[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in strings_of(each)]
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in strings_of(each)]
    return []
