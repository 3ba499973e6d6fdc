"""The documents describe the code as it is."""

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.docs import DOCS, TABLES, rewrite
from shared.webhooks.signing import headers, new_secret
from tests.unit.intake.app_fixture import running_app

README = DOCS.parent / "README.md"


@pytest.mark.parametrize("document", TABLES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_settings_and_metrics(document: Path) -> None:
    text = document.read_text()
    assert rewrite(text, TABLES[document]()) == text, "run `python -m infra.docs`"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_file_a_document_names_exists(document: str) -> None:
    root = README.parent
    named = re.findall(r"(?<![\w./:])(?:\w[\w.-]*/)+[\w.-]+\.(?:py|md|example)\b", (root / document).read_text())
    assert named
    assert [path for path in named if not (root / path).exists()] == []


def test_every_path_the_readme_names_is_served() -> None:
    section = README.read_text().split("## The API\n")[1].split("\n## ")[0]
    named = re.findall(r"`(?:[A-Z]+ )?…?(/[a-z0-9_./{}]+)(?:\?[^`]*)?`", section)
    with running_app() as intake:
        served = [_any_name(path) for path in (*intake.http.get("/openapi.json").json()["paths"], "/openapi.json")]
    unknown = [path for path in named if not any(known.endswith(_any_name(path)) for known in served)]
    assert "/openapi.json" in named
    assert unknown == [], "the README names paths that intake does not serve"


@pytest.mark.parametrize("data", [{"output": {"text": "x"}}, {"output": None}, {"id": "job_x"}])
def test_the_receiver_of_the_readme_takes_every_event(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    secret, body = new_secret(), json.dumps({"type": "job.failed", "data": data})
    request = SimpleNamespace(data=body.encode(), headers=headers("msg_x", body, [secret], time.time()))
    flask = SimpleNamespace(Flask=lambda _: SimpleNamespace(post=lambda _: lambda view: view), request=request)
    monkeypatch.setitem(sys.modules, "flask", flask)
    namespace: dict[str, Any] = {"__name__": "receiver"}
    exec(code[1].replace("whsec_…", secret), namespace)
    assert namespace["arrived"]() == ("", 204)


def _any_name(path: str) -> str:
    """Make one of all names a path's variables may have."""
    return re.sub(r"\{[^}]*\}", "{}", path)
