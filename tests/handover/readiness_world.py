"""Everything that the shipped checklists look at, as it should be, and for each item a way to break it.

Real: PostgreSQL, Redis and its sentinels, Prometheus, Alertmanager. A broken one stands beside each, to be looked at
instead. Kubernetes, Grafana, Loki and Consul are spoken to over HTTP as they speak (``cluster_servers.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster_servers import STRONG, TOKEN, Surroundings, serving
from probe_servers import Authority, authority, name_server, web
from stage import Heard

from bailiwick.app.assurance import KINDS
from bailiwick.app.siem import reach_of
from bailiwick.assurance.book import Book, check
from bailiwick.assurance.ports import Level, OpenWaiver, Person
from bailiwick.assurance.probes.internal import internals
from bailiwick.assurance.probes.means import Means
from bailiwick.assurance.probes.reading import Reading
from bailiwick.assurance.shipped import shipped
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.handover.readiness.documents import READINESS_PROFILE, Placed, Values, lines_of
from bailiwick.handover.readiness.means.ours import ours
from bailiwick.handover.readiness.measuring import measure
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.permissions import OWNER_ROLES
from bailiwick.kernel.settings import Settings
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House
from ports import free_port

SHIPPED: Book = check("default", shipped("default"), {kind.name: kind for kind in KINDS})
LINES: dict[str, Placed] = {line.key: line for line in lines_of(SHIPPED, SHIPPED.of(READINESS_PROFILE)["production"])}
PROBED = {key: line for key, line in LINES.items() if line.item.probe is not None}

RULES = """
groups:
- name: critical
  rules:
  - {alert: APIDown, expr: up == 0}
  - {alert: DatabaseDown, expr: up == 0}
  - {alert: HighErrorRate, expr: up == 0}
  - {alert: DiskSpaceCritical, expr: up == 0}
"""
RECEIVERS = """
route: {receiver: chat, routes: [{receiver: pager, matchers: ['severity = critical']}]}
receivers:
- name: chat
  slack_configs: [{api_url: 'https://hooks.example.com/x', channel: '#ops'}]
- name: pager
  pagerduty_configs: [{routing_key: aaaabbbbccccddddaaaabbbbccccdddd}]
  email_configs: [{to: ops@example.com, from: a@example.com, smarthost: 'mail.example.com:25'}]
"""


class Servers:
    """Real servers, a right and a broken one of each kind, for all tests of a module."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._children: list[subprocess.Popen[bytes]] = []
        self.prometheus, self.other_prometheus = free_port(), free_port()
        self.alertmanager, self.other_alertmanager = free_port(), free_port()
        self.redis, self.other_redis = free_port(), free_port()
        self.sentinels = [free_port() for _ in range(3)]

    def start(self) -> Servers:
        self._prometheus(self.prometheus, "30d", RULES, self.prometheus)
        self._prometheus(self.other_prometheus, "15d", "groups: []", free_port())
        self._alertmanager(self.alertmanager, RECEIVERS)
        self._alertmanager(self.other_alertmanager, RECEIVERS.replace("{receiver: pager,", "{receiver: chat,"))
        good = ("--requirepass", STRONG, "--save", "900 1", "--maxmemory", "1gb", "--maxmemory-policy", "noeviction")
        self._spawn("redis-server", "--port", str(self.redis), "--bind", "127.0.0.1", *good, "--dir", str(self.home))
        bad = ("--save", "", "--maxmemory", "0", "--maxmemory-policy", "allkeys-lru")
        self._spawn("redis-server", "--port", str(self.other_redis), "--bind", "127.0.0.1", *bad)
        for port in self.sentinels:
            config = self.home / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self.home}\nsentinel monitor main 127.0.0.1 {self.redis} 2\n"
                f"sentinel auth-pass main {STRONG}\nsentinel down-after-milliseconds main 2000\n"
            )
            self._spawn("redis-server", str(config), "--sentinel")
        self._wait(f"http://127.0.0.1:{self.prometheus}/api/v1/query?query=up", b'"1"')
        self._wait(f"http://127.0.0.1:{self.other_prometheus}/api/v1/query?query=up", b'"0"')
        for port in (self.alertmanager, self.other_alertmanager):
            self._wait(f"http://127.0.0.1:{port}/-/ready", b"")
        return self

    def stop(self) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def _prometheus(self, port: int, retention: str, rules: str, target: int) -> None:
        (self.home / f"rules-{port}.yml").write_text(rules)
        (self.home / f"prometheus-{port}.yml").write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}\n"
            f"rule_files: [rules-{port}.yml]\n"
            f"scrape_configs:\n  - job_name: api\n    static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
        )
        self._spawn(
            "prometheus", f"--config.file={self.home}/prometheus-{port}.yml", f"--storage.tsdb.path={self.home}/{port}",
            f"--storage.tsdb.retention.time={retention}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        )  # fmt: skip

    def _alertmanager(self, port: int, config: str) -> None:
        (self.home / f"alertmanager-{port}.yml").write_text(config)
        self._spawn(
            "prometheus-alertmanager", f"--config.file={self.home}/alertmanager-{port}.yml",
            f"--storage.path={self.home}/am-{port}", f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=", "--log.level=error",
        )  # fmt: skip

    def _spawn(self, *argv: str) -> None:
        self._children.append(
            subprocess.Popen(argv, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def _wait(self, url: str, word: bytes) -> None:
        deadline = time.monotonic() + 40
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as got:
                if word in got.read():
                    return
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)


class World:
    """What is looked at: the servers, the house's own database, what its processes tell, what other parts say."""

    def __init__(self, house: House, servers: Servers, home: Path, base: str, database_url: str, ca: Authority) -> None:
        self.house, self.servers, self.home, self.base, self.url, self.ca = house, servers, home, base, database_url, ca
        self.surroundings = Surroundings()
        self.clock = SystemClock()
        self.heard = Heard()
        self.marks = True
        self.dns_port = 0
        self.tls_port = self.old_tls_port = self.short_tls_port = 0
        self.files = home / "files"
        self.files.mkdir()
        (self.files / "ca.pem").write_bytes(ca.pem)
        (self.files / "token").write_text(TOKEN)
        self.heal()
        near = house.settings.model_copy(update={"allow_upstream_networks": ("127.0.0.0/8",)})
        house.names.known |= {"api.web.test": ["127.0.0.1"], "prometheus.web.test": ["127.0.0.1"]}
        reach = reach_of(Resolver(house.database, house.clock, house.recorder, near, house.names))
        looks = internals(
            house.database, self.clock, lambda: self.figures, lambda: self.pending, self.files / "own.pem"
        )
        looks |= ours(
            house.database, database_url, house.ids, house.recorder, self, self.heard, self, self.secret_gate,
            self.snapshots, self.settings,
        )  # fmt: skip
        self.means = Means(reach, self.clock, database_url, home, (self.files,), internals=looks)

    def heal(self) -> None:
        """Make right again what is not in the database."""
        self.surroundings.heal()
        self.figures: dict[str, Sequence[float]] = {
            "bailiwick_feed_fresh_timestamp_seconds": [time.time()],
            "bailiwick_disk_free_ratio": [0.6],
            "bailiwick_memory_used_ratio": [0.4],
            "bailiwick_database_connections": [10.0],
            "bailiwick_database_connections_max": [100.0],
            "bailiwick_ledger_lag_seconds": [0.1],
            "bailiwick_ledger_backlog_age_seconds": [0.1],
            "bailiwick_ledger_dead_letters": [0.0],
            "bailiwick_siem_lag_seconds": [0.2],
            "bailiwick_redis_pool_max": [32.0],
        }
        self.pending: list[str] = []
        self.levels: set[str] = {"primary", "secondary", "lead", "manager", "management"}
        self.heard.people = {str(role): Person("ann", "Ann", "ann@example.com") for role in OWNER_ROLES}
        self.waivers: list[OpenWaiver] = []
        self.gate: tuple[Verdict, Sequence[str]] = (Verdict.PASS, ())
        self.kept = [f"redis/{datetime.now(UTC):%Y%m%dT%H%M%SZ}.rdb"]
        self.marks = True
        if not hasattr(self, "settings"):
            self.settings: dict[str, Any] = {}
        self.settings.clear()
        told = Settings(data_dir=self.home, clock_factor=1.0).shown()  # type: ignore[call-arg]
        self.settings.update(
            told, backup_url="s3://backups/x", witnesses=["one"], backup_escrow_key="00" * 32, tls_min_version="1.3"
        )
        self.write("image", trivy("LOW"))
        self.write("scan", trivy("MEDIUM"))
        self.write("unit", junit(("unit", "test_one")))
        self.write("integration", junit(("api", "GET /servers")))
        self.write("chaos", junit(("chaos", "pod is killed"), ("chaos", "network partition")))
        self.write("coverage", json.dumps({"totals": {"percent_covered": 91.5, "num_statements": 900}}))
        self.write("load", json.dumps(LOAD))
        self.certificate(90)
        for name, port in (("redis", self.servers.redis), ("other-redis", self.servers.other_redis)):
            password = f":{STRONG}@" if name == "redis" else ""
            (self.files / name).write_text(f"redis://{password}127.0.0.1:{port}/0\n")
        server = lambda port: f"http://127.0.0.1:{port}"  # noqa: E731
        self.values: dict[str, Any] = {
            **{k: f.get_default() for k, f in Values.model_fields.items() if f.default is not None},
            "api_url": f"{self.base}/site",
            "tls_hosts": ["api.web.test"],
            "tls_port": self.tls_port or 443,
            "ca_file": str(self.files / "ca.pem"),
            "dns_names": ["api.web.test", "prometheus.web.test"],
            "dns_server": "127.0.0.1",
            "dns_port": self.dns_port or 53,
            "firewall_host": "127.0.0.1",
            "firewall_tried": [str(self.servers.redis)],
            "firewall_open": [self.servers.redis],
            "kubernetes_url": f"{self.base}/kubernetes",
            "kubernetes_token_file": str(self.files / "token"),
            "prometheus_url": server(self.servers.prometheus),
            "alertmanager_url": server(self.servers.alertmanager),
            "grafana_url": f"{self.base}/grafana",
            "grafana_token_file": str(self.files / "token"),
            "loki_url": f"{self.base}/loki",
            "consul_url": f"{self.base}/consul",
            "redis_url_file": str(self.files / "redis"),
            "redis_sentinels": [f"127.0.0.1:{port}" for port in self.servers.sentinels],
            **{f"{name}_report": str(self.files / name) for name in ("load", "chaos", "integration", "coverage")},
            "image_scan_report": str(self.files / "image"),
            "security_scan_report": str(self.files / "scan"),
            "unit_test_report": str(self.files / "unit"),
        }

    async def look(self, key: str) -> Reading:
        """What the probe of a shipped item finds now."""
        probe = PROBED[key].item.probe
        assert probe is not None
        if key.endswith("/siem") and not self.marks:  # it waits for what does not come
            probe = probe.model_copy(update={"timeout": "2s"})
        return await measure(probe, self.values, SHIPPED.of(THRESHOLD), self.means, "default", self.clock.now())

    # --- what tests change

    def write(self, name: str, text: str, days: float = 0) -> None:
        path = self.files / name
        path.write_text(text)
        moment = time.time() - days * 86_400
        os.utime(path, (moment, moment))

    def certificate(self, days: float) -> None:
        self.ca.context(self.files, ["own.test"], days)
        (self.files / f"own.test-{days}.pem").rename(self.files / "own.pem")

    async def sql(self, *statements: str) -> None:
        async with self.house.owner.begin() as tx:
            for statement in statements:
                await tx.run(statement)

    # --- what other parts say

    async def on_call(self, tx: Transaction, zone: str, level: Level, at: datetime) -> Person | None:
        return Person("ann", "Ann", "ann@example.com") if level in self.levels else None

    async def uncovered(
        self, tx: Transaction, zone: str, level: Level, since: datetime, until: datetime
    ) -> datetime | None:
        return since if await self.on_call(tx, zone, level, since) is None else None

    async def open_at(self, tx: Transaction, zone: str, at: datetime) -> Sequence[OpenWaiver]:
        return self.waivers

    async def secret_gate(self, tx: Transaction, zone: str) -> tuple[Verdict, Sequence[str]]:
        return self.gate

    async def snapshots(self) -> Sequence[str]:
        return self.kept

    async def sequence(self) -> None:
        """Put markers into the ledger and, while ``marks``, have the sink take them, as the work role does."""
        seq = 100
        while True:
            await asyncio.sleep(0.1)
            async with self.house.owner.begin() as tx:
                for row in await tx.all("SELECT id, event FROM bailiwick.outbox ORDER BY id"):
                    event = json.loads(bytes(row["event"]))
                    if event.get("name") != "readiness.marked":
                        continue
                    await tx.run("DELETE FROM bailiwick.outbox WHERE id = :id", id=row["id"])
                    seq += 1
                    await tx.run(
                        "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, rest)"
                        " VALUES ('default', :seq, cast(:id AS uuid), now(), now(), :code, 'success', '')",
                        seq=seq,
                        id=event["id"],
                        code=event["code"],
                    )
                if self.marks:
                    await tx.run("UPDATE bailiwick.siem_cursors SET next_seq = :seq + 1", seq=seq)


def trivy(severity: str) -> str:
    found = [{"VulnerabilityID": "CVE-1", "PkgName": "p", "Severity": severity}]
    return json.dumps({"SchemaVersion": 2, "Results": [{"Target": "bailiwick:1", "Vulnerabilities": found}]})


def junit(*cases: tuple[str, str], failed: bool = False) -> str:
    inside = "<failure message='no'/>" if failed else ""
    return f"<testsuites><testsuite>{''.join(f'<testcase classname={c!r} name={n!r}>{inside}</testcase>' for c, n in cases)}</testsuite></testsuites>"


LOAD = {"requests_per_second": 1300, "duration_seconds": 3600, "p95_ms": 80, "p99_ms": 150, "errors_percent": 0.01}


@asynccontextmanager
async def world_of(house: House, servers: Servers, home: Path, database_url: str) -> AsyncIterator[World]:
    """The world over a house's database, everything in it as it should be."""
    ca = authority()
    pending: list[World] = []

    async def answer(target: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    import ssl

    surroundings_of: Surroundings = Surroundings()
    async with serving(surroundings_of) as base, name_server() as names:
        world = World(house, servers, home, base, database_url, ca)
        world.surroundings = surroundings_of
        pending.append(world)
        old = ca.context(world.files, ["api.web.test"], 91)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with (
            web(answer, ca.context(world.files, ["api.web.test"], 90)) as good,
            web(answer, old) as outdated,
            web(answer, ca.context(world.files, ["api.web.test"], 10)) as short,
        ):
            world.tls_port, world.old_tls_port, world.short_tls_port, world.dns_port = good, outdated, short, names
            world.heal()
            await world.sql(*HEALTHY)
            task = asyncio.create_task(world.sequence())
            try:
                yield world
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


_RUNBOOKS = sorted(name for kind, name in SHIPPED.documents if kind == "Runbook")
_DOCUMENTS = [
    document
    for (kind, name), document in SHIPPED.documents.items()
    if kind in ("BackupPlan", "Ceremony", "Runbook", "WaiverControl") or name in ("T7", "T14", "T30")
]


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''").replace(":", "\\:") + "'"


HEALTHY: list[str] = [
    "SET LOCAL search_path = bailiwick",
    *(
        "INSERT INTO assurance_documents (zone, kind, name, version, revision, spec, sha256, in_force, applied_at,"
        f" applied_by) VALUES ('default', {_quoted(each.kind)}, {_quoted(each.name)}, 1, 1,"
        f" cast({_quoted(each.spec)} AS jsonb), '{each.sha256}', true, now(), 'bailiwick')"
        for each in _DOCUMENTS
    ),
    *(
        f"INSERT INTO users (id, zone, username, role, is_active, must_change_password, mfa_enabled, email,"
        f" password_hash, created_at, updated_at) VALUES ('{name}', 'default', '{name}', 'admin', true, false, true,"
        f" '{name}@example.com', 'x', now(), now())"
        for name in ("ann", "ben")
    ),
    "INSERT INTO zone_keys (kid, zone, purpose, algorithm, public_jwk, private_sealed, created_at, changed_at)"
    " VALUES ('k1', 'default', 'mandate', 'ES256', '{}', '', now(), now())",
    "INSERT INTO ledger.heads (zone, size, at, root, kid, note) VALUES ('default', 1, now(), '', 'k', '')",
    *(
        f"INSERT INTO policy_versions (zone, name, version, sha256, source, dialect, report, created_by, created_at)"
        f" VALUES ('default', '{name}', 1, '{name}', '', 'v1', '{{}}', 'ann', now())"
        for name in ("authorization", "rate_limiting")
    ),
    "INSERT INTO policy_sets (zone, hash, members, created_at) VALUES ('default', 'h', '[]', now())",
    "INSERT INTO policy_activations (zone, hash, kind, activated_by, activated_at)"
    " VALUES ('default', 'h', 'initial', 'ann', now())",
    *(
        f"INSERT INTO job_occurrences (job, due_at, state, finished_at, detail) VALUES ('{job}', now(), 'succeeded',"
        f" now(), '{detail}')"
        for job, detail in {
            "seal-archive": "{}",
            "verify-newest-events": '{"findings"\\: 0}',
            "resolve-upstreams": "{}",
            "verify-archive": '{"default"\\: {"verdict"\\: "PASS"}}',
        }.items()
    ),
    *(
        f"INSERT INTO backups (id, state, place, started_at, finished_at, asked_by) VALUES ('b{day}', 'complete', 'p',"
        f" now() - interval '{day} days 1 hour', now() - interval '{day} days 1 hour', 'clock')"
        for day in range(8)
    ),
    "INSERT INTO backup_log (place, covered_until) VALUES ('p', now())",
    "INSERT INTO backup_drills (id, kind, verdict, started_at, finished_at, held_by, checks)"
    " VALUES ('d', 'restore', 'PASS', now(), now(), 'ann', '[]')",
    "INSERT INTO alerts (id, zone, key, rule, source, state, severity, summary, owner, owner_person, runbook, labels,"
    " annotations, missing, group_key, began_at, last_seen_at) VALUES ('a', 'default', 'k', 'r', 'part', 'resolved',"
    " 'P0', 's', 'uptime', '', '', '{}', '{}', '{}', 'g', now(), now())",
    "INSERT INTO alert_drills (id, zone, fault, target, rule, state, started_by, injected_at, until, alert, delivery,"
    " fired_at, delivered_at, acknowledged_at) VALUES ('ad', 'default', 'f', 't', 'r', 'acknowledged', 'ann', now(),"
    " now(), 'a', 'x', now(), now(), now())",
    *(
        f"INSERT INTO runbook_runs (id, zone, runbook, version, dry, started_by, started_at, steps, ended_at, outcome)"
        f" VALUES ('r-{name}', 'default', '{name}', 1, true, 'ann', now(), '[]', now(), 'done')"
        for name in _RUNBOOKS
    ),
    "INSERT INTO siem_sinks (id, zone, name, kind, options, sealed, format, filter, redact, batch_size, linger_s,"
    " all_zones, enabled, created_at, updated_at) VALUES ('s', 'default', 'splunk', 'splunk', '{}', '', 'native', '{}',"
    " '[]', 100, 1, false, true, now(), now())",
    "INSERT INTO siem_cursors (sink, zone, next_seq, sent_seq, updated_at) VALUES ('s', 'default', 0, 0, now())",
]

_INCIDENT = (
    "INSERT INTO bailiwick.incidents (id, zone, number, key, trigger, title, severity, class, state, exits, began_at,"
    " opened_at, opened_by) VALUES ('i', 'default', 1, 'k', '', 't', 'P1', 'operations', 'open', '{}', now(), now(), 'a')"
)


@dataclass(frozen=True)
class Break:
    """What makes an item not so. ``sql``: statements that break it, and those that mend it again. ``told``: a word of
    what is then said. ``verdict``: what is found."""

    do: Callable[[World], None] | None = None
    sql: tuple[Sequence[str], Sequence[str]] = ((), ())
    told: str = ""
    verdict: Verdict = Verdict.FAIL


def cluster(path: str, change: Callable[[list[dict[str, Any]]], Any], told: str = "") -> Break:
    """A change to one list of the cluster's."""

    def do(world: World) -> None:
        change(world.surroundings.cluster[path])

    return Break(do, told=told)


def _set(**changed: Any) -> Callable[[World], None]:
    def do(world: World) -> None:
        for name, value in changed.items():
            setattr(world.surroundings if hasattr(world.surroundings, name) else world, name, value)

    return do


def value(**changed: Any) -> Callable[[World], None]:
    """Other values of the environment; those that are callable are asked with the world."""

    def do(world: World) -> None:
        world.values.update({k: v(world) if callable(v) else v for k, v in changed.items()})

    return do


def setting(**changed: Any) -> Callable[[World], None]:
    return lambda world: world.settings.update(changed)


def figure(name: str, *values: float) -> Callable[[World], None]:
    return lambda world: world.figures.update({name: list(values)})


def spec(kind: str, name: str, path: str, old: str, new: str) -> tuple[Sequence[str], Sequence[str]]:
    """Change one value of a document, and back again."""
    said = "UPDATE bailiwick.assurance_documents SET spec = jsonb_set(spec, '{%s}', '%s') WHERE kind = '%s' AND name = '%s'"
    return [said % (path, new, kind, name)], [said % (path, old, kind, name)]


def gone(kind: str, *names: str) -> tuple[Sequence[str], Sequence[str]]:
    listed = ", ".join(f"'{name}'" for name in names)
    said = "UPDATE bailiwick.assurance_documents SET in_force = %s WHERE kind = '%s' AND name IN (%s)"
    return [said % ("false", kind, listed)], [said % ("true", kind, listed)]


def older(table: str, column: str, where: str = "true", days: int = 400) -> tuple[Sequence[str], Sequence[str]]:
    said = "UPDATE bailiwick.%s SET %s = %s %s interval '%d days' WHERE %s"
    return [said % (table, column, column, "-", days, where)], [said % (table, column, column, "+", days, where)]


def _pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = objects[0]["spec"]["template"]["spec"]
    return found


_OTHER_PROMETHEUS = value(prometheus_url=lambda world: f"http://127.0.0.1:{world.servers.other_prometheus}")
_OTHER_REDIS = value(redis_url_file=lambda world: str(world.files / "other-redis"))
_DEPLOYMENTS = "/apis/apps/v1/namespaces/production/deployments"
_SECRETS = "/api/v1/namespaces/production/secrets"
_NO_DATA = Verdict.NO_DATA
