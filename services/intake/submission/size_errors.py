"""Errors of images that are too large or too many, with one text for every way to send them."""

from shared.errors import ImageTooLarge, TooManyImages


def image_too_large(image: int, limit: int) -> ImageTooLarge:
    """Return the error of image number `image`; `limit` is in bytes."""
    return ImageTooLarge(f"image {image} is larger than {limit} bytes, the most that is allowed", image=image)


def too_many_images(count: int, limit: int) -> TooManyImages:
    """Return the error of a job with `count` images."""
    return TooManyImages(f"the job has {count} images, those of its parent included; at most {limit} are allowed")
