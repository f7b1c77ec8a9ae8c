"""Metrics of all processes of an installation, answered by any of them.

Each process keeps its figures in files of its own under ``PROMETHEUS_MULTIPROC_DIR`` (prometheus-client's multiprocess
mode); a scrape of any process sums them, and the counters of a process that died stay in the sum. The supervisor wipes
the directory when it starts (:func:`wipe`) and calls :func:`mark_dead` for each child that ends, which takes that
child's gauges out.

The hot path does not touch those files: :class:`HotCounter` and :class:`HotHistogram` are plain numbers of the process,
carried over by :meth:`Metrics.flush` each second and at a scrape. A killed process loses at most that second of its
*counts*; decisions themselves are in the evidence.

No label is unbounded: methods and statuses are closed sets, routes are templates, reasons are registered codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from bailiwick.kernel.errors import REASONS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# edges at the seeds' objectives (0.1, 0.2, 0.5 s) so that a quantile against them needs no interpolation
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0)
DECISION_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5)
NOTICE_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
REVOCATION_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
FSYNC_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

METHODS = ("GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS")
OTHER = "other"
_DECISION_REASONS = (
    "policy_denied",
    "policy_error",
    "no_active_policy",
    "evidence_unavailable",
    "evidence_lost",
    "zone_archived",
)
_CHECK_REASONS = (
    *_DECISION_REASONS,
    "authentication_required",
    "invalid_token",
    "token_expired",
    "token_revoked",
    "key_revoked",
    "unknown_key",
    "wrong_audience",
    "wrong_zone",
    "insufficient_scope",
    "operation_not_listed",
    "application_disabled",
    "unknown_server",
    "ambiguous_request",
    "forbidden_path",
    "no_binding",
    "credential_missing",
    "upstream_unresolved",
    "revocation_stale",
)
_FRESH_AT = "bailiwick_feed_fresh_timestamp_seconds"

log = structlog.get_logger(__name__)


class HotCounter:
    """Counts by label values in a plain dict; about a tenth of a microsecond an observation."""

    __slots__ = ("_counter", "_counts")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counts: dict[tuple[str, ...], int] = {}

    def inc(self, *labels: str) -> None:
        """One more under these label values (the caller keeps them bounded)."""
        counts = self._counts
        counts[labels] = counts.get(labels, 0) + 1

    def flush(self) -> None:
        """Carry the counts over to the scraped counter."""
        counts, self._counts = self._counts, {}
        for labels, count in counts.items():
            (self._counter.labels(*labels) if labels else self._counter).inc(count)


class HotHistogram:
    """A histogram without labels as a plain list of bucket counts."""

    __slots__ = ("_counts", "_edges", "_histogram", "_sum")

    def __init__(self, histogram: Histogram, edges: Sequence[float]) -> None:
        self._histogram = histogram
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._edges, seconds)] += 1
        self._sum += seconds

    def flush(self) -> None:
        """Carry the counts over to the scraped histogram."""
        if any(self._counts):
            counts, self._counts = self._counts, [0] * (len(self._edges) + 1)
            total, self._sum = self._sum, 0.0
            # the library has no way to add many observations at once; these two are what observe() itself adds to
            for bucket, count in zip(self._histogram._buckets, counts, strict=True):
                if count:
                    bucket.inc(count)
            self._histogram._sum.inc(total)


class Metrics:
    """Every metric of the product, one attribute each, built once per process.

    ``directory`` is the directory the processes of the installation share; None keeps the figures in this process
    (tests, single commands). ``status_file`` is the supervisor's ``run/status.json``, where the restarts of the parts
    come from. Raises :class:`RuntimeError` when a directory is given and ``PROMETHEUS_MULTIPROC_DIR`` was not set
    before the process started, since the figures would silently be this process's alone.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        directory: Path | None = None,
        status_file: Path | None = None,
    ) -> None:
        if directory is not None and (
            not getattr(values.ValueClass, "_multiprocess", False)
            or os.environ.get("PROMETHEUS_MULTIPROC_DIR") != str(directory)
        ):
            raise RuntimeError(f"PROMETHEUS_MULTIPROC_DIR must name {directory} when the process starts")
        self._registry = registry
        self._directory = directory
        self._status_file = status_file
        self._hot: list[HotCounter | HotHistogram] = []
        self._hooks: list[Callable[[], None]] = []
        self._cpu_seen = 0.0
        self._flushing = threading.Lock()
        self._requests()
        self._decisions()
        self._authority()
        self._evidence()
        self._siem()
        self._alerting()
        self._surroundings()

    def _requests(self) -> None:
        self.http_requests = self._hot_counter(
            "http_requests_total", "Requests answered", ("method", "route", "status")
        )
        self.http_request_seconds = self._hot_histogram(
            "http_request_duration_seconds", "Time from request to the end of its answer", REQUEST_SECONDS
        )
        self.rate_limited = self._counter("bailiwick_rate_limited_total", "Requests refused by a limit", ("scope",))
        for scope in ("network", "caller", "gateway", "token", "evaluate"):
            self.rate_limited.labels(scope)
        self.access_log_dropped = self._counter(
            "bailiwick_access_log_dropped_total", "Access log lines given up because the database was away too long"
        )

    def _decisions(self) -> None:
        labels = ("outcome", "reason")
        self.decisions = self._hot_counter("bailiwick_decisions_total", "Policy decisions", labels)
        self.decision_seconds = self._hot_histogram(
            "bailiwick_decision_duration_seconds", "Time to decide, without evidence", DECISION_SECONDS
        )
        self.gateway_checks = self._hot_counter("bailiwick_gateway_checks_total", "Gateway checks", labels)
        self.gateway_check_seconds = self._hot_histogram(
            "bailiwick_gateway_check_duration_seconds", "Time to answer a check, evidence durable", DECISION_SECONDS
        )
        for counter, reasons in ((self.decisions, _DECISION_REASONS), (self.gateway_checks, _CHECK_REASONS)):
            counter._counter.labels("allow", "")
            for reason in reasons:
                counter._counter.labels("error" if REASONS[reason].status >= 500 else "deny", reason)
        self.decision_cache = self._hot_counter(
            "bailiwick_decision_cache_total", "Decision cache look-ups by result", ("result",)
        )
        for result in ("hit", "miss"):
            self.decision_cache._counter.labels(result)
        self.newly_allowed_pairs = self._gauge(
            "bailiwick_policy_newly_allowed_pairs", "(principal, action, server) pairs the active policy newly allows"
        )

    def _authority(self) -> None:
        self.mandates_issued = self._hot_counter("bailiwick_mandates_issued_total", "Mandates issued", ())
        self.revocations = self._counter("bailiwick_revocations_total", "Revocations written", ("kind",))
        for kind in ("mandate", "session", "application", "user", "key"):
            self.revocations.labels(kind)
        self.revocation_seconds = self._histogram(
            "bailiwick_revocation_duration_seconds", "Revocation request to answer", REVOCATION_SECONDS
        )
        self.workers_fenced = self._counter("bailiwick_workers_fenced_total", "Workers fenced off by a revocation")

    def _evidence(self) -> None:
        self.spool_events = self._counter("bailiwick_spool_events_total", "Events written to the spool")
        self.spool_bytes = self._counter("bailiwick_spool_bytes_total", "Bytes written to the spool")
        self.spool_fsync_seconds = self._hot_histogram(
            "bailiwick_spool_fsync_duration_seconds", "Time of one group fdatasync", FSYNC_SECONDS
        )
        self.spool_failures = self._counter("bailiwick_spool_failures_total", "Events the spool could not take")
        self.spool_backlog_bytes = self._gauge(
            "bailiwick_spool_backlog_bytes",
            "Bytes written to the spool that this process has not seen durable",
            "livesum",
        )
        self.ledger_lag_seconds = self._gauge(
            "bailiwick_ledger_lag_seconds", "How long events take into the ledger, or how long none got there"
        )
        self.ledger_backlog_age = self._gauge(
            "bailiwick_ledger_backlog_age_seconds", "Age of the oldest event that waits in this machine's spools"
        )
        self.ledger_backlog_bytes = self._gauge(
            "bailiwick_ledger_backlog_bytes", "Spool bytes that are not in the ledger yet"
        )
        self.ledger_dead_letters = self._gauge(
            "bailiwick_ledger_dead_letters", "Frames that were set aside and not replayed since"
        )
        self.evidence_trouble = self._gauge(
            "bailiwick_evidence_trouble", "1 while a trouble with the evidence lasts", labels=("trouble",)
        )
        self.clock_behind_seconds = self._gauge(
            "bailiwick_clock_behind_seconds", "How far the clock stands before the newest event or head of the ledger"
        )
        self.ledger_tampered = self._gauge(
            "bailiwick_ledger_tampered", "1 when the sweep found that a zone's ledger does not hold", labels=("zone",)
        )
        pair = ("zone", "witness")
        self.witness_behind_seconds = self._gauge(
            "bailiwick_witness_behind_seconds", "How long a witness has not cosigned a zone's newest head", labels=pair
        )
        self.witness_refuses = self._gauge(
            "bailiwick_witness_refuses", "1 while a witness says that a zone's ledger is not what it saw", labels=pair
        )
        self.witness_answers = self._counter(
            "bailiwick_witness_answers_total", "What witnesses answered", ("witness", "result")
        )
        self.ledger_events = self._counter("bailiwick_ledger_events_total", "Events sequenced into the ledger")
        self.archive_overdue = self._gauge(
            "bailiwick_archive_overdue_seconds",
            "How long the oldest window of a zone that should be sealed is overdue",
            labels=("zone",),
        )
        self.archive_unproven = self._gauge(
            "bailiwick_archive_unproven", "1 when the archive of a zone was found not to hold", labels=("zone",)
        )
        self.archive_events = self._counter("bailiwick_archive_events_total", "Events sealed into the archive")
        self.archive_bytes = self._counter("bailiwick_archive_bytes_total", "Bytes stored in the archive")

    def _siem(self) -> None:
        sink = ("sink",)
        self.siem_lag_events = self._gauge("bailiwick_siem_lag_events", "Events a sink has not taken yet", labels=sink)
        self.siem_lag_seconds = self._gauge(
            "bailiwick_siem_lag_seconds", "Age of the oldest event a sink has not taken yet", labels=sink
        )
        self.siem_delivered = self._counter("bailiwick_siem_delivered_total", "Events a sink acknowledged", sink)
        self.siem_failed = self._counter("bailiwick_siem_failed_total", "Attempts to deliver that failed", sink)
        self.siem_repeated = self._counter(
            "bailiwick_siem_repeated_total", "Events sent again because nobody knows whether they arrived", sink
        )
        self.siem_send_seconds = self._histogram(
            "bailiwick_siem_send_duration_seconds", "Time from sending a batch to its acknowledgement", REQUEST_SECONDS
        )
        self.siem_breaker = self._gauge(
            "bailiwick_siem_breaker_state", "Circuit breaker: 0 closed, 1 half open, 2 open", labels=sink
        )
        self.siem_stopped = self._gauge(
            "bailiwick_siem_stopped", "1 when a sink waits for somebody to mend it", labels=sink
        )
        self.siem_dead_letters = self._gauge(
            "bailiwick_siem_dead_letters", "Events a sink refused for good", labels=sink
        )

    def _alerting(self) -> None:
        self.alerts_open = self._gauge("bailiwick_alerts_open", "Alerts that are open", labels=("severity",))
        for severity in ("P0", "P1", "P2", "P3"):
            self.alerts_open.labels(severity)
        self.notices_undelivered = self._gauge(
            "bailiwick_notices_undelivered", "Deliveries of notices by their state", labels=("state",)
        )
        self.notices_oldest_seconds = self._gauge(
            "bailiwick_notices_oldest_seconds", "Age of the oldest notice that waits to be delivered"
        )
        self.notice_deliveries = self._counter(
            "bailiwick_notice_deliveries_total", "What became of attempts to deliver notices", ("way", "outcome")
        )
        self.notice_seconds = self._histogram(
            "bailiwick_notice_delivery_duration_seconds", "Time from a notice to its receipt", NOTICE_SECONDS
        )

    def _surroundings(self) -> None:
        self.database_up = self._gauge("bailiwick_database_up", "1 when the database answers")
        self.database_connections = self._gauge("bailiwick_database_connections", "Connections in use")
        self.database_connections_max = self._gauge("bailiwick_database_connections_max", "Connections allowed")
        self.database_cache_hit_ratio = self._gauge("bailiwick_database_cache_hit_ratio", "Blocks found in memory")
        self.database_bytes = self._gauge("bailiwick_database_size_bytes", "Size of the database")
        self.redis_up = self._gauge("bailiwick_redis_up", "1 when Redis answers")
        self.redis_configured = self._gauge("bailiwick_redis_configured", "1 when an installation uses Redis")
        self.redis_hit_ratio = self._gauge("bailiwick_redis_hit_ratio", "Keys found, of those looked up")
        self.redis_memory_bytes = self._gauge("bailiwick_redis_memory_bytes", "Memory Redis uses")
        self.redis_memory_max_bytes = self._gauge(
            "bailiwick_redis_memory_max_bytes", "Memory Redis may use; 0: no limit"
        )
        self.redis_pool_in_use = self._gauge("bailiwick_redis_pool_in_use", "Redis connections in use", "livesum")
        self.redis_pool_max = self._gauge("bailiwick_redis_pool_max", "Redis connections allowed", "livesum")
        self.disk_free_ratio = self._gauge("bailiwick_disk_free_ratio", "Free share of the data directory's disk")
        self.cpu_used_ratio = self._gauge("bailiwick_cpu_used_ratio", "Busy share of the machine's processors")
        self.memory_used_ratio = self._gauge("bailiwick_memory_used_ratio", "Used share of the machine's memory")
        self.cpu_seconds = self._counter(
            "bailiwick_process_cpu_seconds_total", "Processor time of our Python processes"
        )
        self.resident_bytes = self._gauge(
            "bailiwick_process_resident_bytes", "Memory of our Python processes", "livesum"
        )
        self.secrets_exposed = self._gauge(
            "bailiwick_secrets_exposed", "Secrets found exposed and not rotated since", labels=("zone",)
        )
        self.slo_budget_left = self._gauge(
            "bailiwick_slo_budget_left_ratio",
            "Share of a service level's error budget that is left",
            labels=("zone", "slo"),
        )
        self.capacity_days = self._gauge(
            "bailiwick_capacity_days_to_limit", "Days until a resource reaches its limit", labels=("zone", "resource")
        )
        self.backup_success = self._gauge(
            "backup_last_success_timestamp_seconds", "When the newest complete backup was finished"
        )
        self.backup_log_age = self._gauge(
            "bailiwick_backup_log_age_seconds", "How much work is not in the store of backups yet"
        )
        self.restore_drill = self._gauge(
            "bailiwick_restore_drill_last_pass_timestamp_seconds", "When a restore was last drilled and passed"
        )
        self.job_runs = self._counter("bailiwick_job_runs_total", "Occurrences of scheduled jobs", ("job", "outcome"))
        self.job_age = self._gauge(
            "bailiwick_job_last_success_age_seconds", "Time since a job last succeeded", labels=("job",)
        )

    # --- making them

    def _counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, mode: str = "livemostrecent", labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, meaning, labels, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _histogram(self, name: str, meaning: str, edges: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, buckets=edges, registry=self._registry)

    def _hot_counter(self, name: str, meaning: str, labels: Sequence[str]) -> HotCounter:
        hot = HotCounter(self._counter(name, meaning, labels))
        self._hot.append(hot)
        return hot

    def _hot_histogram(self, name: str, meaning: str, edges: Sequence[float]) -> HotHistogram:
        hot = HotHistogram(self._histogram(name, meaning, edges), edges)
        self._hot.append(hot)
        return hot

    # --- keeping and telling them

    def before_flush(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` before each flush, for gauges that are read from elsewhere (pool sizes, backlogs)."""
        self._hooks.append(hook)

    def watch_feed(self, age: Callable[[], float]) -> None:
        """Export ``bailiwick_feed_age_seconds`` from this process's ``FeedReader.age``.

        What is kept is *when* the process was fresh, so that the age of one that hangs goes on growing.
        """
        # made here and not with the others: the zero of a process without a feed would be the least fresh
        fresh_at = self._gauge(_FRESH_AT, "When the least fresh process was last level with the feed", "livemin")
        self.before_flush(lambda: fresh_at.set(max(0.0, time.time() - age())))

    def init_routes(self, routes: Iterable[tuple[str, str]]) -> None:
        """Let ``http_requests_total`` start at 0 for each (method, route template), so that its rates exist."""
        for method, route in routes:
            for status in ("200", "500"):
                self.http_requests._counter.labels(method, route, status)

    def flush(self) -> None:
        """Carry this process's hot figures over to what is scraped: each second, and by the thread of a scrape."""
        with self._flushing:  # or both would carry the same figures over
            self._flush()

    def _flush(self) -> None:
        for hook in self._hooks:
            try:
                hook()
            except Exception:
                log.exception("metric could not be read")
        for hot in self._hot:
            hot.flush()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        self.cpu_seconds.inc(cpu - self._cpu_seen)
        self._cpu_seen = cpu
        self.resident_bytes.set(_resident_bytes())

    async def run(self, every_s: float = 1.0) -> None:
        """Flush each second until cancelled."""
        try:
            while True:
                self.flush()
                await asyncio.sleep(every_s)
        finally:
            self.flush()

    def collect_text(self) -> bytes:
        """The figures of all processes in Prometheus' text format."""
        self.flush()
        return generate_latest(_Families(self._families()))

    def _families(self) -> Iterator[Metric]:
        collector: Collector = (
            MultiProcessCollector(None, path=str(self._directory))  # type: ignore[no-untyped-call]
            if self._directory
            else self._registry
        )
        for family in collector.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
            if family.name == _FRESH_AT and family.samples and family.samples[0].value > 0:
                yield GaugeMetricFamily(
                    "bailiwick_feed_age_seconds",
                    "Age of the feed in the least fresh process",
                    value=max(0.0, time.time() - family.samples[0].value),
                )
        restarts = CounterMetricFamily("bailiwick_part_restarts", "Restarts of a part since `up`", labels=("part",))
        for part, count in part_restarts(self._status_file).items():
            restarts.add_metric((part,), count)
        yield restarts


class _Families(CollectorRegistry):
    """What ``generate_latest`` wants: something with ``collect``."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._collected = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._collected)


def method_label(method: str) -> str:
    """``method`` if it is one we know, else ``other``."""
    return method if method in METHODS else OTHER


def reason_label(reason: str) -> str:
    """``reason`` if it is registered, ``""`` for none, else ``other``."""
    return reason if not reason or reason in REASONS else OTHER


def wipe(directory: Path) -> None:
    """Make the directory, empty: figures of a previous run are not ours. Call it before any child starts."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.db"):
        stale.unlink()


def mark_dead(directory: Path, pid: int) -> None:
    """Take the live gauges of a process that ended out of the sum; its counters stay."""
    mark_process_dead(pid, path=str(directory))  # type: ignore[no-untyped-call]


def part_restarts(status_file: Path | None) -> dict[str, int]:
    """Restarts by part out of the supervisor's status file; empty when it cannot be read.

    The file holds ``{"parts": [{"name": …, "restarts": n, …}, …], …}``.
    """
    if status_file is None:
        return {}
    try:
        parts = json.loads(status_file.read_text())["parts"]
        return {str(part["name"]): int(part["restarts"]) for part in parts}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def parts_began(status_file: Path) -> float | None:
    """When the supervisor had started the last of its parts for the first time, in seconds since the epoch.

    A part that was restarted does not count: what ends again and again has not only begun. None where there is no such
    part, or no status file that can be read.
    """
    try:
        parts = json.loads(status_file.read_text())["parts"]
        first = [str(part["since"]) for part in parts if part["since"] and not part["restarts"]]
        return max((datetime.fromisoformat(each).timestamp() for each in first), default=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - each second
        return int(statm.read().split()[1]) * resource.getpagesize()
