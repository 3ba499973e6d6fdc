"""What is supervised runs, comes back, and never outlives its supervisor."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.cli.local import restarts
from services.cli.local.orphans import processes_of
from services.cli.local.restarts import SupervisorError
from services.cli.local.supervisor import Supervisor, supervised
from tests.integration.cli.programs import SLEEP, STUBBORN, alive, pid_of, python, supervisor_of, with_child
from tests.waiting import eventually

pytestmark = pytest.mark.integration


@contextmanager
def running(folder: Path, code: str) -> Iterator[int]:
    """A supervisor in a process of its own; its pid."""
    started = supervisor_of(folder, code)
    try:
        yield started.pid
    finally:
        started.kill()
        started.wait()
        assert started.stdout
        started.stdout.close()


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    with supervised(tmp_path, [[python("work", SLEEP)]], said.append):
        first = pid_of(tmp_path, "work")
        os.kill(first, signal.SIGKILL)
        second = eventually(lambda: pid if (pid := pid_of(tmp_path, "work")) != first else None)
        assert alive(second or 0)
    assert any("work was killed by signal 9; restarts in 0.5 s" in line for line in said)


def test_a_process_that_keeps_dying_is_given_more_and_more_time(tmp_path: Path) -> None:
    said: list[str] = []
    dying = python("work", "print('it hurts')", awaited=False)
    with supervised(tmp_path, [[python("steady", SLEEP)], [dying]], said.append):
        eventually(lambda: len([line for line in said if "restarts in" in line]) >= 3)
    delays = [line.partition("restarts in ")[2].partition(" s")[0] for line in said if "restarts in" in line]
    assert delays[:3] == ["0.5", "1", "2"]
    assert [line.count("it hurts") for line in said if "restarts in" in line][:3] == [1, 1, 1]


def test_a_process_that_only_a_restart_helps_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "_STUCK_INTERVAL_S", 0)
    said: list[str] = []
    reasons = iter(["the disk has room, and it answers InternalError"])
    with supervised(tmp_path, [[python("work", SLEEP, stuck=lambda: next(reasons, ""))]], said.append):
        eventually(lambda: [line for line in said if "restarts in" in line])
        second = eventually(lambda: pid if alive(pid := pid_of(tmp_path, "work")) else None)
    assert second
    assert "work is stopped, to be started again: the disk has room, and it answers InternalError" in said


def test_a_restart_without_room_for_its_files_is_tried_again_and_ends_nothing_else(tmp_path: Path) -> None:
    said: list[str] = []
    with supervised(tmp_path, [[python("work", SLEEP), python("other", SLEEP)]], said.append):
        first, other = pid_of(tmp_path, "work"), pid_of(tmp_path, "other")
        blocked = tmp_path / "run" / "work.pid.new"
        blocked.mkdir()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: [line for line in said if "work can't start: " in line])
        assert [pid for pid in processes_of(tmp_path) if alive(pid)] == [other]
        blocked.rmdir()
        eventually(lambda: pid_of(tmp_path, "work") != first)
        assert pid_of(tmp_path, "other") == other


def test_everything_is_stopped_in_the_opposite_order(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    code = f"""
import signal, sys, time
name = sys.argv[0]
def end(*_):
    time.sleep(0.2)
    open({str(diary)!r}, "a").write("NAME ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open({str(tmp_path)!r} + "/NAME.up", "w").close()
time.sleep(600)
"""
    stages = [
        [python(name, code.replace("NAME", name), probe=lambda n=name: "" if (tmp_path / f"{n}.up").exists() else "no")]
        for name in ("first", "second")
    ]
    with supervised(tmp_path, stages):
        pids = [pid_of(tmp_path, name) for name in ("first", "second")]
    assert diary.read_text().split() == ["second", "first"]
    assert not any(map(alive, pids))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_a_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "work.log"
    deaf = python("work", STUBBORN, stop_within=0.3, probe=lambda: "" if "deaf" in log.read_text() else "starting")
    with supervised(tmp_path, [[deaf]]):
        pid = pid_of(tmp_path, "work")
    assert not alive(pid)


def test_a_second_stop_does_not_wait(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "work.log"
    deaf = python("work", STUBBORN, stop_within=600, probe=lambda: "" if "deaf" in log.read_text() else "starting")
    supervisor = Supervisor(tmp_path, [[deaf]])
    ready = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(ready.set,))
    thread.start()
    assert ready.wait(10)
    supervisor.stop()
    supervisor.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    with supervised(tmp_path, [[python("work", with_child(own_session=False))]]):
        family = eventually(lambda: pids if len(pids := list(processes_of(tmp_path))) == 2 else None) or []
    eventually(lambda: not any(map(alive, family)))  # the kernel takes a moment to end what was killed


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    broken = python("broken", "print('no such thing'); raise SystemExit(3)", probe=lambda: "not yet")
    with (
        pytest.raises(SupervisorError, match=r"broken ended with exit status 3 while starting(.|\n)*no such thing"),
        supervised(tmp_path, [[python("steady", SLEEP)], [broken]]),
    ):
        pytest.fail("it was never ready")
    assert list(processes_of(tmp_path)) == []


def test_a_start_that_takes_too_long_says_what_is_missing(tmp_path: Path) -> None:
    slow = python("slow", SLEEP, probe=lambda: "still counting", start_within=0.3)
    with (
        pytest.raises(SupervisorError, match=r"slow not ready within 0.3 s: still counting"),
        supervised(tmp_path, [[slow]]),
    ):
        pytest.fail("it was never ready")


def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    with running(tmp_path, SLEEP) as supervisor:
        pid = pid_of(tmp_path, "work")
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: not alive(pid))


def test_what_a_killed_supervisor_left_is_ended_by_the_next(tmp_path: Path) -> None:
    with running(tmp_path, with_child(own_session=True)) as supervisor:
        (orphan,) = eventually(lambda: pids if len(pids := _orphans(tmp_path)) == 1 else None) or [0]
        os.kill(supervisor, signal.SIGKILL)
    assert alive(orphan)
    said: list[str] = []
    with supervised(tmp_path, [[python("work", SLEEP)]], said.append):
        assert not alive(orphan)
    assert any(f"killed orphan process {orphan}" in line for line in said)


def test_a_folder_serves_one_supervisor_at_a_time(tmp_path: Path) -> None:
    with supervised(tmp_path, [[python("work", SLEEP)]]):
        pid = pid_of(tmp_path, "work")
        with pytest.raises(SupervisorError, match=rf"in use by another `tileq up` \(process {os.getpid()}\)"):
            Supervisor(tmp_path, []).run()
        assert alive(pid)
    with supervised(tmp_path, [[python("work", SLEEP)]]):
        assert alive(pid_of(tmp_path, "work"))


def _orphans(folder: Path) -> list[int]:
    return [pid for pid in processes_of(folder) if pid != pid_of(folder, "work")]
