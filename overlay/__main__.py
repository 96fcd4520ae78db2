"""`python -m overlay`, the same as the command `overlay`."""

import sys

from overlay.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
