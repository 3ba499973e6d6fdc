"""Jobs whose prompts could share a prefix have a key in common, others have none."""

from typing import Any

from shared.affinity import MAX_KEYS_PER_JOB, affinity_of
from shared.conversation import Message
from shared.requests import Request, StoredImage


def image(content: int, columns: int = 2) -> StoredImage:
    return StoredImage(
        key=f"jobs/{content}/image-0",
        media_type="image/png",
        bytes=1,
        width=1,
        height=1,
        sha256=f"{content:064x}"[::-1],
        max_tiles=6,
        grid=(columns, 1),
        tiles=columns,
    )


def keys(*texts: str, system: str = "", images: tuple[StoredImage, ...] = ()) -> set[str]:
    roles: Any = ("user", "assistant")
    messages = [Message(role=roles[n % 2], content=text) for n, text in enumerate(texts)]
    first = [Message(role="system", content=system)] if system else []
    return set(affinity_of(Request(model="m", messages=(*first, *messages), images=images)).split())


def test_questions_about_one_image_share_a_key_whatever_they_ask() -> None:
    assert keys("what?", images=(image(1),)) == keys("why?", images=(image(1),))
    assert keys("what?", images=(image(1),)) & keys("what?", images=(image(1), image(2)))


def test_other_images_and_other_grids_of_one_image_share_none() -> None:
    assert not keys("what?", images=(image(1),)) & keys("what?", images=(image(2),))
    assert not keys("what?", images=(image(1),)) & keys("what?", images=(image(1, columns=3),))


def test_rounds_of_one_text_conversation_share_a_key() -> None:
    assert keys("hello") == keys("hello", "hi", "and now?")
    assert not keys("hello") & keys("hello there")
    assert not keys("hello") & keys("hello", system="Be brief.")


def test_the_keys_of_a_job_are_bounded_and_each_there_once() -> None:
    assert len(keys("what?", images=tuple(image(n) for n in range(20)))) == MAX_KEYS_PER_JOB
    assert affinity_of(Request(model="m", messages=(), images=(image(1), image(1)))).count(" ") == 0
