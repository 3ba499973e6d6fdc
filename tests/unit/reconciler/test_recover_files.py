"""Files after the job store was lost, and what uploads that broke off left."""

import time

import pytest

from shared.files import BATCH_RETENTION_S, File, FileWriter, content_key, record_key
from shared.storage import MemoryStorage
from shared.store import files
from shared.store.client import Store, memory_store
from workers.reconciler.recover_files import UPLOAD_MAX_S, recover_files, sweep_files


@pytest.fixture
def store() -> Store:
    return memory_store()


@pytest.fixture
def objects() -> MemoryStorage:
    return MemoryStorage()


def made(objects: MemoryStorage, store: Store | None = None) -> File:
    writer = FileWriter(objects, tenant="acme")
    writer.write(b"{}\n")
    file = writer.close("batch", "lines.jsonl")
    if store:
        store.run(files.put(file))
    return file


def test_every_file_is_as_it_was_after_the_store_was_lost(store: Store, objects: MemoryStorage) -> None:
    lost, kept = made(objects), made(objects, store)
    assert recover_files(store, objects, time.time()) == 1
    found, more = store.run(files.list_files("acme", limit=9))
    assert {file.id: file for file in found} == {kept.id: kept, lost.id: lost}
    assert not more
    assert recover_files(store, objects, time.time()) == 0


def test_a_file_that_expired_meanwhile_is_not_restored_but_swept(store: Store, objects: MemoryStorage) -> None:
    made(objects)
    later = time.time() + BATCH_RETENTION_S + 1
    assert recover_files(store, objects, later) == 0
    assert sweep_files(store, objects, later) == 0  # its record may still come
    assert sweep_files(store, objects, later + UPLOAD_MAX_S) == 1
    assert list(objects.keys("")) == []


def test_what_an_upload_left_that_broke_off_is_swept_after_a_day(store: Store, objects: MemoryStorage) -> None:
    kept, orphan = made(objects, store), FileWriter(objects, tenant="acme")
    objects.put(content_key(orphan.id), b"x", "text/plain")
    assert sweep_files(store, objects, time.time()) == 0
    assert sweep_files(store, objects, time.time() + UPLOAD_MAX_S + 1) == 1
    assert sorted(objects.keys("")) == [content_key(kept.id), record_key(kept.id)]


def test_a_record_that_can_not_be_read_stops_nothing(store: Store, objects: MemoryStorage) -> None:
    broken, lost = made(objects), made(objects)
    objects.put(record_key(broken.id), b"{", "application/json")
    assert recover_files(store, objects, time.time()) == 1
    assert store.run(files.get("acme", lost.id)) == lost
