"""`/v1/webhook_endpoints`, by `client.webhooks` of OpenAI's SDK."""

import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import SecretStr

from shared.encryption import new_key
from shared.keys import KEYLESS
from shared.storage import endpoint_key
from shared.store import deliveries, endpoints
from shared.webhooks import signing
from shared.webhooks.events import EVENT_TYPES
from tests.unit.intake.app_fixture import App, once_waiting, running_app

URL = "http://127.0.0.1:9009/hook"
HEADERS = {"headers": {"Authorization": "Bearer s3cret"}}


def create(sdk: OpenAI, *events: Any, **extra: Any) -> Any:
    named: Any = events or ("response.completed",)
    return sdk.webhooks.create(name="main", url=URL, event_types=list(named), extra_body=extra)


def messages(intake: App, job: str) -> list[str]:
    """The endpoints that were told of `job`, each once."""
    ids = intake.store.run(deliveries.list_for("job", job))
    return sorted(delivery.endpoint for delivery in intake.store.run(deliveries.get(ids)))


def test_what_is_created_is_shown_with_its_secret_once(sdk: OpenAI) -> None:
    made = create(sdk)
    assert signing.secret_problem(made.signing_secret) is None
    assert made.signing_secret_hint == f"whsec_…{made.signing_secret[-4:]}"
    shown = sdk.webhooks.retrieve(made.id)
    assert (shown.id, shown.url, shown.event_types) == (made.id, URL, ["response.completed"])
    assert "signing_secret" not in shown.to_dict()
    assert list(sdk.webhooks.event_types.list().data) == list(EVENT_TYPES)


def test_every_missing_field_is_named(intake: App) -> None:
    error = intake.http.post("/v1/webhook_endpoints", json={"name": "n", "events": []}).json()["error"]
    assert all(f"`{field}`" in error["message"] for field in ("url", "event_types", "events"))


def test_endpoints_are_listed_in_pages_the_newest_first(sdk: OpenAI) -> None:
    made = [create(sdk).id for _ in range(3)]
    assert [one.id for one in sdk.webhooks.list(limit=2)] == made[::-1]  # the SDK asks for the second page


def test_an_update_replaces_what_it_names(sdk: OpenAI) -> None:
    made = create(sdk)
    changed = sdk.webhooks.update(made.id, name="other", event_types=["batch.failed"])
    assert (changed.name, changed.url, changed.event_types) == ("other", URL, ["batch.failed"])


def test_a_deleted_endpoint_is_gone_with_its_copy(intake: App, sdk: OpenAI) -> None:
    made = create(sdk)
    assert sdk.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.webhooks.retrieve(made.id)
    assert list(intake.objects.keys("webhook_endpoints/")) == []


def test_the_secret_before_signs_as_long_as_the_rotation_says(intake: App, sdk: OpenAI) -> None:
    first = create(sdk)
    second = sdk.webhooks.rotate_secret(first.id, keep_old_secret_active_for_24_hours=True)
    found = intake.store.run(endpoints.get(KEYLESS, first.id))
    assert found is not None
    assert found.secrets == [second.signing_secret, first.signing_secret]
    third = sdk.webhooks.rotate_secret(first.id)
    found = intake.store.run(endpoints.get(KEYLESS, first.id))
    assert found is not None
    assert found.secrets == [third.signing_secret]


def test_a_repeated_request_makes_one_endpoint_and_one_rotation(intake: App, sdk: OpenAI) -> None:
    key = {"Idempotency-Key": "k"}
    asked: Any = {"name": "a", "url": URL, "event_types": ["job.failed"], "extra_headers": key}
    first, again = sdk.webhooks.create(**asked), sdk.webhooks.create(**asked)
    assert (first.id, first.signing_secret) == (again.id, again.signing_secret)
    with pytest.raises(openai.BadRequestError):
        sdk.webhooks.create(**asked | {"name": "b"})
    rotated = [sdk.webhooks.rotate_secret(first.id, extra_headers=key).signing_secret for _ in range(2)]
    assert rotated[0] == rotated[1] != first.signing_secret


def test_a_background_response_is_told_to_every_endpoint_that_wants_it(intake: App, sdk: OpenAI) -> None:
    wants, other = create(sdk).id, create(sdk, "response.completed", "job.succeeded").id
    create(sdk, "response.failed")
    id = sdk.responses.create(input="Hi", background=True).id
    intake.succeed(intake.claim(), "A sign.")
    assert messages(intake, f"job_{id[5:]}") == sorted([wants, other])


def test_a_waiting_response_is_told_as_a_job_only(intake: App, sdk: OpenAI) -> None:
    create(sdk)
    wants = create(sdk, "job.succeeded").id
    worker = once_waiting(intake, lambda: intake.succeed(intake.claim(), "A sign."))
    id = sdk.responses.create(input="Hi").id
    worker.join()
    assert messages(intake, f"job_{id[5:]}") == [wants]


def test_a_test_tells_what_the_endpoint_answered(intake: App, sdk: OpenAI) -> None:
    made = create(sdk)
    dispatcher = once_waiting(intake, intake.deliver)
    tested = sdk.webhooks.test(made.id, event_type="batch.completed")
    dispatcher.join()
    assert (tested.status_code, tested.event_type, tested.webhook_endpoint_id) == (200, "batch.completed", made.id)


def test_a_test_without_an_answer_is_an_error(sdk: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.webhook_tests.TEST_WAIT_S", 0.05)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.webhooks.test(create(sdk).id, event_type="response.failed")
    assert caught.value.code == "webhook_unreachable"


def test_a_tenant_has_no_more_endpoints_than_it_may() -> None:
    with running_app(max_webhook_endpoints=1) as intake:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=intake.http, max_retries=0)
        create(sdk)
        with pytest.raises(openai.BadRequestError) as caught:
            create(sdk)
    assert caught.value.code == "too_many_endpoints"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"event_types": ["x"]}, "event_types.0"),
        ({"event_types": []}, "event_types"),
        ({"x": 1}, "x"),
    ],
)
def test_what_can_not_be_called_or_does_not_exist_is_refused(sdk: OpenAI, changes: dict[str, Any], param: str) -> None:
    asked: Any = {"name": "a", "url": URL, "event_types": ["job.failed"]}
    with pytest.raises(openai.BadRequestError) as created:
        sdk.post("/webhook_endpoints", body=asked | changes, cast_to=object)
    with pytest.raises(openai.BadRequestError) as updated:
        sdk.post(f"/webhook_endpoints/{create(sdk).id}", body=changes, cast_to=object)
    assert (created.value.param, updated.value.param) == (param, param)


def test_with_a_key_secrets_and_headers_are_stored_encrypted_only() -> None:
    with running_app(secrets_key=SecretStr(new_key())) as intake:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=intake.http, max_retries=0)
        made = create(sdk, **HEADERS)
        rotated = sdk.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        copy = json.loads(intake.objects.get(endpoint_key(made.id)))
        record = intake.store.run(endpoints.stored(made.id))
        assert copy == record
        assert all(record[name].count("enc:v1:") == 1 for name in ("secret", "previous", "headers"))
        shown = intake.http.get(f"/v1/webhook_endpoints/{made.id}")
        assert shown.json()["header_names"] == ["Authorization"]
        told = str(record) + shown.text
        assert not [hidden for hidden in ("s3cret", made.signing_secret, rotated.signing_secret) if hidden in told]
