"""The `tileq` command.

Exit status: 0 done, 1 the job or the service said no, 2 the command line is wrong.
"""

import sys

import typer

from services.cli import here, jobs, keys, show, tools
from services.cli.ask import print_id, show_until_end, submitting
from services.cli.failure import Failure

_HERE, _ASK, _LOOK, _CARE = "On this machine", "Ask", "Look", "Run a service"


def make_app() -> typer.Typer:
    """Put the commands together."""
    app = typer.Typer(
        name="tileq",
        help="Asynchronous vision-language inference: images and a question in, a signed webhook out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(rich_help_panel=_HERE)(here.demo)
    app.command(rich_help_panel=_HERE)(here.up)
    app.command(
        "ask", rich_help_panel=_ASK, help="Ask about pictures, watch the job, print the answer: tileq ask a.jpg 'What?'"
    )(submitting(show_until_end))
    app.command("submit", rich_help_panel=_ASK, help="Ask about pictures and print the job's id at once.")(
        submitting(print_id)
    )
    for command in (jobs.status, jobs.wait, jobs.cancel, jobs.jobs, jobs.deliveries, jobs.models):
        app.command(rich_help_panel=_LOOK)(command)
    app.add_typer(keys.app, name="keys", rich_help_panel=_CARE)
    app.command(rich_help_panel=_CARE)(here.doctor)
    for tool in (tools.inspect, tools.render):
        app.command(rich_help_panel=_CARE, context_settings=tools.THEIRS)(tool)
    return app


def main() -> None:
    """Run the command line; every failure is one clear line."""
    try:
        make_app()()
    except Failure as failure:
        show.note(str(failure))
        sys.exit(failure.status)
