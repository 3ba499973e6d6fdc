"""A page of documentation as the blocks of commands and files that it holds."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the heading that it stands under."""

    language: str
    text: str
    heading: str

    def where(self, **names: str) -> str:
        """Return the text with names of the page replaced by those of stand-ins."""
        text = self.text
        for name, stand_in in names.items():
            text = text.replace(name, stand_in)
        return text


def blocks(name: str) -> list[Block]:
    """Return the blocks of `docs/NAME`, in order."""
    text = (ROOT / "docs" / name).read_text()
    return [
        Block(match[1], match[2], re.findall(r"^## (.*)$", text[: match.start()], re.MULTILINE)[-1:][0])
        if "\n## " in text[: match.start()]
        else Block(match[1], match[2], "")
        for match in _FENCE.finditer(text)
    ]


def run(script: str, env: Mapping[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the commands of a block as a person would, and fail at the first one that fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TILEQ_", "AWS_"))}
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**clean, "PATH": path, **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done
