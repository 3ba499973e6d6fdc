"""Standard Webhooks: the bytes that are sent."""

import base64
import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.webhooks.signing import body, headers, new_secret, secret_problem

#: The example of the Standard Webhooks specification.
SPEC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SPEC_BODY = '{"test": 2432232314}'
SPEC_ID, SPEC_TIME = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
SPEC_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    assert headers(SPEC_ID, SPEC_BODY, [SPEC_SECRET], SPEC_TIME) == {
        "webhook-id": SPEC_ID,
        "webhook-timestamp": str(SPEC_TIME),
        "webhook-signature": SPEC_SIGNATURE,
    }


def test_every_active_secret_signs_and_another_does_not_verify() -> None:
    old, new, foreign = new_secret(), new_secret(), new_secret()
    sent = headers("msg_a", "{}", [new, old], datetime.now(UTC).timestamp())
    for secret in (old, new):
        Webhook(secret).verify("{}", sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(foreign).verify("{}", sent)


@pytest.mark.parametrize("size", [23, 65])
def test_a_secret_of_the_wrong_size_is_named(size: int) -> None:
    problem = secret_problem("whsec_" + base64.b64encode(bytes(size)).decode())
    assert problem is not None
    assert str(size) in problem
    assert secret_problem("whsec_ä") is not None
    assert secret_problem(new_secret()) is None


def test_a_full_body_above_the_limit_becomes_thin_and_says_so() -> None:
    job = {"id": "job_x", "state": "succeeded", "metadata": {}, "expires_at": "t", "output": {"text": "字" * 100}}
    envelope = {"type": "job.succeeded", "timestamp": "t"}
    whole = json.loads(body(envelope, job, "full", 1000))
    assert whole == envelope | {"data": job}
    cut = json.loads(body(envelope, job, "full", 300))
    assert cut["data"] == {"id": "job_x", "state": "succeeded", "metadata": {}, "expires_at": "t", "truncated": True}
    thin = json.loads(body(envelope, job, "thin", 1000))
    assert "output" not in thin["data"]
    assert "truncated" not in thin["data"]
