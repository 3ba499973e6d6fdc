"""What a file is that is no image."""

import pytest

from services.intake.submission.unknown_format import describe
from tests.unit.intake.app_fixture import App, problem


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"\xef\xbb\xbf<?xml version", "XML or SVG"),
        (b"<!doctype html>", "HTML or SVG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "a video"),
        (b"\x1f\x8b\x08\0", "gzip; send the image uncompressed"),
        (b'{"error": "not found"}', "JSON"),
        (bytes(100), "of no known type"),
        ("你好".encode(), "of no known type"),
    ],
)
def test_it_is_named(start: bytes, name: str) -> None:
    assert describe(start) == name


@pytest.mark.parametrize(
    ("sent", "hint"),
    [
        ("https://example.org/a.jpg", 'as {"url": '),
        ("data:image/png;base64,AAAA", "`images` of a JSON body"),
        ("street.jpg", "-F image=@FILE"),
        ("/home/me/street.jpg", "-F image=@FILE"),
        ("/9j/4AAQSkZJRgABAQAAAQABAAD", "takes the file itself"),
    ],
)
def test_what_a_shell_sends_by_mistake_is_answered_with_what_to_do(intake: App, sent: str, hint: str) -> None:
    answer = intake.http.post("/v1/jobs", data={"prompt": "?"}, files=[("image", (None, sent))])
    detail = problem(answer, 415, "unsupported_image_type")["detail"]
    assert hint in detail
    assert detail.startswith("image 0 is, by its content, ")
