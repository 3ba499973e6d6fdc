"""`/v1/chat/completions` and `/v1/models`, by OpenAI's SDK."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from shared.request_archive import read_manifest
from tests.unit.intake.app_fixture import App, once_waiting, running_app
from tests.unit.intake.image_files import picture
from tests.unit.intake.openai.test_responses import again, answer, data_uri, request_of
from tests.unit.intake.test_auth import make_key
from tests.waiting import eventually

HI: Any = [{"role": "user", "content": "Hi"}]


def test_an_image_is_asked_about(intake: App, sdk: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": data_uri(picture("PNG")), "detail": "low"}}
    parts = [image, {"type": "text", "text": "What is it?"}]
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    worker = once_waiting(intake, lambda: answer(intake, "A sign."))
    found = sdk.chat.completions.create(
        model="tileq-demo",
        messages=messages,
        stop="END",
        seed=7,
        max_tokens=20,
        n=1,
    )
    worker.join()
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("A sign.", "stop")
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    job = found.id.replace("chatcmpl-", "job_")
    request = read_manifest(intake.objects, job).request
    assert [turn.content for turn in request.messages] == ["Be brief.", "<image>\nWhat is it?"]
    assert (request.generation.stop, request.generation.seed, request.generation.max_new_tokens) == (("END",), 7, 20)
    assert request.images[0].max_tiles == 1


def test_a_stream_ends_with_its_reason_and_usage(intake: App, sdk: OpenAI) -> None:
    worker = once_waiting(intake, lambda: answer(intake, "A ", "sign."))
    stream = sdk.chat.completions.create(
        model="tileq-demo", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    found = list(stream)
    worker.join()
    assert "".join(one.choices[0].delta.content or "" for one in found if one.choices) == "A sign."
    assert found[-2].choices[0].finish_reason == "stop"
    assert found[-1].usage is not None


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_that_is_not_to_be_stored_is_gone_too(intake: App, sdk: OpenAI, stream: bool) -> None:
    worker = once_waiting(intake, lambda: intake.fail(intake.claim()))
    with pytest.raises(openai.APIError):
        list(sdk.chat.completions.create(model="tileq-demo", messages=HI, stream=stream, store=False))
    worker.join()
    eventually(lambda: intake.http.get("/v1/jobs").json()["data"] == [])


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("undecodable_image", openai.BadRequestError),
        ("prompt_too_long", openai.BadRequestError),
        ("non_finite_logits", openai.InternalServerError),
    ],
)
def test_a_job_that_failed_for_its_own_request_is_400_and_500_otherwise(
    intake: App, sdk: OpenAI, code: str, raised: type[openai.APIStatusError]
) -> None:
    worker = once_waiting(intake, lambda: intake.fail(intake.claim(), code))
    with pytest.raises(raised) as caught:
        sdk.chat.completions.create(model="tileq-demo", messages=HI)
    worker.join()
    assert caught.value.code == code


def test_a_stream_whose_job_fails_raises_the_sdks_error(intake: App, sdk: OpenAI) -> None:
    worker = once_waiting(intake, lambda: intake.fail(intake.claim()))
    with pytest.raises(openai.APIError) as caught:
        list(sdk.chat.completions.create(model="tileq-demo", messages=HI, stream=True))
    worker.join()
    assert caught.value.code == "undecodable_image"


def test_a_stream_that_another_attempt_contradicts_raises(intake: App, sdk: OpenAI) -> None:
    worker = once_waiting(intake, lambda: again(intake, "A blue", "A red sign."))
    with pytest.raises(openai.APIError) as caught:
        list(sdk.chat.completions.create(model="tileq-demo", messages=HI, stream=True))
    worker.join()
    assert caught.value.code == "answer_diverged"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_what_is_not_served_is_refused_by_name(sdk: OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="tileq-demo", messages=HI, **asked)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


SHAPE = {
    "type": "object",
    "properties": {"kind": {"enum": ["car"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "shape", "schema": SHAPE, "strict": True}}, SHAPE),
    ],
)
def test_a_response_format_is_the_schema_that_decoding_follows(
    intake: App, sdk: OpenAI, response_format: Any, schema: Any
) -> None:
    worker = once_waiting(intake, lambda: answer(intake, "{}"))
    done = sdk.chat.completions.create(model="tileq-demo", messages=HI, response_format=response_format)
    worker.join()
    assert request_of(intake, done.id.replace("chatcmpl-", "resp_")).generation.json_schema == schema


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "odd": 1}}, "response_format.json_schema.odd"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"items": {"contains": {}}}}},
            "response_format.json_schema.schema.items",
        ),
    ],
)
def test_a_format_that_can_not_be_enforced_is_refused_with_its_place(
    sdk: OpenAI, response_format: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="tileq-demo", messages=HI, response_format=response_format)
    assert caught.value.param == param


def test_an_answer_that_is_late_names_the_job_that_goes_on() -> None:
    with running_app(response_wait=0.05) as intake:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=intake.http, max_retries=2)
        with pytest.raises(openai.InternalServerError) as caught:
            sdk.chat.completions.create(model="tileq-demo", messages=HI)
        ((_, _, job),) = intake.hints.sent
        assert (caught.value.code, caught.value.status_code) == ("answer_timeout", 504)
        assert job in caught.value.message


def test_models_are_listed_and_read(sdk: OpenAI) -> None:
    (model,) = [one for one in sdk.models.list() if one.id == "tileq-demo"]
    assert sdk.models.retrieve("tileq-demo") == model
    assert (model.object, model.owned_by) == ("model", "tileq")


@pytest.mark.parametrize("key", ["EMPTY", "sk-no-key-required", "lm-studio"])
def test_a_placeholder_key_is_no_key_and_opens_nothing_where_keys_exist(intake: App, sdk: OpenAI, key: str) -> None:
    sdk.api_key = key
    assert sdk.models.list().data
    make_key(intake, "acme")
    with pytest.raises(openai.AuthenticationError):
        sdk.models.list()


def test_a_key_of_tileqs_is_told_that_the_service_has_none(sdk: OpenAI) -> None:
    sdk.api_key = "tq_of_another_service"
    with pytest.raises(openai.AuthenticationError, match="this service has no API keys"):
        sdk.models.list()
