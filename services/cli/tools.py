"""`tileq inspect`, `render`, `bench`: tools of workers.vision, run as processes, since the CLI must not import it."""

import subprocess
import sys

import typer

from services.cli.errors import CommandError

#: Every argument is passed to the tool, `--help` too.
PASS_THROUGH = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def inspect(context: typer.Context) -> None:
    """Print what a checkpoint's files hold: tileq inspect [MODEL] [--manifest]."""
    _run("inspect", context.args)


def render(context: typer.Context) -> None:
    """Draw the tiles that the model sees: tileq render IMAGE --tiles 12 -o out.png."""
    _run("render", context.args)


def bench(context: typer.Context) -> None:
    """Measure the engines on this machine: tileq bench --device cuda [--model MODEL] [--json]."""
    _run("bench", context.args)


def _run(tool: str, arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", f"workers.vision.tools.{tool}", *arguments]
    try:
        code = subprocess.run(command, check=False).returncode  # noqa: S603  # the user's own arguments
    except OSError as error:
        raise CommandError(f"`tileq {tool}` could not start: {error}") from None
    raise typer.Exit(code if code >= 0 else 128 - code)
