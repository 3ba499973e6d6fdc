"""Bodies as clients and encoders really write them."""

import base64
import json
import textwrap
from typing import Any
from urllib.parse import quote

import pytest

from services.intake.schemas.requests import JobRequest
from shared.request_archive import read_manifest
from shared.requests import Generation
from tests.unit.intake.app_fixture import App, problem
from tests.unit.intake.image_files import picture

PNG = picture("PNG", (90, 50))
BASE64 = base64.b64encode(PNG).decode()
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def part(disposition: str, data: bytes, headers: str = "") -> bytes:
    return f"--b\r\nContent-Disposition: form-data; {disposition}\r\n{headers}\r\n".encode() + data + b"\r\n"


def post(intake: App, *parts: bytes) -> Any:
    return intake.http.post("/v1/jobs", content=b"".join(parts) + b"--b--\r\n", headers=FORM)


def prompt_of(intake: App, answer: Any) -> str:
    assert answer.status_code == 202, answer.text
    manifest = read_manifest(intake.objects, answer.json()["id"])
    return manifest.request.messages[0].content


class TestDataUris:
    """`images` of a JSON body."""

    @pytest.mark.parametrize(
        "uri",
        [
            "data:image/png;base64," + "\r\n".join(textwrap.wrap(BASE64, 76)),
            "data:image/png;base64," + BASE64 + "\n",
            "data:image/png;base64," + BASE64.rstrip("="),
            "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
            "data:image/png;base64, " + BASE64,
            "data:image/png;base64," + quote(BASE64, safe=""),
            "DATA:IMAGE/PNG;BASE64," + BASE64,
            "data:image/png;charset=utf-8;base64," + BASE64,
            "data:image/png;base64;name=sign.png," + BASE64,
            "data:;base64," + BASE64,
            " data:image/jpg; base64 ," + BASE64,
        ],
        ids=[
            "lines",
            "a line end",
            "unpadded",
            "url-safe",
            "a space",
            "escaped",
            "upper",
            "charset",
            "parameter behind",
            "no type",
            "gaps",
        ],
    )
    def test_every_way_that_encoders_write_is_read(self, intake: App, uri: str) -> None:
        answer = intake.submit("?", images=[uri])
        assert answer.status_code == 202, answer.text
        assert answer.json()["images"][0]["bytes"] == len(PNG)

    @pytest.mark.parametrize(
        ("uri", "hint"),
        [
            (BASE64, "put that in front"),
            ("data:image/png,abc", "without `;base64,`"),
            ({"uri": "data:image/png;base64," + BASE64}, "must be a data URI, {"),
        ],
        ids=["bare", "no base64", "an object"],
    )
    def test_anything_else_is_refused_with_what_to_do(self, intake: App, uri: Any, hint: str) -> None:
        assert hint in problem(intake.submit("?", images=[uri]), 422, "invalid_field")["detail"]


class TestForms:
    """The fields and parts of a form."""

    @pytest.mark.parametrize("name", ["image", "image[]", "images", "images[]"])
    def test_images_have_several_names(self, intake: App, name: str) -> None:
        answer = intake.http.post("/v1/jobs", data={"prompt": "?"}, files=[(name, PNG), (name, PNG)])
        assert len(answer.json()["images"]) == 2

    def test_empty_fields_and_empty_file_inputs_are_absent(self, intake: App) -> None:
        answer = post(
            intake,
            part('name="prompt"', b"?"),
            *(part(f'name="{name}"', b"") for name in ("tiles", "webhook", "model", "max_new_tokens", "request")),
            part('name="image"; filename=""', b"", "Content-Type: application/octet-stream\r\n"),
            part('name="image"; filename="a.png"', PNG),
        )
        assert answer.status_code == 202, answer.text
        assert len(answer.json()["images"]) == 1

    def test_an_empty_file_is_not_absent(self, intake: App) -> None:
        answer = post(intake, part('name="prompt"', b"?"), part('name="image"; filename="a.png"', b""))
        assert "empty" in problem(answer, 422, "undecodable_image")["detail"]

    @pytest.mark.parametrize("name", ["temperature", "metadata", "parent", "priority", "thumbnail", "messages", "seed"])
    def test_a_field_that_only_json_has_names_the_part_request(self, intake: App, name: str) -> None:
        answer = intake.http.post("/v1/jobs", data={"prompt": "?", name: "1"}, files=[("image", PNG)])
        assert "`request`" in problem(answer, 422, "invalid_field")["detail"]

    def test_a_list_of_tiles_names_it_too(self, intake: App) -> None:
        answer = intake.http.post("/v1/jobs", data={"prompt": "?", "tiles": "6,4"}, files=[("image", PNG)])
        assert "`request`" in problem(answer, 422, "invalid_field")["detail"]

    def test_a_large_file_under_another_name_is_refused_by_its_name(self, intake: App) -> None:
        answer = intake.http.post("/v1/jobs", data={"prompt": "?"}, files=[("file", bytes(12 << 20))])
        assert "name the parts of images `image`" in problem(answer, 422, "invalid_field")["detail"]

    @pytest.mark.parametrize("charset", ["gbk", "utf-16", "latin-1", "UTF-8"])
    def test_the_charset_of_a_part_is_honoured(self, intake: App, charset: str) -> None:
        text = "naïve?" if charset == "latin-1" else "你好？"
        answer = post(
            intake, part('name="prompt"', text.encode(charset), f"Content-Type: text/plain; charset={charset}\r\n")
        )
        assert prompt_of(intake, answer) == text

    def test_so_is_that_of_the_whole_form(self, intake: App) -> None:
        answer = post(intake, part('name="_charset_"', b"gbk"), part('name="prompt"', "你好？".encode("gbk")))
        assert prompt_of(intake, answer) == "你好？"

    @pytest.mark.parametrize(
        "charset", ["klingon", "hex", "rot13", "undefined", "idna", "punycode", "unicode_escape", "utf-7", "x" * 200]
    )
    def test_an_unknown_charset_is_refused(self, intake: App, charset: str) -> None:
        answer = post(intake, part('name="prompt"', b"aa", f"Content-Type: text/plain; charset={charset}\r\n"))
        assert "send UTF-8" in problem(answer, 400, "malformed_request")["detail"]

    @pytest.mark.parametrize("charset", [b"\0", b"\xff", b"../utf-8"])
    def test_so_is_one_that_is_no_name(self, intake: App, charset: bytes) -> None:
        answer = post(intake, part('name="_charset_"', charset), part('name="prompt"', b"aa"))
        assert "send UTF-8" in problem(answer, 400, "malformed_request")["detail"]

    @pytest.mark.parametrize(
        "charset", ["windows-1252", "ISO-8859-1", "Shift_JIS", "Big5", "EUC-KR", "koi8-r", "GB18030", "us-ascii"]
    )
    def test_charsets_of_the_web_are_known(self, intake: App, charset: str) -> None:
        answer = post(intake, part('name="_charset_"', charset.encode()), part('name="prompt"', b"aa"))
        assert prompt_of(intake, answer) == "aa"

    @pytest.mark.parametrize("name", ["prompt", "image"])
    @pytest.mark.parametrize("encoding", ["base64", "Quoted-Printable"])
    def test_a_transfer_encoding_is_refused_by_name(self, intake: App, name: str, encoding: str) -> None:
        answer = post(intake, part(f'name="{name}"', b"aGVsbG8=", f"Content-Transfer-Encoding: {encoding}\r\n"))
        assert encoding.lower() in problem(answer, 400, "malformed_request")["detail"]

    def test_one_that_encodes_nothing_is_accepted(self, intake: App) -> None:
        answer = post(intake, part('name="prompt"', b"?", "Content-Transfer-Encoding: 8BIT\r\n"))
        assert prompt_of(intake, answer) == "?"


class TestJson:
    """A body of JSON."""

    def test_a_byte_order_mark_is_skipped(self, intake: App) -> None:
        body = b'\xef\xbb\xbf{"prompt": "?"}'
        headers = {"Content-Type": "application/json; charset=utf-8"}
        assert intake.http.post("/v1/jobs", content=body, headers=headers).status_code == 202
        assert intake.http.post("/v1/jobs", files=[("request", ("", body))]).status_code == 202

    def test_a_charset_that_json_does_not_have_is_refused(self, intake: App) -> None:
        headers = {"Content-Type": "application/json; charset=latin-1"}
        answer = intake.http.post("/v1/jobs", content=b'{"prompt": "?"}', headers=headers)
        assert "UTF-8" in problem(answer, 415, "unsupported_media_type")["detail"]

    def test_the_generation_of_the_model_card_is_taken(self, intake: App) -> None:
        card = {"num_beams": 1, "max_new_tokens": 512, "do_sample": False}
        assert intake.submit("?", generation=card).status_code == 202
        batch = {"jobs": [{"prompt": "?"}], "defaults": {"generation": card}}
        assert intake.http.post("/v1/batches", json=batch).status_code == 202

    @pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "do_sample", "max_length", "use_cache"])
    def test_a_field_of_generation_beside_it_is_named(self, intake: App, name: str) -> None:
        body = problem(intake.http.post("/v1/jobs", json={"prompt": "?", name: 1}), 422, "invalid_field")
        assert (body["field"], "goes into `generation`" in body["detail"]) == (name, True)
        jobs = json.dumps({"jobs": [{"prompt": "?", name: 1}]})
        answer = intake.http.post("/v1/batches", content=jobs, headers={"Content-Type": "application/json"})
        assert problem(answer, 422, "invalid_field")["errors"][0]["field"] == name

    def test_null_stands_for_an_absent_field(self, intake: App) -> None:
        fields = set(JobRequest.model_fields) - {"prompt"}
        nulls = dict.fromkeys({*fields, "images"}) | {
            "generation": dict.fromkeys(set(Generation.model_fields) - {"max_new_tokens"})
        }
        assert intake.http.post("/v1/jobs", json={"prompt": "?"} | nulls).status_code == 202
        defaults = {"tiles": 6, "generation": {"temperature": 0.5}}
        uri = "data:image/png;base64," + BASE64
        jobs = [{"prompt": "?"} | nulls | {"custom_id": None, "images": [uri]}]
        batch = intake.http.post("/v1/batches", json={"jobs": jobs, "defaults": defaults, "metadata": None})
        assert batch.status_code == 202, batch.text
        (job,) = intake.http.get(f"/v1/batches/{batch.json()['id']}/jobs").json()["data"]
        manifest = read_manifest(intake.objects, job["id"])
        assert manifest.request.images[0].max_tiles == 6

    def test_null_is_absent_in_a_webhook_too(self, intake: App) -> None:
        webhook = {"url": "http://127.0.0.1:9000/", "events": None, "payload": None, "headers": None}
        assert intake.submit("?", webhook=webhook).status_code == 202
        batch = {"jobs": [{"prompt": "?"}], "webhook": webhook, "defaults": {"webhook": webhook}}
        assert intake.http.post("/v1/batches", json=batch).status_code == 202

    def test_the_name_of_a_refused_webhook_header_is_told_as_it_was_sent(self, intake: App) -> None:
        webhook = {"url": "http://127.0.0.1:9000/", "headers": {"Content-Type": "a"}}
        assert (
            "the header Content-Type is" in problem(intake.submit("?", webhook=webhook), 422, "invalid_field")["detail"]
        )

    def test_it_is_absent_beside_parts_too(self, intake: App) -> None:
        asked = part('name="request"', b'{"prompt": "?", "images": null}')
        assert post(intake, asked).status_code == 202

    def test_an_unknown_field_is_unknown_also_if_it_is_null(self, intake: App) -> None:
        assert problem(intake.submit("?", colour=None), 422, "invalid_field")["field"] == "colour"
