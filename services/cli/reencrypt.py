"""Re-encryption of every stored secret with the first key of TILEQ_SECRETS_KEY, while the service runs.

Jobs are read before their deliveries: a delivery takes its headers from its job at the moment it is created.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shared.encryption import DecryptionFailed, Keyring
from shared.errors import ObjectMissing
from shared.request_archive import manifest_bytes, replace_manifest
from shared.storage import BATCHES_PREFIX, ENDPOINTS_PREFIX, ObjectStorage
from shared.store.client import Store
from shared.store.secrets import replace_stored

SCAN_COUNT = 500  #: keys that the store looks at in one step
TRIES = 5  #: of a field that changes while it is replaced
Renew = Callable[[str, str], str]  #: (stored value, tenant) → the value to store


@dataclass
class Counts:
    """What one run found."""

    changed: int = 0
    unchanged: int = 0
    failed: int = 0


class Reencryption:
    """One run over both stores; `problem` is called with every value that can't be decrypted."""

    def __init__(
        self, store: Store, objects: ObjectStorage, keyring: Keyring, problem: Callable[[str], None] = lambda _: None
    ) -> None:
        self._store = store
        self._objects = objects
        self._keyring = keyring
        self._problem = problem
        self.counts = Counts()

    def run(self) -> Counts:
        """Renew every value; return how many there were of each kind."""
        for key in self._hashes("secret"):
            for field in ("current", "previous"):
                self._renew_field(key, field, key.partition(":")[2], self._secret)
        for kind in ("job", "batch"):
            for key in self._hashes(kind):
                self._renew_field(key, "webhook", self._tenant(key), self._target)
        for key in self._hashes("hook"):
            self._renew_field(key, "headers", self._tenant(key), self._headers)
        for key in self._hashes("endpoint_secret"):
            tenant = self._tenant(f"endpoint:{key.partition(':')[2]}")
            for field in ("secret", "previous"):
                self._renew_field(key, field, tenant, self._secret)
            self._renew_field(key, "headers", tenant, self._headers)
        for key in self._objects.keys(ENDPOINTS_PREFIX):
            self._renew_endpoint(key)
        for key in self._objects.keys("jobs/"):
            if key.endswith(("/request.tar", "/request.json")):
                self._renew_object(key, lambda document: document["record"])
        for key in self._objects.keys(BATCHES_PREFIX):
            self._renew_object(key, lambda document: document)
        return self.counts

    def _hashes(self, kind: str) -> Iterator[str]:
        """Yield the names, without the prefix, of the hashes `kind:*`."""
        prefix = self._store.prefix
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + f"{kind}:*"
        for name in self._store.client.scan_iter(pattern, SCAN_COUNT, "hash"):
            yield str(name).removeprefix(prefix)

    def _tenant(self, key: str) -> str:
        return str(self._store.client.hget(self._store.prefix + key, "tenant") or "")

    def _renew_field(self, key: str, field: str, tenant: str, renew: Renew) -> None:
        for _ in range(TRIES):
            old = self._store.client.hget(self._store.prefix + key, field)
            if not old:
                return
            new = self._renewed(str(old), tenant, renew, f"{key} {field}")
            if new is None or self._store.run(replace_stored(key, field, str(old), new)):
                return
        self._failed(f"{key} {field} kept changing; run it again")

    def _renew_object(self, key: str, record_of: Callable[[Any], dict[str, str]]) -> None:
        try:
            document = json.loads(manifest_bytes(self._objects, key))
            record = record_of(document)
            old, tenant = record.get("webhook"), record["tenant"]
        except ObjectMissing:  # deleted since it was listed
            return
        except (ValueError, KeyError, TypeError):
            self._failed(f"{key} can't be read")
            return
        new = self._renewed(old, tenant, self._target, key) if old else None
        if new is not None:
            record["webhook"] = new
            replace_manifest(self._objects, key, json.dumps(document, ensure_ascii=False).encode())

    def _renew_endpoint(self, key: str) -> None:
        try:
            record: dict[str, str] = json.loads(self._objects.get(key))
            tenant = record["tenant"]
        except ObjectMissing:  # deleted since it was listed
            return
        except (ValueError, KeyError, TypeError):
            self._failed(f"{key} can't be read")
            return
        renewals = {"secret": self._secret, "previous": self._secret, "headers": self._headers}
        found = {
            name: self._renewed(record[name], tenant, renew, key) for name, renew in renewals.items() if name in record
        }
        if changed := {name: new for name, new in found.items() if new is not None}:
            self._objects.put(key, json.dumps(record | changed, ensure_ascii=False).encode(), "application/json")

    def _renewed(self, old: str, tenant: str, renew: Renew, place: str) -> str | None:
        """Return what to store instead of `old`, or None where nothing is to be changed."""
        try:
            new = renew(old, tenant)
        except DecryptionFailed as error:
            self._failed(f"{place}: {error.detail}")
            return None
        if new == old:
            self.counts.unchanged += 1
            return None
        self.counts.changed += 1
        return new

    def _failed(self, what: str) -> None:
        self.counts.failed += 1
        self._problem(what)

    def _secret(self, stored: str, tenant: str) -> str:
        return self._keyring.renew(stored, "webhook-secret", tenant)

    def _headers(self, stored: str, tenant: str) -> str:
        headers = json.loads(stored)
        renewed = self._keyring.renew_headers(headers, tenant) if headers else headers
        return stored if renewed == headers else json.dumps(renewed)

    def _target(self, stored: str, tenant: str) -> str:
        target = json.loads(stored)
        headers = target.get("headers") or {}
        renewed = self._keyring.renew_headers(headers, tenant)
        return stored if renewed == headers else json.dumps(target | {"headers": renewed}, ensure_ascii=False)
