"""Every stored secret ends under the first key, and nothing is lost on the way."""

import json
from dataclasses import replace

from pydantic import SecretStr

from services.cli.reencrypt import Reencryption
from shared.encryption import MARKER, Keyring, new_key
from shared.keys import KEYLESS
from shared.store import deliveries
from shared.store.secrets import active_secrets
from tests.unit.intake.app_fixture import App, running_app

OLD, NEW = new_key(), new_key()
TOKEN = {"Authorization": "Bearer s3cret-token"}
HOOK = {"url": "http://127.0.0.1:9009/hook", "headers": TOKEN}


def fill(intake: App) -> str:
    """Store one of everything that holds secrets; return the id of a job that has ended."""
    id = intake.answered(webhook=HOOK)
    assert intake.http.post("/v1/batches", json={"jobs": [{"prompt": "?"}], "webhook": HOOK}).status_code == 202
    intake.http.post("/v1/webhooks/secret/rotate")
    endpoint = {"name": "a", "event_types": ["job.failed"]} | HOOK
    made = intake.http.post("/v1/webhook_endpoints", json=endpoint).json()["id"]
    rotated = intake.http.post(f"/v1/webhook_endpoints/{made}/rotate_secret", json={"overlap": 60})
    assert rotated.status_code == 200
    return id


def stored(intake: App) -> str:
    texts = [intake.objects.get(key).decode(errors="replace") for key in intake.objects.keys("")]
    for name in intake.store.client.scan_iter(_type="hash"):
        texts += map(str, intake.store.client.hvals(name))
    return json.dumps(texts)


def test_values_of_the_old_key_need_the_new_one_only() -> None:
    with running_app(secrets_key=SecretStr(OLD)) as intake:
        id = fill(intake)
        before = intake.store.run(active_secrets(KEYLESS, "", Keyring([OLD])))
        counts = Reencryption(intake.store, intake.objects, Keyring([NEW, OLD])).run()
        assert (counts.changed >= 6, counts.failed) == (True, 0)
        assert f"{MARKER}{Keyring([OLD]).ids[0]}" not in stored(intake)
        assert intake.store.run(active_secrets(KEYLESS, "", Keyring([NEW]))) == before
        (delivery,) = intake.store.run(deliveries.get([f"msg_{id[4:]}_succeeded"]))
        assert Keyring([NEW]).decrypt_headers(delivery.headers, KEYLESS) == TOKEN
        again = Reencryption(intake.store, intake.objects, Keyring([NEW])).run()
        assert again == replace(counts, changed=0, unchanged=counts.changed)


def test_values_in_plain_are_encrypted() -> None:
    with running_app() as intake:
        fill(intake)
        assert "s3cret" in stored(intake)
        Reencryption(intake.store, intake.objects, Keyring([NEW])).run()
        assert "s3cret" not in stored(intake)
        assert "whsec_" not in stored(intake)


def test_a_missing_key_is_told_for_every_value_and_changes_none() -> None:
    with running_app(secrets_key=SecretStr(OLD)) as intake:
        fill(intake)
        before, problems = stored(intake), list[str]()
        counts = Reencryption(intake.store, intake.objects, Keyring([NEW]), problems.append).run()
        assert (counts.changed, counts.failed) == (0, len(problems))
        assert len(problems) >= 6
        assert stored(intake) == before
