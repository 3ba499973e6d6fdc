"""Files in object storage: what is written is read again, from any byte on."""

import hashlib

import pytest

from shared import files
from shared.errors import ObjectMissing
from shared.files import File, FileWriter, content_key, record_key
from shared.storage import MemoryStorage

DATA = b'{"custom_id": "a"}\n' * 100


@pytest.fixture
def objects() -> MemoryStorage:
    return MemoryStorage()


def written(objects: MemoryStorage) -> File:
    writer = FileWriter(objects, tenant="acme")
    for start in range(0, len(DATA), 7):
        writer.write(DATA[start : start + 7])
    return writer.close("batch_output", "output.jsonl")


def test_a_file_has_the_size_and_hash_of_what_was_written(objects: MemoryStorage) -> None:
    file = written(objects)
    assert (file.bytes, file.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert File.from_hash(file.to_hash()) == file
    assert File.model_validate_json(objects.get(record_key(file.id))) == file


@pytest.mark.parametrize("start", [0, 1, 1000, len(DATA)])
def test_a_file_is_read_in_pieces_from_any_byte_on(
    objects: MemoryStorage, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 13)
    assert b"".join(files.read(objects, written(objects), start)) == DATA[start:]


def test_content_that_is_cut_short_is_missing_and_not_the_end(objects: MemoryStorage) -> None:
    file = written(objects)
    objects.put(content_key(file.id), DATA[:-1], "text/plain")
    with pytest.raises(ObjectMissing, match="ends at byte"):
        list(files.read(objects, file))


def test_a_file_that_is_written_again_under_its_id_replaces_what_a_dead_process_wrote(objects: MemoryStorage) -> None:
    first = written(objects)
    again = FileWriter(objects, tenant="acme", id=first.id)
    again.write(b"whole")
    assert b"".join(files.read(objects, again.close("batch_output", "output.jsonl"))) == b"whole"


@pytest.mark.parametrize(
    ("purpose", "asked", "kept_s"),
    [("batch", None, 30 * 86_400), ("batch_output", None, 30 * 86_400), ("vision", None, 0), ("vision", 3600, 3600)],
)
def test_files_of_batches_expire_after_30_days_and_others_when_it_is_asked(
    objects: MemoryStorage, purpose: files.Purpose, asked: float | None, kept_s: float
) -> None:
    file = FileWriter(objects, tenant="acme").close(purpose, "a", expires_after=asked)
    assert file.expires == (file.created + kept_s if kept_s else 0)


def test_nothing_of_a_deleted_file_stays(objects: MemoryStorage) -> None:
    files.delete_file_objects(objects, written(objects).id)
    assert list(objects.keys("")) == []
