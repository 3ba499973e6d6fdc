"""Colours as a viewer shows them: a profile (ICC.1:2022) is applied by LittleCMS, the result is sRGB."""

import io

import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  #: of a profile's colour space
_MAX_DEVIATION = 2  # of 255: a profile whose colours are no further from sRGB's is sRGB, and changes nothing


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return `image` in RGB, its `profile` applied; a broken one, or one for other images, is ignored as in viewers."""
    if profile:
        try:
            return _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    mode = _MODES.get(source.profile.xcolor_space.strip())
    if mode == "RGB" and image.mode in ("1", "L", "P"):
        image = image.convert("RGB")
    if mode is None or image.mode != mode:
        return image.convert("RGB")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent(source.profile.rendering_intent),
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode != "CMYK" and _changes_nothing(transform, mode):
        return image.convert("RGB")
    return transform.apply(image)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours of a regular grid stay where they are."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    sample = Image.fromarray(colours if mode == "RGB" else steps.reshape(1, -1))
    before, after = np.asarray(sample.convert("RGB"), np.int16), np.asarray(transform.apply(sample), np.int16)
    return int(np.abs(before - after).max()) <= _MAX_DEVIATION
