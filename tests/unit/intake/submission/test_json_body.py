"""Large JSON bodies: the event loop goes on while one is parsed, and all together are bounded."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.intake.submission import body
from services.intake.submission.data_uri import PIECE_CHARACTERS, read_data_uri
from services.intake.submission.json_body import MAX_INLINE_BYTES, body_memory
from services.intake.submission.json_strict import parse_object
from shared.errors import UndecodableImage
from tests.unit.intake.app_fixture import App
from tests.unit.intake.image_files import picture

JSON = {"Content-Type": "application/json"}
GIVEN_UP_AFTER_S = 10


def large_job() -> bytes:
    """Return a job that is padded to more than is parsed on the event loop."""
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    return json.dumps({"prompt": "?", "images": [uri]}).encode().ljust(MAX_INLINE_BYTES + 1)


def large_batch() -> bytes:
    """Return a batch of one such job."""
    return (b'{"jobs": [' + large_job() + b"]}").ljust(MAX_INLINE_BYTES + 1)


@pytest.mark.parametrize(("path", "data"), [("/v1/jobs", large_job()), ("/v1/batches", large_batch())])
def test_other_requests_are_answered_while_a_large_body_is_parsed(
    intake: App, monkeypatch: pytest.MonkeyPatch, path: str, data: bytes
) -> None:
    parsing, answered = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(sent: bytes) -> dict[str, Any]:
        parsing.set()
        in_time.append(answered.wait(GIVEN_UP_AFTER_S))
        return parse_object(sent)

    monkeypatch.setattr(body, "parse_object", slow)
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(intake.http.post, path, content=data, headers=JSON)
        assert parsing.wait(GIVEN_UP_AFTER_S)
        assert intake.http.get("/v1/jobs").status_code == 200
        answered.set()
        assert submitted.result().status_code == 202
    assert in_time == [True]


def test_a_body_beyond_the_memory_for_bodies_is_503_and_accepted_once_there_is_room(intake: App) -> None:
    others = body_memory().reserve()
    others.add(intake.settings.max_json_memory, intake.settings.max_json_memory)
    refused = intake.http.post("/v1/jobs", content=large_job(), headers=JSON)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    del others
    assert intake.http.post("/v1/jobs", content=large_job(), headers=JSON).status_code == 202


@pytest.mark.parametrize("data", [large_job(), large_job()[:-1] + b"}", large_batch()[1:]])
def test_the_memory_of_a_body_is_given_back_whatever_becomes_of_it(intake: App, data: bytes) -> None:
    for path in ("/v1/jobs", "/v1/batches"):
        intake.http.post(path, content=data, headers=JSON)
    assert body_memory().held_bytes == 0


@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_data_uri_of_several_pieces_is_its_bytes(more: int) -> None:
    data = bytes(range(256)) * (PIECE_CHARACTERS // 256) + b"x" * more
    upload = read_data_uri("data:image/png;base64," + base64.b64encode(data).decode(), 0, 1 << 30)
    upload.file.seek(0)
    assert upload.file.read() == data


def test_padding_at_the_end_of_a_piece_is_refused() -> None:
    uri = "data:image/png;base64," + "A" * (PIECE_CHARACTERS - 2) + "==" + "AAAA"
    with pytest.raises(UndecodableImage):
        read_data_uri(uri, 0, 1 << 30)
