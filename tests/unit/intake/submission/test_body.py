"""Bodies that are not what they say: never a 5xx, never anything stored."""

import gzip
import json
from collections.abc import Iterator

import pytest

from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.intake.image_files import picture

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def part(name: str, data: bytes = b"?", headers: bytes = b"") -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n' + headers + b"\r\n" + data + b"\r\n"
    )


END = b"--b--\r\n"


@pytest.fixture(autouse=True)
def nothing_is_stored(intake: App) -> Iterator[None]:
    yield
    assert list(intake.objects.keys("")) == []
    assert intake.http.get("/v1/jobs").json()["data"] == []


BROKEN = {
    "nothing": b"",
    "white space": b" \n",
    "half": b'{"prompt": "?"',
    "two": b'{"prompt": "?"} {}',
    "a list": b"[]",
    "a string": b'"?"',
    "null": b"null",
    "a key twice": b'{"prompt": "?", "prompt": "!"}',
    "a key twice, deep": b'{"prompt": "?", "metadata": {"a": "1", "a": "2"}}',
    "NaN": b'{"prompt": "?", "start_within": NaN}',
    "Infinity": b'{"prompt": "?", "start_within": -Infinity}',
    "1e999": b'{"prompt": "?", "start_within": 1e999}',
    "many digits": b'{"prompt": "?", "tiles": ' + b"9" * 5000 + b"}",
    "more than float() takes": b'{"prompt": "?", "generation": {"max_new_tokens": ' + b"9" * 309 + b"}}",
    "deep lists": b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "half a surrogate": b'{"prompt": "\\ud800"}',
    "the other half": b'{"prompt": "x\\uDFFFy"}',
    "half a surrogate in a key": b'{"prompt": "?", "metadata": {"\\ud800": ""}}',
    "UTF-16": '{"prompt": "?"}'.encode("utf-16"),
    "UTF-32": '{"prompt": "?"}'.encode("utf-32-le"),
    "invalid UTF-8": b'{"prompt": "\xff"}',
    "overlong UTF-8": b'{"prompt": "\xc0\x80"}',
    "a comment": b'{"prompt": "?" /* ! */}',
    "single quotes": b"{'prompt': '?'}",
    "a control character": b'{"prompt": "a\nb"}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_json_that_is_none_is_400(intake: App, body: bytes) -> None:
    problem(intake.http.post("/v1/jobs", content=body, headers=JSON), 400, "malformed_request")
    problem(intake.http.post("/v1/batches", content=body, headers=JSON), 400, "malformed_request")
    problem(intake.http.post("/v1/webhooks/test", content=body, headers=JSON), 400, "malformed_request")


def test_a_whole_pair_of_surrogates_is_a_character(intake: App) -> None:
    body = b'{"prompt": "\\ud83d\\ude00", "model": "none"}'
    problem(intake.http.post("/v1/jobs", content=body, headers=JSON), 422, "unknown_model")


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/x/cancel", "/v1/jobs/x/retry", "/v1/batches/x/cancel", "/v1/jobs/x/deliveries/msg_x/redeliver"],
)
def test_a_body_that_would_be_ignored_is_refused(intake: App, path: str) -> None:
    answer = intake.http.post(path, json={"generation": {"temperature": 1}})
    assert "takes no body" in problem(answer, 400, "malformed_request")["detail"]
    problem(intake.http.post(path, data={"tiles": "4"}), 400, "malformed_request")
    problem(intake.http.post(path, json={}), 404, "not_found")
    problem(intake.http.post(path, content=b"", headers=JSON), 404, "not_found")


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "image/png"]
)
def test_another_type_of_body_is_415(intake: App, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    problem(intake.http.post("/v1/jobs", content=b'{"prompt": "?"}', headers=headers), 415, "unsupported_media_type")
    problem(intake.http.post("/v1/batches", content=b"{}", headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("/v1/jobs", "multipart/form-data or application/json"),
        ("/v1/batches", "multipart/form-data or application/json"),
        ("/v1/responses", "application/json"),
        ("/v1/files", "multipart/form-data"),
        ("/v1/webhook_endpoints", "application/json"),
    ],
)
@pytest.mark.parametrize("kind", ["", "text/plain"])
def test_the_refusal_of_a_type_names_those_that_the_call_takes(
    intake: App, path: str, accepted: str, kind: str
) -> None:
    answer = intake.http.post(path, content=b"?", headers={"Content-Type": kind} if kind else {})
    error = answer.json().get("error", {})
    detail = answer.json().get("detail") or error["message"]
    assert detail.endswith(f"this call accepts {accepted}")
    assert ("no Content-Type" in detail) == (kind == "")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_415(intake: App, encoding: str) -> None:
    body = gzip.compress(json.dumps({"prompt": "a" * 1000}).encode())
    answer = intake.http.post("/v1/jobs", content=body, headers=JSON | {"Content-Encoding": encoding})
    problem(answer, 415, "unsupported_media_type")


MULTIPART = {
    "nothing": b"",
    "no boundary in it": b"hello",
    "another boundary": b'--c\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n?\r\n--c--\r\n',
    "no end": part("prompt"),
    "half a header": b"--b\r\nContent-Dispo",
    "no disposition": b"--b\r\nContent-Type: text/plain\r\n\r\n?\r\n" + END,
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\n?\r\n" + END,
    "another disposition": b'--b\r\nContent-Disposition: attachment; name="prompt"\r\n\r\n?\r\n' + END,
    "a header of a megabyte": part("prompt", headers=b"X-A: " + b"a" * (1 << 20) + b"\r\n") + END,
    "a thousand headers": part("prompt", headers=b"X-A: a\r\n" * 1000) + END,
    "ten thousand fields": b"".join(part(f"f{n}") for n in range(10_000)) + END,
    "ten thousand empty files": b'--b\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n\r\n' * 10_000
    + END,
    "a name that is no UTF-8": b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n?\r\n' + END,
    "a prompt that is no UTF-8": part("prompt", b"\xff") + END,
    "a request that is no JSON": part("request", b"{") + END,
}


@pytest.mark.parametrize("body", MULTIPART.values(), ids=MULTIPART)
def test_a_form_that_is_none_is_400(intake: App, body: bytes) -> None:
    problem(intake.http.post("/v1/jobs", content=body, headers=FORM), 400, "malformed_request")


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 300]
)
def test_a_form_without_a_boundary_is_400(intake: App, kind: str) -> None:
    answer = intake.http.post("/v1/jobs", content=part("prompt") + END, headers={"Content-Type": kind})
    problem(answer, 400, "malformed_request")


def test_ten_thousand_pictures_are_too_many(intake: App) -> None:
    body = b"".join(part("image") for _ in range(10_000)) + END
    problem(intake.http.post("/v1/jobs", content=body, headers=FORM), 422, "too_many_images")


def test_a_field_of_many_megabytes_is_413(intake: App) -> None:
    body = part("prompt", b"a" * (9 << 20)) + END
    answer = intake.http.post("/v1/jobs", content=body, headers=FORM)
    assert problem(answer, 413, "body_too_large")["field"] == "prompt"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\\0b", "x" * 3000, "\u202egpj.exe"])
def test_the_name_of_a_file_is_never_used(intake: App, name: str) -> None:
    image = picture("PNG")
    answer = intake.http.post("/v1/jobs", data={"prompt": "?", "model": "none"}, files=[("image", (name, image))])
    problem(answer, 422, "unknown_model")


class TestSize:
    """Limits hold while reading."""

    def test_one_byte_over_the_limit_is_413(self) -> None:
        with running_app(max_body_bytes=1000) as intake:
            frame = len(json.dumps({"prompt": ""}))
            whole = {"prompt": "a" * (1000 - frame)}
            assert intake.http.post("/v1/jobs", content=json.dumps(whole).encode(), headers=JSON).status_code == 202
            over = {"prompt": "a" * (1001 - frame)}
            problem(
                intake.http.post("/v1/jobs", content=json.dumps(over).encode(), headers=JSON), 413, "body_too_large"
            )

    def test_a_body_that_does_not_say_its_length_is_counted(self) -> None:
        def endless() -> Iterator[bytes]:
            yield part("prompt") + b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
            for _ in range(1000):
                yield b"a" * 10_000

        with running_app(max_body_bytes=100_000) as intake:
            problem(intake.http.post("/v1/jobs", content=endless(), headers=FORM), 413, "body_too_large")

    def test_a_large_picture_is_named(self) -> None:
        with running_app(max_image_bytes=1000) as intake:
            small, large = picture("PNG", (8, 8)), b"\x89PNG\r\n\x1a\n" + bytes(2000)
            assert problem(intake.submit("?", small, large), 413, "image_too_large")["image"] == 1
            uri = "data:image/png;base64," + "A" * 4000
            assert problem(intake.submit("?", images=["data:,", uri][1:]), 413, "image_too_large")["image"] == 0


@pytest.mark.parametrize("uri", ["data:image/png;base64,", "data:image/png;base64,AAA", "data:image/png;base64,é"])
def test_base64_that_is_none_is_named(intake: App, uri: str) -> None:
    assert problem(intake.submit("?", images=[uri]), 422, "undecodable_image")["image"] == 0
