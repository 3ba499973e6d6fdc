"""Write the README's tables of settings and metrics from the code: `python -m infra.readme`."""

import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from infra import metrics
from shared.settings import GROUPS, ProcessSettings

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- {}: begin, written by `python -m infra.readme` -->", "<!-- {}: end -->"


def table() -> str:
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


def rewrite(text: str) -> str:
    """Return `text`, the README, with the tables between their markers replaced."""
    for name, made in (("settings", table()), ("metrics", metrics.table())):
        head, _, rest = text.partition(BEGIN.format(name))
        _, _, tail = rest.partition(END.format(name))
        text = f"{head}{BEGIN.format(name)}\n\n{made}\n\n{END.format(name)}{tail}"
    return text


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
    sys.stdout.write(f"{README.name}: tables written\n")
