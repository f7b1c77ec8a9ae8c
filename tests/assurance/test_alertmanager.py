"""A real Prometheus notices something, a real Alertmanager hands it in by our webhook, and takes it back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from aiohttp import web as aio
from alerting import Alerting

from bailiwick.assurance.alerting.api import AlertServices
from bailiwick.assurance.alerting.api import routes as alert_routes
from people_fixtures import House
from ports import free_port


class Target:
    """What is watched: up or not."""

    def __init__(self) -> None:
        self.up = 1

    async def metrics(self, request: aio.Request) -> aio.Response:
        return aio.Response(text=f"# TYPE pay_up gauge\npay_up {self.up}\n")


@contextlib.asynccontextmanager
async def served(target: Target) -> AsyncIterator[int]:
    app = aio.Application()
    app.router.add_get("/metrics", target.metrics)
    runner = aio.AppRunner(app)
    await runner.setup()
    port = free_port()
    await aio.TCPSite(runner, "127.0.0.1", port).start()
    yield port
    await runner.cleanup()


@contextlib.asynccontextmanager
async def api_of(alerting: Alerting) -> AsyncIterator[int]:
    """The routes of alerts on a port."""
    stage = alerting.stage
    stage.serve(
        alert_routes(
            AlertServices(
                alerting.database, alerting.desk, alerting.silences, alerting.receiver, alerting.figures,
                alerting.drills, alerting.evaluator,
            )
        )
    )  # fmt: skip
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(stage.people.lanes, "127.0.0.1", port, log_level="error", lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined,method-assign,unused-ignore]
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.02)
    yield port
    server.should_exit = True
    await serving


@contextlib.contextmanager
def running(*command: str) -> Any:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def alertmanager_config(port: int, token: str) -> str:
    return f"""
route: {{receiver: bailiwick, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers:
- name: bailiwick
  webhook_configs:
  - url: http://127.0.0.1:{port}/api/v1/alerts/alertmanager
    send_resolved: true
    http_config: {{authorization: {{type: Bearer, credentials: {token}}}}}
"""


def prometheus_config(target: int, alertmanager: int) -> str:
    return f"""
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs: [{{job_name: pay, static_configs: [{{targets: ["127.0.0.1:{target}"]}}]}}]
"""


RULES = """
groups:
- name: pay
  rules:
  - alert: PayDown
    expr: pay_up == 0
    labels: {severity: critical, pagerduty: P0, service: pay, team: ops_owner}
    annotations: {summary: Payments are down, description: None goes through, runbook_url: "https://r.example.com/pay"}
"""


async def until(met: Callable[[], Any], seconds: float = 60) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await met()):
            await asyncio.sleep(0.1)
        return found


@pytest.mark.timeout(150)
async def test_prometheus_and_alertmanager_deliver_what_fires_and_what_is_over(house: House, tmp_path: Path) -> None:
    alerting, target = Alerting(house), Target()
    # both servers have the machine's clock; what they send began before now
    house.clock.set_wall(time.time() + 3600 - house.clock.time())
    token = await house.signed_in("prometheus", "operator")
    async with served(target) as watched, api_of(alerting) as port:
        am, prometheus = free_port(), free_port()
        (tmp_path / "am.yml").write_text(alertmanager_config(port, token))
        (tmp_path / "prometheus.yml").write_text(prometheus_config(watched, am))
        (tmp_path / "rules.yml").write_text(RULES)
        with (
            running(
                "prometheus-alertmanager", f"--config.file={tmp_path}/am.yml", f"--storage.path={tmp_path}/am",
                f"--web.listen-address=127.0.0.1:{am}", "--cluster.listen-address=",
            ),
            running(
                "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
                f"--web.listen-address=127.0.0.1:{prometheus}", "--rules.alert.resend-delay=1s",
            ),
        ):  # fmt: skip
            target.up = 0
            (row,) = await until(lambda: alerting.rows("SELECT * FROM alerts WHERE state = 'firing'"))
            assert (row["rule"], row["severity"], row["summary"], row["source"]) == (
                "PayDown", "P0", "Payments are down", "alertmanager",
            )  # fmt: skip
            assert row["labels"]["instance"] == f"127.0.0.1:{watched}" and row["missing"] == ["owner"]
            assert len(row["key"].removeprefix("alertmanager/")) == 16
            target.up = 1
            await until(lambda: alerting.rows("SELECT 1 FROM alerts WHERE state = 'resolved'"))
            # it breaks again: another turn, another alert
            target.up = 0
            await until(lambda: alerting.rows("SELECT 1 FROM alerts WHERE state = 'firing'"))
    assert len(await alerting.rows("SELECT 1 FROM alerts")) == 2
