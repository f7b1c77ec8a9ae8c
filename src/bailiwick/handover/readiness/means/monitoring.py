"""Looks at Prometheus, Alertmanager, Grafana and Loki by their HTTP APIs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml
from yarl import URL

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.web import Answer, Untrusted, fetch, trusted
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.readiness.checks import KubernetesCheck, MonitoringCheck

_PROMETHEUS_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}


async def monitoring(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    """What the check names of a server."""
    try:
        return await _LOOKS[check.what](check, means, asked)
    except Untrusted as error:
        return Found(wrong=str(error))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        raise LookFailed("the answer is not what such a server answers") from None


async def _prometheus_ready(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    return _ready(await get(check, means, asked, "/-/ready"), "ready")


async def _prometheus_retention(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    """How many days it keeps."""
    answer = await get(check, means, asked, "/api/v1/status/flags")
    said = _data(answer)["storage.tsdb.retention.time"]
    if said in ("", "0s"):
        said = "15d"  # what it does where nobody says
    days = _prometheus_seconds(said) / 86_400
    wrong = f"it keeps {days:g} days" if days < check.at_least else ""
    return Found(days, Unit.DAYS, f"it keeps {days:g} days", answer.body[:20_000], wrong=wrong, holds=not wrong)


async def _prometheus_rules(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    answer = await get(check, means, asked, "/api/v1/rules?type=alert")
    rules = [rule for group in _data(answer)["groups"] for rule in group["rules"]]
    broken = sorted({rule["name"] for rule in rules if rule.get("health") == "err"})
    found = _all_of(check.names, {rule["name"] for rule in rules}, "rules", answer)
    if broken and not found.wrong:
        return Found(found.value, found.unit, found.detail, found.output, f"fail to evaluate: {', '.join(broken[:10])}")
    return found


async def _prometheus_targets(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    """Every target must be up; there must be enough, and one of each job in ``names``."""
    answer = await get(check, means, asked, "/api/v1/targets?state=active")
    targets = _data(answer)["activeTargets"]
    down = sorted({each["labels"].get("instance", "?") for each in targets if each["health"] != "up"})
    found = _all_of(check.names, {each["labels"].get("job", "") for each in targets}, "jobs", answer)
    wrong = found.wrong
    if len(targets) < check.at_least:
        wrong = f"{len(targets)} targets, and {check.at_least} should be"
    elif down:
        wrong = f"not up: {', '.join(down[:10])}"
    return Found(float(len(targets)), Unit.COUNT, f"{len(targets)} targets", answer.body, wrong=wrong, holds=not wrong)


async def _alertmanager_receivers(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    """Receivers of every kind in ``names`` (``pagerduty``, ``slack``, ``email``, ``webhook`` …) must be in use."""
    answer = await get(check, means, asked, "/api/v2/status")
    document = _json(answer)
    config = yaml.safe_load(document["config"]["original"]) or {}
    used = set(_receivers_of(config.get("route") or {}))
    kinds = {
        name.removesuffix("_configs")
        for receiver in config.get("receivers") or ()
        if receiver["name"] in used
        for name, value in receiver.items()
        if name.endswith("_configs") and value
    }
    found = _all_of(check.names, kinds, "kinds of receivers", Answer(200, {}, " ".join(sorted(kinds)).encode(), 0))
    if document["cluster"]["status"] not in ("ready", "disabled") and not found.wrong:
        return Found(wrong=f"the cluster is {document['cluster']['status']}")
    return found


def _receivers_of(route: dict[str, Any]) -> Iterable[str]:
    if route.get("receiver"):
        yield route["receiver"]
    for each in route.get("routes") or ():
        yield from _receivers_of(each)


async def _grafana_ready(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    answer = await get(check, means, asked, "/api/health")
    database = _json(answer)["database"]
    wrong = "" if database == "ok" else f"its database is {database}"
    return Found(detail="its database is ok", output=answer.body, wrong=wrong, holds=not wrong)


async def _grafana_dashboards(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    answer = await get(check, means, asked, "/api/search?type=dash-db&limit=5000")
    titles = {each["title"] for each in _json(answer)}
    return _all_of(check.names, titles, "dashboards", answer)


async def _grafana_data_sources(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    answer = await get(check, means, asked, "/api/datasources")
    sources = _json(answer)
    kinds = " ".join(sorted({each["type"] for each in sources}))
    return _all_of(check.names, {each["type"] for each in sources}, "data sources", Answer(200, {}, kinds.encode(), 0))


async def _loki_ready(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    return _ready(await get(check, means, asked, "/ready"), "ready")


async def _loki_lines(check: MonitoringCheck, means: Means, asked: Asked) -> Found:
    """How many lines of ``stream`` came lately."""
    query = f"sum(count_over_time({check.stream} [{check.within}]))"
    path = str(URL("/loki/api/v1/query").with_query(query=query))
    answer = await get(check, means, asked, path)
    result = _data(answer)["result"]
    lines = sum(float(each["value"][1]) for each in result)
    if not lines:
        return Found(wrong=f"no line within {check.within}", output=answer.body)
    wrong = f"{lines:g} lines within {check.within}" if lines < check.at_least else ""
    return Found(lines, Unit.COUNT, f"{lines:g} lines within {check.within}", answer.body, wrong=wrong, holds=not wrong)


_LOOKS = {
    "prometheus_ready": _prometheus_ready,
    "prometheus_retention": _prometheus_retention,
    "prometheus_rules": _prometheus_rules,
    "prometheus_targets": _prometheus_targets,
    "alertmanager_receivers": _alertmanager_receivers,
    "grafana_ready": _grafana_ready,
    "grafana_dashboards": _grafana_dashboards,
    "grafana_data_sources": _grafana_data_sources,
    "loki_ready": _loki_ready,
    "loki_lines": _loki_lines,
}


# ---------------------------------------------------------------------- asking


async def get(check: MonitoringCheck | KubernetesCheck, means: Means, asked: Asked, path: str) -> Answer:
    """One answer of the server, by its token if it has one. Raises :class:`LookFailed` where it does not let us."""
    headers = {"Accept": "application/json"}
    if check.token_file is not None:
        try:
            token = means.readable(check.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise LookFailed(f"{check.token_file} holds no token") from None
        headers["Authorization"] = f"Bearer {token}"
    url = f"{check.url.rstrip('/')}{path}"
    answer = await fetch(means, url, asked.timeout_s, headers=headers, ca=trusted(means, check.ca_file))
    if answer.status in (401, 403):
        raise LookFailed(f"we are not let in: {answer.status} at {path.partition('?')[0]}")
    if answer.status >= 500 or (answer.status >= 400 and answer.status != 404):
        raise LookFailed(f"{answer.status} at {path.partition('?')[0]}")
    return answer


def _ready(answer: Answer, word: str) -> Found:
    ready = answer.status == 200 and word.encode() in answer.body.lower()
    return Found(detail="it is ready", output=answer.output(), wrong="" if ready else "it is not ready", holds=ready)


def _all_of(wanted: Iterable[str], there: Iterable[str], what: str, answer: Answer) -> Found:
    known = {each.casefold() for each in there}
    lacking = [name for name in wanted if name.casefold() not in known]
    wrong = f"lacks {', '.join(lacking[:10])}{' …' if len(lacking) > 10 else ''}" if lacking else ""
    if not known and not wrong:
        wrong = f"there are no {what}"
    return Found(float(len(known)), Unit.COUNT, f"{len(known)} {what}", answer.body, wrong=wrong, holds=not wrong)


def _data(answer: Answer) -> Any:
    document = _json(answer)
    if answer.status != 200 or document["status"] != "success":
        raise LookFailed(f"it answers {answer.status}")
    return document["data"]


def _json(answer: Answer) -> Any:
    if answer.status != 200:
        raise LookFailed(f"it answers {answer.status}")
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        raise LookFailed("the answer is no JSON") from None


def _prometheus_seconds(text: str) -> float:
    parts = re.findall(r"(\d+)(ms|[smhdwy])", text)
    if not parts:
        raise ValueError(text)
    return sum(int(number) * _PROMETHEUS_UNITS[unit] for number, unit in parts)


__all__ = ["get", "monitoring"]
