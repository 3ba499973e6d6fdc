"""Which models this service knows, and how they stand: the family, the default, and what workers announced."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from services.intake.desk import Desk
from shared.census import Census, take_census
from shared.errors import UnknownModel
from shared.models import BY_ID, DEMO, Model, model_id_of
from shared.settings import Settings

BELIEVED = 1.0  #: seconds
_FIELDS = {field.name for field in fields(Model)}


class Catalogue:
    """Asks the store for a census at most once in `BELIEVED` seconds."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self._desk = desk
        self.default = settings.default_model or model_id_of(settings)
        self._census: Census | None = None
        self._until = 0.0
        self._listed: dict[str, Model] = {}
        self._listed_for: Census | None = None
        self._counting = asyncio.Lock()

    async def census(self) -> Census:
        """Return a count not older than `BELIEVED`."""
        async with self._counting:
            if self._census is None or time.monotonic() >= self._until:
                self._census = await self._desk.run(take_census())
                self._until = time.monotonic() + BELIEVED
            return self._census

    async def model(self, name: str | None) -> Model:
        """Return what is known of `name`, or of the default; its workers' word counts most. Raises `UnknownModel`."""
        id = name or self.default
        known = (await self.models()).get(id)
        if known is None:
            raise UnknownModel(f"this service has no model {id[:100]!r}; GET /v1/models lists them", field="model")
        return known

    async def models(self) -> dict[str, Model]:
        """Return all of them."""
        census = await self.census()
        if census is not self._listed_for:
            # What an unknown default can do is known once its worker is there; until then it is taken for the demo.
            known = {self.default: replace(BY_ID[DEMO], id=self.default, title=self.default)} | BY_ID
            self._listed = known | {id: of_card(id, one.card) for id, one in census.models.items() if one.card}
            self._listed_for = census
        return self._listed


def of_card(id: str, card: Mapping[str, Any]) -> Model:
    """Return the model that a worker announced; what its card leaves out is as the demo model's."""
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card.items() if name in _FIELDS
    }
    return replace(BY_ID[DEMO], **({"title": id} | told | {"id": id}))
