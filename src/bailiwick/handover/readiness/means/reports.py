"""Looks at reports that other programs wrote: scans of images, test runs, coverage, load tests.

A report that is older than it may be proves nothing, whatever it says; it is as old as its file or as it says itself,
whichever is older.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick.assurance.durations import span, told
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.readiness.checks import ReportCheck

_MOST = 32 << 20
_SEVERE = ("CRITICAL", "HIGH")
# some write local time and do not say so
_SKEW = timedelta(days=1)


async def report(check: ReportCheck, means: Means, asked: Asked) -> Found:
    """What a report says. None there: nothing to judge by."""
    path = means.readable(check.file)
    try:
        if path.stat().st_size > _MOST:
            raise LookFailed(f"{check.file} is larger than {_MOST} bytes")
        raw = path.read_bytes()
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return Found(absent=f"there is no {check.file}")
    except OSError as error:
        raise LookFailed(f"{check.file}: {error.strerror}") from None
    try:
        found, said = _READERS[check.format](check, raw), _said_at(check, raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ElementTree.ParseError):
        raise LookFailed(f"{check.file} is no {check.format} report") from None
    age = asked.now - min(made, said or made)
    if age > span(check.within):
        return replace(found, wrong=f"the report is {told(age)} old", holds=False)
    if age < -_SKEW:
        return replace(found, wrong="the report is of a time to come", holds=False)
    return found


def _said_at(check: ReportCheck, raw: bytes) -> datetime | None:
    """When the report says that it was made: a copy of an old one is no newer than it."""
    if check.format == "junit":
        suites = ElementTree.fromstring(raw).iter("testsuite")  # noqa: S314 - its reader refused what declares entities
        texts = [each.get("timestamp") for each in suites]
    else:
        document = json.loads(raw)
        meta = document.get("meta") or {}
        texts = [{"trivy": document.get("CreatedAt"), "coverage": meta.get("timestamp")}.get(check.format)]
        texts.append(document.get("at") if check.format == "load" else None)
    instants = [datetime.fromisoformat(text) for text in texts if text]
    return min((each if each.tzinfo else each.replace(tzinfo=UTC) for each in instants), default=None)


def _trivy(check: ReportCheck, raw: bytes) -> Found:
    """No vulnerability that is critical or high. A scan of nothing is none."""
    results = json.loads(raw)["Results"]
    if not results:
        return Found(absent="nothing was scanned", unit=Unit.COUNT)
    counts = Counter(each["Severity"].upper() for one in results for each in one.get("Vulnerabilities") or ())
    severe = sum(counts[name] for name in _SEVERE)
    said = ", ".join(f"{counts[name]} {name.lower()}" for name in (*_SEVERE, "MEDIUM", "LOW"))
    worst = sorted(
        f"{each['Severity']} {each.get('VulnerabilityID', '?')} {each.get('PkgName', '')}"
        for one in results
        for each in one.get("Vulnerabilities") or ()
        if each["Severity"].upper() in _SEVERE
    )
    output = "\n".join([said, *(f"scanned {one.get('Target', '?')}" for one in results), *worst[:500]]).encode()
    return Found(
        float(severe), Unit.COUNT, said, output, wrong=f"{severe} critical or high: {said}" if severe else "",
        holds=not severe,
    )  # fmt: skip


def _coverage(check: ReportCheck, raw: bytes) -> Found:
    totals = json.loads(raw)["totals"]
    if not int(totals["num_statements"]) > 0:
        return Found(absent="nothing was measured", unit=Unit.PERCENT)
    percent = float(totals["percent_covered"])
    said = f"{percent:.1f} % of {int(totals['num_statements'])} statements"
    wrong = f"{said}, and {check.covered:g} % should be" if not percent >= check.covered else ""
    return Found(percent, Unit.PERCENT, said, json.dumps(totals).encode(), wrong=wrong, holds=not wrong)


def _junit(check: ReportCheck, raw: bytes) -> Found:
    """Tests were run, none failed, and every word of ``cases`` stands in the name of one that did run."""
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise ValueError("a report declares nothing")
    root = ElementTree.fromstring(raw)  # noqa: S314 - what declares entities was refused
    if root.tag not in ("testsuite", "testsuites"):
        raise ValueError(root.tag)
    cases = list(root.iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    ran = [case for case in cases if case.find("skipped") is None]
    if not ran:
        return Found(absent="no test was run", unit=Unit.COUNT)
    names = [f"{case.get('classname', '')} {case.get('name', '')}".lower() for case in ran]
    lacking = [word for word in check.cases if not any(word.lower() in name for name in names)]
    said = f"{len(ran)} tests, {len(bad)} failed"
    wrong = said if bad else f"no test of {', '.join(lacking)}" if lacking else ""
    output = "\n".join([said, *(f"failed {case.get('classname')}.{case.get('name')}" for case in bad[:500])]).encode()
    return Found(float(len(bad)), Unit.COUNT, said, output, wrong=wrong, holds=not wrong)


def _load(check: ReportCheck, raw: bytes) -> Found:
    document: dict[str, Any] = json.loads(raw)
    rate, lasted = float(document["requests_per_second"]), float(document["duration_seconds"])
    errors = float(document["errors_percent"])
    said = f"{rate:g} requests/s for {lasted:g} s, {errors:g} % errors"
    wrong = []
    if not errors <= check.errors_percent:
        wrong.append(f"{errors:g} % were errors, and at most {check.errors_percent:g} % may be")
    if not rate >= check.per_second:
        wrong.append(f"{rate:g} requests/s, and {check.per_second:g} should be")
    if check.lasting is not None and not lasted >= span(check.lasting).total_seconds():
        wrong.append(f"it lasted {lasted:g} s, and {check.lasting} it should")
    for name, limit in (("p95_ms", check.p95_ms), ("p99_ms", check.p99_ms)):
        if limit is not None and not float(document[name]) < limit:
            wrong.append(f"{name} is {float(document[name]):g}, and should be below {limit:g}")
    return Found(rate, Unit.PER_SECOND, said, raw[:20_000], wrong="; ".join(wrong), holds=not wrong)


_READERS = {"trivy": _trivy, "coverage": _coverage, "junit": _junit, "load": _load}
