"""The supervisor on stand-in parts: real processes, real sockets, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from supervisor_stage import STANDIN, facts, gone, until

from bailiwick.cli.supervisor.control import ControlServer
from bailiwick.cli.supervisor.leftovers import end_leftovers
from bailiwick.cli.supervisor.part import Backoff, Exit, Pace, Part, Pulse, State
from bailiwick.cli.supervisor.supervisor import Progress, StartFailed, UnknownPart
from bailiwick.kernel.control import SupervisorRefused, SupervisorSilent, ask_supervisor, fence
from bailiwick.kernel.processes import Command, children_of, process_tree


def test_backoff_doubles_to_its_longest_and_starts_over_after_a_healthy_life() -> None:
    backoff = Backoff(Pace())
    assert [backoff.next_delay(0) for _ in range(9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.next_delay(59.9) == 10.0
    assert backoff.next_delay(60.0) == 0.1


def test_a_part_is_hung_only_after_misses_that_last() -> None:
    pulse = Pulse(5.0)
    assert not pulse.beat(False, 100.0)
    # we were stopped ourselves: one old miss, and time that nobody spent probing
    assert not pulse.beat(False, 200.0)
    assert not pulse.beat(True, 200.1)
    assert [pulse.beat(False, 300.0 + second) for second in range(7)] == [False] * 5 + [True, True]


async def test_parts_start_in_stages_and_held_ones_wait_for_theirs(stage) -> None:
    seen: list[Progress] = []
    environment = {"STANDIN_RUN": str(stage.layout.run), "STANDIN_ORDERS": str(stage.orders)}
    prepare = stage.part(
        "prepare", stage=20, once=True, hold="--hold", command=lambda: Command([*STANDIN, "prepare"], environment)
    )
    held = stage.part("work", hold="--hold", stop_rank=40)
    async with stage.running(stage.part("first", stage=10, stop_rank=90), prepare, held, observe=seen.append) as it:
        assert [step.part for step in seen] == ["first", "prepare", "work"]
        assert json.loads(it.result("prepare").splitlines()[-1])["administrator"] == "admin"
        assert [part["state"] for part in it.status()["parts"]] == ["ready", "done", "ready"]
        assert it.status()["state"] == "ready"
        written = json.loads(stage.layout.status_file.read_text())
        assert {part["name"]: part["pid"] for part in written["parts"]}["work"] == facts(it, "work")["pid"]
        assert stat.S_IMODE(stage.layout.status_file.stat().st_mode) == 0o600
        events = [json.loads(line)["event"] for line in stage.layout.log("work").read_text().splitlines()]
        assert events == ["held", "work starts"]


async def test_a_part_that_dies_is_restarted_and_reported(stage) -> None:
    exits: list[Exit] = []

    async def on_exit(ended: Exit) -> None:
        exits.append(ended)

    async with stage.running(stage.part("guard", on_exit=on_exit), workers=2) as it:
        await stage.crash("guard")
        await until(lambda: facts(it, "guard")["restarts"] == 1 and facts(it, "guard")["state"] == "ready")
        assert [(ended.code, ended.expected, ended.cause) for ended in exits] == [(3, False, "exit 3")]
        await stage.crash("w1")
        await until(lambda: stage.told[-3:] == [("w1", "w2"), ("w2",), ("w1", "w2")])
        assert facts(it, "w1")["last_exit"] == "exit 3"
        assert facts(it, "w2")["restarts"] == 0
        assert "w1 ended: exit 3" in stage.layout.log("w1").read_text()


async def test_a_stopped_process_counts_as_hung_and_is_replaced(stage) -> None:
    async with stage.running(stage.part("work")) as it:
        pid = facts(it, "work")["pid"]
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: facts(it, "work")["state"] == "ready" and facts(it, "work")["pid"] != pid)
        assert gone(pid)
        assert facts(it, "work")["last_exit"].startswith("hung")
        assert facts(it, "work")["restarts"] == 1


async def test_a_part_that_never_gets_ready_fails_the_start_with_its_last_words(stage) -> None:
    stage.order("work", "die")
    supervisor = stage.supervisor(stage.part("work"))
    with pytest.raises(StartFailed) as failure:
        await supervisor.start()
    await supervisor.stop()
    assert failure.value.cause == "exit 3"
    assert "ERROR no such luck" in failure.value.log_tail
    assert stage.layout.log("work").read_text().count("work starts") == 3


async def test_a_part_that_says_its_configuration_is_wrong_is_not_tried_again(stage) -> None:
    stage.order("work", "wrong")
    supervisor = stage.supervisor(stage.part("work"))
    with pytest.raises(StartFailed):
        await supervisor.start()
    await supervisor.stop()
    assert stage.layout.log("work").read_text().count("work starts") == 1


async def test_a_part_that_is_not_ready_in_time_is_killed(stage) -> None:
    stage.order("work", "unready")
    supervisor = stage.supervisor(stage.part("work", start_seconds=0.15), pace=Pace(start_attempts=1, start_poll=0.01))
    with pytest.raises(StartFailed, match="not ready after"):
        await supervisor.start()
    assert facts(supervisor, "work")["pid"] is None
    await supervisor.stop()


async def test_an_executable_that_is_missing_is_said(stage) -> None:
    supervisor = stage.supervisor(stage.part("work", command=lambda: Command(["/nonexistent/envoy"], {})))
    with pytest.raises(StartFailed, match="No such file"):
        await supervisor.start()
    await supervisor.stop()


@pytest.mark.parametrize("stopped", [False, True])
async def test_fence_answers_when_the_process_is_gone(stage, stopped: bool) -> None:
    async with stage.running(workers=2) as it:
        pid = facts(it, "w1")["pid"]
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        began = time.perf_counter()
        ended = await it.fence("w1")
        assert time.perf_counter() - began < 20  # far below the drain time, however busy the machine
        assert ended is not None and ended.pid == pid
        assert gone(pid)
        assert stage.told[-1] == ("w2",)
        await until(lambda: stage.told[-1] == ("w1", "w2"))
        assert facts(it, "w1")["last_exit"] == "fenced"


async def test_workers_join_when_ready_and_leave_the_gateway_before_they_stop(stage) -> None:
    async with stage.running(workers=1) as it:
        assert stage.told == [("w1",)]
        assert await it.set_workers(3) == ["w1", "w2", "w3"]
        assert stage.told[-1] == ("w1", "w2", "w3")
        for slot in ("w2", "w3"):
            stage.order(slot, "slow")
        assert await it.set_workers(1) == ["w1"]
        assert stage.told[-1] == ("w1",)
        # when the gateway was told that one leaves, that one was still there to finish what it had
        first_departure = stage.told.index(("w1", "w2", "w3")) + 1
        assert stage.alive_when_told[first_departure] == {"w1", "w2", "w3"}
        assert all(gone(stage.pids[slot]) for slot in ("w2", "w3"))
        assert "drained" in stage.layout.log("w3").read_text()


async def test_a_new_worker_that_fails_leaves_the_others_alone(stage) -> None:
    stage.order("w2", "wrong")
    async with stage.running(workers=1) as it:
        with pytest.raises(StartFailed):
            await it.set_workers(2)
        assert [worker.slot for worker in it.workers] == ["w1"]
        assert it.status()["state"] == "ready"
        with pytest.raises(UnknownPart):
            await it.set_workers(0)


async def test_stopping_follows_the_ranks_and_leaves_no_process(stage) -> None:
    order: list[str] = []

    def named(name: str, rank: int) -> Part:
        async def on_exit(ended: Exit) -> None:
            order.append(ended.part)

        return stage.part(name, stop_rank=rank, on_exit=on_exit)

    stage.order("work", "child")
    parts = [named("postgres", 90), named("work", 40), named("gateway", 0), named("guard", 30)]
    async with stage.running(*parts, workers=1) as it:
        pids = [pid for child in children_of(os.getpid()) for pid in process_tree(child)]
        pids = [pid for pid in pids if _is_standin(pid)]
        assert len(pids) == 6, "five parts, and the child of one of them"
        assert it.status()["state"] == "ready"
    assert order == ["gateway", "guard", "work", "postgres"]
    assert all(gone(pid) for pid in pids)
    assert not list(stage.layout.run.glob("w1/*.sock"))


async def test_a_deaf_part_is_killed_after_its_drain_and_at_once_when_hastened(stage) -> None:
    stage.order("work", "deaf")
    async with stage.running(stage.part("work", drain_seconds=0.1)):
        began = time.perf_counter()
    assert 0.1 <= time.perf_counter() - began < 30
    supervisor = stage.supervisor(stage.part("work", drain_seconds=60.0))
    await supervisor.start()
    pid = facts(supervisor, "work")["pid"]
    stopping = asyncio.create_task(supervisor.stop())
    await until(lambda: facts(supervisor, "work")["state"] == State.DRAINING)
    supervisor.hasten()
    await asyncio.wait_for(stopping, 5)
    assert gone(pid)


async def test_what_a_dead_part_left_running_goes_with_it(stage) -> None:
    stage.order("work", "child")
    async with stage.running(stage.part("work")) as it:
        pid = facts(it, "work")["pid"]
        (child,) = children_of(pid)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: gone(child))


async def test_a_gateway_that_cannot_be_told_does_not_take_workers_down(stage) -> None:
    async def refuses(_: object) -> None:
        raise OSError("the proxy is away")

    async with stage.running(workers=1, on_workers_changed=refuses) as it:
        assert it.status()["state"] == "ready"
    assert "telling the gateway about its workers failed" in stage.layout.log("supervisor").read_text()


async def test_the_control_socket_takes_orders_from_its_own_user(stage) -> None:
    reloaded: list[bool] = []

    async def reload() -> None:
        reloaded.append(True)

    async with stage.running(stage.part("guard"), workers=1, reload=reload) as it:
        control = ControlServer(stage.layout.control_socket, it)
        await control.start()
        socket = stage.layout.control_socket
        try:
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert (await ask_supervisor(socket, "status"))["state"] == "ready"
            assert (await ask_supervisor(socket, "workers", count=2))["workers"] == ["w1", "w2"]
            guard = facts(it, "guard")["pid"]
            await ask_supervisor(socket, "restart", part="guard")
            assert gone(guard) and facts(it, "guard")["state"] == "ready" and facts(it, "guard")["restarts"] == 0
            worker = facts(it, "w1")["pid"]
            await fence(socket, "w1")
            assert gone(worker)
            await ask_supervisor(socket, "reload")
            assert reloaded == [True]
            for wrong in ({"do": "fence", "part": "nobody"}, {"do": "fence"}, {"do": "sing"}, {"do": "workers"}):
                with pytest.raises(SupervisorRefused):
                    await ask_supervisor(socket, **wrong)
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(b"not json\n[]\n")
            answers = [json.loads(await reader.readline()) for _ in range(2)]
            assert [answer["reason"] for answer in answers] == ["invalid_request"] * 2
            writer.close()
            await ask_supervisor(socket, "down")
            assert it.stop_asked.is_set()
        finally:
            await control.close()
    with pytest.raises(SupervisorSilent):
        await fence(stage.layout.control_socket, "w1")


async def test_leftovers_of_a_killed_supervisor_are_ended_and_strangers_are_not(stage) -> None:
    async with stage.running(stage.part("work"), stage.part("guard")) as it:
        written = json.loads(stage.layout.status_file.read_text())
        for part in written["parts"]:
            if part["name"] == "guard":
                part["started_ticks"] += 1  # the pid as another process may have got it
        written["run_id"] = "another"
        work, guard = facts(it, "work")["pid"], facts(it, "guard")["pid"]
        stage.layout.status_file.write_text(json.dumps(written))
        assert await end_leftovers(stage.layout) == ["work"]
        assert gone(work)
        assert not gone(guard)
        written["boot_id"] = "another boot"
        stage.layout.status_file.write_text(json.dumps(written))
        assert await end_leftovers(stage.layout) == []


def _is_standin(pid: int) -> bool:
    return b"standin.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
