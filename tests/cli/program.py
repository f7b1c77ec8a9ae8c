"""The ``bailiwick`` command with stand-ins for the application and the gateway; everything else is the product's.

``STANDIN_REAL_ROLES=1`` runs the roles through the product's hidden commands on a stand-in composition root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
LIGHT = (sys.executable, "-S", "-E", str(HERE / "standin.py"))


class StandinGateway:
    """Runs the stand-in proxy and writes down which workers it was told of."""

    def __init__(self, settings, layout):
        from bailiwick.cli.supervisor.probes import http_probe

        self._layout = layout
        self._settings = settings
        self.ready = self.alive = http_probe(layout.envoy / "admin.sock", "/ready")

    @property
    def argv(self):
        ports = f"{self._settings.api_port},{self._settings.gateway_port}"
        return [*LIGHT, "proxy", ports]

    async def prepare(self):
        (self._layout.envoy / "admin.sock").unlink(missing_ok=True)

    async def set_workers(self, workers):
        with (self._layout.data_dir / "told").open("a") as file:
            file.write(" ".join(worker.slot for worker in workers) + "\n")

    async def drain(self):
        with (self._layout.data_dir / "told").open("a") as file:
            file.write("drain\n")

    async def reload(self):
        with (self._layout.data_dir / "told").open("a") as file:
            file.write("reload\n")


def composition_root() -> dict[str, ModuleType]:
    """What the modules of ``bailiwick.app`` offer the roles, made of the stand-in part."""
    roles = {name: ModuleType(f"standin_app.{name}") for name in ("prepare", "serve", "guard", "work")}

    def run(layout, *arguments):
        print("database login", urlsplit(os.environ["BAILIWICK_DATABASE_URL"]).username, flush=True)
        os.environ["STANDIN_RUN"] = str(layout.run)
        sys.argv = ["standin.py", *arguments]
        exec(compile((HERE / "standin.py").read_text(), "standin.py", "exec"), {"__name__": "standin"})

    async def bootstrap(settings):
        from psycopg import AsyncConnection

        async with await AsyncConnection.connect(settings.database_url.get_secret_value()) as connection:
            row = await (await connection.execute("SELECT current_database(), current_user")).fetchone()
        return {"database": row[0], "login": row[1]}

    roles["prepare"].bootstrap = bootstrap
    roles["serve"].run = lambda settings, layout, slot: run(layout, "serve", "--slot", slot)
    roles["guard"].run = lambda settings, layout: run(layout, "guard")
    roles["work"].run = lambda settings, layout: run(layout, "work")
    return {module.__name__: module for module in roles.values()}


def main() -> None:
    from bailiwick.cli import main, roles, up
    from bailiwick.cli.supervisor import launch, stack

    module = ModuleType("standin_gateway")
    module.gateway = StandinGateway
    sys.modules["standin_gateway"] = module
    launch.GATEWAY = "standin_gateway:gateway"
    up.ENTRY = (sys.executable, str(HERE / "program.py"))
    if os.environ.get("STANDIN_REAL_ROLES"):
        sys.modules |= {"standin_app": ModuleType("standin_app")} | composition_root()
        roles.COMPOSITION_ROOT = "standin_app"
        launch.PROGRAM = stack.Program(base=up.ENTRY)
    else:
        launch.PROGRAM = stack.Program(base=LIGHT, nursery=None)
    main.main()


if __name__ == "__main__":
    main()
