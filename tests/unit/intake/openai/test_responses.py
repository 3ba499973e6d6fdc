"""`/v1/responses`, by OpenAI's SDK."""

import base64
import json
from typing import Any, cast

import openai
import pytest
from openai import OpenAI

from shared.request_archive import read_manifest
from shared.webhooks.events import RESPONSE_ENDS
from tests.unit.intake.app_fixture import App, once_waiting, problem, running_app
from tests.unit.intake.image_files import picture
from tests.waiting import eventually

QUESTION = "What does it say?"


def data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def with_image(**part: Any) -> Any:
    image = {"type": "input_image", "image_url": data_uri(picture("PNG"))} | part
    return [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}, image]}]


def answer(intake: App, *pieces: str) -> None:
    """Do what a worker does: claim, stream, finish."""
    job, offset = intake.claim(), 0
    for piece in pieces:
        intake.stream(job, offset, piece)
        offset += len(piece)
    intake.succeed(job, "".join(pieces))


def request_of(intake: App, response: str) -> Any:
    job = response.replace("resp_", "job_")
    return read_manifest(intake.objects, job).request


def stream_of(intake: App, path: str) -> list[dict[str, Any]]:
    lines = intake.http.get(path).text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


class TestCreate:
    def test_a_format_is_the_schema_that_decoding_follows_and_is_shown(self, intake: App, sdk: OpenAI) -> None:
        asked = {"type": "json_schema", "name": "count", "schema": {"type": "integer"}, "strict": True}
        response = sdk.responses.create(
            model="tileq-demo", input=QUESTION, background=True, text=cast("Any", {"format": asked})
        )
        assert request_of(intake, response.id).generation.json_schema == {"type": "integer"}
        shown = sdk.responses.retrieve(response.id).text
        assert shown is not None
        assert shown.format is not None
        assert shown.format.to_dict() == asked

    def test_a_waiting_call_brings_the_answer(self, intake: App, sdk: OpenAI) -> None:
        worker = once_waiting(intake, lambda: answer(intake, "A sign."))
        response = sdk.responses.create(model="tileq-demo", input=QUESTION, metadata={"order": "4711"})
        worker.join()
        assert (response.status, response.output_text, response.metadata) == ("completed", "A sign.", {"order": "4711"})
        assert response.usage is not None
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        assert intake.http.get(f"/v1/jobs/job_{response.id[5:]}").json()["output"]["text"] == "A sign."

    def test_a_background_response_is_polled_and_is_the_same_job_on_the_native_surface(
        self, intake: App, sdk: OpenAI
    ) -> None:
        response = sdk.responses.create(model="tileq-demo", input=with_image(), background=True)
        assert (response.status, response.background, response.output) == ("queued", True, [])
        answer(intake, "A sign.")
        assert sdk.responses.retrieve(response.id).output_text == "A sign."
        (image,) = intake.http.get(f"/v1/jobs/job_{response.id[5:]}").json()["images"]
        assert image["media_type"] == "image/png"

    def test_a_native_job_is_read_as_a_response(self, intake: App, sdk: OpenAI) -> None:
        id = intake.answered("A sign.")
        assert sdk.responses.retrieve(f"resp_{id[4:]}").output_text == "A sign."

    def test_images_stand_where_their_parts_stand_and_marks_in_texts_are_words(self, intake: App, sdk: OpenAI) -> None:
        content = with_image()[0]["content"] + [{"type": "input_text", "text": "the word <image>"}]
        response = sdk.responses.create(input=[{"role": "user", "content": content}], background=True)
        request = request_of(intake, response.id)
        assert [turn.content for turn in request.messages] == [f"{QUESTION}\n<image>\nthe word \\<image>"]
        assert request.groups == (1,)

    def test_instructions_and_developer_messages_become_the_system_message(self, intake: App, sdk: OpenAI) -> None:
        turns: Any = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
        response = sdk.responses.create(input=turns, instructions="Be brief.", background=True)
        request = request_of(intake, response.id)
        assert (request.messages[0].role, request.messages[0].content) == ("system", "Be brief.\n\nBe kind.")
        assert response.instructions == "Be brief."

    @pytest.mark.parametrize(("detail", "tiles"), [("low", 1), ("high", 12), ("auto", 12)])
    def test_detail_becomes_tiles(self, intake: App, sdk: OpenAI, detail: str, tiles: int) -> None:
        response = sdk.responses.create(input=with_image(detail=detail), background=True)
        assert request_of(intake, response.id).images[0].max_tiles == tiles

    def test_tileqs_own_options_come_by_extra_body(self, intake: App, sdk: OpenAI) -> None:
        extras = {"tiles": 3, "thumbnail": False, "priority": "low", "start_within": 60, "webhook": {"url": HOOK}}
        response = sdk.responses.create(input=with_image(detail="low"), background=True, extra_body={"tileq": extras})
        request, job = request_of(intake, response.id), intake.job(f"job_{response.id[5:]}")
        assert (request.images[0].max_tiles, request.thumbnail) == (3, False)
        assert (job.priority, job.start_within, job.webhook and job.webhook.url) == (2, 60, HOOK)

    def test_a_previous_response_is_the_parent(self, intake: App, sdk: OpenAI) -> None:
        first = sdk.responses.create(input=with_image(), background=True)
        answer(intake, "A sign.")
        second = sdk.responses.create(input="Which?", previous_response_id=first.id, background=True)
        assert second.previous_response_id == first.id
        assert [turn.role for turn in request_of(intake, second.id).messages] == ["user", "assistant", "user"]

    def test_an_answer_cut_at_its_longest_is_incomplete(self, intake: App, sdk: OpenAI) -> None:
        response = sdk.responses.create(input="Hi", max_output_tokens=3, background=True)
        job = intake.claim()
        intake.finish_at_length(job, "A si")
        found = sdk.responses.retrieve(response.id)
        assert found.incomplete_details is not None
        assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")

    def test_a_failed_job_is_a_failed_response_with_its_code(self, intake: App, sdk: OpenAI) -> None:
        response = sdk.responses.create(input="Hi", background=True)
        intake.fail(intake.claim())
        found = sdk.responses.retrieve(response.id)
        assert found.error is not None
        assert (found.status, found.error.code) == ("failed", "undecodable_image")

    def test_a_waiting_call_that_takes_too_long_tells_the_response_as_it_is(self) -> None:
        with running_app(response_wait=0.05) as intake:
            found = intake.http.post("/v1/responses", json={"input": "Hi"}).json()
            assert found["status"] == "queued"
            answer(intake, "Hello")
            assert intake.http.get(f"/v1/responses/{found['id']}").json()["status"] == "completed"

    def test_what_is_not_to_be_stored_is_gone_with_its_answer(self, intake: App, sdk: OpenAI) -> None:
        worker = once_waiting(intake, lambda: answer(intake, "A sign."))
        response = sdk.responses.create(input="Hi", store=False)
        worker.join()
        assert response.output_text == "A sign."
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(response.id)

    def test_what_is_not_to_be_stored_is_gone_with_its_stream(self, intake: App, sdk: OpenAI) -> None:
        worker = once_waiting(intake, lambda: answer(intake, "A ", "sign."))
        events = list(sdk.responses.create(input="Hi", stream=True, store=False))
        worker.join()
        assert events[-1].type == "response.completed"
        eventually(lambda: intake.http.get("/v1/jobs").json()["data"] == [])

    def test_a_repetition_with_its_idempotency_key_is_the_same_response(self, intake: App, sdk: OpenAI) -> None:
        ids = {
            sdk.responses.create(input="Hi", background=True, extra_headers={"Idempotency-Key": "k"}).id
            for _ in range(2)
        }
        assert len(ids) == len(intake.hints.sent) == 1


class TestLater:
    def test_cancel_ends_a_queued_response(self, sdk: OpenAI) -> None:
        response = sdk.responses.create(input="Hi", background=True)
        assert sdk.responses.cancel(response.id).status == "cancelled"
        assert sdk.responses.cancel(response.id).status == "cancelled"

    def test_an_ended_response_is_deleted_and_one_in_progress_is_not(self, intake: App, sdk: OpenAI) -> None:
        response = sdk.responses.create(input="Hi", background=True)
        with pytest.raises(openai.ConflictError):
            sdk.responses.delete(response.id)
        answer(intake, "Hello")
        sdk.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(response.id)

    def test_input_items_tell_what_was_asked_page_by_page(self, intake: App, sdk: OpenAI) -> None:
        first = sdk.responses.create(input=with_image(), instructions="Be brief.", background=True)
        answer(intake, "A sign.")
        second = sdk.responses.create(input="Which?", previous_response_id=first.id, background=True)
        items: Any = list(sdk.responses.input_items.list(second.id, limit=1, order="asc"))
        assert [item.role for item in items] == ["system", "user", "assistant", "user"]
        text, image = items[1].content
        assert text.text == QUESTION
        assert intake.http.get(image.image_url).content == picture("PNG")


class TestStream:
    def test_the_sdk_reads_a_stream_from_created_to_completed(self, intake: App, sdk: OpenAI) -> None:
        worker = once_waiting(intake, lambda: answer(intake, "A ", "red ", "sign."))
        found = list(sdk.responses.create(input="Hi", stream=True))
        worker.join()
        assert [event.type for event in found][:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert "".join(event.delta for event in found if event.type == "response.output_text.delta") == "A red sign."
        last = found[-1]
        assert last.type == "response.completed"
        assert last.response.output_text == "A red sign."
        numbers = [event.sequence_number for event in found]
        assert numbers == sorted(set(numbers))

    def test_a_stream_resumes_behind_every_number_without_a_character_twice(self, intake: App, sdk: OpenAI) -> None:
        id = sdk.responses.create(input="Hi", background=True).id
        answer(intake, "A ", "red ", "sign.")
        whole = stream_of(intake, f"/v1/responses/{id}?stream=true")
        for event in whole:
            after = event["sequence_number"]
            rest = stream_of(intake, f"/v1/responses/{id}?stream=true&starting_after={after}")
            assert rest == [one for one in whole if one["sequence_number"] > after]

    def test_a_stream_resumes_within_the_text_when_its_pieces_are_gone(self, intake: App, sdk: OpenAI) -> None:
        id = sdk.responses.create(input="Hi", background=True).id
        answer(intake, "A red sign.")
        intake.store.client.delete(f"tileq:events:job_{id[5:]}")
        found = list(sdk.responses.retrieve(id, stream=True, starting_after=5))
        assert [one.delta for one in found if one.type == "response.output_text.delta"] == ["red sign."]

    def test_an_attempt_that_says_the_same_again_is_streamed_once(self, intake: App, sdk: OpenAI) -> None:
        id = sdk.responses.create(input="Hi", background=True).id
        again(intake, "A re", "A red sign.")
        found = stream_of(intake, f"/v1/responses/{id}?stream=true")
        assert deltas(found) == "A red sign."

    def test_an_attempt_that_says_something_else_is_told_whole_at_its_end(self, intake: App, sdk: OpenAI) -> None:
        id = sdk.responses.create(input="Hi", background=True).id
        again(intake, "A blue", "A red sign.")
        found = stream_of(intake, f"/v1/responses/{id}?stream=true")
        assert deltas(found) == "A blue"
        assert next(one["text"] for one in found if one["type"] == "response.output_text.done") == "A red sign."

    def test_a_client_that_has_text_of_a_lost_attempt_gets_no_piece_of_another(self, intake: App, sdk: OpenAI) -> None:
        id = sdk.responses.create(input="Hi", background=True).id
        again(intake, "A blue", "A red sign.")
        found = stream_of(intake, f"/v1/responses/{id}?stream=true&starting_after=9")
        assert found[0]["type"] == "response.output_text.done"

    def test_a_failed_job_ends_its_stream(self, intake: App, sdk: OpenAI) -> None:
        id = sdk.responses.create(input="Hi", background=True).id
        intake.fail(intake.claim())
        last = stream_of(intake, f"/v1/responses/{id}?stream=true")[-1]
        assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "undecodable_image")


class TestWebhook:
    """`tileq.webhook` of a response."""

    @pytest.mark.parametrize(
        ("named", "stored"),
        [
            ({}, list(RESPONSE_ENDS)),
            ({"events": ["response.completed", "job.started"]}, ["response.completed", "job.started"]),
        ],
    )
    def test_it_hears_openais_events_unless_it_names_others(
        self, intake: App, sdk: OpenAI, named: dict[str, Any], stored: list[str]
    ) -> None:
        extras = {"tileq": {"webhook": {"url": HOOK} | named}}
        id = sdk.responses.create(input="Hi", background=True, extra_body=extras).id
        webhook = intake.job(f"job_{id[5:]}").webhook
        assert webhook is not None
        assert webhook.events == stored

    def test_other_surfaces_have_none_of_openais_events(self, intake: App, sdk: OpenAI) -> None:
        webhook = {"url": HOOK, "events": ["response.completed"]}
        turns: Any = [{"role": "user", "content": "Hi"}]
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.chat.completions.create(model="m", messages=turns, extra_body={"tileq": {"webhook": webhook}})
        assert caught.value.param == "tileq.webhook.events.0"
        problem(intake.submit("?", webhook=webhook), 422, "invalid_field")

    def test_a_refused_url_is_named_by_its_parameter(self, sdk: OpenAI) -> None:
        extras = {"tileq": {"webhook": {"url": "http://10.0.0.1/"}}}
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.responses.create(model="tileq-demo", input="?", background=True, extra_body=extras)
        assert (caught.value.code, caught.value.param) == ("webhook_refused", "tileq.webhook.url")


class TestErrors:
    """Refusals are the SDK's own classes, and name OpenAI's parameters."""

    @pytest.mark.parametrize(
        ("asked", "code", "param"),
        [
            ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools"),
            ({"include": ["message.output_text.logprobs"]}, "unsupported_parameter", "include"),
            ({"max_output_tokens": 10**6}, "invalid_field", "max_output_tokens"),
            ({"temperature": 3}, "invalid_field", "temperature"),
            ({"model": "gpt-9"}, "unknown_model", "model"),
            ({"previous_response_id": "resp_0"}, "unknown_parent", "previous_response_id"),
            ({"input": []}, "invalid_field", "input"),
            ({"input": "  "}, "invalid_field", "input"),
            ({"input": [{"type": "function_call_output"}]}, "unsupported_parameter", "input.0.type"),
            ({"input": [{"role": "tool", "content": "x"}]}, "invalid_field", "input.0.role"),
            ({"input": with_image(image_url="data:image/png;base64,AAAA")}, "undecodable_image", "input.0.content.1"),
            ({"input": with_image(image_url="https://x/a.png")}, "image_urls_disabled", "input.0.content.1"),
            ({"input": with_image(detail="huge")}, "invalid_field", "input.0.content.1.detail"),
            ({"extra_body": {"tileq": {"tiles": 99}}}, "invalid_field", "tileq.tiles.number"),
            ({"extra_body": {"nonsense": 1}}, "invalid_field", "nonsense"),
        ],
    )
    def test_a_bad_request_says_which_parameter(self, sdk: OpenAI, asked: Any, code: str, param: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.responses.create(**({"input": "Hi", "background": True} | asked))
        assert (caught.value.code, caught.value.param) == (code, param)
        assert caught.value.request_id

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"input": " "}, "the text of `input` is empty"),
            ({"previous_response_id": "resp_0"}, "`previous_response_id` must be"),
            ({"max_output_tokens": 10**6}, "`max_output_tokens` is 1000000"),
        ],
    )
    def test_a_message_names_openais_parameters(self, sdk: OpenAI, asked: Any, said: str) -> None:
        with pytest.raises(openai.BadRequestError, match=said):
            sdk.responses.create(**({"input": "Hi", "background": True} | asked))

    def test_an_unknown_response_is_not_found(self, sdk: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.responses.retrieve("resp_0")
        assert caught.value.code == "not_found"

    def test_a_wrong_key_is_an_authentication_error(self, intake: App) -> None:
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url="http://127.0.0.1/v1", api_key="tq_x", http_client=intake.http).models.list()

    def test_what_a_repetition_cannot_mend_is_not_repeated_by_the_sdk(self, intake: App) -> None:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=intake.http, max_retries=2)
        worker = once_waiting(intake, lambda: intake.fail(intake.claim(), "non_finite_logits"))
        with pytest.raises(openai.InternalServerError) as caught:
            sdk.chat.completions.create(model="tileq-demo", messages=[{"role": "user", "content": "Hi"}])
        worker.join()
        assert caught.value.code == "non_finite_logits"
        assert len(intake.http.get("/v1/jobs").json()["data"]) == 1


HOOK = "https://93.184.215.14/hook"


def again(intake: App, first: str, second: str) -> None:
    """A first attempt streams `first` and is lost; a second answers `second`."""
    lost = intake.claim()
    intake.stream(lost, 0, first)
    intake.release(lost)
    answer(intake, second)


def deltas(found: list[dict[str, Any]]) -> str:
    return "".join(one["delta"] for one in found if one["type"] == "response.output_text.delta")
