"""Looks at reports that other programs wrote: scans of images, test runs, coverage, load tests.

A report that is older than it may be proves nothing, whatever it says.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from bailiwick.assurance.durations import span, told
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.readiness.checks import ReportCheck

_MOST = 32 << 20
_SEVERE = ("CRITICAL", "HIGH")


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
        found = _READERS[check.format](check, raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ElementTree.ParseError):
        raise LookFailed(f"{check.file} is no {check.format} report") from None
    if asked.now - made > span(check.within):
        told_ = f"the report is {told(asked.now - made)} old"
        return Found(found.value, found.unit, found.detail, found.output, wrong=told_)
    return found


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
    said = f"{rate:g} requests/s for {lasted:g} s"
    wrong = []
    if not rate >= check.per_second:
        wrong.append(f"{rate:g} requests/s, and {check.per_second:g} should be")
    if check.lasting is not None and not lasted >= span(check.lasting).total_seconds():
        wrong.append(f"it lasted {lasted:g} s, and {check.lasting} it should")
    for name, limit in (("p95_ms", check.p95_ms), ("p99_ms", check.p99_ms)):
        if limit is not None and not float(document[name]) < limit:
            wrong.append(f"{name} is {float(document[name]):g}, and should be below {limit:g}")
    return Found(rate, Unit.PER_SECOND, said, raw[:20_000], wrong="; ".join(wrong), holds=not wrong)


_READERS = {"trivy": _trivy, "coverage": _coverage, "junit": _junit, "load": _load}
