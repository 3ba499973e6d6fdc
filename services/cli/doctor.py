"""`tileq doctor`: the findings of the checks, as a table or as JSON."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from services.cli import output
from services.cli.checks import Finding, run_checks
from services.cli.environment import data_folder, settings, use_local_service
from services.cli.errors import CommandError
from services.cli.options import URL

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red"}


def run(data: Path | None, url: str | None, as_json: bool) -> None:
    """Run the checks and print the findings. Raises `CommandError` where one failed."""
    folder = use_local_service(data)
    found = settings()
    if folder and not as_json:
        output.note(f"checking the service in {folder}")
    url = url or (f"http://127.0.0.1:{found.port}" if folder else URL)
    findings = list(run_checks(found, folder or data_folder(data), url))
    if as_json:
        for finding in findings:
            output.as_json(finding.__dict__)
    else:
        output.grid(_table(findings))
    failed = sum(finding.level == "fail" for finding in findings)
    if failed:
        raise CommandError(f"{failed} of {len(findings)} checks failed")


def _table(findings: list[Finding]) -> Table:
    lines = Table(box=None, show_header=False, pad_edge=False)
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for finding in findings:
        lines.add_row(Text(finding.level, _COLOUR[finding.level]), finding.what, Text(output.clean(finding.seen)))
        if finding.fix:
            lines.add_row("", "", Text(f"→ {finding.fix}", "bold"))
    return lines
