"""The model family: the limits of a request to each model, and the memory that a worker needs for it."""

import re
from dataclasses import dataclass
from typing import Literal

from shared.settings.vision import ModelSettings

Template = Literal["internlm2-chat", "Hermes-2", "internvl_zh"]

DYNAMIC_TILES = (1, 40)  #: tiles of one image, the thumbnail not counted; zero-shot up to 40 says the card
SINGLE_TILE = (1, 1)  #: before 1.5 a image is resized to one tile
MEMORY_HEADROOM = 1.125  # an eighth on top of the weights, for the cache of one long conversation and working memory


@dataclass(frozen=True)
class Model:
    """One released model."""

    id: str
    title: str
    parameters: int
    hub_id: str  #: "" where it is on no hub
    context: int  #: tokens of prompt and answer together
    tiles: tuple[int, int]
    thumbnail: bool
    tokens_per_tile: int
    template: Template
    languages: tuple[str, ...]
    multi_image: bool  #: several images in one conversation

    @property
    def takes_system(self) -> bool:
        """Whether the template has a place for a system message; V1.1's `internvl_zh` has none."""
        return self.template != "internvl_zh"

    @property
    def memory(self) -> int:
        """Bytes a device needs at bf16."""
        return int(self.parameters * 2 * MEMORY_HEADROOM)


MODELS = (
    Model(
        id="mini-internvl-chat-v1.5",
        title="Mini-InternVL-Chat-V1.5",
        parameters=2_205_754_368,
        hub_id="OpenGVLab/Mini-InternVL-Chat-2B-V1-5",
        context=32_768,
        tiles=DYNAMIC_TILES,
        thumbnail=True,
        tokens_per_tile=256,
        template="internlm2-chat",
        languages=("en", "zh"),
        multi_image=True,
    ),
    Model(
        id="internvl-chat-v1.5",
        title="InternVL-Chat-V1.5",
        parameters=25_514_186_112,
        hub_id="OpenGVLab/InternVL-Chat-V1-5",
        context=32_768,
        tiles=DYNAMIC_TILES,
        thumbnail=True,
        tokens_per_tile=256,
        template="internlm2-chat",
        languages=("en", "zh"),
        multi_image=True,
    ),
    Model(
        id="internvl-chat-v1.2-plus",
        title="InternVL-Chat-V1.2-Plus",
        parameters=40_100_000_000,
        hub_id="OpenGVLab/InternVL-Chat-V1-2-Plus",
        context=4_096,
        tiles=SINGLE_TILE,
        thumbnail=False,
        tokens_per_tile=256,
        template="Hermes-2",
        languages=("en", "zh"),
        multi_image=True,
    ),
    Model(
        id="internvl-chat-v1.2",
        title="InternVL-Chat-V1.2",
        parameters=40_100_000_000,
        hub_id="OpenGVLab/InternVL-Chat-V1-2",
        context=4_096,
        tiles=SINGLE_TILE,
        thumbnail=False,
        tokens_per_tile=256,
        template="Hermes-2",
        languages=("en", "zh"),
        multi_image=True,
    ),
    Model(
        id="internvl-chat-v1.1",
        title="InternVL-Chat-V1.1",
        parameters=19_100_000_000,
        hub_id="OpenGVLab/InternVL-Chat-V1-1",
        context=4_096,
        tiles=SINGLE_TILE,
        thumbnail=False,
        tokens_per_tile=256,
        template="internvl_zh",
        languages=("en", "zh"),
        multi_image=True,
    ),
    Model(
        id="tileq-demo",
        title="tileq demo checkpoint",
        parameters=3_800_000,
        hub_id="",
        context=32_768,
        tiles=DYNAMIC_TILES,
        thumbnail=True,
        tokens_per_tile=196,  # patches of 16 pixels: (448 / 16 / 2) squared
        template="internlm2-chat",
        languages=("en", "zh"),
        multi_image=True,
    ),
)

DEMO_MODEL_ID = "tileq-demo"  #: what is served where nothing is said

BY_ID = {model.id: model for model in MODELS}


def find_model(name: str) -> Model | None:
    """The model that `name` says: an id, a hub id with or without organisation and revision, or a folder of that name.

    Dots and dashes are one: the card writes `Mini-InternVL-Chat-V1-5`.
    """
    last = _plain(name.rstrip("/").rsplit("/", 1)[-1].split("@", 1)[0])
    known = ((model, (_plain(model.id), _plain(model.hub_id.rsplit("/", 1)[-1]))) for model in MODELS)
    return next((model for model, names in known if last and last in names), None)


def model_id_of(settings: ModelSettings) -> str:
    """The id under which a worker with these settings serves its checkpoint, and intake its default model."""
    if settings.model_id or not settings.model:
        return settings.model_id or DEMO_MODEL_ID
    known = find_model(settings.model)
    return known.id if known else _slug(settings.model) or DEMO_MODEL_ID


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _slug(path: str) -> str:
    last = path.rstrip("/").rsplit("/", 1)[-1].split("@", 1)[0]
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-.")[:64]
