"""`tileq doctor`: what the checks found, for people or as JSON."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from services.cli import show
from services.cli.checks import Finding, look
from services.cli.environment import folder_of, joined, settings
from services.cli.failure import Failure
from services.cli.options import URL

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red"}


def run(data: Path | None, url: str | None, as_json: bool) -> None:
    """Look at everything; raise if something is broken."""
    folder = joined(data)
    found = settings()
    if folder and not as_json:
        show.note(f"looking at the service in {folder}")
    url = url or (f"http://127.0.0.1:{found.port}" if folder else URL)
    findings = list(look(found, folder or folder_of(data), url))
    if as_json:
        for finding in findings:
            show.as_json(finding.__dict__)
    else:
        show.grid(_table(findings))
    failed = sum(finding.level == "fail" for finding in findings)
    if failed:
        raise Failure(f"{failed} of {len(findings)} checks failed")


def _table(findings: list[Finding]) -> Table:
    lines = Table(box=None, show_header=False, pad_edge=False)
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for finding in findings:
        lines.add_row(Text(finding.level, _COLOUR[finding.level]), finding.what, Text(show.clean(finding.seen)))
        if finding.fix:
            lines.add_row("", "", Text(f"→ {finding.fix}", "bold"))
    return lines
