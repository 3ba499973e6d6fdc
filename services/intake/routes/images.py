"""`GET /v1/jobs/{id}/images/{n}`: an image as it was sent, or as the model sees it."""

from typing import Annotated, Literal

from fastapi import Path, Query
from fastapi.responses import Response

from services.intake.context import Context, Reader
from services.intake.native import native_router
from services.intake.openapi import Responses, errors
from services.intake.routes.jobs import Id
from shared.errors import InvalidField, NotFound, ObjectMissing, StorageUnavailable
from shared.images import MEDIA_TYPES
from shared.storage import view_key

router = native_router("jobs")

_IMAGE: Responses = {
    200: {
        "description": "the image",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES},
    }
}


@router.get(
    "/v1/jobs/{id}/images/{n}",
    response_class=Response,
    responses=_IMAGE | errors(NotFound, InvalidField, StorageUnavailable),
)
async def image(
    context: Context,
    caller: Reader,
    id: Id,
    n: Annotated[int, Path(ge=0, le=10_000)],
    view: Annotated[
        Literal["tiles"] | None, Query(description="`tiles`: the grid and thumbnail that the model sees")
    ] = None,
) -> Response:
    """The image as it was sent; `?view=tiles` a PNG of what the model sees of it, once a worker has tiled it."""
    job = await context.queries.get(caller.tenant, id)
    if n >= len(job.images):
        raise NotFound(f"the job has {len(job.images)} images, numbered from 0")
    shown = job.images[n]
    media_type, sha256 = shown.media_type, shown.sha256
    if media_type is None or sha256 is None:
        raise NotFound("no worker has fetched this image yet")
    try:
        data = await (context.storage.get(view_key(id, n)) if view else context.storage.image(id, n, sha256))
    except ObjectMissing as error:
        detail = "no worker has tiled this image yet" if view else "the image is no longer stored"
        raise NotFound(detail) from error
    kind = "image/png" if view else media_type
    name = f"{id}-{n}{'-tiles' if view else ''}.{kind.removeprefix('image/')}"
    # An image may be a web page too (JPEG followed by HTML), so a browser must save it rather than show it.
    headers = {"Content-Disposition": f'{"inline" if view else "attachment"}; filename="{name}"'}
    return Response(data, headers=headers | {"Cache-Control": "private, max-age=3600"}, media_type=kind)
