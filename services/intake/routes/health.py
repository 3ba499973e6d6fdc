"""`/healthz`: this process lives. `/readyz`: what it stands on does too."""

from fastapi import APIRouter
from fastapi.responses import Response

from services.intake.context import Here
from services.intake.schemas.responses import Alive, Ready, answer

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={200: {"model": Alive}})
async def healthz() -> Response:
    """The process lives."""
    return answer({"status": "ok"})


@router.get("/readyz", responses={200: {"model": Ready}, 503: {"model": Ready, "description": "something is down"}})
async def readyz(house: Here) -> Response:
    """Each dependency, up or down with the reason."""
    standing = await house.readiness.look()
    return answer(standing.view(), 200 if standing.ready else 503)
