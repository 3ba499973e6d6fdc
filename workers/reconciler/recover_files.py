"""Files after a loss: records that the job store lost are restored from object storage, and remnants are deleted."""

from itertools import groupby

import structlog
from pydantic import ValidationError

from shared.errors import ObjectMissing
from shared.files import FILES_PREFIX, File, delete_file_objects, record_key
from shared.ids import created_at
from shared.storage import ObjectStorage
from shared.store import files
from shared.store.client import Store

UPLOAD_MAX_S = 86_400.0  #: that an upload may take from its id to its record
log = structlog.get_logger(__name__)


def recover_files(store: Store, objects: ObjectStorage, now: float) -> int:
    """Restore every file whose record is in object storage alone and has not expired; return how many there were."""
    restored = 0
    for id, keys in _files(objects):
        if record_key(id) not in keys or store.run(files.get("", id)) is not None:
            continue
        file = _read(objects, id)
        if file is not None and not 0 < file.expires <= now:
            store.run(files.put(file))
            log.info("file restored", file=id, purpose=file.purpose)
            restored += 1
    return restored


def sweep_files(store: Store, objects: ObjectStorage, now: float) -> int:
    """Delete the objects of uploads that never became a file, and of files that expired while no record was kept."""
    swept = 0
    for id, keys in _files(objects):
        if created_at(id) > now - UPLOAD_MAX_S:
            break
        if record_key(id) in keys:
            file = _read(objects, id)
            if file is None or not 0 < file.expires < now - UPLOAD_MAX_S:
                continue
        if store.run(files.get("", id)) is None:
            delete_file_objects(objects, id)
            log.info("orphaned objects deleted", file=id)
            swept += 1
    return swept


def _files(objects: ObjectStorage) -> list[tuple[str, set[str]]]:
    """Return (id, keys) of everything stored of files, oldest first."""
    listed = groupby(objects.keys(FILES_PREFIX), lambda key: key.split("/", 2)[1])
    return [(id, set(keys)) for id, keys in listed]


def _read(objects: ObjectStorage, id: str) -> File | None:
    try:
        return File.model_validate_json(objects.get(record_key(id)))
    except (ValidationError, ObjectMissing):
        log.error("the record of a file can't be read", file=id)
        return None
