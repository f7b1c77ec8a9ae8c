"""``bailiwick up`` and its companions as a person uses them: real commands, the real PostgreSQL, stand-in roles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bailiwick.cli.failure import CommandFailed
from bailiwick.cli.supervisor.ports import complaint, owner_of
from bailiwick.cli.up import prepare_launch
from bailiwick.kernel.clock_file import pace_of, set_pace
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.processes import RunAs, child_setup, may_traverse, started_at, unprivileged_user
from ports import free_port

PROGRAM = str(Path(__file__).parent / "program.py")
ROOT = os.geteuid() == 0


def free_ports() -> tuple[int, int]:
    return free_port(), free_port()


@dataclass
class Installation:
    """A data directory and the command that drives it."""

    data_dir: Path
    orders: Path
    ports: tuple[int, int] = field(default_factory=free_ports)
    environment: dict[str, str] = field(default_factory=dict)
    run_as: RunAs | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.data_dir)

    @property
    def env(self) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("BAILIWICK_")}
        ours = {"STANDIN_RUN": str(self.layout.run), "STANDIN_ORDERS": str(self.orders)}
        return known | ours | self.environment

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, PROGRAM, *arguments, "--data-dir", str(self.data_dir)],
            env=self.env,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=child_setup(self.run_as) if self.run_as else None,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.popen(*arguments)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--detach", *self.flags, *arguments)

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--api-port", str(self.ports[0]), "--gateway-port", str(self.ports[1]))

    def status(self) -> dict:
        """What the supervisor last wrote; quicker than asking it through a new process."""
        return json.loads(_text(self.layout.status_file) or "{}")

    def part(self, name: str) -> dict:
        return next(part for part in self.status()["parts"] if part["name"] == name)

    def told(self) -> list[str]:
        return (self.data_dir / "told").read_text().splitlines()

    def processes(self) -> dict[int, str]:
        """Every process that has to do with this installation: by its arguments, environment or directory."""
        mark, found = os.fsencode(self.data_dir), {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    seen = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    seen += bytes((entry / "cwd").readlink())
                    if mark in seen:
                        found[int(entry.name)] = (entry / "comm").read_text().strip()
                except OSError:
                    continue
        return found

    def assert_nothing_left(self) -> None:
        assert self.processes() == {}
        left = [str(path) for path in self.data_dir.rglob("*") if path.is_socket()]
        left += [str(path) for path in self.data_dir.glob("lock*")]
        assert left == []
        assert not list(self.data_dir.glob("pg/18/postmaster.pid"))


def wait_for(condition, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    (tmp_path / "orders").mkdir()
    # short, as /var/lib/bailiwick is: the long path has a test of its own
    with tempfile.TemporaryDirectory(prefix="bw ünï ", dir="/tmp") as name:
        made = Installation(Path(name) / "data", tmp_path / "orders")
        with cleaned(made):
            yield made


@contextmanager
def cleaned(made: Installation) -> Iterator[None]:
    try:
        yield
    finally:
        for pid in made.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_up_status_workers_down(installation: Installation) -> None:
    up = installation.up("--workers", "2", "--dev")
    assert up.returncode == 0, up.stderr
    assert [line.split()[0] for line in up.stdout.splitlines() if " ms " in line][:2] == ["postgres", "prepare"]
    assert "DEVELOPMENT MODE" in up.stdout
    assert f"http://127.0.0.1:{installation.ports[0]}" in up.stdout
    assert "correct-horse" in up.stdout and "\x1b" not in up.stdout
    assert max(map(len, up.stdout.splitlines())) <= 80
    assert "correct-horse" not in installation.layout.log("prepare").read_text()

    shown = installation.run("status")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "readiness       ready" in shown.stdout
    parts = {part["name"]: part for part in json.loads(installation.run("status", "--json").stdout)["parts"]}
    assert set(parts) == {"postgres", "prepare", "w1", "w2", "guard", "work", "gateway"}
    assert all(part["memory_bytes"] for name, part in parts.items() if name != "prepare")

    again = installation.run("up", *installation.flags)
    assert again.returncode == 2
    supervisor = installation.status()["pid"]
    assert f"in use by pid {supervisor}, at http://127.0.0.1:{installation.ports[0]}" in again.stderr
    assert len(again.stderr.splitlines()) == 1

    assert installation.run("workers", "1").stdout == "workers: w1\n"
    assert installation.told() == ["w1 w2", "w1"]
    os.kill(parts["work"]["pid"], signal.SIGKILL)
    wait_for(lambda: installation.part("work")["restarts"] == 1 and installation.status()["state"] == "ready")
    os.kill(supervisor, signal.SIGHUP)
    wait_for(lambda: installation.told()[-1] == "reload")

    down = installation.run("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n"), down.stderr
    assert installation.told()[-1] == "drain"
    installation.assert_nothing_left()
    for command in ("down", "status"):
        assert installation.run(command).returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_in_order(installation: Installation, number: signal.Signals) -> None:
    process = installation.popen("up", *installation.flags)
    assert process.stdout is not None
    seen = ""
    while "ready in" not in seen:
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        seen += line
    assert len(installation.processes()) > 5
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.rstrip().endswith("stopped")
    installation.assert_nothing_left()
    ends = [
        json.loads(line)["ts"]
        for part in ("w1", "guard", "work")
        for line in installation.layout.log(part).read_text().splitlines()
        if "drained" in line
    ]
    assert len(ends) == 3 and ends == sorted(ends)
    assert "database system is shut down" in installation.layout.log("postgres").read_text()


def test_a_signal_while_starting_stops_what_was_started(installation: Installation) -> None:
    (installation.orders / "w1.unready").touch()
    process = installation.popen("up", *installation.flags)
    wait_for(lambda: installation.layout.slot("w1").api.exists())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    installation.assert_nothing_left()


def test_a_second_signal_hastens(installation: Installation) -> None:
    (installation.orders / "w1.deaf").touch()
    assert installation.up().returncode == 0
    supervisor = installation.status()["pid"]
    os.kill(supervisor, signal.SIGTERM)
    wait_for(lambda: '"state": "draining"' in _text(installation.layout.status_file))
    began = time.perf_counter()
    os.kill(supervisor, signal.SIGTERM)
    wait_for(lambda: started_at(supervisor) is None)
    assert time.perf_counter() - began < 5, "its drain would have been 10 s"
    installation.assert_nothing_left()


def test_a_supervisor_killed_with_9_takes_everything_along_and_up_works_again(installation: Installation) -> None:
    (installation.orders / "work.child").touch()
    assert installation.up().returncode == 0
    pid = installation.status()["pid"]
    assert len(installation.processes()) > 6
    stopped = installation.part("postgres")["pid"]
    os.kill(stopped, signal.SIGSTOP)  # it cannot heed the signal it gets when its parent dies
    os.kill(pid, signal.SIGKILL)
    # the kernel ends the parts; what a part had started itself, and what was stopped, is the next start's to end
    wait_for(lambda: set(installation.processes().values()) <= {"postgres", "python"})
    wait_for(lambda: len([name for name in installation.processes().values() if name == "python"]) <= 1)
    (installation.orders / "work.child").unlink()
    assert installation.run("status").returncode == 3
    up = installation.up()
    assert up.returncode == 0, up.stdout + up.stderr
    assert started_at(stopped) is None
    assert installation.run("down").returncode == 0
    installation.assert_nothing_left()


def test_a_killed_supervisor_with_quiet_parts_leaves_nothing(installation: Installation) -> None:
    assert installation.up().returncode == 0
    os.kill(installation.status()["pid"], signal.SIGKILL)
    wait_for(lambda: installation.processes() == {})


def test_the_roles_run_on_the_composition_root_with_a_database_each_may_use(installation: Installation) -> None:
    installation.environment["STANDIN_REAL_ROLES"] = "1"
    up = installation.up()
    assert up.returncode == 0, up.stdout + up.stderr
    assert "database             bailiwick" in up.stdout
    assert "login                bailiwick_admin" in up.stdout
    said = installation.layout.log("w1").read_text()
    assert "database login bailiwick_app" in said
    assert installation.run("restart", "nobody").returncode == 1
    assert installation.run("down").returncode == 0
    installation.assert_nothing_left()


def test_roles_come_from_the_nursery_and_do_not_depend_on_it(installation: Installation) -> None:
    installation.environment["STANDIN_REAL_ROLES"] = "1"
    assert installation.up().returncode == 0
    supervisor, nursery, worker = (installation.status()["pid"], *map(_pid_of(installation), ("nursery", "w1")))
    assert _parent(worker) == supervisor
    assert Path(f"/proc/{worker}/cmdline").read_bytes() == Path(f"/proc/{nursery}/cmdline").read_bytes(), "forked"
    assert Path(f"/proc/{worker}/comm").read_text() == "bw-w1\n"
    os.kill(nursery, signal.SIGKILL)
    wait_for(lambda: installation.part("nursery")["restarts"] == 1)
    assert started_at(worker) is not None
    wait_for(lambda: installation.part("nursery")["state"] == "ready")
    os.kill(installation.part("nursery")["pid"], signal.SIGSTOP)
    assert installation.run("restart", "w1").returncode == 0
    assert b"serve" in Path(f"/proc/{installation.part('w1')['pid']}/cmdline").read_bytes(), "started without it"
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: installation.processes() == {})


def test_up_that_fails_says_which_part_and_its_last_words(installation: Installation) -> None:
    (installation.orders / "guard.die").touch()
    up = installation.up()
    assert up.returncode == 1
    assert "guard did not start: exit 3" in up.stdout
    assert "ERROR no such luck" in up.stdout
    installation.assert_nothing_left()


def test_a_port_in_use_is_refused_naming_its_owner_before_anything_starts(installation: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        installation.ports = (port, installation.ports[1])
        up = installation.up()
        assert up.returncode == 2
        assert f"port {port} (--api-port) is in use by pid {os.getpid()} (" in up.stderr
        assert len(up.stderr.splitlines()) == 1
        assert not (installation.data_dir / "pg" / "18").exists()
        installation.assert_nothing_left()
        assert owner_of(installation.ports[1]) is None
        assert complaint("127.0.0.1", installation.ports[1], "--gateway-port") is None
        assert "not an address of this machine" in str(complaint("203.0.113.7", port, "--host"))


def test_an_owner_we_may_not_see_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("bailiwick.cli.supervisor.ports.owner_of", lambda _: None)
        assert "whose owner is not visible" in str(complaint("127.0.0.1", port, "--api-port"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"api_port": 0}, "--api-port: "),
        ({"api_port": 9000, "gateway_port": 9000}, "must differ"),
        ({"workers": 0}, "--workers: "),
        ({"host": "0.0.0.0"}, "needs TLS"),
        ({"tls_cert": Path("c.pem")}, "go together"),
        ({"dev": True, "host": "0.0.0.0", "tls_cert": Path("c"), "tls_key": Path("k")}, "loopback only"),
        ({"clock_factor": 2.0}, "needs development mode"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, flags: dict, said: str) -> None:
    with pytest.raises(CommandFailed, match=said) as refused:
        prepare_launch({"data_dir": tmp_path, **flags})
    assert refused.value.code == 2
    assert "\n" not in str(refused.value)


async def test_an_installation_whose_time_was_shifted_stays_in_development(tmp_path: Path) -> None:
    from bailiwick.cli.supervisor import launch

    layout = Layout(tmp_path / "data")
    layout.create()
    set_pace(layout, 60.0)
    before = pace_of(layout)
    api, gateway = free_ports()
    with pytest.raises(launch.Refused, match="development mode only"):
        await prepare_launch({"data_dir": layout.data_dir, "api_port": api, "gateway_port": gateway}).run()
    assert pace_of(layout) == before


async def test_what_the_machine_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bailiwick.cli.supervisor import launch

    (tmp_path / "file").write_text("")
    with pytest.raises(launch.Refused, match="not a directory"):
        await prepare_launch({"data_dir": tmp_path / "file"}).run()
    absent = {"data_dir": tmp_path / "data", "tls_cert": tmp_path / "none", "tls_key": tmp_path / "none"}
    with pytest.raises(launch.Refused, match="there is no such file"):
        await prepare_launch(absent).run()
    garbage = absent | {"tls_cert": tmp_path / "file", "tls_key": tmp_path / "file"}
    with pytest.raises(launch.Refused, match="--tls-cert and --tls-key: "):
        await prepare_launch(garbage).run()
    monkeypatch.setattr(launch, "SPACE_FOR_NEW_CLUSTER", 1 << 60)
    with pytest.raises(launch.Refused, match="not enough space"):
        await prepare_launch({"data_dir": tmp_path / "data"}).run()
    assert not (tmp_path / "data" / "lock").exists()


def test_as_an_ordinary_user_on_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    base = Path(tempfile.mkdtemp(prefix="bw ordinary ", dir="/tmp"))
    user = unprivileged_user(("nobody",)) if ROOT else None
    if user is not None:
        interpreters = (Path(sys.executable), Path(sys.executable).resolve())
        reachable = all(may_traverse(path, user.uid, user.gid) for path in interpreters)
        user = RunAs(user.name, user.uid, user.gid, traverse=not reachable)
        os.chown(base, user.uid, user.gid)
    orders = base / "orders"
    made = Installation(base / ("a name that goes on and on " * 4), orders, run_as=user)
    made.environment["HOME"] = str(base)
    try:
        with cleaned(made):
            # the run directory's name depends on who asks
            uid = user.uid if user else os.geteuid()
            made.environment["STANDIN_RUN"] = str(made.layout.run).replace(f"-{os.geteuid()}-", f"-{uid}-")
            up = made.up()
            assert up.returncode == 0, up.stdout + up.stderr
            found = json.loads(made.run("status", "--json").stdout)
            assert found["readiness"]["ready"]
            for part in found["parts"]:
                if part["pid"]:
                    assert Path(f"/proc/{part['pid']}").stat().st_uid == uid
            assert made.run("down").returncode == 0
            made.assert_nothing_left()
            assert not Path(made.environment["STANDIN_RUN"]).exists()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def test_the_help_comes_at_once() -> None:
    # what makes a command slow is what it imports
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bailiwick.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"fastapi", "sqlalchemy", "pydantic", "psycopg", "aiohttp", "cryptography", "grpc"}
    for name in ("up", "status", "down", "logs", "workers", "restart", "version"):
        assert f"  {name} " in shown.stdout
    assert "guard" not in shown.stdout


def test_version_and_unknown_commands() -> None:
    def bailiwick(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bailiwick.cli.main", *arguments], capture_output=True, text=True, check=False
        )

    assert json.loads(bailiwick("version", "--json").stdout)["version"]
    assert bailiwick("conquer").returncode == 2
    assert bailiwick("workers", "0").returncode == 2


def _pid_of(installation: Installation):
    return lambda name: installation.part(name)["pid"]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
