"""The served OpenAPI document against the service that serves it: no 5xx, no undocumented status, no other shape.

schemathesis walks every call with examples of its schema, with its edges, with what the schema forbids, and from one
call to the next by the ids that answers hold.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service import service

pytestmark = pytest.mark.acceptance

KEY = "tq_contract"
CALL_TIMEOUT_S = 40  #: seconds for one call: a test of a webhook may take 20


def walk(url: str, document: Path, folder: Path, *options: str) -> str:
    """Walk `document` against the service at `url`; fail with the report if anything was found."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(document), "--url", url, *options]
    common = [
        "--seed=1",
        f"--request-timeout={CALL_TIMEOUT_S}",
        "--continue-on-failure",
        "--checks=all",
        "--warnings=off",
    ]
    # A schema can't say that an image must be one, or a parent a job that succeeded.
    common += ["--exclude-checks=positive_data_acceptance", "--suppress-health-check=all"]
    done = subprocess.run([*command, *common], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def served(http: httpx.Client) -> Any:
    """The document as it is served."""
    return http.get("/openapi.json").raise_for_status().json()


def test_with_a_key_every_call_answers_as_documented(tmp_path: Path) -> None:
    environment = {"TILEQ_API_KEYS": f"acme={KEY}"}
    with service(env=environment) as here, httpx.Client(base_url=here.url) as http:
        document = tmp_path / "openapi.json"
        described = served(http)
        document.write_text(json.dumps(described))
        calls = sum(map(len, described["paths"].values()))
        phases = ["--phases=examples,coverage,fuzzing,stateful", "--max-examples=40"]
        report = walk(here.url, document, tmp_path, f"--header=Authorization: Bearer {KEY}", *phases)
        assert f"{calls} selected / {calls} total" in report
        assert http.get("/readyz").status_code == 200


def test_without_keys_every_call_answers_as_documented(tmp_path: Path) -> None:
    with service() as here, httpx.Client(base_url=here.url) as http:
        document, keyless = tmp_path / "openapi.json", served(http)
        del keyless["components"]["securitySchemes"]  # else keys would be made up, and refused
        for calls in keyless["paths"].values():
            for call in calls.values():
                call.pop("security", None)
        document.write_text(json.dumps(keyless))
        walk(here.url, document, tmp_path, "--phases=examples,coverage", "--max-examples=5")
        assert http.get("/readyz").status_code == 200
