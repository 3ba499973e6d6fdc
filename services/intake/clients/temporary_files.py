"""Whether the temporary folder has room for what is uploaded."""

import os
import tempfile

PROBE_BYTES = 1 << 16


def check_temporary_files(max_image_bytes: int) -> str | None:
    """Return why an image of `max_image_bytes` could not be kept while it is uploaded, and what to do; or None.

    A file is written: `statvfs` knows nothing of quotas, and a folder that can be seen may be read-only.
    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            space = os.fstatvfs(file.fileno())
    except OSError as error:  # FileNotFoundError where no folder is writable
        return f"no temporary file can be written ({error.strerror or error}): set TMPDIR to a folder with room"
    free = space.f_bavail * space.f_frsize
    if free < max_image_bytes:
        folder = tempfile.gettempdir()
        return (
            f"{folder} has {free} bytes free, and one image may have {max_image_bytes}: make room, set TMPDIR to "
            "another folder, or lower TILEQ_MAX_IMAGE_BYTES"
        )
    return None
