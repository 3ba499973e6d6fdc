"""Write the README's settings table from the settings classes: `python -m infra.readme`."""

import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from shared.settings import GROUPS, ProcessSettings

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: begin, written by `python -m infra.readme` -->", "<!-- settings: end -->"


def table() -> str:
    """Return the table in Markdown: name, default and meaning of each setting."""
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


def rewrite(text: str) -> str:
    """Return `text`, the README, with the table between its markers replaced."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


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
    README.write_text(rewrite(README.read_text()))
    sys.stdout.write(f"{README.name}: settings table written\n")
