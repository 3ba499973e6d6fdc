"""`/v1/models`, `/healthz` and `/readyz`: what is served, and how the service is."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from services.intake.auth import why_not_local
from services.intake.context import AppContext, Context, Reader
from services.intake.openai.surface import COMMON
from services.intake.openapi import errors, returns
from services.intake.rendering import json_response
from services.intake.schemas.responses import Alive, Dependency, ModelBody, ModelList, Ready
from services.intake.surface import route_class
from shared.errors import NotFound

router = APIRouter(tags=["system"], route_class=route_class(COMMON))

#: Instead of the reason of a dependency that is down, for clients of other machines.
REASON_ELSEWHERE = "down; the log of this service and /readyz of its metrics port say why"


@router.get("/v1/models", tags=["models"], responses=returns(ModelList) | errors())
async def list_models(context: Context, caller: Reader) -> Response:
    """Every model this service knows, with its limits, the workers alive and the jobs queued."""
    del caller  # any tenant may ask
    return json_response(ModelList(data=await _models(context)))


@router.get("/v1/models/{id}", tags=["models"], responses=returns(ModelBody) | errors(NotFound))
async def read_model(context: Context, caller: Reader, id: Annotated[str, Path()]) -> Response:
    """One of the models."""
    del caller
    found = next((model for model in await _models(context) if model.id == id), None)
    if found is None:
        raise NotFound("this service has no such model; GET /v1/models lists them")
    return json_response(found)


@router.get("/healthz", tags=["health"], responses=returns(Alive))
async def healthz() -> Response:
    """The process answers."""
    return json_response(Alive())


@router.get(
    "/readyz", tags=["health"], responses=returns(Ready) | {503: {"model": Ready, "description": "something is down"}}
)
async def readyz(request: Request, context: Context) -> Response:
    """Each dependency, up or down; only clients on this machine see the reasons, which may name servers."""
    report = await context.readiness.check()
    if why_not_local(request):
        report = _without_reasons(report)
    return json_response(report, 200 if report.status == "ready" else 503)


async def _models(context: AppContext) -> list[ModelBody]:
    stats = await context.models.stats()
    data = []
    for id, model in (await context.models.models()).items():
        counted = stats.models.get(id)
        data.append(
            ModelBody(
                id=id,
                title=model.title,
                default=id == context.models.default,
                parameters=model.parameters,
                context=model.context,
                tiles=list(model.tiles),
                tokens_per_tile=model.tokens_per_tile,
                languages=list(model.languages),
                workers=counted.workers if counted else 0,
                queued=counted.queued if counted else 0,
            )
        )
    return data


def _without_reasons(report: Ready) -> Ready:
    told = {
        name: Dependency(up=state.up, reason=None if state.up else REASON_ELSEWHERE)
        for name, state in report.dependencies.items()
    }
    return report.model_copy(update={"dependencies": told})
