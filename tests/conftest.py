"""Fixtures for all tests, what every test stands on, and how tests are divided between processes (`make test`)."""

import os
import signal
from typing import Any

import pytest

pytest_plugins = ["tests.servers"]

# A shell starts what it runs in the background with Ctrl-C ignored, and programs started by tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports torch. Tests run side by side, and their models are so small that threads cost more than they
# bring: tests/unit/demo_model took 40 CPU seconds with two, 21 with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Files whose tests share one service (the session's `here`); one process runs them all.
SHARE_A_SERVICE = tuple(f"tests/acceptance/test_{name}.py" for name in ("batches", "jobs", "webhooks"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, so that what a module starts is started once."""
    from xdist.scheduler import LoadFileScheduling

    class ByService(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/acceptance" if file in SHARE_A_SERVICE else file

    return ByService(config, log)
