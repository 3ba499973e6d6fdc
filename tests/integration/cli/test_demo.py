"""`tileq demo` shows a job's whole way, and leaves nothing."""

import json
import os
import signal
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from services.cli.local.seaweed import find_weed
from tests.certificates import Authority
from tests.integration.cli.command import TILEQ, environment, tileq
from tests.servers import needed
from tests.waiting import eventually

pytestmark = pytest.mark.integration
ASKED = json.loads((files("services.cli") / "images" / "questions.json").read_text())


@pytest.fixture(autouse=True)
def servers() -> None:
    needed(find_weed)


def test_the_demo_gives_right_answers_and_shows_how_they_came(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # What the user's shell has for other services must not reach the demo's.
    foreign = {
        "TILEQ_API_KEYS": "acme=tq_x",
        "TILEQ_REDIS_URL": "rediss://127.0.0.1:1/0",
        "TILEQ_REDIS_CA_FILE": Authority.create(tmp_path_factory.mktemp("ca")).ca_file,
        "TILEQ_S3_BUCKET": "other",
        "TILEQ_S3_PREFIX": "team/tileq",
        "TILEQ_S3_ADDRESSING": "virtual",
        "TILEQ_S3_ACCESS_KEY": "KEY",
        "TILEQ_S3_SECRET_KEY": "secret",
        "TILEQ_S3_SESSION_TOKEN": "token",
        "TILEQ_ROOT_PATH": "/vision",
    }
    ran = tileq("demo", env={"TMPDIR": str(tmp_path), **foreign})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    shown = [
        "ready at http://127.0.0.1:",
        "is accepted and durable",
        "model tileq-demo, ",
        "448x448 pixels become one tile of 448x448; this is what the model sees",
        "1344x896 pixels become 3x2 tiles of 448x448 and a thumbnail of the whole",
        "receipt.png, with tiles=1",
        "    +------+------+------+  +---------+\n    |  1   |  2   |  3   |  |thumbnail|\n",
        *(f"{asked['image']}: {asked['question']}" for asked in ASKED),
        *(f"right: the image was drawn with {asked['answer']}" for asked in ASKED),
        "wrong: the image was drawn with ",  # with one tile
        "succeeded",
        "seconds:  queue ",
        "POST /hook",
        "webhook-signature: v1,",
        "signature verified",
        "webhook verified",
        "Everything is stopped, nothing is left behind.",
    ]
    assert [line for line in shown if line not in ran.stdout] == []
    assert "\x1b" not in ran.stdout
    assert list(tmp_path.iterdir()) == []
    assert _working_in(tmp_path) == []


def test_an_interrupted_demo_stops_everything(tmp_path: Path) -> None:
    env = environment(TILEQ_ENGINE="echo", TMPDIR=str(tmp_path))
    with subprocess.Popen([TILEQ, "demo"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env) as demo:
        eventually(lambda: list(tmp_path.glob("tileq-demo-*/run/seaweedfs.pid")), 30)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    eventually(lambda: not _working_in(tmp_path))
    assert list(tmp_path.iterdir()) == []


def _working_in(folder: Path) -> list[str]:
    """Command lines of other processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command and process.name != str(os.getpid()):
            found.append(command)
    return found
