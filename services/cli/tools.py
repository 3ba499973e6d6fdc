"""`tileq inspect` and `tileq render`: the vision worker's own tools, run as they are; only it knows torch."""

import subprocess
import sys

import typer

from services.cli.failure import Failure

#: Everything behind the command belongs to the tool, `--help` too.
THEIRS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def inspect(context: typer.Context) -> None:
    """Print what a checkpoint's files hold: tileq inspect [MODEL] [--manifest]."""
    _run("inspect", context.args)


def render(context: typer.Context) -> None:
    """Draw what the model will see: tileq render IMAGE --tiles 12 -o out.png."""
    _run("render", context.args)


def _run(tool: str, arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", f"workers.vision.tools.{tool}", *arguments]
    try:
        code = subprocess.run(command, check=False).returncode  # noqa: S603  # the user's own arguments
    except OSError as error:
        raise Failure(f"`tileq {tool}` could not start: {error}") from None
    raise typer.Exit(code if code >= 0 else 128 - code)
