"""The commands of `tileq`."""

import typer

from services.cli import jobs, keys, local_commands, secrets, tools
from services.cli.ask import print_id, show_until_end, submitting

_LOCAL, _ASK, _INSPECT, _OPERATE = "On this machine", "Ask", "Inspect", "Operate a service"


def make_app() -> typer.Typer:
    """Return the application with all its commands."""
    app = typer.Typer(
        name="tileq",
        help="Asynchronous vision-language inference: images and a question in, a signed webhook out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(rich_help_panel=_LOCAL)(local_commands.demo)
    app.command(rich_help_panel=_LOCAL)(local_commands.up)
    app.command(
        "ask", rich_help_panel=_ASK, help="Ask about images, watch the job, print the answer: tileq ask a.jpg 'What?'"
    )(submitting(show_until_end))
    app.command("submit", rich_help_panel=_ASK, help="Ask about images and print the job's id at once.")(
        submitting(print_id)
    )
    for command in (jobs.status, jobs.wait, jobs.cancel, jobs.jobs, jobs.deliveries, jobs.models):
        app.command(rich_help_panel=_INSPECT)(command)
    app.add_typer(keys.app, name="keys", rich_help_panel=_OPERATE)
    app.add_typer(secrets.app, name="secrets", rich_help_panel=_OPERATE)
    app.command(rich_help_panel=_OPERATE)(local_commands.doctor)
    for tool in (tools.inspect, tools.render, tools.bench):
        app.command(rich_help_panel=_OPERATE, context_settings=tools.PASS_THROUGH)(tool)
    return app
