"""The start of a process, run as a process: what it prints and how it exits."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SCRIPT = """
import sys
from shared.process import run_process
from shared.settings.base import SettingsError
from shared.settings.roles import ReconcilerSettings

def serve(settings):
    if settings.reconcile_period == 9:
        raise SettingsError("TILEQ_RECONCILE_PERIOD is refused by this process")
    print("serving")
    return 0

sys.exit(run_process("reconciler", ReconcilerSettings, serve))
"""


def started(**variables: str) -> "subprocess.CompletedProcess[str]":
    usual: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("TILEQ_")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**usual, **variables}, capture_output=True, text=True, check=False
    )


def test_a_process_serves_with_the_settings_of_its_environment() -> None:
    ended = started(TILEQ_LOG_LEVEL="error")  # no Redis is there, of which it warns
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "serving\n", "")


def test_a_missing_settings_file_ends_the_process_with_status_2_and_one_line(tmp_path: Path) -> None:
    ended = started(TILEQ_REDIS_URL_FILE=str(tmp_path / "missing"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"reconciler: TILEQ_REDIS_URL_FILE names {tmp_path / 'missing'}, which cannot be read: "
        "No such file or directory\n"
    )


def test_a_refused_setting_prints_no_secret_of_another() -> None:
    ended = started(TILEQ_RETAIN_FOR="1", TILEQ_REDIS_URL="redis://:hunter2@store", TILEQ_S3_SECRET_KEY="hunter2")
    assert ended.returncode == 2
    assert ended.stderr.startswith("reconciler: TILEQ_RETAIN_FOR=1 is not longer than")
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_only_the_process_can_judge_is_refused_alike() -> None:
    ended = started(TILEQ_RECONCILE_PERIOD="9", TILEQ_LOG_LEVEL="error")
    assert (ended.returncode, ended.stderr) == (2, "reconciler: TILEQ_RECONCILE_PERIOD is refused by this process\n")


def test_ignored_and_deprecated_variables_are_logged() -> None:
    ended = started(TILEQ_KEEPER_PERIOD="7", TILEQ_METRICS_PORT="tcp://10.0.0.1:9000", TILEQ_LAESE="5")
    lines = {line["event"]: line for line in map(json.loads, ended.stderr.splitlines())}
    assert lines["deprecated setting is still read"]["use"] == "TILEQ_RECONCILE_PERIOD"
    assert lines["variable of a Kubernetes service link is ignored"]["variable"] == "TILEQ_METRICS_PORT"
    assert lines["unknown setting is ignored"]["similar"] == "TILEQ_LEASE"
    assert {line["level"] for line in lines.values()} == {"warning"}
