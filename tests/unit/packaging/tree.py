"""The checkout as files: what git would commit, or, where there is no git, what lies there."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("services", "workers", "shared")


@cache
def files() -> tuple[Path, ...]:
    """Every file of the tree, relative to its root: committed, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = {Path(name) for name in listed.stdout.split("\0") if name}
    else:
        names = {path.relative_to(ROOT) for path in ROOT.rglob("*") if not set(path.parts) & {".venv", "__pycache__"}}
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))
