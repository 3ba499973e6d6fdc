"""The system message that a checkpoint was trained with, and how it is known.

    TILEQ_SYSTEM_MESSAGE ─> config.json ─> name of the release ─> conversation.py, never run ─> shape, or refused

The templates of V1.5 and of InternVL2 have the same names and other sentences, and their configs do not tell the two
apart. So the name decides, as the user gives it or else as config.json does, and a name of the family that is not
known is refused rather than guessed. Files without a name are taken for the release of their template and shape.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from shared.models import find_model
from workers.vision.checkpoint.config import Config
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.prompts import TEMPLATES

#: Of every InternVL2 release, whatever its template (its conversation.py).
INTERNVL2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_INTERNVL2_NAME = re.compile(r"internvl2(1b|2b|4b|8b|26b|40b|llama376b)(mpo|awq)?")
MAX_CODE_BYTES = 1 << 20  #: a larger conversation.py is not read


@dataclass(frozen=True)
class SystemMessage:
    """The text, "" for none, and where it comes from, in words for people."""

    text: str
    origin: str
    certain: bool = True  #: whether anything but the shape says so


def system_message_of(folder: Path, config: Config, source: str, override: str = "") -> SystemMessage:
    """Return the system message of the checkpoint that the user named `source`. Raises `CheckpointError`."""
    template = TEMPLATES[config.template]
    if not template.before_system:
        if override:
            raise CheckpointError(
                f"TILEQ_SYSTEM_MESSAGE is set, but the prompts of {source} ({template.name}) have no place for one"
            )
        return SystemMessage("", f"the template {template.name} has no place for one")
    if override:
        return SystemMessage(override, "TILEQ_SYSTEM_MESSAGE")
    if config.system:
        return SystemMessage(config.system, "config.json: system_message")
    names = [name for name in (_last(source), _last(config.name)) if name]
    for name in names:
        if found := _of_release(name, config):
            return found
    if (text := _in_code(folder / "conversation.py", template.name)) is not None:
        return SystemMessage(text, "conversation.py of the checkpoint, read and not run")
    for name in names:
        if "internvl" in _plain(name):
            raise CheckpointError(
                f"{folder / 'config.json'}: {name} is an unknown release, and neither config.json nor conversation.py "
                "says its system message; set TILEQ_SYSTEM_MESSAGE to the one that it was trained with"
            )
    return SystemMessage(template.system, f"the release of the template {template.name}; no file names it", False)


def is_internvl2(name: str) -> bool:
    """Tell whether a path, hub id or URL names an InternVL2 release, whose files look like those of V1.5."""
    return _INTERNVL2_NAME.fullmatch(_plain(_last(name))) is not None


def _of_release(name: str, config: Config) -> SystemMessage | None:
    if is_internvl2(name):
        return SystemMessage(INTERNVL2, f"the release InternVL2, by the name {name}")
    known = find_model(name)
    if known and known.template == config.template:
        return SystemMessage(TEMPLATES[known.template].system, f"the release {known.title}, by the name {name}")
    return None


def _in_code(path: Path, template: str) -> str | None:
    """Return the `system_message` of `template` in the released Python file; None where it can't be read there."""
    try:
        if path.stat().st_size > MAX_CODE_BYTES:
            return None
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        values = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        if values.get("name") == template and isinstance(text := values.get("system_message"), str):
            return text
    return None


def _last(name: str) -> str:
    """Return the last part of a path, hub id or URL, without its revision."""
    return name.rstrip("/").rsplit("/", 1)[-1].split("@", 1)[0]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
