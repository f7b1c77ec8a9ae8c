"""Service levels as Prometheus rules: recording rules of the bad share per window, and the burn alerts over them.

For levels counted from Prometheus, from our own metrics, or from our access log (which ``/metrics`` tells too). Levels
counted from the ledger, by SQL or from support cases are evaluated inside alone; the file names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from bailiwick.assurance.alert_rules import HEAD, text
from bailiwick.assurance.slo.budgets import BurnRule, shorthand
from bailiwick.assurance.slo.levels import Level
from bailiwick.assurance.slo.openslo import MetricSource, MetricSpec, RequestsSpec
from bailiwick.kernel.metrics import REQUEST_SECONDS

_OPS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_WINDOW = "$window"


def rules_file(levels: Iterable[Level]) -> str:
    """The rules of all levels that Prometheus can count."""
    groups: dict[str, list[dict[str, Any]]] = {}
    inside = []
    for level in levels:
        rules = rules_of(level)
        if rules:
            groups[f"slo-{level.name}"] = rules
        else:
            inside.append(level.name)
    head = HEAD.replace("src/bailiwick/assurance/alert_rules.py", "the service levels")
    if inside:
        head += f"# Evaluated inside alone: {', '.join(inside)}.\n"
    return text(groups, head)


def rules_of(level: Level) -> list[dict[str, Any]]:
    """Recording and alerting rules of one level; empty where Prometheus cannot count it."""
    bad, count = _expressions(level)
    if not bad:
        return []
    terms, labels = level.terms, {"slo": level.name, "service": level.spec.service}
    windows = sorted({length for rule in terms.rules for length in (rule.long, rule.short)})
    recorded: list[dict[str, Any]] = [
        {"record": _record(length), "expr": bad.replace(_WINDOW, shorthand(length)), "labels": labels}
        for length in windows
    ]
    recorded.append({"record": "slo:target", "expr": f"vector({level.spec.objective.share!r})", "labels": labels})
    alerts = [_alert(level, rule, count) for rule in terms.rules if rule.factor * float(terms.allowed) <= 1]
    return recorded + alerts + [_absent(level)]


def _alert(level: Level, rule: BurnRule, count: str) -> dict[str, Any]:
    chosen = f'{{slo="{level.name}"}}'
    bound = f"{rule.factor!r} * {float(level.terms.allowed)!r}"
    expr = f"{_record(rule.long)}{chosen} >= {bound} and {_record(rule.short)}{chosen} >= {bound}"
    if count:
        expr += f" and on () ({count.replace(_WINDOW, shorthand(rule.long))}) >= {level.terms.least_burn}"
    return {
        "alert": "SloBurn",
        "expr": expr,
        "labels": _labels(level, str(rule.severity)) | {"window": rule.name},
        "annotations": {
            "summary": f"{level.name} burns its error budget {rule.factor} times as fast as it may over {rule.name}.",
            "description": level.spec.description or f"{level.spec.objective.share} has to be good.",
            "runbook": level.spec.ours.runbook,
        },
    }


def _absent(level: Level) -> dict[str, Any]:
    return {
        "alert": "SloNotMeasured",
        "expr": f'absent({_record(timedelta(hours=1))}{{slo="{level.name}"}})',
        "for": level.spec.ours.stale_after,
        "labels": _labels(level, "P2"),
        "annotations": {
            "summary": f"{level.name} is not measured.",
            "description": "Its series are gone, so nobody knows whether the level is kept.",
            "runbook": level.spec.ours.runbook,
        },
    }


def _labels(level: Level, severity: str) -> dict[str, str]:
    owner = level.spec.ours.owner
    return {"severity": severity, "team": "platform", "owner": owner, "slo": level.name, "service": level.spec.service}


def _record(length: timedelta) -> str:
    return f"slo:bad:ratio_{shorthand(length)}"


def _expressions(level: Level) -> tuple[str, str]:
    """The bad share, and how many there were, with :data:`_WINDOW` where the window goes; empty where there is none."""
    spec = level.spec.indicator.spec
    if spec.threshold is not None:
        source, objective = spec.threshold.source, level.spec.objective
        value = source.typed().query if source.type == "Prometheus" else _selector(source.typed())
        held = f"(({value}) {_OPS[objective.op or 'lt']} bool {objective.value!r})"
        return f"1 - avg_over_time({held}[{_WINDOW}:1m])", ""
    ratio = spec.ratio
    if ratio is None or level.spec.method == "Timeslices":  # Prometheus would sum events where slices are meant
        return "", ""
    total, part = _grown(ratio.total.source), _grown((ratio.good or ratio.bad or ratio.total).source)
    if not total or not part:
        return "", ""
    share = f"{part} / {total}"
    return (f"1 - {share}" if ratio.good else share), total


def _grown(source: MetricSource) -> str:
    spec = source.typed()
    if isinstance(spec, MetricSpec):
        return f"sum(increase({_selector(spec, plain=True)}[{_WINDOW}]))"
    if source.type == "Prometheus":
        return f"sum_over_time(({spec.query})[{_WINDOW}:1m])"
    if isinstance(spec, RequestsSpec):
        return _of_requests(spec)
    return ""


def _of_requests(spec: RequestsSpec) -> str:
    if spec.faster_than_ms is not None:
        edge = spec.faster_than_ms / 1000
        if edge not in REQUEST_SECONDS or spec.methods or spec.routes or spec.status_below is not None:
            return ""
        return f'sum(increase(http_request_duration_seconds_bucket{{le="{edge!r}"}}[{_WINDOW}]))'
    if spec.status_below not in (None, 500):
        return ""
    chosen = []
    if spec.status_below is not None:
        chosen.append('status!~"5.."')
    if spec.methods:
        chosen.append(f'method=~"{"|".join(spec.methods)}"')
    if spec.routes:
        chosen.append(f'route=~"{"|".join(_quoted(route) for route in spec.routes)}"')
    selector = f"{{{','.join(chosen)}}}" if chosen else ""
    return f"sum(increase(http_requests_total{selector}[{_WINDOW}]))"


def _selector(spec: MetricSpec, *, plain: bool = False) -> str:
    chosen = {**spec.labels, **({"le": spec.le} if spec.le else {})}
    inner = ",".join(f'{name}="{value}"' for name, value in chosen.items())
    name = f"{spec.metric}_bucket" if spec.le else spec.metric
    selector = f"{name}{{{inner}}}" if inner else name
    return selector if plain else f"sum({selector})"


def _quoted(route: str) -> str:
    return "".join(f"\\\\{each}" if each in ".+*?()[]{}|^$" else each for each in route)
