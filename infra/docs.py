"""Write the tables of `docs/settings.md` and `docs/metrics.md` from the code: `python -m infra.docs`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from infra import metrics
from shared.settings.base import ProcessSettings
from shared.settings.roles import GROUPS

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- begin, written by `python -m infra.docs` -->", "<!-- end -->"


def settings_table() -> str:
    """Return the settings table in Markdown: name, default and meaning of each setting."""
    rows = ["| `TILEQ_…` | default | meaning |", "|---|---|---|"]
    every_process = ProcessSettings.model_fields
    for heading, groups in GROUPS:
        rows.append(f"| **{heading}** | | |")
        fields = {name: field for group in groups for name, field in group.model_fields.items()}
        rows += [
            f"| `{name.upper()}` | {_default(field)} | {field.description} |"
            for name, field in fields.items()
            if name not in every_process or groups == (ProcessSettings,)
        ]
    return "\n".join(rows)


#: Each document that has a table, and what makes the table.
TABLES: Mapping[Path, Callable[[], str]] = {DOCS / "settings.md": settings_table, DOCS / "metrics.md": metrics.table}


def rewrite(text: str, table: str) -> str:
    """Return `text`, a document, with `table` between its markers."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", (), None):
        return ""
    if isinstance(value, tuple):
        return f"`{','.join(f'{part:g}' if isinstance(part, float) else str(part) for part in value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 else f"`{value}`"


if __name__ == "__main__":
    for path, table in TABLES.items():
        path.write_text(rewrite(path.read_text(), table()))
        sys.stdout.write(f"{path.name}: table written\n")
