"""For every probe of the shipped checklists, by its item: what makes the item not so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cluster_servers import STRONG, secret
from readiness_world import (
    _DEPLOYMENTS,
    _INCIDENT,
    _NO_DATA,
    _OTHER_PROMETHEUS,
    _OTHER_REDIS,
    _SECRETS,
    Break,
    World,
    _pod,
    _set,
    cluster,
    figure,
    gone,
    junit,
    older,
    setting,
    spec,
    trivy,
    value,
)

from bailiwick.assurance.ports import OpenWaiver
from bailiwick.kernel.verdicts import Verdict


def report(name: str, text: str, days: float = 0) -> Break:
    return Break(lambda world: world.write(name, text, days))


def levels(*names: str) -> Break:
    return Break(lambda world: world.levels.difference_update(names), told="nobody")


def _nobody(world: World) -> None:
    world.heard.people.pop("security_owner")


def _gate(world: World) -> None:
    world.gate = (Verdict.FAIL, ["sink/x (a test key in production)"])


def _waiver(world: World) -> None:
    world.waivers = [OpenWaiver("w1", "secret-class", "HIGH", datetime(2027, 1, 1, tzinfo=UTC))]


def _old_snapshot(world: World) -> None:
    world.kept = [f"redis/{datetime.now(UTC) - timedelta(days=2):%Y%m%dT%H%M%SZ}.rdb"]


def _short_password(world: World) -> None:
    (world.files / "redis").write_text("redis://:hunter2@127.0.0.1:1/0")


def _pending(world: World) -> None:
    world.pending.append("0005_pre_more")


JOB = "job = '{}'".format

RUNS = older("runbook_runs", "ended_at")
ALERT = ["UPDATE bailiwick.alerts SET state = 'firing'"], ["UPDATE bailiwick.alerts SET state = 'resolved'"]
BACKUP_OLD = older("backups", "finished_at", "true", 3)
RESTORE_OLD = older("backup_drills", "finished_at", "true", 40)
MODE = "UPDATE bailiwick.users SET {} WHERE username = 'ben'".format
SILENT = (
    ["INSERT INTO bailiwick.silent_jobs (job, since, noticed_at, why) VALUES ('j', now(), now(), 'w')"],
    ["DELETE FROM bailiwick.silent_jobs"],
)
DOWN = value(api_url=lambda world: f"{world.base}/site", prometheus_url="http://127.0.0.1:1")

PRE: dict[str, Break] = {
    "nodes": cluster("/api/v1/nodes", lambda o: o[0]["status"]["conditions"][0].update(status="False"), "5 of 6"),
    "namespaces": cluster("/api/v1/namespaces", lambda o: o[1]["status"].update(phase="Terminating"), "monitoring"),
    "storage-classes": cluster(
        "/apis/storage.k8s.io/v1/storageclasses", lambda o: o[0].update(parameters={"type": "st1"})
    ),
    "volumes": cluster(
        "/api/v1/namespaces/production/persistentvolumeclaims",
        lambda o: o[1]["status"]["capacity"].update(storage="900G"),
        "audit",
    ),
    "load-balancer": cluster(
        "/apis/networking.k8s.io/v1/namespaces/production/ingresses", lambda o: o[0]["spec"].pop("tls")
    ),
    "dns": Break(value(dns_names=["api.web.test", "nowhere.test"]), told="nowhere.test"),
    "certificates": Break(value(tls_port=lambda world: world.short_tls_port), told="days left"),
    "network-policies": cluster(
        "/apis/networking.k8s.io/v1/networkpolicies",
        lambda o: o[0]["spec"].update(policyTypes=["Ingress"]),
        "does not deny egress",
    ),
    "firewall": Break(
        value(firewall_tried=lambda world: [f"{world.servers.redis}", f"{world.servers.other_redis}"]),
        told="should not be open",
    ),
    "secrets": cluster(_SECRETS, lambda o: o[3].update(secret("jwt-secret", secret_key="changeme")), "jwt-secret"),
    "jwt-secret": Break(sql=older("zone_keys", "created_at")),
    "redis-password": Break(_short_password, told="fewer than 32"),
    "database-passwords": cluster(
        _SECRETS, lambda o: o[0].update(secret("postgresql-credentials", username="o", password="a" * 32)), "pattern"
    ),
    "tls13": Break(value(tls_port=lambda world: world.old_tls_port), told="handshake"),
    "security-headers": Break(
        lambda world: world.surroundings.headers.pop("Permissions-Policy") and None, told="Permissions-Policy"
    ),
    "rate-limits": Break(_set(limit=100_000), told="none was refused"),
    "cors": Break(_set(allow_origin="https://stranger.invalid"), told="lets"),
    "pod-security": cluster("/api/v1/namespaces", lambda o: o[0]["metadata"].pop("labels")),
    "image-scan": report("image", trivy("CRITICAL")),
    "security-context": cluster(
        _DEPLOYMENTS, lambda o: _pod(o)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"), "writes"
    ),
    "postgresql": Break(
        sql=(["ALTER VIEW public.users RENAME TO users_away"], ["ALTER VIEW public.users_away RENAME TO users"])
    ),
    "replica": Break(told="0 replicas"),
    "schema": Break(_pending, told="0005"),
    "indexes": Break(
        sql=(
            ["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ledger.events_seq'::regclass".replace(":", "\\:")],
            ["UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'ledger.events_seq'::regclass".replace(":", "\\:")],
        )
    ),
    "pooling": Break(told="answers"),
    "wal-archiving": Break(sql=older("backup_log", "covered_until", "true", 1)),
    "daily-backup": Break(sql=spec("BackupPlan", "installation", "backup", '"0 2 * * *"', '"0 2 * * 0"')),
    "audit-database": Break(
        sql=(["UPDATE ledger.heads SET zone = 'x'", "CREATE TABLE ledger.away AS TABLE ledger.heads",
              "DELETE FROM ledger.heads"],
             ["INSERT INTO ledger.heads SELECT * FROM ledger.away", "DROP TABLE ledger.away"]),
    ),
    "hypertables": Break(
        sql=(["ALTER VIEW public.audit_logs RENAME TO away"], ["ALTER VIEW public.away RENAME TO audit_logs"])
    ),
    "compression": Break(sql=older("job_occurrences", "finished_at", JOB("seal-archive"))),
    "retention": Break(
        sql=(
            ["INSERT INTO ledger.archive_lives (zone, seal_days, hot_days, local_days, archive_days, changed_by,"
             " changed_at) VALUES ('default', 7, 7, 30, 365, 'ann', now())"],
            ["DELETE FROM ledger.archive_lives"],
        )
    ),
    "sentinel": Break(
        value(redis_sentinels=lambda world: [f"127.0.0.1:{world.servers.sentinels[0]}", "127.0.0.1:1", "127.0.0.1:2"]),
        told="1 of 3",
    ),
    "redis-auth": Break(_OTHER_REDIS, told="without a password"),
    "redis-persistence": Break(_OTHER_REDIS, told="snapshot"),
    "redis-backup": Break(_old_snapshot),
    "redis-pool": Break(figure("bailiwick_redis_pool_max", 10)),
    "redis-eviction": Break(_OTHER_REDIS, told="allkeys-lru"),
    "redis-memory": Break(_OTHER_REDIS, told="no limit"),
    "replicas": cluster(_DEPLOYMENTS, lambda o: o[0]["status"].update(readyReplicas=3), "3 of 4"),
    "environment": cluster(_DEPLOYMENTS, lambda o: _pod(o)["containers"][0]["env"].pop(0), "BAILIWICK_DATABASE_URL"),
    "config-maps": cluster("/api/v1/namespaces/production/configmaps", lambda o: o[1].pop("data"), "opa-config"),
    "health-checks": cluster(_DEPLOYMENTS, lambda o: _pod(o)["containers"][0].pop("readinessProbe"), "none asks"),
    "limits": cluster(
        _DEPLOYMENTS, lambda o: _pod(o)["containers"][0]["resources"]["limits"].pop("memory"), "no limit of memory"
    ),
    "autoscaler": cluster(
        "/apis/autoscaling/v2/namespaces/production/horizontalpodautoscalers",
        lambda o: o[0]["spec"].update(minReplicas=2),
        "from 2",
    ),
    "disruption-budget": cluster(
        "/apis/policy/v1/namespaces/production/poddisruptionbudgets", lambda o: o[0]["spec"].update(minAvailable=1)
    ),
    "policies": Break(
        sql=(
            ["UPDATE bailiwick.policy_versions SET name = 'away' WHERE name = 'rate_limiting'"],
            ["UPDATE bailiwick.policy_versions SET name = 'rate_limiting' WHERE name = 'away'"],
        )
    ),
    "service-discovery": Break(_set(consul=[]), verdict=_NO_DATA),
    "service-monitor": cluster(
        "/apis/monitoring.coreos.com/v1/namespaces/production/servicemonitors", lambda o: o[0]["spec"].pop("endpoints")
    ),
    "alertmanager": Break(
        value(alertmanager_url=lambda world: f"http://127.0.0.1:{world.servers.other_alertmanager}"), told="pagerduty"
    ),
    "critical-alerts": Break(_OTHER_PROMETHEUS, told="APIDown"),
    "grafana": cluster(
        "/apis/apps/v1/namespaces/monitoring/deployments", lambda o: o[0]["status"].update(readyReplicas=1)
    ),
    "dashboards": Break(lambda world: world.surroundings.dashboards.pop() and None, told="NGINX Ingress"),
    "data-sources": Break(_set(data_sources=["prometheus"]), told="loki"),
    "loki": Break(_set(loki_ready=False), verdict=Verdict.ERROR, told="503"),
    "log-forwarding": Break(_set(loki_lines=0.0), told="no line"),
    "siem": Break(_set(marks=False), told="splunk did not take the marker"),
    "backup-scripts": Break(sql=BACKUP_OLD),
    "backup-schedule": Break(sql=older("backups", "finished_at", "id IN ('b2', 'b3')", 30)),
    "backup-storage": Break(setting(backup_url=None)),
    "backup-retention": Break(sql=spec("BackupPlan", "installation", "keep,daily", "30", "14")),
    "recovery-test": Break(sql=gone("Ceremony", "disaster-recovery-test")),
    "restore-tested": Break(sql=RESTORE_OLD),
    "integration-tests": report("integration", junit(("api", "GET /servers"), failed=True)),
    "load-test": report("load", '{"requests_per_second": 800, "duration_seconds": 3600, "errors_percent": 0}'),
    "security-scan": report("scan", trivy("LOW"), days=30),
    "performance": report(
        "load",
        '{"requests_per_second": 1300, "duration_seconds": 3600, "errors_percent": 0, "p95_ms": 120, "p99_ms": 150}',
    ),
    "chaos": report("chaos", junit(("chaos", "pod is killed"))),
    "playbooks": Break(sql=gone("Runbook", "audit-tamper", "stale-revocation", "bad-policy-allow", "secret-exposure",
                                "break-glass", "gateway-circuit", "dead-letter-growth")),
    "rotation": levels("secondary"),
    "escalation": levels("manager"),
    "dry-runs": Break(sql=RUNS),
}  # fmt: skip
HANDED: dict[str, Break] = {
    "owners": Break(_nobody, told="security_owner"),
    "on-call": levels("primary"),
    "escalation-path": levels("lead"),
    "secret-inventory": Break(_gate, told="sink/x"),
    "backup-proof": Break(sql=BACKUP_OLD),
    "restore-proof": Break(sql=RESTORE_OLD),
    "event-delivery": Break(
        sql=(
            ["INSERT INTO bailiwick.outbox (zone, at, event) VALUES ('default', now() - interval '1 day', '{}')"],
            ["DELETE FROM bailiwick.outbox"],
        )
    ),
    "archive": Break(
        sql=(
            ["UPDATE bailiwick.job_occurrences SET detail = '{\"default\"\\: {\"verdict\"\\: \"FAIL\"}}'"
             " WHERE job = 'verify-archive'"],
            ["UPDATE bailiwick.job_occurrences SET detail = '{\"default\"\\: {\"verdict\"\\: \"PASS\"}}'"
             " WHERE job = 'verify-archive'"],
        )
    ),
    "egress": Break(sql=older("job_occurrences", "finished_at", JOB("resolve-upstreams"))),
    "alert-drill": Break(sql=older("alert_drills", "acknowledged_at")),
    "runbooks-executed": Break(sql=older("runbook_runs", "ended_at", "runbook = 'break-glass'")),
    "administrators": Break(sql=([MODE("mfa_enabled = false")], [MODE("mfa_enabled = true")])),
    "tamper-response": Break(sql=older("runbook_runs", "ended_at", "runbook = 'audit-tamper'")),
}  # fmt: skip
BAU: dict[str, Break] = {
    "four-owners": Break(_nobody),
    "ceremonies": Break(sql=gone("Ceremony", "kpi-review")),
    "checkpoints": Break(sql=(
        ["UPDATE bailiwick.assurance_documents SET in_force = false WHERE name = 'T14'"],
        ["UPDATE bailiwick.assurance_documents SET in_force = true WHERE name = 'T14'"],
    )),
    "canary": Break(sql=spec("WaiverControl", "canary", "waivable", "false", "true")),
    "two-persons": Break(sql=([MODE("is_active = false")], [MODE("is_active = true")])),
    "no-standing-secrets": Break(_gate),
    "high-waivers": Break(_waiver, told="w1"),
}  # fmt: skip
OWN: dict[str, Break] = {
    "database-answers": Break(told="does not answer"),
    "not-development": Break(setting(dev=True)),
    "real-clock": Break(setting(clock_factor=60.0)),
    "ready": Break(_set(ready=503), told="503"),
    "revocation-fresh": Break(figure("bailiwick_feed_fresh_timestamp_seconds", 1.0)),
    "freshness-limit": Break(setting(freshness_limit_s=600.0)),
    "disk": Break(figure("bailiwick_disk_free_ratio", 0.01)),
    "memory": Break(figure("bailiwick_memory_used_ratio", 0.99)),
    "connections": Break(figure("bailiwick_database_connections", 99.0)),
    "no-silent-jobs": Break(sql=SILENT),
    "no-urgent-alerts": Break(sql=ALERT),
    "no-urgent-incidents": Break(sql=([_INCIDENT], ["DELETE FROM bailiwick.incidents"])),
    "ledger-intact": Break(
        sql=(
            ["UPDATE bailiwick.job_occurrences SET detail = '{\"findings\"\\: 1}' WHERE job = 'verify-newest-events'"],
            ["UPDATE bailiwick.job_occurrences SET detail = '{\"findings\"\\: 0}' WHERE job = 'verify-newest-events'"],
        )
    ),
    "ledger-verified": Break(sql=older("job_occurrences", "finished_at", JOB("verify-newest-events"))),
    "sequencer": Break(figure("bailiwick_ledger_lag_seconds", 9000.0)),
    "spool": Break(figure("bailiwick_ledger_backlog_age_seconds", 9000.0)),
    "dead-letters": Break(figure("bailiwick_ledger_dead_letters", 3.0)),
    "siem-lag": Break(figure("bailiwick_siem_lag_seconds", 90_000.0)),
    "witnesses": Break(setting(witnesses=[])),
    "keys-escrowed": Break(setting(backup_escrow_key=None)),
    "own-certificate": Break(lambda world: world.certificate(5)),
    "tls-version": Break(setting(tls_min_version="1.2")),
    "rate-limit-anonymous": Break(setting(rate_limit_anonymous=5000)),
    "rate-limit-authenticated": Break(setting(rate_limit_authenticated=50_000)),
    "first-password": Break(sql=([MODE("must_change_password = true")], [MODE("must_change_password = false")])),
    "prometheus-replicas": cluster(
        "/apis/apps/v1/namespaces/monitoring/statefulsets", lambda o: o[0]["status"].pop("readyReplicas"), "0 of 2"
    ),
    "prometheus-retention": Break(_OTHER_PROMETHEUS, told="15 days"),
    "prometheus-targets": Break(_OTHER_PROMETHEUS, told="not up"),
    "prometheus-ready": Break(value(prometheus_url="http://127.0.0.1:1"), verdict=Verdict.ERROR),
    "grafana-ready": Break(_set(grafana_database="failing"), told="failing"),
    "redis-answers": Break(
        lambda world: (world.files / "redis").write_text(f"redis://:{STRONG}x@127.0.0.1:{world.servers.redis}") and None,
        verdict=Verdict.ERROR, told="WRONGPASS",
    ),
    "unit-tests-run": Break(lambda world: world.write("unit", "<testsuites/>"), verdict=_NO_DATA, told="no test"),
    "coverage": report("coverage", '{"totals": {"percent_covered": 86.9, "num_statements": 900}}'),
}  # fmt: skip

BREAKS: dict[str, Break] = {
    f"{checklist}/{item}": each
    for checklist, breaks in (("pre-deployment", PRE), ("platform-handoff", HANDED), ("bau", BAU), ("bailiwick", OWN))
    for item, each in breaks.items()
}
