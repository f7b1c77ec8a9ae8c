"""The book of the story's platform: what pays out, what a bank says of it, and what must be so."""

from __future__ import annotations

from pathlib import Path

from bailiwick.assurance.book import Document, read_text
from bailiwick.assurance.shipped import shipped
from bailiwick.kernel.embedded_postgres import PORT

KEPT = ("Activity", "Rota", "WaiverControl", "WaiverTier", "OverrideRule", "Checkpoint", "Threshold")
"""The kinds of shipped documents that hold in the story as they are."""


def story_book(socket_dir: Path, database: str, files: Path, mail: int) -> list[Document]:
    """What is in force in the life: much of what we ship, and the story's own."""
    own = read_text(
        _OWN % {"host": socket_dir, "port": PORT, "database": database, "files": files, "mail": mail}, "story.yaml"
    )
    return [each for each in shipped("default") if each.kind in KEPT] + own


_OWN = """
apiVersion: bailiwick/v1
kind: Channel
metadata: {name: chat}
spec: {slack: {}, secret_name: chat-webhook, give_up_after: 2}
---
apiVersion: bailiwick/v1
kind: Route
metadata: {name: everything}
spec: {channels: [chat], group_wait: 0s}
---
apiVersion: bailiwick/v1
kind: Channel
metadata: {name: mail}
spec: {email: {host: 127.0.0.1, port: %(mail)s, tls: none, for_people: true}, give_up_after: 2}
---
apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: payouts}
spec: {operation: payout.force, approvals: 1, roles: [finance_owner, admin], ttl_minutes: 240}
---
apiVersion: bailiwick/v1
kind: OverrideRule
metadata: {name: provider}
spec: {operation: provider.pause, approvals: 1, roles: [ops_owner, security_owner, admin], ttl_minutes: 240}
---
apiVersion: bailiwick/v1
kind: Connection
metadata: {name: core}
spec:
  kind: postgresql
  host: %(host)s
  port: %(port)s
  database: %(database)s
  credential: core
  owner: reconciliation
---
apiVersion: bailiwick/v1
kind: Connection
metadata: {name: bank}
spec: {kind: files, directory: %(files)s, owner: reconciliation}
---
apiVersion: bailiwick/v1
kind: Machine
metadata: {name: payouts}
spec:
  description: Payouts on their way
  owner: stuck-jobs
  runbook: docs/how-to/stuck.md
  source: {connection: core, sql: "SELECT id, state, entered_at FROM pay.payouts"}
  item: id
  entered_at: entered_at
  history: true
  every: 12h
  severity: P1
  states:
    pending: {limit: 24h}
    sent: {limit: 48h}
    paid: {final: true}
---
apiVersion: bailiwick/v1
kind: Reconciliation
metadata: {name: payouts}
spec:
  description: What we say was paid, and what the bank says
  owner: reconciliation
  runbook: docs/how-to/reconciliation.md
  left: {connection: core, sql: "SELECT id, amount FROM pay.payouts WHERE state = 'paid'"}
  right: {connection: bank, file: statement.csv}
  keys: [{left: id, right: ref}]
  fields: [{left: amount, right: value, kind: decimal}]
  schedule: {delta: "0 */12 * * *", full: "0 12 * * 0"}
---
apiVersion: bailiwick/v1
kind: Ceremony
metadata: {name: ops-health}
spec:
  title: Weekly operations health
  every: {weekday: wednesday, at: "12:00"}
  owner: uptime
  roles: [ops_owner]
  sections: [actions]
  automatic: [waivers.open, slo.state, reconciliation.state, stuck.state]
---
apiVersion: bailiwick/v1
kind: Capacity
metadata: {name: requests}
spec:
  unit: requests
  use: {sql: "SELECT count(*) AS value FROM api_requests WHERE at >= :since AND at < :until"}
  limit: 1000000
  owner: capacity-planning
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: errors}
spec:
  service: api
  indicator:
    metadata: {name: errors}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: bailiwick/requests, spec: {status_below: 500}}}
        total: {metricSource: {type: bailiwick/requests, spec: {}}}
  timeWindow: [{duration: 28d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.99}]
  bailiwick: {settle: 1m}
"""
