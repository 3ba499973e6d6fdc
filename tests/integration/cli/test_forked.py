"""A role that is a fork of its supervisor is started, watched and ended as one that is executed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cli.local.process import MARK, Program
from services.cli.local.supervisor import supervised
from tests.integration.cli.programs import alive, pid_of
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every role is executed"),
]
ROLE = "tests.integration.cli.role"


@contextmanager
def forking_supervisor(folder: Path, status: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Run a supervisor of the role `work` in the main thread of another Python; its output is said on stdout."""
    script = f"""
        import os, pathlib, signal, sys
        from services.cli.local.process import Program
        from services.cli.local.supervisor import Supervisor
        work = Program("work", [sys.executable, "-m", "{ROLE}"], {{"TILEQ_TEST": "yes", "HOME": None}}, module="{ROLE}")
        if {status!r}:
            work.env["TILEQ_TEST_STATUS"] = {status!r}
        supervisor = Supervisor(pathlib.Path(sys.argv[1]), [[work]], lambda line: print(line, flush=True))
        signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
        supervisor.run()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root) as started:
        try:
            yield started
        finally:
            started.kill()


def told(folder: Path) -> dict[str, Any]:
    """Return what the role printed last."""
    log = folder / "logs" / "work.log"
    text = eventually(lambda: text if log.exists() and (text := log.read_text()).endswith("}\n") else None, 60)
    found: dict[str, Any] = json.loads((text or "").splitlines()[-1])
    return found


def test_it_has_the_environment_session_output_and_signals_of_an_executed_process(tmp_path: Path) -> None:
    with forking_supervisor(tmp_path):
        found = told(tmp_path)
    environment = found.pop("environment")
    assert (environment["TILEQ_TEST"], environment[MARK], "HOME" in environment) == ("yes", str(tmp_path), False)
    assert [number for number in found.pop("descriptors") if number > 3] == []  # 3 lists the folder
    assert found == {
        "argv": [ROLE],
        "leads_its_session": True,
        "handlers_are_the_defaults": True,
        "blocked": 0,
        "name": "work",
        "executed": False,
    }


def test_killed_it_is_forked_again(tmp_path: Path) -> None:
    with forking_supervisor(tmp_path):
        first = pid_of(tmp_path, "work")
        os.kill(first, signal.SIGKILL)
        second = eventually(lambda: pid if (pid := pid_of(tmp_path, "work")) != first else None, 60) or 0
        assert alive(second)
        assert not told(tmp_path)["executed"]


def test_it_ends_with_a_supervisor_that_is_told_to_stop_or_killed(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with forking_supervisor(tmp_path) as supervisor:
            pid = pid_of(tmp_path, "work")
            told(tmp_path)
            supervisor.send_signal(number)
            eventually(lambda pid=pid: not alive(pid))  # type: ignore[misc]
            assert supervisor.wait() == (0 if number == signal.SIGTERM else -number)


def test_its_exit_status_is_told(tmp_path: Path) -> None:
    with forking_supervisor(tmp_path, status="7") as supervisor:
        assert supervisor.stdout
        eventually(lambda: "work ended with exit status 7; restarts in" in (supervisor.stdout.readline()))  # type: ignore[union-attr]


def test_a_supervisor_in_a_thread_executes_it(tmp_path: Path) -> None:
    with supervised(tmp_path, [[Program("work", [sys.executable, "-m", ROLE], module=ROLE)]]):
        assert told(tmp_path)["executed"]


def test_shared_imports_start_no_thread_and_bring_of_the_roles_intake_alone() -> None:
    script = (
        "import json, sys; from services.cli.local.forked import *; import_shared();"
        "of_roles = {name.split('.')[1] for name in sys.modules if name.startswith(('workers.', 'services.'))};"
        "print(json.dumps([can_fork(), sorted(of_roles)]))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [True, ["cli", "intake"]]


def metrics_of(role: str, *, forked: bool) -> list[str]:
    """Return the metrics that `role` registers as it is imported, after what a fork of it would do before."""
    before = "from services.cli.local.forked import *; import_shared(); drop_metrics_of_others(sys.argv[1]);"
    script = (
        f"import importlib, json, sys; {before if forked else ''} importlib.import_module(sys.argv[1] + '.__main__');"
        "from prometheus_client import REGISTRY; print(json.dumps(sorted(one.name for one in REGISTRY.collect())))"
    )
    ran = subprocess.run([sys.executable, "-c", script, role], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(ran.stdout)
    return names


@pytest.mark.parametrize("role", ["workers.vision", "workers.webhooks", "services.intake.batches"])
def test_a_forked_role_serves_the_metrics_of_an_executed_one(role: str) -> None:
    assert metrics_of(role, forked=True) == metrics_of(role, forked=False)
