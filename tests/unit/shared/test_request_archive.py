"""The request archive holds what a job needs, is an ordinary tar file, and objects of former releases are read too."""

import io
import tarfile
from collections.abc import Sequence

import pytest

from shared.conversation import Message
from shared.errors import ObjectMissing
from shared.request_archive import (
    MANIFEST,
    MAX_ARCHIVED_BYTES,
    is_archived,
    manifest_bytes,
    pack,
    placed,
    read_image,
    read_images,
    read_manifest,
    replace_manifest,
    unpack,
)
from shared.requests import Manifest, Request, StoredImage
from shared.storage import MemoryStorage, archive_key, image_key, manifest_key


def image(size: int) -> StoredImage:
    return StoredImage(
        key="",
        media_type="image/png",
        bytes=size,
        width=1,
        height=1,
        sha256="",
        max_tiles=1,
        grid=(1, 1),
        tiles=1,
    )


def manifest(text: str = "?") -> bytes:
    request = Request(model="m", messages=(Message(role="user", content=text),))
    return Manifest(record={"id": "job_1"}, request=request).model_dump_json().encode()


class Counted(MemoryStorage):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def get(self, key: str, size: int | None = None) -> bytes:
        data = super().get(key, size)
        self.read.append(len(data))
        return data

    def get_all(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]


def test_what_is_packed_is_unpacked_by_any_tar() -> None:
    members = {MANIFEST: manifest(), "image-0": bytes(range(256)) * 3, "image-1": b"x" * 512, "image-2": b""}
    archive = pack(members)
    assert unpack(archive) == members
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        assert file.getnames() == list(members)


@pytest.mark.parametrize("length", [0, 100, 512, 600, 1500, 2100])
def test_an_archive_that_is_cut_is_refused_or_lacks_no_byte(length: int) -> None:
    members = {MANIFEST: b"m" * 700, "image-0": b"i" * 100}
    try:
        found = unpack(pack(members)[:length])
    except ValueError:
        return
    assert all(members[name] == data for name, data in found.items())


def test_images_go_into_the_archive_while_there_is_room() -> None:
    sizes = [MAX_ARCHIVED_BYTES - 10, 11, 10]
    keys = [one.key for one in placed("job_1", [image(size) for size in sizes])]
    assert keys == ["jobs/job_1/request.tar/image-0", "jobs/job_1/image-1", "jobs/job_1/request.tar/image-2"]
    assert [is_archived(key) for key in keys] == [True, False, True]


def test_images_are_read_from_wherever_they_lie_and_each_object_once() -> None:
    objects = Counted()
    objects.put(archive_key("job_1"), pack({MANIFEST: b"{}", "image-0": b"zero", "image-2": b"two"}), "")
    objects.put(image_key("job_1", 1), b"one", "")
    keys = [f"{archive_key('job_1')}/image-2", image_key("job_1", 1), f"{archive_key('job_1')}/image-0"]
    assert read_images(objects.get_all, keys) == [b"two", b"one", b"zero"]
    assert len(objects.read) == 2
    assert [read_image(objects, "job_1", n) for n in range(3)] == [b"zero", b"one", b"two"]
    for key in (f"{archive_key('job_1')}/image-9", image_key("job_1", 9)):
        with pytest.raises(ObjectMissing):
            read_images(objects.get_all, [key])


def test_a_manifest_is_read_without_the_images_behind_it() -> None:
    objects = Counted()
    objects.put(archive_key("job_1"), pack({MANIFEST: manifest(), "image-0": b"x" * 1_000_000}), "")
    assert read_manifest(objects, "job_1").request.messages[0].content == "?"
    assert sum(objects.read) < 100_000


def test_a_large_manifest_is_read_whole() -> None:
    objects, text = MemoryStorage(), "long " * 100_000
    objects.put(archive_key("job_1"), pack({MANIFEST: manifest(text), "image-0": b"x"}), "")
    assert read_manifest(objects, "job_1").request.messages[0].content == text


def test_a_manifest_and_an_image_of_a_former_release_are_read() -> None:
    objects = MemoryStorage()
    objects.put(manifest_key("job_1"), manifest(), "")
    objects.put(image_key("job_1", 0), b"old", "")
    assert read_manifest(objects, "job_1").record == {"id": "job_1"}
    assert read_image(objects, "job_1", 0) == b"old"
    with pytest.raises(ObjectMissing):
        read_manifest(objects, "job_2")


@pytest.mark.parametrize("broken", [b"", b"{}", b"\0" * 2048, b"x" * 4096])
def test_an_archive_that_is_none_is_a_value_error(broken: bytes) -> None:
    objects = MemoryStorage()
    objects.put(archive_key("job_1"), broken, "")
    with pytest.raises(ValueError, match="not a request archive"):
        read_manifest(objects, "job_1")
    with pytest.raises(ValueError, match="not a request archive"):
        read_image(objects, "job_1", 0)


def test_a_manifest_is_replaced_in_its_place_and_nothing_else_changes() -> None:
    objects = MemoryStorage()
    objects.put(archive_key("job_1"), pack({MANIFEST: b"{}", "image-0": b"zero"}), "")
    objects.put(manifest_key("job_2"), b"{}", "")
    for key in (archive_key("job_1"), manifest_key("job_2")):
        replace_manifest(objects, key, b'{"new":1}')
        assert manifest_bytes(objects, key) == b'{"new":1}'
    assert read_image(objects, "job_1", 0) == b"zero"
    with pytest.raises(ObjectMissing):  # a job that was deleted meanwhile is not restored
        replace_manifest(objects, archive_key("job_3"), b"{}")
