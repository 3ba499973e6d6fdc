"""`python -m workers.vision`."""

import sys

from workers.vision.main import main

if __name__ == "__main__":
    sys.exit(main())
