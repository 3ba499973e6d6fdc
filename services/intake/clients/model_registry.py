"""The models that this service knows: the family, the default, and what workers registered."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from services.intake.ttl_cache import TtlCache
from shared.errors import UnknownModel
from shared.models import BY_ID, DEMO_MODEL_ID, Model, model_id_of
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore
from shared.store.stats import StoreStats, get_stats

CACHE_TTL_S = 1.0
_FIELDS = {field.name for field in fields(Model)}


class ModelRegistry:
    """Asks the store for its statistics at most once in `CACHE_TTL_S`."""

    def __init__(self, store: AsyncStore, settings: IntakeSettings) -> None:
        self._store = store
        self.default = settings.default_model or model_id_of(settings)
        self._stats: TtlCache[None, tuple[StoreStats, dict[str, Model]]] = TtlCache(CACHE_TTL_S, 1)

    async def get(self, name: str | None) -> Model:
        """Return what is known of `name`, or of the default; its workers' word counts most. Raises `UnknownModel`."""
        id = name or self.default
        known = (await self.models()).get(id)
        if known is None:
            raise UnknownModel(f"this service has no model {id[:100]!r}; GET /v1/models lists them", field="model")
        return known

    async def models(self) -> dict[str, Model]:
        """Return every model by id."""
        return (await self._load())[1]

    async def stats(self) -> StoreStats:
        """Return the store's statistics, not older than `CACHE_TTL_S`."""
        return (await self._load())[0]

    async def _load(self) -> tuple[StoreStats, dict[str, Model]]:
        return await self._stats.load(None, self._read)

    async def _read(self) -> tuple[StoreStats, dict[str, Model]]:
        stats = await self._store.run(get_stats())
        # The limits of an unknown default are known once its worker registers; until then the demo model's stand in.
        known = {self.default: replace(BY_ID[DEMO_MODEL_ID], id=self.default, title=self.default)} | BY_ID
        return stats, known | {id: of_card(id, one.card) for id, one in stats.models.items() if one.card}


def of_card(id: str, card: Mapping[str, Any]) -> Model:
    """Return the model that a worker registered; fields that its card leaves out are as the demo model's."""
    sent: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card.items() if name in _FIELDS
    }
    return replace(BY_ID[DEMO_MODEL_ID], **({"title": id} | sent | {"id": id}))
