"""Taking a job in."""

import base64
import json
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from shared.errors import StorageDown
from shared.jobs import Job, State
from shared.records import WebhookTarget
from shared.request_archive import MAX_ARCHIVED_BYTES, read_image, read_images, read_manifest, unpack
from shared.storage import MemoryStorage, archive_key, image_key, manifest_key
from tests.unit.intake.app_fixture import App, once_waiting, problem, running_app
from tests.unit.intake.image_files import picture, turned

JPEG = picture("JPEG", (1920, 1440))
LARGE = JPEG + bytes(MAX_ARCHIVED_BYTES)  #: behind the end of an image anything may follow


def test_a_form_of_a_shell_is_taken_in(intake: App) -> None:
    answer = intake.http.post(
        "/v1/jobs",
        files=[("image", ("street.jpg", JPEG, "image/jpeg"))],
        data={
            "prompt": "What does the sign say?",
            "tiles": "6",
            "max_new_tokens": "20",
            "webhook": "http://127.0.0.1:9000/hook",
        },
    )
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert body["images"] == [
        {
            "media_type": "image/jpeg",
            "bytes": len(JPEG),
            "width": 1920,
            "height": 1440,
            "sha256": body["images"][0]["sha256"],
            "grid": [3, 2],
            "tiles": 7,
            "warning": None,
        }
    ]
    assert body["webhook"] == {
        "url": "http://127.0.0.1:9000/hook",
        "events": ["job.succeeded", "job.failed", "job.cancelled", "job.expired"],
        "payload": "full",
        "state": "none",
        "attempts": 0,
    }
    assert (body["state"], body["queue_position"], body["model"]) == ("queued", 0, "tileq-demo")


def test_what_is_stored_recreates_the_job(intake: App) -> None:
    id = intake.accepted(JPEG, metadata={"order": "4711"}, generation={"max_new_tokens": 7, "stop": ["."]})
    manifest = read_manifest(intake.objects, id)
    assert list(intake.objects.keys("jobs/")) == [archive_key(id)]
    assert read_images(lambda keys: [intake.objects.get(key) for key in keys], [manifest.request.images[0].key]) == [
        JPEG
    ]
    assert manifest.request.messages[0].content == "<image>\nWhat is this?"
    assert (manifest.request.groups, manifest.request.generation.max_new_tokens) == ((1,), 7)
    assert manifest.record["metadata"] == '{"order":"4711"}'
    assert "request" not in manifest.record
    assert intake.job(id).request == manifest.request.model_dump_json()


def test_a_large_image_is_an_object_of_its_own_here_and_in_what_follows(intake: App) -> None:
    parent = intake.answered("Large.", LARGE)
    child = intake.accepted(JPEG, parent=parent)
    for id in (parent, child):
        assert list(intake.objects.keys(f"jobs/{id}/image")) == [image_key(id, 0)]
        assert intake.http.get(f"/v1/jobs/{id}/images/0").content == LARGE
    assert intake.http.get(f"/v1/jobs/{child}/images/1").content == JPEG


def test_a_large_request_is_not_copied_into_its_record(intake: App) -> None:
    id = intake.accepted(messages=[{"role": "user", "content": "word " * 2000}])
    assert intake.job(id).request == ""


def test_the_hint_is_published_once_the_job_is_durable(intake: App) -> None:
    id = intake.accepted(JPEG)
    intake.context.publisher.close()
    assert intake.hints.sent == [("job", "tileq-demo", id)]


def test_json_takes_pictures_as_data_uris(intake: App) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    first = intake.submit("What?", images=[uri]).json()
    assert first["images"][0]["sha256"] == intake.submit("What?", JPEG).json()["images"][0]["sha256"]


def test_one_prompt_with_two_pictures_is_one_block(intake: App) -> None:
    id = intake.accepted(JPEG, picture("PNG"))
    request = read_manifest(intake.objects, id).request
    assert (request.groups, request.messages[0].content) == ((2,), "<image>\nWhat is this?")


def test_marks_place_the_pictures(intake: App) -> None:
    messages = [
        {"role": "user", "content": "Image-1: <image>\nImage-2: <image>\nWhat differs?"},
        {"role": "assistant", "content": "The colour, not <image>."},
        {"role": "user", "content": "Which one is newer?"},
    ]
    id = intake.accepted(JPEG, picture("PNG"), messages=messages)
    request = read_manifest(intake.objects, id).request
    assert request.groups == (1, 1)
    assert [message.model_dump() for message in request.messages] == messages


@pytest.mark.parametrize("marks", [1, 3])
def test_marks_and_pictures_must_agree(intake: App, marks: int) -> None:
    problem(intake.submit("<image>" * marks + "?", JPEG, JPEG), 422, "image_count_mismatch")


def test_a_mark_without_any_picture_is_refused(intake: App) -> None:
    problem(intake.submit("What is <image>?"), 422, "image_count_mismatch")


def test_a_mark_that_is_a_word_is_escaped_as_the_refusal_says(intake: App) -> None:
    detail = problem(intake.submit("What does <image> do?"), 422, "image_count_mismatch")["detail"]
    assert r"`\<image>`" in detail
    assert intake.submit(r"What does \<image> do?").status_code == 202


SYSTEM = {"role": "system", "content": "Answer with one word."}


def stored_messages(intake: App, id: str) -> list[tuple[str, str]]:
    request = read_manifest(intake.objects, id).request
    return [(message.role, message.content) for message in request.messages]


def test_a_system_message_comes_first_and_the_images_behind_it(intake: App) -> None:
    id = intake.accepted(JPEG, messages=[SYSTEM, {"role": "user", "content": "What?"}])
    assert stored_messages(intake, id) == [("system", "Answer with one word."), ("user", "<image>\nWhat?")]


@pytest.mark.parametrize(
    "messages",
    [[SYSTEM], [{"role": "user", "content": "?"}, SYSTEM], [SYSTEM, SYSTEM, {"role": "user", "content": "?"}]],
)
def test_a_system_message_elsewhere_is_refused(intake: App, messages: list[dict[str, str]]) -> None:
    assert problem(intake.submit(messages=messages), 422, "invalid_field")["field"] == "messages"


def test_a_template_without_a_place_for_a_system_message_refuses_it(intake: App) -> None:
    refused = intake.submit(messages=[SYSTEM, {"role": "user", "content": "?"}], model="internvl-chat-v1.1")
    assert "internvl-chat-v1.1" in problem(refused, 422, "invalid_field")["detail"]


def test_a_conversation_that_continues_keeps_its_system_message(intake: App) -> None:
    parent = intake.accepted(messages=[SYSTEM, {"role": "user", "content": "One?"}])
    intake.succeed(intake.claim(), "Two.")
    child = intake.accepted(parent=parent)
    assert [role for role, _ in stored_messages(intake, child)] == ["system", "user", "assistant", "user"]
    refused = intake.submit(messages=[SYSTEM, {"role": "user", "content": "?"}], parent=parent)
    assert problem(refused, 422, "invalid_field")["field"] == "messages.0.role"


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<IMG_CONTEXT>", "[UNUSED_TOKEN_145]", "你好，世界", "👩‍👩‍👧 \u202eabc", "a\0b"]
)
def test_any_other_text_stays_text(intake: App, text: str) -> None:
    id = intake.accepted(messages=[{"role": "user", "content": text}])
    assert read_manifest(intake.objects, id).request.messages[0].content == text


@pytest.mark.parametrize("prompt", ["", " \n\t", "\0\x01", "\u200b"])
def test_a_prompt_with_nothing_to_read_is_refused(intake: App, prompt: str) -> None:
    assert problem(intake.submit(prompt, JPEG), 422, "invalid_field")["field"] == "prompt"


def test_a_number_above_its_limit_is_shown_with_all_its_digits(intake: App) -> None:
    answer = intake.submit("?", JPEG, generation={"max_new_tokens": 12_345_678})
    assert "is 12345678; at most" in problem(answer, 422, "invalid_field")["detail"]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(
        ({"generation": {"max_new_tokens": value}}, "generation.max_new_tokens")
        for value in (0, -1, 10**9, 1.0, 1.5, True, "5", None)
    ),
    *(({"generation": {"temperature": value}}, "generation.temperature") for value in (-0.1, 2.1, "1", True)),
    *(({"generation": {"temperature": value}}, "generation.temperature") for value in (1e-38, 1e-300, 0.0009)),
    *(
        ({"generation": {"temperature": 1, "repetition_penalty": value}}, "generation.repetition_penalty")
        for value in (1e-38, 0.09, 0, 2.1)
    ),
    ({"generation": {"top_p": 1.1}}, "generation.top_p"),
    ({"generation": {"json_schema": "object"}}, "generation.json_schema"),
    ({"generation": {"json_schema": {"items": {"not": {}}}}}, "generation.json_schema.items"),
    ({"generation": {"json_schema": {}, "num_beams": 2}}, "generation.num_beams"),
    ({"generation": {"json_schema": {}, "stop": ["}"]}}, "generation.stop"),
    ({"generation": {"top_p": 0}}, "generation.top_p"),
    ({"generation": {"stop": ["a"] * 9}}, "generation.stop"),
    ({"generation": {"stop": ["a", ""]}}, "generation.stop.1"),
    ({"generation": {"seed": -1}}, "generation.seed"),
    ({"generation": {"do_sample": "yes"}}, "generation.do_sample"),
    ({"generation": {"max_length": 9}}, "generation.max_length"),
    *(({name: 1}, name) for name in ("state", "attempt", "tenant", "model_path", "id")),
    *(({"tiles": value}, "tiles") for value in (0, 41, -1, 2.0, True, "12")),
    ({"tiles": [1, 41]}, "tiles.1"),
    ({"tiles": [1, 2]}, "tiles"),
    ({"metadata": {"a": "b" * 513}}, "metadata.a"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"metadata": {"a": {"b": "c"}}}, "metadata.a"),
    ({"metadata": {"k" * 65: ""}}, f"metadata.{'k' * 65}.[key]"),
    ({"start_within": 0}, "start_within"),
    ({"start_within": 10**9}, "start_within"),
    ({"run_within": 10**9}, "run_within"),
    ({"run_within": "60"}, "run_within"),
    ({"priority": "urgent"}, "priority"),
    ({"messages": [], "prompt": None}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}], "prompt": None}, "messages.0.role"),
    ({"messages": [{"role": "assistant", "content": "x"}], "prompt": None}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}] * 3, "prompt": None}, "messages"),
    ({"thumbnail": "yes"}, "thumbnail"),
    ({"webhook": {"url": "https://example.org", "events": ["batch.ended"]}}, "webhook.events.0"),
    ({"webhook": {"url": "https://example.org", "events": []}}, "webhook.events"),
    ({"webhook": {"url": "https://example.org", "payload": "fat"}}, "webhook.payload"),
    ({"webhook": "https://example.org"}, "webhook"),
    ({"images": "x"}, "images"),
    ({"images": ["a.jpg"]}, "images.0"),
    ({"images": [{"part": "a"}]}, "images.0"),
]


@pytest.mark.parametrize(("asked", "field"), BAD_FIELDS, ids=lambda value: str(value)[:60])
def test_a_field_that_does_not_fit_is_named(intake: App, asked: dict[str, Any], field: str) -> None:
    assert problem(intake.http.post("/v1/jobs", json={"prompt": "?"} | asked), 422, "invalid_field")["field"] == field


def test_a_prompt_and_messages_are_two_questions(intake: App) -> None:
    messages = [{"role": "user", "content": "?"}]
    problem(intake.http.post("/v1/jobs", json={"prompt": "?", "messages": messages}), 422, "invalid_field")
    problem(intake.http.post("/v1/jobs", json={}), 422, "invalid_field")


@pytest.mark.parametrize("model", ["gpt-4", "../model", "Mini-InternVL-Chat-V1.5", "a" * 128])
def test_an_unknown_model_is_refused(intake: App, model: str) -> None:
    assert problem(intake.submit("?", model=model), 422, "unknown_model")["field"] == "model"


@pytest.mark.parametrize("model", ["mini-internvl-chat-v1.5", "internvl-chat-v1.1"])
def test_a_model_of_the_family_is_known_before_its_worker_is_there(intake: App, model: str) -> None:
    assert intake.submit("?", model=model).json()["model"] == model


def test_a_model_that_takes_one_tile_gets_one(intake: App) -> None:
    body = intake.submit("?", JPEG, model="internvl-chat-v1.2").json()
    assert (body["images"][0]["grid"], body["images"][0]["tiles"]) == ([1, 1], 1)
    problem(intake.submit("?", JPEG, model="internvl-chat-v1.2", tiles=2), 422, "too_many_tiles")


def test_each_picture_may_have_its_own_tiles(intake: App) -> None:
    body = intake.submit("?", JPEG, JPEG, tiles=[1, 12], thumbnail=False).json()
    assert [image["tiles"] for image in body["images"]] == [1, 12]


def test_too_many_tiles_name_the_picture_that_has_most() -> None:
    with running_app(max_tiles=20) as intake:
        assert intake.submit("?", JPEG, JPEG, tiles=[1, 12]).status_code == 202
        assert problem(intake.submit("?", JPEG, JPEG, JPEG, tiles=[1, 12, 12]), 422, "too_many_tiles")["image"] == 1


def test_too_many_pictures_are_refused_in_either_form() -> None:
    with running_app(max_images=2) as intake:
        problem(intake.submit("?", JPEG, JPEG, JPEG), 422, "too_many_images")
        problem(intake.submit("?", images=["data:,"] * 3), 422, "too_many_images")


def test_a_turned_picture_is_counted_as_it_is_seen() -> None:
    data = turned("JPEG", 6, (1920, 1080))
    with running_app() as intake:
        assert intake.submit("?", data).json()["images"][0]["width"] == 1080
    with running_app(image_mode="original") as intake:
        assert intake.submit("?", data).json()["images"][0]["width"] == 1920


def test_text_only_is_a_question_too(intake: App) -> None:
    assert intake.submit("What is tiling?").json()["images"] == []


def test_priority_and_deadlines_go_into_the_record(intake: App) -> None:
    job = intake.job(intake.accepted(priority="high", start_within=5, run_within=6.5))
    assert (job.priority, job.start_within, job.run_within, job.max_attempts) == (0, 5, 6.5, 3)


def test_a_trace_is_taken_up(intake: App) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    answer = intake.submit("?", headers={"traceparent": trace})
    assert intake.job(answer.json()["id"]).trace == trace
    assert intake.job(intake.submit("?", headers={"traceparent": "junk"}).json()["id"]).trace == ""


class TestParent:
    """`parent` continues a conversation."""

    def test_its_rounds_and_pictures_come_first(self, intake: App) -> None:
        parent = intake.answered("A stop sign.", JPEG, tiles=6)
        child = intake.accepted(picture("PNG"), parent=parent)
        request = read_manifest(intake.objects, child).request
        assert [(message.role, message.content) for message in request.messages] == [
            ("user", "<image>\nWhat is this?"),
            ("assistant", "A stop sign."),
            ("user", "<image>\nWhat is this?"),
        ]
        assert request.groups == (1, 1)
        assert [image.key.partition(".tar/")[2] for image in request.images] == ["image-0", "image-1"]
        assert [image.max_tiles for image in request.images] == [6, 12]
        assert read_image(intake.objects, child, 0) == JPEG
        assert intake.http.get(f"/v1/jobs/{child}").json()["parent"] == parent

    @pytest.mark.parametrize("retried", [False, True])
    def test_one_of_a_former_release_lies_in_other_objects(self, intake: App, retried: bool) -> None:
        parent = intake.answered("A stop sign.", JPEG)
        members, old = unpack(intake.objects.get(archive_key(parent))), image_key(parent, 0)
        intake.objects.delete(archive_key(parent))
        intake.objects.put(old, members["image-0"], "image/jpeg")
        manifest = members["request.json"].replace(f"{archive_key(parent)}/image-0".encode(), old.encode())
        intake.objects.put(manifest_key(parent), manifest, "application/json")
        assert intake.http.get(f"/v1/jobs/{parent}/images/0").content == JPEG
        answer = intake.http.post(f"/v1/jobs/{parent}/retry") if retried else intake.submit("?", parent=parent)
        child = answer.json()["id"]
        assert read_image(intake.objects, child, 0) == JPEG
        assert list(intake.objects.keys(f"jobs/{child}/")) == [archive_key(child)]

    def test_a_third_round_stands_on_both(self, intake: App) -> None:
        parent = intake.answered("One.", JPEG)
        second = intake.answered("Two.", parent=parent)
        third = intake.accepted(parent=second)
        request = read_manifest(intake.objects, third).request
        assert [message.content for message in request.messages if message.role == "assistant"] == ["One.", "Two."]
        assert len(request.images) == 1

    def test_a_long_answer_is_read_from_its_object(self, intake: App) -> None:
        parent = intake.accepted()
        intake.succeed(intake.claim(), "long " * 3000, inline=False)
        child = intake.accepted(parent=parent)
        request = read_manifest(intake.objects, child).request
        assert request.messages[1].content == "long " * 3000

    def test_one_that_has_not_succeeded_is_unknown(self, intake: App) -> None:
        waiting = intake.accepted()
        problem(intake.submit("?", parent=waiting), 422, "unknown_parent")
        intake.fail(intake.claim())
        problem(intake.submit("?", parent=waiting), 422, "unknown_parent")

    @pytest.mark.parametrize("parent", ["job_x", "", "../etc", "job_" + "0" * 36])
    def test_one_that_never_was_is_unknown(self, intake: App, parent: str) -> None:
        problem(intake.submit("?", parent=parent), 422, "unknown_parent")

    def test_its_pictures_count(self) -> None:
        with running_app(max_images=2) as intake:
            parent = intake.answered("A.", JPEG, JPEG)
            problem(intake.submit("?", JPEG, parent=parent), 422, "too_many_images")


class TestLength:
    """The prompt must leave room for one token."""

    def test_a_bound_counts_where_no_tokenizer_is(self, intake: App) -> None:
        assert intake.submit("a" * 32_000).status_code == 202
        body = problem(intake.submit("a" * 33_000), 422, "prompt_too_long")
        assert "bound" in body["detail"]

    def test_pictures_take_their_part(self, intake: App) -> None:
        assert intake.submit("a" * 5_000, JPEG).status_code == 202
        problem(intake.submit("a" * 31_000, JPEG), 422, "prompt_too_long")

    def test_a_text_of_megabytes_is_refused_without_counting(self, intake: App) -> None:
        problem(intake.submit("a" * 4_000_000), 422, "prompt_too_long")


class TestWebhook:
    """What is certainly refused is refused at once."""

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.org/",
            "ftp://example.org",
            "https://10.0.0.1/",
            "https://169.254.169.254/",
            "https://u:p@example.org",
            "https://[::1%25eth0]/",
            "https://2130706433/x",
            "javascript:alert(1)",
            "https://127.0.0.1:22/",
        ],
    )
    def test_with_keys_only_public_addresses_pass(self, url: str) -> None:
        with running_app(api_keys=("acme=tq_secret",)) as intake:
            intake.http.headers["Authorization"] = "Bearer tq_secret"
            refused = problem(intake.submit("?", webhook={"url": url}), 422, "webhook_refused")
            assert refused["field"] == "webhook.url"

    def test_without_keys_loopback_is_allowed(self, intake: App) -> None:
        id = intake.accepted(
            webhook={"url": "http://127.0.0.1:8123/a?b=c", "payload": "thin", "events": ["job.started"]}
        )
        assert intake.job(id).webhook == WebhookTarget.model_validate(
            {
                "url": "http://127.0.0.1:8123/a?b=c",
                "host": "127.0.0.1:8123",
                "events": ["job.started"],
                "payload": "thin",
            }
        )

    def test_a_name_that_does_not_resolve_today_may_tomorrow(self, intake: App) -> None:
        assert intake.submit("?", webhook={"url": "https://receiver.invalid/hook"}).status_code == 202


class Broken(MemoryStorage):
    """A storage that takes no archives."""

    def put(self, key: str, data: Any, media_type: str, size: int | None = None, sha256: str = "") -> None:
        if key.endswith(".tar"):
            raise StorageDown("the object storage did not answer PUT")
        super().put(key, data, media_type, size, sha256)


class TestTrouble:
    """A refusal leaves nothing behind."""

    def test_a_full_queue_is_503(self) -> None:
        with running_app(max_queued=1) as intake:
            intake.accepted()
            answer = intake.submit("?", JPEG)
            assert problem(answer, 503, "overloaded")["retryable"] is True
            assert int(answer.headers["retry-after"]) >= 1
            assert len({key.split("/")[1] for key in intake.objects.keys("jobs/")}) == 1

    def test_storage_that_fails_is_503(self) -> None:
        with running_app(Broken()) as intake:
            answer = intake.submit("?", LARGE)
            assert "nothing was accepted" in problem(answer, 503, "storage_unavailable")["detail"]
            assert "retry-after" in answer.headers
            assert intake.http.get("/v1/jobs").json()["data"] == []
            assert list(intake.objects.keys("jobs/")) == []

    def test_a_store_that_fails_is_503_and_nothing_is_half_created(self, intake: App) -> None:
        intake.server.connected = False
        answer = intake.submit("?", JPEG)
        problem(answer, 503, "queue_unavailable")
        assert "retry-after" in answer.headers
        intake.server.connected = True
        assert intake.http.get("/v1/jobs").json() == {"data": [], "next": None}

    def test_nothing_was_accepted_is_said_of_submissions_only(self, intake: App) -> None:
        id = intake.accepted()
        intake.server.connected = False
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            answer = intake.http.request(method, f"/v1/jobs/{id}{path}")
            assert "accepted" not in problem(answer, 503, "queue_unavailable")["detail"]

    def test_a_store_that_may_not_be_asked_whether_it_keeps_jobs_takes_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def denied(*_: Any, **__: Any) -> Any:
            raise NoPermissionError("this user has no permissions to run the 'info' command")

        monkeypatch.setattr("tests.unit.intake.app_fixture.Emulated.info", denied)
        with running_app() as intake:
            assert "+info" in problem(intake.submit("?"), 503, "queue_unavailable")["detail"]
            assert list(intake.objects.keys("")) == []
        with running_app(require_aof=False) as intake:
            assert intake.submit("?").status_code == 202

    def test_a_store_without_aof_takes_no_job(self) -> None:
        with running_app(aof=False) as intake:
            assert intake.http.get("/readyz").status_code == 503
            assert "append-only" in problem(intake.submit("?"), 503, "queue_unavailable")["detail"]


class TestIdempotency:
    """One key, one job."""

    def test_repeating_it_gives_the_same_job(self, intake: App) -> None:
        first = intake.submit("?", JPEG, headers={"Idempotency-Key": "K"})
        again = intake.submit("?", JPEG, headers={"Idempotency-Key": '"K"'})
        assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        assert again.json()["id"] == first.json()["id"]
        assert "idempotent-replayed" not in first.headers
        assert again.headers["location"] == first.headers["location"]

    def test_after_the_end_it_is_200(self, intake: App) -> None:
        intake.submit("?", headers={"Idempotency-Key": "K"})
        intake.succeed(intake.claim(), "Done.")
        again = intake.submit("?", headers={"Idempotency-Key": "K"})
        assert (again.status_code, again.json()["output"]["text"]) == (200, "Done.")

    def test_with_another_request_it_is_422(self, intake: App) -> None:
        intake.submit("?", JPEG, headers={"Idempotency-Key": "K"})
        for other in (
            intake.submit("??", JPEG, headers={"Idempotency-Key": "K"}),
            intake.submit("?", picture("PNG"), headers={"Idempotency-Key": "K"}),
        ):
            problem(other, 422, "idempotency_mismatch")

    def test_while_the_first_is_taken_in_it_is_409(self, intake: App) -> None:
        intake.submit("?", headers={"Idempotency-Key": "K"})
        (key,) = intake.store.client.keys("*:idem:*")
        intake.store.client.hdel(key, "subject")  # as it was a moment before
        answer = intake.submit("?", headers={"Idempotency-Key": "K"})
        problem(answer, 409, "idempotency_in_progress")
        assert answer.headers["retry-after"] == "1"

    def test_a_refused_request_does_not_use_it_up(self, intake: App) -> None:
        problem(
            intake.submit("?", b"junk that is no picture", headers={"Idempotency-Key": "K"}),
            415,
            "unsupported_image_type",
        )
        assert intake.submit("?", headers={"Idempotency-Key": "K"}).status_code == 202

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b", "\x7f", '""'])
    def test_one_that_is_none_is_400(self, intake: App, key: str) -> None:
        problem(intake.submit("?", headers={"Idempotency-Key": key}), 400, "malformed_request")

    def test_a_deleted_job_frees_it(self, intake: App) -> None:
        first = intake.submit("?", headers={"Idempotency-Key": "K"}).json()["id"]
        intake.succeed(intake.claim())
        assert intake.http.delete(f"/v1/jobs/{first}").status_code == 204
        again = intake.submit("?", headers={"Idempotency-Key": "K"})
        assert (again.status_code, again.json()["id"] == first) == (202, False)


class TestPrefer:
    """`Prefer: wait=N` answers with the ended job if it ends in time."""

    def test_it_waits(self, intake: App) -> None:
        def work() -> None:
            intake.succeed(intake.claim(), "Done.")

        worker = once_waiting(intake, work)
        answer = intake.submit("?", headers={"Prefer": "wait=20"})
        worker.join()
        assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
        assert answer.json()["output"] == {"text": "Done.", "finish_reason": "stop"}
        assert answer.json()["state"] == State.SUCCEEDED

    def test_the_record_is_read_once_at_the_end(self, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
        get, states = intake.context.queries.get, list[State]()

        async def counted(tenant: str, id: str) -> Job:
            job = await get(tenant, id)
            states.append(job.state)
            return job

        monkeypatch.setattr(intake.context.queries, "get", counted)
        worker = once_waiting(intake, lambda: intake.succeed(intake.claim(), "Done."))
        assert intake.submit("?", headers={"Prefer": "wait=20"}).status_code == 200
        worker.join()
        assert states == [State.SUCCEEDED]

    def test_it_gives_up(self, intake: App) -> None:
        answer = intake.submit("?", headers={"Prefer": "respond-async, wait=1"})
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")

    @pytest.mark.parametrize("preference", ["wait=soon", 'note="a, wait=20"'])
    def test_what_can_not_be_read_is_no_preference(self, intake: App, preference: str) -> None:
        answer = intake.submit("?", headers={"Prefer": preference})
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers


def test_a_part_called_request_holds_the_json(intake: App) -> None:
    answer = intake.http.post("/v1/jobs", files=[("request", ("r.json", json.dumps({"prompt": "?", "tiles": 3})))])
    assert answer.status_code == 202


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"prompt": "?", "file": "x"}, "file"),
        ({"prompt": "?", "request": "{}"}, "request"),
        ({"request": '{"prompt": "?", "images": []}'}, "images"),
        ({"prompt": "?", "tiles": "many"}, "tiles"),
        ({"prompt": "?", "tiles": "1.5"}, "tiles"),
        ({"prompt": "?", "max_new_tokens": "1e3"}, "max_new_tokens"),
        ({"prompt": "?", "max_new_tokens": "-1"}, "generation.max_new_tokens"),
        ({"prompt": ["a", "b"]}, "prompt"),
    ],
    ids=str,
)
def test_a_form_field_that_does_not_fit_is_named(intake: App, data: dict[str, Any], field: str) -> None:
    answer = intake.http.post("/v1/jobs", data=data, files=[("image", JPEG)])
    assert problem(answer, 422, "invalid_field")["field"] == field
