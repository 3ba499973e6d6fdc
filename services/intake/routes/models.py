"""`GET /v1/models`: what may be asked for, and who serves it now."""

from fastapi import APIRouter
from fastapi.responses import Response

from services.intake.context import Here, Tenant
from services.intake.error_docs import refuses, shows
from services.intake.schemas.responses import ModelList, answer

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=shows(ModelList) | refuses())
async def listing(house: Here, tenant: Tenant) -> Response:
    """Every model this service knows, with its limits, the workers alive and the jobs queued."""
    del tenant  # that there is one is enough
    census = await house.catalogue.census()
    data = []
    for id, model in (await house.catalogue.models()).items():
        counted = census.models.get(id)
        data.append(
            {
                "id": id,
                "object": "model",
                "title": model.title,
                "default": id == house.catalogue.default,
                "parameters": model.parameters,
                "context": model.context,
                "tiles": list(model.tiles),
                "tokens_per_tile": model.tokens_per_tile,
                "languages": list(model.languages),
                "workers": counted.workers if counted else 0,
                "queued": counted.queued if counted else 0,
            }
        )
    return answer({"data": data})
