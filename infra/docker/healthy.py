"""`python healthy.py URL`: exit 0 when a GET answers 200. Containers ask it of themselves; the images have no curl."""

import sys
from http.client import HTTPException
from urllib.request import urlopen


def main(url: str) -> int:
    """Return the exit status."""
    try:
        with urlopen(url, timeout=4) as answer:  # nosec B310 - the URL is the image's own
            return 0 if answer.status == 200 else 1
    except (OSError, HTTPException) as error:  # HTTPError, refused, reset, timed out; or no HTTP at all
        print(f"{url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
