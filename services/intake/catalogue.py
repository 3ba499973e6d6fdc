"""Which models this service knows, and how they stand: the family, the default, and what workers announced."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from services.intake.desk import Desk
from shared import transitions
from shared.errors import UnknownModel
from shared.models import BY_ID, DEMO, Model, model_id_of
from shared.settings import Settings
from shared.transitions import Census

BELIEVED = 1.0  #: seconds
_FIELDS = {field.name for field in fields(Model)}


class Catalogue:
    """Asks the store for a census at most once in `BELIEVED` seconds."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self._desk = desk
        self.default = settings.default_model or model_id_of(settings)
        self._census: Census | None = None
        self._until = 0.0
        self._counting = asyncio.Lock()

    async def census(self) -> Census:
        """Return a count not older than `BELIEVED`."""
        async with self._counting:
            if self._census is None or time.monotonic() >= self._until:
                self._census = await self._desk.run(transitions.census())
                self._until = time.monotonic() + BELIEVED
            return self._census

    async def model(self, name: str | None) -> Model:
        """Return what is known of `name`, or of the default. Raises `UnknownModel`."""
        id = name or self.default
        if id in BY_ID:
            return BY_ID[id]
        announced = (await self.census()).models.get(id)
        if announced and announced.card:
            return of_card(id, announced.card)
        if id == self.default:
            return replace(BY_ID[DEMO], id=id, title=id)  # what it can do is known once its worker is there
        raise UnknownModel(f"this service has no model {id[:100]!r}; GET /v1/models lists them", field="model")

    async def models(self) -> dict[str, Model]:
        """Return all of them."""
        known = dict(BY_ID)
        for id, announced in (await self.census()).models.items():
            if id not in known and announced.card:
                known[id] = of_card(id, announced.card)
        if self.default not in known:
            known[self.default] = await self.model(None)
        return known


def of_card(id: str, card: Mapping[str, Any]) -> Model:
    """Return the model that a worker announced; what its card leaves out is as the demo model's."""
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card.items() if name in _FIELDS
    }
    return replace(BY_ID[DEMO], **({"title": id} | told | {"id": id}))
