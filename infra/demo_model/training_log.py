"""The training log: JSON lines in out/log.jsonl, printed as well."""

import json
import time
from typing import Any

from infra.demo_model import training_checkpoint


def log(**entry: Any) -> None:
    """Append `entry` with the local time to log.jsonl, and print it."""
    folder = training_checkpoint.OUTPUT_FOLDER
    folder.mkdir(exist_ok=True)
    line = json.dumps({"at": time.strftime("%m-%d %H:%M:%S"), **entry}, ensure_ascii=False)
    with (folder / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
