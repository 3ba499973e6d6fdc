"""Images by URL in intake: judged by their text, fetched by nobody here, and stored images from then on."""

import hashlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from shared.jobs import Job, State
from shared.request_archive import read_manifest
from shared.storage import image_key
from shared.store import transitions
from tests.outbound import spied_connections
from tests.results import stored_result
from tests.unit.intake.app_fixture import App, once_waiting, problem, running_app
from tests.unit.intake.image_files import picture
from tests.unit.shared.outbound.test_ssrf import LITERALS, REFUSED_BY_TEXT

PNG = picture("PNG")
URL, OTHER = "https://images.example/a.png?signature=s3cret", "https://images.example/b.png"
UNKNOWN = dict.fromkeys(("media_type", "bytes", "sha256", "width", "height", "grid", "tiles", "warning"))


@pytest.fixture
def app() -> Iterator[App]:
    with running_app(image_urls=True) as opened:
        yield opened


@pytest.fixture
def sdk(app: App) -> OpenAI:
    return OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=app.http, max_retries=0)


def seen(data: bytes) -> dict[str, Any]:
    """What a worker tells of an image that it fetched and tiled."""
    size = {"width": 64, "height": 32, "grid": [2, 1], "tiles": 3}
    return {"media_type": "image/png", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} | size


def answer_with(app: App, job: Job, *images: bytes) -> None:
    """End a claimed job as a worker does that fetched `images`."""
    for n, data in enumerate(images):
        app.objects.put(image_key(job.id, n), data, "image/png")
    fields = stored_result("A sign.", job.attempt).job_fields("") | {"images": [seen(data) for data in images]}
    app.store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, fields))


# --- every surface


def test_a_native_job_names_urls_beside_data_uris(app: App) -> None:
    with spied_connections() as connections:
        id = app.accepted(images=[{"url": URL}, {"url": OTHER}], tiles=[1, 6])
    assert connections == []
    assert app.http.get(f"/v1/jobs/{id}").json()["images"] == [UNKNOWN, UNKNOWN]
    stored = read_manifest(app.objects, id).request.images
    assert [(one.url, one.key, one.tiles) for one in stored] == [
        (URL, image_key(id, 0), 1),
        (OTHER, image_key(id, 1), 7),
    ]
    assert list(app.objects.keys(f"jobs/{id}/image")) == []


def test_a_batch_names_urls(app: App) -> None:
    asked = {"jobs": [{"prompt": "?", "images": [{"url": URL}]}, {"prompt": "?", "images": [{"url": OTHER}]}]}
    batch = app.http.post("/v1/batches", json=asked)
    assert batch.status_code == 202, batch.text
    assert {read_manifest(app.objects, app.claim().id).request.images[0].url for _ in range(2)} == {URL, OTHER}


def test_a_response_names_urls_by_the_sdk(app: App, sdk: OpenAI) -> None:
    part: Any = {"type": "input_image", "image_url": URL, "detail": "low"}
    text: Any = {"type": "input_text", "text": "What is this?"}
    response = sdk.responses.create(
        model="tileq-demo", input=[{"role": "user", "content": [part, text]}], background=True
    )
    id = response.id.replace("resp_", "job_")
    [image] = read_manifest(app.objects, id).request.images
    assert (image.url, image.tiles) == (URL, 1)
    answer_with(app, app.claim(), PNG)
    assert sdk.responses.retrieve(response.id).output_text == "A sign."
    [item] = sdk.responses.input_items.list(response.id).data
    assert f"/v1/jobs/{id}/images/0" in item.to_json()
    assert "s3cret" not in item.to_json()


def test_a_completion_names_urls_by_the_sdk(app: App, sdk: OpenAI) -> None:

    worker = once_waiting(app, lambda: answer_with(app, app.claim(), PNG))
    part: Any = {"type": "image_url", "image_url": {"url": URL}}
    text: Any = {"type": "text", "text": "What is this?"}
    done = sdk.chat.completions.create(model="tileq-demo", messages=[{"role": "user", "content": [part, text]}])
    worker.join(10)
    assert done.choices[0].message.content == "A sign."


# --- refusals


def test_urls_are_off_unless_the_setting_is_on(intake: App) -> None:
    refused = problem(intake.submit(images=[{"url": URL}]), 422, "image_urls_disabled")
    assert (refused["image"], refused["field"]) == (0, "images.0")
    sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=intake.http, max_retries=0)
    part: Any = {"type": "image_url", "image_url": {"url": URL}}
    with pytest.raises(openai.BadRequestError) as error:
        sdk.chat.completions.create(model="tileq-demo", messages=[{"role": "user", "content": [part]}])
    assert (error.value.code, error.value.param) == ("image_urls_disabled", "messages.0.content.0.image_url")


@pytest.mark.parametrize("url", [URL, "ftp://images.example/a.png"])
def test_a_bare_url_is_refused_by_what_the_settings_allow(app: App, intake: App, url: str) -> None:
    problem(intake.submit(images=[url]), 422, "image_urls_disabled")
    if url == URL:
        assert 'name it as {"url"' in problem(app.submit(images=[url]), 422, "invalid_field")["detail"]
    else:
        assert "must begin with https://" in problem(app.submit(images=[url]), 422, "image_url_refused")["detail"]


def test_the_sdk_hears_which_schemes_are_fetched(sdk: OpenAI) -> None:
    part: Any = {"type": "input_image", "image_url": "ftp://images.example/a.png", "detail": "low"}
    with pytest.raises(openai.BadRequestError, match="must begin with https://") as error:
        sdk.responses.create(model="tileq-demo", input=[{"role": "user", "content": [part]}])
    assert error.value.param == "input.0.content.0"


@pytest.mark.parametrize("url", REFUSED_BY_TEXT, ids=lambda url: ascii(url)[:60])
def test_a_url_whose_text_is_wrong_is_refused_without_repeating_it(app: App, url: str) -> None:
    if "\ud800" in url:  # no JSON holds it
        return
    refused = problem(app.submit(images=[{"url": OTHER}, {"url": url}]), 422, "image_url_refused")
    assert (refused["image"], refused["field"]) == (1, "images.1")
    assert refused["detail"].startswith("image 1: the image ")
    assert "secret" not in refused["detail"]


def test_no_name_is_looked_up_and_no_address_judged_before_a_worker_does(app: App) -> None:
    with spied_connections() as connections:
        for host in LITERALS:
            answer = app.submit(images=[{"url": f"https://{host}/a.png"}])
            assert answer.status_code == 202 or "be parsed" in answer.text
    assert connections == []


@pytest.mark.parametrize("image", [{"url": 7}, {"url": URL, "detail": "low"}, {"uri": URL}, {}])
def test_another_object_is_refused_with_the_forms_that_there_are(app: App, image: Any) -> None:
    detail = problem(app.submit(images=[image]), 422, "invalid_field")["detail"]
    assert '{"url": "https://…"}' in detail


def test_an_image_that_may_have_many_tiles_is_counted_with_the_most(app: App) -> None:
    urls = [{"url": OTHER}] * 16
    detail = problem(app.submit(images=urls), 422, "too_many_tiles")["detail"]
    assert "208 tiles, thumbnails included and the most for each image by URL" in detail
    app.accepted(images=urls, tiles=8)


def test_the_same_url_under_the_same_key_is_the_same_request(app: App) -> None:
    def submit(url: str) -> Any:
        return app.submit(images=[{"url": url}], headers={"Idempotency-Key": "k"})

    first = submit(URL).json()["id"]
    assert submit(URL).json()["id"] == first
    problem(submit(OTHER), 422, "idempotency_mismatch")


# --- once a worker has fetched it


def test_the_image_is_read_once_a_worker_stored_it(app: App) -> None:
    id = app.accepted(images=[{"url": URL}])
    assert "fetched" in problem(app.http.get(f"/v1/jobs/{id}/images/0"), 404, "not_found")["detail"]
    answer_with(app, app.claim(), PNG)
    found = app.http.get(f"/v1/jobs/{id}/images/0")
    assert (found.content, found.headers["content-type"]) == (PNG, "image/png")
    assert app.http.get(f"/v1/jobs/{id}").json()["images"] == [seen(PNG) | {"warning": None}]


def test_a_follow_up_has_the_stored_image_and_no_url(app: App) -> None:
    parent = app.accepted(images=[{"url": URL}], tiles=6)
    answer_with(app, app.claim(), PNG)
    child = app.accepted(parent=parent, images=[{"url": OTHER}])
    [old, new] = read_manifest(app.objects, child).request.images
    assert (old.url, old.sha256, old.width, old.grid) == ("", hashlib.sha256(PNG).hexdigest(), 64, (2, 1))
    assert new.url == OTHER
    found = app.http.get(f"/v1/jobs/{child}").json()["images"]
    assert found == [seen(PNG) | {"warning": None}, UNKNOWN]
    assert app.http.get(f"/v1/jobs/{child}/images/0").content == PNG


def test_a_retry_takes_what_was_stored_and_names_the_url_where_nothing_was(app: App) -> None:
    for fetched in (True, False):
        id = app.accepted(images=[{"url": URL}])
        job = app.claim()
        if fetched:
            answer_with(app, job, PNG)
        else:
            app.fail(job, "image_fetch_failed")
        again = app.http.post(f"/v1/jobs/{id}/retry").json()["id"]
        [image] = read_manifest(app.objects, again).request.images
        assert image.url == ("" if fetched else URL)
        app.succeed(app.claim())


def test_neither_the_job_nor_its_list_shows_the_url(app: App) -> None:
    id = app.accepted(images=[{"url": URL}])
    answer_with(app, app.claim(), PNG)
    for path in (f"/v1/jobs/{id}", "/v1/jobs", f"/v1/jobs/{id}/result"):
        assert "images.example" not in app.http.get(path).text
    assert "images.example" not in repr(app.store.client.hgetall(f"tileq:job:{id}"))
