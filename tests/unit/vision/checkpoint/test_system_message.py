"""The system message is the one of the release, and the reader hears how it is known."""

from pathlib import Path
from typing import Any

import pytest

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.system_message import INTERNVL2, SystemMessage
from workers.vision.prompts import TEMPLATES

V1_5 = TEMPLATES["internlm2-chat"].system
CODE = '''"""Templates."""
raise SystemExit("this file is never run")
register_conv_template(Conversation(name='Hermes-2', system_template='x', system_message='Another.', sep_style=1))
register_conv_template(
    Conversation(name='internlm2-chat', system_message='Of the \\u4e66\\u751f release.', roles=('a', 'b'))
)
'''


def system_of(
    folder: Path, source: str = "", *, code: str = "", override: str = "", name: str = "", **top: Any
) -> SystemMessage:
    write_random(folder, top={"_name_or_path": name, **top})
    if code:
        (folder / "conversation.py").write_text(code)
    return open_checkpoint(folder, source, override).system


@pytest.mark.parametrize(
    "name",
    ["OpenGVLab/InternVL2-2B", "OpenGVLab/InternVL2-8B@main", "s3://models/InternVL2-26B/", "/m/InternVL2-8B-MPO"],
)
def test_internvl2_has_its_own_sentence_though_its_template_has_the_name_of_v1_5(tmp_path: Path, name: str) -> None:
    for number, found in enumerate((system_of(tmp_path / "0", name), system_of(tmp_path / "1", name=name))):
        assert found.text == INTERNVL2, number
        assert "InternVL2" in found.origin


def test_internvl2_is_not_taken_for_v1_5_by_its_shape(tmp_path: Path) -> None:
    write_random(tmp_path, top={"_name_or_path": "OpenGVLab/InternVL2-2B"})
    assert open_checkpoint(tmp_path, "/models/mine").model.id == "internvl2-2b"


def test_internvl2_of_the_other_template_has_it_too(tmp_path: Path) -> None:
    assert system_of(tmp_path, "OpenGVLab/InternVL2-40B", template="Hermes-2").text == INTERNVL2


@pytest.mark.parametrize("name", ["OpenGVLab/Mini-InternVL-Chat-2B-V1-5", "mini-internvl-chat-v1.5", "tileq-demo"])
def test_v1_5_keeps_the_sentence_of_its_release(tmp_path: Path, name: str) -> None:
    found = system_of(tmp_path, name=name)
    assert (found.text, found.certain) == (V1_5, True)


def test_the_name_that_the_user_gives_outweighs_that_of_the_config(tmp_path: Path) -> None:
    found = system_of(tmp_path, "OpenGVLab/InternVL2-2B", name="OpenGVLab/Mini-InternVL-Chat-2B-V1-5")
    assert found.text == INTERNVL2


def test_the_config_outweighs_names_and_the_setting_outweighs_the_config(tmp_path: Path) -> None:
    told = system_of(tmp_path / "0", "OpenGVLab/InternVL2-2B", system_message="Be kind.")
    assert told == SystemMessage("Be kind.", "config.json: system_message")
    told = system_of(tmp_path / "1", "OpenGVLab/InternVL2-2B", override="Be brief.", system_message="Be kind.")
    assert told == SystemMessage("Be brief.", "TILEQ_SYSTEM_MESSAGE")


@pytest.mark.parametrize("name", ["OpenGVLab/InternVL2_5-2B", "OpenGVLab/InternVL3-2B", "me/InternVL2-2B-cats"])
def test_an_unknown_sibling_is_refused_with_the_setting_that_helps(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="TILEQ_SYSTEM_MESSAGE") as raised:
        system_of(tmp_path / "0", name)
    assert name.rpartition("/")[2] in str(raised.value)
    with pytest.raises(CheckpointError, match="TILEQ_SYSTEM_MESSAGE"):
        system_of(tmp_path / "1", name=name)
    assert system_of(tmp_path / "2", name, override="Cats.").text == "Cats."


def test_the_code_of_an_unknown_release_is_read_and_not_run(tmp_path: Path) -> None:
    found = system_of(tmp_path, "me/InternVL2-2B-cats", code=CODE)
    assert found.text == "Of the 书生 release."
    assert "conversation.py" in found.origin


@pytest.mark.parametrize("code", ["def broken(:", "(" * 5000, "name = 'internlm2-chat'", "\0"])
def test_code_that_says_nothing_is_as_good_as_none(tmp_path: Path, code: str) -> None:
    with pytest.raises(CheckpointError, match="TILEQ_SYSTEM_MESSAGE"):
        system_of(tmp_path, "me/InternVL2-2B-cats", code=code)


def test_files_without_a_name_are_taken_for_the_release_of_their_template_and_say_so(tmp_path: Path) -> None:
    found = system_of(tmp_path)
    assert (found.text, found.certain) == (V1_5, False)
    assert "no file names it" in found.origin


def test_a_template_without_a_place_for_it_has_none(tmp_path: Path) -> None:
    found = system_of(tmp_path, "OpenGVLab/InternVL9", template="internvl_zh")
    assert (found.text, found.certain) == ("", True)
    with pytest.raises(CheckpointError, match="TILEQ_SYSTEM_MESSAGE is set, but"):
        system_of(tmp_path / "set", template="internvl_zh", override="Be brief.")
