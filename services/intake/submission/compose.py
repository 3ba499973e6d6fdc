"""What a client asked becomes what a worker does: turns, images, marks and tiles. Refuses what can't succeed."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from services.intake.schemas.requests import JobRequest
from services.intake.submission.image_headers import ImageInfo
from services.intake.submission.size_errors import too_many_images
from services.intake.uploads import ImageUrl, Upload
from shared.conversation import (
    IMAGE,
    ConversationError,
    Message,
    check_turns,
    placeholders,
    system_of,
    without_system,
)
from shared.errors import ImageCountMismatch, InvalidField, TooManyTiles
from shared.json_schema import SchemaError, check_schema
from shared.models import Model
from shared.request_archive import placed
from shared.requests import Generation, Request, StoredImage
from shared.settings.roles import IntakeSettings
from shared.tiling import grid, tile_count

MIN_TEMPERATURE = 0.001  #: below it logits, divided by it, leave the range of float16 and float32
MIN_REPETITION_PENALTY = 0.1  #: for the same reason
DEFAULT_TILES = 12  #: of an image whose request names no number


@dataclass(frozen=True)
class InspectedImage:
    """An image that came with the request, and what its header says."""

    upload: Upload
    info: ImageInfo


NewImage = InspectedImage | ImageUrl


@dataclass(frozen=True)
class ParentContext:
    """The turns and images of a job's parent, those of the parent's own parents included."""

    messages: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    groups: tuple[int, ...] = ()


def compose(
    id: str,
    asked: JobRequest,
    new: Sequence[NewImage],
    parent: ParentContext,
    *,
    model: Model,
    settings: IntakeSettings,
) -> Request:
    """Return the whole question of job `id`; its images get the keys under which that job's are stored."""
    turns = asked.turns()
    _check_turns(turns, parent, model)
    _check_limits(asked, settings)
    if len(parent.images) + len(new) > settings.max_images:
        raise too_many_images(len(parent.images) + len(new), settings.max_images)
    most = _tiles_each(asked, len(new), model)
    turns, groups = _placed(turns, len(new))
    images = tuple(
        _with_tiles(image, min(image.max_tiles, model.tiles[1]), asked.thumbnail)
        for image in (*parent.images, *map(_stored, new, most))
    )
    _check_tiles(images, settings.max_tiles)
    return Request(
        model=model.id,
        messages=parent.messages + turns,
        images=placed(id, images),
        groups=parent.groups + groups,
        thumbnail=asked.thumbnail,
        generation=asked.generation,
    )


def _check_turns(turns: Sequence[Message], parent: ParentContext, model: Model) -> None:
    try:
        check_turns(turns)
    except ConversationError as error:
        raise InvalidField(f"in `messages`, {error}", field="messages") from None
    if system_of(turns) is not None:
        _check_system(parent, model)
    for n, message in enumerate(turns):
        if message.role == "user" and blank(message.content):
            field = "prompt" if len(turns) == 1 else f"messages.{n}.content"
            raise InvalidField(f"the text of `{field}` is empty", field=field)


def _check_system(parent: ParentContext, model: Model) -> None:
    if parent.messages:
        detail = "a `system` message opens a conversation; one that continues a `parent` keeps the parent's"
        raise InvalidField(detail, field="messages.0.role")
    if not model.takes_system:
        detail = f"the prompt template of {model.id} has no place for a `system` message"
        raise InvalidField(detail, field="messages.0.role")


def blank(text: str) -> bool:
    """Tell whether `text` is only white space and control characters."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)


def _check_limits(asked: JobRequest, settings: IntakeSettings) -> None:
    limits = (
        ("generation.max_new_tokens", asked.generation.max_new_tokens, settings.max_new_tokens),
        ("start_within", asked.start_within or 0, settings.max_start_within),
        ("run_within", asked.run_within or 0, settings.max_run_within),
    )
    for field, value, most in limits:
        if value > most:
            raise InvalidField(f"`{field}` is {value:.15g}; at most {most:.15g} is allowed", field=field)
    _check_sampling(asked.generation)
    _check_schema(asked.generation)


def _check_sampling(generation: Generation) -> None:
    """Refuse values that would make logits overflow. Manifests stored by earlier versions may hold them."""
    if 0 < generation.temperature < MIN_TEMPERATURE:
        detail = f"`generation.temperature` is {generation.temperature:g}; send 0 or at least {MIN_TEMPERATURE}"
        raise InvalidField(detail, field="generation.temperature")
    penalty = generation.repetition_penalty
    if penalty is not None and penalty < MIN_REPETITION_PENALTY:
        detail = f"`generation.repetition_penalty` is {penalty:g}; at least {MIN_REPETITION_PENALTY} is allowed"
        raise InvalidField(detail, field="generation.repetition_penalty")


def _check_schema(generation: Generation) -> None:
    """Refuse a schema that decoding can't enforce, and what would break an answer that follows it."""
    if generation.json_schema is None:
        return
    if generation.num_beams > 1:
        raise InvalidField("`generation.json_schema` needs `num_beams` 1", field="generation.num_beams")
    if generation.stop:
        detail = "`generation.stop` would cut the JSON that `generation.json_schema` asks for"
        raise InvalidField(detail, field="generation.stop")
    try:
        check_schema(generation.json_schema)
    except SchemaError as error:
        detail = f"`generation.json_schema` can't be enforced {error}"
        raise InvalidField(detail, field=f"generation.json_schema{error.path.replace('/', '.')}") from None


def _tiles_each(asked: JobRequest, images: int, model: Model) -> Sequence[int]:
    least, most = model.tiles
    if isinstance(asked.tiles, list):
        if len(asked.tiles) != images:
            detail = f"`tiles` lists {len(asked.tiles)} numbers for {images} images; give one for each new image"
            raise InvalidField(detail, field="tiles")
        each = asked.tiles
    else:
        each = [asked.tiles or min(DEFAULT_TILES, most)] * images
    asked_for = [*each, asked.tiles] if isinstance(asked.tiles, int) else each
    if any(not least <= tiles <= most for tiles in asked_for):
        raise TooManyTiles(f"{model.id} accepts {least} to {most} tiles of one image", field="tiles")
    return each


def _placed(turns: tuple[Message, ...], images: int) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """Return the turns with a mark for every group of images, and the sizes of the groups.

    Without marks all images form one block at the top of the first user text, as the model card's code does.
    """
    marks = placeholders(turns)
    if marks == 0 and images:
        opening = len(turns) - len(without_system(turns))
        first = Message(role="user", content=f"{IMAGE}\n{turns[opening].content}")
        return (*turns[:opening], first, *turns[opening + 1 :]), (images,)
    if marks != images:
        raise ImageCountMismatch(
            f"the user texts have {marks} `{IMAGE}` marks for {images} images; send one for each, or none, and write "
            f"`\\{IMAGE}` for the word itself"
        )
    return turns, (1,) * images


def _stored(image: NewImage, max_tiles: int) -> StoredImage:
    known, url = (image, "") if isinstance(image, InspectedImage) else (None, image.url)
    return StoredImage(
        key="",
        url=url,
        media_type=known.info.media_type if known else "",
        bytes=known.upload.size if known else 0,
        width=known.info.width if known else 0,
        height=known.info.height if known else 0,
        sha256=known.upload.sha256 if known else "",
        max_tiles=max_tiles,
        grid=(1, 1),
        tiles=1,
    )


def _with_tiles(image: StoredImage, max_tiles: int, thumbnail: bool) -> StoredImage:
    """Return `image` with its tiles; of one by URL, whose size a worker will learn, with the most that it may have."""
    chosen = (max_tiles, 1) if image.url else grid(image.width, image.height, max_tiles)
    tiles = tile_count(chosen, thumbnail)
    return image.model_copy(update={"max_tiles": max_tiles, "grid": chosen, "tiles": tiles})


def _check_tiles(images: Sequence[StoredImage], most: int) -> None:
    tiles = sum(image.tiles for image in images)
    if tiles > most:
        worst = max(range(len(images)), key=lambda n: images[n].tiles)
        more = " and the most for each image by URL" if any(image.url for image in images) else ""
        detail = f"the images make {tiles} tiles, thumbnails included{more}; at most {most} are allowed: lower `tiles`"
        raise TooManyTiles(detail, image=worst, field="tiles")
