"""The webhook endpoints of tenants: the store's record first, then its copy in object storage, then the answer."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from services.intake.clients.storage import Storage
from services.intake.clients.webhook_urls import WebhookUrlPolicy
from shared.errors import IdempotencyMismatch, NotFound, RequestError, TooManyEndpoints
from shared.ids import id_of, is_id, new_id
from shared.settings.roles import IntakeSettings
from shared.storage import endpoint_key
from shared.store import endpoints, transitions
from shared.store.client import AsyncStore
from shared.webhooks import signing
from shared.webhooks.endpoint import WebhookEndpoint

HINT_CHARS = 4  #: of a secret, which tell it from another
COPY_TRIES = 5  #: of an endpoint that changes while it is copied


class WebhookEndpoints:
    """Creates, changes and deletes endpoints. A method that names one raises `NotFound` for another tenant's too."""

    def __init__(
        self, store: AsyncStore, storage: Storage, webhook_urls: WebhookUrlPolicy, settings: IntakeSettings
    ) -> None:
        self._store = store
        self._storage = storage
        self._webhook_urls = webhook_urls
        self._keyring = settings.keyring
        self._most = settings.max_webhook_endpoints

    async def create(self, tenant: str, asked: Mapping[str, Any], request: str | None) -> tuple[WebhookEndpoint, str]:
        """Return a new endpoint and its secret; `request`, repeated, returns those that it made.

        Raises `WebhookRefused`, `TooManyEndpoints` or `IdempotencyMismatch`.
        """
        id = id_of("we", tenant, request) if request else new_id("we")
        fingerprint = hashlib.sha256(json.dumps(dict(asked), sort_keys=True).encode()).hexdigest()
        fields = await self._fields(tenant, asked) | self._secret(tenant)
        record = {"id": id, "tenant": tenant, "fingerprint": fingerprint, **fields}
        outcome, found = await self._store.run(endpoints.put(record, self._most))
        if found is None:
            detail = f"this tenant has {self._most} webhook endpoints, which is the most; delete one"
            raise TooManyEndpoints(detail)
        if outcome == "exists" and found.fingerprint != fingerprint:
            raise IdempotencyMismatch
        return await self._copied(found)

    async def get(self, tenant: str, id: str) -> WebhookEndpoint:
        """Return an endpoint."""
        return _found(await self._store.run(endpoints.get(tenant, _checked(id))))

    async def page(self, tenant: str, after: str, limit: int) -> tuple[list[WebhookEndpoint], bool]:
        """Return endpoints, newest first, from behind `after` on, and whether more follow."""
        return await self._store.run(endpoints.page(tenant, after, limit))

    async def update(self, tenant: str, id: str, asked: Mapping[str, Any]) -> WebhookEndpoint:
        """Change what `asked` names. Raises `WebhookRefused`."""
        await self.get(tenant, id)
        changed = await self._store.run(endpoints.update(tenant, id, await self._fields(tenant, asked)))
        return (await self._copied(_found(changed)))[0]

    async def rotate(self, tenant: str, id: str, overlap: float, request: str | None) -> tuple[WebhookEndpoint, str]:
        """Return the endpoint with a new secret, and the secret; the one before signs for `overlap` seconds more."""
        rotation = endpoints.rotate(tenant, _checked(id), self._secret(tenant), overlap, request or "")
        return await self._copied(_found(await self._store.run(rotation)))

    async def delete(self, tenant: str, id: str) -> None:
        """Delete an endpoint. Its object follows at once, or when the reconciler empties the trash."""
        if not await self._store.run(endpoints.delete(tenant, _checked(id))):
            raise NotFound
        try:
            await self._storage.delete(endpoint_key(id))
            await self._store.run(transitions.purge_done([id]))
        except RequestError:  # its id is in the trash
            pass

    async def _copied(self, endpoint: WebhookEndpoint) -> tuple[WebhookEndpoint, str]:
        """Copy the record to object storage until it has not changed meanwhile; return it with its secret in plain."""
        for _ in range(COPY_TRIES):
            record = await self._store.run(endpoints.stored(endpoint.id))
            if not record:
                raise NotFound
            document = json.dumps(record, ensure_ascii=False).encode()
            await self._storage.put(endpoint_key(endpoint.id), document, "application/json")
            if await self._store.run(endpoints.stored(endpoint.id)) == record:
                break
        return endpoint, self._keyring.decrypt(endpoint.secret, "webhook-secret", endpoint.tenant)

    async def _fields(self, tenant: str, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return the fields of the record that `asked` names."""
        fields: dict[str, str] = {name: asked[name] for name in ("name", "url", "payload") if name in asked}
        if "url" in asked:
            fields["host"] = await self._webhook_urls.host(asked["url"])
        if "event_types" in asked:
            fields["events"] = json.dumps(list(dict.fromkeys(asked["event_types"])))
        if "headers" in asked:
            fields["headers"] = json.dumps(self._keyring.encrypt_headers(asked["headers"], tenant))
        return fields

    def _secret(self, tenant: str) -> dict[str, str]:
        secret = signing.new_secret()
        return {"secret": self._keyring.encrypt(secret, "webhook-secret", tenant), "hint": secret[-HINT_CHARS:]}


def _checked(id: str) -> str:
    if not is_id("we", id):
        raise NotFound
    return id


def _found(endpoint: WebhookEndpoint | None) -> WebhookEndpoint:
    if endpoint is None:
        raise NotFound
    return endpoint
