"""OpenAI's own SDKs, Python's and Node's, against the whole service."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from openai import OpenAI

from infra.docs import DOCS
from tests.acceptance.conftest import plain_png
from tests.receiver import Receiver
from tests.service import Service
from tests.tcp_proxy import tcp_proxy
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance

README = DOCS.parent / "README.md"
NODE_SDK = "openai@7.57.0"
IMAGE = "data:image/png;base64," + base64.b64encode(plain_png()).decode()
ASKED: Any = [
    {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}, {"type": "input_text", "text": "?"}]}
]


@pytest.fixture
def sdk(here: Service) -> OpenAI:
    """Python's SDK as a backend sets it up."""
    return OpenAI(base_url=f"{here.url}/v1", api_key="EMPTY", max_retries=0)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_a_background_response_is_polled_to_its_answer(sdk: OpenAI) -> None:
    id = sdk.responses.create(model="tileq-demo", input=ASKED, background=True).id
    eventually(lambda: sdk.responses.retrieve(id).status == "completed", within=30)
    assert sdk.responses.retrieve(id).output_text == sdk.responses.create(model="tileq-demo", input=ASKED).output_text


def test_a_large_file_is_uploaded_in_parts(sdk: OpenAI) -> None:
    data = bytes(range(256)) * (13 << 12)  # 13 MiB
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    sent: Any = {"filename": "a.bin", "bytes": len(data), "mime_type": "text/plain", "purpose": "user_data"}
    done = sdk.uploads.upload_file_chunked(file=data, part_size=6 << 20, md5=md5, **sent)
    assert done.file is not None
    assert sdk.files.content(done.file.id).read() == data
    sdk.files.delete(done.file.id)


def test_a_stream_that_was_cut_is_resumed_without_a_character_twice(sdk: OpenAI) -> None:
    first: list[Any] = []
    with sdk.responses.create(model="tileq-demo", input=ASKED, stream=True) as stream:
        for event in stream:
            first.append(event)
            if event.type == "response.output_text.delta":
                break
    id, after = first[0].response.id, first[-1].sequence_number
    rest = list(sdk.responses.retrieve(id, stream=True, starting_after=after))
    assert text_of(first + rest) == rest[-1].response.output_text  # type: ignore[union-attr]


def test_a_chat_streams_what_it_answers_whole(sdk: OpenAI) -> None:
    turns: Any = [{"role": "user", "content": "?"}]
    chunks = sdk.chat.completions.create(model="tileq-demo", messages=turns, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == sdk.chat.completions.create(model="tileq-demo", messages=turns).choices[0].message.content


def test_a_call_that_is_cut_leaves_a_job_that_goes_on(here: Service, sdk: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        sdk.responses.create(model="tileq-demo", input=ASKED, metadata={"cut": "yes"}, timeout=0.02)
    url = f"{here.url}/v1/jobs?metadata.cut=yes"

    def ended() -> bool:
        (job,) = sdk.get(url, cast_to=dict[str, Any])["data"] or [{"state": "unseen"}]
        return bool(job["state"] == "succeeded")

    eventually(ended, within=30)


def test_the_readmes_backend_asks_and_hears_the_answer(
    here: Service, hook: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "webhooks.unwrap" in block]
    own = {"http://127.0.0.1:8000": here.url, "http://127.0.0.1:9000/hook": hook.url, "tq_…": "EMPTY"}
    own["whsec_…"] = here.settings.webhook_secret.get_secret_value()
    for shown, value in own.items():
        code = code.replace(shown, value)
    request = SimpleNamespace()
    flask = SimpleNamespace(Flask=lambda _: SimpleNamespace(post=lambda _: lambda view: view), request=request)
    monkeypatch.setitem(sys.modules, "flask", flask)
    backend: dict[str, Any] = {"__name__": "backend"}
    exec(code, backend)
    with hook.up():
        backend["ask"]("Is it red?", plain_png())
        (arrived,) = eventually(lambda: hook.arrived)
    request.data, request.headers = arrived.body.encode(), arrived.headers
    assert backend["arrived"]() == ("", 204)
    assert capsys.readouterr().out == "response.completed echo: <image>\nIs it red?\n"


def jobs_named(here: Service, sdk: OpenAI, name: str) -> list[str]:
    """Ids of the jobs whose metadata have `name`, as responses."""
    found = sdk.get(f"{here.url}/v1/jobs?metadata.call={name}", cast_to=dict[str, Any])["data"]
    return [job["id"].replace("job_", "resp_") for job in found]


@pytest.mark.parametrize("whole_client", [True, False])
def test_a_retry_of_the_sdk_with_an_idempotency_key_is_the_same_job(
    here: Service, sdk: OpenAI, whole_client: bool
) -> None:
    name = f"python {whole_client}"
    with tcp_proxy(port_of(here.url)) as proxy:
        cut = OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="EMPTY", max_retries=2)
        headers = {}
        if whole_client:
            cut._idempotency_header = "Idempotency-Key"
        else:
            headers = {"Idempotency-Key": name.replace(" ", "-")}
        proxy.answers_to_cut = 1
        made = cut.responses.create(input="?", background=True, metadata={"call": name}, extra_headers=headers)
        assert proxy.answers_to_cut == 0
    assert jobs_named(here, sdk, name) == [made.id]


def test_nodes_sdk_reads_the_same(here: Service, sdk: OpenAI, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    script = shutil.copy(Path(__file__).with_name("openai_sdk.mjs"), tmp_path)
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
    patient = ("--fetch-timeout=30000", "--fetch-retries=5")  # npm waits five minutes for a registry that stalls once
    install = ["npm", "install", *quiet, *patient, "--prefix", str(tmp_path), NODE_SDK]
    subprocess.run(install, check=True, capture_output=True, timeout=280)
    with tcp_proxy(port_of(here.url)) as proxy:
        proxy.answers_to_cut = 1
        command = ["node", script, here.url, IMAGE, f"http://127.0.0.1:{proxy.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, whole = json.loads(done.stdout), sdk.responses.create(model="tileq-demo", input=ASKED).output_text
    assert found == {
        "polled": whole,
        "text": whole,
        "whole": whole,
        "chat": "echo: ?",
        "refused": [
            ["NotFoundError", 404, "not_found"],
            ["BadRequestError", 400, "unsupported_parameter"],
            ["ConflictError", 409, "job_not_ended"],
            ["AuthenticationError", 401, "invalid_key"],
        ],
        "retried": jobs_named(here, sdk, "node"),
    }
    assert len(jobs_named(here, sdk, "node")) == 1
