"""Affinity keys: what two jobs have in common whose prompts an engine's prefix cache could share.

    an image              first 16 hex digits of its sha256, and its grid, since another grid gives other tiles
    an image by URL       the same of a digest over the URL, with `u` in front
    a text conversation   the same of a digest over its texts up to the first user's, with `t` in front

A claim prefers a job with a key that its worker has cached (`claim.lua`). Keys are compared within a tenant only,
unless the tenants share their prefix cache, so that nobody's order of jobs tells what others asked.
"""

import hashlib
from collections.abc import Iterable

from shared.requests import Request, StoredImage

MAX_KEYS_PER_JOB = 8  #: of its first images; those behind them share no prefix with another job where these do not
DIGEST_CHARACTERS = 16  #: 64 bits; two that are alike by chance cost one worse choice of a claim


def affinity_of(request: Request) -> str:
    """Return the affinity keys of a job, separated by spaces, as its record keeps them."""
    return " ".join(list(dict.fromkeys(_keys(request)))[:MAX_KEYS_PER_JOB])


def _keys(request: Request) -> Iterable[str]:
    if request.images:
        return (f"{_content(image)}.{image.grid[0]}x{image.grid[1]}" for image in request.images)
    digest = hashlib.sha256()
    for message in request.messages:
        digest.update(f"{message.role}\0{message.content}\0".encode())
        if message.role == "user":
            break
    return (f"t{digest.hexdigest()[:DIGEST_CHARACTERS]}",)


def _content(image: StoredImage) -> str:
    if image.url:
        return f"u{hashlib.sha256(image.url.encode()).hexdigest()[:DIGEST_CHARACTERS]}"
    return image.sha256[:DIGEST_CHARACTERS]
