"""`python -m infra.readme`: write the configuration table of the README from the settings class."""

import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from shared.settings import Settings

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: begin, written by `python -m infra.readme` -->", "<!-- settings: end -->"

#: First setting of each group, and its heading.
GROUPS = {
    "redis_url": "Where things are",
    "host": "HTTP",
    "max_body_bytes": "What a request may hold",
    "lease": "Jobs",
    "webhook_secret": "Webhooks",
    "model": "Vision worker",
    "log_level": "Logs",
}


def table() -> str:
    """Return the table: one row a setting, its default, and what it is for."""
    rows = ["| `TILEQ_…` | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            rows.append(f"| **{GROUPS[name]}** | | |")
        rows.append(f"| `{name.upper()}` | {_default(field)} | {field.description} |")
    return "\n".join(rows)


def rewrite(text: str) -> str:
    """Return `text` with the table between its marks made anew."""
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
