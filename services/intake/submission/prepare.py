"""From what a client wrote to what a worker does: models, images, marks and limits. Refuses what can't succeed."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.intake.schemas.requests import JobRequest
from services.intake.submission.body import Upload
from services.intake.submission.image_headers import Header
from shared.conversation import IMAGE, Message, placeholders
from shared.errors import ImageCountMismatch, InvalidField, TooManyImages, TooManyTiles
from shared.models import Model
from shared.objects import image_key
from shared.requests import Request, StoredImage
from shared.settings import Settings
from shared.tiling import grid, tile_count

TILES = 12  #: of an image whose request does not say


@dataclass(frozen=True)
class Looked:
    """A picture that came with the request, and what its header says."""

    upload: Upload
    header: Header


@dataclass(frozen=True)
class Past:
    """What a job stands on: the rounds and pictures of its parent, the parent's own parents included."""

    messages: tuple[Message, ...] = ()
    images: tuple[StoredImage, ...] = ()
    groups: tuple[int, ...] = ()


def compose(
    id: str, asked: JobRequest, new: Sequence[Looked], past: Past, *, model: Model, settings: Settings
) -> Request:
    """Return the whole question of job `id`; its pictures get the places that job's are stored at."""
    rounds = asked.rounds()
    _check_rounds(rounds)
    _check_limits(asked, settings)
    if len(past.images) + len(new) > settings.max_images:
        raise too_many_images(len(past.images) + len(new), settings.max_images)
    most = _tiles_each(asked, len(new), model)
    rounds, groups = _placed(rounds, len(new))
    images = tuple(
        _seen(image, image_key(id, n), min(image.max_tiles, model.tiles[1]), asked.thumbnail)
        for n, image in enumerate((*past.images, *map(_stored, new, most)))
    )
    _check_tiles(images, settings.max_tiles)
    return Request(
        model=model.id,
        messages=past.messages + rounds,
        images=images,
        groups=past.groups + groups,
        thumbnail=asked.thumbnail,
        generation=asked.generation,
    )


def too_many_images(count: int, most: int) -> TooManyImages:
    """Return the refusal."""
    return TooManyImages(f"the job has {count} images, those of its parent included; {most} are the most")


def _check_rounds(rounds: Sequence[Message]) -> None:
    if rounds[0].role != "user" or rounds[-1].role != "user":
        raise InvalidField("`messages` begin and end with a user's", field="messages")
    if any(first.role == second.role for first, second in pairwise(rounds)):
        raise InvalidField("in `messages` user and assistant take turns", field="messages")
    for n, message in enumerate(rounds):
        if message.role == "user" and blank(message.content):
            field = "prompt" if len(rounds) == 1 else f"messages.{n}.content"
            raise InvalidField(f"the text of `{field}` is empty; ask something", field=field)


def blank(text: str) -> bool:
    """Tell whether `text` has nothing to read: white space and control characters only."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)


def _check_limits(asked: JobRequest, settings: Settings) -> None:
    limits = (
        ("generation.max_new_tokens", asked.generation.max_new_tokens, settings.max_new_tokens),
        ("start_within", asked.start_within or 0, settings.max_start_within),
        ("run_within", asked.run_within or 0, settings.max_run_within),
    )
    for field, value, most in limits:
        if value > most:
            raise InvalidField(f"`{field}` is at most {most:g} here", field=field)


def _tiles_each(asked: JobRequest, images: int, model: Model) -> Sequence[int]:
    least, most = model.tiles
    if isinstance(asked.tiles, list):
        if len(asked.tiles) != images:
            detail = f"`tiles` lists {len(asked.tiles)} numbers for {images} images; give one for each new image"
            raise InvalidField(detail, field="tiles")
        each = asked.tiles
    else:
        each = [asked.tiles or min(TILES, most)] * images
    asked_for = [*each, asked.tiles] if isinstance(asked.tiles, int) else each
    if any(not least <= tiles <= most for tiles in asked_for):
        raise TooManyTiles(f"{model.id} takes {least} to {most} tiles of one image", field="tiles")
    return each


def _placed(rounds: tuple[Message, ...], images: int) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """Return the rounds with a mark for every group of images, and the groups: where no marks are, one block at the top
    of the first user text, as the card does."""
    marks = placeholders(rounds)
    if marks == 0 and images:
        first = Message(role="user", content=f"{IMAGE}\n{rounds[0].content}")
        return (first, *rounds[1:]), (images,)
    if marks != images:
        detail = f"the user texts have {marks} `{IMAGE}` marks for {images} images; one for each, or none at all"
        raise ImageCountMismatch(detail)
    return rounds, (1,) * images


def _stored(looked: Looked, max_tiles: int) -> StoredImage:
    header = looked.header
    return StoredImage(
        key="",
        media_type=header.media_type,
        bytes=looked.upload.size,
        width=header.width,
        height=header.height,
        sha256=looked.upload.sha256,
        max_tiles=max_tiles,
        grid=(1, 1),
        tiles=1,
    )


def _seen(image: StoredImage, key: str, max_tiles: int, thumbnail: bool) -> StoredImage:
    chosen = grid(image.width, image.height, max_tiles)
    tiles = tile_count(chosen, thumbnail)
    return image.model_copy(update={"key": key, "max_tiles": max_tiles, "grid": chosen, "tiles": tiles})


def _check_tiles(images: Sequence[StoredImage], most: int) -> None:
    tiles = sum(image.tiles for image in images)
    if tiles > most:
        worst = max(range(len(images)), key=lambda n: images[n].tiles)
        detail = f"the images make {tiles} tiles, thumbnails included; {most} are the most: lower `tiles`"
        raise TooManyTiles(detail, image=worst, field="tiles")
