"""Looks that must not be green on an answer or a report that shows nothing."""

from __future__ import annotations

import json
import os
from asyncio import StreamWriter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from probe_servers import answer, web

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.handover.readiness.checks import (
    CorsCheck,
    HeadersCheck,
    KubernetesCheck,
    RateLimitCheck,
    ReportCheck,
)
from bailiwick.handover.readiness.means.kubernetes import limits, network_policies
from bailiwick.handover.readiness.means.reports import report
from bailiwick.handover.readiness.means.web import cors, headers, rate_limit
from bailiwick.kernel.clock import SystemClock

LOAD = {"requests_per_second": 1300, "duration_seconds": 60, "errors_percent": 0.2}
COVERED = {"meta": {}, "totals": {"percent_covered": 91.0, "num_statements": 9}}
SCANNED = {"Results": [{"Target": "image"}]}
CASE = '<testsuite{}><testcase classname="a" name="b"/></testsuite>'


async def _here(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.fixture
def means(tmp_path: Path) -> Means:
    return Means(_here, SystemClock(), "", tmp_path, files=[tmp_path])


def asked() -> Asked:
    return Asked("default", datetime.now(UTC), None, 10.0)


def green(found: Found) -> bool:
    return found.holds is True and not found.wrong and not found.absent


async def reported(means: Means, tmp_path: Path, kind: Any, text: str, days: float = 0) -> Found:
    path = tmp_path / "report"
    path.write_text(text)
    then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))
    return await report(ReportCheck(type="report", format=kind, file=str(path), within="7d"), means, asked())


def stamp(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("load", json.dumps(LOAD)),
        ("load", json.dumps({**LOAD, "at": stamp(-6)})),
        ("coverage", json.dumps({**COVERED, "meta": {"timestamp": stamp(-1)[:19]}})),
        ("trivy", json.dumps({**SCANNED, "CreatedAt": stamp(-1)})),
        ("junit", CASE.format(f' timestamp="{stamp(-1)}"')),
    ],
    ids=["load", "dated load", "coverage", "trivy", "junit"],
)
async def test_a_report_that_says_what_it_should_is_green(means: Means, tmp_path: Path, kind: str, text: str) -> None:
    assert green(await reported(means, tmp_path, kind, text))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("load", json.dumps({**LOAD, "errors_percent": 100})),  # fast because nothing was done
        ("load", json.dumps({**LOAD, "errors_percent": float("nan")})),
        ("coverage", json.dumps({"totals": {"percent_covered": 100, "num_statements": 0}})),
        # a copy of an old one, whose file is new
        ("load", json.dumps({**LOAD, "at": stamp(-8)})),
        ("coverage", json.dumps({**COVERED, "meta": {"timestamp": stamp(-8)[:19]}})),
        ("trivy", json.dumps({**SCANNED, "CreatedAt": stamp(-8)})),
        ("junit", "<testsuites>{}{}</testsuites>".format(CASE.format(f' timestamp="{stamp(-8)}"'), CASE.format(""))),
    ],
    ids=["errors", "no number", "nothing", "old load", "old coverage", "old trivy", "old junit"],
)
async def test_a_report_of_nothing_of_errors_or_of_long_ago_is_not(
    means: Means, tmp_path: Path, kind: str, text: str
) -> None:
    assert not green(await reported(means, tmp_path, kind, text))


async def test_a_load_test_that_hides_its_errors_is_no_report(means: Means, tmp_path: Path) -> None:
    with pytest.raises(LookFailed, match="no load report"):
        await reported(means, tmp_path, "load", json.dumps({k: v for k, v in LOAD.items() if k != "errors_percent"}))


async def test_a_file_of_a_time_to_come_never_grows_old_and_so_does_not_count(means: Means, tmp_path: Path) -> None:
    assert not green(await reported(means, tmp_path, "load", json.dumps(LOAD), days=-400))
    assert not green(await reported(means, tmp_path, "load", json.dumps(LOAD), days=8))


class Site:
    """Answers with what it is told to, one after the other, and then with the last again."""

    def __init__(self, *statuses: str, **told: str) -> None:
        self.statuses, self.told = [*statuses], told

    async def __call__(self, target: str, writer: StreamWriter) -> None:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        writer.write(answer(b"", status, **self.told))
        await writer.drain()


@pytest.mark.parametrize("status", ["502 Bad Gateway", "404 Not Found", "302 Found"])
async def test_an_answer_that_is_not_the_sites_shows_neither_headers_nor_cors(means: Means, status: str) -> None:
    async with web(Site(status, X_Frame_Options="DENY")) as port:
        url = f"http://127.0.0.1:{port}/health"
        with pytest.raises(LookFailed):
            await headers(HeadersCheck(type="headers", url=url, names=["X-Frame-Options"]), means, asked())
        with pytest.raises(LookFailed):
            await cors(CorsCheck(type="cors", url=url), means, asked())
    async with web(Site("200 OK", X_Frame_Options="DENY")) as port:
        url = f"http://127.0.0.1:{port}/health"
        assert green(await headers(HeadersCheck(type="headers", url=url, names=["X-Frame-Options"]), means, asked()))
        assert green(await cors(CorsCheck(type="cors", url=url), means, asked()))


@pytest.mark.parametrize(
    ("before", "then", "so"),
    [
        (["200 OK"] * 41, "429 Too Many Requests", True),
        ([], "429 Too Many Requests", False),  # refuses everybody
        (["500 Oops"] * 41, "429 Too Many Requests", False),
        (["200 OK"] * 41, "200 OK", False),
    ],
)
async def test_a_limit_is_what_lets_through_and_then_refuses(
    means: Means, before: list[str], then: str, so: bool
) -> None:
    async with web(Site(*before, then)) as port:
        check = RateLimitCheck(type="rate_limit", url=f"http://127.0.0.1:{port}/", limit=40)
        assert green(await rate_limit(check, means, asked())) is so


def kubernetes(**more: Any) -> KubernetesCheck:
    return KubernetesCheck(
        type="kubernetes", url="https://k.example.com", token_file="/t", workload="bailiwick", **more
    )


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "production"}, "spec": spec}


DENIED = policy(podSelector={}, policyTypes=["Ingress", "Egress"])
ALLOWED = policy(podSelector={"matchLabels": {"app": "x"}}, ingress=[{"from": [{"podSelector": {}}]}])


@pytest.mark.parametrize(
    ("beside", "so"),
    [
        ([ALLOWED], True),
        ([], False),
        ([ALLOWED, policy(podSelector={}, ingress=[{}], policyTypes=["Ingress"])], False),
        ([policy(podSelector={}, egress=[{}], ingress=[{}])], False),
    ],
)
def test_a_policy_that_opens_to_everybody_takes_back_what_others_deny(beside: list[Any], so: bool) -> None:
    check = kubernetes(what="network_policies", names=["production"])
    assert green(network_policies(check, [DENIED, *beside])) is so


def test_what_only_prepares_a_pod_adds_nothing_to_its_limit() -> None:
    def container(name: str, cpu: str) -> dict[str, Any]:
        return {"name": name, "resources": {"limits": {"cpu": cpu, "memory": "1Gi"}}}

    def deployed(app: str, prepares: str) -> list[Any]:
        pod = {"containers": [container("app", app)], "initContainers": [container("first", prepares)]}
        return [{"metadata": {"name": "bailiwick"}, "spec": {"template": {"spec": pod}}}]

    check = kubernetes(what="limits", sizes={"cpu": "4"})
    assert green(limits(check, deployed("4", "100m")))
    assert not green(limits(check, deployed("500m", "4")))
