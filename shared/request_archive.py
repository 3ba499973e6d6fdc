"""Request archive: manifest and images of a job in one object, so that accepting a job costs one PUT.

`jobs/{id}/request.tar` is a tar file (POSIX.1-1988, ustar) of `request.json` and, behind it, `image-{n}` for the images
that fit; `tar xf` yields them. Images that do not fit are objects of their own, `jobs/{id}/image-{n}`. Former releases
stored every image so, and the manifest as `jobs/{id}/request.json`; both are still read.
"""

import tarfile
from collections.abc import Callable, Mapping, Sequence

from shared.errors import ObjectMissing
from shared.requests import Manifest, StoredImage
from shared.storage import ObjectStorage, archive_key, image_key, manifest_key

MANIFEST = "request.json"
MEDIA_TYPE = "application/x-tar"
MAX_ARCHIVED_BYTES = 4 << 20  #: of the images of an archive, so that it goes in one PUT (`MAX_SINGLE_PUT_BYTES`)
_HEAD_BYTES = 32 << 10  #: that are read of an archive at first, in order to read its manifest
_SUFFIX = ".tar"


def placed(job: str, images: Sequence[StoredImage]) -> tuple[StoredImage, ...]:
    """Return `images` with the keys under which those of `job` are stored: in its archive as long as there is room.

    One with a URL is an object of its own, which a worker stores.
    """
    room, stored = MAX_ARCHIVED_BYTES, list[StoredImage]()
    for n, image in enumerate(images):
        fits = not image.url and image.bytes <= room
        room -= image.bytes if fits else 0
        key = f"{archive_key(job)}/{member_name(n)}" if fits else image_key(job, n)
        stored.append(image.model_copy(update={"key": key}))
    return tuple(stored)


def member_name(n: int) -> str:
    """Return the name of image `n` in its job's archive."""
    return f"image-{n}"


def is_archived(key: str) -> bool:
    """Tell whether an image's `key` names a member of an archive."""
    return bool(_located(key)[1])


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return an archive of `members`, in their order. The manifest goes first, since it is read alone too."""
    blocks = list[bytes]()
    for name, data in members.items():
        header = tarfile.TarInfo(name)
        header.size = len(data)
        blocks += (header.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE))
    return b"".join((*blocks, bytes(2 * tarfile.BLOCKSIZE)))


def unpack(archive: bytes) -> dict[str, bytes]:
    """Return the members of an archive by name. Raises `ValueError` for one that is cut or something else."""
    members, start = dict[str, bytes](), 0
    try:
        while any(header := archive[start : start + tarfile.BLOCKSIZE]):  # zeros end it
            found = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            start += tarfile.BLOCKSIZE
            members[found.name] = archive[start : start + found.size]
            start += -(-found.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    except tarfile.TarError as error:
        raise ValueError(f"not a request archive: {error}") from error
    if start > len(archive):
        raise ValueError(f"not a request archive: it is cut after {len(archive)} bytes")
    if MANIFEST not in members:
        raise ValueError(f"not a request archive: it has no {MANIFEST}")
    return members


def read_manifest(objects: ObjectStorage, job: str) -> Manifest:
    """Return the manifest of `job`, its images unread.

    Raises `ObjectMissing`, `StorageDown`, and `ValueError` for a manifest that can't be read.
    """
    try:
        data = manifest_bytes(objects, archive_key(job))
    except ObjectMissing:
        data = manifest_bytes(objects, manifest_key(job))
    return Manifest.model_validate_json(data)


def manifest_bytes(objects: ObjectStorage, key: str) -> bytes:
    """Return the manifest that lies at `key`, in an archive or alone. Raises as `read_manifest` does."""
    if not key.endswith(_SUFFIX):
        return objects.get(key)
    start = objects.get(key, _HEAD_BYTES)
    try:
        end = tarfile.BLOCKSIZE + tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "ascii", "strict").size
    except tarfile.TarError as error:
        raise ValueError(f"not a request archive: {error}") from error
    return start[tarfile.BLOCKSIZE : end] if end <= len(start) else unpack(objects.get(key))[MANIFEST]


def replace_manifest(objects: ObjectStorage, key: str, manifest: bytes) -> None:
    """Replace the manifest that lies at `key`, in an archive or alone. Raises as `read_manifest` does."""
    if key.endswith(_SUFFIX):
        objects.put(key, pack({**unpack(objects.get(key)), MANIFEST: manifest}), MEDIA_TYPE)
    else:
        objects.put(key, manifest, "application/json")


def read_images(get: Callable[[Sequence[str]], Sequence[bytes]], keys: Sequence[str]) -> list[bytes]:
    """Return the images of `keys`; `get` returns objects, of which each is read once.

    Raises what `get` raises, `ObjectMissing` for an image that its archive lacks, and `ValueError` for an archive that
    can't be read.
    """
    places = [_located(key) for key in keys]
    names = list(dict.fromkeys(name for name, _ in places))
    members = {
        name: unpack(data) if name.endswith(_SUFFIX) else {"": data}
        for name, data in zip(names, get(names), strict=True)
    }
    try:
        return [members[name][member] for name, member in places]
    except KeyError as error:
        raise ObjectMissing(f"the object storage has no {error.args[0]} in {' and '.join(names)}") from None


def read_image(objects: ObjectStorage, job: str, n: int) -> bytes:
    """Return image `n` of `job`. Raises `ObjectMissing`, `StorageDown` and `ValueError`."""
    try:
        return unpack(objects.get(archive_key(job)))[member_name(n)]
    except (ObjectMissing, KeyError):
        return objects.get(image_key(job, n))


def _located(key: str) -> tuple[str, str]:
    """Return the object that holds the image of `key`, and the image's name in it, "" where it is the whole object."""
    name, suffix, member = key.partition(f"{_SUFFIX}/")
    return (name + _SUFFIX, member) if suffix else (key, "")
